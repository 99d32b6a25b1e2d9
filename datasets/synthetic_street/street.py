"""Street scenes: who stands where, before which camera, and the photograph of it.

Every scene is made on its own from (seed, camera_seed, split, index), so scenes can be rendered in any order and in
parallel, and a scene does not depend on how many others there are (but for who appears in it: see plan.py).
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

from psdiff_jax.datasets.synthetic_street.background import draw_background
from psdiff_jax.datasets.synthetic_street.camera import Camera, draw_camera
from psdiff_jax.datasets.synthetic_street.options import StreetOptions
from psdiff_jax.datasets.synthetic_street.plan import plan_gallery
from psdiff_jax.datasets.synthetic_street.props import Prop, draw_props
from psdiff_jax.datasets.synthetic_street.sources import PeopleSource, people_source
from psdiff_jax.datasets.synthetic_street.sprite import SOLID, Sprite, View
from psdiff_jax.errors import InputError

SPLITS = ("train", "gallery")
MIN_VISIBLE = 0.4  # share of a figure's pixels that must show in the scene; else it is not drawn


@dataclasses.dataclass(frozen=True)
class Scene:
    """A photograph and its labels.

    image: uint8 [h, w, 3] RGB. boxes: float32 [n, 4] xyxy pixels, the whole figure's tight extent (also where hidden)
    clipped to the image. person_ids: int64 [n], -1 for people without identity. frame: frame number in its camera.
    """

    image: np.ndarray
    boxes: np.ndarray
    person_ids: np.ndarray
    camera: int
    frame: int
    name: str


@dataclasses.dataclass(frozen=True)
class Query:
    """A gallery scene's name, the box of a test person in it (float32 [4] xyxy pixels), and who that is."""

    image_name: str
    box: np.ndarray
    person_id: int
    camera: int
    frame: int


@dataclasses.dataclass(frozen=True)
class Standing:
    """Something that stands in the scene: a person (person_id -1 without identity) or a prop (None)."""

    sprite: Sprite
    corner: tuple[int, int]
    foot: tuple[float, float]
    depth: float
    person_id: int | None
    spread: float = 0.3  # metres; half width of what touches the ground
    footprint: tuple[float, float, float, float] | None = None

    def box(self, size: tuple[int, int]) -> np.ndarray:
        """float32 [4] xyxy, clipped to a scene of `size` (h, w)."""
        solid = self.sprite.rgba[..., 3] >= SOLID
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        x, y = self.corner
        box = np.array([columns[0] + x, rows[0] + y, columns[-1] + 1 + x, rows[-1] + 1 + y], np.float32)
        return np.clip(box, 0, np.float32([size[1], size[0], size[1], size[0]]))


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a scene shows, from the farthest to the nearest."""

    standing: tuple[Standing, ...]
    camera: Camera
    rng_key: tuple[int, ...]


class Street:
    """All scenes of one StreetOptions. Holds no state that changes what a scene looks like; it can be pickled."""

    def __init__(self, options: StreetOptions) -> None:
        self.options = options
        self.people: PeopleSource = people_source(options)
        self.plan = plan_gallery(options)
        self.cameras = [
            draw_camera(options.camera_seed, k, options.size, options.person_height) for k in range(options.cameras)
        ]

    def length(self, split: str) -> int:
        """Number of scenes in 'train' or 'gallery'."""
        if split not in SPLITS:
            raise InputError(f"synthetic_street has no scenes of split '{split}'; it has {', '.join(SPLITS)}")
        return self.options.train_images if split == "train" else self.options.gallery_images

    def name(self, split: str, index: int) -> str:
        return f"{split}_c{index % self.options.cameras:02d}_{index:06d}.jpg"

    def scene(self, split: str, index: int) -> Scene:
        """Scene `index` of 'train' or 'gallery', always the same for the same options."""
        layout = self.layout(split, index)
        boxes = [thing.box(self.options.size) for thing in layout.standing if thing.person_id is not None]
        ids = [thing.person_id for thing in layout.standing if thing.person_id is not None]
        return Scene(
            image=self.photograph(layout),
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            person_ids=np.array(ids, np.int64),
            camera=index % self.options.cameras,
            frame=self.frame(index),
            name=self.name(split, index),
        )

    def frame(self, index: int) -> int:
        """Frame number of a scene in its camera's video; a camera takes a scene every 25 frames."""
        return index // self.options.cameras * 25

    def queries(self) -> list[Query]:
        """Query boxes: every test identity once, then a second time from another scene, until there are enough."""
        sightings: dict[int, list[int]] = {}
        for index, people in enumerate(self.plan):
            for number in people:
                sightings.setdefault(number, []).append(index)
        rng = np.random.default_rng([self.options.seed, 404])
        shuffled = {number: [scenes[k] for k in rng.permutation(len(scenes))] for number, scenes in sightings.items()}
        turns = max((len(scenes) for scenes in shuffled.values()), default=0)
        chosen = [(n, shuffled[n][turn]) for turn in range(turns) for n in sorted(shuffled) if turn < len(shuffled[n])]
        if len(chosen) < self.options.queries:
            raise InputError(
                f"synthetic_street: queries={self.options.queries}, but the gallery shows its test identities only "
                f"{len(chosen)} times; lower queries or raise gallery_images"
            )
        queries = []
        for number, index in chosen[: self.options.queries]:
            person_id = self.options.train_identities + number
            thing = next(t for t in self.layout("gallery", index).standing if t.person_id == person_id)
            queries.append(
                Query(self.name("gallery", index), thing.box(self.options.size), person_id,
                      index % self.options.cameras, self.frame(index))
            )  # fmt: skip
        return queries

    # Composition

    def layout(self, split: str, index: int) -> Layout:
        """Who and what stands where in a scene. Labelled people are always there and visible enough."""
        if not 0 <= index < self.length(split):
            raise InputError(f"synthetic_street: {split} has no scene {index}; it has {self.length(split)}")
        options = self.options
        camera = self.cameras[index % options.cameras]
        key = (options.seed, options.camera_seed, SPLITS.index(split), index)
        rng = np.random.default_rng([*key, 1])
        count = int(rng.integers(options.people[0], options.people[1] + 1))
        role = "train" if split == "train" else "test"
        if split == "train":
            known = min(int(rng.binomial(count, options.labelled)), options.train_identities)
            numbers = [int(n) for n in rng.choice(options.train_identities, known, replace=False)] if known else []
        else:
            numbers = list(self.plan[index])
        strangers = max(0, count - len(numbers))
        present = [prop for prop in self._street(camera.index)[1] if rng.random() < prop.chance]
        props = [Standing(p.sprite, p.corner, p.foot, p.depth, None, p.spread, p.footprint) for p in present]
        for attempt in range(12):
            # A crowded scene is tried again with fewer things in the way, at last with labelled people only.
            if attempt >= 6:
                props, strangers = [], 0
            things, failed = self._place(camera, role, numbers, strangers, props, rng, attempt)
            if not failed:
                break
        else:
            raise InputError(
                f"synthetic_street: cannot place {len(numbers)} people in {self.name(split, index)}; "
                f"lower people={options.people} or person_height={options.person_height}"
            )
        return Layout(tuple(things), camera, (*key, 2))

    def _place(self, camera, role, numbers, strangers, props, rng, attempt) -> tuple[list[Standing], bool]:
        """One try at a layout: (things from far to near, whether a labelled person came out too hidden)."""
        blocked = 0.5 if attempt < 3 else 0.2
        taken: list[np.ndarray] = []
        people: list[Standing] = []
        for number in [*numbers, *[None] * strangers]:
            place = self._free_place(camera, taken, props, blocked, rng)
            if place is None:
                if number is not None:
                    return [], True
                continue
            column, depth, rough = place
            taken.append(rough)
            view = View(self._heading(camera, rng), camera.pitch, camera.scale(depth), camera.light)
            kind = role if number is not None else "stranger"
            sprite = self.people.draw(kind, number if number is not None else -1, role, view, rng)
            row = float(camera.pixel(0.0, 0.0, depth)[1])
            offset = self.options.train_identities if role == "test" else 0
            person_id = -1 if number is None else number + offset
            people.append(Standing(sprite, sprite.corner(column, row), (column, row), depth, person_id))
        return self._drop_hidden(people, props)

    def _drop_hidden(self, people: list[Standing], props: list[Standing]) -> tuple[list[Standing], bool]:
        """Leaves out strangers who are hardly seen; from the nearest to the farthest, so each is judged once."""
        height, width = self.options.size
        covered = np.zeros((height, width), bool)
        kept = []
        for thing in sorted([*people, *props], key=lambda t: t.depth):
            solid = thing.sprite.rgba[..., 3] >= SOLID
            here, there = _overlap(solid.shape, thing.corner, (height, width))
            part = solid[here]
            if thing.person_id is not None:
                seen = np.count_nonzero(part & ~covered[there]) / max(1, np.count_nonzero(solid))
                if seen < MIN_VISIBLE:
                    if thing.person_id >= 0:
                        return [], True
                    continue
            covered[there] |= part
            kept.append(thing)
        return kept[::-1], False

    def _free_place(self, camera, taken, props, blocked, rng):
        """(column, depth, rough box) of a walkable place not too much hidden by or hiding others, or None."""
        width = self.options.size[1]
        nearest, farthest = camera.depths
        for _ in range(40):
            depth = 1 / rng.uniform(1 / farthest, 1 / nearest)
            scale = camera.scale(depth)
            tall = 1.7 * scale
            if taken and rng.random() < 0.25:  # in company
                friend = taken[int(rng.integers(len(taken)))]
                column = (friend[0] + friend[2]) / 2 + rng.choice((-1, 1)) * rng.uniform(0.5, 0.9) * scale
                depth = float(np.clip(friend[4] * rng.uniform(0.93, 1.08), nearest, farthest))
                scale, tall = camera.scale(depth), 1.7 * camera.scale(depth)
            else:
                column = rng.uniform(0.02, 0.98) * width
            x = (column - width / 2) / scale
            t, s = camera.to_street(x, depth)
            if not camera.walls[0] + 0.4 < t < camera.walls[1] - 0.4:
                continue
            if any(_in_the_way(camera, p, float(t), float(s), depth, column) for p in props):
                continue
            foot = float(camera.pixel(0.0, 0.0, depth)[1])
            rough = np.array([column - 0.13 * tall, foot - tall, column + 0.13 * tall, foot, depth])
            behind = sum(_hidden(rough, other) for other in taken if other[4] < depth)
            behind += sum(_hidden_by(rough, p) for p in props if p.depth < depth)
            if behind < blocked and all(_hidden(other, rough) < blocked for other in taken if other[4] >= depth):
                return float(column), float(depth), rough
        return None

    def _heading(self, camera: Camera, rng: np.random.Generator) -> float:
        """Most people walk along the street, one way or the other; some cross it."""
        if rng.random() < 0.3:
            return float(rng.uniform(-np.pi, np.pi))
        # Walking towards +s is walking away from a camera that looks along it (yaw pi), turned by the camera's turn.
        along = np.pi + camera.turn if rng.random() < 0.5 else camera.turn
        return float(along + rng.normal(0, 0.3))

    # Pixels

    def photograph(self, layout: Layout, omit: tuple[int, ...] = (), clean: bool = False) -> np.ndarray:
        """uint8 [h, w, 3] RGB of a layout without the things numbered in `omit`; `clean`: no shadows, blur or noise."""
        rng = np.random.default_rng(layout.rng_key)
        background, _ = self._street(layout.camera.index)
        things = [thing for k, thing in enumerate(layout.standing) if k not in omit]
        if clean:
            image = background.copy()
        else:
            image = _cast_shadows(background, things, layout.camera)
        for thing in things:
            here, there = _overlap(thing.sprite.rgba.shape[:2], thing.corner, image.shape[:2])
            part = thing.sprite.rgba[here].astype(np.uint16)
            under = image[there]
            under[:] = np.minimum(part[..., :3] + under * (255 - part[..., 3:]) // 255, 255)
        return image if clean else layout.camera.develop(image, rng)

    def _street(self, index: int) -> tuple[np.ndarray, tuple[Prop, ...]]:
        """The empty street and the things that may stand in it, drawn at the camera's first scene."""
        return _empty_street(self.cameras[index], self.options.camera_seed)


@functools.lru_cache(maxsize=64)
def _empty_street(camera: Camera, camera_seed: int) -> tuple[np.ndarray, tuple[Prop, ...]]:
    rng = np.random.default_rng([camera_seed, 205, camera.index])
    background = draw_background(camera, rng)
    return background, draw_props(camera, rng)


def _overlap(shape: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]):
    """Slices of a patch at `corner` (x, y), and of the scene of `size`, where both are."""
    x, y = corner
    top, left = max(0, y), max(0, x)
    bottom, right = max(top, min(size[0], y + shape[0])), max(left, min(size[1], x + shape[1]))
    return (slice(top - y, bottom - y), slice(left - x, right - x)), (slice(top, bottom), slice(left, right))


def _in_the_way(camera: Camera, thing: Standing, t: float, s: float, depth: float, column: float) -> bool:
    """Whether nobody can stand at street (t, s) because of a thing, or would wrongly be drawn over it."""
    if thing.footprint is None:
        return abs(thing.depth - depth) < 0.4 and abs(thing.foot[0] - column) < 0.45 * camera.scale(depth)
    t0, t1, s0, s1 = thing.footprint
    if not s0 - 0.4 < s < s1 + 0.4:
        return False
    beyond = t > t0 - 0.35 if camera.offset < t0 else t < t1 + 0.35
    return (t0 - 0.35 < t < t1 + 0.35) or (beyond and depth < thing.depth)


def _hidden(far: np.ndarray, near: np.ndarray) -> float:
    """Share of the farther rough box (xyxy first) that the nearer one covers; a figure fills most of its box."""
    shared_x = min(far[2], near[2]) - max(far[0], near[0])
    shared_y = min(far[3], near[3]) - max(far[1], near[1])
    if shared_x <= 0 or shared_y <= 0:
        return 0.0
    return float(shared_x * shared_y / ((far[2] - far[0]) * (far[3] - far[1])))


def _hidden_by(rough: np.ndarray, thing: Standing) -> float:
    """Share of a rough box that the nearer thing's own pixels cover."""
    x, y = thing.corner
    x0, y0, x1, y1 = (int(v) for v in rough[:4])
    part = thing.sprite.rgba[max(0, y0 - y) : max(0, y1 - y), max(0, x0 - x) : max(0, x1 - x), 3]
    return np.count_nonzero(part) / max(1, (x1 - x0) * (y1 - y0)) if part.size else 0.0


def _cast_shadows(background: np.ndarray, things: list[Standing], camera: Camera) -> np.ndarray:
    """The street darkened under and beside everything that stands in it."""
    height, width = background.shape[:2]
    # Shadows are soft: half the resolution is enough.
    shadow = np.zeros(((height + 1) // 2, (width + 1) // 2), np.uint8)
    for thing in things:
        if thing.footprint is not None:  # a car brings its own
            continue
        x, y = thing.foot[0] / 2, thing.foot[1] / 2
        scale = camera.scale(thing.depth) / 2
        if camera.sun > 0:
            # Sheared and flattened silhouette, away from the light.
            alpha = thing.sprite.rgba[..., 3]
            lean = -0.9 * camera.light
            fx, fy = thing.sprite.foot
            matrix = np.float64([[0.5, -lean * 0.5, 0], [0, 0.14, 0]])
            matrix[0, 2] = x - 0.5 * fx + lean * 0.5 * fy
            matrix[1, 2] = y - 0.14 * fy
            cast = cv2.warpAffine(alpha, matrix, shadow.shape[::-1], flags=cv2.INTER_LINEAR)
            np.maximum(shadow, (cast * camera.sun).astype(np.uint8), out=shadow)
        blob = np.zeros_like(shadow)
        cv2.ellipse(blob, (round(x * 16), round((y - 0.02 * scale) * 16)), (round(thing.spread * scale * 16),
                           round(0.28 * thing.spread * scale * 16)),
                    0, 0, 360, 130, -1, shift=4)  # fmt: skip
        np.maximum(shadow, blob, out=shadow)
    shadow = cv2.GaussianBlur(shadow, (0, 0), max(0.6, height / 220))
    shadow = cv2.resize(shadow, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(background, cv2.merge([255 - shadow] * 3), scale=1 / 255)
