"""What happens beside a run: a second program, a file that is replaced, a clock that goes backwards, NaN."""

import itertools
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from psdiff_jax.datasets.common import builder
from psdiff_jax.errors import InputError
from psdiff_jax.inference import readings
from psdiff_jax.teacher.target_cache import cached_rows
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.loop import fit
from psdiff_jax.training.writer import MetricWriter, read_metrics

from .. import folder as photos
from ..datasets.custom_tree import json_tree
from ..datasets.mot_tree import write_image
from ..training.test_loop import toy_batch, toy_batches, toy_state, toy_step
from . import stages

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "owner", "work"),
    [
        ("targets", np.random, "default_rng"),
        ("indexing", photos.ColourEmbedder, "send"),
        ("preparation", builder, "encoded_image"),
    ],
)
def test_two_at_once(name, owner, work, tmp_path, tried, monkeypatch):
    """The second waits and finds what the first has made: nothing is done twice."""
    done, start, real = [], threading.Barrier(2), getattr(owner, work)

    def counted(*args, **given):
        done.append(args)
        return real(*args, **given)

    whole = stages.STAGES[name](tmp_path / "whole")
    if name == "indexing":  # it makes its images, too
        stages.STAGES[name](tmp_path / "both")
        shutil.rmtree(tmp_path / "both/index")
    monkeypatch.setattr(owner, work, counted)
    stages.STAGES[name](tmp_path / "alone")
    alone = len(done)
    done.clear()

    def run():
        start.wait()
        return stages.STAGES[name](tmp_path / "both")

    with ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(run), pool.submit(run)]]
    assert results == [whole, whole] and len(done) == alone > 0
    tried(f"two at once: {name}", "both end alike")


def test_targets_are_computed_once(tmp_path):
    calls = []

    def compute(start):
        calls.append(start)
        time.sleep(0.2)
        yield np.ones((3, 2), np.float32)

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(cached_rows, tmp_path / "t.npy", {"of": "x"}, (3, 2), compute) for _ in range(4)]
        assert all((job.result() == 1).all() for job in jobs)
    assert calls == [0]


def test_an_image_that_is_replaced_while_a_dataset_is_prepared(tmp_path, monkeypatch, tried):
    """Between its header and its bytes: by one of another size, by none, by no image."""
    root, real = json_tree(tmp_path / "images of the user"), builder.encoded_image
    changes = {
        "another size": (lambda path: write_image(path, 70, 90), "pixels a moment ago and is 90 x 70 now"),
        "gone": (lambda path: path.unlink(), "cannot be read any more"),
        "no image": (lambda path: path.write_text("Dear diary"), "is not a readable image"),
    }
    for name, (change, line) in changes.items():
        images = []

        def replaced(path, *rest, change=change, images=images):
            if not images:
                images.append(path)
                content = path.read_bytes()
                change(path)
                try:
                    return real(path, *rest)
                finally:
                    path.write_bytes(content)
            return real(path, *rest)

        monkeypatch.setattr(builder, "encoded_image", replaced)
        with pytest.raises(InputError) as caught:
            stages.preparation(tmp_path / name)
        assert line in str(caught.value) and str(images[0]) in str(caught.value)
        tried("an image replaced while it is read: preparation", "one line")
        monkeypatch.setattr(builder, "encoded_image", real)
        assert stages.preparation(tmp_path / name) == stages.preparation(tmp_path / "whole")
    assert root.is_dir()


def test_an_image_that_is_replaced_while_it_is_indexed(tmp_path, monkeypatch, tried):
    """Whichever content is embedded, the next update brings the index to the folder as it is."""
    real, turns = readings.read_bytes, itertools.count()

    def replaced(path):
        found = real(path)
        if next(turns) % 3 == 0:
            photos.write_image(path, 500 + next(turns))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(readings, "read_bytes", replaced)
        stages.indexing(tmp_path / "changing")
    after = stages.indexing(tmp_path / "changing")
    photos.update_index(photos.ColourEmbedder(), tmp_path / "changing/photos", tmp_path / "new", photos.OPTIONS)
    assert after == stages.index_contents(tmp_path / "new")
    tried("an image replaced while it is read: indexing", "the next update is right")


def test_a_clock_that_goes_backwards(tmp_path, monkeypatch, tried):
    whole = stages.training(tmp_path / "whole")
    ticks = itertools.count()
    for name, unit in (("time", 1), ("time_ns", 10**9)):
        monkeypatch.setattr(time, name, lambda unit=unit: (1_800_000_000 - 3600 * next(ticks)) * unit)
    assert stages.training(tmp_path / "back") == whole
    assert stages.targets(tmp_path / "back") == stages.targets(tmp_path / "whole")
    first = stages.indexing(tmp_path / "back")
    for path in (tmp_path / "back/photos").iterdir():
        os.utime(path, (1, 1))  # files of 1970
    assert stages.indexing(tmp_path / "back") == first
    tried("the clock goes backwards", "as without")


@pytest.mark.parametrize("where", ["x", "y"])
def test_not_a_number_in_the_data(where, tmp_path, tried):
    """The step is named, the last good checkpoint stays, and with better data it goes on from there."""

    def batches(broken):
        def open_(step):
            for number in itertools.count(step):
                batch = toy_batch(number)
                if broken and number == 7:
                    batch[where] = batch[where] * np.nan
                yield batch

        return open_

    with MetricWriter(tmp_path) as writer, Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(InputError, match=r"train: loss is nan at step 8: .*; the checkpoints before are whole"):
            fit(toy_step, toy_state(), batches(True), steps=12, writer=writer, checkpoints=checkpoints, log_every=1,
                checkpoint_every=3)  # fmt: skip
        assert checkpoints.latest_step() == 6
        state = fit(toy_step, toy_state(), batches(False), steps=12, writer=writer, checkpoints=checkpoints,
                    log_every=1)  # fmt: skip
    np.testing.assert_array_equal(state.params, fit(toy_step, toy_state(), toy_batches, steps=12).params)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))
    tried("NaN in the data of a step", "named, the checkpoint stays")


def test_not_a_number_in_the_targets(tmp_path, tried):
    from psdiff_jax.teacher.targets import Targets

    rows = np.eye(4, dtype=np.float32)
    targets = Targets({"train": rows}, {"train": np.array([0, 2, 4])}, "a teacher")
    with pytest.raises(InputError, match="a teacher: the embedding of train box 2 is zero or not finite after a PCA"):
        targets.map(lambda rows: np.where(np.arange(4)[:, None] == 2, np.nan, rows), "a PCA")
    tried("NaN in the targets", "one line that names the box")
