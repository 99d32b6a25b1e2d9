"""The one training loop: PSDiff and its teacher both run through `fit`.

    state = fit(step_fn, state, batches, steps=config.train.steps, writer=writer, checkpoints=checkpoints, mesh=mesh)

Step N is sent to the devices before the numbers of step N-1 are read, and batch N+1 is made and sent meanwhile: the
devices wait for neither.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.interruption import AGAIN, handled, restore, tell
from psdiff_jax.training.checkpoint import Checkpoints
from psdiff_jax.training.progress import Progress, is_done, say
from psdiff_jax.training.writer import MetricWriter

StepFn = Callable[[Any, Any], tuple[Any, Mapping[str, jax.Array]]]
Hook = tuple[int, Callable[[int, Any], None]]
SKIPPED = "steps_left_out"  # in the position of the data that a checkpoint holds
POLL = 0.002  # seconds between two checks whether data or devices are ready
_asked = itertools.count(1)  # how often all processes have asked whether to stop, in whichever training


class Positioned(Protocol):
    """Batches whose position is a small dict that JSON can hold (`data.iterators.BatchIterator`)."""

    def __next__(self) -> Any: ...
    def get_state(self) -> Mapping[str, Any]: ...
    def set_state(self, state: Mapping[str, Any]) -> None: ...


def fit(
    step_fn: StepFn,
    state: Any,
    batches: Positioned | Callable[[int], Iterator[Any]],
    *,
    steps: int,
    writer: MetricWriter | None = None,
    checkpoints: Checkpoints | None = None,
    log_every: int = 50,
    checkpoint_every: int = 1000,
    prefix: str = "train",
    mesh: Mesh | None = None,
    hooks: Sequence[Hook] = (),
    skip: int = 0,
) -> Any:
    """Trains until `state.step` is `steps`, from the newest checkpoint where there is one, and returns the state.

    Args:
      step_fn: (state, batch) -> (state, scalars by name), which adds one to `state.step` and may give up its argument.
      state: a tree with an integer `step`; it is given up.
      batches: an iterator with a position, or a function that opens an iterator at a step.
      writer: takes the means of the scalars since the last log (of `learning_rate` the last), as split `prefix`.
      checkpoints: written every `checkpoint_every` steps (0: only at the end), at the end, and on a signal.
      prefix: name of this training; its learning rate is called `config.<prefix>.learning_rate`.
      mesh: where to put state and batches; None: where JAX puts them by itself.
      skip: how many steps may have a loss or gradient that is not finite; `step_fn` must leave their state as it was.
      hooks: (every, function of (step, state)), called after the steps that divide by `every`.

    Raises:
      InputError: a loss or gradient is no longer finite, the data end, or the checkpoint is of something else.
      SystemExit: with 128 + the signal, after SIGTERM, SIGINT or SIGHUP.
    """
    state = state if mesh is None else parallel.put_replicated(state, mesh)
    batches = _FromStep(batches) if callable(batches) else batches
    state, start, skipped = _resume(state, batches, checkpoints, prefix)
    if writer:
        writer.rewind(start, prefix)
    if start >= steps:
        say(f"{prefix}: already at step {start} of {steps}")
        return state
    progress = Progress(prefix, steps, log_every, writer, skip, skipped)
    unread: tuple[int, Any] | None = None  # the last step sent
    with _StopSignals() as stop, _ReadAhead(batches, mesh, steps - start) as ahead:
        for step in range(start + 1, steps + 1):
            batch, data_state = ahead.next(in_flight=unread)
            state, metrics = step_fn(state, batch)
            if unread:
                progress.read(*unread)
            unread = step, metrics

            stopping, last = stop.reached(), step == steps
            saving = checkpoints and (stopping or last or (checkpoint_every and step % checkpoint_every == 0))
            due = [call for every, call in hooks if every and step % every == 0]
            if step == start + 1 or stopping or last or saving or due:
                progress.read(*unread)  # nothing is saved or shown before its numbers are known to be finite
                unread = None
            progress.tick(_rows(batch), ahead.waited)

            if saving and checkpoints:
                left_out = {SKIPPED: progress.skipped} if progress.skipped else {}
                checkpoints.save(step, state, {**data_state, **left_out})
            if stopping:
                _exit(stop.number, step, checkpoints, writer)
            for call in due:
                call(step, state)
            if saving or due:
                progress.skip()
    if stop.number:  # it came after the last step had asked
        _exit(stop.number, steps, checkpoints, writer)
    if checkpoints:
        checkpoints.wait()
    return state


def _resume(state: Any, batches: Positioned, checkpoints: Checkpoints | None, prefix: str) -> tuple[Any, int, int]:
    """(state, its step, steps left out so far), from the newest checkpoint where there is one; the data follow."""
    restored = checkpoints.restore_latest(state) if checkpoints else None
    if restored is None:
        start = int(parallel.fetch(state.step))
        batches.set_state({**batches.get_state(), "step": start})
        return state, start, 0
    state, data_state = restored
    skipped = int(data_state.pop(SKIPPED, 0))
    batches.set_state(data_state)
    start = int(parallel.fetch(state.step))
    say(f"{prefix}: resumed from step {start}")
    return state, start, skipped


def _exit(number: int, step: int, checkpoints: Checkpoints | None, writer: MetricWriter | None) -> None:
    """Ends the program once everything is on the disk."""
    if checkpoints:
        checkpoints.wait()
    if writer:
        writer.flush()
    outlook = AGAIN if checkpoints else "this training keeps no checkpoints"
    say(f"stopped at step {step}; {outlook}")
    raise SystemExit(128 + number)


def _rows(batch: Any) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


def close_if_possible(batches: Any) -> None:
    """Stops the threads of batches that have some."""
    if hasattr(batches, "close"):
        batches.close()


class _FromStep:
    """Batches from a function that opens an iterator at a step."""

    def __init__(self, open_at: Callable[[int], Iterator[Any]]):
        self._open_at, self._step, self._iterator = open_at, 0, None

    def __next__(self) -> Any:
        self._iterator = self._open_at(self._step) if self._iterator is None else self._iterator
        batch = next(self._iterator)
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"step": self._step}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        close_if_possible(self._iterator)
        self._iterator = None


class _ReadAhead:
    """Makes one batch ahead and sends it to the devices, in a thread.

    Attributes:
      waited: seconds for which the devices were idle before the last batch came.
    """

    def __init__(self, batches: Positioned, mesh: Mesh | None, count: int):
        self._batches, self._mesh, self._left = batches, mesh, count
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._pending: Future = self._pool.submit(self._make)
        self.waited = 0.0

    def _make(self) -> tuple[Any, dict[str, Any]]:
        batch = parallel.put_batch(next(self._batches), self._mesh)
        return batch, dict(self._batches.get_state())

    def next(self, in_flight: Any) -> tuple[Any, dict[str, Any]]:
        """(batch, the data's position after it). `in_flight`: the outputs that the devices are at work on."""
        while not self._pending.done() and not is_done(in_flight):
            wait([self._pending], POLL)
        begin = time.perf_counter()
        try:
            ready = self._pending.result()
        except StopIteration:
            raise InputError(f"the training data end {self._left} steps too early") from None
        self.waited = time.perf_counter() - begin
        self._left -= 1
        if self._left:
            self._pending = self._pool.submit(self._make)
        return ready

    def __enter__(self) -> _ReadAhead:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        close_if_possible(self._batches)


class _StopSignals:
    """Turns SIGTERM, SIGINT and SIGHUP into a wish to stop after the step; a second one acts at once.

    Many processes must stop at the same step, so there JAX's preemption service listens instead, to SIGTERM alone: in
    about a second it tells all processes and agrees on a step. SIGHUP is passed on to it.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}
        self._many = jax.process_count() > 1

    def reached(self) -> bool:
        """Whether to stop after this step. All processes must ask at every step."""
        if not self._many:
            return bool(self.number)
        from jax.experimental import multihost_utils

        # The service counts the questions, and names the number of one to come; steps begin anew in each training.
        stopping = multihost_utils.reached_preemption_sync_point(next(_asked))
        self.number = signal.SIGTERM if stopping else 0
        return stopping

    def __enter__(self) -> _StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        if not self._many:
            self._before = handled(self._notice)
        elif signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self._before = {signal.SIGHUP: signal.signal(signal.SIGHUP, self._pass_on)}
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _notice(self, number: int, _: Any) -> None:
        self.number = int(number)
        self._restore()
        tell(f"{signal.Signals(number).name}: stopping after this step", number)

    def _pass_on(self, number: int, _: Any) -> None:
        tell("SIGHUP: stopping after this step", number)
        signal.raise_signal(signal.SIGTERM)

    def _restore(self) -> None:
        restore(self._before)
        self._before = {}
