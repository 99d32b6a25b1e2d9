"""A folder with the user's own images and lists in COCO's JSON or CSV.

    train.json, gallery.json, query.json   or  annotations.json, where each image has a "split"
    train.csv, gallery.csv, query.csv      or  annotations.csv, with a column split

The gallery is required. Without train the dataset can only be searched. Without queries, neither in a list nor marked
in the gallery, they are sampled (see `query_sampling`). The formats are described in `coco` and `table`.

Person ids that are whole numbers are kept. If any id is text, all are numbered from 0 in sorted order, and
`RawDataset.person_names` holds the ids as given; cameras likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNKNOWN, UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.boxes import clip_xywh
from psdiff_jax.datasets.common.query_sampling import add_sampled_queries
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, AnnotatedImage, Query, RawDataset
from psdiff_jax.datasets.custom.coco import read_coco
from psdiff_jax.datasets.custom.images import image_folders, open_image
from psdiff_jax.datasets.custom.listing import BoxEntry, Listing, numbered
from psdiff_jax.datasets.custom.table import read_table
from psdiff_jax.errors import InputError

FORMATS: dict[str, Callable] = {".json": read_coco, ".csv": read_table}
SUSPICIOUS = (5, 0.1)  # this many boxes, and this share of all, far over the border are not people at the edge
EXPECTED = "gallery.json (beside it train.json and query.json), annotations.json, or the same as .csv"


def read(
    root: Path,
    *,
    images: str = "",
    outside: bool = False,
    query_gap: int = 25,
    queries_per_person: int = 1,
    seed: int = 0,
) -> RawDataset:
    """The splits and queries.

    Args:
      images: folder of the images, absolute or in `root`; "": `root` and `root/images`.
      outside: whether a list may name images that lie elsewhere.
      query_gap, queries_per_person, seed: of the rule in `query_sampling`, if the lists name no queries.

    Raises:
      InputError: there are no lists, several kinds of them, or an unreadable one; no folder `images`.
    """
    dataset, folders = RawDataset(), image_folders(root, images)
    if images and not folders[0].is_dir():
        raise InputError(f"config.data.builder.images: there is no folder {folders[0]}; name the folder of the images")
    listing, files = read_lists(root, dataset)
    ids, renumbered = numbered(box.person_id for box in [*listing.boxes, *listing.queries])
    dataset.person_names = {number: text for text, number in ids.items()} if renumbered else {}
    _add_images(listing, ids, folders, dataset, outside)
    _add_listed_queries(listing, ids, dataset)
    if not listing.has_queries:
        add_sampled_queries(dataset, files[-1], queries_per_person, query_gap, seed)
    return dataset


def find_lists(root: Path) -> list[tuple[Path, str | None]]:
    """The files to read, and the split of each: "train", "gallery", "query", or None for all in one file.

    Raises:
      InputError: there are none, or of several kinds.
    """
    if not root.is_dir():
        raise InputError(f"config.data.root: there is no folder {root}; name one that holds {EXPECTED}")
    kinds = []
    for suffix in FORMATS:
        kinds.append([(root / f"annotations{suffix}", None)])
        kinds.append([(root / f"{split}{suffix}", split) for split in ("train", "gallery", "query")])
    existing = [[(path, split) for path, split in kind if path.is_file()] for kind in kinds]
    existing = [kind for kind in existing if kind]
    if len(existing) > 1:
        first, second = existing[0][0][0], existing[1][0][0]
        raise InputError(f"config.data.root: there are both {first} and {second.name}; keep one kind of lists")
    if not existing or not {None, "gallery"} & {split for _, split in existing[0]}:
        raise InputError(f"config.data.root: {root} holds no list of the gallery; it needs {EXPECTED}")
    return existing[0]


def read_lists(root: Path, dataset: RawDataset) -> tuple[Listing, list[Path]]:
    """The content of the lists in a folder, and their paths."""
    listing, files = Listing(), find_lists(root)
    for path, split in files:
        FORMATS[path.suffix](path, split, listing, dataset)
        listing.has_query_list |= split == "query"
    return listing, [path for path, _ in files]


def _add_images(listing: Listing, ids: dict[str, int], folders: list[Path], dataset: RawDataset, outside: bool) -> None:
    """Fills the splits with the images that can be used, and adds the queries marked in them."""
    boxes: dict[str, list[BoxEntry]] = {}
    for box in listing.boxes:
        boxes.setdefault(box.image, []).append(box)
    cameras, names, far_outside = _cameras(listing, dataset), {}, []
    for name, entry in listing.images.items():
        opened = open_image(entry, folders, dataset, outside)
        if opened is None:
            continue
        path, header = opened
        if names.setdefault(path.resolve(), name) != name:
            what = f"{name} is the same file as {names[path.resolve()]}; remove one from the lists"
            dataset.note(ERROR, "image under two names", entry.where, what, name)
        found = boxes.get(name, [])
        far_outside += [_is_far_outside(box.xywh, header.size) for box in found]
        clipped = [clip_xywh(dataset, box.where, box.xywh, header.size, name) for box in found]
        kept = [(box, xyxy) for box, xyxy in zip(found, clipped, strict=True) if xyxy is not None]
        image = AnnotatedImage(
            name,
            path,
            *header.size,
            np.asarray([xyxy for _, xyxy in kept], np.float32).reshape(-1, 4),
            np.asarray([_number(box.person_id, ids, UNLABELLED) for box, _ in kept], np.int64),
            _number(entry.camera, cameras, UNKNOWN),
            entry.frame,
        )
        dataset.splits[entry.split].append(image)
        for box, xyxy in kept:
            if box.query:
                _add_query(box, xyxy, image, entry.split, ids, dataset)
    if sum(far_outside) >= max(SUSPICIOUS[0], SUSPICIOUS[1] * len(far_outside)):
        what = (
            f"{sum(far_outside)} of {len(far_outside)} reach over the border by more than half: check that they are"
            " x, y, width, height and not two corners"
        )
        dataset.note(WARNING, "boxes far over the border", "boxes", what)


def _number(text: str | None, numbers: dict[str, int], unknown: int) -> int:
    return unknown if text is None else numbers[text]


def _is_far_outside(xywh: tuple[float, ...], size: tuple[int, int]) -> bool:
    """More than half of the width or height lies beyond the right or lower border."""
    x, y, width, height = xywh
    return x + width / 2 > size[1] or y + height / 2 > size[0]


def _add_listed_queries(listing: Listing, ids: dict[str, int], dataset: RawDataset) -> None:
    """Adds the queries of a query list."""
    images = {image.name: image for image in dataset.images}
    for box in listing.queries:
        if box.image not in listing.images:
            what = f"{box.image} is not among the gallery images; add it there or remove the query"
            dataset.note(ERROR, checks.QUERY_OUTSIDE_GALLERY, box.where, what, box.image)
        elif image := images.get(box.image):  # otherwise the image cannot be used, which is noted already
            xyxy = clip_xywh(dataset, box.where, box.xywh, (image.height, image.width), image.name)
            if xyxy is not None:
                _add_query(box, xyxy, image, listing.images[image.name].split, ids, dataset)


def _add_query(
    box: BoxEntry, xyxy: np.ndarray, image: AnnotatedImage, split: str, ids: dict[str, int], dataset: RawDataset
) -> None:
    if split != "gallery":
        what = f"{image.name} is in {split}, but a query must be in a gallery image; correct it"
        dataset.note(ERROR, checks.QUERY_OUTSIDE_GALLERY, box.where, what, image.name)
    elif box.person_id is None:
        what = "a query needs a person_id; give it one or remove it"
        dataset.note(ERROR, checks.QUERY_UNLABELLED, box.where, what, image.name)
    else:
        dataset.queries.append(Query(image.name, xyxy, ids[box.person_id], image.camera, image.frame))


def _cameras(listing: Listing, dataset: RawDataset) -> dict[str, int]:
    cameras, renumbered = numbered(entry.camera for entry in listing.images.values())
    if renumbered:
        names = ", ".join(f"{number} is {text}" for text, number in cameras.items())
        dataset.note(KNOWN, "numbered cameras", "cameras", f"they are numbered: {names}")
    return cameras
