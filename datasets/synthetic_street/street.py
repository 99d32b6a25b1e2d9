"""Street scenes with their labels.

Every scene is made on its own from (seed, camera_seed, split, index): scenes can be rendered in any order and in
parallel, and a scene does not depend on how many others there are (except for who is in it: see plan.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from psdiff_jax.datasets.common.records import Query
from psdiff_jax.datasets.synthetic_street.appearance import VariedPeople
from psdiff_jax.datasets.synthetic_street.background import draw_background
from psdiff_jax.datasets.synthetic_street.camera import Camera, draw_camera
from psdiff_jax.datasets.synthetic_street.compositing import cast_shadows, paste
from psdiff_jax.datasets.synthetic_street.layout import Layout, Placer, SceneObject
from psdiff_jax.datasets.synthetic_street.obstacles import draw_obstacles
from psdiff_jax.datasets.synthetic_street.options import StreetOptions
from psdiff_jax.datasets.synthetic_street.plan import plan_gallery
from psdiff_jax.datasets.synthetic_street.props import Prop, draw_props
from psdiff_jax.datasets.synthetic_street.scenery import draw_scenery
from psdiff_jax.datasets.synthetic_street.sources import PeopleSource, people_source
from psdiff_jax.datasets.synthetic_street.varied_camera import draw_varied_camera
from psdiff_jax.errors import InputError

SPLITS = ("train", "gallery")
FRAMES_APART = 25  # frame numbers between two scenes of a camera


@dataclasses.dataclass(frozen=True)
class Style:
    """How scenes of one kind are made.

    camera: (camera_seed, index, size, person_height) -> Camera. background: (camera, rng) -> uint8 [h, w, 3]. props:
    (camera, rng) -> props. people: what it makes of a source. all_labelled: training scenes show every labelled person
    that was drawn for them; else those who are hidden are left out. whole_boxes: boxes are of the whole figure, clipped
    to the image; else of its part in the image.
    """

    camera: Callable[[int, int, tuple[int, int], tuple[float, float]], Camera]
    background: Callable[[Any, np.random.Generator], np.ndarray]
    props: Callable[[Any, np.random.Generator], tuple[Prop, ...]]
    people: Callable[[PeopleSource], PeopleSource]
    all_labelled: bool
    whole_boxes: bool


def _as_they_are(people: PeopleSource) -> PeopleSource:
    return people


STYLES = {
    "street": Style(draw_camera, draw_background, draw_props, _as_they_are, True, True),
    "varied": Style(draw_varied_camera, draw_scenery, draw_obstacles, VariedPeople, False, False),
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image and its labels.

    image: uint8 [h, w, 3] RGB. boxes: float32 [n, 4] xyxy pixels, the tight extent of the figure with its hidden parts,
    within the image. person_ids: int64 [n], -1 for people without identity. frame: frame number in its
    camera's video. quality: of the JPEG file.
    """

    image: np.ndarray
    boxes: np.ndarray
    person_ids: np.ndarray
    camera: int
    frame: int
    name: str
    quality: int


class Street:
    """All scenes of one StreetOptions. Holds no state that changes a scene; it can be pickled."""

    def __init__(self, options: StreetOptions) -> None:
        self.options = options
        self.style = STYLES[options.style]
        self.source = self.style.people(people_source(options))
        self.plan = plan_gallery(options, [self._most("gallery", index) for index in range(options.gallery_images)])

    def length(self, split: str) -> int:
        """Number of scenes in 'train' or 'gallery'."""
        if split not in SPLITS:
            raise InputError(f"synthetic_street has no scenes of split '{split}'; it has {', '.join(SPLITS)}")
        return self.options.train_images if split == "train" else self.options.gallery_images

    def name(self, split: str, index: int) -> str:
        return f"{split}_c{self.camera_of(index):02d}_{index:06d}.jpg"

    def camera_of(self, index: int) -> int:
        return index % self.options.cameras

    def camera(self, index: int) -> Camera:
        """The camera of scene `index`."""
        options = self.options
        return self.style.camera(options.camera_seed, self.camera_of(index), options.size, options.person_height)

    def frame(self, index: int) -> int:
        """Frame number of a scene in its camera's video."""
        return index // self.options.cameras * FRAMES_APART

    def scene(self, split: str, index: int) -> Scene:
        """Scene `index` of 'train' or 'gallery', always the same for the same options."""
        layout = self.layout(split, index)
        people = [(self._box(thing), thing.person_id) for thing in layout.objects if not thing.is_prop]
        return Scene(
            image=self.image(layout),
            boxes=np.array([box for box, _ in people], np.float32).reshape(-1, 4),
            person_ids=np.array([person_id for _, person_id in people], np.int64),
            camera=self.camera_of(index),
            frame=self.frame(index),
            name=self.name(split, index),
            quality=self._quality(split, index),
        )

    def queries(self) -> list[Query]:
        """Query boxes: every test identity once, then a second time from another scene, until there are enough."""
        shown: dict[int, list[int]] = {}
        for index, numbers in enumerate(self.plan):
            for number in numbers:
                shown.setdefault(number, []).append(index)
        rng = np.random.default_rng([self.options.seed, 404])
        shuffled = {number: [scenes[k] for k in rng.permutation(len(scenes))] for number, scenes in shown.items()}
        turns = max((len(scenes) for scenes in shuffled.values()), default=0)
        chosen = [(n, shuffled[n][turn]) for turn in range(turns) for n in sorted(shuffled) if turn < len(shuffled[n])]
        if len(chosen) < self.options.queries:
            raise InputError(
                f"synthetic_street: queries={self.options.queries}, but the gallery shows its test identities only "
                f"{len(chosen)} times; lower queries or raise gallery_images"
            )
        return [self._query(number, index) for number, index in chosen[: self.options.queries]]

    def _query(self, number: int, index: int) -> Query:
        person_id = self.options.train_identities + number
        thing = next(t for t in self.layout("gallery", index).objects if t.person_id == person_id)
        name, camera = self.name("gallery", index), self.camera_of(index)
        return Query(name, self._box(thing), person_id, camera, self.frame(index))

    def _box(self, thing: SceneObject) -> np.ndarray:
        return thing.box(self.options.size, self.style.whole_boxes)

    def _key(self, split: str, index: int) -> tuple[int, ...]:
        """What the randomness of a scene depends on."""
        return self.options.seed, self.options.camera_seed, SPLITS.index(split), index

    def _rng(self, split: str, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([*self._key(split, index), purpose])

    def _most(self, split: str, index: int) -> int:
        """How many people a scene has at most, 0 in an empty one."""
        empty = self._rng(split, index, 3).random() < self.options.empty
        return 0 if empty else self.camera(index).most

    def _quality(self, split: str, index: int) -> int:
        """JPEG quality of a scene, the higher the more frequent."""
        low, high = self.options.quality
        return round(low + (high - low) * self._rng(split, index, 4).random() ** 0.6)

    def layout(self, split: str, index: int) -> Layout:
        """The objects of a scene. Labelled people are always there and visible enough."""
        if not 0 <= index < self.length(split):
            raise InputError(f"synthetic_street: {split} has no scene {index}; it has {self.length(split)}")
        options = self.options
        camera = self.camera(index)
        rng = self._rng(split, index, 1)
        count = min(int(rng.integers(options.people[0], options.people[1] + 1)), self._most(split, index))
        role = "train" if split == "train" else "test"
        if split == "train":
            labelled = min(int(rng.binomial(count, options.labelled)), options.train_identities)
            drawn = rng.choice(options.train_identities, labelled, replace=False) if labelled else []
            numbers = [int(n) for n in drawn]
        else:
            numbers = list(self.plan[index])
        strangers = max(0, count - len(numbers))
        present = [
            prop for prop in _empty_scene(self.style, camera, options.camera_seed)[1] if rng.random() < prop.chance
        ]
        props = [SceneObject(p.sprite, p.corner, p.foot, p.depth, None, p.spread, p.footprint) for p in present]
        placer = Placer(options, self.source, camera, rng)
        required = split == "gallery" or self.style.all_labelled
        for attempt in range(12):
            # A crowded scene is tried again with more hiding allowed, at last with labelled people only.
            if attempt >= 6:
                props, strangers = [], 0
            max_hidden = camera.hiding if attempt < 3 else 0.2
            objects = placer.place(role, numbers, strangers, props, max_hidden, required)
            if objects is not None:
                return Layout(tuple(objects), camera, (*self._key(split, index), 2))
        raise InputError(
            f"synthetic_street: cannot place {len(numbers)} people in {self.name(split, index)}; "
            f"lower people={options.people} or person_height={options.person_height}"
        )

    def image(self, layout: Layout, omit: tuple[int, ...] = (), clean: bool = False) -> np.ndarray:
        """uint8 [h, w, 3] RGB of a layout without the objects `omit` (numbers); `clean`: no shadows, blur or noise."""
        background, _ = _empty_scene(self.style, layout.camera, self.options.camera_seed)
        objects = [thing for k, thing in enumerate(layout.objects) if k not in omit]
        image = background.copy() if clean else cast_shadows(background, objects, layout.camera)
        for thing in objects:
            paste(image, thing)
        return image if clean else layout.camera.degrade(image, np.random.default_rng(layout.rng_key))


@functools.lru_cache(maxsize=64)
def _empty_scene(style: Style, camera: Any, camera_seed: int) -> tuple[np.ndarray, tuple[Prop, ...]]:
    """The empty scene of a camera and the props that may be in it."""
    rng = np.random.default_rng([camera_seed, 205, camera.index])
    background = style.background(camera, rng)
    return background, style.props(camera, rng)
