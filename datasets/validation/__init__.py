"""Checks a copy of a dataset: reads and checks the folder as a build does, then decodes every image.

`validate("prw", "~/data/PRW")` returns a `Validation`, whose `status` is 0 and whose `verdict` begins with "fine" for a
complete, undamaged copy.
"""

from psdiff_jax.datasets.validation.validator import Count, Kind, Validation, validate

__all__ = ["Count", "Kind", "Validation", "validate"]
