"""A person as an articulated figure: a skeleton in three dimensions, dressed, turned, and drawn from back to front.

Body axes in metres: l to the person's left, u up, f forward. On the screen a point lies at
x = l cos(yaw) + f sin(yaw), y = u cos(pitch) - z sin(pitch), with z = f cos(yaw) - l sin(yaw) towards the camera.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from psdiff_jax.datasets.synthetic_street import garments
from psdiff_jax.datasets.synthetic_street.identity import CLOTH, HAIR, SHOES, SKIN, Look
from psdiff_jax.datasets.synthetic_street.sprite import Brush, Sprite, View, shade


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
    """Screen places (x, y, z) of the joints of `look` in `pose`, seen from `view`; metres."""

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
        # The lower foot stands on the ground: the whole body follows.
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

    def at(self, left: float, up: float, forward: float) -> tuple[float, float, float]:
        x = left * self.cos + forward * self.sin
        z = forward * self.cos - left * self.sin
        return x, (up - self.drop) * self.pitch_cos - z * self.pitch_sin, z

    def at_share(self, left: float, up: float, forward: float) -> tuple[float, float, float]:
        """`at` for a place given in shares of the stature."""
        return self.at(left * self.s, up * self.s, forward * self.s)

    def girth(self, width: float, depth: float) -> float:
        """Half width on the screen of an upright ellipse with these half axes."""
        return math.hypot(width * self.cos, depth * self.sin)


def draw_figure(look: Look, pose: Pose, view: View) -> Sprite:
    """The person as a sprite of `view.scale` pixels a metre."""
    bones = Skeleton(look, pose, view)
    s = look.stature
    brush = Brush(half_width=0.34 * s, below=0.12 * s, above=1.09 * s, scale=view.scale)
    facing = bones.cos > 0
    far, near = sorted(("left", "right"), key=lambda side: bones.arms[side][0][2] + bones.arms[side][2][2])
    behind = [
        side for side in (far, near)
        if bones.arms[side][1][2] < -0.01 * s or (not facing and pose.raised == side)
    ]  # fmt: skip

    for side in sorted(bones.legs, key=lambda side: bones.legs[side][1][2]):
        _leg(brush, bones, look, side, view.light)
    if facing:
        _back_hair(brush, bones, look)
        _bag(brush, bones, look, view, under=True)
    for side in behind:
        _arm(brush, bones, look, side, view.light)
    _bag_at_hip(brush, bones, look, under=True)
    garments.lower_shell(brush, bones, look, view)
    _neck(brush, bones, look)
    garments.upper_shell(brush, bones, look, view)
    _straps(brush, bones, look)
    _head(brush, bones, look, view)
    for side in (far, near):
        if side not in behind:
            _arm(brush, bones, look, side, view.light)
    _bag_at_hip(brush, bones, look, under=False)
    if not facing:
        _back_hair(brush, bones, look)
        _bag(brush, bones, look, view, under=False)
    return brush.sprite()


def _leg(brush: Brush, bones: Skeleton, look: Look, side: str, light: float) -> None:
    hip, knee, ankle, heel, toe = bones.legs[side]
    s, wide = bones.s, look.build
    skin, cloth, shoe = SKIN[look.skin], CLOTH[look.lower_colour], SHOES[look.shoes]
    dark = 0.86 if hip[2] < 0 else 1.0  # the leg away from the camera lies in the other's shade
    skin, cloth = shade(skin, dark), shade(cloth, dark)
    thigh, calf, cuff = 0.047 * s * wide, 0.033 * s * wide, 0.021 * s * wide
    brush.capsule(heel, toe, 0.019 * s, 0.014 * s, shade(shoe, dark))
    brush.capsule(ankle, heel, 0.021 * s, 0.021 * s, shade(shoe, dark))
    if look.lower in ("trousers", "wide"):
        grow = 1.3 if look.lower == "wide" else 1.0
        brush.limb((hip, knee, ankle), (thigh * 1.04, calf * grow * 1.1, cuff * grow * 1.25), cloth, light)
        _leg_pattern(brush, bones, look, (hip, knee, ankle), side, calf)
    else:
        brush.limb((hip, knee, ankle), (thigh, calf, cuff), skin, light)
        if look.lower == "shorts":
            low = tuple(h + 0.85 * (k - h) for h, k in zip(hip, knee, strict=True))
            brush.limb((hip, low), (thigh * 1.1, thigh * 0.98), cloth, light)
            _leg_pattern(brush, bones, look, (hip, low, low), side, thigh)


def _leg_pattern(brush: Brush, bones: Skeleton, look: Look, joints, side: str, radius: float) -> None:
    """A stripe along the outer seam, or patches on the knees; both only where the camera can see them."""
    colour = (230, 230, 226) if sum(CLOTH[look.lower_colour]) < 330 else (40, 40, 46)
    hip, knee, ankle = joints
    if look.leg_pattern == "side stripe":
        outward = 1 if side == "left" else -1
        if -outward * bones.sin > -0.5:
            shift = outward * bones.cos * radius * 0.75
            for a, b in ((hip, knee), (knee, ankle)):
                brush.capsule((a[0] + shift, a[1]), (b[0] + shift, b[1]), 0.009 * bones.s, 0.009 * bones.s, colour)
    elif look.leg_pattern == "patched" and look.lower != "shorts" and bones.cos > -0.3:
        half = radius * (0.25 + 0.4 * max(0.0, bones.cos))
        brush.ellipse(knee[0] + bones.sin * radius * 0.5, knee[1], half, radius * 0.95, colour)


def _arm(brush: Brush, bones: Skeleton, look: Look, side: str, light: float) -> None:
    shoulder, elbow, hand = bones.arms[side]
    s, wide = bones.s, look.build
    skin = SKIN[look.skin]
    dark = 0.82 if elbow[2] < -0.02 * s else 1.0
    sleeve = shade(CLOTH[look.sleeve_colour], dark * 0.96)
    skin = shade(skin, dark)
    upper, fore, wrist = 0.031 * s * wide, 0.024 * s * wide, 0.018 * s
    brush.capsule(hand, hand, 0.022 * s, 0.022 * s, skin)
    if look.upper in ("tee", "vest"):
        brush.limb((shoulder, elbow, hand), (upper, fore, wrist), skin, light)
        if look.upper == "tee":
            cuff = tuple(a + 0.6 * (b - a) for a, b in zip(shoulder, elbow, strict=True))
            brush.limb((shoulder, cuff), (upper * 1.12, upper * 1.12), sleeve, light)
    else:
        thick = 1.25 if look.upper in ("coat", "jacket", "hoodie") else 1.1
        brush.limb((shoulder, elbow, hand), (upper * thick, fore * thick * 1.1, wrist * thick * 1.1), sleeve, light)
        if look.pattern in ("stripes", "band") and look.sleeve_colour == look.upper_colour:
            ring = shade(CLOTH[look.pattern_colour], dark * 0.92)
            for share in (0.45,) if look.pattern == "band" else (0.25, 0.75):
                x, y = (a + share * (b - a) for a, b in zip(shoulder[:2], elbow[:2], strict=True))
                brush.ellipse(x, y, upper * thick * 0.95, 0.013 * s, ring)
    if look.bag == "handbag" and side == "right":
        colour = CLOTH[look.bag_colour]
        x, y = hand[0], hand[1] - 0.11 * s
        half = max(0.03 * s, abs(bones.sin) * 0.085 * s)
        brush.capsule((x - half * 0.5, y + 0.05 * s), (hand[0], hand[1]), 0.006 * s, 0.006 * s, shade(colour, 0.7))
        brush.capsule((x + half * 0.5, y + 0.05 * s), (hand[0], hand[1]), 0.006 * s, 0.006 * s, shade(colour, 0.7))
        brush.polygon([(x - half, y + 0.05 * s), (x + half, y + 0.05 * s), (x + half * 1.15, y - 0.065 * s),
                       (x - half * 1.15, y - 0.065 * s)], shade(colour, dark))  # fmt: skip
        brush.polygon([(x - half, y + 0.05 * s), (x + half, y + 0.05 * s), (x + half, y + 0.03 * s),
                       (x - half, y + 0.03 * s)], shade(colour, dark * 0.75))  # fmt: skip


def _neck(brush: Brush, bones: Skeleton, look: Look) -> None:
    s = bones.s
    low, high = bones.at_share(0, 0.83, 0), bones.at_share(0, 0.9, 0.012)
    brush.capsule(low, high, 0.03 * s, 0.028 * s, shade(SKIN[look.skin], 0.82))


def _head(brush: Brush, bones: Skeleton, look: Look, view: View) -> None:
    """Scarf, skull, face or back of the head, hair that lies on top, hat."""
    s, cos, sin = bones.s, bones.cos, bones.sin
    x, y, _ = bones.at_share(0, 0.93, 0.012)
    rx, ry = bones.girth(0.047, 0.057) * s, 0.066 * s
    skin, hair = SKIN[look.skin], HAIR[look.hair]
    if look.scarf != "none":
        sx, sy, _ = bones.at_share(0, 0.853, 0.008)
        brush.ellipse(sx, sy, 0.056 * s, 0.03 * s, shade(CLOTH[look.scarf], 0.85))
        brush.ellipse(sx, sy + 0.006 * s, 0.05 * s, 0.02 * s, CLOTH[look.scarf])
        if cos > 0.2:
            tail = bones.at_share(0.03, 0.74, 0.06)
            brush.capsule((tail[0], sy), tail[:2], 0.018 * s, 0.02 * s, shade(CLOTH[look.scarf], 0.92))
    if look.hair_style == "bald":
        brush.ellipse(x, y, rx, ry, shade(skin, 0.8))
        brush.ellipse(x + 0.2 * view.light * rx, y + 0.05 * ry, rx * 0.85, ry * 0.9, skin)
    else:
        size = 1.34 if look.hair_style == "afro" else 1.06 if look.hair_style == "crop" else 1.12
        brush.ellipse(x, y + 0.1 * ry * (size - 0.9), rx * size, ry * size, shade(hair, 0.85))
        brush.ellipse(x + 0.2 * view.light * rx, y + 0.25 * ry, rx * size * 0.72, ry * size * 0.68, shade(hair, 1.2))
    if look.hair_style == "bun":
        bx, by, _ = bones.at_share(0, 0.992, -0.04)
        brush.ellipse(bx, by, 0.028 * s, 0.028 * s, shade(hair, 0.95))
    if cos > -0.55:
        # The face slides towards the side the person looks to, and narrows as it turns away.
        turn = max(0.0, min(1.0, (cos + 0.55) / 1.2))
        fx, width = x + sin * rx * (0.62 - 0.3 * turn), rx * (0.42 + 0.48 * turn)
        fy = y - 0.16 * ry
        brush.ellipse(fx, fy, width, ry * 0.82, shade(skin, 0.88))
        brush.ellipse(fx + 0.12 * view.light * width, fy + 0.02 * ry, width * 0.84, ry * 0.76, skin)
        if look.beard:
            brush.ellipse(fx, fy - 0.4 * ry, width * 0.92, ry * 0.42, shade(hair, 0.9))
            brush.ellipse(fx + 0.1 * sin * rx, fy - 0.32 * ry, width * 0.4, ry * 0.1, shade(skin, 0.7))
        if cos > -0.2:
            # Both eyes from the front, one in profile; an eye sits 0.42 radians beside the nose.
            gaze = math.atan2(sin, cos)
            if cos > 0.25:
                eyes = [x + math.sin(gaze + beside) * rx * 0.9 for beside in (-0.42, 0.42)]
            else:
                eyes = [fx + 0.3 * sin * rx]
            for eye in eyes:
                brush.ellipse(eye, fy + 0.2 * ry, 0.006 * s, 0.007 * s, (38, 30, 30))
            brush.ellipse(fx + 0.35 * sin * width, fy - 0.08 * ry, 0.006 * s, 0.011 * s, shade(skin, 0.78))
            if not look.beard:
                brush.ellipse(fx + 0.2 * sin * width, fy - 0.42 * ry, width * 0.3, 0.005 * s, shade(skin, 0.66))
        if look.hair_style not in ("bald", "crop"):
            fringe = [(x + math.cos(a) * rx * 1.08, y + 0.3 * ry + math.sin(a) * ry * 0.84) for a in
                      np.linspace(0.05, math.pi - 0.05, 9)]  # fmt: skip
            brush.polygon(fringe, shade(hair, 1.05))
        if abs(sin) > 0.35 and look.hair_style not in ("bald",):
            brush.ellipse(x - sin * rx * 0.42, y + 0.12 * ry, rx * 0.66, ry * 0.82, shade(hair, 0.98))
    _hat(brush, bones, look, x, y, rx, ry)


def _hat(brush: Brush, bones: Skeleton, look: Look, x: float, y: float, rx: float, ry: float) -> None:
    if look.hat == "none":
        return
    s, colour = bones.s, CLOTH[look.hat_colour]
    brim_y = y + 0.3 * ry
    dome = [(x + math.cos(a) * rx * 1.15, brim_y + math.sin(a) * ry * 0.92) for a in np.linspace(0, math.pi, 12)]
    brush.polygon(dome, shade(colour, 0.86))
    brush.ellipse(x, brim_y + 0.32 * ry, rx * 0.72, ry * 0.42, colour)
    if look.hat == "cap":
        if bones.cos > -0.6:
            brush.ellipse(x + bones.sin * rx * 1.1, brim_y, rx * (0.6 + 0.45 * abs(bones.cos)), 0.012 * s,
                          shade(colour, 0.7))  # fmt: skip
    elif look.hat == "brim":
        brush.ellipse(x, brim_y, 0.1 * s, 0.017 * s, shade(colour, 0.75))
        brush.ellipse(x, brim_y + 0.012 * s, rx * 1.12, 0.014 * s, shade(colour, 0.45))
    else:
        brush.polygon([(x - rx * 1.17, brim_y - 0.08 * ry), (x + rx * 1.17, brim_y - 0.08 * ry),
                       (x + rx * 1.15, brim_y + 0.26 * ry), (x - rx * 1.15, brim_y + 0.26 * ry)],
                      shade(colour, 0.72))  # fmt: skip
        brush.ellipse(x, brim_y + ry * 0.96, 0.018 * s, 0.018 * s, shade(colour, 1.15))


def _back_hair(brush: Brush, bones: Skeleton, look: Look) -> None:
    """Hair that hangs behind the shoulders or to them."""
    s, hair = bones.s, shade(HAIR[look.hair], 0.92)
    top = bones.at_share(0, 0.925, -0.02)
    if look.hair_style == "long":
        brush.capsule(top, bones.at_share(0, 0.775, -0.055), 0.054 * s, 0.05 * s, shade(hair, 0.9))
        brush.capsule(top, bones.at_share(0, 0.79, -0.055), 0.036 * s, 0.034 * s, hair)
    elif look.hair_style == "bob":
        brush.capsule(top, bones.at_share(0, 0.875, -0.016), 0.056 * s, 0.056 * s, hair)
    elif look.hair_style == "ponytail":
        tie = bones.at_share(0, 0.95, -0.062)
        brush.capsule(tie, bones.at_share(0, 0.8, -0.088), 0.022 * s, 0.014 * s, hair)


def _bag(brush: Brush, bones: Skeleton, look: Look, view: View, under: bool) -> None:
    """The backpack's body: under the torso when the person faces the camera, over it when not."""
    if look.bag != "backpack":
        return
    s, colour = bones.s, CLOTH[look.bag_colour]
    x, y, _ = bones.at_share(0, 0.695, -0.108)
    half, tall = bones.girth(0.088, 0.052) * s * look.build**0.5, 0.112 * s
    brush.capsule((x, y + 0.5 * tall), (x, y - 0.4 * tall), half, half * 1.02, shade(colour, 0.72))
    brush.capsule((x + 0.1 * half * view.light, y + 0.5 * tall), (x, y - 0.38 * tall), half * 0.84, half * 0.84, colour)
    if not under:
        brush.polygon([(x - half * 0.62, y - 0.1 * tall), (x + half * 0.62, y - 0.1 * tall),
                       (x + half * 0.6, y - 0.85 * tall), (x - half * 0.6, y - 0.85 * tall)],
                      shade(colour, 0.8))  # fmt: skip
        brush.polygon([(x - half * 0.62, y - 0.1 * tall), (x + half * 0.62, y - 0.1 * tall),
                       (x + half * 0.62, y - 0.22 * tall), (x - half * 0.62, y - 0.22 * tall)],
                      shade(colour, 0.6))  # fmt: skip


def _straps(brush: Brush, bones: Skeleton, look: Look) -> None:
    """Straps of a backpack (in front) or of a shoulder bag (across, front and back)."""
    if look.bag not in ("backpack", "shoulder bag"):
        return
    s, colour, wide = bones.s, shade(CLOTH[look.bag_colour], 0.8), look.build
    if look.bag == "backpack":
        for left in (-0.062, 0.062):
            high, low = bones.at_share(left * wide, 0.832, 0.02), bones.at_share(left * 1.2 * wide, 0.66, 0.052)
            if low[2] > 0:
                brush.capsule(high, low, 0.0125 * s, 0.0125 * s, colour)
        return
    depth = 0.055 if bones.cos > 0 else -0.055
    high, low = bones.at_share(0.06 * wide, 0.835, 0.2 * depth), bones.at_share(-0.09 * wide, 0.56, depth * 0.6)
    middle = bones.at_share(-0.01, 0.71, depth * 1.1)
    brush.capsule(high, middle, 0.011 * s, 0.011 * s, colour)
    brush.capsule(middle, low, 0.011 * s, 0.011 * s, colour)


def _bag_at_hip(brush: Brush, bones: Skeleton, look: Look, under: bool) -> None:
    if look.bag != "shoulder bag":
        return
    s, colour = bones.s, CLOTH[look.bag_colour]
    x, y, z = bones.at_share(-0.125 * look.build, 0.5, -0.01)
    if (z < 0) != under:
        return
    half = bones.girth(0.03, 0.085) * s
    brush.polygon([(x - half, y + 0.06 * s), (x + half, y + 0.06 * s), (x + half, y - 0.06 * s),
                   (x - half, y - 0.06 * s)], shade(colour, 0.72))  # fmt: skip
    brush.polygon([(x - half * 0.9, y + 0.055 * s), (x + half * 0.9, y + 0.055 * s), (x + half * 0.9, y - 0.01 * s),
                   (x - half * 0.9, y - 0.01 * s)], colour)  # fmt: skip
