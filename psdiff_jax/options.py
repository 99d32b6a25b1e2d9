"""Options: frozen dataclasses whose fields carry their limits and a line of documentation.

    @dataclass(frozen=True)
    class SamplerOptions:
        num_proposals: Annotated[int, Range(1), "proposals per image (N_test)"] = 300
        solver: Annotated[Literal["ddim", "dpm"], "what integrates the reverse process"] = "ddim"

Such a field is the only place where an option has a default. `tree` turns options into nested dicts (which configs are
made of), `read` turns such dicts back into checked options, and `describe` lists them for people. A class may have a
method `check(need)` for what its fields must fulfil together.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from psdiff_jax.errors import InputError

T = TypeVar("T")
Need = Callable[[bool, str, str], None]  # (holds, name of the field, what must hold)


@dataclass(frozen=True)
class Range:
    """Limits of a number, or of every number in a tuple; `above` leaves `low` itself out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def holds(self, value: Any) -> bool:
        numbers = value if isinstance(value, tuple) else (value,)
        return all(self.low <= n <= self.high and not (self.above and n == self.low) for n in numbers)

    def __str__(self) -> str:
        if self.high < math.inf:
            low, high = (f"{n:g}" if isinstance(n, float) else str(n) for n in (self.low, self.high))
            return f"must lie within {low} and {high}"
        return f"must be above {self.low:g}" if self.above else f"must be {self.low:g} or more"


POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
AT_LEAST_1 = Range(1)
FRACTION = Range(0, 1)
SEED = Range(0, 2**32 - 1)  # what jax, NumPy and grain all tell apart


@dataclass(frozen=True)
class Option:
    """One field of a class of options: its key, type, limits, documentation and value."""

    key: str
    type: Any
    limits: Range | None
    doc: str
    value: Any

    @property
    def type_name(self) -> str:
        choices = _choices(self.type)
        if choices:
            return " | ".join(map(str, choices)) + ", ..." * (get_origin(self.type) is tuple)
        return self.type.__name__ if isinstance(self.type, type) and not get_args(self.type) else str(self.type)

    def checked(self, value: Any) -> Any:
        """`value` in the option's own type: lists become tuples and whole numbers floats, as JSON needs it.

        Raises:
          InputError: it is of another type, or beyond the limits.
        """
        value = _typed(value, self.type)
        if not _fits(value, self.type):
            choices = _choices(self.type)
            wanted = f"choose from {', '.join(map(str, choices))}" if choices else f"expected {self.type_name}"
            raise InputError(f"{self.key}={value!r}: {wanted}")
        if self.limits and not self.limits.holds(value):
            raise InputError(f"{self.key}={value!r}: {self.limits}")
        return value


def fields_of(options: Any, key: str = "config") -> dict[str, Option]:
    """The fields of a class of options, or of an instance with its values, by name."""
    hints = get_type_hints(options if isinstance(options, type) else type(options), include_extras=True)
    found = {}
    for field in dataclasses.fields(options):
        base, *notes = (
            get_args(hints[field.name]) if hasattr(hints[field.name], "__metadata__") else (hints[field.name],)
        )
        limits = next((note for note in notes if isinstance(note, Range)), None)
        doc = next((note for note in notes if isinstance(note, str)), "")
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        value = default if isinstance(options, type) else getattr(options, field.name)
        found[field.name] = Option(f"{key}.{field.name}", base, limits, doc, value)
    return found


def tree(options: Any) -> dict[str, Any]:
    """Options as nested dicts of plain values."""
    return {
        name: tree(option.value) if dataclasses.is_dataclass(option.value) else option.value
        for name, option in fields_of(options).items()
    }


def describe(options: Any, key: str = "config") -> Iterator[Option]:
    """Every option with its value, groups opened, in the order of the classes."""
    for option in fields_of(options, key).values():
        yield from describe(option.value, option.key) if dataclasses.is_dataclass(option.value) else [option]


def read(cls: type[T], values: Mapping[str, Any], key: str = "config") -> T:
    """The options that nested dicts (or a ConfigDict) hold; what is left out keeps its default.

    Raises:
      InputError: naming the first key that is unknown, of a wrong type, out of range or at odds with another.
    """
    fields, found = fields_of(cls, key), {}
    for name, value in values.items():
        if name not in fields:
            raise InputError(f"{key}.{name}: no such key in {key}; {nearest(name, fields)}")
        option = fields[name]
        if not dataclasses.is_dataclass(option.type):
            found[name] = option.checked(value)
        elif hasattr(value, "items"):
            found[name] = read(cast(type, option.type), value, option.key)
        else:
            raise InputError(f"{option.key}={value!r}: expected a group of keys")
    options = cls(**found)

    def need(holds: bool, name: str, what: str) -> None:
        if not holds:
            raise InputError(f"{key}.{name}={getattr(options, name)!r}: {what}")

    check = getattr(options, "check", None)
    if check is not None:
        check(need)
    return options


def is_like(value: Any, default: Any) -> bool:
    """Whether a value is of its default's type: of bool, int, float and str; a whole number will do for a float. Any
    value is like a default of another type."""
    if type(default) is float:
        return type(value) in (int, float)
    return type(default) not in (bool, int, str) or type(value) is type(default)


def nearest(name: str, names: Mapping[str, Any]) -> str:
    """A hint at the known name that an unknown one may mean."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names))}"


def _choices(wanted: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of a tuple of them; () for another type."""
    inner = get_args(wanted)[0] if get_origin(wanted) is tuple else wanted
    return get_args(inner) if get_origin(inner) is Literal else ()


def _typed(value: Any, wanted: Any) -> Any:
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin is tuple and isinstance(value, list | tuple):
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return (
            tuple(_typed(v, part) for v, part in zip(value, each, strict=False)) if len(each) == len(value) else value
        )
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    to_dict = getattr(value, "to_dict", None)  # a ConfigDict's
    return value if to_dict is None else to_dict()


def _fits(value: Any, wanted: Any) -> bool:
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(each) and all(_fits(v, part) for v, part in zip(value, each, strict=True))
    if origin is Literal:
        return value in parts and not isinstance(value, bool)
    if isinstance(value, bool) and wanted is not bool:
        return False
    return wanted is Any or isinstance(value, origin or wanted)
