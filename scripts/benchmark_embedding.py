"""Embeds a large gallery of small drawn scenes: memory as it goes on, and what a gallery is that was killed on the way.

    python scripts/benchmark_embedding.py --folder FOLDER [--images 20000] [--distinct 200] [--size 96 160]
        [--num-proposals 16] [--batch 32] [--kills 3] [--config configs/quickstart.py]

One process embeds all images in one go in one denoising step. Another is killed (SIGKILL) `--kills` times, each time
when a further share of its shards is written, and started again. A third reads every batch before it sends the next.
The shards of all must be equal, file by file and byte by byte. Each prints its resident memory, of Linux, every 1,000
images, and for how much of the time the device had nothing to do. The scenes are `--distinct` drawn ones, again and
again, each time with other noise of the sampler; weights are those that the config starts from.
"""

import argparse
import hashlib
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from psdiff_jax.api import load_embedder
from psdiff_jax.compilation import keep_compiled
from psdiff_jax.config import Config, from_values, load_config
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.datasets.synthetic_street import Street, StreetOptions
from psdiff_jax.datasets.synthetic_street.render import encode
from psdiff_jax.errors import InputError
from psdiff_jax.inference.embed import Embedder
from psdiff_jax.inference.embed_split import embed_gallery
from psdiff_jax.inference.split_shards import missing_images

EVERY = 1000  # images between two lines
PAUSE = 0.05  # seconds between two looks at the shards


class Scenes:
    """Records of a few encoded scenes, again and again. Says how much memory is in use when one in EVERY is read."""

    def __init__(self, records: Sequence[Mapping[str, Any]], count: int):
        self._records, self._count, self._began = records, count, time.monotonic()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index % EVERY == 0:
            seconds = time.monotonic() - self._began
            print(f"image {index}: {resident() / 2**20:.0f} MiB resident, {seconds:.0f} s", flush=True)
        return self._records[index % len(self._records)]


class Gallery:
    """A dataset in memory, of a gallery without annotated people."""

    name = "scenes"

    def __init__(self, folder: Path, images: int, distinct: int, size: tuple[int, int]):
        self.folder = folder
        people = max(1, distinct // 2)
        options = StreetOptions.preset("tiny", size=size, gallery_images=distinct, queries=0, test_identities=people)
        street = Street(options)
        records = [encode(street.scene("gallery", number)) for number in range(distinct)]
        self._scenes = Scenes(records, images)
        self._annotations = Annotations(
            tuple(f"{number:06}.jpg" for number in range(images)),
            np.tile(np.asarray(size, np.int32), (images, 1)),
            np.full(images, -1, np.int32),
            np.full(images, -1, np.int64),
            tuple(np.zeros((0, 4), np.float32) for _ in range(images)),
            tuple(np.zeros(0, np.int64) for _ in range(images)),
        )

    def source(self, split: str) -> Scenes:
        return self._scenes

    def annotations(self, split: str) -> Annotations:
        return self._annotations

    def queries(self) -> Queries:
        none = np.zeros(0, np.int64)
        return Queries((), np.zeros((0, 4), np.float32), none, none.astype(np.int32), none)


@dataclass
class Device:
    """When a device had something to do, as seen by a thread that waits for one batch after the other."""

    first: float = 0.0  # seconds: when the first batch was ready, its program compiled
    last: float = 0.0
    busy: float = 0.0  # seconds since `first`
    _watch: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def sent(self, arrays: Any) -> None:
        """Arrays that the device has just begun to compute, or will when it has computed those before."""
        self._watch.submit(self._wait, time.monotonic(), arrays)

    def _wait(self, sent: float, arrays: Any) -> None:
        jax.block_until_ready(arrays)
        now = time.monotonic()
        if self.first:
            self.busy += now - max(sent, self.last)
        else:
            self.first = now
        self.last = now

    def idle(self) -> float:
        """The share of the time between the first and the last batch in which there was nothing to do."""
        self._watch.shutdown()
        return 1 - self.busy / max(self.last - self.first, 1e-9)


@dataclass(frozen=True)
class WatchedEmbedder(Embedder):
    """An embedder whose device is watched. in_turn: each batch is read before the next is sent."""

    device: Device = field(default_factory=Device)
    in_turn: bool = False

    def send(self, *batch: Any, **options: Any) -> Any:
        found = super().send(*batch, **options)
        self.device.sent(found)
        return jax.block_until_ready(found) if self.in_turn else found


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def small_config(arguments: argparse.Namespace) -> Config:
    """The config with small images, few proposals, one step, and a shard for every EVERY / 2 images or detections."""
    values: Any = load_config(arguments.config)
    values.data.image_size = tuple(arguments.size)
    values.sampler.num_proposals = arguments.num_proposals
    values.evaluate.update({"steps": (1,), "batch_size": arguments.batch, "shard_rows": EVERY // 2})
    return from_values(values)


def embed(arguments: argparse.Namespace, into: Path) -> None:
    """Embeds the gallery, or what is missing of it, into shards."""
    keep_compiled(str(arguments.folder / "programs"))
    gallery = Gallery(arguments.folder, arguments.images, arguments.distinct, tuple(arguments.size))
    loaded, _ = load_embedder(small_config(arguments), arguments.folder)
    given = {each.name: getattr(loaded, each.name) for each in fields(loaded)}
    embedder = WatchedEmbedder(**given, in_turn=arguments.in_turn)
    print(f"before: {resident() / 2**20:.0f} MiB resident", flush=True)
    found = embed_gallery(embedder, gallery, into)[1]
    print(f"after: {resident() / 2**20:.0f} MiB resident; {len(found.scores)} detections", flush=True)
    print(f"the device had nothing to do for {embedder.device.idle():.1%} of the time", flush=True)


def shards(into: Path) -> list[Path]:
    return sorted(into.glob("gallery-*/[0-9]*"))


def images_of(into: Path, images: int) -> int:
    """How many of the images are in the shards."""
    return sum(images - len(missing_images(split, images)) for split in into.glob("gallery-*"))


def contents(into: Path) -> dict[str, str]:
    """{file of the shards: hash}."""
    files = (path for shard in shards(into) for path in sorted(shard.rglob("*.npy")))
    return {str(path.relative_to(into)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def embed_killed(command: Sequence[str], into: Path, images: int, kills: int) -> None:
    """Runs a command that embeds until it has ended by itself, after it was killed `kills` times."""
    for number in range(kills + 1):
        process = subprocess.Popen(command)
        until = images * (number + 1) // (kills + 1)
        while number < kills and process.poll() is None and images_of(into, images) < until:
            time.sleep(PAUSE)
        if number < kills and process.poll() is None:
            process.kill()
            print(f"killed with {images_of(into, images)} of {images} images in shards", flush=True)
        elif number < kills:
            raise InputError(f"{into}: all was done before kill {number + 1}; give more --images")
        if process.wait() != 0 and number == kills:
            raise InputError(f"{into}: the last process failed")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for shards and compiled programs; must be empty")
    parser.add_argument("--config", default="configs/quickstart.py", help="FILE[:variant], with train.init_from")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--distinct", type=int, default=200, help="drawn scenes")
    parser.add_argument("--size", nargs=2, type=int, default=(96, 160), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--num-proposals", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # of the processes that embed
    parser.add_argument("--in-turn", action="store_true", help=argparse.SUPPRESS)  # likewise
    arguments = parser.parse_args(given)
    if min(arguments.images, arguments.distinct, arguments.num_proposals, arguments.batch) < 1 or arguments.kills < 0:
        raise InputError("--images, --distinct, --num-proposals and --batch must be 1 or more, --kills 0 or more")
    if arguments.into:
        embed(arguments, arguments.into)
        return
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        raise InputError(f"--folder {arguments.folder} is not empty")
    command = [sys.executable, __file__, *(sys.argv[1:] if given is None else given), "--into"]
    whole, killed, in_turn = (arguments.folder / name for name in ("whole", "killed", "in_turn"))
    print("in one go", flush=True)
    subprocess.run([*command, str(whole)], check=True)
    embed_killed([*command, str(killed)], killed, arguments.images, arguments.kills)
    print("each batch read before the next is sent", flush=True)
    subprocess.run([*command, str(in_turn), "--in-turn"], check=True)
    for other in (killed, in_turn):
        if contents(whole) != contents(other):
            raise InputError(f"{whole} and {other} differ")
    count = images_of(killed, arguments.images)
    print(f"equal: {count} images in {len(shards(killed))} shards, killed {arguments.kills} times")


if __name__ == "__main__":
    try:
        main()
    except (InputError, ValueError) as error:
        sys.exit(f"error: {error}")
