"""With which gallery images each query is compared: "whole", "cross_camera", "same_camera", "temporal_gap:250",
"sized:20,50,100,all", "listed:50,100,all", "listed:occlusion", and whatever else is registered (see `base`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.protocols.base import PROTOCOLS, Protocol, SearchTask, size_order

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def make_protocols(
    specs: Sequence[str],
    annotations: Annotations,
    queries: Queries,
    seed: int = 0,
    galleries: Mapping[str, GalleryList] | None = None,
) -> list[Protocol]:
    """The protocols of config.evaluate.protocols on one dataset.

    Args:
      seed: draws the negatives of sampled galleries: the same images on every machine.
      galleries: the dataset's own lists by name (`PreparedDataset.galleries`).

    Raises:
      InputError: a spec means nothing, is given twice, or needs what the dataset lacks.
    """
    task = SearchTask(annotations, queries, query_images(annotations, queries), seed, galleries or {})
    made: dict[tuple[str, int | str], Protocol] = {}
    for spec in specs:
        cls, arguments = parse_protocol(spec)
        try:
            protocols = cls.make(task, *arguments)
        except InputError as error:
            raise InputError(f"config.evaluate.protocols: {spec!r}: {error}") from error
        for protocol in protocols:
            if made.setdefault((protocol.name, protocol.size), protocol) is not protocol:
                raise InputError(
                    f"config.evaluate.protocols: {protocol.name} with gallery size {protocol.size} is given twice"
                )
    return list(made.values())


def parse_protocol(spec: str) -> tuple[type[Protocol], tuple[Any, ...]]:
    """The class and the arguments of a spec, which `make` takes; InputError naming a spec that means nothing."""
    name, _, text = str(spec).partition(":")
    if name not in PROTOCOLS:
        raise InputError(f"config.evaluate.protocols: no protocol is called {spec!r}; there are {', '.join(PROTOCOLS)}")
    cls = PROTOCOLS[name]
    try:
        return cls, cls.parse(tuple(word.strip() for word in text.split(",")) if text else ())
    except ValueError as error:
        raise InputError(f"config.evaluate.protocols: {spec!r} is not understood; {name} takes {cls.usage}") from error


def protocol_class(name: str) -> type[Protocol]:
    """The class of a protocol by its key in evaluation.json; `Protocol` itself for one that is not registered here."""
    return PROTOCOLS.get(name.partition(":")[0], Protocol)


def largest_galleries(protocols: Sequence[Protocol]) -> list[Protocol]:
    """One protocol a name: the one of the largest gallery ("all" is above every number), else the first."""
    by_name: dict[str, Protocol] = {}
    for protocol in protocols:
        known = by_name.setdefault(protocol.name, protocol)
        if size_order(str(protocol.size)) > size_order(str(known.size)):
            by_name[protocol.name] = protocol
    return list(by_name.values())


def query_images(annotations: Annotations, queries: Queries) -> np.ndarray:
    """int64 [Q]: the image of each query as an index into the annotations; InputError for one that is missing."""
    position = {name: i for i, name in enumerate(annotations.image_names)}
    missing = next((i for i, name in enumerate(queries.image_names) if name not in position), None)
    if missing is not None:
        name = queries.image_names[missing]
        raise InputError(f"query {missing}: its image {name!r} is not among the gallery's images")
    return np.array([position[name] for name in queries.image_names], np.int64)
