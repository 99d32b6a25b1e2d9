"""Where data and weights lie that are not the project's own: $PSDIFF_SHARED, or `shared` beside the project."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("PSDIFF_SHARED") or Path(__file__).parents[2] / "shared") / "data"
