"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal) end the program with one line.

    with interruptible():                                     in `main`
        with stage("indexing photos", "the shards written so far are kept"):
            ...                                               a signal here raises Interrupted

Training waits for the end of its step instead and saves (`training.loop`). Everything is written whole or not at all,
so that an interruption anywhere loses what is in work and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from psdiff_jax import pod

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AGAIN = "run the same command again to go on"


class Interrupted(KeyboardInterrupt):
    """A signal, raised in the main thread wherever it is. number: of the signal."""

    def __init__(self, number: int):
        self.number = number

    def __str__(self) -> str:
        said = getattr(self, "__notes__", [f"what was finished before is kept; {AGAIN}"])[0]
        return f"{signal.Signals(self.number).name}: {said}"


def handled(handler: Callable[[int, Any], None], signals: Sequence[signal.Signals] = SIGNALS) -> dict[int, Any]:
    """Sets the handler of the signals but for those that are ignored, as nohup does; returns those before."""
    wanted = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def restore(before: dict[int, Any]) -> None:
    """Sets the handlers that `handled` has replaced."""
    for number, handler in before.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lets the first signal raise Interrupted, and a second one end the process at once; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: Any) -> None:
        handled(signal.SIG_DFL)  # type: ignore[arg-type]
        raise Interrupted(number)

    def once_more(dropped: Any) -> None:
        """In a finalizer and in what the garbage collector calls (JAX's does) Python drops exceptions: the signal comes
        again, after that."""
        if not isinstance(dropped.exc_value, Interrupted):
            hook(dropped)
            return
        handled(interrupt)
        threading.Timer(0.01, signal.pthread_kill, (threading.get_ident(), dropped.exc_value.number)).start()

    before, hook = handled(interrupt), sys.unraisablehook
    sys.unraisablehook = once_more
    try:
        yield
    finally:
        sys.unraisablehook = hook
        restore(before)


@contextlib.contextmanager
def stage(what: str, kept: str | Callable[[], str]) -> Iterator[None]:
    """Notes on an interruption inside what it interrupted and what is kept of it; the innermost stage counts."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(f"interrupted {what}; {kept if isinstance(kept, str) else kept()}")
        raise


@contextlib.contextmanager
def starting_children() -> Iterator[None]:
    """Processes that this thread starts inside never see the three signals, which a terminal or a scheduler sends to
    all: their parent ends them. A signal to the parent meanwhile takes effect at the end."""
    arrived: list[int] = []
    # Another thread may receive it, so that a mask is not enough. In a pod SIGTERM is JAX's, from C++.
    signals = SIGNALS if pod.index() is None else (signal.SIGINT, signal.SIGHUP)
    main = threading.current_thread() is threading.main_thread()
    handlers = handled(lambda number, _: arrived.append(number), signals) if main else {}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # children inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        restore(handlers)
        for number in arrived[:1]:
            signal.raise_signal(number)


def tell(line: str, number: int) -> None:
    """The line of a signal on standard error. After SIGHUP the terminal is gone or about to go: an error of writing to
    it would come in the way of saving."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    if number != signal.SIGHUP:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if _is_terminal(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _is_terminal(descriptor: int) -> bool:
    try:
        termios.tcgetattr(descriptor)
    except termios.error as error:
        return error.args[0] == 5  # EIO: one that is gone
    return True
