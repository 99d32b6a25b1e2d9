"""With which gallery photographs each query is compared.

Whole-gallery protocols leave photographs out by a rule, sized ones draw them, listed ones read them from the galleries
that the dataset gives query by query. But for such lists, which count as they are given, no gallery holds the
photograph its query was taken from. In a config protocols are text: "whole", "cross_camera", "same_camera",
"temporal_gap:250", "sized:20,50,100,all", "listed:50,100,all", "listed:occlusion".

Legend: M gallery photographs, Q queries, G photographs in the gallery of one query.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.data.schema import images_of_identities
from psdiff_jax.errors import InputError

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations, Queries

DEFAULT_GAP = 250  # frame numbers
DEFAULT_SIZES = (20, 50, 100, "all")
_ARGUMENTS = {  # kind -> (most arguments, what they are, defaults)
    "whole": (0, "nothing after its name", ()),
    "cross_camera": (0, "nothing after its name", ()),
    "same_camera": (0, "nothing after its name", ()),
    "temporal_gap": (1, "a number of frames, as in 'temporal_gap:250'", (DEFAULT_GAP,)),
    "sized": (None, "numbers of photographs, as in 'sized:20,50,100,all'", DEFAULT_SIZES),
    "listed": (None, "names of the dataset's own galleries, as in 'listed:50,100,all'", ()),
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A named rule that gives each query its gallery.

    name: what stands in the report; size: photographs in a gallery, or "all" that the rule leaves.
    gallery: query number -> int64 [G], photographs as indices into the annotations, in the order they are gone
        through; a photograph may stand there twice (CUHK-SYSU's lists hold such).
    leaves_out_hopeless: queries without any true photograph in their gallery leave the means and are counted apart,
        instead of scoring 0.
    description: one phrase for the report.
    official: the dataset's list behind it: only its queries are asked, and it says where the person stands; None: all
        queries are, and the annotations say so.
    """

    name: str
    size: int | str
    gallery: Callable[[int], np.ndarray]
    leaves_out_hopeless: bool = False
    description: str = ""
    official: GalleryList | None = None

    def queries(self, count: int) -> np.ndarray:
        """int64 [P] rising: which of `count` queries are asked."""
        return np.arange(count) if self.official is None else np.asarray(self.official.queries, np.int64)


def make_protocols(
    specs: Sequence[str],
    annotations: Annotations,
    queries: Queries,
    seed: int = 0,
    galleries: Mapping[str, GalleryList] | None = None,
) -> list[Protocol]:
    """The protocols that `specs` name, on this gallery; InputError for an unknown one or for data that cannot serve it.

    `seed` draws the negatives of sized galleries: the same seed, query number and gallery give the same photographs
    on every machine. `galleries`: the dataset's own lists by name (`PreparedDataset.galleries`), for "listed".
    """
    own_Q = query_images(annotations, queries)
    made: list[Protocol] = []
    for spec in specs:
        kind, values = parse_protocol(spec)
        if kind == "whole":
            made.append(_whole(own_Q, len(annotations.image_names)))
        elif kind == "temporal_gap":
            made.append(_temporal_gap(values[0], annotations, queries, own_Q))
        elif kind == "sized":
            made.extend(_sized(values, annotations, queries, own_Q, seed))
        elif kind == "listed":
            made.extend(_listed(spec, [str(v) for v in values], galleries or {}, own_Q, len(annotations.image_names)))
        else:
            made.append(_by_camera(kind, annotations, queries, own_Q))
    keys = [(protocol.name, protocol.size) for protocol in made]
    for i, (name, size) in enumerate(keys):
        if (name, size) in keys[:i]:
            raise InputError(f"config.evaluate.protocols: {name} with gallery size {size} is asked for twice")
    return made


def parse_protocol(spec: str) -> tuple[str, tuple[int | str, ...]]:
    """Splits "temporal_gap:250" into ("temporal_gap", (250,)); InputError naming a spec that means nothing."""
    kind, _, text = str(spec).partition(":")
    if kind not in _ARGUMENTS:
        raise InputError(
            f"config.evaluate.protocols: no protocol is called {spec!r}; there are {', '.join(_ARGUMENTS)}"
        )
    most, hint, defaults = _ARGUMENTS[kind]
    words = tuple(word.strip() for word in text.split(",")) if text else ()
    if kind == "listed":
        right = bool(words) and all(re.fullmatch(r"\w[\w.-]*", word) for word in words)
    else:
        right = all((word.isdecimal() and int(word) > 0) or (kind == "sized" and word == "all") for word in words)
    if not right or (most is not None and len(words) > most):
        raise InputError(f"config.evaluate.protocols: {spec!r} is not understood; {kind} takes {hint}")
    if kind == "listed":
        return kind, words
    return kind, tuple(word if word == "all" else int(word) for word in words) or defaults


def query_images(annotations: Annotations, queries: Queries) -> np.ndarray:
    """int64 [Q]: the photograph of each query as an index into the annotations; InputError for one that is not
    there."""
    position = {name: i for i, name in enumerate(annotations.image_names)}
    missing = next((i for i, name in enumerate(queries.image_names) if name not in position), None)
    if missing is not None:
        raise InputError(
            f"query {missing}: its image {queries.image_names[missing]!r} is not among the gallery's images"
        )
    return np.array([position[name] for name in queries.image_names], np.int64)


def _whole(own_Q: np.ndarray, images: int) -> Protocol:
    everything = np.arange(images)
    return Protocol(
        "whole", "all", lambda q: np.delete(everything, own_Q[q]), description="all but the query's own photograph"
    )


def _by_camera(kind: str, annotations: Annotations, queries: Queries, own_Q: np.ndarray) -> Protocol:
    cameras = np.asarray(annotations.cameras)
    _need_known(kind, "camera", cameras, annotations.image_names)
    _need_known(kind, "camera", queries.cameras, queries.image_names)
    same = kind == "same_camera"

    def gallery(q: int) -> np.ndarray:
        keep = (cameras == queries.cameras[q]) == same
        keep[own_Q[q]] = False
        return np.flatnonzero(keep)

    what = "the query's camera" if same else "other cameras"
    return Protocol(kind, "all", gallery, description=f"photographs of {what} only")


def _temporal_gap(gap: int, annotations: Annotations, queries: Queries, own_Q: np.ndarray) -> Protocol:
    frames, cameras = np.asarray(annotations.frames), np.asarray(annotations.cameras)
    _need_known("temporal_gap", "frame number", frames, annotations.image_names)
    _need_known("temporal_gap", "frame number", queries.frames, queries.image_names)

    def gallery(q: int) -> np.ndarray:
        near = (cameras == queries.cameras[q]) & (np.abs(frames - queries.frames[q]) <= gap)
        near[own_Q[q]] = True
        return np.flatnonzero(~near)

    return Protocol(
        f"temporal_gap:{gap}",
        "all",
        gallery,
        leaves_out_hopeless=True,
        description=f"without the query camera's photographs within {gap} frame numbers; "
        "queries left without a true one are not in the means",
    )


def _sized(
    sizes: Sequence[int | str], annotations: Annotations, queries: Queries, own_Q: np.ndarray, seed: int
) -> list[Protocol]:
    """All true photographs of the person and, up to the size, random others; a smaller gallery is part of every
    larger one."""
    images, shown = len(annotations.image_names), images_of_identities(annotations)

    @functools.lru_cache(maxsize=4)  # the sizes of one query are asked for one after the other
    def order(q: int) -> tuple[np.ndarray, int]:
        # Raw Philox output is the same for ever and on every machine; Generator.permutation is not promised to be.
        draw = np.random.Philox(key=[np.uint64(seed), np.uint64(q)]).random_raw(images).astype(np.float64)
        true = shown.get(int(queries.person_ids[q]), np.zeros(0, np.int64))
        draw[true], draw[own_Q[q]] = -1.0, np.inf
        return np.argsort(draw, kind="stable")[:-1], len(np.setdiff1d(true, own_Q[q]))

    def gallery(q: int, size: int | str) -> np.ndarray:
        others, true = order(q)
        return np.sort(others if size == "all" else others[: max(size, true)])

    what = "every true photograph and, up to the size, random others (seed {}), nested"
    return [Protocol("sized", s, functools.partial(gallery, size=s), description=what.format(seed)) for s in sizes]


def _listed(
    spec: str, names: Sequence[str], galleries: Mapping[str, GalleryList], own_Q: np.ndarray, images: int
) -> list[Protocol]:
    """The dataset's own galleries; "all" is the smallest numbered one and every other photograph as a negative.

    SeqNet's evaluator (82252c6) counts the list's photographs a second time there, as negatives: a defect, not a rule.
    """
    if not galleries:
        raise InputError(
            f"config.evaluate.protocols: {spec!r}, but the dataset has no galleries of its own; sized ones are drawn"
        )
    numbered = sorted((name for name in galleries if name.isdecimal()), key=int)
    known = [*galleries, *(["all"] if numbered and "all" not in galleries else [])]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise InputError(
            f"config.evaluate.protocols: {spec!r}: the dataset has no gallery called {unknown!r}; there are "
            f"{', '.join(known)}"
        )
    made = []
    for name in names:
        if name in galleries:
            made.append(_of_list(name, galleries[name], "the dataset's own galleries, by the truths of their lists"))
        else:
            smallest = numbered[0]
            what = f"all is gallery {smallest} and every other photograph but the query's as a negative"
            made.append(_of_list("all", galleries[smallest], what, own_Q, images))
    return made


def _of_list(
    name: str, listed: GalleryList, description: str, own_Q: np.ndarray | None = None, images: int = 0
) -> Protocol:
    """A list as it is given; with `own_Q`, all other photographs but the query's own behind it."""
    place = {int(query): i for i, query in enumerate(listed.queries)}

    def gallery(q: int) -> np.ndarray:
        given = np.asarray(listed.images[place[q]], np.int64)
        if own_Q is None:
            return given
        other = np.ones(images, bool)
        other[given], other[own_Q[q]] = False, False
        return np.concatenate([given, np.flatnonzero(other)])

    size = int(name) if name.isdecimal() else name
    return Protocol("listed", size, gallery, description=description, official=listed)


def _need_known(kind: str, what: str, values: np.ndarray, names: Sequence[str]) -> None:
    unknown = np.flatnonzero(np.asarray(values) < 0)
    if unknown.size:
        name = names[unknown[0]]
        raise InputError(f"config.evaluate.protocols: {kind} needs the {what} of every image; {name!r} has none")
