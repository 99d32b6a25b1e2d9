"""Nothing is silent for long: a line says that the program is still at work, and where.

Compilation, a slow disk or a long step may take minutes without a word, and whoever looks at the terminal cannot tell
them from a program that hangs.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

SECONDS = 30.0
PACKAGE = "psdiff_jax."


@contextlib.contextmanager
def broken(seconds: float = SECONDS) -> Iterator[None]:
    """Prints a line on standard error whenever nothing was written for so many seconds."""
    out, err = _Noted(sys.stdout), _Noted(sys.stderr)
    over, main = threading.Event(), threading.current_thread().ident
    begin = time.monotonic()

    def watch() -> None:
        said = begin
        while not over.wait(seconds / 30):
            last = max(said, out.last, err.last)
            if time.monotonic() - last >= seconds:
                minutes, rest = divmod(round(time.monotonic() - begin), 60)
                print(f"still at work after {minutes}:{rest:02d}, in {_where(main)}", file=sys.stderr, flush=True)
                said = time.monotonic()

    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    thread = threading.Thread(target=watch, name="silence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sys.stdout, sys.stderr = before


class _Noted:
    """A stream that knows when something was written to it last."""

    def __init__(self, stream: TextIO):
        self._stream, self.last = stream, time.monotonic()

    def flush(self) -> None:
        self._stream.flush()

    def write(self, text: str) -> int:
        self.last = time.monotonic()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _where(thread: int | None) -> str:
    """The innermost function of this package that a thread is in."""
    frame = sys._current_frames().get(thread or 0)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(PACKAGE) and module != __name__:
            return f"{module.removeprefix(PACKAGE)}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "the libraries"
