"""The style 'varied' of the street: determinism, labels against pixels, empty scenes, mixed sources of people."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from psdiff_jax.datasets.synthetic_street import Street, StreetOptions
from psdiff_jax.datasets.synthetic_street.compositing import paste
from psdiff_jax.datasets.synthetic_street.render import encode
from psdiff_jax.errors import InputError
from psdiff_jax.ops.boxes import is_inside

from ..options import open_dataset, train_batches

pytestmark = pytest.mark.slow

SIZE = (120, 160)
SMALL = dict(
    size=SIZE, train_images=40, gallery_images=40, queries=10, train_identities=16, test_identities=10, cameras=60
)


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    """A folder of 24 people x 2 views: ellipses in one colour that no drawn person has."""
    folder = tmp_path_factory.mktemp("cutouts")
    for person in range(24):
        for view in range(2):
            picture = np.zeros((120, 60, 4), np.uint8)
            cv2.ellipse(picture, (30, 60), (14 + 3 * view, 50), 0, 0, 360, (255, 0, 255, 255), -1)
            assert cv2.imwrite(str(folder / f"{person:03d}_{view}.png"), picture)
    return str(folder)


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(StreetOptions.preset("varied", **SMALL))


@pytest.fixture(scope="module")
def scenes(street):
    return [street.scene(split, k) for split in ("train", "gallery") for k in range(40)]


def test_scenes_are_the_same_in_any_order_and_process(street, scenes):
    again = pickle.loads(pickle.dumps(Street(StreetOptions.preset("varied", **SMALL))))
    for index in (31, 2, 17):
        assert encode(again.scene("train", index))["image"] == encode(scenes[index])["image"]
        np.testing.assert_array_equal(again.scene("train", index).boxes, scenes[index].boxes)


def test_a_scene_does_not_depend_on_the_number_of_others(street):
    longer = Street(StreetOptions.preset("varied", **(SMALL | {"train_images": 90})))
    np.testing.assert_array_equal(longer.scene("train", 7).image, street.scene("train", 7).image)


def test_seeds_change_the_scenes(street):
    for changed in ({"seed": 1}, {"camera_seed": 1}):
        other = Street(StreetOptions.preset("varied", **SMALL, **changed)).scene("train", 0)
        assert np.mean(other.image != street.scene("train", 0).image) > 0.3


def test_boxes_are_valid_of_all_sizes_and_identities_unique(scenes):
    heights = []
    for scene in scenes:
        assert scene.image.shape == (*SIZE, 3) and scene.image.dtype == np.uint8
        assert scene.boxes.dtype == np.float32 and scene.person_ids.dtype == np.int64
        assert scene.boxes.shape == (len(scene.person_ids), 4) and len(scene.boxes) <= 12
        assert all(is_inside(box, *SIZE) for box in scene.boxes)
        heights += list((scene.boxes[:, 3] - scene.boxes[:, 1]) / SIZE[0])
        labelled = scene.person_ids[scene.person_ids >= 0]
        assert len(set(labelled)) == len(labelled)
    assert min(heights) < 0.2 and max(heights) > 0.8


def painted(things) -> np.ndarray:
    """bool [h, w]: the pixels that pasting `things` covers largely, from how far black and white still differ."""
    canvases = [np.full((*SIZE, 3), tone, np.uint8) for tone in (0, 255)]
    for canvas in canvases:
        for thing in things:
            paste(canvas, thing)
    black, white = (canvas.max(-1).astype(int) for canvas in canvases)
    return 255 - (white - black) >= 96


def test_boxes_are_tight_and_a_third_of_every_person_is_visible(street):
    checked = 0
    for index in range(25):
        objects = street.layout("train", index).objects
        for k, thing in enumerate(objects):
            if thing.is_prop:
                continue
            alone = painted([thing])
            rows, columns = np.flatnonzero(alone.any(1)), np.flatnonzero(alone.any(0))
            drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            np.testing.assert_allclose(thing.box(SIZE, whole=False), drawn, atol=2)
            covered = painted([other for other in objects[k + 1 :] if other.depth <= thing.depth])
            assert (alone & ~covered).sum() > 0.27 * (thing.sprite.rgba[..., 3] > 100).sum()
            checked += 1
    assert checked > 40


def test_gallery_shows_every_test_identity_in_two_cameras(street, scenes):
    cameras: dict[int, set[int]] = {}
    for scene in scenes[40:]:
        for person in scene.person_ids[scene.person_ids >= 0]:
            cameras.setdefault(int(person), set()).add(scene.camera)
    assert set(cameras) == {16 + k for k in range(10)} and min(len(seen) for seen in cameras.values()) >= 2
    assert len(street.queries()) == SMALL["queries"]


def test_empty_scenes_are_in_both_splits_and_jpeg_qualities_vary():
    street = Street(StreetOptions.preset("varied", **SMALL, empty=0.4))
    for split in ("train", "gallery"):
        empty = [not any(not thing.is_prop for thing in street.layout(split, k).objects) for k in range(40)]
        assert 8 <= sum(empty) <= 28
    qualities = [street.scene("train", k).quality for k in range(20)]
    assert 15 <= min(qualities) < 60 and 85 < max(qualities) <= 95


def test_empty_scenes_go_through_the_pipeline(tmp_path):
    config = ConfigDict({"seed": 0, "train": {"batch_size": 4}, "data": {
        "name": "synthetic_street", "prepared_dir": str(tmp_path), "image_size": SIZE, "max_boxes": 12,
        "augment": {"scale_jitter": (0.8, 1.3), "color": 0.1},
        "builder": {"preset": "varied", **SMALL, "train_images": 12, "gallery_images": 20, "test_identities": 4,
                    "queries": 4, "empty": 0.5},
    }})  # fmt: skip
    dataset = open_dataset(config.data.to_dict())
    counts = [len(boxes) for boxes in dataset.annotations("train").boxes]
    assert 0 in counts and max(counts) > 0
    batches = iter(train_batches(dataset, config))
    masks = np.concatenate([next(batches)["boxes_mask"] for _ in range(3)])
    assert sorted(masks.sum(1).tolist())[0] == 0 and masks.any()


# Mixed sources


def hue_share(rgba: np.ndarray) -> float:
    """Share of a sprite's pixels in the cut-outs' magenta."""
    solid = rgba[rgba[..., 3] > 200][:, :3].astype(int)
    return float(((solid[:, 0] > 1.5 * solid[:, 1]) & (solid[:, 2] > 1.5 * solid[:, 1])).mean()) if len(solid) else 0.0


@pytest.mark.parametrize("preset", ["tiny", "varied"])
def test_a_mixture_shares_identities_between_the_sources(cutouts, preset):
    changes = dict(size=(160, 256), train_identities=16, test_identities=8, cameras=4, queries=0)
    street = Street(StreetOptions.preset(preset, **(SMALL | changes), source=cutouts, drawn_share=0.25))
    seen: dict[int, list[bool]] = {}
    for split in ("train", "gallery"):
        for index in range(40):
            for thing in street.layout(split, index).objects:
                if not thing.is_prop:
                    seen.setdefault(thing.person_id, []).append(hue_share(thing.sprite.rgba) > 0.6)
    strangers = seen.pop(-1)
    assert 0.5 < np.mean(strangers) < 0.98
    # Numbers 0-11 of 16 in training and 16-21 of 8 in the gallery are cut-outs, at every sight.
    assert set(seen) == set(range(24))
    for person, sights in seen.items():
        assert np.mean(sights) == (person < 12 or 16 <= person < 22), person


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "wild"}, r"style='wild' is unknown; choose one of street, varied"),
        ({"drawn_share": 0.5}, r"drawn_share=0\.5 mixes drawn people with cut-outs; name these in source"),
        ({"source": "x", "drawn_share": 1.0}, r"drawn_share=1\.0 must be in \[0, 1\)"),
        ({"empty": 1.0}, r"empty=1\.0"),
        ({"min_visible": 0.0}, r"min_visible=0\.0"),
        ({"quality": (95, 15)}, r"quality=\(95, 15\)"),
        ({"person_height": (0.1, 3.0)}, r"person_height"),
    ],
)
def test_impossible_options_are_named_in_one_line(wrong, message):
    with pytest.raises(InputError, match=message) as raised:
        StreetOptions.preset("varied", **wrong)
    assert "\n" not in str(raised.value)


def test_too_few_cutouts_for_a_mixture_are_named(cutouts):
    options = SMALL | {"train_identities": 60}
    Street(StreetOptions.preset("varied", **options, source=cutouts, drawn_share=0.8))
    with pytest.raises(
        InputError, match=r"train_identities=60 with drawn_share=0\.5 needs 30; lower it, raise drawn_share or add"
    ):
        Street(StreetOptions.preset("varied", **options, source=cutouts, drawn_share=0.5))
