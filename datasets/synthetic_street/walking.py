"""The street as a video: a fixed camera, before which people walk by again and again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from psdiff_jax.datasets.common.person_images import SOLID
from psdiff_jax.datasets.synthetic_street.background import draw_background
from psdiff_jax.datasets.synthetic_street.camera import StreetCamera, draw_camera
from psdiff_jax.datasets.synthetic_street.compositing import cast_shadows, paste
from psdiff_jax.datasets.synthetic_street.figure import draw_figure
from psdiff_jax.datasets.synthetic_street.identity import Look, draw_identities
from psdiff_jax.datasets.synthetic_street.layout import SceneObject, overlap
from psdiff_jax.datasets.synthetic_street.options import StreetOptions
from psdiff_jax.datasets.synthetic_street.skeleton import Pose
from psdiff_jax.datasets.synthetic_street.sprite import View
from psdiff_jax.errors import InputError

STRIDE = 1.4  # metres of two steps
OUTSIDE = 0.5  # metres beyond the border where a walk begins and ends


@dataclasses.dataclass(frozen=True)
class VideoFrame:
    """image: uint8 [h,w,3] RGB. boxes: float32 [n,4] xyxy pixels of the whole figures, clipped to the image.
    person_ids: int64 [n]. People of whom less than `min_visible` is visible have no box."""

    image: np.ndarray
    boxes: np.ndarray
    person_ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Walk:
    """One crossing of the image in a straight line. begin: seconds; start, velocity: (x, z) of the camera in metres and
    metres a second; duration: seconds."""

    person_id: int
    look: Look
    pose: Pose
    begin: float
    start: tuple[float, float]
    velocity: tuple[float, float]
    duration: float

    def seen(self, time: float, camera: StreetCamera) -> SceneObject | None:
        """The person at `time`; None before and after."""
        since = time - self.begin
        if not 0 <= since <= self.duration:
            return None
        (vx, vz), (x, z) = self.velocity, (p + since * v for p, v in zip(self.start, self.velocity, strict=True))
        view = View(math.atan2(vx, -vz), camera.pitch, camera.scale(z), camera.light)
        phase = self.pose.phase + 2 * math.pi * since * math.hypot(vx, vz) / STRIDE
        sprite = draw_figure(self.look, dataclasses.replace(self.pose, phase=phase), view)
        column, row = (float(v) for v in camera.pixel(x, 0.0, z))
        return SceneObject(sprite, sprite.corner(column, row), (column, row), z, self.person_id)


def street_video(
    options: StreetOptions, camera_number: int, frames: int, rate: float, crossings: int = 2
) -> Iterator[VideoFrame]:
    """`frames` frames of one camera, `rate` a second; each test identity crosses the image `crossings` times.

    Of the options these count: size, test_identities, camera_seed, person_height, min_visible, seed. Each crossing has
    its share of the time and begins at random in it: nobody is twice in a frame.

    Raises:
      InputError: a share of the time is too short for somebody to cross.
    """
    camera = draw_camera(options.camera_seed, camera_number, options.size, options.person_height)
    background = draw_background(camera, np.random.default_rng([options.camera_seed, 205, camera_number]))
    rng = np.random.default_rng([options.seed, 606, camera_number])
    looks = draw_identities(options.seed, "test", options.test_identities)
    spans = [(k / crossings * frames / rate, (k + 1) / crossings * frames / rate) for k in range(crossings)]
    walks = [_draw_walk(n, look, camera, span, rng) for n, look in enumerate(looks) for span in spans]
    for index in range(frames):
        found = [thing for walk in walks if (thing := walk.seen(index / rate, camera))]
        people = sorted(found, key=lambda thing: -thing.depth)
        image = cast_shadows(background, people, camera)
        for thing in people:
            paste(image, thing)
        shown = _visible(people, options)
        yield VideoFrame(
            camera.degrade(image, np.random.default_rng([options.seed, 607, camera_number])),  # no flicker
            np.array([thing.box(options.size) for thing in shown], np.float32).reshape(-1, 4),
            np.array([thing.person_id for thing in shown], np.int64),
        )


def _draw_walk(
    number: int, look: Look, camera: StreetCamera, span: tuple[float, float], rng: np.random.Generator
) -> Walk:
    """From one side of the image to the other in a span of seconds, coming nearer or going away by up to a fifth."""
    nearest, farthest = camera.depths
    depth = 1 / rng.uniform(1 / farthest, 1 / nearest)
    depths = np.clip(depth * np.array([1, rng.uniform(0.8, 1.25)]), nearest, farthest)
    side = 1 if rng.random() < 0.5 else -1
    half = [camera.size[1] / 2 / camera.scale(z) + OUTSIDE for z in depths]  # metres from the middle to the border
    start, end = np.array([-side * half[0], depths[0]]), np.array([side * half[1], depths[1]])
    duration = float(np.hypot(*(end - start)) / rng.uniform(1.0, 1.6))
    if duration > span[1] - span[0]:
        raise InputError(
            f"synthetic_street: somebody takes {duration:.0f} s to cross the image, and has {span[1] - span[0]:.0f} s; "
            "raise frames, or lower rate or crossings"
        )
    vx, vz = ((end - start) / duration).tolist()
    stride = float(rng.uniform(0.32, 0.48))
    pose = Pose(float(rng.uniform(0, 2 * math.pi)), stride, stride, float(rng.uniform(0.1, 0.6)))
    begin = float(rng.uniform(span[0], span[1] - duration))
    return Walk(number, look, pose, begin, tuple(start.tolist()), (vx, vz), duration)


def _visible(people: list[SceneObject], options: StreetOptions) -> list[SceneObject]:
    """Those of whom nearer ones and the border leave enough, from far to near."""
    covered, kept = np.zeros(options.size, bool), []
    for thing in reversed(people):
        solid = thing.sprite.rgba[..., 3] >= SOLID
        here, there = overlap(solid.shape, thing.corner, options.size)
        part = solid[here]
        if np.count_nonzero(part & ~covered[there]) >= options.min_visible * np.count_nonzero(solid):
            kept.append(thing)
        covered[there] |= part
    return kept[::-1]
