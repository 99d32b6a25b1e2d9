"""Making or updating the index while the page runs: a thread, how far it is, and the gallery that is searched."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

from psdiff_jax.app.gallery import Gallery
from psdiff_jax.errors import InputError

Report = Callable[[int, int], None]  # (images and frames done, of about how many)


class Indexing:
    """The gallery that is searched; None until the first index stands."""

    def __init__(self, gallery: Gallery | None = None):
        self.gallery = gallery
        self._running, self._done, self._total, self._error = False, 0, 0, ""
        self._unreadable: list[str] = []

    def progress(self) -> dict[str, Any]:
        """Whether it is running; done and total images; one line about each file that could not be read, and about what
        ended it."""
        return {
            "running": self._running,
            "done": self._done,
            "total": self._total,
            "unreadable": self._unreadable,
            "error": self._error,
        }

    def start(self, work: Callable[[Report], tuple[Gallery, dict[str, str]]]) -> threading.Thread:
        """Runs `work` in a thread of its own; from then on the gallery that it returns is searched.

        Args:
          work: takes a function to report to; returns the gallery, and {path: reason} of what could not be read.
        """
        self._running = True
        thread = threading.Thread(target=self._run, args=(work,), daemon=True, name="indexing")
        thread.start()
        return thread

    def report(self, done: int, total: int) -> None:
        self._done, self._total = done, total

    def _run(self, work: Callable[[Report], tuple[Gallery, dict[str, str]]]) -> None:
        try:
            self.gallery, unreadable = work(self.report)
            self._unreadable = [f"{path}: {reason}" for path, reason in sorted(unreadable.items())]
        except InputError as error:
            self._error = str(error)
        except Exception:  # a defect: the page says so, and goes on with the index that it has
            traceback.print_exc()
            self._error = "Indexing has failed; the terminal where this page was started shows why"
        finally:
            self._running = False
