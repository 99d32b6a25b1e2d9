"""Sources of people: drawn figures, cut-outs (images with transparency) made elsewhere, or a mixture.

A person is (role, number): role 'train' or 'test' with a number below the options' count, or 'stranger', chosen by the
random generator.
"""

from __future__ import annotations

import functools
import math
import os
import re
import zlib
from collections.abc import Mapping
from typing import Protocol

import cv2
import numpy as np

from psdiff_jax.data.decoding import decode
from psdiff_jax.datasets.common.person_images import (
    PersonImage,
    digest,
    find_person_images,
    in_hash_order,
    read_bytes,
    trimmed_cutout,
)
from psdiff_jax.datasets.synthetic_street.figure import draw_figure
from psdiff_jax.datasets.synthetic_street.identity import Look, draw_identities, draw_stranger
from psdiff_jax.datasets.synthetic_street.options import StreetOptions
from psdiff_jax.datasets.synthetic_street.skeleton import Pose
from psdiff_jax.datasets.synthetic_street.sprite import Sprite, View
from psdiff_jax.errors import InputError


class PeopleSource(Protocol):
    """Draws people: the same (role, number) is always the same person, in a new pose and view at each call."""

    def draw(self, role: str, number: int, family: str, view: View, rng: np.random.Generator) -> Sprite:
        """The person as seen in `view`. `family` is the role whose people a stranger may resemble."""
        ...


def people_source(options: StreetOptions) -> PeopleSource:
    """The source that `options.source` names, or its mixture. Raises InputError if it has too few people."""
    counts = {"train": options.train_identities, "test": options.test_identities}
    if options.source == "drawn":
        return DrawnPeople(options.seed, counts)
    cutouts = CutoutPeople(options.source, options.seed)
    drawn = {role: round(options.drawn_share * count) for role, count in counts.items()}
    for role, count in counts.items():
        wanted, found = count - drawn[role], len(cutouts.identities[role])
        if found < wanted:
            mixture = f" with drawn_share={options.drawn_share} needs {wanted}" if options.drawn_share else ""
            raise InputError(
                f"{cutouts.path}: {len(cutouts.files)} people give {found} {role} identities, but "
                f"{role}_identities={count}{mixture}; lower it, raise drawn_share or add people"
            )
    if not options.drawn_share:
        return cutouts
    first_drawn = {role: count - drawn[role] for role, count in counts.items()}
    return MixedPeople(cutouts, DrawnPeople(options.seed, drawn), first_drawn, options.drawn_share)


class DrawnPeople:
    """Figures drawn by code alone; `counts`: identities of each role."""

    def __init__(self, seed: int, counts: Mapping[str, int]) -> None:
        self.looks: dict[str, list[Look]] = {role: draw_identities(seed, role, count) for role, count in counts.items()}

    def draw(self, role: str, number: int, family: str, view: View, rng: np.random.Generator) -> Sprite:
        look = draw_stranger(rng, self.looks[family]) if role == "stranger" else self.looks[role][number]
        return draw_figure(look, Pose.draw(rng), view)


def source_digest(source: str) -> str:
    """Digest of a source: '' for drawn people, else of the bytes of the cut-outs. Raises InputError."""
    if source == "drawn":
        return ""
    path = os.path.expanduser(source)
    return digest(path, _find_cutouts(path))


_NAME = re.compile(r"(?:^|.*/)(?P<person>[^/]+)_(?P<view>[^/_]+)\.(?:png|webp)$", re.IGNORECASE)
# Shares of a folder's people by role, in the order of a hash of the name: no seed or count changes a person's role.
_SHARES = {"train": (0.0, 0.6), "stranger": (0.6, 0.72), "test": (0.72, 1.0)}


class CutoutPeople:
    """RGBA images `<person>_<view>.png` or `.webp` in a folder or a tar file."""

    def __init__(self, path: str, seed: int) -> None:
        self.path = os.path.expanduser(path)
        self.files = _find_cutouts(self.path)
        people = in_hash_order(self.files)
        self.identities = {
            role: people[math.ceil(low * len(people)) : math.ceil(high * len(people))]
            for role, (low, high) in _SHARES.items()
        }
        # The seed chooses which of a role's people take part, and under which number.
        for role, names in self.identities.items():
            order = np.random.default_rng([seed, 303]).permutation(len(names))
            self.identities[role] = [names[k] for k in order]
        if not self.identities["stranger"]:
            raise InputError(f"{self.path}: {len(people)} people are too few to split; add more")

    def draw(self, role: str, number: int, family: str, view: View, rng: np.random.Generator) -> Sprite:
        names = self.identities[role]
        person = names[int(rng.integers(len(names)))] if role == "stranger" else names[number]
        views = self.files[person]
        rgba = _read_cutout(self.path, views[int(rng.integers(len(views)))])
        # Cut-outs have no scale: each person gets a height, from the hash of the name.
        stature = 1.72 * (0.94 + 0.12 * (zlib.crc32(person[::-1].encode()) % 1000) / 1000)
        factor = stature * view.scale / rgba.shape[0]
        size = (max(2, round(rgba.shape[1] * factor)), max(4, round(rgba.shape[0] * factor)))
        resized = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
        resized = np.minimum(resized, resized[..., 3:])
        # The ground point is between the feet, which an outstretched arm moves out of the middle of the image.
        feet = resized[-max(1, size[1] // 7) :, :, 3].astype(np.float32).sum(0)
        middle = float((feet * np.arange(size[0])).sum() / max(1.0, feet.sum()))
        return Sprite(_light_up(resized, view.light), (middle, 0.98 * size[1]))


class MixedPeople:
    """Cut-outs and drawn people: of each role the numbers from `first_drawn` on are drawn, the others cut-outs."""

    def __init__(
        self, cutouts: CutoutPeople, drawn: DrawnPeople, first_drawn: Mapping[str, int], drawn_share: float
    ) -> None:
        self.cutouts, self.drawn, self.first_drawn, self.drawn_share = cutouts, drawn, first_drawn, drawn_share

    def draw(self, role: str, number: int, family: str, view: View, rng: np.random.Generator) -> Sprite:
        if role == "stranger":
            source: PeopleSource = self.drawn if rng.random() < self.drawn_share else self.cutouts
            return source.draw(role, number, family, view, rng)
        if number < self.first_drawn[role]:
            return self.cutouts.draw(role, number, family, view, rng)
        return self.drawn.draw(role, number - self.first_drawn[role], family, view, rng)


def _light_up(rgba: np.ndarray, light: float) -> np.ndarray:
    """Lights a cut-out like the street, brighter towards the light, and softens its hard edge."""
    ramp = 0.97 + 0.16 * light * np.linspace(-1, 1, rgba.shape[1], dtype=np.float32)
    lit = rgba.astype(np.float32)
    lit[..., :3] *= ramp[None, :, None]
    soft = cv2.GaussianBlur(lit, (3, 3), 0.55)
    soft[..., :3] = np.minimum(soft[..., :3], soft[..., 3:])
    return np.clip(soft, 0, 255).astype(np.uint8)


def _find_cutouts(path: str) -> dict[str, list[PersonImage]]:
    """The views of each person. Raises InputError."""
    return find_person_images(path, _NAME, "cut-outs named <person>_<view>.png or <person>_<view>.webp").people


@functools.lru_cache(maxsize=512)
def _read_cutout(path: str, view: PersonImage) -> np.ndarray:
    """The figure cropped to its extent: uint8 [h, w, 4], RGB multiplied by alpha."""
    where = f"{path}: {view.name}"
    return trimmed_cutout(decode(read_bytes(path, view), cv2.IMREAD_UNCHANGED, where), where)
