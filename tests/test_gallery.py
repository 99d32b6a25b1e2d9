"""What --query names in a dataset with annotations."""

from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from psdiff_jax.errors import InputError
from psdiff_jax.gallery import find_query


def test_a_query_image_is_upright_as_its_box_was_read_off_it(tmp_path):
    exif, stored = Image.Exif(), np.zeros((30, 50, 3), np.uint8)
    exif[0x0112] = 6  # shown turned by 90 degrees, 30 wide and 50 high
    stored[:, 40:] = 255
    path, dataset = tmp_path / "phone.png", cast(Any, None)  # which is not asked
    Image.fromarray(stored).save(path, exif=exif)
    image, box, name, left_out = find_query(f"{path}:2,35,20,49", dataset)
    assert image.shape == (50, 30, 3) and image[41:].min() == 255 and image[:39].max() == 0
    assert (box.tolist(), name, left_out) == ([2, 35, 20, 49], "phone.png", ())
    with pytest.raises(InputError, match="30x50"):
        find_query(f"{path}:2,35,40,49", dataset)
