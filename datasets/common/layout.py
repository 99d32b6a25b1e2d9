"""The files of a dataset's folder: whether the needed ones exist, and a digest of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from psdiff_jax.errors import InputError


def check_layout(root: Path, dataset: str, needed: Sequence[str | Path]) -> None:
    """Raises InputError if `root` is not a folder or lacks one of the `needed` files and folders."""
    expected = ", ".join(Path(name).as_posix() for name in needed)
    if not root.is_dir():
        raise InputError(f"config.data.root: there is no folder {root}; name the {dataset} folder with {expected}")
    for name in needed:
        if not (root / name).exists():
            raise InputError(f"config.data.root: {root / name} is missing; a {dataset} folder holds {expected}")


def digest(root: Path, annotations: Iterable[Path], images: Iterable[Path]) -> str:
    """Identifies the data in a folder: contents of its annotation files, names and sizes of its images. A copy of the
    folder has the same digest, a changed folder has another."""
    total = hashlib.sha256()
    for path in sorted(annotations):
        content = hashlib.sha256(path.read_bytes()).digest()
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + content)
    for path in sorted(images):
        total.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
    return total.hexdigest()
