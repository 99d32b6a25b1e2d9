"""A person as a sprite: a skeleton, dressed, turned, and drawn from back to front."""

from __future__ import annotations

from collections.abc import Sequence

from psdiff_jax.datasets.synthetic_street import bags, garments, head
from psdiff_jax.datasets.synthetic_street.identity import CLOTH, SHOES, SKIN, Look
from psdiff_jax.datasets.synthetic_street.skeleton import Pose, Skeleton
from psdiff_jax.datasets.synthetic_street.sprite import Brush, Sprite, View, shade


def draw_figure(look: Look, pose: Pose, view: View) -> Sprite:
    """The person as a sprite of `view.scale` pixels per metre."""
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
        head.back_hair(brush, bones, look)
        bags.backpack(brush, bones, look, view, under=True)
    for side in behind:
        _arm(brush, bones, look, side, view.light)
    bags.shoulder_bag(brush, bones, look, under=True)
    garments.lower_shell(brush, bones, look, view)
    head.neck(brush, bones, look)
    garments.upper_shell(brush, bones, look, view)
    bags.straps(brush, bones, look)
    head.head(brush, bones, look, view)
    for side in (far, near):
        if side not in behind:
            _arm(brush, bones, look, side, view.light)
    bags.shoulder_bag(brush, bones, look, under=False)
    if not facing:
        head.back_hair(brush, bones, look)
        bags.backpack(brush, bones, look, view, under=False)
    return brush.sprite()


def _leg(brush: Brush, bones: Skeleton, look: Look, side: str, light: float) -> None:
    hip, knee, ankle, heel, toe = bones.legs[side]
    s, wide = bones.s, look.build
    skin, cloth, shoe = SKIN[look.skin], CLOTH[look.lower_colour], SHOES[look.shoes]
    dark = 0.86 if hip[2] < 0 else 1.0  # the farther leg is in the shade of the nearer one
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


def _leg_pattern(
    brush: Brush, bones: Skeleton, look: Look, joints: Sequence[tuple[float, ...]], side: str, radius: float
) -> None:
    """A stripe along the outer seam, or patches on the knees; both only if the camera sees them."""
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
    if side == "right":
        bags.handbag(brush, bones, look, hand, dark)
