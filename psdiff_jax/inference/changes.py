"""What has changed in a folder since it was indexed: files are compared by content.

A file whose size and times are those of the index is taken to be the same. Any other is read, if the index holds
a file of its size that could be it, and compared by its digest.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from psdiff_jax.data.media import Media
from psdiff_jax.errors import InputError
from psdiff_jax.inference.shards import MediaFile, Shard

DIGEST_BYTES = 16


class Status(NamedTuple):
    """Of a file: bytes, and nanoseconds of its last change of content and of anything. ctime cannot be set back."""

    size: int
    mtime: int
    ctime: int


def status_of(path: Path) -> Status:
    """InputError if there is no such file."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return Status(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def digest_of(content: bytes | Path) -> str:
    """BLAKE2 digest of bytes, or of a file's; InputError if it cannot be read."""
    if isinstance(content, bytes):
        return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
    try:
        with content.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
    except OSError as error:
        raise InputError(f"{content}: cannot be read ({error.strerror})") from error


@dataclass
class Changes:
    """Numbers of files; changed: paths whose content is another one, and which are now to be embedded."""

    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    changed: set[str] = field(default_factory=set)


@dataclass(eq=False)
class _Stored:
    """A file of the index: the shards and positions of its parts."""

    file: MediaFile
    parts: list[tuple[Shard, int]] = field(default_factory=list)

    @property
    def status(self) -> Status:
        return Status(self.file.size, self.file.mtime, self.file.ctime)

    def set(self, path: str | None, status: Status) -> None:
        for shard, i in self.parts:
            shard.files[i] = replace(shard.files[i], path=path, **status._asdict())


def bring_up_to_date(
    root: Path, media: Sequence[Media], shards: Sequence[Shard], unreadable: Mapping[str, str]
) -> Changes:
    """Drops files that are gone or have changed and renames those that were moved, in the shards on disk.

    Files that are, or lie below, what `find_media` could not read are kept: they may only be out of reach.
    """
    free = _stored(shards)
    claimed: list[tuple[_Stored, Media, Status]] = []
    statuses = {each.path: status for each in media if (status := _status_or_none(root / each.path))}
    present = [each for each in media if each.path in statuses]

    def claim(wanted: Iterable[Media], digests: Mapping[str, str] | None, by_path: bool) -> list[Media]:
        """Gives each wanted file its place in the index, if it has one; returns the others."""
        at = defaultdict(list)
        for stored in sorted(free, key=lambda stored: str(stored.file.path), reverse=True):
            key = stored.status if digests is None else stored.file.digest
            at[stored.file.path if by_path else None, stored.file.kind, key].append(stored)
        left = []
        for each in wanted:
            key = statuses[each.path] if digests is None else digests.get(each.path)
            candidates = at[each.path if by_path else None, each.kind, key]
            if not candidates:
                left.append(each)
                continue
            stored = candidates.pop()
            free.remove(stored)
            claimed.append((stored, each, statuses[each.path]))
        return left

    unsure = claim(present, None, by_path=True)
    digests = _digests(root, unsure, statuses, {stored.file.size for stored in free})
    new = claim(claim(unsure, digests, by_path=True), digests, by_path=False)
    gone = {stored for stored in free if not _out_of_reach(str(stored.file.path), unreadable)}
    moved = [stored.file.path != each.path for stored, each, _ in claimed]
    changed = {str(stored.file.path) for stored in gone} & {each.path for each in new}
    dirty = []
    for stored, each, status in claimed:
        if (stored.file.path, stored.status) != (each.path, status):
            stored.set(each.path, status)
            dirty += stored.parts
    for stored in gone:
        stored.set(None, stored.status)
        dirty += stored.parts
    for shard in {id(shard): shard for shard, _ in dirty}.values():
        shard.save_files()
    return Changes(len(moved) - sum(moved), sum(moved), len(gone) - len(changed), changed)


def unfinished(media: Sequence[Media], shards: Sequence[Shard]) -> list[tuple[Media, float | None]]:
    """The files that are not in the index; of a video that is there in part with the time of its last frame there."""
    ends: dict[str | None, list[float | None]] = defaultdict(list)
    for file in (file for shard in shards for file in shard.files):
        ends[file.path].append(file.until)
    todo = [(each, ends.get(each.path, [])) for each in media]
    return [(each, max(found, default=None)) for each, found in todo if None not in found]


def _stored(shards: Sequence[Shard]) -> set[_Stored]:
    found: dict[tuple[str, str], _Stored] = {}
    for shard in shards:
        for i, file in enumerate(shard.files):
            if file.path is not None:
                found.setdefault((file.path, file.digest), _Stored(file)).parts.append((shard, i))
    return set(found.values())


def _digests(root: Path, media: Sequence[Media], statuses: Mapping[str, Status], sizes: set[int]) -> dict[str, str]:
    """Digests of the files of these sizes, by path; those that cannot be read are left out."""

    def digest(path: str) -> str:
        try:
            return digest_of(root / path)
        except InputError:
            return ""

    paths = [each.path for each in media if statuses[each.path].size in sizes]
    with ThreadPoolExecutor() as pool:
        return dict(zip(paths, pool.map(digest, paths), strict=True))


def _status_or_none(path: Path) -> Status | None:
    try:
        return status_of(path)
    except InputError:
        return None


def _out_of_reach(path: str, unreadable: Mapping[str, str]) -> bool:
    return any(path == other or path.startswith(f"{other}/") for other in unreadable)
