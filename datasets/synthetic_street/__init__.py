"""Rendered street scenes for person search: several cameras, drawn or cut-out people, known identities.

The renderer needs NumPy and OpenCV only, so it also runs on a bare accelerator machine; the TFDS builder is in
`builder.py` and is not imported from here.
"""

from psdiff_jax.datasets.synthetic_street.options import PRESETS, StreetOptions
from psdiff_jax.datasets.synthetic_street.street import Query, Scene, Street

__all__ = ["PRESETS", "Query", "Scene", "Street", "StreetOptions"]
