"""Several seeds of the sampler as one result: means and standard deviations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from psdiff_jax.errors import InputError


def mean_and_sd(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One result from those of several seeds, each as `evaluate` returns it; a single one comes back as it is.

    Every number of "detection" and "search" is the mean over the seeds, and the dict that holds it gets
    "sd": {name: sample standard deviation (n - 1)}. In the settings, "seed" becomes "seeds", and whatever else differs
    between the seeds becomes the list of its values. The rest has to be the same in all. InputError when the results
    do not belong to the same evaluation.
    """
    if not results:
        raise InputError("no result to take the mean of: config.evaluate.seeds names no seed")
    if len(results) == 1:
        return dict(results[0])
    first = results[0]
    for key in ("counts", "protocols", "steps"):
        if any(other[key] != first[key] for other in results):
            raise InputError(f"results of several seeds differ in {key!r}: they are not of one evaluation")
    merged = {key: _mean([result[key] for result in results], key) for key in ("detection", "search")}
    return {**first, "settings": _settings([result["settings"] for result in results]), **merged}


def _settings(given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged = {}
    for key, value in given[0].items():
        values = [settings.get(key) for settings in given]
        if key == "seed":
            merged["seeds"] = values
        else:
            merged[key] = value if all(other == value for other in values) else values
    return merged


def _mean(nodes: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """The mean of dicts of dicts ... of numbers, with "sd" in each that holds numbers."""
    if any(list(node) != list(nodes[0]) for node in nodes):
        raise InputError(f"results of several seeds differ in what {where!r} holds: they are not of one evaluation")
    mean: dict[str, Any] = {}
    spread: dict[str, float] = {}
    for key, value in nodes[0].items():
        values = [node[key] for node in nodes]
        if isinstance(value, Mapping):
            mean[key] = _mean(values, f"{where}/{key}")
        else:
            mean[key], spread[key] = _number(values)
    return {**mean, "sd": spread} if spread else mean


def _number(values: Sequence[float]) -> tuple[float, float]:
    """(mean, sample standard deviation); numbers that are all the same stay what they are, such as a count."""
    if all(value == values[0] for value in values):
        return values[0], 0.0
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
