"""Kind "none": targets of zeros for every box, and what cannot be done without a teacher."""

from types import SimpleNamespace

import numpy as np
import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.options import read
from psdiff_jax.teacher.kinds import open_targets, open_teacher
from psdiff_jax.teacher.options import TeacherOptions

BOXES = [np.zeros((count, 4), np.float32) for count in (2, 0, 3)]
DATASET = SimpleNamespace(name="empty", annotations=lambda split: SimpleNamespace(boxes=BOXES))
OPTIONS = read(TeacherOptions, {"kind": "none"}, "config.teacher")


def test_every_box_has_a_zero_target(tmp_path):
    targets = open_targets(OPTIONS, DATASET, tmp_path, ("train",), embedding_dim=7)
    assert targets.dim == 7 and [len(targets.lookup("train", i)) for i in range(3)] == [2, 0, 3]
    assert not targets.all("train").any()
    assert not list(tmp_path.iterdir())


def test_there_is_nothing_to_evaluate_or_to_embed_with(tmp_path):
    with pytest.raises(InputError, match=r"config\.teacher\.kind=none: there is no teacher to evaluate"):
        open_targets(OPTIONS, DATASET, tmp_path, embedding_dim=None)
    with pytest.raises(InputError, match="no teacher to embed crops with"):
        open_teacher(OPTIONS, DATASET, tmp_path).embed(np.zeros((1, 8, 4, 3), np.uint8))
