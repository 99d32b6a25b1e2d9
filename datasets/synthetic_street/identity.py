"""The identity of a drawn person: a look of discrete attributes that distinguish it from any side.

Two people with the same look could not be distinguished. So the hash of a look decides its role (train, test or
stranger): no test identity of any seed is a training identity of another seed.
"""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

ROLES = ("train", "test", "stranger")

# RGB, with names for readers; re-ID depends on the distances between neighbouring colours.
CLOTH: dict[str, tuple[int, int, int]] = {
    "black": (34, 34, 38), "charcoal": (74, 76, 82), "grey": (138, 140, 144), "white": (226, 226, 222),
    "navy": (36, 48, 92), "blue": (52, 98, 186), "sky": (128, 178, 220), "teal": (32, 126, 128),
    "green": (52, 130, 66), "olive": (108, 112, 58), "yellow": (222, 190, 62), "orange": (220, 122, 48),
    "red": (188, 44, 48), "wine": (108, 32, 52), "pink": (222, 142, 166), "purple": (112, 66, 146),
    "brown": (108, 74, 52), "beige": (202, 180, 144),
}  # fmt: skip
LEGWEAR = ("black", "charcoal", "grey", "navy", "blue", "olive", "brown", "beige", "white", "wine", "teal", "red")
SKIN = ((246, 212, 186), (232, 188, 154), (204, 154, 116), (168, 118, 84), (122, 82, 58), (84, 56, 42))
HAIR = ((24, 20, 20), (62, 42, 30), (110, 72, 42), (196, 156, 88), (150, 66, 34), (150, 150, 152), (222, 218, 210))
SHOES = ((28, 28, 30), (224, 224, 220), (112, 72, 46), (182, 46, 48), (52, 74, 134))

HAIR_STYLES = ("short", "short", "crop", "bob", "long", "long", "ponytail", "bun", "afro", "bald")
UPPERS = ("tee", "tee", "sweater", "sweater", "jacket", "coat", "vest", "hoodie")
PATTERNS = ("plain", "plain", "plain", "stripes", "pinstripes", "checks", "dots", "logo", "band", "halves")
LOWERS = ("trousers", "trousers", "trousers", "wide", "shorts", "skirt", "long skirt")
LEG_PATTERNS = ("plain", "plain", "plain", "side stripe", "patched")
BAGS = ("none", "none", "none", "backpack", "backpack", "shoulder bag", "handbag")
HATS = ("none", "none", "none", "none", "cap", "beanie", "brim")


@dataclasses.dataclass(frozen=True)
class Look:
    """The attributes of a drawn person. Colours are names in CLOTH or positions in SKIN, HAIR and SHOES."""

    stature: float  # metres
    build: float  # width of the body, 1 = average
    hips: float  # hip width over shoulder width
    skin: int
    hair_style: str
    hair: int
    beard: bool
    upper: str
    upper_colour: str
    pattern: str
    pattern_colour: str
    sleeve_colour: str  # differs from upper_colour on two-tone garments
    lower: str
    lower_colour: str
    leg_pattern: str
    shoes: int
    bag: str
    bag_colour: str
    hat: str
    hat_colour: str
    scarf: str  # colour or 'none'

    def key(self) -> tuple:
        """The attributes that distinguish identities: all but stature and build, which depend on distance and pose."""
        return tuple(vars(self).values())[2:]

    def role(self) -> str:
        """The role of this look, from a hash that is the same in every process and version."""
        return ROLES[zlib.crc32(repr(self.key()).encode()) % len(ROLES)]


def _pick(rng: np.random.Generator, values):
    return values[int(rng.integers(len(values)))]


def _other_colour(rng: np.random.Generator, *taken: str) -> str:
    """A cloth colour that differs visibly from those taken."""
    while True:
        name = _pick(rng, tuple(CLOTH))
        if all(np.abs(np.subtract(CLOTH[name], CLOTH[other])).sum() > 150 for other in taken):
            return name


def _draw_look(rng: np.random.Generator) -> Look:
    female = bool(rng.random() < 0.5)
    upper_colour = _pick(rng, tuple(CLOTH))
    hair_style = _pick(rng, HAIR_STYLES)
    if female and hair_style in ("bald", "crop"):
        hair_style = "long"
    upper = _pick(rng, UPPERS)
    two_tone = rng.random() < 0.25
    lower = _pick(rng, LOWERS if female else LOWERS[:5])
    return Look(
        stature=round(float(rng.normal(1.66 if female else 1.77, 0.06)), 2),
        build=round(float(np.clip(rng.normal(1.0, 0.12), 0.78, 1.32)), 2),
        hips=0.92 if female else 0.8,
        skin=int(rng.integers(len(SKIN))),
        hair_style=hair_style,
        hair=int(rng.integers(len(HAIR))),
        beard=bool(not female and rng.random() < 0.25),
        upper=upper,
        upper_colour=upper_colour,
        pattern=_pick(rng, PATTERNS),
        pattern_colour=_other_colour(rng, upper_colour),
        sleeve_colour=_other_colour(rng, upper_colour) if two_tone else upper_colour,
        lower=lower,
        lower_colour=_pick(rng, LEGWEAR),
        leg_pattern=_pick(rng, LEG_PATTERNS),
        shoes=int(rng.integers(len(SHOES))),
        bag=_pick(rng, BAGS),
        bag_colour=_other_colour(rng, upper_colour),
        hat=_pick(rng, HATS),
        hat_colour=_pick(rng, tuple(CLOTH)),
        scarf=_pick(rng, tuple(CLOTH)) if rng.random() < 0.1 else "none",
    )


def _change_detail(look: Look, rng: np.random.Generator) -> Look:
    """A look-alike: the same look with one visible attribute changed."""
    detail = _pick(rng, ("upper_colour", "lower_colour", "pattern", "pattern_colour", "bag", "hat", "hair_style",
                         "hair", "lower", "shoes", "sleeve_colour"))  # fmt: skip
    values = {
        "upper_colour": tuple(CLOTH), "lower_colour": LEGWEAR, "pattern": PATTERNS, "pattern_colour": tuple(CLOTH),
        "bag": BAGS, "hat": HATS, "hair_style": HAIR_STYLES, "hair": tuple(range(len(HAIR))), "lower": LOWERS,
        "shoes": tuple(range(len(SHOES))), "sleeve_colour": tuple(CLOTH),
    }[detail]  # fmt: skip
    if detail == "pattern_colour" and look.pattern == "plain":
        return dataclasses.replace(look, pattern="stripes", pattern_colour=_pick(rng, values))
    if detail == "upper_colour" and look.sleeve_colour == look.upper_colour:
        colour = _pick(rng, values)
        return dataclasses.replace(look, upper_colour=colour, sleeve_colour=colour)
    return dataclasses.replace(look, **{detail: _pick(rng, values)})


def visible(look: Look) -> Look:
    """The look with a fixed value for each invisible attribute, so that looks that render the same are equal."""
    changes: dict[str, object] = {}
    if look.pattern == "plain":
        changes["pattern_colour"] = look.upper_colour
    if look.upper == "vest":
        changes["sleeve_colour"] = look.upper_colour
    if look.bag == "none":
        changes["bag_colour"] = look.upper_colour
    if look.hat == "none":
        changes["hat_colour"] = look.upper_colour
    if look.hair_style == "bald" and look.hat == "none" and not look.beard:
        changes["hair"] = 0
    if look.lower in ("skirt", "long skirt"):
        changes["leg_pattern"] = "plain"
    if look.pattern in ("stripes", "pinstripes", "checks", "dots", "logo", "band", "halves"):
        # A pattern in nearly the colour of the cloth is invisible.
        if np.abs(np.subtract(CLOTH[look.pattern_colour], CLOTH[look.upper_colour])).sum() < 100:
            changes |= {"pattern": "plain", "pattern_colour": look.upper_colour}
    return dataclasses.replace(look, **changes)


def draw_stranger(rng: np.random.Generator, family: list[Look]) -> Look:
    """A person without identity; one in four resembles a look in `family`."""
    while True:
        alike = family and rng.random() < 0.25
        look = visible(_change_detail(_pick(rng, family), rng) if alike else _draw_look(rng))
        if look.role() == "stranger":
            return look


def draw_identities(seed: int, role: str, count: int, alike: float = 0.4) -> list[Look]:
    """`count` different looks of one role. A share `alike` of them differ from an earlier one in one attribute.

    They are drawn one after the other, so that a longer list begins with the shorter one of the same seed.
    """
    rng = np.random.default_rng([seed, 101, ROLES.index(role)])
    looks: list[Look] = []
    seen: set[tuple] = set()
    while len(looks) < count:
        copy = looks and rng.random() < alike
        look = visible(_change_detail(_pick(rng, looks), rng) if copy else _draw_look(rng))
        if look.role() == role and look.key() not in seen:
            seen.add(look.key())
            looks.append(look)
    return looks
