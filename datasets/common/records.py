"""What a reader finds in a folder of photographs and annotations, before anything is built from it.

Every dataset that is read from a user's folder has a `reader.py` with `read(root, **options) -> Contents`. A reader
goes through everything: what is wrong with a record becomes a `Finding` and reading goes on, so that one look tells
all. It raises InputError only where there is nothing to read on with (a list is missing or unreadable, an option makes
no sense). `checks.check` adds what can be said of any dataset; a builder refuses a folder with errors.

Boxes are float32 xyxy in pixels of the photograph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.data.schema import UNKNOWN

ERROR = "error"  # the dataset cannot be built, or its numbers would be wrong
WARNING = "warning"  # it can be built, and somebody should look
KNOWN = "known"  # dirt of the official release, handled as everybody handles it
LEVELS = (ERROR, WARNING, KNOWN)


@dataclass(frozen=True)
class Finding:
    """Something about one record. As text: "{where}: {what}", one line that says what to do.

    level: one of `LEVELS`; check: a short name shared by all findings of the kind ("missing photograph"), the row of
    the table that counts it; where: file and record; image: the photograph it is about, "" if none.
    """

    level: str
    check: str
    where: str
    what: str
    image: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Scene:
    """One annotated photograph. name: unique in the dataset, what results call it; path: where its file is."""

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
    """A person to look for: a box in a gallery photograph."""

    image_name: str
    box: np.ndarray  # float32 [4]
    person_id: int
    camera: int = UNKNOWN
    frame: int = UNKNOWN


@dataclass
class Contents:
    """A folder as it was read.

    train, gallery: the scenes of the splits, in their official order; queries: the official list.
    galleries: name -> `GalleryList`, where the dataset gives galleries query by query.
    findings: what was wrong.
    published: counts of the official release by the names that `counts` uses; for a folder that is none, empty.
    part: which part of the official release it is, in words; "" for the whole. Reports say so: numbers on a part are no
      numbers on the dataset.
    people: person id -> what the folder itself calls this person, where that is not the number.
    """

    train: list[Scene] = field(default_factory=list)
    gallery: list[Scene] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    galleries: dict[str, GalleryList] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    published: Mapping[str, int] = field(default_factory=dict)
    part: str = ""
    people: Mapping[int, str] = field(default_factory=dict)

    def note(self, level: str, check: str, where: object, what: str, image: str = "") -> None:
        """Adds a finding."""
        self.findings.append(Finding(level, check, str(where), what, image))

    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == ERROR]

    def counts(self) -> dict[str, int]:
        """ "train images", "train boxes", "train labelled boxes", "train ids", the same of "gallery", "queries",
        "query ids"."""
        found: dict[str, int] = {}
        for split, scenes in (("train", self.train), ("gallery", self.gallery)):
            ids = np.concatenate([np.zeros(0, np.int64), *(scene.person_ids for scene in scenes)])
            labelled = ids[ids >= 0]
            found |= {
                f"{split} images": len(scenes),
                f"{split} boxes": len(ids),
                f"{split} labelled boxes": len(labelled),
                f"{split} ids": len(np.unique(labelled)),
            }
        people = {query.person_id for query in self.queries}
        return found | {"queries": len(self.queries), "query ids": len(people)}

    def report(self) -> dict[str, Any]:
        """What `PreparedDataset.report` keeps: the counts, how often each kind of finding was met, and the part."""
        kinds = Counter(f"{finding.level}: {finding.check}" for finding in self.findings)
        part = {"part": self.part} if self.part else {}
        return {"counts": self.counts(), "findings": dict(kinds), **part}
