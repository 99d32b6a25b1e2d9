"""From the lists of CUHK-SYSU to queries, identities and galleries.

The lists of sizes 50 to 4000 hold the same 2,900 queries in the same order; the smallest list in the folder defines
them. A query of another list is one of these if image and box are equal, whatever its position in that list. One that
equals none of them is appended: the release's README says of the subsets only how many queries they hold. Its identity
is that of its box in the other lists, or else that of its `idname`, or else a new one.

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
from psdiff_jax.datasets.common.boxes import clip_xywh
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, Query, RawDataset
from psdiff_jax.datasets.cuhk_sysu.annotations import RESTORE
from psdiff_jax.datasets.cuhk_sysu.images import ImageRecord, label
from psdiff_jax.datasets.cuhk_sysu.lists import RawList

UNKNOWN_IMAGE = "list names an unknown image"
REPEATED = "image twice in one gallery"
DAMAGED = "damaged record"
OTHER_QUERY, SUBSET_QUERY = "query of a larger gallery only", "query of a subset only"


@dataclass(frozen=True)
class Entry:
    """A query as its list has it. where: the record, for findings."""

    image_name: str
    xywh: np.ndarray  # float64 [4]
    id_name: str
    person_id: int
    where: str


@dataclass
class QueryTable:
    """The queries of all lists, in rows from 0 by first appearance.

    first_id: the person id of the first query, above all ids of training identities. Row r has person id first_id + r
      unless its identity is that of an earlier query.
    """

    dataset: RawDataset
    records: Mapping[str, ImageRecord | None]
    pool: Sequence[str]
    first_id: int
    entries: list[Entry] = field(default_factory=list)
    _rows: defaultdict[tuple, list[int]] = field(default_factory=lambda: defaultdict(list))
    _ids: dict[str, int] = field(default_factory=dict)
    _labelled: set[tuple] = field(default_factory=set)

    def add(self, raw: RawList, is_subset: bool) -> np.ndarray:
        """Adds a list's queries and labels the boxes that the list names. Returns the row of each query, int64 [P]."""
        is_first, used = not self.entries, []
        for i in range(len(raw)):
            row = None if is_first else self._known(raw, i, used)
            if row is None:
                row = self._append(raw, i, is_first)
                if not is_first:
                    level, check = (KNOWN, SUBSET_QUERY) if is_subset else (WARNING, OTHER_QUERY)
                    self.dataset.note(level, check, raw.where(i), "no list before holds this query; it is added")
            used.append(row)
            self._label(raw, i, self.entries[row].person_id)
        return np.asarray(used, np.int64)

    def fill(self) -> np.ndarray:
        """Fills `dataset.queries`. Returns the number of each row among them, int64 [Q], -1 if it cannot be used."""
        numbers = np.full(len(self.entries), -1, np.int64)
        for row, entry in enumerate(self.entries):
            box = self._query_box(entry)
            if box is not None:
                numbers[row] = len(self.dataset.queries)
                self.dataset.queries.append(Query(entry.image_name, box, entry.person_id))
        return numbers

    def _known(self, raw: RawList, i: int, used: list[int]) -> int | None:
        """The row of a query that an earlier list holds: of several, the one of the same name or position."""
        same = self._rows.get(_key(raw.query_images[i], raw.query_boxes[i]), [])
        free = [row for row in same if row not in used] if len(same) > 1 else same
        return min(free, key=lambda row: (self.entries[row].id_name != raw.id_names[i], row != i), default=None)

    def _append(self, raw: RawList, i: int, is_first: bool) -> int:
        name, xywh, row = raw.query_images[i], raw.query_boxes[i], len(self.entries)
        person_id = self.first_id + row
        if not is_first:
            record = self.records.get(name)
            box = record.find(xywh) if record else None
            labelled = UNLABELLED if record is None or box is None else int(record.person_ids[box])
            person_id = labelled if labelled >= self.first_id else self._ids.get(raw.id_names[i], person_id)
        if raw.id_names[i]:
            self._ids.setdefault(raw.id_names[i], person_id)
        self.entries.append(Entry(name, xywh, raw.id_names[i], person_id, raw.where(i)))
        self._rows[_key(name, xywh)].append(row)
        return row

    def _label(self, raw: RawList, i: int, person_id: int) -> None:
        shown = zip(raw.images[i][raw.gt_places[i]].tolist(), raw.gt_boxes[i], strict=True)
        positives = [(self.pool[image], xywh, WARNING) for image, xywh in shown if image >= 0]
        for name, xywh, level in [(raw.query_images[i], raw.query_boxes[i], ERROR), *positives]:
            labelled = (*_key(name, xywh), person_id)
            record = self.records.get(name)
            if record is None or labelled in self._labelled or not np.isfinite(xywh).all():
                continue
            self._labelled.add(labelled)
            label(self.dataset, record, xywh, person_id, raw.where(i), level)

    def _query_box(self, entry: Entry) -> np.ndarray | None:
        name = entry.image_name
        if name not in self._in_pool:
            what = f"pool.mat does not hold the query's image {name}; {RESTORE}"
            self.dataset.note(ERROR, checks.QUERY_OUTSIDE_GALLERY, entry.where, what, name)
        elif record := self.records[name]:
            return clip_xywh(self.dataset, entry.where, entry.xywh, record.size, name, empty=ERROR, advice=RESTORE)
        return None

    @cached_property
    def _in_pool(self) -> frozenset[str]:
        return frozenset(self.pool)


def gallery_list(raw: RawList, queries: np.ndarray, image_index: np.ndarray) -> GalleryList:
    """A list for the evaluator.

    Args:
      queries: the number of each of its queries, int64 [P], -1 for those that cannot be used, which are left out.
      image_index: position in the pool -> index of the gallery image, int32, -1 if the image is missing.
    """
    rows = [row for row in np.argsort(queries, kind="stable").tolist() if queries[row] >= 0]
    found = [_kept(raw, row, np.append(image_index, np.int32(-1))) for row in rows]
    images, places, boxes = zip(*found, strict=True) if found else ((), (), ())
    return GalleryList(queries[rows], images, places, boxes)


def _kept(raw: RawList, row: int, image_index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images, gt_places, gt_boxes) of a query, without the entries whose image is missing."""
    images, places, boxes = image_index[raw.images[row]], raw.gt_places[row], raw.gt_boxes[row]
    kept = images >= 0
    shown = kept[places]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
    return images[kept], (np.cumsum(kept, dtype=np.int32) - 1)[places[shown]].astype(np.int32), corners[shown]


def note_faults(dataset: RawDataset, raw: RawList) -> None:
    """Notes the faults in the galleries of a list."""
    for row, (name, count) in raw.unknown.items():
        more = f" and {count - 1} more" if count > 1 else ""
        what = f"its gallery names {name}{more}, which pool.mat does not hold; {RESTORE}"
        dataset.note(ERROR, UNKNOWN_IMAGE, raw.where(row), what)
    for row, entry in raw.damaged:
        what = f"the idlocate of gallery entry {entry + 1} is not four numbers; {RESTORE}"
        dataset.note(ERROR, DAMAGED, raw.where(row), what)
    for row, images in enumerate(raw.images):
        repeated = len(images) - len(np.unique(images))
        if repeated and row not in raw.unknown:
            what = f"{repeated} of {len(images)} entries repeat an image; they are counted as in the literature"
            dataset.note(KNOWN, REPEATED, raw.where(row), what)


def _key(name: str, xywh: np.ndarray) -> tuple:
    return (name, *xywh.tolist())
