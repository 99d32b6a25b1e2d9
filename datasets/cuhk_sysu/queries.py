"""From the lists of CUHK-SYSU to queries, people and galleries.

The lists of sizes 50 to 4000 ask for the same 2,900 people in the same order; the smallest list at hand says who they
are. A query of another list is one of them when photograph and box are the same, whatever its place in that list. One
that is none of them is added behind them: the release's README says of the subsets only how many they ask for. It is
the person whose box it is by the other lists, or whose `idname` it has, or else somebody new.

Legend: P queries of a list, Q of all lists together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.data.schema import UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.boxes import place_box
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, Contents, Query
from psdiff_jax.datasets.cuhk_sysu.annotations import RESTORE
from psdiff_jax.datasets.cuhk_sysu.images import DAMAGED, Photograph, as_text, label
from psdiff_jax.datasets.cuhk_sysu.lists import RawList

UNKNOWN_PHOTOGRAPH = "list names an unknown photograph"
REPEATED = "photograph twice in one gallery"
OTHER_QUERY, SUBSET_QUERY = "query of a larger gallery only", "query of a subset only"


@dataclass(frozen=True)
class Entry:
    """A query as its list has it. where: the record, for findings."""

    image_name: str
    rectangle: np.ndarray  # float64 [4] x, y, width, height
    id_name: str
    person_id: int
    where: str


@dataclass
class Asked:
    """The queries of all lists, in rows from 0 by first appearance.

    first_id: the id of the first person asked for, above all ids of training people; row r is person first_id + r
      unless it shows somebody who was asked for before.
    """

    contents: Contents
    photographs: Mapping[str, Photograph | None]
    pool: Sequence[str]
    first_id: int
    entries: list[Entry] = field(default_factory=list)
    _rows: defaultdict[tuple, list[int]] = field(default_factory=lambda: defaultdict(list))
    _people: dict[str, int] = field(default_factory=dict)
    _claims: set[tuple] = field(default_factory=set)

    def add(self, raw: RawList, is_subset: bool) -> np.ndarray:
        """Takes a list's queries in and labels the boxes it names. Returns the row of each of them, int64 [P]."""
        is_first, used = not self.entries, []
        for i in range(len(raw)):
            row = None if is_first else self._known(raw, i, used)
            if row is None:
                row = self._append(raw, i, is_first)
                if not is_first:
                    level, check = (KNOWN, SUBSET_QUERY) if is_subset else (WARNING, OTHER_QUERY)
                    self.contents.note(level, check, raw.where(i), "no list before asks for it; it is added")
            used.append(row)
            self._label(raw, i, self.entries[row].person_id)
        return np.asarray(used, np.int64)

    def fill(self) -> np.ndarray:
        """Fills `contents.queries`. Returns the number of each row among them, int64 [Q], -1 if it cannot be asked."""
        numbers = np.full(len(self.entries), -1, np.int64)
        for row, entry in enumerate(self.entries):
            box = self._query_box(entry)
            if box is not None:
                numbers[row] = len(self.contents.queries)
                self.contents.queries.append(Query(entry.image_name, box, entry.person_id))
        return numbers

    def _known(self, raw: RawList, i: int, used: list[int]) -> int | None:
        """The row of a query that another list has asked before: of several, the one of the same name or place."""
        same = self._rows.get(_key(raw.query_images[i], raw.query_boxes[i]), [])
        free = [row for row in same if row not in used] if len(same) > 1 else same
        return min(free, key=lambda row: (self.entries[row].id_name != raw.id_names[i], row != i), default=None)

    def _append(self, raw: RawList, i: int, is_first: bool) -> int:
        name, rectangle, row = raw.query_images[i], raw.query_boxes[i], len(self.entries)
        person_id = self.first_id + row
        if not is_first:
            photograph = self.photographs.get(name)
            box = photograph.find(rectangle) if photograph else None
            labelled = UNLABELLED if box is None else int(photograph.person_ids[box])
            person_id = labelled if labelled >= self.first_id else self._people.get(raw.id_names[i], person_id)
        if raw.id_names[i]:
            self._people.setdefault(raw.id_names[i], person_id)
        self.entries.append(Entry(name, rectangle, raw.id_names[i], person_id, raw.where(i)))
        self._rows[_key(name, rectangle)].append(row)
        return row

    def _label(self, raw: RawList, i: int, person_id: int) -> None:
        shown = zip(raw.images[i][raw.gt_places[i]].tolist(), raw.gt_boxes[i], strict=True)
        named = [(self.pool[image], rectangle, WARNING) for image, rectangle in shown if image >= 0]
        for name, rectangle, level in [(raw.query_images[i], raw.query_boxes[i], ERROR), *named]:
            claim = (*_key(name, rectangle), person_id)
            photograph = self.photographs.get(name)
            if photograph is None or claim in self._claims or not np.isfinite(rectangle).all():
                continue
            self._claims.add(claim)
            label(self.contents, photograph, rectangle, person_id, raw.where(i), level)

    def _query_box(self, entry: Entry) -> np.ndarray | None:
        name, rectangle = entry.image_name, entry.rectangle
        if not np.isfinite(rectangle).all():
            self.contents.note(ERROR, DAMAGED, entry.where, f"Query's idlocate is not four numbers; {RESTORE}", name)
        elif name not in self._in_pool:
            self.contents.note(
                ERROR,
                checks.QUERY_OUTSIDE_GALLERY,
                entry.where,
                f"pool.mat does not hold the query's photograph {name}; {RESTORE}",
                name,
            )
        elif (rectangle[2:] <= 0).any():
            self.contents.note(
                ERROR,
                checks.BOX_WITHOUT_AREA,
                entry.where,
                f"the query's box {as_text(rectangle)} has no area; {RESTORE}",
                name,
            )
        elif self.photographs[name] is not None:
            return place_box(self.contents, entry.where, rectangle.tolist(), self.photographs[name].size, name)
        return None

    @cached_property
    def _in_pool(self) -> frozenset[str]:
        return frozenset(self.pool)


def gallery_list(raw: RawList, queries: np.ndarray, scene_of: np.ndarray) -> GalleryList:
    """A list for the evaluator.

    Args:
      queries: the number of each of its queries, int64 [P], -1 for those that cannot be asked, which are left out.
      scene_of: place in the pool -> index of the gallery's scene, int32, -1 for those that have none.
    """
    rows = [row for row in np.argsort(queries, kind="stable").tolist() if queries[row] >= 0]
    found = [_kept(raw, row, np.append(scene_of, np.int32(-1))) for row in rows]
    images, places, boxes = zip(*found, strict=True) if found else ((), (), ())
    return GalleryList(queries[rows], images, places, boxes)


def _kept(raw: RawList, row: int, scene_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images, gt_places, gt_boxes) of a query, without the entries whose photograph there is not."""
    images, places, boxes = scene_of[raw.images[row]], raw.gt_places[row], raw.gt_boxes[row]
    kept = images >= 0
    shown = kept[places]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
    return images[kept], (np.cumsum(kept, dtype=np.int32) - 1)[places[shown]].astype(np.int32), corners[shown]


def note_faults(contents: Contents, raw: RawList) -> None:
    """What is wrong with the galleries of a list."""
    for row, (name, count) in raw.unknown.items():
        more = f" and {count - 1} more" if count > 1 else ""
        contents.note(
            ERROR,
            UNKNOWN_PHOTOGRAPH,
            raw.where(row),
            f"its gallery names {name}{more}, which pool.mat does not hold; {RESTORE}",
        )
    for row, entry in raw.damaged:
        contents.note(
            ERROR, DAMAGED, raw.where(row), f"the idlocate of gallery entry {entry + 1} is not four numbers; {RESTORE}"
        )
    for row, images in enumerate(raw.images):
        repeated = len(images) - len(np.unique(images))
        if repeated and row not in raw.unknown:
            contents.note(
                KNOWN,
                REPEATED,
                raw.where(row),
                f"{repeated} of {len(images)} entries repeat a photograph;"
                " the evaluation counts them as the literature does",
            )


def _key(name: str, rectangle: np.ndarray) -> tuple:
    return (name, *rectangle.tolist())
