"""Query sampling for galleries without an official query list: a seeded rule, the same on every machine.

1. Candidates are the labelled identities that appear in two gallery images or more. All others cannot be found again;
   they give no query and are counted.
2. The images of an identity are sorted by the hash of (seed, person id, image name). The order of two images therefore
   never depends on a third, nor on the order of the folder.
3. Images with a distant view go first: those for which the identity also appears in an image of another camera, or of
   the same camera more than `gap` frame numbers away, so that there is more to find than near copies. Among images
   of unknown camera only frame numbers count; an unknown one makes no view distant.
4. The first `per_person` images give a query each: the first box of the identity in the image.

Queries are sorted by person id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from psdiff_jax.data.schema import images_of_identities
from psdiff_jax.datasets.common.records import KNOWN, AnnotatedImage, Query, RawDataset
from psdiff_jax.errors import InputError


def add_sampled_queries(dataset: RawDataset, where: object, per_person: int, gap: int, seed: int) -> None:
    """Samples the queries of a gallery that has none, and notes how many identities give none.

    where: the folder, for the findings.
    """
    dataset.queries = sample_queries(dataset.gallery, per_person, gap, seed)
    shown = images_of_identities([image.person_ids for image in dataset.gallery])
    once = sum(len(images) == 1 for images in shown.values())
    if once:
        what = f"{once} of {len(shown)} gallery identities are in one image only: they cannot be found again and give"
        dataset.note(KNOWN, "identity in one image only", where, f"{what} no query")


def sample_queries(images: Sequence[AnnotatedImage], per_person: int = 1, gap: int = 25, seed: int = 0) -> list[Query]:
    """The queries that the rule above selects from a gallery.

    Raises:
      InputError: `per_person` is below 1, or `gap` below 0.
    """
    if not isinstance(per_person, int) or per_person < 1:
        raise InputError(f"config.data.builder: {per_person!r} queries a person; it is a whole number from 1")
    if not isinstance(gap, (int, float)) or gap < 0:
        raise InputError(f"config.data.builder.query_gap: {gap!r} frames; it is a number from 0")
    queries = []
    for person_id, places in images_of_identities([image.person_ids for image in images]).items():
        if len(places) < 2:
            continue
        shown = [images[i] for i in places]
        near = ~has_distant_view(shown, gap)
        keys = [(near[i], _hash(seed, person_id, image.name)) for i, image in enumerate(shown)]
        queries += [_query(shown[i], person_id) for i in sorted(range(len(shown)), key=keys.__getitem__)[:per_person]]
    return queries


def has_distant_view(images: Sequence[AnnotatedImage], gap: int) -> np.ndarray:
    """bool [n]: for which of these images of one identity another of them is a distant view (see above)."""
    cameras = np.asarray([image.camera for image in images])
    frames = np.asarray([image.frame for image in images])
    known = cameras >= 0
    distant = known & (len(np.unique(cameras[known])) > 1)
    for camera in np.unique(cameras):
        here = (cameras == camera) & (frames >= 0)
        if here.any():
            distant[here] |= (frames[here] - frames[here].min() > gap) | (frames[here].max() - frames[here] > gap)
    return distant


def _hash(seed: int, person_id: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{person_id}\0{name}".encode()).digest()


def _query(image: AnnotatedImage, person_id: int) -> Query:
    box = image.boxes[np.flatnonzero(image.person_ids == person_id)[0]]
    return Query(image.name, box, person_id, image.camera, image.frame)
