"""Building an index of a folder, and bringing it up to date.

    summary = update_index(embedder, "photos", into="runs/photos/index")

What is there already is found by content: a file that was touched or moved keeps its rows, one that has changed is
embedded again, one that is gone loses its rows. Shards are written whole, so that a killed run goes on where its last
shard ended, and makes the same index as a run that was not killed. On a pod each process writes its own shards of its
share of the files.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.data.media import Media, find_media
from psdiff_jax.errors import InputError
from psdiff_jax.files import locked
from psdiff_jax.inference.changes import Changes, bring_up_to_date, unfinished
from psdiff_jax.inference.embed import People
from psdiff_jax.inference.index import merged
from psdiff_jax.inference.options import IndexOptions
from psdiff_jax.inference.readings import Reading, Todo, ahead, count_images, read_all
from psdiff_jax.inference.shards import (
    SETTINGS,
    MediaFile,
    Rows,
    Settings,
    compact,
    read_settings,
    read_shards,
    remove_leftovers,
    write_settings,
    write_shard,
)
from psdiff_jax.interruption import AGAIN, stage
from psdiff_jax.progress import progress

OnProgress = Callable[[int, int], None]
MOST_WAITING = 8  # batches of readings that wait for one whose kind is rare


class FolderEmbedder(Protocol):
    """What an index is made with; `images.ImageEmbedder` is one.

    model: hash of weights and config. threshold: score from which a detection counts as a person.
    """

    @property
    def model(self) -> str: ...
    @property
    def embedding_dim(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def threshold(self) -> float: ...
    @property
    def batch_size(self) -> int: ...

    def prepare(self, image: np.ndarray) -> Any:
        """uint8 [H,W,3] RGB -> what `embed` takes; runs in reading threads."""
        ...

    def kind(self, image: Any) -> Hashable:
        """What prepared images must have in common to be embedded together."""
        ...

    def send(self, images: Sequence[Any]) -> Callable[[], list[People]]:
        """Begins to embed up to `batch_size` prepared images of a kind; the call gives the people in each."""
        ...


@dataclass(frozen=True)
class Summary:
    """What an update did, in files; people: in the whole index. unreadable: {path: reason}."""

    added: int
    changed: int
    moved: int
    removed: int
    unchanged: int
    people: int
    unreadable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = [(name, getattr(self, name)) for name in ("added", "changed", "moved", "removed", "unchanged")]
        files = ", ".join(f"{count} {name}" for name, count in counts if count) or "none"
        lines = [f"files: {files}; people in the index: {self.people}"]
        lines += [f"not readable: {path}: {reason}" for path, reason in sorted(self.unreadable.items())]
        return "\n".join(lines)


def update_index(
    embedder: FolderEmbedder,
    folder: str | Path,
    into: str | Path,
    options: IndexOptions | None = None,
    on_progress: OnProgress | None = None,
) -> Summary:
    """Makes the index of `folder` in the folder `into`, or brings it up to date.

    Args:
      on_progress: is called with (images and frames done, about how many there are) after each.

    Raises:
      InputError: the folder is missing or holds no media; `into` holds the index of another model or rate, or a shard
        whose arrays are not what was written, or cannot be written.
    """
    options, root, into = options or IndexOptions(), Path(folder).expanduser().absolute(), Path(into).expanduser()
    rate, min_score = float(options.rate), float(options.min_score)  # as `read_settings` wants them
    settings = Settings(embedder.model, embedder.embedding_dim, embedder.steps, rate, min_score, str(root))
    unreadable: dict[str, str] = {}
    media = find_media(root, unreadable)
    if not media:
        problem = next((f"; {path}: {reason}" for path, reason in unreadable.items()), "")
        raise InputError(f"{root} holds no images or videos{problem}")
    process, processes, _ = parallel.place()
    lock = locked(into / ".lock", f"updates {into}") if process == 0 else contextlib.nullcontext()
    with stage(f"indexing {root}", f"the shards in {into} are kept; {AGAIN}"), lock:
        if (into / SETTINGS).is_file():
            read_settings(into).check_same(settings, into)
        changes = Changes()
        if process == 0:
            write_settings(into, settings)
            remove_leftovers(into)
            shards = read_shards(into)
            for shard in shards:
                shard.check_values()
            changes = bring_up_to_date(root, media, shards, unreadable)
        parallel.meet()  # the others see what this one has changed
        todo = unfinished(media, read_shards(into))
        parallel.meet()  # nobody writes before all have seen it
        # All go by the first one's list, for the folder may have changed since: no file is two processes', or nobody's.
        listed = parallel.gather_json([[*file, after] for file, after in todo])[0]
        todo = [(Media(path, kind), after) for path, kind, after in listed]
        share = todo[process::processes]
        _embed(embedder, root, into, share, options, process, unreadable, on_progress)
        for other in parallel.gather_json(unreadable):
            unreadable.update(other)
        if process == 0:
            compact(into)
        parallel.meet()
        people = sum(file.people for file in merged(read_shards(into)))
    embedded = {each.path for each, _ in todo} - set(unreadable)
    return Summary(
        added=len(embedded - changes.changed),
        changed=len(embedded & changes.changed),
        moved=changes.moved,
        removed=changes.removed,
        unchanged=changes.unchanged,
        people=people,
        unreadable=unreadable,
    )


def _embed(
    embedder: FolderEmbedder,
    root: Path,
    into: Path,
    todo: Sequence[Todo],
    options: IndexOptions,
    process: int,
    unreadable: dict[str, str],
    on_progress: OnProgress | None,
) -> None:
    """Writes the shards of some files; adds to `unreadable`."""
    writer = _ShardWriter(into, process, embedder, options)
    total, done = sum(count_images(root, each, options.rate) for each in todo), 0
    readings = ahead(read_all(embedder.prepare, root, todo, options.rate), 2 * embedder.batch_size)
    found = _people(embedder, (reading() for reading in readings))
    shown = parallel.is_main_process() and total > 0
    for reading, people in progress(found, "indexing", "images", total, _count, shown=shown):
        if reading.error:
            unreadable[reading.path] = reading.error
        writer.add(reading, people)
        done += _count((reading, people))
        if on_progress is not None:
            on_progress(done, max(done, total))
    writer.write()


def _count(found: tuple[Reading, People | None]) -> int:
    return int(found[1] is not None)


def _people(embedder: FolderEmbedder, readings: Iterable[Reading]) -> Iterator[tuple[Reading, People | None]]:
    """Each reading with the people in its image, in order; the model gets whole batches of a kind where it can, and the
    next one before those of the last are asked for."""
    waiting = deque[int]()  # numbers of readings that were not handed on yet
    read: dict[int, Reading] = {}
    found: dict[int, People | None] = {}
    kinds = defaultdict[Hashable, list[int]](list)  # of those whose image was not sent yet
    sent = deque[tuple[list[int], Callable[[], list[People]]]]()

    def send(kind: Hashable) -> None:
        numbers = kinds.pop(kind)
        sent.append((numbers, embedder.send([read[number].image for number in numbers])))
        receive(1)

    def receive(but: int = 0) -> None:
        while len(sent) > but:
            numbers, people = sent.popleft()
            found.update(zip(numbers, people(), strict=True))

    def finished() -> Iterator[tuple[Reading, People | None]]:
        while waiting and waiting[0] in found:
            number = waiting.popleft()
            yield read.pop(number), found.pop(number)

    for number, reading in enumerate(readings):
        waiting.append(number)
        read[number] = reading
        if reading.image is None:
            found[number] = None
        else:
            kind = embedder.kind(reading.image)
            kinds[kind].append(number)
            if len(kinds[kind]) == embedder.batch_size:
                send(kind)
        yield from finished()
        if len(waiting) >= MOST_WAITING * embedder.batch_size:
            rare = embedder.kind(read[waiting[0]].image)
            if waiting[0] in kinds.get(rare, ()):
                send(rare)
            receive()
            yield from finished()
    for kind in list(kinds):
        send(kind)
    receive()
    yield from finished()


class _ShardWriter:
    """Collects the rows of a shard, and writes it when it is full."""

    def __init__(self, into: Path, process: int, embedder: FolderEmbedder, options: IndexOptions):
        self._into, self._process, self._embedder, self._options = into, process, embedder, options
        self._files: list[MediaFile] = []
        self._people: list[tuple[People, int, float]] = []  # with position in files and time
        self._rows = self._images = 0

    def add(self, reading: Reading, people: People | None) -> None:
        """Takes what was found in an image or a frame, or the end of a video."""
        if reading.file is None:
            return
        if not self._files or self._files[-1].path != reading.path:
            self._files.append(reading.file)
        count = 0
        if people is not None:
            count = int(np.count_nonzero(people.scores >= self._embedder.threshold))
            kept = people.scores >= self._options.min_score
            people = People(*(part[kept] for part in people))
            self._people.append((people, len(self._files) - 1, reading.time))
            self._rows += len(people.scores)
            self._images += 1
        file = self._files[-1]
        frames = 0 if people is None or file.kind == "image" else 1
        until = None if reading.last else reading.time
        self._files[-1] = replace(file, people=file.people + count, images=file.images + frames, until=until)
        if max(self._rows, self._images) >= self._options.shard_rows:
            self.write()

    def write(self) -> None:
        """Writes what there is as a shard."""
        if self._files:
            write_shard(self._into, self._process, self._files, self._flat())
        self._files, self._people, self._rows, self._images = [], [], 0, 0

    def _flat(self) -> Rows:
        counts = [len(people.scores) for people, _, _ in self._people]
        nothing = People(np.zeros((0, 4)), np.zeros(0), np.zeros((0, self._embedder.embedding_dim)))
        boxes, scores, embeddings = (
            np.concatenate(part) for part in zip(nothing, *(people for people, _, _ in self._people), strict=True)
        )
        source = np.repeat([position for _, position, _ in self._people], counts)
        time = np.repeat([time for _, _, time in self._people], counts)
        return Rows(embeddings, boxes, scores, source, time)
