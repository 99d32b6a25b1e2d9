"""A folder with the user's own photographs and lists in COCO's JSON or CSV.

    train.json, gallery.json, query.json   or  annotations.json, where each image has a "split"
    train.csv, gallery.csv, query.csv      or  annotations.csv, with a column split

gallery is needed, train and query are not: without train there is nothing to train on, but to search in; without
queries, neither as a list nor as marks in the gallery, they are drawn (see `draw_queries`). The formats are told in
`coco` and `table`.

Whole numbers as person ids stay what they are. If any id is text, all are numbered from 0 in sorted order, and
`Contents.people` holds their own names; cameras likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from psdiff_jax.data.schema import UNKNOWN, UNLABELLED
from psdiff_jax.datasets.common import checks
from psdiff_jax.datasets.common.boxes import place_box
from psdiff_jax.datasets.common.query_sampling import add_drawn_queries
from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, Contents, Query, Scene
from psdiff_jax.datasets.custom.coco import read_coco
from psdiff_jax.datasets.custom.images import checked_header, find_photograph, folders
from psdiff_jax.datasets.custom.listing import Listing, Person, numbered
from psdiff_jax.datasets.custom.table import read_table
from psdiff_jax.errors import InputError

FORMATS: dict[str, Callable] = {".json": read_coco, ".csv": read_table}
SUSPICIOUS = (5, 0.1)  # so many boxes, and so large a share, far over the border are no people at the edge
EXPECTED = "gallery.json (beside it train.json and query.json), annotations.json, or the same as .csv"


def read(root: Path, *, images: str = "", query_gap: int = 25, queries_per_person: int = 1, seed: int = 0) -> Contents:
    """The splits and queries.

    Args:
      images: folder of the photographs, absolute or in `root`; "": `root` and `root/images`.
      query_gap, queries_per_person, seed: of the rule in `draw_queries`, where the lists say no queries.

    Raises:
      InputError: there are no lists, several kinds of them, or one that is unreadable; no folder `images`.
    """
    contents, places = Contents(), folders(root, images)
    if images and not places[0].is_dir():
        raise InputError(f"config.data.builder.images: there is no folder {places[0]}; name the photographs' folder")
    listing, files = read_lists(root, contents)
    numbers, renamed = numbered(person.person for person in [*listing.people, *listing.queries])
    contents.people = {number: text for text, number in numbers.items()} if renamed else {}
    _add_scenes(listing, numbers, places, contents)
    _add_queries(listing, numbers, contents)
    if not listing.has_queries:
        add_drawn_queries(contents, files[-1], queries_per_person, query_gap, seed)
    return contents


def find_lists(root: Path) -> list[tuple[Path, str | None]]:
    """The files to read, and for what: "train", "gallery", "query", or None for all in one.

    Raises:
      InputError: there are none, or of several kinds.
    """
    if not root.is_dir():
        raise InputError(f"config.data.root: there is no folder {root}; name one that holds {EXPECTED}")
    kinds = []
    for suffix in FORMATS:
        kinds.append([(root / f"annotations{suffix}", None)])
        kinds.append([(root / f"{split}{suffix}", split) for split in ("train", "gallery", "query")])
    there = [[(path, split) for path, split in kind if path.is_file()] for kind in kinds]
    there = [kind for kind in there if kind]
    if len(there) > 1:
        raise InputError(
            f"config.data.root: {there[0][0][0]} and {there[1][0][0].name} stand side by side; keep one kind of lists"
        )
    if not there or not {None, "gallery"} & {split for _, split in there[0]}:
        raise InputError(f"config.data.root: {root} holds no list of the gallery; it needs {EXPECTED}")
    return there[0]


def read_lists(root: Path, contents: Contents) -> tuple[Listing, list[Path]]:
    """What the lists of a folder say, and the lists."""
    listing, files = Listing(), find_lists(root)
    for path, split in files:
        FORMATS[path.suffix](path, split, listing, contents)
        listing.has_query_list |= split == "query"
    return listing, [path for path, _ in files]


def _add_scenes(listing: Listing, numbers: dict[str, int], places: list[Path], contents: Contents) -> None:
    """Fills the splits, without photographs that cannot be used, and adds the queries that are marked in them."""
    inside: dict[str, list[Person]] = {}
    for person in listing.people:
        inside.setdefault(person.image, []).append(person)
    cameras, names, reaching = _cameras(listing, contents), {}, []
    for name, photograph in listing.photographs.items():
        path = find_photograph(name, places)
        header = checked_header(photograph, path, places, contents)
        if header is None:
            continue
        if names.setdefault(path.resolve(), name) != name:
            contents.note(
                ERROR,
                "photograph under two names",
                photograph.where,
                f"{name} is the same file as {names[path.resolve()]}; remove one from the lists",
                name,
            )
        size = (header.height, header.width)
        reaching += [_reaches_far(person.rectangle, size) for person in inside.get(name, [])]
        boxes = [place_box(contents, person.where, person.rectangle, size, name) for person in inside.get(name, [])]
        kept = [(person, box) for person, box in zip(inside.get(name, []), boxes, strict=True) if box is not None]
        scene = Scene(
            name,
            path,
            *size,
            np.asarray([box for _, box in kept], np.float32).reshape(-1, 4),
            np.asarray([numbers.get(person.person, UNLABELLED) for person, _ in kept], np.int64),
            cameras.get(photograph.camera, UNKNOWN),
            photograph.frame,
        )
        (contents.train if photograph.split == "train" else contents.gallery).append(scene)
        for person, box in kept:
            if person.query:
                _add_query(person, box, scene, photograph.split, numbers, contents)
    if sum(reaching) >= max(SUSPICIOUS[0], SUSPICIOUS[1] * len(reaching)):
        contents.note(
            WARNING,
            "boxes far over the border",
            "boxes",
            f"{sum(reaching)} of {len(reaching)} reach over"
            " the border by more than half: look whether they are x, y, width, height and not two corners",
        )


def _reaches_far(rectangle: tuple[float, ...], size: tuple[int, int]) -> bool:
    """More than half of the width or height lies beyond the right or lower border."""
    x, y, width, height = rectangle
    return x + width / 2 > size[1] or y + height / 2 > size[0]


def _add_queries(listing: Listing, numbers: dict[str, int], contents: Contents) -> None:
    """Adds the queries of a list of their own."""
    scenes = {scene.name: scene for scene in [*contents.train, *contents.gallery]}
    for person in listing.queries:
        if person.image not in listing.photographs:
            contents.note(
                ERROR,
                checks.QUERY_OUTSIDE_GALLERY,
                person.where,
                f"{person.image} is not among the gallery's photographs; add it there or remove the query",
                person.image,
            )
        elif person.image in scenes:  # otherwise its photograph cannot be used, which is noted already
            scene = scenes[person.image]
            box = place_box(contents, person.where, person.rectangle, (scene.height, scene.width), scene.name)
            if box is not None:
                _add_query(person, box, scene, listing.photographs[scene.name].split, numbers, contents)


def _add_query(
    person: Person, box: np.ndarray, scene: Scene, split: str, numbers: dict[str, int], contents: Contents
) -> None:
    if split != "gallery":
        contents.note(
            ERROR,
            checks.QUERY_OUTSIDE_GALLERY,
            person.where,
            f"{scene.name} is in {split}, and a query stands in a photograph of the gallery; correct it",
            scene.name,
        )
    elif person.person is None:
        contents.note(
            ERROR,
            checks.QUERY_UNLABELLED,
            person.where,
            "a query needs a person_id; give it one or remove it",
            scene.name,
        )
    else:
        contents.queries.append(Query(scene.name, box, numbers[person.person], scene.camera, scene.frame))


def _cameras(listing: Listing, contents: Contents) -> dict[str | None, int]:
    cameras, renamed = numbered(photograph.camera for photograph in listing.photographs.values())
    if renamed:
        contents.note(
            KNOWN,
            "numbered cameras",
            "cameras",
            "they are numbered: " + ", ".join(f"{number} is {text}" for text, number in cameras.items()),
        )
    return dict(cameras)
