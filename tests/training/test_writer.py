import json

import numpy as np

from psdiff_jax.training.writer import MetricWriter, read_metrics


def test_a_record_is_one_json_object_a_line(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars(3, "train", {"loss": np.float32(0.1), "images": np.int64(123456789), "bad": float("nan")})
        # On the disk at once, for someone who looks on.
        line = (tmp_path / "metrics.jsonl").read_text()
    assert line.endswith("\n")
    assert json.loads(line) == {"step": 3, "split": "train", "loss": 0.1, "images": 123456789, "bad": None}


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    with MetricWriter(tmp_path) as writer:
        writer.scalars(7, "train", {"loss": 2.5})
        writer.images(7, "prediction", picture)
        writer.text(7, "config", "a: 1")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 2.5)]
    assert (events.Images("prediction")[0].width, events.Images("prediction")[0].height) == (6, 4)


def test_rewind_drops_what_will_be_trained_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricWriter(tmp_path) as writer:
        writer.scalars(500, "teacher", {"loss": 9})  # another count of steps: stays
        for step in (10, 20):
            writer.scalars(step, "train", {"loss": step})
        writer.scalars(20, "gallery", {"mAP": 0.5})  # of the interrupted run, after the checkpoint of step 10
    with MetricWriter(tmp_path) as writer:
        writer.rewind(10)
        writer.scalars(20, "train", {"loss": 21})
    found = [(r["split"], r["step"], r["loss"]) for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert found == [("teacher", 500, 9), ("train", 10, 10), ("train", 20, 21)]
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 10), (20, 21)]


def test_a_record_that_was_cut_off_is_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "split": "train", "loss": 1}\n{"step": 2, "spl')
    with MetricWriter(tmp_path) as writer:
        writer.scalars(2, "train", {"loss": 5})
    assert [r["step"] for r in read_metrics(file)] == [1, 2]
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("psdiff_jax.parallel.is_main_process", lambda: False)
    with MetricWriter(tmp_path) as writer:
        writer.rewind(0)
        writer.scalars(1, "train", {"loss": 1})
        writer.images(1, "x", np.zeros((2, 2, 3), np.uint8))
    assert not list(tmp_path.iterdir())
