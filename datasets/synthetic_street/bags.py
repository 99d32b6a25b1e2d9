"""The bags of a drawn person: backpack, shoulder bag and handbag."""

from __future__ import annotations

from psdiff_jax.datasets.synthetic_street.identity import CLOTH, Look
from psdiff_jax.datasets.synthetic_street.skeleton import Point, Skeleton
from psdiff_jax.datasets.synthetic_street.sprite import Brush, View, shade


def backpack(brush: Brush, bones: Skeleton, look: Look, view: View, under: bool) -> None:
    """The body of a backpack. It is drawn under the torso if the person faces the camera, else over it."""
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


def straps(brush: Brush, bones: Skeleton, look: Look) -> None:
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


def shoulder_bag(brush: Brush, bones: Skeleton, look: Look, under: bool) -> None:
    """A shoulder bag at the hip, drawn under the torso if it is behind it, else over it."""
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


def handbag(brush: Brush, bones: Skeleton, look: Look, hand: Point, dark: float) -> None:
    """A handbag in the hand at screen point `hand`; `dark`: brightness of the arm that holds it."""
    if look.bag != "handbag":
        return
    colour = CLOTH[look.bag_colour]
    s = bones.s
    x, y = hand[0], hand[1] - 0.11 * s
    half = max(0.03 * s, abs(bones.sin) * 0.085 * s)
    brush.capsule((x - half * 0.5, y + 0.05 * s), (hand[0], hand[1]), 0.006 * s, 0.006 * s, shade(colour, 0.7))
    brush.capsule((x + half * 0.5, y + 0.05 * s), (hand[0], hand[1]), 0.006 * s, 0.006 * s, shade(colour, 0.7))
    brush.polygon([(x - half, y + 0.05 * s), (x + half, y + 0.05 * s), (x + half * 1.15, y - 0.065 * s),
                   (x - half * 1.15, y - 0.065 * s)], shade(colour, dark))  # fmt: skip
    brush.polygon([(x - half, y + 0.05 * s), (x + half, y + 0.05 * s), (x + half, y + 0.03 * s),
                   (x - half, y + 0.03 * s)], shade(colour, dark * 0.75))  # fmt: skip
