"""Crops of a dataset are what `crop_sheets` reads."""

import numpy as np

from psdiff_jax.datasets.crop_sheets.crops import find_crops, person_numbers, read_crop
from psdiff_jax.teacher.crops import CropSet

from .loading import load_script


def test_crops_of_a_dataset_are_crops_for_sheets(tmp_path):
    colours = np.uint8([10, 120, 240, 60])
    crops = np.broadcast_to(colours[:, None, None, None], (4, 32, 16, 3)).copy()
    given = CropSet(crops, np.int64([7, -1, 7, 12]), np.zeros(4, np.int32), np.int32([0, 0, 1, 1]))
    load_script("cut_crops").write_crops(given, tmp_path / "crops")
    people, others = find_crops(str(tmp_path / "crops"))
    assert not others and {person: len(images) for person, images in people.items()} == {"7": 2, "-1": 1, "12": 1}
    assert person_numbers(people) == ({"7": 7, "12": 12}, False)  # -1 is nobody
    read = [read_crop(str(tmp_path / "crops"), crop) for crop in (*people["7"], *people["-1"], *people["12"])]
    assert all(image.shape == (32, 16, 3) for image in read)
    np.testing.assert_allclose([image.mean() for image in read], colours[[0, 2, 1, 3]], atol=1)
