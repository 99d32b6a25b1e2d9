"""Which boxes of a gallery are looked for, where a dataset does not say: a seeded rule.

1. A labelled person can be found again when he is in at least two photographs of the gallery. Everybody else gives no
   query; they are counted.
2. His photographs are put in an order by the hash of (seed, person id, photograph's name): the same on every machine,
   whatever the order of the folder, and the order of two photographs never depends on a third.
3. Photographs with a far one go before the others. Photograph a has a far one when the person is also in a b
   taken by another camera, or by the same with more than `gap` frame numbers between: there is something to find that
   is no near copy. Cameras and frames that nobody knows are not far from anything.
4. The first `per_person` are his queries, each with his first box in that photograph.

Queries stand in the order of person ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from psdiff_jax.datasets.common.records import KNOWN, Contents, Query, Scene
from psdiff_jax.errors import InputError


def add_drawn_queries(contents: Contents, where: object, per_person: int, gap: int, seed: int) -> None:
    """Draws the queries of a gallery that has none and notes who gives none; `where`: the folder, for the findings."""
    people = people_of(contents.gallery)
    contents.queries = draw_queries(contents.gallery, per_person, gap, seed)
    once = sum(len(places) == 1 for places in people.values())
    if once:
        contents.note(
            KNOWN,
            "person seen once",
            where,
            f"{once} of {len(people)} labelled people of the gallery are in one photograph only: they cannot"
            " be found again and give no query",
        )


def draw_queries(scenes: Sequence[Scene], per_person: int = 1, gap: int = 25, seed: int = 0) -> list[Query]:
    """The queries that the rule above draws from a gallery.

    Raises:
      InputError: `per_person` is below 1, or `gap` below 0.
    """
    if not isinstance(per_person, int) or per_person < 1:
        raise InputError(f"config.data.builder: {per_person!r} queries a person; it is a whole number from 1")
    if not isinstance(gap, (int, float)) or gap < 0:
        raise InputError(f"config.data.builder.query_gap: {gap!r} frames; it is a number from 0")
    queries = []
    for person, places in sorted(people_of(scenes).items()):
        if len(places) < 2:
            continue
        near = dict(zip(places, ~far_ones([scenes[i] for i in places], gap), strict=True))
        order = {i: (near[i], _hash(seed, person, scenes[i].name)) for i in places}
        queries += [_query(scenes[i], person) for i in sorted(places, key=order.__getitem__)[:per_person]]
    return queries


def people_of(scenes: Sequence[Scene]) -> dict[int, list[int]]:
    """Labelled person id -> the places of the scenes that show the person."""
    found: dict[int, list[int]] = {}
    for i, scene in enumerate(scenes):
        for person in np.unique(scene.person_ids[scene.person_ids >= 0]).tolist():
            found.setdefault(person, []).append(i)
    return found


def far_ones(scenes: Sequence[Scene], gap: int) -> np.ndarray:
    """bool [n]: which of these photographs of one person have another among them that is far (see above)."""
    cameras = np.asarray([scene.camera for scene in scenes])
    frames = np.asarray([scene.frame for scene in scenes])
    known = cameras >= 0
    far = known & (len(np.unique(cameras[known])) > 1)
    for camera in np.unique(cameras):
        here = (cameras == camera) & (frames >= 0)
        if here.any():
            far[here] |= (frames[here] - frames[here].min() > gap) | (frames[here].max() - frames[here] > gap)
    return far


def _hash(seed: int, person: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{person}\0{name}".encode()).digest()


def _query(scene: Scene, person: int) -> Query:
    box = scene.boxes[np.flatnonzero(scene.person_ids == person)[0]]
    return Query(scene.name, box, person, scene.camera, scene.frame)
