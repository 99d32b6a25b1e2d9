"""CUHK-SYSU's folder -> `RawDataset`.

    Image/SSM/s*.jpg
    annotation/Images.mat                   Img: images with all their boxes                  -> images
    annotation/pool.mat                     pool: names of the gallery images                 -> annotations
    annotation/test/train_test/Train.mat    Train: training identities and their boxes        -> annotations
    annotation/test/train_test/TestG*.mat   TestG50 ...: queries, the gallery of each         -> lists, queries
    annotation/test/subset/Occlusion.mat    Occlusion1, likewise, of size 100; Resolution.mat: Test_Size

Training images are those of Images.mat that pool.mat does not name. Person.mat (11,934 identities, most of which no
protocol uses) is not read. Boxes that neither Train.mat nor a list names are unlabelled.

Person ids are 0 to 5,531 in the order of Train.mat, then 5,532 to 8,431 in the order of the 2,900 queries. Other
loaders count from 0 again in the test split; here a number is one identity in both splits.

The nesting of cells and structs in the release follows published loaders (named in README.md).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.layout import check_layout
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, RawDataset
from psdiff_jax.datasets.cuhk_sysu.annotations import RESTORE, read_pool, read_train
from psdiff_jax.datasets.cuhk_sysu.images import ImageRecord, label, read_records
from psdiff_jax.datasets.cuhk_sysu.lists import read_list
from psdiff_jax.datasets.cuhk_sysu.queries import SUBSET_QUERY, UNKNOWN_IMAGE, QueryTable, gallery_list, note_faults
from psdiff_jax.errors import InputError

IMAGE_FOLDER = Path("Image", "SSM")
IMAGES, POOL = Path("annotation", "Images.mat"), Path("annotation", "pool.mat")
TRAIN = Path("annotation", "test", "train_test", "Train.mat")
SIZES = ("50", "100", "500", "1000", "2000", "4000")
# name of the gallery -> (file, variable); the smallest list first, because it defines the queries
LISTS = {size: (TRAIN.with_name(f"TestG{size}.mat"), f"TestG{size}") for size in SIZES} | {
    "occlusion": (Path("annotation", "test", "subset", "Occlusion.mat"), "Occlusion1"),
    "low_resolution": (Path("annotation", "test", "subset", "Resolution.mat"), "Test_Size"),
}
PUBLISHED = {
    "train images": 11_206,
    "train boxes": 55_272,
    "train ids": 5_532,
    "gallery images": 6_978,
    "gallery boxes": 40_871,
    "queries": 2_900,
}

MISSING_LIST, PARTLY_LABELLED = "missing list", "training images without labelled boxes"

Records = dict[str, ImageRecord | None]  # of Images.mat by image name; None where the image cannot be read


def check_folder(root: Path) -> None:
    """Raises InputError if `root` is not a folder in CUHK-SYSU's format."""
    check_layout(root, "CUHK-SYSU", (IMAGE_FOLDER, IMAGES, POOL, TRAIN))
    if not any((root / LISTS[size][0]).is_file() for size in SIZES):
        raise InputError(
            f"config.data.root: {root / TRAIN.parent} holds none of TestG{', TestG'.join(SIZES)} (.mat);"
            f" one of them is needed for the queries; {RESTORE}"
        )


def annotation_files(root: Path) -> list[Path]:
    """The annotation files in the folder that are read."""
    paths = (root / path for path in (IMAGES, POOL, TRAIN, *(path for path, _ in LISTS.values())))
    return [path for path in paths if path.is_file()]


def read(root: Path) -> RawDataset:
    """A folder in CUHK-SYSU's format, in the order of Images.mat, pool.mat and the smallest list.

    Raises:
      InputError: a needed file is missing, or a file is unreadable; all other faults are findings.
    """
    root = Path(root)
    check_folder(root)
    dataset = RawDataset()
    records = read_records(dataset, root)
    pool = _pool(dataset, root, records)
    in_pool = set(pool)
    identities = _label_train(dataset, root, records, in_pool)
    _read_lists(dataset, root, records, pool, first_id=identities)
    dataset.train = [record.annotated() for name, record in records.items() if record and name not in in_pool]
    dataset.gallery = [record.annotated() for name in pool if (record := records[name])]
    _note_known(dataset, root)
    return dataset


def _pool(dataset: RawDataset, root: Path, records: Records) -> list[str]:
    """The names in pool.mat that Images.mat holds."""
    names = read_pool(root / POOL)
    for name in sorted(set(names) - records.keys()):
        what = f"names {name}, which Images.mat does not hold; {RESTORE}"
        dataset.note(ERROR, UNKNOWN_IMAGE, root / POOL, what, name)
    for name in sorted(name for name, count in Counter(names).items() if count > 1):
        what = f"names {name} more than once; it is taken once"
        dataset.note(WARNING, checks.TWICE_IN_SPLIT, root / POOL, what, name)
    return [name for name in dict.fromkeys(names) if name in records]


def _label_train(dataset: RawDataset, root: Path, records: Records, pool: set[str]) -> int:
    """Labels the identities of Train.mat with 0, 1, ... in its order. Returns how many there are."""
    count = 0
    for person_id, identity in enumerate(read_train(root / TRAIN)):
        count += 1
        where = f"{root / TRAIN} person {person_id + 1} {identity.id_name}".rstrip()
        for name, xywh in zip(identity.image_names, identity.boxes, strict=True):
            if name not in records:
                what = f"has a box in {name}, which Images.mat does not hold; {RESTORE}"
                dataset.note(ERROR, UNKNOWN_IMAGE, where, what, name)
            elif name in pool:
                what = f"has a box in {name}, which is no training image; it stays unlabelled there"
                dataset.note(WARNING, "training identity in the gallery", where, what, name)
            elif record := records[name]:
                label(dataset, record, xywh, person_id, where)
    return count


def _read_lists(dataset: RawDataset, root: Path, records: Records, pool: list[str], first_id: int) -> None:
    """Fills queries and galleries, and labels the boxes that the lists name."""
    positions = {name: position for position, name in enumerate(pool)}
    table, found = QueryTable(dataset, records, pool, first_id), {}
    for gallery, (path, variable) in LISTS.items():
        if not (root / path).is_file():
            what = f"is missing: the gallery listed:{gallery} is not available; {RESTORE}"
            dataset.note(WARNING, MISSING_LIST, root / path, what)
            continue
        raw = read_list(root / path, variable, positions)
        note_faults(dataset, raw)
        found[gallery] = raw, table.add(raw, is_subset=gallery not in SIZES)
    added = sum(finding.check == SUBSET_QUERY for finding in dataset.findings)
    dataset.published = PUBLISHED | {"queries": PUBLISHED["queries"] + added}  # the published number is of the sizes
    numbers = table.fill()
    readable = np.asarray([records[name] is not None for name in pool], bool)
    image_index = np.where(readable, np.cumsum(readable) - 1, -1).astype(np.int32)
    dataset.galleries = {name: gallery_list(raw, numbers[rows], image_index) for name, (raw, rows) in found.items()}


def _note_known(dataset: RawDataset, root: Path) -> None:
    """Notes known defects of the release that show only when all boxes are labelled."""
    for image in dataset.images:
        ids, counts = np.unique(image.person_ids[image.person_ids != UNLABELLED], return_counts=True)
        for person_id, count in zip(ids[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            what = f"person {person_id} has {count} boxes"
            dataset.note(KNOWN, checks.PERSON_TWICE, image.path, what, image.name)
    labelled = sum(bool((image.person_ids != UNLABELLED).any()) for image in dataset.train)
    if labelled < len(dataset.train):
        what = f"labels boxes in {labelled:,} of {len(dataset.train):,} training images; the others are unlabelled"
        dataset.note(KNOWN, PARTLY_LABELLED, root / TRAIN, what)
