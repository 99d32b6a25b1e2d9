"""Options of the sheets: sizes, splits and passes."""

from __future__ import annotations

import dataclasses
from typing import Any

from psdiff_jax.errors import InputError
from psdiff_jax.options import is_like


@dataclasses.dataclass(frozen=True)
class SheetOptions:
    """Everything that determines the sheets of a folder of crops; equal options give equal datasets.

    Attributes:
        size: height and width of a sheet in pixels.
        person_height: smallest and largest height of a row in pixels, and so of its boxes; drawn log-uniformly.
        person_width: smallest and largest width of a box, as a share of its height; drawn uniformly.
        own_aspect: a box has the aspect ratio of its crop instead, 10 % more or less (`layout.ASPECT_JITTER`).
        repeats: passes over the training crops, each in another order.
        test_share: share of the identities in the gallery, by a hash of the name, rounded up.
        queries_per_person: most queries of an identity.
        seed: draws the order of the crops and everything on the sheets.
    """

    size: tuple[int, int] = (576, 720)
    person_height: tuple[int, int] = (70, 290)
    person_width: tuple[float, float] = (0.42, 0.55)
    own_aspect: bool = False
    repeats: int = 1
    test_share: float = 0.1
    queries_per_person: int = 1
    seed: int = 0

    @classmethod
    def read(cls, given: dict[str, Any]) -> SheetOptions:
        """The defaults with some replaced. Raises InputError for unknown names."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in given:
            if key not in known:
                raise InputError(f"crop_sheets has no option '{key}'; it has {', '.join(sorted(known))}")
        return cls(**given)

    def __post_init__(self) -> None:
        # Configs and JSON pass lists; tuples keep the object hashable.
        for key in ("size", "person_height", "person_width"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        self._check()

    def _check(self) -> None:
        """Raises InputError naming the option with which the dataset cannot be made."""

        def need(holds: bool, message: str) -> None:
            if not holds:
                raise InputError(f"crop_sheets: {message}")

        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            need(is_like(value, field.default), f"{field.name}={value!r}; expected a value like {field.default!r}")

        low, high = self.person_height
        need(8 <= low <= high, f"person_height={self.person_height} must be two heights in pixels, smallest >= 8 first")
        need(
            high <= self.size[0],
            f"person_height={self.person_height} fits no row of size={self.size}; lower it or raise size",
        )
        narrow, wide = self.person_width
        need(0.1 <= narrow <= wide, f"person_width={self.person_width} must be two shares, smallest >= 0.1 first")
        need(
            self.own_aspect or high * wide <= self.size[1],
            f"person_height={self.person_height} and person_width={self.person_width} give boxes {high * wide:.0f} "
            f"pixels wide, which fit no row of size={self.size}; lower them or raise size",
        )
        need(self.repeats >= 1, f"repeats={self.repeats} must be 1 or more")
        need(0.0 < self.test_share < 1.0, f"test_share={self.test_share} must be in (0, 1)")
