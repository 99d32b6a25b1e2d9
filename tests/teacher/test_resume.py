"""A teacher's training that is stopped, wherever, ends as one that was left alone does."""

import numpy as np
import pytest

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import flatten_state
from psdiff_jax.teacher import train as teacher_training
from psdiff_jax.teacher.train import train_teacher
from psdiff_jax.training.loop import fit as plain_fit

from .test_train import CONFIG as SMALL
from .test_train import Dataset, options_of, striped_people

pytestmark = pytest.mark.slow

CONFIG = SMALL | {
    "steps": 8, "identities": 8, "unlabelled": 4, "negatives": 7, "erase": 0.5, "jitter": 0.1, "checkpoint_every": 3,
}  # fmt: skip


def train(folder, hooks=()):
    """(teacher, everything that training ended with)."""
    end = {}

    def fit(*args, **kwargs):
        state = plain_fit(*args, **kwargs, prefix="teacher", hooks=hooks)
        end.update({name: np.array(leaf) for name, leaf in flatten_state(parallel.fetch(state)).items()})
        return state

    crops = striped_people()
    return train_teacher(options_of(CONFIG), Dataset(crops), folder, crops=crops, fit=fit), end


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"))


def test_a_killed_training_goes_on_as_if_nothing_had_happened(undisturbed, tmp_path, capsys):
    """Weights, statistics, Adam's moments, memory bank, negatives and their cursor, bit for bit."""

    def killed(step, _):
        raise MemoryError

    with pytest.raises(MemoryError):
        train(tmp_path, hooks=[(5, killed)])
    teacher, end = train(tmp_path)
    assert "teacher: resumed from step 3" in capsys.readouterr().out
    alone, expected = undisturbed
    assert teacher.hash == alone.hash and end.keys() == expected.keys() and int(end["memory_bank/cursor"]) == 4 * 8 % 7
    for name, value in expected.items():
        np.testing.assert_array_equal(end[name], value, err_msg=name)


def test_a_stop_while_the_finished_teacher_is_written_costs_no_step(undisturbed, tmp_path, monkeypatch, capsys):
    def killed(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(teacher_training, "save_npz", killed)
        with pytest.raises(MemoryError):
            train(tmp_path)
    capsys.readouterr()
    teacher, _ = train(tmp_path)
    assert "already at step 8 of 8" in capsys.readouterr().out and teacher.hash == undisturbed[0].hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["teacher.json", "teacher.npz"]


def test_a_batch_that_devices_cannot_share_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_training.jax, "device_count", lambda: 5)
    crops = striped_people(people=4, unlabelled=0)  # fewer than the config asks for, of both
    with pytest.raises(InputError, match=r"batches of 8 crops \(.*here 4 x 2 \+ 0\) do not divide by 5 devices"):
        train_teacher(options_of(CONFIG), Dataset(crops), tmp_path, crops=crops)
