"""Options of the street: sizes, counts, cameras and the source of the people."""

from __future__ import annotations

import dataclasses
from typing import Any

from psdiff_jax.errors import InputError
from psdiff_jax.options import is_like

# Raised with every change of pixels or labels for the same options, so that prepared datasets are built again.
RENDERER = 1
STYLES = ("street", "varied")


@dataclasses.dataclass(frozen=True)
class StreetOptions:
    """Everything that determines the pixels and the labels; equal options give equal datasets.

    Attributes:
        size: scene height and width in pixels.
        train_images, gallery_images: number of scenes in the two splits; train_images=0 leaves `train` out.
        queries: number of query boxes in gallery scenes (every test identity once, then again); 0: none.
        train_identities, test_identities: numbers of labelled identities; the two sets are disjoint for all seeds.
        cameras: number of cameras; scene i is of camera `i % cameras`.
        camera_seed: draws the cameras (position, colours, blur, street).
        people: fewest and most people in a scene, labelled and unlabelled.
        labelled: share of the people in a scene with an identity.
        person_height: smallest and largest height of a person 1.7 m tall, as a share of the scene's height.
        source: 'drawn', or the path of a folder or tar of RGBA cut-outs named `<person>_<view>.png` (or .webp).
        drawn_share: with cut-outs, the share of the identities and of the strangers that are drawn all the same.
        style: 'street', or 'varied': cameras of all heights and distances in squares, parks, yards and halls, at day
            and night, sharp and blurred, with people whose appearance varies.
        empty: share of the scenes without people.
        min_visible: share of a figure's pixels that must be visible; people of whom less is are left out.
        quality: lowest and highest quality of the JPEG files.
        seed: draws identities and scenes.
    """

    size: tuple[int, int] = (160, 256)
    train_images: int = 1200
    gallery_images: int = 240
    queries: int = 80
    train_identities: int = 240
    test_identities: int = 80
    cameras: int = 6
    camera_seed: int = 0
    people: tuple[int, int] = (2, 6)
    labelled: float = 0.75
    person_height: tuple[float, float] = (0.28, 0.78)
    source: str = "drawn"
    drawn_share: float = 0.0
    style: str = "street"
    empty: float = 0.0
    min_visible: float = 0.4
    quality: tuple[int, int] = (92, 92)
    seed: int = 0

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> StreetOptions:
        """The options called `name` in PRESETS, with some replaced. Raises InputError for unknown names."""
        if name not in PRESETS:
            raise InputError(f"synthetic_street has no preset '{name}'; choose one of {', '.join(PRESETS)}")
        known = {field.name for field in dataclasses.fields(cls)}
        for key in overrides:
            if key not in known:
                raise InputError(f"synthetic_street has no option '{key}'; it has {', '.join(sorted(known))}")
        return cls(**(PRESETS[name] | overrides))

    def __post_init__(self) -> None:
        # Configs and JSON pass lists; tuples keep the object hashable.
        for key in ("size", "people", "person_height", "quality"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        self._check()

    def _check(self) -> None:
        """Raises InputError naming the option with which the dataset cannot be made."""

        def need(holds: bool, message: str) -> None:
            if not holds:
                raise InputError(f"synthetic_street: {message}")

        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            need(is_like(value, field.default), f"{field.name}={value!r}; expected a value like {field.default!r}")

        need(min(self.size) >= 64, f"size={self.size} is too small; each side needs 64 pixels or more")
        need(1 <= self.people[0] <= self.people[1], f"people={self.people} must be two counts, fewest >= 1 first")
        need(0.0 < self.labelled <= 1.0, f"labelled={self.labelled} must be in (0, 1]")
        low, high = self.person_height
        need(0.05 <= low <= high <= 2.0, f"person_height={self.person_height} must be two shares within 0.05..2.0")
        need(self.cameras >= 2, f"cameras={self.cameras}; every test identity is shown by two cameras, so 2 or more")
        for key in ("train_images", "gallery_images", "queries", "train_identities", "test_identities"):
            need(getattr(self, key) >= 0, f"{key}={getattr(self, key)} must not be negative")
        need(self.gallery_images > 0, "gallery_images=0 leaves nothing to search; give 1 or more")
        need(self.queries == 0 or self.test_identities > 0, "queries need test_identities > 0")
        need(self.style in STYLES, f"style='{self.style}' is unknown; choose one of {', '.join(STYLES)}")
        need(0.0 <= self.drawn_share < 1.0, f"drawn_share={self.drawn_share} must be in [0, 1)")
        need(
            self.drawn_share == 0 or self.source != "drawn",
            f"drawn_share={self.drawn_share} mixes drawn people with cut-outs; name these in source (or data.root)",
        )
        need(0.0 <= self.empty < 1.0, f"empty={self.empty} must be in [0, 1)")
        need(0.0 < self.min_visible <= 0.6, f"min_visible={self.min_visible} must be in (0, 0.6]")
        low, high = self.quality
        need(1 <= low <= high <= 100, f"quality={self.quality} must be two JPEG qualities within 1..100, lowest first")


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "small": {
        "size": (320, 512), "train_images": 4000, "gallery_images": 800, "queries": 200, "train_identities": 600,
        "test_identities": 200, "cameras": 8, "people": (2, 8), "person_height": (0.2, 0.72),
    },
    "full": {
        "size": (800, 1333), "train_images": 12000, "gallery_images": 4000, "queries": 1000,
        "train_identities": 3000, "test_identities": 1000, "cameras": 12, "people": (3, 12),
        "person_height": (0.14, 0.65),
    },
    "varied": {
        "style": "varied", "size": (240, 320), "train_images": 20000, "gallery_images": 400, "queries": 120,
        "train_identities": 1500, "test_identities": 120, "cameras": 20000, "people": (1, 12),
        "person_height": (0.1, 1.4), "empty": 0.06, "min_visible": 0.3, "quality": (15, 95),
    },
}  # fmt: skip
