"""The layout of a scene: the positions of people and props before a camera, with labelled people visible enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from psdiff_jax.datasets.common.person_images import SOLID
from psdiff_jax.datasets.synthetic_street.camera import Camera
from psdiff_jax.datasets.synthetic_street.options import StreetOptions
from psdiff_jax.datasets.synthetic_street.sources import PeopleSource
from psdiff_jax.datasets.synthetic_street.sprite import Sprite, View


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """A person (person_id -1 without identity) or a prop (person_id None) in a scene."""

    sprite: Sprite
    corner: tuple[int, int]
    foot: tuple[float, float]
    depth: float
    person_id: int | None
    spread: float = 0.3  # metres; half width of what touches the ground
    footprint: tuple[float, float, float, float] | None = None

    @property
    def is_prop(self) -> bool:
        return self.person_id is None

    def box(self, size: tuple[int, int], whole: bool = True) -> np.ndarray:
        """float32 [4] xyxy in a scene of `size` (h, w): the extent of the whole figure, clipped to the scene.

        `whole` false: the extent of the figure's part in the scene. It is narrower where what is outside is wider, as
        the feet of a person whom the lower edge cuts.
        """
        solid = self.sprite.rgba[..., 3] >= SOLID
        (x, y), bounds = self.corner, np.array([size[1], size[0], size[1], size[0]], np.float32)
        if not whole:
            here, there = overlap(solid.shape, self.corner, size)
            solid, x, y = solid[here], there[1].start, there[0].start
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        box = np.array([columns[0] + x, rows[0] + y, columns[-1] + 1 + x, rows[-1] + 1 + y], np.float32)
        return np.clip(box, 0, bounds)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The objects of a scene, from the farthest to the nearest."""

    objects: tuple[SceneObject, ...]
    camera: Camera
    rng_key: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Placer:
    """Places people among the props before a camera."""

    options: StreetOptions
    source: PeopleSource
    camera: Camera
    rng: np.random.Generator

    def place(
        self,
        role: str,
        numbers: Sequence[int],
        strangers: int,
        props: Sequence[SceneObject],
        max_hidden: float,
        required: bool,
    ) -> list[SceneObject] | None:
        """One try: the objects from far to near; None if a required person has no place or is too hidden.

        Args:
          role: of the labelled people `numbers`; strangers: how many unlabelled people to add.
          max_hidden: share of a person's rough box that others may cover.
          required: labelled people must be in the scene; else they are left out like strangers.
        """
        occupied: list[np.ndarray] = []
        people: list[SceneObject] = []
        for number in [*numbers, *[None] * strangers]:
            place = self._free_place(occupied, props, max_hidden)
            if place is None:
                if required and number is not None:
                    return None
                continue
            column, depth, rough = place
            occupied.append(rough)
            view = View(self._heading(), self.camera.pitch, self.camera.scale(depth), self.camera.light)
            kind = role if number is not None else "stranger"
            sprite = self.source.draw(kind, number if number is not None else -1, role, view, self.rng)
            row = float(self.camera.pixel(0.0, 0.0, depth)[1])
            offset = self.options.train_identities if role == "test" else 0
            person_id = -1 if number is None else number + offset
            people.append(SceneObject(sprite, sprite.corner(column, row), (column, row), depth, person_id))
        return self._visible([*people, *props], required)

    def _visible(self, objects: list[SceneObject], required: bool) -> list[SceneObject] | None:
        """The objects from far to near without people who are hardly visible; None if a required one is."""
        height, width = self.options.size
        covered = np.zeros((height, width), bool)
        kept = []
        for thing in sorted(objects, key=lambda t: t.depth):  # near ones first, so that each is judged once
            solid = thing.sprite.rgba[..., 3] >= SOLID
            here, there = overlap(solid.shape, thing.corner, (height, width))
            part = solid[here]
            if thing.person_id is not None:
                visible = np.count_nonzero(part & ~covered[there]) / max(1, np.count_nonzero(solid))
                if visible < self.options.min_visible:
                    if required and thing.person_id >= 0:
                        return None
                    continue
            covered[there] |= part
            kept.append(thing)
        return kept[::-1]

    def _free_place(
        self, occupied: list[np.ndarray], props: Sequence[SceneObject], max_hidden: float
    ) -> tuple[float, float, np.ndarray] | None:
        """(column, depth, rough box) of a walkable place that hides no person too much; None after many tries."""
        camera, rng, (height, width) = self.camera, self.rng, self.options.size
        nearest, farthest = camera.depths
        for _ in range(40):
            depth = 1 / rng.uniform(1 / farthest, 1 / nearest)
            scale = camera.scale(depth)
            tall = 1.7 * scale
            if occupied and rng.random() < camera.together:  # beside another person
                other = occupied[int(rng.integers(len(occupied)))]
                column = (other[0] + other[2]) / 2 + rng.choice((-1, 1)) * rng.uniform(0.5, 0.9) * scale
                depth = float(np.clip(other[4] * rng.uniform(0.93, 1.08), nearest, farthest))
                scale, tall = camera.scale(depth), 1.7 * camera.scale(depth)
            else:
                column = rng.uniform(*camera.columns) * width
            x = (column - width / 2) / scale
            if not camera.walkable(x, depth):
                continue
            t, s = camera.to_street(x, depth)
            if any(_blocks(camera, p, float(t), float(s), depth, column) for p in props):
                continue
            foot = float(camera.pixel(0.0, 0.0, depth)[1])
            rough = np.array([column - 0.13 * tall, foot - tall, column + 0.13 * tall, foot, depth])
            if _hidden(rough, np.array([0, 0, width, height])) < camera.inside:
                continue
            hidden = sum(_hidden(rough, other) for other in occupied if other[4] < depth)
            hidden += sum(_hidden_by(rough, p) for p in props if p.depth < depth)
            farther = [other for other in occupied if other[4] >= depth]
            if hidden < max_hidden and all(_hidden(other, rough) < max_hidden for other in farther):
                return float(column), float(depth), rough
        return None

    def _heading(self) -> float:
        """Yaw of a person: most walk along the street, one way or the other; some cross it."""
        camera, rng = self.camera, self.rng
        if rng.random() < 0.3:
            return float(rng.uniform(-np.pi, np.pi))
        # Walking towards +s is walking away from a camera that looks along it (yaw pi), turned by the camera's turn.
        along = np.pi + camera.turn if rng.random() < 0.5 else camera.turn
        return float(along + rng.normal(0, 0.3))


def overlap(
    shape: tuple[int, ...], corner: tuple[int, int], size: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of a patch of `shape` at `corner` (x, y), and of a scene of `size` (h, w), where the two overlap."""
    x, y = corner
    top, left = max(0, y), max(0, x)
    bottom, right = max(top, min(size[0], y + shape[0])), max(left, min(size[1], x + shape[1]))
    return (slice(top - y, bottom - y), slice(left - x, right - x)), (slice(top, bottom), slice(left, right))


def _blocks(camera: Camera, prop: SceneObject, t: float, s: float, depth: float, column: float) -> bool:
    """Whether a person at street (t, s) would be inside a prop, or wrongly be drawn over it."""
    if prop.footprint is None:
        return abs(prop.depth - depth) < 0.4 and abs(prop.foot[0] - column) < 0.45 * camera.scale(depth)
    t0, t1, s0, s1 = prop.footprint
    if not s0 - 0.4 < s < s1 + 0.4:
        return False
    beyond = t > t0 - 0.35 if camera.offset < t0 else t < t1 + 0.35
    return (t0 - 0.35 < t < t1 + 0.35) or (beyond and depth < prop.depth)


def _hidden(far: np.ndarray, near: np.ndarray) -> float:
    """Share of the farther rough box (xyxy first) that the nearer one covers; a figure fills most of its box."""
    shared_x = min(far[2], near[2]) - max(far[0], near[0])
    shared_y = min(far[3], near[3]) - max(far[1], near[1])
    if shared_x <= 0 or shared_y <= 0:
        return 0.0
    return float(shared_x * shared_y / ((far[2] - far[0]) * (far[3] - far[1])))


def _hidden_by(rough: np.ndarray, prop: SceneObject) -> float:
    """Share of a rough box that the pixels of a nearer prop cover."""
    x, y = prop.corner
    x0, y0, x1, y1 = (int(v) for v in rough[:4])
    part = prop.sprite.rgba[max(0, y0 - y) : max(0, y1 - y), max(0, x0 - x) : max(0, x1 - x), 3]
    return np.count_nonzero(part) / max(1, (x1 - x0) * (y1 - y0)) if part.size else 0.0
