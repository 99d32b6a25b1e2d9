"""An index on disk. Legend: K detections of a shard, D embedding width.

    index.json                  Settings: what every row was made with
    shards/PPP-NNNNNN/          shard N of process P, renamed into place when it is whole
        embeddings.npy          float16 [K,D], unit norm
        boxes.npy               float32 [K,4], xyxy pixels of the original image
        scores.npy              float32 [K], detection confidence
        source.npy              int32 [K], position in files.json
        time.npy                float32 [K], seconds from the start of a video; NaN for an image
        checksums.json          of the .npy files; older shards have none
        files.json              the images and videos (or parts of one), also those without people

Arrays never change. files.json is replaced as a whole where a file was moved, or deleted (its path is then null). A
shard of which more than half is deleted is written anew under another name (`compact`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from psdiff_jax.data.media import Kind
from psdiff_jax.errors import InputError
from psdiff_jax.files import (
    CHECKSUMS,
    adding_folder,
    is_as_written,
    remove_unfinished,
    write_atomically,
    write_checksums,
    writing,
)

FORMAT = 1
SETTINGS, SHARDS, FILES = "index.json", "shards", "files.json"
DTYPES = {
    "embeddings": np.float16,
    "boxes": np.float32,
    "scores": np.float32,
    "source": np.int32,
    "time": np.float32,
}


@dataclass(frozen=True)
class Settings:
    """What every row of an index was made with.

    model: hash of weights and config. rate: frames a second of a video. root: the folder that is indexed.
    """

    model: str
    embedding_dim: int
    steps: int
    rate: float
    min_score: float
    root: str
    format: int = FORMAT

    def check_same(self, other: Settings, folder: Path) -> None:
        """Raises InputError unless rows made with `other` may stand in the same index; the root may differ."""
        for key, name in (
            ("model", "another model"),
            ("steps", "another number of denoising steps"),
            ("rate", "another rate of frames"),
            ("min_score", "another smallest score"),
        ):
            mine, theirs = getattr(self, key), getattr(other, key)
            if mine != theirs:
                raise InputError(f"{folder} is an index of {name} ({mine}, not {theirs}): choose another folder for it")


@dataclass(frozen=True)
class MediaFile:
    """An image or a video in an index, or a part of a long video.

    path: relative to the root, with "/"; None once it is deleted. size (bytes), mtime, ctime (ns): of the file when it
    was read. digest: BLAKE2 of its content. width, height: pixels, upright. people: detections at or above the search
    threshold. images: 1, or the number of frames read. until: of a part that is not the last, the time of its last
    frame.
    """

    path: str | None
    kind: Kind
    size: int
    mtime: int
    ctime: int
    digest: str
    width: int
    height: int
    people: int
    images: int = 1
    until: float | None = None


class Rows(NamedTuple):
    """Detections of a shard: what the .npy files hold."""

    embeddings: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    source: np.ndarray
    time: np.ndarray


@dataclass
class Shard:
    """A shard on disk, and its files as they are now."""

    folder: Path
    files: list[MediaFile]

    @property
    def is_emptied(self) -> bool:
        """Whether all its files are gone; the next update deletes it."""
        return bool(self.files) and all(file.path is None for file in self.files)

    def embeddings(self) -> np.ndarray:
        """float16 [K,D], memory-mapped."""
        return self._load("embeddings", mmap_mode="r")

    def rows(self) -> Rows:
        """All rows; the embeddings are memory-mapped, the rest is in memory.

        Raises:
          InputError: a file is missing or does not fit the others.
        """
        rows = Rows(self.embeddings(), *(self._load(name) for name in Rows._fields[1:]))
        count, width = len(rows.scores), rows.embeddings.shape[-1]
        shapes = ((count, width), (count, 4), (count,), (count,), (count,))  # in the order of `Rows`
        kinds = [array.dtype == DTYPES[name] for name, array in rows._asdict().items()]
        fit = all(array.shape == shape for array, shape in zip(rows, shapes, strict=True)) and all(kinds)
        if not fit or np.any((rows.source < 0) | (rows.source >= len(self.files))):
            raise InputError(damaged(self.folder, "its files do not belong together"))
        return rows

    def _load(self, name: str, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
        try:
            return np.load(self.folder / f"{name}.npy", mmap_mode=mmap_mode)
        except Exception as error:  # a damaged file fails in every way there is
            raise InputError(damaged(self.folder, error)) from error

    def check_values(self) -> None:
        """Reads all arrays; InputError where one is not what was written."""
        if (self.folder / CHECKSUMS).is_file() and not is_as_written(self.folder):
            raise InputError(damaged(self.folder, "its arrays are not what was written"))

    def save_files(self) -> None:
        """Replaces files.json by `files`."""
        with writing(self.folder):
            write_atomically(self.folder / FILES, _as_json(self.files))


def damaged(folder: Path, why: object) -> str:
    return f"{folder}: damaged shard ({' '.join(str(why).split())}); delete it and update the index"


def read_settings(index: Path) -> Settings:
    """Raises InputError if there is no index of this format."""
    path = index / SETTINGS
    if not path.is_file():
        raise InputError(f"{index} holds no index ({SETTINGS} is missing); --mode embed makes one")
    try:
        values = json.loads(path.read_bytes())
        if values.get("format") != FORMAT:
            raise InputError(f"{path} has format {values.get('format')}, this program reads {FORMAT}: make it again")
        settings = Settings(**values)
        if any(type(getattr(settings, field.name)).__name__ != field.type for field in fields(settings)):
            raise ValueError(f"it holds {settings}")
        return settings
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete {index} and make the index again") from error


def write_settings(index: Path, settings: Settings) -> None:
    write_atomically(index / SETTINGS, json.dumps(asdict(settings), indent=2) + "\n")


def read_shards(index: Path) -> list[Shard]:
    """The shards, in the order of their names."""
    return [_read(folder) for folder in sorted((index / SHARDS).glob("[0-9]*-[0-9]*")) if folder.is_dir()]


def write_shard(index: Path, process: int, files: Sequence[MediaFile], rows: Rows) -> None:
    """Adds a shard; a process that is killed leaves a hidden folder, which `remove_leftovers` deletes."""
    taken = [int(folder.name.split("-")[1]) for folder in (index / SHARDS).glob(f"{process:03}-*")]
    name = f"{process:03}-{max(taken, default=-1) + 1:06}"
    with writing(index), adding_folder(index / SHARDS / name) as unfinished:
        for field, array in rows._asdict().items():
            np.save(unfinished / f"{field}.npy", np.asarray(array, DTYPES[field]))
        write_checksums(unfinished)
        write_atomically(unfinished / FILES, _as_json(files))


def remove_leftovers(index: Path) -> None:
    """Deletes what a killed process left, and shards whose files are all gone; no process may be writing.

    Such shards outlive the update that emptied them, for who has the index open may still read them.
    """
    emptied = [shard.folder for shard in read_shards(index) if shard.is_emptied]
    remove_unfinished(index / SHARDS)
    for folder in emptied:
        shutil.rmtree(folder)


def compact(index: Path) -> None:
    """Writes shards anew most of whose rows are of files that are gone; no process may be writing.

    A shard's files are forgotten before they stand in the new one: who is killed between has them embedded again, and
    nothing is there twice. `remove_leftovers` deletes the emptied shard.
    """
    for shard in read_shards(index):
        live = np.flatnonzero([file.path is not None for file in shard.files])
        if len(live) in (0, len(shard.files)):
            continue
        rows = shard.rows()
        kept = np.isin(rows.source, live)
        if 2 * kept.sum() > len(kept):
            continue
        rows = Rows(*(array[kept] for array in rows))._replace(source=np.searchsorted(live, rows.source[kept]))
        files = [shard.files[i] for i in live]
        shard.files = [replace(file, path=None) for file in shard.files]
        shard.save_files()
        write_shard(index, int(shard.folder.name.split("-")[0]), files, rows)


def _read(folder: Path) -> Shard:
    try:
        files = [MediaFile(**values) for values in json.loads((folder / FILES).read_bytes())]
        if wrong := next((file for file in files if not _is_whole(file)), None):
            raise ValueError(f"{FILES} holds {wrong}")
        return Shard(folder, files)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(damaged(folder, error)) from error


def _is_whole(file: MediaFile) -> bool:
    numbers = (file.size, file.mtime, file.ctime, file.width, file.height, file.people, file.images)
    texts = isinstance(file.path, str | None) and isinstance(file.digest, str) and file.kind in get_args(Kind)
    return texts and all(type(n) is int for n in numbers) and isinstance(file.until, int | float | None)


def _as_json(files: Sequence[MediaFile]) -> str:
    return "[\n" + ",\n".join(json.dumps(asdict(file), ensure_ascii=False) for file in files) + "\n]\n"
