"""CUHK-SYSU's folder -> `Contents`.

    Image/SSM/s*.jpg
    annotation/Images.mat                   Img: photographs with all boxes                            -> photographs
    annotation/pool.mat                     pool: names of the gallery's photographs                   -> annotations
    annotation/test/train_test/Train.mat    Train: training people, where each stands                  -> annotations
    annotation/test/train_test/TestG*.mat   TestG50 ...: queries, the gallery of each                  -> lists, queries
    annotation/test/subset/Occlusion.mat    Occlusion1, likewise, of size 100; Resolution.mat: Test_Size

Training photographs are those of Images.mat that pool.mat does not name. Person.mat (11,934 people, also those whom no
protocol uses) is not read. Everybody whom Train.mat or a list does not name is unlabelled.

Person ids: 0 to 5,531 in the order of Train.mat; the 2,900 people asked for follow, 5,532 to 8,431 in the order of the
queries. Other loaders begin at 0 again in the test split; here no number means two people.

How the release nests its cells and structs was learnt from loaders that read it (README.md names them).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, Contents
from psdiff_jax.datasets.cuhk_sysu.annotations import RESTORE, read_pool, read_train
from psdiff_jax.datasets.cuhk_sysu.images import Photograph, label, read_photographs
from psdiff_jax.datasets.cuhk_sysu.lists import read_list
from psdiff_jax.datasets.cuhk_sysu.queries import SUBSET_QUERY, UNKNOWN_PHOTOGRAPH, Asked, gallery_list, note_faults
from psdiff_jax.errors import InputError

PHOTOGRAPHS = Path("Image", "SSM")
IMAGES, POOL = Path("annotation", "Images.mat"), Path("annotation", "pool.mat")
TRAIN = Path("annotation", "test", "train_test", "Train.mat")
NEEDED = (PHOTOGRAPHS, IMAGES, POOL, TRAIN)
SIZES = ("50", "100", "500", "1000", "2000", "4000")
# name of the gallery -> (file, variable); the smallest list first, for it says who is asked for
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

MISSING_LIST, PARTLY_LABELLED = "missing list", "training photographs without labelled people"


def check_folder(root: Path) -> None:
    """Raises InputError when `root` is not a folder in CUHK-SYSU's format."""
    if not root.is_dir():
        raise InputError(
            f"config.data.root: there is no folder {root}; name the CUHK-SYSU folder that holds Image and annotation"
        )
    for name in NEEDED:
        if not (root / name).exists():
            raise InputError(
                f"config.data.root: {root / name} is missing; a CUHK-SYSU folder holds"
                f" {', '.join(path.as_posix() for path in NEEDED)}"
            )
    if not any((root / LISTS[size][0]).is_file() for size in SIZES):
        raise InputError(
            f"config.data.root: {root / TRAIN.parent} holds none of TestG{', TestG'.join(SIZES)} (.mat);"
            f" at least one of them says who is asked for; {RESTORE}"
        )


def annotation_files(root: Path) -> list[Path]:
    """The files that are read, as far as they are there."""
    return [
        root / path for path in (IMAGES, POOL, TRAIN, *(path for path, _ in LISTS.values())) if (root / path).is_file()
    ]


def read(root: Path) -> Contents:
    """Everything in a folder of CUHK-SYSU's format, in the order of Images.mat, pool.mat and the smallest list.

    Raises:
      InputError: a needed file is missing, or one that is there is unreadable; all other faults are findings.
    """
    root = Path(root)
    check_folder(root)
    contents = Contents()
    photographs = read_photographs(contents, root)
    pool = _pool(contents, root, photographs)
    in_pool = set(pool)
    people = _label_train(contents, root, photographs, in_pool)
    _read_lists(contents, root, photographs, pool, first_id=people)
    contents.train = [found.scene() for name, found in photographs.items() if found and name not in in_pool]
    contents.gallery = [photographs[name].scene() for name in pool if photographs[name]]
    _note_known(contents, root)
    return contents


def _pool(contents: Contents, root: Path, photographs: dict[str, Photograph | None]) -> list[str]:
    """The names in pool.mat, without those that Images.mat does not know."""
    names = read_pool(root / POOL)
    for name in sorted(name for name in set(names) if name not in photographs):
        contents.note(
            ERROR, UNKNOWN_PHOTOGRAPH, root / POOL, f"names {name}, which Images.mat does not hold; {RESTORE}", name
        )
    for name in sorted(name for name, count in Counter(names).items() if count > 1):
        contents.note(
            WARNING, checks.TWICE_IN_SPLIT, root / POOL, f"names {name} more than once; it is taken once", name
        )
    return [name for name in dict.fromkeys(names) if name in photographs]


def _label_train(contents: Contents, root: Path, photographs: dict[str, Photograph | None], pool: set[str]) -> int:
    """Labels the people of Train.mat with 0, 1, ... in its order. Returns how many there are."""
    count = 0
    for person_id, person in enumerate(read_train(root / TRAIN)):
        count += 1
        for name, rectangle in zip(person.image_names, person.boxes, strict=True):
            where = f"{root / TRAIN} person {person_id + 1} {person.id_name}".rstrip()
            if name not in photographs:
                contents.note(
                    ERROR,
                    UNKNOWN_PHOTOGRAPH,
                    where,
                    f"stands in {name}, which Images.mat does not hold; {RESTORE}",
                    name,
                )
            elif name in pool:
                contents.note(
                    WARNING,
                    "training person in the gallery",
                    where,
                    f"stands in {name}, which is no training photograph; there he stays unlabelled",
                    name,
                )
            elif photographs[name] is not None:
                label(contents, photographs[name], rectangle, person_id, where)
    return count


def _read_lists(
    contents: Contents, root: Path, photographs: dict[str, Photograph | None], pool: list[str], first_id: int
) -> None:
    """Fills queries and galleries, and labels the boxes that the lists name."""
    names = {name: place for place, name in enumerate(pool)}
    asked, found = Asked(contents, photographs, pool, first_id), {}
    for gallery, (path, variable) in LISTS.items():
        if not (root / path).is_file():
            contents.note(
                WARNING, MISSING_LIST, root / path, f"is missing: galleries listed:{gallery} cannot be had; {RESTORE}"
            )
            continue
        raw = read_list(root / path, variable, names)
        note_faults(contents, raw)
        found[gallery] = raw, asked.add(raw, is_subset=gallery not in SIZES)
    added = sum(finding.check == SUBSET_QUERY for finding in contents.findings)
    contents.published = PUBLISHED | {"queries": PUBLISHED["queries"] + added}  # published are those of the sizes
    numbers = asked.fill()
    is_there = np.asarray([photographs[name] is not None for name in pool], bool)
    scene_of = np.where(is_there, np.cumsum(is_there) - 1, -1).astype(np.int32)
    contents.galleries = {name: gallery_list(raw, numbers[rows], scene_of) for name, (raw, rows) in found.items()}


def _note_known(contents: Contents, root: Path) -> None:
    """Dirt of the release that shows only when everything is labelled."""
    for scene in [*contents.train, *contents.gallery]:
        ids, counts = np.unique(scene.person_ids[scene.person_ids != UNLABELLED], return_counts=True)
        for person_id, count in zip(ids[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            contents.note(
                KNOWN, checks.PERSON_TWICE, scene.path, f"person {person_id} stands there {count} times", scene.name
            )
    labelled = sum(bool((scene.person_ids != UNLABELLED).any()) for scene in contents.train)
    if labelled < len(contents.train):
        contents.note(
            KNOWN,
            PARTLY_LABELLED,
            root / TRAIN,
            f"names people in {labelled:,} of"
            f" {len(contents.train):,} training photographs; in the others everybody is unlabelled",
        )
