"""The pipeline on a dataset held in memory: what is in a batch, in which order, on which process, after a resume."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from psdiff_jax.data.augment import augment_sample
from psdiff_jax.data.options import AugmentOptions
from psdiff_jax.data.pipeline import view_batches
from psdiff_jax.data.schema import Annotations
from psdiff_jax.data.transforms import to_original
from psdiff_jax.errors import InputError

from ..options import data_options, eval_batches, train_batches
from ..stored import stored

SIZES = [(40, 80), (60, 40), (50, 50)]  # cycled: wider than the network image, portrait, neither
LANDSCAPE = [(40, 80), (50, 50)]
ORDER = [0, 2, 3, 5, 6, 8, 9, 1, 4, 7, 10]  # of evaluation: the portrait images come last


class MemoryDataset:
    """Image i is black, with one white box and one grey one; image 5 is without people."""

    name, folder = "memory", Path("memory")

    def __init__(self, count: int = 11, sizes=SIZES):
        self.records, boxes, ids, found = [], [], [], []
        for i in range(count):
            height, width = sizes[i % len(sizes)]
            image = np.zeros((height, width, 3), np.uint8)
            gt_boxes = [] if i == 5 else [[4, 8, 20, 32], [24, 4, 32, 28]]
            for value, (x1, y1, x2, y2) in zip([255, 120], gt_boxes, strict=False):
                image[y1:y2, x1:x2] = value
            self.records.append(stored(image))
            boxes.append(np.asarray(gt_boxes, np.float32).reshape(-1, 4))
            ids.append(np.asarray([i, -1] if gt_boxes else [], np.int64))
            found.append((height, width))
        unknown = np.full(count, -1)
        names = tuple(f"{i:03d}.png" for i in range(count))
        self._annotations = Annotations(names, np.asarray(found, np.int32), unknown, unknown, tuple(boxes), tuple(ids))

    def annotations(self, split):
        return self._annotations

    def source(self, split):
        return self.records


class PositionTargets:
    """Embedding of box b in image i: [i, b, 0, 0]."""

    dim = 4

    def __init__(self, dataset):
        self.dataset = dataset

    def lookup(self, split, image_index):
        count = len(self.dataset.annotations(split).boxes[image_index])
        return np.asarray([[image_index, b, 0, 0] for b in range(count)], np.float32).reshape(-1, 4)


@pytest.fixture(scope="module")
def dataset():
    return MemoryDataset()


@pytest.fixture
def config():
    return ConfigDict(
        {
            "seed": 3,
            "data": {"image_size": (32, 48), "max_boxes": 5, "workers": 0, "augment": {"flip": False}},
            "train": {"batch_size": 4},
            "evaluate": {"batch_size": 4},
        }
    )


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_batch_layout(dataset, config):
    batches = take(train_batches(dataset, config, embedding_dim=7), 6)
    assert {batch["image"].shape for batch in batches} == {(4, 32, 48, 3), (4, 48, 32, 3)}
    layout = {key: (rows.shape, rows.dtype.name) for key, rows in batches[0].items()}
    assert layout == {
        "image": ((4, 32, 48, 3), "uint8"),
        "image_size": ((4, 2), "int32"),
        "scale": ((4,), "float32"),
        "boxes": ((4, 5, 4), "float32"),
        "boxes_mask": ((4, 5), "bool"),
        "embeddings": ((4, 5, 7), "float32"),
        "person_ids": ((4, 5), "int32"),
        "image_index": ((4,), "int32"),
    }


def test_boxes_lie_on_what_they_enclose(dataset, config):
    """White and grey pixels of every network image, flipped or not, are where boxes 0 and 1 say, and nowhere else."""
    config.data.augment.flip = True
    flips = set()
    for batch in take(train_batches(dataset, config), 8):
        for row in range(4):
            image, mask = batch["image"][row, ..., 0].astype(int), batch["boxes_mask"][row]
            h, w = batch["image_size"][row]
            assert not image[h:].any() and not image[:, w:].any()
            assert mask.sum() == (0 if batch["image_index"][row] == 5 else 2)
            for (x1, y1, x2, y2), value in zip(batch["boxes"][row][mask], [255, 120], strict=False):
                inside = image[int(np.ceil(y1)) : int(y2), int(np.ceil(x1)) : int(x2)]
                assert inside.size and (inside == value).all()
            if mask.any():
                (a1, _, _, _), (b1, _, _, _) = batch["boxes"][row, :2]
                flips.add(bool(a1 > b1))
            x1, y1, x2, y2 = batch["boxes"][row][mask].T if mask.any() else np.zeros((4, 1))
            assert image.astype(bool).sum() <= sum((np.ceil(y2) - np.floor(y1)) * (np.ceil(x2) - np.floor(x1)))
    assert flips == {False, True}


def test_evaluation_is_in_order_and_complete(dataset, config):
    batches = eval_batches(dataset, "gallery", config, targets=PositionTargets(dataset))
    assert len(batches) == 3
    for _ in range(2):  # can be iterated again
        found = list(batches)
        assert np.concatenate([b["image_index"] for b in found]).tolist() == [*ORDER[:7], -1, *ORDER[7:]]
        assert np.concatenate([b["valid"] for b in found]).tolist() == [True] * 7 + [False] + [True] * 4
    padded = found[1]
    assert not padded["image"][3].any() and not padded["boxes_mask"][3].any() and (padded["person_ids"][3] == -1).all()
    assert padded["image_size"][3].tolist() == [32, 48] and padded["scale"][3] == 1
    assert [b["image"].shape[1:3] for b in found] == [(32, 48), (32, 48), (48, 32)]
    np.testing.assert_allclose(found[2]["scale"], 32 / 40)  # of 60x40 into 48x32, not into 32x48
    annotations = dataset.annotations("gallery")
    for batch in found:
        for row in np.flatnonzero(batch["valid"]):
            i, mask = batch["image_index"][row], batch["boxes_mask"][row]
            back = to_original(batch["boxes"][row][mask], batch["scale"][row], annotations.sizes[i])
            np.testing.assert_allclose(back, annotations.boxes[i], atol=1e-4)
            np.testing.assert_array_equal(batch["person_ids"][row][mask], annotations.person_ids[i])
            expected = [[i, b, 0, 0] for b in range(mask.sum())]
            np.testing.assert_array_equal(batch["embeddings"][row][mask], np.reshape(expected, (-1, 4)))


def test_evaluation_of_chosen_images(dataset, config):
    found = list(eval_batches(dataset, "gallery", config, indices=[7, 2, 2], batch_size=2))
    assert [b["image_index"].tolist() for b in found] == [[2, 2], [7, -1]]


def test_evaluation_in_windows(dataset, config):
    """Portrait images come last among the images of a window, and a window is a range of the split."""
    found = list(eval_batches(dataset, "gallery", config, batch_size=2, window=4, indices=[1, 2, 3, 4, 5, 6, 7, 10]))
    expected = [[2, 3], [1, -1], [5, 6], [4, 7], [10, -1]]
    assert [b["image_index"].tolist() for b in found] == expected


def test_every_epoch_holds_every_image_once_in_another_order(config):
    config.train.batch_size = 11
    batches = take(train_batches(MemoryDataset(sizes=LANDSCAPE), config), 3)
    epochs = [batch["image_index"].tolist() for batch in batches]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(11))


def test_portrait_and_landscape_images_take_turns(dataset, config):
    config.train.batch_size = 1
    batches = take(train_batches(dataset, config), 22)
    indices = [int(batch["image_index"][0]) for batch in batches]
    assert (np.bincount(indices) == 2).all()
    portrait = [batch["image"].shape[1:3] == (48, 32) for batch in batches]
    assert portrait == [index % 3 == 1 for index in indices]
    assert max(map(len, "".join("l "[p] for p in portrait).split())) <= 2  # 4 among 11: never far apart


def test_same_seed_same_batches_other_seed_other_batches(dataset, config):
    config.data.augment = {"flip": True, "scale_jitter": (0.7, 1.4), "color": 0.3}
    first, second = take(train_batches(dataset, config), 5), take(train_batches(dataset, config), 5)
    for a, b in zip(first, second, strict=True):
        assert_same(a, b)
    config.seed = 4
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, train_batches(dataset, config), strict=False))


@pytest.mark.parametrize("threads", [1, 5])
def test_neither_threads_nor_cache_change_a_batch(dataset, config, threads):
    config.data.augment = {"flip": True, "scale_jitter": (0.7, 1.4)}
    expected = take(train_batches(dataset, config), 6)
    config.data.threads, config.data.cache = threads, True
    for a, b in zip(expected, take(train_batches(dataset, config), 6), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("step", [0, 1, 4, 9])  # an epoch ends within batch 2 (11 images, batches of 4)
def test_resume_is_identical(dataset, config, step):
    config.data.augment = {"flip": True, "scale_jitter": (0.7, 1.4), "color": 0.3}
    iterator = train_batches(dataset, config)
    take(iterator, step)
    state = iterator.get_state()
    expected = take(iterator, 4)
    assert state == {"step": step, "seed": 3, "batch_size": 4, "images": 11, "turned": 4}
    resumed = train_batches(dataset, config)
    take(resumed, 2)  # what it did before does not matter
    resumed.set_state(state)
    for a, b in zip(expected, take(resumed, 4), strict=True):
        assert_same(a, b)


def test_resume_with_another_batch_size_is_refused(dataset, config):
    state = train_batches(dataset, config).get_state()
    config.train.batch_size = 8
    with pytest.raises(InputError) as caught:
        train_batches(dataset, config).set_state(state)
    assert str(caught.value) == (
        "the checkpoint's data position was saved with batch_size=4, this run has batch_size=8: "
        "continue with the same setting, or start in another --workdir"
    )
    with pytest.raises(InputError, match="saved with views=2, this run has views=None"):  # of kept features
        train_batches(dataset, config).set_state({**train_batches(dataset, config).get_state(), "views": 2})


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_batches_of_one(dataset, config, count):
    """Blocks of the processes, put together, are the batch of a single process: disjoint, complete, in order."""
    config.data.augment = {"flip": True, "scale_jitter": (0.7, 1.4), "color": 0.3}
    whole = take(train_batches(dataset, config), 4)
    parts = [take(train_batches(dataset, config, process_index=p, process_count=count), 4) for p in range(count)]
    for step, batch in enumerate(whole):
        assert_same(batch, {key: np.concatenate([part[step][key] for part in parts]) for key in batch})
    parts = [list(eval_batches(dataset, "gallery", config, process_index=p, process_count=count)) for p in range(count)]
    for step, batch in enumerate(eval_batches(dataset, "gallery", config)):
        assert_same(batch, {key: np.concatenate([part[step][key] for part in parts]) for key in batch})


def test_scale_jitter_keeps_boxes_on_their_people(dataset, config):
    config.data.augment = {"flip": False, "scale_jitter": (0.5, 2.0)}
    scales, lost = set(), 0
    for batch in take(train_batches(dataset, config, targets=PositionTargets(dataset)), 12):
        for row in range(4):
            image, index = batch["image"][row, ..., 0].astype(int), batch["image_index"][row]
            mask = batch["boxes_mask"][row]
            scales.add(float(batch["scale"][row]))
            lost += (index != 5) * (2 - mask.sum())
            for slot in np.flatnonzero(mask):
                x1, y1, x2, y2 = batch["boxes"][row, slot]
                which = int(batch["embeddings"][row, slot, 1])  # the target says which box of the image this is
                value, person_id = [(255, index), (120, -1)][which]
                # one pixel of interpolation at the rim
                inside = image[int(np.ceil(y1)) + 1 : int(y2) - 1, int(np.ceil(x1)) + 1 : int(x2) - 1]
                assert inside.size == 0 or (np.abs(inside - value) <= 1).all()
                assert batch["person_ids"][row, slot] == person_id
    assert max(scales) > 1.2 and min(scales) < 0.6 and lost > 0


def test_crop_drops_a_box_of_which_little_is_left():
    """With factor 2 the 20 x 20 image becomes 40 x 40 and a 20 x 20 window is cut from it."""
    sample = {
        "image": np.zeros((40, 40, 3), np.uint8),
        "scale": 2.0,
        "fit": ((20, 20), 1.0),
        "boxes": np.asarray([[0, 0, 40, 40], [0, 0, 4, 4]], np.float32),
        "person_ids": np.asarray([1, 2]),
        "embeddings": np.zeros((2, 3), np.float32),
    }
    generator = np.random.default_rng(1)
    seen = set()
    for _ in range(20):
        out = augment_sample(sample, AugmentOptions(flip=False, scale_jitter=(2.0, 2.0)), generator)
        assert out["image"].shape == (20, 20, 3)
        assert len(out["boxes"]) == len(out["person_ids"]) == len(out["embeddings"])
        seen.add(tuple(out["person_ids"].tolist()))
    assert seen in ({(1,)}, {(1,), (1, 2)})  # a quarter of box 1 is always left; of box 2 mostly nothing


def test_too_many_boxes(dataset, config):
    config.data.max_boxes = 1
    with pytest.raises(InputError) as caught:
        train_batches(dataset, config)
    assert str(caught.value) == "image 000.png of split train has 2 boxes, more than config.data.max_boxes=1: raise it"


def test_batch_that_does_not_divide(dataset, config):
    with pytest.raises(InputError) as caught:
        train_batches(dataset, config, process_count=2, device_count=8)
    assert str(caught.value) == (
        "config.train.batch_size is 4, which does not divide by the 8 devices of 2 processes: choose a multiple of 8"
    )
    with pytest.raises(InputError, match=r"^config\.evaluate\.batch_size is 3, .* choose a multiple of 2$"):
        eval_batches(dataset, "gallery", config, batch_size=3, device_count=2)


def test_empty_split(config):
    with pytest.raises(InputError) as caught:
        train_batches(MemoryDataset(0), config)
    assert str(caught.value) == "split train of dataset memory is empty: check config.data"


def test_broken_record_is_named(config):
    dataset = MemoryDataset(4)
    dataset.records[2]["image"] = dataset.records[2]["image"][:40]
    with pytest.raises(InputError) as caught:
        list(eval_batches(dataset, "gallery", config))
    assert str(caught.value) == (
        "record 2 (002.png) of split gallery in memory is not a readable image (truncated or broken); replace it"
    )


def test_targets_of_the_wrong_shape(dataset, config):
    class Short(PositionTargets):
        def lookup(self, split, image_index):
            return np.zeros((1, 4), np.float32)

    with pytest.raises(InputError) as caught:
        list(eval_batches(dataset, "gallery", config, targets=Short(dataset)))
    assert str(caught.value) == (
        "the teacher's embeddings of 000.png have shape (1, 4), expected (2, 4):"
        " boxes x embedding size; make them again"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "augment",
            {"rotate": 3},
            "config.data.augment.rotate: no such key in config.data.augment; there are color, copy_paste, flip, "
            "scale_jitter",
        ),
        (
            "augment",
            {"scale_jitter": (1.2, 0.8)},
            "config.data.augment.scale_jitter=(1.2, 0.8): give (low, high) with low <= high",
        ),
        ("augment", {"color": 2.0}, "config.data.augment.color=2.0: must lie within 0 and 0.999"),
        ("image_size", (0, 48), "config.data.image_size=(0, 48): must be 32 or more"),
    ],
)
def test_wrong_keys(dataset, config, key, value, message):
    config.data[key] = value
    with pytest.raises(InputError) as caught:
        train_batches(dataset, config)
    assert str(caught.value) == message


def test_cache_that_would_not_fit(dataset, config, monkeypatch):
    monkeypatch.setattr("psdiff_jax.data.image_reader.CACHE_LIMIT", 1000)
    config.data.cache = True
    with pytest.raises(InputError, match=r"^config\.data\.cache: the images of split train need .* turn it off$"):
        train_batches(dataset, config)


def test_evaluation_keeps_no_images(dataset, config, monkeypatch):
    """Each is read once: with a cache, memory would grow with the gallery."""
    expected = list(eval_batches(dataset, "gallery", config))
    monkeypatch.setattr("psdiff_jax.data.image_reader.CACHE_LIMIT", 1000)
    config.data.cache = True
    for a, b in zip(expected, eval_batches(dataset, "gallery", config), strict=True):
        assert_same(a, b)


def test_views_are_of_one_orientation(dataset, config):
    with pytest.raises(
        InputError, match=r"^config\.train\.views: 4 training images \(001\.png, \.\.\.\) have the other"
    ):
        view_batches(dataset, data_options(config.data), view=0, batch_size=4, seed=3)
    assert (
        len(view_batches(MemoryDataset(sizes=LANDSCAPE), data_options(config.data), view=0, batch_size=4, seed=3)) == 3
    )
