"""Rendered street scenes for person search: several cameras, drawn or cut-out people, known identities.

The renderer needs NumPy and OpenCV only, so that it runs on a bare accelerator machine; the TFDS builder in
`builder.py` is not imported here.
"""

from psdiff_jax.datasets.synthetic_street.options import PRESETS, StreetOptions
from psdiff_jax.datasets.synthetic_street.street import Scene, Street

__all__ = ["PRESETS", "Scene", "Street", "StreetOptions"]
