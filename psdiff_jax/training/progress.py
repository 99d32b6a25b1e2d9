"""What a training says while it runs: one line, and one record, every so many steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.training.writer import MetricWriter

MUST_BE_FINITE = ("loss", "gradient_norm")
AS_IT_STANDS = ("learning_rate",)  # all others are averaged over the steps since the last report


class Progress:
    """Collects the numbers of each step, stops on what is not finite, and reports every `log_every` steps.

    Speed leaves out the first step, which compiles, and whatever lies between `tick` and `skip`.
    """

    def __init__(
        self, prefix: str, steps: int, log_every: int, writer: MetricWriter | None, skip: int = 0, skipped: int = 0
    ):
        self._skip, self.skipped = skip, skipped  # steps that may be left out, and were
        self._prefix, self._steps, self._log_every, self._writer = prefix, steps, max(1, log_every), writer
        self._begin, self._clock = time.perf_counter(), None
        self._total = np.zeros(2)  # timed steps, seconds
        self._window = np.zeros(3)  # seconds, images, seconds of waiting for data
        self._values: list[dict[str, float]] = []

    def read(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes in the scalars of a step, and blocks until it is done.

        Raises:
          InputError: the loss or the gradient is not finite.
        """
        values = {name: float(value) for name, value in parallel.fetch(dict(metrics)).items()}
        wrong = next((name for name in MUST_BE_FINITE if not np.isfinite(values.get(name, 0.0))), None)
        if wrong is None:
            self._values.append(values)
        elif self.skipped < self._skip:
            self.skipped += 1
            say(f"{self._prefix}: {wrong} is {values[wrong]} at step {step}, which is left out; "
                f"{self.skipped} of at most {self._skip} so far")  # fmt: skip
        else:
            raise InputError(
                f"{self._prefix}: {wrong} is {values[wrong]} at step {step}: lower "
                f"config.{self._prefix}.learning_rate or lengthen the warm-up, and run again; the checkpoints before "
                "are whole" + f"; {self.skipped} steps were left out before" * bool(self.skipped)
            )
        if step % self._log_every == 0 or step == self._steps:
            self._report(step)

    def tick(self, images: int, waited: float) -> None:
        """A step of so many images, all processes together, was sent; it waited so many seconds for its data."""
        now = time.perf_counter()
        if self._clock is None:
            say(f"{self._prefix}: first step after {now - self._begin:.1f} s, compilation included")
        else:
            self._window += (now - self._clock, images, waited)
            self._total += (1, now - self._clock)
        self._clock = now

    def skip(self) -> None:
        """What happened since the last `tick` was not training."""
        self._clock = time.perf_counter()

    def _report(self, step: int) -> None:
        if not self._values:  # all were left out
            return
        # jit hands dicts back sorted by name; what matters comes first.
        last = self._values[-1]
        names = [*(n for n in MUST_BE_FINITE[:1] if n in last), *(n for n in last if n not in MUST_BE_FINITE[:1])]
        means = {name: float(np.mean([values[name] for values in self._values])) for name in names}
        means |= {name: last[name] for name in AS_IT_STANDS if name in last}
        seconds, images, waited = self._window
        speed = {"images_per_second": images / seconds, "data_wait": waited / seconds} if seconds else {}
        if self._writer:
            self._writer.scalars(step, self._prefix, means | speed)
        parts = [f"{self._prefix} {step}/{self._steps}", *(f"{name} {digits(value)}" for name, value in means.items())]
        if speed:
            left = (self._steps - step) * self._total[1] / self._total[0]
            parts += [f"{digits(speed['images_per_second'])} images/s", f"data wait {100 * speed['data_wait']:.0f}%"]
            parts += [f"ETA {duration(left)}"]
        say("  ".join(parts))
        self._values, self._window = [], np.zeros(3)


def say(line: str) -> None:
    """One line to the user, from the first process alone."""
    if parallel.is_main_process():
        print(line, flush=True)


def digits(value: float) -> str:
    """Three significant digits, without an exponent where that stays short: 0.0123, 1.20, 345, 2.5e-05."""
    text = f"{value:#.3g}"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else text.removesuffix(".")


def duration(seconds: float) -> str:
    """1:05 for a minute, 2:00:00 for two hours."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def is_done(outputs: Any) -> bool:
    """Whether the devices have computed all of a tree."""
    leaves: list[Any] = [leaf for leaf in jax.tree.leaves(outputs) if isinstance(leaf, jax.Array)]
    return all(leaf.is_ready() for leaf in leaves)
