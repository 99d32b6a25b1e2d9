"""What can be said of any dataset, whatever its format."""

from __future__ import annotations

from psdiff_jax.datasets.contents import Contents


def check(contents: Contents) -> None:
    """Adds findings."""
