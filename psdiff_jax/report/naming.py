"""The keys and settings of evaluation.json in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "whole": "whole gallery",
    "cross_camera": "cross-camera",
    "same_camera": "same camera",
    "temporal_gap": "temporal gap",
    "sized": "sized galleries",
    "listed": "listed galleries",
    "cws": "CWS",
    "cbgm": "CBGM",
    "ap": "AP",
}


def split_name(protocol: str) -> tuple[str, str]:
    """("whole", "cws+cbgm:30,4") of "whole+cws+cbgm:30,4": the protocol and the re-ranking, "" for the plain one."""
    base, _, option = protocol.partition("+")
    return base, option


def gallery_name(protocol: str, size: str = "") -> str:
    """A protocol and the size of its galleries in words: "temporal gap 250", "listed galleries, 100 photographs"."""
    base, option = split_name(protocol)
    name = in_words(base)
    if size.isdecimal():
        name += f", {size_name(size)} photographs"
    elif size == "all":
        name += ", all photographs" * (base in ("sized", "listed"))
    elif size:
        name += f", {in_words(size)}"
    return f"{name}, {option_name(option)}" if option else name


def option_name(option: str) -> str:
    """ "CWS + CBGM 30,4" of "cws+cbgm:30,4"; "none" of ""."""
    return " + ".join(in_words(part) for part in option.split("+")) if option else "none"


def steps_name(steps: str) -> str:
    """ "1 step", "8 steps"; "embeddings as given" where nobody knows their number."""
    if steps == "given":
        return "embeddings as given"
    return f"{steps} step{'s' * (steps != '1')}" if steps.isdecimal() else steps


def in_words(key: str) -> str:
    """ "temporal gap 250" of "temporal_gap:250"."""
    head, _, tail = key.partition(":")
    return f"{_WORDS.get(head, head.replace('_', ' '))} {tail}".strip()


def size_name(size: str) -> str:
    """ "4,000" of "4000"; names of subsets in words."""
    return f"{int(size):,}" if size.isdecimal() else in_words(size)


def size_order(size: str) -> float:
    """Sizes in order: named subsets first (negative), then numbers, then "all"."""
    return float("inf") if size == "all" else float(size) if size.isdecimal() else -1.0


def plain(value: Any) -> str:
    """A value of settings or of a config as short text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
