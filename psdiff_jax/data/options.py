"""Options of datasets and of reading them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from psdiff_jax.options import AT_LEAST_1, FRACTION, NOT_NEGATIVE, Need, Range


@dataclass(frozen=True)
class DatasetOptions:
    """Which dataset (config.evaluate.data, and a part of config.data)."""

    name: Annotated[str, "a name in `data.records.BUILDERS`, module:Class of a builder, or folder"] = ""
    root: Annotated[str, "folder with the user's data"] = ""
    builder: Annotated[Mapping[str, Any], "options of the builder"] = field(default_factory=dict)

    @property
    def is_given(self) -> bool:
        return bool(self.name or self.root or self.builder)


@dataclass(frozen=True)
class AugmentOptions:
    """config.data.augment: what varies in training."""

    flip: Annotated[bool, "mirror every other image"] = True
    scale_jitter: Annotated[
        tuple[float, float],
        Range(0, above=True),
        "(low, high) factor on the scale that fits: above 1 a random window is cropped, below 1 more is padded",
    ] = (1.0, 1.0)
    color: Annotated[float, Range(0, 0.999), "brightness and contrast vary by a factor in [1 - color, 1 + color]"] = 0.0

    copy_paste: Annotated[
        int, NOT_NEGATIVE, "at most so many people of another image of the same camera are put in, at their place"
    ] = 0

    def check(self, need: Need) -> None:
        need(self.scale_jitter[0] <= self.scale_jitter[1], "scale_jitter", "give (low, high) with low <= high")


@dataclass(frozen=True)
class DataOptions(DatasetOptions):
    """config.data."""

    also: Annotated[tuple[str, ...], "datasets whose training images are added, each NAME=FOLDER"] = ()
    prepared_dir: Annotated[str, "where prepared datasets are kept"] = "~/psdiff_data"
    image_size: Annotated[
        tuple[int, int],
        Range(32),
        "(height, width) in pixels that images are fitted into; images of the other orientation into (width, height)",
    ] = (800, 1333)
    max_boxes: Annotated[int, AT_LEAST_1, "room for ground-truth boxes in a training image"] = 64
    held_out: Annotated[float, FRACTION, "fraction of the training images held out to choose search_threshold"] = 0.0
    workers: Annotated[int, NOT_NEGATIVE, "reading processes; 0 = threads"] = 0
    threads: Annotated[int, NOT_NEGATIVE, "reading threads; 0 = one per core"] = 0
    cache: Annotated[bool, "keep resized images in memory, for training"] = False
    augment: AugmentOptions = field(default_factory=AugmentOptions)

    @property
    def trained_on(self) -> str:
        """The names of all datasets whose training images are taken."""
        return " + ".join([self.name, *(entry.partition("=")[0] for entry in self.also)])
