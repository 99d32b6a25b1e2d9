"""What is searched: an index, and the pictures behind its rows. A hit's id is the index's version and the row in it."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from psdiff_jax.app.sessions import Filters, Place, new_id
from psdiff_jax.data.media import frame_at, read_image
from psdiff_jax.data.transforms import resize
from psdiff_jax.errors import InputError
from psdiff_jax.inference.index import Index
from psdiff_jax.inference.ranking import Hit

TOP_FOLDER = "."  # files that are in no subfolder
CROP_MARGIN, CROP_HEIGHT = 0.06, 320  # share of the box's longer side; pixels
BOX_COLOR, BOX_EDGE = (255, 176, 32), (20, 24, 30)
FRAMES_KEPT = 4  # decoded images, since a page asks for the crop and the frame of a hit, and of its neighbours


class Gallery:
    """An open index. threshold: detections with a lower score are not searched."""

    def __init__(self, index: Index, threshold: float = 0.0):
        self._index, self._threshold = index, threshold
        self._version = new_id().replace("-", "_")
        self._root = index.root.resolve()
        self._folder_of_file = [_folder(file.path) for file in index.files]
        self._is_video = np.asarray([file.kind == "video" for file in index.files], bool)
        self._pixels = functools.lru_cache(FRAMES_KEPT)(self._read)
        self._reading = threading.Lock()  # one at a time: large images take memory, and none is decoded twice

    @property
    def folders(self) -> list[str]:
        """The first components of the paths: folders, or cameras; `TOP_FOLDER` for files that are in none."""
        return sorted(set(self._folder_of_file))

    def summary(self) -> dict[str, Any]:
        """Counts, and the folders."""
        videos = int(self._is_video.sum())
        return {
            "people": int((self._index.live & (self._index.scores >= self._threshold)).sum()),
            "images": len(self._is_video) - videos,
            "videos": videos,
            "folders": self.folders,
        }

    def hits(self, embedding: np.ndarray, filters: Filters) -> list[dict[str, Any]]:
        """The hits that pass the filters, best first, as plain values with an `id`; ranks are among them."""
        is_timed = filters.after is not None or filters.before is not None
        within = np.asarray([filters.folder in (None, folder) for folder in self._folder_of_file], bool)
        within &= self._is_video | (not is_timed)
        asked = filters.top
        while True:  # times are of rows, not of files: ask for more until enough of them pass
            found = self._index.nearest(embedding, asked, self._threshold, within)
            kept = [hit for hit in found if _passes(hit, filters)]
            below = bool(found) and found[-1].similarity < filters.similarity
            if len(kept) >= filters.top or len(found) < asked or below:
                return [self._as_json(rank, hit) for rank, hit in enumerate(kept[: filters.top], 1)]
            asked *= 4

    def embedding(self, hit_id: str) -> np.ndarray:
        """The unit embedding [D] of a hit."""
        return self._index.vectors([self._row(hit_id)])[0]

    def place(self, hit_id: str) -> Place:
        """The image, time and box of a hit: its id is another one in the next gallery."""
        hit = self._index.hit(0, self._row(hit_id), 0.0)
        return hit.image, hit.time, hit.box

    def crop(self, hit_id: str) -> np.ndarray:
        """The person with a small margin, uint8 RGB; InputError where the image is smaller than it was."""
        row = self._row(hit_id)
        image = self._image(row)
        height, width = image.shape[:2]
        x1, y1, x2, y2 = self._index.boxes[row]
        margin = CROP_MARGIN * max(x2 - x1, y2 - y1)
        left, top = (max(0, int(v - margin)) for v in (x1, y1))
        crop = image[top : max(int(y2 + margin), top + 1), left : max(int(x2 + margin), left + 1)]
        if x2 > width or y2 > height or not crop.size:
            raise InputError(f"{self._name(row)} has changed since it was indexed; index the folder again")
        return resize(crop, min(1.0, CROP_HEIGHT / crop.shape[0]))

    def frame(self, hit_id: str, longest: int) -> np.ndarray:
        """The whole image, or frame of the video, with the box drawn; at most `longest` pixels long, uint8 RGB."""
        row = self._row(hit_id)
        image = self._image(row)
        scale = min(1.0, longest / max(image.shape[:2]))
        picture = np.array(resize(image, scale))
        x1, y1, x2, y2 = (round(float(v) * scale) for v in self._index.boxes[row])
        line = max(2, longest // 400)
        for color, width in ((BOX_EDGE, 2 * line), (BOX_COLOR, line)):
            cv2.rectangle(picture, (x1, y1), (x2, y2), color, width)
        return picture

    def file(self, hit_id: str) -> Path:
        """The image or video of a hit, which lies in the folder that was indexed.

        Raises:
          InputError: it does not lie there (any more), or leads elsewhere by a link.
        """
        return self._path(self._row(hit_id))

    def _row(self, hit_id: str) -> int:
        version, _, row = hit_id.partition("-")
        live = self._index.live
        if version != self._version or not (row.isascii() and row.isdigit()) or not int(row) < len(live):
            raise InputError("This result is not of the index that is searched now; search again")
        if not live[int(row)]:
            raise InputError("This result is of a file that was deleted; search again")
        return int(row)

    def _name(self, row: int) -> str:
        return str(self._index.files[self._index.source[row]].path)

    def _path(self, row: int) -> Path:
        name = self._name(row)
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):
            raise InputError(f"{name} leads out of the folder that was indexed; it is not shown")
        if not path.is_file():
            raise InputError(f"{name} is no longer there; index the folder again")
        return path

    def _image(self, row: int) -> np.ndarray:
        path, time = self._path(row), float(self._index.time[row])
        with self._reading:
            return self._pixels(path, None if np.isnan(time) else time)

    @staticmethod
    def _read(path: Path, time: float | None) -> np.ndarray:
        return read_image(path) if time is None else frame_at(path, time)

    def _as_json(self, rank: int, hit: Hit) -> dict[str, Any]:
        plain = {"rank": rank, "image": hit.image, "time": hit.time, "box": list(hit.box), "score": hit.score}
        return plain | {"similarity": hit.similarity, "id": f"{self._version}-{hit.detection}"}


def _folder(path: str | None) -> str:
    first, slash, _ = (path or "").partition("/")
    return first if slash else TOP_FOLDER


def _passes(hit: Hit, filters: Filters) -> bool:
    if hit.similarity < filters.similarity:
        return False
    if filters.after is not None and (hit.time is None or hit.time < filters.after):
        return False
    return filters.before is None or (hit.time is not None and hit.time <= filters.before)
