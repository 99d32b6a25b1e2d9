"""What training reports: TensorBoard events, and `metrics.jsonl` for everything that is not TensorBoard.

    writer = MetricWriter(workdir)
    writer.scalars(step, "train", {"loss": 1.5})      {"step": 100, "split": "train", "loss": 1.5}
    writer.images(step, "predictions", uint8_HWC)

Each split is a run of its own in `DIR/tensorboard`, so that curves of one name lie over each other.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.files import write_atomically, writing


class MetricWriter:
    """Writes to `workdir/tensorboard` and `workdir/metrics.jsonl`; on all processes but the first it does nothing."""

    def __init__(self, workdir: str | Path):
        self._folder = Path(workdir)
        self._runs: dict[str, Any] = {}
        self._purge_step: int | None = None
        self._file: Any = None
        self._active = parallel.is_main_process()
        if self._active:
            import tensorboardX  # noqa: F401  here, for it takes a second that would be counted as training

    @property
    def path(self) -> Path:
        """The file of records."""
        return self._folder / "metrics.jsonl"

    def rewind(self, step: int, split: str = "train") -> None:
        """Forgets what an interrupted run wrote after `step`, before that part is trained again.

        Gone are the records of later steps, of any split, from the first such record of `split` on: what came before
        it, the training of the teacher for example, counts steps of its own. A line that was cut off goes too.
        """
        if not self._active:
            return
        self.close()
        self._purge_step = step + 1  # TensorBoard hides what events of earlier files say about these steps
        if not self.path.is_file():
            return
        kept, inside = [], False
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            record = _parse(line)
            if record is None:
                continue
            later = record["step"] > step
            inside = inside or (later and record["split"] == split)
            if not (inside and later):
                kept.append(line + "\n")
        write_atomically(self.path, "".join(kept))

    def scalars(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """One record of numbers, of 7 digits; what is not finite becomes null in `metrics.jsonl`."""
        if not self._active:
            return
        numbers = {name: _number(value) for name, value in values.items()}
        safe = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        with writing(self.path):
            for name, value in numbers.items():
                self._run(split).add_scalar(name, value, step)
            self._records().write(json.dumps({"step": int(step), "split": split, **safe}) + "\n")
            self._records().flush()

    def images(self, step: int, name: str, image: np.ndarray, split: str = "train") -> None:
        """One picture, uint8 [H,W,3] RGB, to TensorBoard."""
        if self._active:
            self._run(split).add_image(name, np.asarray(image), step, dataformats="HWC")

    def text(self, step: int, name: str, text: str, split: str = "train") -> None:
        """A piece of Markdown, to TensorBoard."""
        if self._active:
            self._run(split).add_text(name, text, step)

    def flush(self) -> None:
        """Brings TensorBoard's events to the disk (records of `metrics.jsonl` are there at once)."""
        with writing(self._folder / "tensorboard"):
            for run in self._runs.values():
                run.flush()

    def close(self) -> None:
        """Closes all files; the next record opens them again."""
        runs, file, self._runs, self._file = self._runs, self._file, {}, None
        with writing(self._folder / "tensorboard"), contextlib.ExitStack() as all_of_them:
            for run in runs.values():
                all_of_them.callback(_close, run)
            if file is not None:
                all_of_them.callback(file.close)

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _run(self, split: str) -> Any:
        if split not in self._runs:
            from tensorboardX import SummaryWriter

            folder = self._folder / "tensorboard" / split
            # Names of files hold the second, so that two runs of one second would share a file.
            suffix = f".{time.time_ns()}"
            self._runs[split] = SummaryWriter(str(folder), purge_step=self._purge_step, filename_suffix=suffix)
        return self._runs[split]

    def _records(self) -> Any:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            torn = self.path.is_file() and self.path.read_bytes()[-1:] not in (b"", b"\n")
            if torn:  # killed in the middle of a record: the next one must not be glued to it
                whole = self.path.read_bytes().rpartition(b"\n")
                write_atomically(self.path, whole[0] + whole[1])
            self._file = self.path.open("a", encoding="utf-8")
        return self._file


def read_metrics(path: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, of one split or of all."""
    records = map(_parse, Path(path).read_text(encoding="utf-8", errors="replace").splitlines())
    return [record for record in records if record is not None and split in (None, record["split"])]


def _close(run: Any) -> None:
    try:
        run.close()
    except OSError:  # and again when the program ends, with a traceback, unless it thinks that it is closed
        run.file_writer.event_writer.close = lambda: None
        raise


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("split"), str)
    return record if whole else None


def _number(value: Any) -> float | int:
    """A number of any library as Python's, fractions with 7 digits, which is what a float32 holds."""
    value = np.asarray(value).item()
    return float(f"{value:.7g}") if isinstance(value, float) else int(value)
