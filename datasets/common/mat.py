"""Whole MATLAB files. Those too large for memory are streamed: `cuhk_sysu.matlab`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psdiff_jax.errors import InputError


def load_variable(path: Path, names: Sequence[str], advice: str, any_name: bool = False) -> Any:
    """The first of the variables `names` that a file holds; with `any_name` also its only one, whatever it is called.

    Raises:
      InputError: ending with `advice`, for a file that is missing or damaged or has no such variable.
    """
    import scipy.io

    if not path.is_file():
        raise InputError(f"{path}: missing; {advice}")
    try:
        content = scipy.io.loadmat(path, uint16_codec="utf-16-le")  # the encoding in which MATLAB stores characters
    except Exception as error:  # scipy raises half a dozen kinds on a damaged file
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a MATLAB file ({reason}); {advice}") from error
    variables = {name: value for name, value in content.items() if not name.startswith("__")}
    for name in names:
        if name in variables:
            return variables[name]
    if any_name and len(variables) == 1:
        return next(iter(variables.values()))
    wanted, found = " or ".join(names), ", ".join(variables) or "none"
    raise InputError(f"{path}: has no variable {wanted}, only {found}; {advice}")
