"""Images that are stored smaller than they were annotated: the boxes stay, the pixels of a batch hardly change."""

import cv2
import numpy as np
import pytest

from psdiff_jax.data.pipeline import eval_batches, train_batches
from psdiff_jax.data.stored_image import original_image
from psdiff_jax.errors import InputError

from ..datasets.mot_tree import sequence, write_image
from ..options import data_options, open_dataset

SIZE = (270, 480)  # of the frames; they are asked for at 64x96 and 90x128
ROWS = "\n".join(f"{frame},{person},{20 + 200 * person},40,90,180,1,1,1" for frame in range(1, 9) for person in (0, 1))


@pytest.fixture
def root(tmp_path):
    """A sequence of smooth noise, in which a wrong scale or shift shows."""
    frames = {number: SIZE for number in range(1, 9)}
    sequence(tmp_path / "mot" / "MOT-01", frames, ROWS, seqinfo=None)
    for number in frames:
        path = write_image(tmp_path / "mot" / "MOT-01" / "img1" / f"{number:06d}.jpg", *SIZE)
        noise = np.random.default_rng(number).integers(0, 256, (9, 16, 3)).astype(np.uint8)
        smooth = cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        path.write_bytes(cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes())
    return tmp_path / "mot"


def options(root, image_size=(90, 128), **builder):
    return {
        "name": "mot",
        "root": str(root),
        "prepared_dir": str(root.parent / "prepared"),
        "builder": builder,
        "image_size": image_size,
        "max_boxes": 4,
    }


@pytest.mark.parametrize("stored_size", [(90, 128), (113, 160)], ids=["as asked for", "larger"])
def test_batches_are_those_of_the_files(root, stored_size):
    plain, shrunk = options(root), options(root, stored_size=stored_size)
    pairs = [
        next(iter(eval_batches(open_dataset(o), "gallery", data_options(o), batch_size=4))) for o in (plain, shrunk)
    ]
    for name in pairs[0].keys() - {"image"}:
        np.testing.assert_array_equal(pairs[0][name], pairs[1][name])
    difference = np.abs(pairs[0]["image"].astype(float) - pairs[1]["image"])
    assert 0 < difference.mean() < 3  # of 255


def test_annotations_are_of_the_original(root):
    plain, shrunk = open_dataset(options(root)), open_dataset(options(root, stored_size=(90, 128)))
    assert shrunk.folder != plain.folder
    np.testing.assert_array_equal(shrunk.annotations("gallery").sizes, plain.annotations("gallery").sizes)
    np.testing.assert_array_equal(shrunk.queries().boxes, plain.queries().boxes)
    record = shrunk.gallery_source[0]
    stored = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)
    assert stored.shape == (72, 128, 3) and record["scale"] == np.float32(128 / 480)
    enlarged = original_image(record, "x")
    assert enlarged.shape == (*SIZE, 3)
    assert np.abs(enlarged.astype(float) - original_image(plain.gallery_source[0], "x")).mean() < 4


def test_what_fits_is_stored_as_it_is(root):
    dataset = open_dataset(options(root, stored_size=(400, 480)))
    paths = sorted((root / "MOT-01" / "img1").iterdir())
    assert dataset.train_source[0]["image"] == paths[0].read_bytes() and dataset.train_source[0]["scale"] == 1


def test_images_that_are_needed_larger_than_they_are_stored(root):
    config = options(root, stored_size=(90, 128)) | {"augment": {"scale_jitter": (0.8, 1.25)}}
    with pytest.raises(InputError, match=r"0\.27 of its size and is needed at 0\.33: .*stored_size=\(113,160\)"):
        next(train_batches(open_dataset(config), data_options(config), batch_size=2, seed=0))
    larger = options(root, stored_size=(113, 160)) | {"augment": {"scale_jitter": (0.8, 1.25)}}
    assert next(train_batches(open_dataset(larger), data_options(larger), batch_size=2, seed=0))["boxes_mask"].any()


@pytest.mark.parametrize("value", [800, "800", (800,), (800.0, 1333.0), (800, 8), [1, 2, 3]])
def test_a_size_that_is_none(root, value):
    with pytest.raises(InputError, match=r"config\.data\.builder\.stored_size is .*give \(height, width\)"):
        open_dataset(options(root, stored_size=value))
