"""The keys and values of evaluation.json in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psdiff_jax.evaluation.protocols import protocol_class

_WORDS = {  # keys of settings and counts that are not the words of a page
    "people": "identities",
    "dataset": "evaluated on",
    "training_step": "training steps done",
    "seeds": "sampler seeds",
    "embeddings": "embeddings from",
}
_QUERIES = {
    "pin": "of the ground-truth box",
    "match": "of the detected box",
    "crop": "of the cropped ground-truth box",
    "given": "as given",
}


def split_name(protocol: str) -> tuple[str, str]:
    """("whole", "cws+cbgm:30,4") of "whole+cws+cbgm:30,4": the protocol and the re-ranking, "" for the plain one."""
    base, _, option = protocol.partition("+")
    return base, option


def gallery_name(protocol: str, size: str = "") -> str:
    """A protocol and the size of its galleries: "temporal gap 250", "gallery size 100, CWS"."""
    base, option = split_name(protocol)
    name = protocol_class(base).words(base, size)
    return f"{name}, {option_name(option)}" if option else name


def option_name(option: str) -> str:
    """ "CWS + CBGM 30,4" of "cws+cbgm:30,4"; "none" of ""."""
    return " + ".join(part.replace(":", " ").upper() for part in option.split("+")) if option else "none"


def steps_name(steps: str) -> str:
    """ "1 step", "8 steps"; "embeddings as given" where their number is unknown."""
    if steps == "given":
        return "embeddings as given"
    return f"{steps} step{'s' * (steps != '1')}" if steps.isdecimal() else steps


def in_words(key: str) -> str:
    """ "gallery images" of "gallery_images", "identities" of "people"."""
    return _WORDS.get(key, key.replace("_", " "))


def settings_in_words(settings: Mapping[str, Any]) -> dict[str, str]:
    """Names and values of the settings of an evaluation."""
    entries = {}
    for key, value in settings.items():
        if key == "calibration":
            value = "on held-out training images" if value else "none"
        elif key == "query_embedding":
            value = _QUERIES.get(value, value)
        elif key == "search_threshold" and isinstance(value, Mapping):
            value = [f"{threshold:g} at {steps_name(str(steps))}" for steps, threshold in value.items()]
        entries[in_words(key)] = plain(value)
    return entries


def plain(value: Any) -> str:
    """A value of settings or of a config as short text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def clock(seconds: float, tenths: bool = True) -> str:
    """ "1:02.5", "1:00:02.5" of seconds from the start of a video; without `tenths` "1:02"."""
    minutes, rest = divmod(round(seconds, 1) if tenths else round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:04.1f}" if tenths else f"{int(rest):02d}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"
