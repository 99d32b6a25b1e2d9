"""Which test identities are in which gallery scene: each in two cameras or more, none twice in one scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psdiff_jax.datasets.synthetic_street.options import StreetOptions
from psdiff_jax.errors import InputError


def plan_gallery(options: StreetOptions, most: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Numbers of the test identities in each gallery scene, `most` of them at most.

    Raises InputError if there is too little room.
    """
    scenes, identities, cameras = options.gallery_images, options.test_identities, options.cameras
    rng = np.random.default_rng([options.seed, 505])
    counts = rng.integers(options.people[0], options.people[1] + 1, scenes)
    room = np.maximum(1, np.minimum(rng.binomial(counts, options.labelled), identities))
    room = np.minimum(room, most)
    if not identities:
        return tuple(() for _ in range(scenes))
    if room.sum() < 2 * identities:
        raise InputError(
            f"synthetic_street: {scenes} gallery scenes have room for {room.sum()} labelled people, "
            f"too few to show test_identities={identities} twice; raise gallery_images or lower test_identities"
        )
    camera = np.arange(scenes) % cameras
    plan: list[list[int]] = [[] for _ in range(scenes)]
    shown = np.zeros((identities, scenes), bool)
    seen: list[set[int]] = [set() for _ in range(identities)]
    placed = True
    while placed and room.sum() > 0:
        placed = False
        for person in rng.permutation(identities):
            free = (room > 0) & ~shown[person]
            if len(seen[person]) == 1:  # the second time in another camera
                free &= camera != next(iter(seen[person]))
            # Scenes of the cameras with the most room first, so that the remaining room is never in one camera only.
            left = np.bincount(camera, weights=room, minlength=cameras)[camera]
            weight = np.cumsum(free * left**2)
            if weight[-1] <= 0:
                continue
            scene = int(np.searchsorted(weight, rng.random() * weight[-1], side="right"))
            plan[scene].append(int(person))
            shown[person, scene] = True
            seen[person].add(int(camera[scene]))
            room[scene] -= 1
            placed = True
    missing = [person for person in range(identities) if len(seen[person]) < 2]
    if missing:
        raise InputError(
            f"synthetic_street: the gallery is too small to show {len(missing)} of {identities} test identities in two "
            "cameras; raise gallery_images or lower test_identities"
        )
    return tuple(tuple(numbers) for numbers in plan)
