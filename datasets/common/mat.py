"""MATLAB's files, as a whole. Those too large for that are streamed: `cuhk_sysu.matlab`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psdiff_jax.errors import InputError


def load_mat(path: Path, advice: str) -> dict[str, Any]:
    """The variables of a file, by name. InputError, which ends with `advice`, where it is missing or damaged."""
    import scipy.io

    if not path.is_file():
        raise InputError(f"{path}: missing; {advice}")
    try:
        content = scipy.io.loadmat(path, uint16_codec="utf-16-le")  # what MATLAB stores characters as
    except Exception as error:  # scipy raises half a dozen kinds on a damaged file
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a MATLAB file ({reason}); {advice}") from error
    return {name: value for name, value in content.items() if not name.startswith("__")}
