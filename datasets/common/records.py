"""What a reader finds in a folder of images and annotations, before anything is built from it.

Every dataset that is read from a user's folder has a `reader.py` with `read(root, **options) -> RawDataset`. A reader
reads everything: what is wrong with a record becomes a `Finding`, and reading continues, so that one run reports all
faults. It raises InputError only where it cannot continue (a list is missing or unreadable, an option is invalid).
`checks.check` adds the checks that apply to any dataset; a builder refuses a dataset with errors.

Boxes are float32 xyxy in pixels of the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.data.schema import UNKNOWN

ERROR = "error"  # the dataset cannot be built, or its numbers would be wrong
WARNING = "warning"  # it can be built, but should be looked at
KNOWN = "known"  # a known defect of the official release, handled as in the published code
LEVELS = (ERROR, WARNING, KNOWN)


@dataclass(frozen=True)
class Finding:
    """One fault of one record. As text: "{where}: {what}", one line that says what to do.

    level: one of `LEVELS`; check: a short name shared by all findings of a kind ("box without area"); where: file and
    record; image: name of the image concerned, "" if none.
    """

    level: str
    check: str
    where: str
    what: str
    image: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file with its boxes. name: unique in the dataset, the name that results use."""

    name: str
    path: Path
    height: int
    width: int
    boxes: np.ndarray  # float32 [n, 4]
    person_ids: np.ndarray  # int64 [n], -1 unlabelled
    camera: int = UNKNOWN
    frame: int = UNKNOWN


@dataclass(frozen=True)
class Query:
    """A person to search for: a box in a gallery image."""

    image_name: str
    box: np.ndarray  # float32 [4]
    person_id: int
    camera: int = UNKNOWN
    frame: int = UNKNOWN


@dataclass
class RawDataset:
    """A dataset as it was read from its folder.

    train, gallery: the images of the splits, in their official order; queries: the official list.
    galleries: name -> `GalleryList`, where the dataset lists a gallery for each query.
    findings: the faults found so far.
    published: counts of the official release, by the names that `counts` uses; empty if there is none.
    part: which part of the official release this is, in words; "" for the whole. Reports show it, because results on a
      part are not results on the dataset.
    person_names: person id -> the identity's name in the folder, where that is not the number itself.
    """

    train: list[AnnotatedImage] = field(default_factory=list)
    gallery: list[AnnotatedImage] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    galleries: dict[str, GalleryList] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    published: Mapping[str, int] = field(default_factory=dict)
    part: str = ""
    person_names: Mapping[int, str] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, list[AnnotatedImage]]:
        return {"train": self.train, "gallery": self.gallery}

    @property
    def images(self) -> list[AnnotatedImage]:
        """The images of both splits."""
        return [*self.train, *self.gallery]

    def note(self, level: str, check: str, where: object, what: str, image: str = "") -> None:
        """Adds a finding."""
        self.findings.append(Finding(level, check, str(where), what, image))

    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == ERROR]

    def counts(self) -> dict[str, int]:
        """ "train images", "train boxes", "train labelled boxes", "train ids", the same of "gallery", "queries",
        "query ids"."""
        found: dict[str, int] = {}
        for split, images in self.splits.items():
            ids = np.concatenate([np.zeros(0, np.int64), *(image.person_ids for image in images)])
            found |= {
                f"{split} images": len(images),
                f"{split} boxes": len(ids),
                f"{split} labelled boxes": int((ids >= 0).sum()),
                f"{split} ids": len(identities(images)),
            }
        return found | {"queries": len(self.queries), "query ids": len({query.person_id for query in self.queries})}

    def report(self) -> dict[str, Any]:
        """What `PreparedDataset.report` keeps: the counts, the number of findings of each kind, and the part."""
        kinds = Counter(f"{finding.level}: {finding.check}" for finding in self.findings)
        part = {"part": self.part} if self.part else {}
        return {"counts": self.counts(), "findings": dict(kinds), **part}


def identities(images: Iterable[AnnotatedImage]) -> set[int]:
    """The labelled person ids of the images."""
    return {person_id for image in images for person_id in image.person_ids.tolist() if person_id >= 0}
