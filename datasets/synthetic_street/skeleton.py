"""The pose and the skeleton of a drawn person, in three dimensions.

Body axes in metres: l to the person's left, u up, f forward. On the screen a point lies at
x = l cos(yaw) + f sin(yaw), y = u cos(pitch) - z sin(pitch), with z = f cos(yaw) - l sin(yaw) towards the camera.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from psdiff_jax.datasets.synthetic_street.identity import Look
from psdiff_jax.datasets.synthetic_street.sprite import View

Point = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Pose:
    """phase of the walk in radians, stride as the thigh's amplitude, swing of the arms, bend of the elbows (radians).

    raised: the arm that holds a phone to the head ('none', 'left', 'right').
    """

    phase: float
    stride: float
    swing: float
    bend: float
    raised: str = "none"

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Pose:
        """Mostly walking, some standing, a few with a phone."""
        walking = rng.random() < 0.75
        stride = rng.uniform(0.28, 0.5) if walking else rng.uniform(0.02, 0.1)
        raised = ("none", "left", "right")[int(rng.choice(3, p=(0.84, 0.08, 0.08)))]
        return cls(float(rng.uniform(0, 2 * math.pi)), float(stride), float(stride * rng.uniform(0.7, 1.2)),
                   float(rng.uniform(0.1, 0.6)), raised)  # fmt: skip


class Skeleton:
    """Screen coordinates (x, y, z), in metres, of the joints of `look` in `pose`, seen from `view`."""

    def __init__(self, look: Look, pose: Pose, view: View) -> None:
        self.s = s = look.stature
        self.cos, self.sin = math.cos(view.yaw), math.sin(view.yaw)
        self.pitch_cos, self.pitch_sin = math.cos(view.pitch), math.sin(view.pitch)
        self.legs = {}
        lowest = 1.0
        for side, sign in (("left", 1), ("right", -1)):
            phase = pose.phase if sign > 0 else pose.phase + math.pi
            thigh = pose.stride * math.sin(phase)
            # The knee bends while the leg swings forward, and a little always.
            knee = 0.08 + 1.1 * pose.stride * max(0.0, math.cos(phase)) ** 1.5
            hip = (sign * 0.05 * s * look.hips * look.build, 0.5 * s, 0.0)
            bend = (hip[0], hip[1] - 0.235 * s * math.cos(thigh), hip[2] + 0.235 * s * math.sin(thigh))
            shin = thigh - knee
            ankle = (bend[0], bend[1] - 0.23 * s * math.cos(shin), bend[2] + 0.23 * s * math.sin(shin))
            toe_angle = shin * 0.7
            toe = (ankle[0] + sign * 0.012 * s, ankle[1] - 0.03 * s + 0.1 * s * math.sin(toe_angle),
                   ankle[2] + 0.1 * s * math.cos(toe_angle))  # fmt: skip
            heel = (ankle[0], ankle[1] - 0.026 * s, ankle[2] - 0.012 * s)
            self.legs[side] = [hip, bend, ankle, heel, toe]
            lowest = min(lowest, heel[1], toe[1])
        # The lower foot is on the ground: the whole body moves with it.
        self.drop = lowest - 0.013 * s
        self.arms = {}
        for side, sign in (("left", 1), ("right", -1)):
            phase = pose.phase + math.pi if sign > 0 else pose.phase
            upper, bend = pose.swing * math.sin(phase), pose.bend + 0.3 * pose.swing
            shoulder = (sign * 0.105 * s * look.build, 0.795 * s, 0.0)
            elbow = (shoulder[0] + sign * 0.022 * s, shoulder[1] - 0.165 * s * math.cos(upper),
                     0.165 * s * math.sin(upper))  # fmt: skip
            fore = upper + bend
            hand = (elbow[0], elbow[1] - 0.165 * s * math.cos(fore), elbow[2] + 0.165 * s * math.sin(fore))
            if pose.raised == side:
                elbow = (shoulder[0] + sign * 0.06 * s, shoulder[1] - 0.13 * s, 0.08 * s)
                hand = (sign * 0.055 * s, 0.9 * s, 0.04 * s)
            self.arms[side] = [shoulder, elbow, hand]
        self.legs = {side: [self.at(*joint) for joint in joints] for side, joints in self.legs.items()}
        self.arms = {side: [self.at(*joint) for joint in joints] for side, joints in self.arms.items()}

    def at(self, left: float, up: float, forward: float) -> Point:
        """The screen coordinates of a point given in body axes."""
        x = left * self.cos + forward * self.sin
        z = forward * self.cos - left * self.sin
        return x, (up - self.drop) * self.pitch_cos - z * self.pitch_sin, z

    def at_share(self, left: float, up: float, forward: float) -> Point:
        """`at` for a point given in shares of the stature."""
        return self.at(left * self.s, up * self.s, forward * self.s)

    def girth(self, width: float, depth: float) -> float:
        """Half width on the screen of an upright ellipse with these half axes."""
        return math.hypot(width * self.cos, depth * self.sin)
