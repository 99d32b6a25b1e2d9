"""Options: types, limits, and errors that name the key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from ml_collections import ConfigDict

from psdiff_jax.errors import InputError
from psdiff_jax.options import FRACTION, POSITIVE, Need, Range, describe, read, tree

Part = Literal["head", "tail"]


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, POSITIVE, "a rate"] = 0.5
    size: Annotated[tuple[int, int], Range(8), "a size"] = (16, 32)
    shares: Annotated[tuple[float, ...], FRACTION, "shares"] = ()


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, "a name"] = "x"
    order: Annotated[Literal[1, 2], "an order"] = 1
    parts: Annotated[tuple[Part, ...], "parts"] = ()
    flag: Annotated[bool, "a switch"] = False
    count: Annotated[int, Range(0), "a count"] = 3
    either: Annotated[str | Mapping[str, Any], "text or fields"] = "a"
    inner: Inner = field(default_factory=Inner)

    def check(self, need: Need) -> None:
        need(self.count != 13, "count", "must not be 13")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nme": "y"}, "config.nme: no such key in config; did you mean name?"),
        ({"inner": {"zzz": 1}}, "config.inner.zzz: no such key in config.inner; there are rate, shares, size"),
        ({"name": 3}, "config.name=3: expected str"),
        ({"flag": 1}, "config.flag=1: expected bool"),
        ({"count": True}, "config.count=True: expected int"),
        ({"count": 1.0}, "config.count=1.0: expected int"),
        ({"count": -1}, "config.count=-1: must be 0 or more"),
        ({"count": 13}, "config.count=13: must not be 13"),
        ({"order": 3}, "config.order=3: choose from 1, 2"),
        ({"order": True}, "config.order=True: choose from 1, 2"),
        ({"parts": ("head", "wing")}, "config.parts=('head', 'wing'): choose from head, tail"),
        ({"parts": "head"}, "config.parts='head': choose from head, tail"),
        ({"either": 4}, "config.either=4: expected"),
        ({"inner": {"rate": 0}}, "config.inner.rate=0.0: must be above 0"),
        ({"inner": {"rate": float("nan")}}, "config.inner.rate=nan: must be above 0"),
        ({"inner": {"size": (16,)}}, "config.inner.size=(16,): expected"),
        ({"inner": {"size": (16, 4)}}, "config.inner.size=(16, 4): must be 8 or more"),
        ({"inner": {"shares": (0.5, 1.5)}}, "config.inner.shares=(0.5, 1.5): must lie within 0 and 1"),
        ({"inner": 5}, "config.inner=5: expected a group of keys"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(InputError) as caught:
        read(Outer, values)
    assert str(caught.value).startswith(message)


def test_lists_become_tuples_and_whole_numbers_floats():
    values = {"parts": ["head"], "inner": {"rate": 2, "size": [8, 9], "shares": [0, 1]}}
    assert read(Outer, values) == Outer(parts=("head",), inner=Inner(2.0, (8, 9), (0.0, 1.0)))
    assert isinstance(read(Outer, values).inner.rate, float)


def test_a_config_dict_is_read_and_groups_become_plain_dicts():
    options = read(Outer, ConfigDict({"either": {"depths": (1, 2)}, "name": "y"}))
    assert options.either == {"depths": (1, 2)} and type(options.either) is dict


def test_what_is_written_is_read_back():
    options = Outer(name="y", parts=("tail",), inner=Inner(shares=(0.25,)))
    assert read(Outer, tree(options)) == options


def test_every_key_is_described():
    found = {option.key: option for option in describe(Outer(count=4))}
    assert found["config.count"].value == 4 and found["config.count"].doc == "a count"
    assert [found[f"config.{key}"].type_name for key in ("order", "parts", "flag")] == [
        "1 | 2",
        "head | tail, ...",
        "bool",
    ]
    assert found["config.inner.size"].type_name == "tuple[int, int]" and "config.inner" not in found
