"""Images and videos of a folder, found recursively and read as uint8 [H,W,3] RGB.

Images are read by Pillow and turned upright as their EXIF orientation says; HEIC needs pillow-heif (extra `heic`),
videos need PyAV (extra `video`). Whatever cannot be read is an `InputError` that begins with the file's path.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from psdiff_jax.data.decoding import check_size, too_large
from psdiff_jax.errors import InputError, one_line

with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()

Kind = Literal["image", "video"]
SUFFIXES: dict[Kind, str] = {
    "image": ".avif .bmp .gif .heic .heif .jfif .jpe .jpeg .jpg .png .tif .tiff .webp",
    "video": ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .webm .wmv",
}
KINDS: dict[str, Kind] = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes.split()}
MAX_BYTES = 2**30  # of an image file
IGNORED = ".nomedia"  # a folder with a file of this name is passed over, as Android's gallery does
SAME = 1e-6  # seconds; times closer than this are one


class Media(NamedTuple):
    """An image or a video. path: relative to its folder, with "/"."""

    path: str
    kind: Kind


class Frame(NamedTuple):
    """A frame of a video. time: seconds from its start. image: uint8 [H,W,3] RGB."""

    time: float
    image: np.ndarray


def find_media(folder: str | Path, unreadable: dict[str, str] | None = None) -> list[Media]:
    """The images and videos in a folder and its subfolders, by suffix, sorted by path.

    Names that begin with a dot and folders that hold a file `.nomedia` are passed over. Links are followed, and each
    folder is searched once, however many links lead to it.

    Args:
      unreadable: takes {path: reason} of folders and files that cannot be listed.

    Raises:
      InputError: there is no such folder.
    """
    root, problems = Path(folder).expanduser(), {} if unreadable is None else unreadable
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    found, seen = [], set()
    folders, linked = deque([root]), deque()  # links come last, so that a folder is found under its own name
    while folders or linked:
        here = (folders or linked).popleft()
        try:
            status = here.stat()
            entries = list(os.scandir(here))
        except OSError as error:
            problems[_printable(here.relative_to(root).as_posix())] = f"cannot be listed ({error.strerror})"
            continue
        if (status.st_dev, status.st_ino) in seen or (here != root and any(e.name == IGNORED for e in entries)):
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path, kind = Path(entry.path), KINDS.get(Path(entry.name).suffix.lower())
            relative = path.relative_to(root).as_posix()
            try:
                mode = path.stat().st_mode
            except OSError as error:
                if kind or entry.is_symlink():  # which may lead to a folder
                    problems[_printable(relative)] = f"cannot be read ({error.strerror})"
                continue
            if stat.S_ISDIR(mode):
                (linked if entry.is_symlink() else folders).append(path)
            elif kind and stat.S_ISREG(mode):
                if _is_utf8(relative):
                    found.append(Media(relative, kind))
                else:
                    problems[_printable(relative)] = "its name is not UTF-8; rename it"
    return sorted(found)


def read_image(path: str | Path) -> np.ndarray:
    """An image file, upright, as uint8 [H,W,3] RGB; of an animation the first picture."""
    return decode_image(read_bytes(path), str(path))


def read_bytes(path: str | Path) -> bytes:
    """The content of an image file."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: an image file of more than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Encoded image -> uint8 [H,W,3] RGB, upright. InputError, naming `name`, if it is broken or too large."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(image.width, image.height, name)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: {_not_an_image(name, data)}") from error
    except Image.DecompressionBombError as error:
        raise InputError(too_large(name)) from error
    except Exception as error:  # whatever a decoder raises on broken data
        raise InputError(f"{name}: broken image ({one_line(error)})") from error


def read_frames(path: str | Path, rate: float, after: float | None = None) -> Iterator[Frame]:
    """`rate` frames of a video for each second of it: the first one at or after each multiple of 1 / rate seconds.

    Args:
      after: frames up to this time, which must be that of a frame read before, are left out.
    """
    previous = -1 if after is None else _slot(after, rate)
    for time, frame in _decode(Path(path), 0.0 if after is None else after):
        if _slot(time, rate) > previous:
            previous = _slot(time, rate)
            yield Frame(time, _pixels(frame, str(path)))


def frame_at(path: str | Path, time: float) -> np.ndarray:
    """The frame of a video that is nearest to `time` (seconds), as uint8 [H,W,3] RGB."""
    best: tuple[float, Any] | None = None
    for now, frame in _decode(Path(path), time):
        if best is None or abs(now - time) < abs(best[0] - time):
            best = now, frame
        if now >= time:
            break
    if best is None:
        raise InputError(f"{path}: holds no frame at {time:.2f} s")
    return _pixels(best[1], str(path))


def count_frames(path: str | Path, rate: float) -> int:
    """About how many frames `read_frames` gives, from the duration that the file states; 0 where it states none."""
    with contextlib.suppress(InputError), _open_video(Path(path)) as container:
        return math.ceil((container.duration or 0) / 1e6 * rate)
    return 0


@contextlib.contextmanager
def _open_video(path: Path) -> Iterator[Any]:
    """The PyAV container; what PyAV raises inside the block becomes an InputError."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise InputError(f"{path}: videos need PyAV; pip install 'psdiff-jax[video]'") from error
    try:
        # no network: a playlist that is named like a video may point anywhere
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            if not container.streams.video:
                raise InputError(f"{path}: a video file without pictures")
            yield container
    except (FFmpegError, OSError) as error:
        raise InputError(f"{path}: broken video ({one_line(error)})") from error


def _decode(path: Path, start: float) -> Iterator[tuple[float, Any]]:
    """(seconds, PyAV's frame) from the last key frame before `start` on."""
    with _open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        begin = (stream.start_time or 0) * float(stream.time_base)
        if start > 0:
            container.seek(int((start + begin) / stream.time_base), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.time is not None:
                yield frame.time - begin, frame


def _slot(time: float, rate: float) -> int:
    return math.floor(time * rate + SAME)


def _pixels(frame: Any, name: str) -> np.ndarray:
    check_size(frame.width, frame.height, name)
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def _is_utf8(path: str) -> bool:
    """Whether text files and databases can hold the name."""
    try:
        return bool(path.encode())
    except UnicodeEncodeError:
        return False


def _printable(path: str) -> str:
    """The name with an escape for each byte that is not UTF-8, as in \\xff.png."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _not_an_image(name: str, data: bytes) -> str:
    if not data:
        return "an empty file"
    heic = name.lower().endswith((".heic", ".heif")) and ".heic" not in Image.registered_extensions()
    return "HEIC needs pillow-heif; pip install 'psdiff-jax[heic]'" if heic else "not an image"
