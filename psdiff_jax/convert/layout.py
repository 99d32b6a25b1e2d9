"""What a published layout of weights must say: one library's names for the tensors of our networks.

A new one is a file with a `Layout` and its registration: that of a backbone is a `BackboneLayout` in
`convert.layouts.LAYOUTS`, that of a re-ID network a `Family` in `teacher.families.FAMILIES`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from psdiff_jax.errors import InputError

MOST_BLOCKS = 200  # of one stage, in any file
EPSILON = 1e-5  # BatchNorm's, in every published OSNet and MobileNetV2


def folded_norm(ours: str) -> float | None:
    """The value of one of our tensors where BatchNorm is folded away but for its bias; None where the file has it."""
    return {"scale": 1.0, "mean": 0.0, "var": 1.0 - EPSILON}.get(ours.rsplit("/", 1)[1])


@dataclass(frozen=True)
class Layout:
    """How one library names the tensors of a network.

    Attributes:
      title: for messages.
      marks: regular expressions, each of which the whole of some name in such a file matches, behind prefixes.
      names: one of our names -> the file's names, whose tensors are stacked along the first axis.
      left_out: regular expression of the names that our network has no place for.
      ours: axes are ours, [H,W,I,O] and [I,O], not PyTorch's [O,I,H,W] and [O,I].
      prefixes: of wrappers, in any order and number. noun, advice: for messages.
    """

    title: str
    marks: tuple[str, ...]
    names: Callable[[str], tuple[str, ...]]
    left_out: str = "(?!)"
    ours: bool = False
    prefixes: ClassVar[tuple[str, ...]] = ("module", "model")
    noun: ClassVar[str] = "network"
    advice: ClassVar[str] = "is the file whole and unchanged?"

    def find(self, arrays: Mapping[str, np.ndarray], where: str) -> "Checkpoint | None":
        """The file's tensors by name, if it is of this layout. where: the file's name, for errors."""
        wrapped = rf"((?:(?:{'|'.join(self.prefixes)})\.)*)"
        found = [next(filter(None, (re.fullmatch(wrapped + mark, n) for n in arrays)), None) for mark in self.marks]
        if found[0] is None or not all(found):
            return None
        prefix = found[0][1]
        return Checkpoint(self, prefix, {name.removeprefix(prefix): name for name in arrays}, arrays, where)

    def default(self, ours: str) -> float | None:
        """The value of one of our tensors where a file may lack it; None where it may not."""
        del ours
        return None

    def fitted(self, ours: str, array: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
        """(a tensor of the file, brought to `shape` where that can be; what was done to it, for a note)."""
        del ours, shape
        return array, ""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file of a known layout.

    prefix: of all names. full: name without prefix -> name in the file, by which `arrays` has it. where: the file.
    """

    layout: Layout
    prefix: str
    full: Mapping[str, str]
    arrays: Mapping[str, np.ndarray]
    where: str

    def get(self, ours: str) -> np.ndarray | None:
        """The (first) tensor of one of our names; None where the file has none."""
        full = self.full.get(self.layout.names(ours)[0])
        return None if full is None else self.arrays[full]

    def shape(self, ours: str, rank: int) -> tuple[int, ...]:
        """The shape of a tensor in the file; InputError when it is missing or has another number of axes."""
        name, array = self.prefix + self.layout.names(ours)[0], self.get(ours)
        if array is None:
            raise InputError(f"{self.where}: {self.layout.title} lacks {name!r}; is the file whole?")
        if array.ndim != rank:
            raise InputError(f"{self.where}: {name!r} has shape {array.shape}, not {rank} axes")
        return array.shape

    def width(self, ours: str) -> int:
        """The length of the last axis of a tensor; 0 where the file has none of that name."""
        array = self.get(ours)
        return 0 if array is None else array.shape[-1]

    def blocks(self, row: str) -> int:
        """How many blocks a row has: the highest number i for which there is a tensor `row.format(i)`, plus 1."""
        return max((i + 1 for i in range(MOST_BLOCKS) if self.get(row.format(i)) is not None), default=0)


@dataclass(frozen=True)
class BackboneLayout(Layout):
    """How one library names the tensors of a family of backbones.

    family: its name, for messages. key: one of our names that every backbone of the family has and no other; "" = the
    layout is of all families. in_detectors: files are whole detectors, of which the backbone is taken.
    """

    family: ClassVar[str] = "backbone"
    key: ClassVar[str] = ""
    in_detectors: ClassVar[bool] = False
    prefixes: ClassVar[tuple[str, ...]] = ("module", "model", "backbone", "encoder")
    noun: ClassVar[str] = "backbone"
    advice: ClassVar[str] = "is it what config.model.backbone (or reid_backbone) names?"

    def with_names(self, found: Mapping[str, str], arrays: Mapping[str, np.ndarray], where: str) -> Checkpoint:
        """A file in which modules were found by their place: {module: the file's name of its weight}."""
        full = {name: name for name in arrays}
        for module, weight in found.items():
            for leaf in ("weight", "bias"):
                if (name := weight.removesuffix("weight") + leaf) in full:
                    full[f"{module}.{leaf}"] = full.pop(name)
        return Checkpoint(self, "", full, arrays, where)

    def structure(self, file: Checkpoint) -> str:
        """A phrase that tells files of different depths and widths apart; the same for our own layout."""
        arrays = [file.arrays[full] for name, full in file.full.items() if not re.fullmatch(self.left_out, name)]
        return f"{sum(array.size for array in arrays):,} numbers"

    def distance(self, file: Checkpoint, backbone: Checkpoint) -> float:
        """How far a file is from a backbone of its structure: 0 where no tensor needs to be resized."""
        del file, backbone
        return 0.0
