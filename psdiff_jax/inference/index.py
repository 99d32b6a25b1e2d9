"""Searching an index: its rows in memory-mapped shards, and the most similar of them. No model is needed.

    index = Index.open("runs/photos/index")
    index.nearest(embedding, top=20)                                       list[Hit]
    index.nearest(embedding, within=lambda file: file.path.startswith("2024/"))

Legend: Q query embeddings, K stored rows (some of deleted files), F files, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from psdiff_jax.data.blocks import Blocks, Parts
from psdiff_jax.data.detections import NORM_TOLERANCE
from psdiff_jax.errors import InputError
from psdiff_jax.inference.nearest import top_k
from psdiff_jax.inference.parquet import write_parquet
from psdiff_jax.inference.ranking import Hit
from psdiff_jax.inference.shards import MediaFile, Settings, Shard, read_settings, read_shards

Within = Callable[[MediaFile], bool] | np.ndarray


class Index:
    """An index as it is on disk now; it does not change when the folder does, open it again.

    files: the F images and videos, each once, sorted by path. boxes float32 [K,4] xyxy pixels of the original image,
    scores float32 [K], source int32 [K] position in `files` (-1: deleted), time float32 [K] seconds (NaN: an image),
    live bool [K].
    """

    def __init__(self, folder: str | Path):
        """InputError if `folder` holds no index, or a damaged one."""
        self.folder = Path(folder).expanduser()
        self.settings: Settings = read_settings(self.folder)
        # Emptied shards are deleted by the next update, also while this index is open.
        shards = [shard for shard in read_shards(self.folder) if not shard.is_emptied]
        self.files = merged(shards)
        position = {file.path: i for i, file in enumerate(self.files)}
        none = np.zeros(0, np.float32)
        boxes, scores, source, time = [none.reshape(0, 4)], [none], [np.zeros(0, np.int32)], [none]
        for shard in shards:
            rows = shard.rows()
            place = np.asarray([position.get(file.path, -1) for file in shard.files], np.int32)
            boxes.append(rows.boxes)
            scores.append(rows.scores)
            source.append(place[rows.source])
            time.append(rows.time)
        self.boxes, self.scores = np.concatenate(boxes), np.concatenate(scores)
        self.source, self.time = np.concatenate(source), np.concatenate(time)
        self.live = self.source >= 0
        lengths = [len(part) for part in scores[1:]]
        self._blocks = Blocks([shard.embeddings for shard in shards], lengths, self.settings.embedding_dim)

    @classmethod
    def open(cls, folder: str | Path) -> Index:
        """The index in a folder; InputError if there is none, or a damaged one."""
        return cls(folder)

    def __len__(self) -> int:
        """The number of live rows."""
        return int(self.live.sum())

    @property
    def root(self) -> Path:
        """The folder that is indexed."""
        return Path(self.settings.root)

    @property
    def embeddings(self) -> Parts:
        """Memory-mapped blocks, float16 [k,D] each, together the K rows. Each is mapped when its turn comes, so that an
        index of any number of shards holds no files open."""
        return self._blocks.parts

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The unit embeddings of some rows, float32 [n,D]."""
        rows = np.asarray(rows, int).reshape(-1)
        found = self._blocks[rows]
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    def nearest(
        self,
        embedding: np.ndarray,
        top: int = 20,
        threshold: float = 0.0,
        within: Within | None = None,
    ) -> list[Hit]:
        """The `top` detections most similar to a person, best first, equals in the order of their rows.

        Args:
          embedding: unit [D], or [Q,D] for several images of one person: the largest of the Q similarities counts.
          threshold: detections with a lower score are left out.
          within: bool [F], or a predicate of a `MediaFile`: which files are searched; None: all.

        Raises:
          InputError: an embedding of another width or norm.
        """
        queries_QD = np.atleast_2d(np.asarray(embedding, np.float32))
        self._check(queries_QD)
        keep_K = self.live & (self.scores >= threshold)
        if within is not None:
            chosen_F = np.asarray([within(file) for file in self.files] if callable(within) else within, bool)
            if chosen_F.shape != (len(self.files),):
                raise InputError(f"within is {list(chosen_F.shape)}: give one flag for each of {len(self.files)} files")
            keep_K &= np.append(chosen_F, False)[self.source]
        similarity_Qk, rows_Qk = top_k(queries_QD, self.embeddings, top, keep_K)
        best: dict[int, float] = {}
        for row, similarity in zip(rows_Qk.ravel().tolist(), similarity_Qk.ravel().tolist(), strict=True):
            if row >= 0:
                best[row] = max(similarity, best.get(row, -np.inf))
        ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[: max(top, 0)]
        return [self.hit(place, row, similarity) for place, (row, similarity) in enumerate(ranked, 1)]

    def hit(self, rank: int, row: int, similarity: float) -> Hit:
        """A row as a Hit."""
        file = self.files[self.source[row]]
        x1, y1, x2, y2 = (float(v) for v in self.boxes[row])
        time = float(self.time[row]) if file.kind == "video" else None
        return Hit(rank, str(file.path), (x1, y1, x2, y2), float(self.scores[row]), similarity, row, time)

    def to_parquet(self, path: str | Path) -> None:
        """Writes the live rows as a Parquet file (`inference.parquet` lists its columns); needs pyarrow."""
        write_parquet(self, Path(path).expanduser())

    def _check(self, queries_QD: np.ndarray) -> None:
        width = self.settings.embedding_dim
        if queries_QD.ndim != 2 or queries_QD.shape[1] != width:
            raise InputError(f"query embedding is {list(queries_QD.shape)}, the index's are {width} wide")
        if not np.all(np.abs(np.linalg.norm(queries_QD, axis=1) - 1) <= NORM_TOLERANCE):
            raise InputError("query embedding is not of unit norm (divide it by its L2 norm)")


def merged(shards: Sequence[Shard]) -> tuple[MediaFile, ...]:
    """The files that are there, sorted by path; the parts of a video are one."""
    found: dict[str, MediaFile] = {}
    for file in (file for shard in shards for file in shard.files):
        if file.path is None:
            continue
        if file.path in found:
            file = joined(found[file.path], file)
        found[str(file.path)] = file
    return tuple(found[path] for path in sorted(found))


def joined(part: MediaFile, other: MediaFile) -> MediaFile:
    """Two parts of a video as one."""
    until = None if part.until is None or other.until is None else max(part.until, other.until)
    return replace(part, people=part.people + other.people, images=part.images + other.images, until=until)
