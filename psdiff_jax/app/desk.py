"""What the routes work with: the model, the gallery, the sessions; and the state of a session as the page draws it."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.api import PersonSearch
from psdiff_jax.app.gallery import Gallery
from psdiff_jax.app.indexing import Indexing, Report
from psdiff_jax.app.security import Gate
from psdiff_jax.app.sessions import QueryImage, Session, Sessions
from psdiff_jax.errors import InputError
from psdiff_jax.inference.calibrate import calibrated_precision

MOST_HITS = 480


@dataclasses.dataclass
class Desk:
    """search: the model. indexing: what is searched, and how far its making is. calibration: see
    `calibrate.calibrated_precision`; None where nothing is known."""

    search: PersonSearch
    indexing: Indexing
    gate: Gate
    calibration: dict[str, list[float | None]] | None = None
    sessions: Sessions = dataclasses.field(default_factory=Sessions)

    @property
    def gallery(self) -> Gallery:
        """What is searched; InputError while there is nothing."""
        if self.indexing.gallery is None:
            raise InputError("There is no index yet; wait until it stands")
        return self.indexing.gallery

    def hits(self, session: Session) -> list[dict[str, Any]]:
        """The hits of a session's query, best first, with what was said of them; none before a person is chosen."""
        query, gallery = session.query, self.indexing.gallery
        if not query.examples or gallery is None:
            return []
        said = {each.place: each.is_them for each in query.judgements}
        hits = gallery.hits(query.vector(), session.filters)
        return [hit | {"is_them": said.get(gallery.place(hit["id"]))} for hit in hits]

    def state(self, session: Session) -> dict[str, Any]:
        """All that the page draws."""
        indexing = self.indexing.progress()  # first: once it says that the index is made, the hits are of that index
        gallery, hits = self.indexing.gallery, self.hits(session)
        return {
            "gallery": gallery.summary() if gallery else None,
            "indexing": indexing,
            "calibration": self.calibration,
            "images": [_image(image) for image in session.images.values()],
            "examples": [{"image": example.image, "box": example.box} for example in session.query.examples],
            "can_undo": session.can_undo,
            "filters": dataclasses.asdict(session.filters),
            "hits": hits,
            "more": len(hits) == session.filters.top < MOST_HITS,
        }


def open_desk(
    gate: Gate, run: str | None, index: Path | None, folder: Path | None, reid_weights: str | None = None
) -> Desk:
    """Loads the model and opens the index; with a `folder`, starts to index it.

    Args:
      run, reid_weights: see `PersonSearch.load`. index: of the folder; None: the one in the user's cache folder.

    Raises:
      InputError: there is no such run, index or folder, or they do not fit each other.
    """
    if index is None and folder is None:
        raise InputError("give --folder, images and videos to search, or --index, an index that stands")
    index, folder = (path and path.expanduser() for path in (index, folder))
    if folder is not None and not folder.is_dir():
        raise InputError(f"--folder {folder}: no such folder")
    search = PersonSearch.load(run, reid_weights=reid_weights)
    into = index if index is not None else search.cached_index(str(folder), search.config.index)
    stands = folder is None or (into / "index.json").is_file()
    indexing = Indexing(Gallery(search.open_index(into), search.threshold) if stands else None)
    threading.Thread(target=_warm_up, args=(search,), daemon=True).start()

    def update(report: Report) -> tuple[Gallery, dict[str, str]]:
        made = search.index(str(folder), into, on_progress=report)
        return Gallery(made, search.threshold), made.summary.unreadable if made.summary else {}

    if folder is not None:
        indexing.start(update)
    is_calibrated = search.config.data.held_out and search.config.evaluate.calibrate and not reid_weights
    precision = calibrated_precision(Path(run).expanduser(), search.steps) if run and is_calibrated else None
    return Desk(search, indexing, gate, precision)


def _warm_up(search: PersonSearch) -> None:
    """Compiles what the first request would wait for, of a photograph as config.data.image_size is meant for and of one
    turned by a quarter."""
    image = np.zeros((*search.config.evaluation_data.image_size, 3), np.uint8)
    for each in (image, image.swapaxes(0, 1)):
        search.detect(each)
        search.embed(each, (16, 8, 28, 30))


def _image(image: QueryImage) -> dict[str, Any]:
    people = zip(image.boxes.tolist(), image.scores.tolist(), strict=True)
    return {
        "id": image.id,
        "name": image.name,
        "height": image.size[0],
        "width": image.size[1],
        "people": [{"box": box, "score": score} for box, score in people],
    }
