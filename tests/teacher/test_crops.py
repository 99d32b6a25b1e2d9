"""Crops: where they are cut, and that batches are balanced, augmented as told and a function of (seed, step)."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from psdiff_jax.data.schema import Annotations
from psdiff_jax.errors import InputError
from psdiff_jax.teacher.augment import GREY, AugmentOptions, augment_crops
from psdiff_jax.teacher.batches import BalancedBatches
from psdiff_jax.teacher.crops import CropSet, crop_boxes, cut_crops, load_crops

from ..stored import stored

NOTHING = AugmentOptions(flip=False, pad=0.0, erase=0.0, jitter=0.0)


class Dataset:
    """Three images in memory that look like a PreparedDataset."""

    name = "memory"

    def __init__(self, broken: bool = False, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.images = [rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(3)]
        self.train_source = [stored(image[..., ::-1]) for image in self.images]
        if broken:
            self.train_source[2]["image"] = self.train_source[2]["image"][:50]

    def source(self, split: str):
        return self.train_source

    def annotations(self, split: str) -> Annotations:
        boxes = ([[0, 0, 16, 32], [20, 4, 36, 36]], [], [[30.4, 2.6, 60, 40]])
        return Annotations(
            image_names=("a.png", "b.png", "c.png"), sizes=np.full((3, 2), (40, 60), np.int32),
            cameras=np.asarray([0, 1, 2], np.int32), frames=np.arange(3),
            boxes=tuple(np.asarray(b, np.float32).reshape(-1, 4) for b in boxes),
            person_ids=(np.asarray([7, -1]), np.zeros(0, np.int64), np.asarray([9])),
        )  # fmt: skip


def test_a_crop_of_the_right_size_is_the_pixels_themselves():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    crops = crop_boxes(image, np.asarray([[5, 6, 21, 38], [-3, -2, 13.0001, 30]]), (32, 16))
    np.testing.assert_array_equal(crops[0], image[6:38, 5:21])
    whole = crop_boxes(image, np.asarray([[0, 0, 13, 30]]), (32, 16))
    np.testing.assert_array_equal(crops[1], whole[0])  # clipped to the image


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixel_centres_are_aligned(interpolation):
    """Both interpolations reproduce a straight line, away from the borders, to the rounding of a byte."""
    ramp = np.repeat(np.arange(20, 100, dtype=np.uint8)[None, :, None], 30, 0).repeat(3, 2)
    (crop,) = crop_boxes(ramp, np.asarray([[10, 0, 50, 30]]), (60, 80), interpolation)
    x = (np.arange(80) + 0.5) / 2 - 0.5  # source column of each column, pixel centres aligned
    np.testing.assert_allclose(crop[30, 6:-6, 0], (x + 30)[6:-6], atol=0.51)


def test_resizing_is_bicubic_unless_told_otherwise():
    """At an edge between 50 and 200 bicubic interpolation overshoots, bilinear does not."""
    edge = np.full((40, 60, 3), 50, np.uint8)
    edge[:, 30:] = 200
    bicubic, bilinear = (crop_boxes(edge, np.asarray([[20, 0, 40, 40]]), (80, 80), *way) for way in ((), ("bilinear",)))
    assert bicubic.min() < 50 and bicubic.max() > 200
    columns = (np.arange(80) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(bilinear[0, 3, :, 0], np.interp(columns, [9, 10], [50, 200]), atol=0.51)


def test_a_box_outside_is_refused():
    with pytest.raises(InputError, match="no pixel in its 60 x 40 image"):
        crop_boxes(np.zeros((40, 60, 3), np.uint8), np.asarray([[70, 0, 90, 30]]), (32, 16))


def test_load_crops_keeps_the_order_of_the_boxes(tmp_path, monkeypatch):
    dataset = Dataset()
    crops = load_crops(dataset, "train", (32, 16), workers=2)
    np.testing.assert_array_equal(crops.crops[0], dataset.images[0][:32, :16])
    np.testing.assert_array_equal(crops.crops[1], dataset.images[0][4:36, 20:36])
    assert crops.person_ids.tolist() == [7, -1, 9]
    assert crops.image_index.tolist() == [0, 0, 2] and crops.cameras.tolist() == [0, 0, 2]
    monkeypatch.setattr("psdiff_jax.teacher.crops.IN_MEMORY", 0)
    mapped = load_crops(dataset, "train", (32, 16), folder=tmp_path)
    assert isinstance(mapped.crops, np.memmap)
    np.testing.assert_array_equal(mapped.crops, crops.crops)
    other = Dataset(seed=1)  # another process in the same folder, of a pod
    assert (load_crops(other, "train", (32, 16), folder=tmp_path).crops != crops.crops).any()
    np.testing.assert_array_equal(mapped.crops, crops.crops)
    assert not list(tmp_path.iterdir())  # gigabytes that nobody would look at again
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4607))
    with pytest.raises(InputError, match=r"3 crops take 0\.0 GB.*config\.teacher\.folder"):
        load_crops(dataset, "train", (32, 16), folder=tmp_path)


@pytest.mark.parametrize("first, last", [(0, 3), (0, 1), (1, 3), (1, 2), (2, 3), (2, 2)])
def test_any_part_of_the_crops_can_be_cut_out(first, last):
    whole = load_crops(Dataset(), "train", (32, 16)).crops
    part = np.zeros((last - first, 32, 16, 3), np.uint8)
    images = sum(1 for _ in cut_crops(Dataset(), "train", first, part, workers=2))
    np.testing.assert_array_equal(part, whole[first:last])
    assert images == (first < 2 and last > first) + (last == 3 and first < 3)  # and no other is decoded


def test_a_broken_image_is_named():
    with pytest.raises(InputError, match=r"c\.png"):
        load_crops(Dataset(broken=True), "train", (32, 16))


def crop_set(counts=(5, 1, 3, 8), unlabelled=4) -> CropSet:
    ids = np.repeat(np.arange(len(counts)) * 10 + 3, counts)
    ids = np.concatenate([ids, np.full(unlabelled, -1)])
    crops = np.random.default_rng(1).integers(0, 256, (len(ids), 20, 10, 3), np.uint8)
    return CropSet(crops, ids, np.zeros(len(ids), np.int32), np.arange(len(ids), dtype=np.int32))


def test_batches_hold_k_crops_of_p_identities():
    batches = BalancedBatches(crop_set(), identities=2, crops_per_identity=3, unlabelled=2, augment=NOTHING, seed=3)
    assert batches.num_identities == 4 and batches.size == 8 and batches.steps_per_epoch == 2
    seen = []
    for step in range(6):
        batch = batches.batch(step)
        labels = batch["labels"]
        assert batch["crops"].shape == (8, 20, 10, 3) and batch["crops"].dtype == np.uint8
        assert labels[6:].tolist() == [-1, -1] and (labels[:6].reshape(2, 3) == labels[:6:3, None]).all()
        rows = batches.rows(step)
        for label in labels[:6:3]:
            own = rows[:6][labels[:6] == label]
            assert len(set(own)) == min(3, (batches.labels == label).sum())
        seen += labels[:6:3].tolist()
    assert sorted(seen[:4]) == sorted(seen[4:8]) == [0, 1, 2, 3]  # every identity once an epoch


def test_batches_depend_on_seed_and_step_alone():
    first, again = (BalancedBatches(crop_set(), 2, 3, augment=AugmentOptions(jitter=0.2), seed=3) for _ in range(2))
    again.batch(0)
    for step in range(4, 7):
        one, other = first.batch(step), again.batch(step)
        assert (one["crops"] == other["crops"]).all() and (one["labels"] == other["labels"]).all()
    assert (BalancedBatches(crop_set(), 2, 3, seed=4).batch(4)["crops"] != first.batch(4)["crops"]).any()


def test_more_identities_asked_for_than_there_are():
    batches = BalancedBatches(crop_set(unlabelled=0), identities=50, crops_per_identity=2, unlabelled=5)
    assert batches.size == 8 and sorted(set(batches.batch(0)["labels"].tolist())) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="fewer than two"):
        BalancedBatches(crop_set(counts=(6,)), 2, 2)


def augmented(**options):
    crops = crop_set().crops
    return crops, augment_crops(crops, AugmentOptions(**{**vars(NOTHING), **options}), np.random.default_rng(5))


def test_every_shift_is_as_likely():
    """Padding by n and a random crop, as HHCL has it: each of 2n + 1 places both ways."""
    column, row = np.meshgrid(np.arange(1, 11), np.arange(1, 21))
    crops = np.stack([row, column, column], axis=-1).astype(np.uint8)[None].repeat(4000, 0)
    moved = augment_crops(crops, AugmentOptions(**{**vars(NOTHING), "pad": 0.1}), np.random.default_rng(0))
    for middle, channel in ((11, 0), (6, 1)):  # the pixel at (10, 5) tells where it came from
        counts = np.bincount(moved[:, 10, 5, channel], minlength=30)[middle - 2 : middle + 3]
        assert counts.sum() == 4000 and stats.chisquare(counts).pvalue > 1e-3, counts


def test_erased_rectangles_are_the_published_ones():
    """Zhong et al. 2020, Algorithm 1, as a plain loop: area and ratio are drawn again until the rectangle fits."""
    height, width, rng = 128, 64, np.random.default_rng(1)
    crops = np.zeros((2000, height, width, 3), np.uint8)
    erased = augment_crops(crops, AugmentOptions(**{**vars(NOTHING), "erase": 1.0}), np.random.default_rng(0)).any(-1)
    rows, columns = erased.any(2), erased.any(1)
    ours = [rows.sum(1), columns.sum(1), rows.argmax(1), columns.argmax(1)]
    assert (ours[0] * ours[1] == erased.sum((1, 2))).all()
    published = []
    while len(published) < 2000:
        area, ratio = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        h, w = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if h < height and w < width:
            published.append((h, w, rng.integers(height - h + 1), rng.integers(width - w + 1)))
    for found, expected in zip(ours, np.transpose(published), strict=True):
        assert stats.ks_2samp(found, expected).pvalue > 1e-3


def test_each_augmentation_does_only_what_it_says():
    crops, same = augmented()
    np.testing.assert_array_equal(crops, same)

    crops, flipped = augmented(flip=True)
    mirrored = (flipped == crops[:, :, ::-1]).all((1, 2, 3))
    assert 0 < mirrored.sum() < len(crops) and (mirrored | (flipped == crops).all((1, 2, 3))).all()

    crops, erased = augmented(erase=1.0)
    changed = (erased != crops).any(-1)
    assert (erased[changed] == GREY).all()
    assert (0.005 < changed.mean((1, 2))).all() and (changed.mean((1, 2)) < 0.6).all()

    crops, shifted = augmented(pad=0.1)
    for crop, moved in zip(crops, shifted, strict=True):
        assert any(
            (np.roll(crop, (dy, dx), (0, 1)) == moved)[max(dy, 0) : 20 + min(dy, 0), max(dx, 0) : 10 + min(dx, 0)].all()
            for dy in range(-2, 3) for dx in range(-2, 3)
        )  # fmt: skip

    crops, jittered = augmented(jitter=0.2)
    for crop, changed in zip(crops, jittered, strict=True):
        for channel in range(3):  # a straight line of the values, where it does not saturate
            x, y = crop[..., channel].ravel().astype(float), changed[..., channel].ravel().astype(float)
            inner = (y > 0) & (y < 255)
            slope, offset = np.polyfit(x[inner], y[inner], 1)
            assert abs(slope - 1) <= 0.21 and abs(offset) <= 0.2 * 128 + 2
            assert np.abs(slope * x + offset - y)[inner].max() < 1
