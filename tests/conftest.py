"""Session setup, and the tiny model and batch that tests of models, samplers and training share."""

import ctypes
import gc
import os
import resource
import signal
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

# Before jax is imported anywhere: tests run on the CPU unless told otherwise.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is the compiler's, and more than half of that LLVM's optimisation of programs that run a few
# times on a few numbers. JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import numpy as np
import pytest
from absl import flags
from flax import nnx

from psdiff_jax.compilation import keep_compiled
from psdiff_jax.config import Config

pytest_plugins = ("tests.gallery",)  # made-up galleries for evaluation, reports and teachers


def pytest_configure(config: pytest.Config) -> None:
    flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
    # Tests that make networks import openvino before `psdiff_jax.teacher.openvino` can keep it from reporting so.
    sys.modules.setdefault("openvino_telemetry", None)
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:  # under nohup or in the background of a script
            signal.signal(number, handler)
    # Fixed from the start: once JAX has computed anything a run in this process could not choose it any more, and the
    # order of its sums, hence its last bits, would depend on which test came before.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", 2)
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # files with few tests would come last, and those take longest
    # The programs that tests start leave the user's own caches alone.
    os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("user"))
    # Compiled programs are kept between sessions and shared with those processes: most of the suite's time is XLA's.
    keep_compiled(Config().compilation_cache)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then those with slow tests, so that no process is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.stem not in LONGEST, item.path not in slow))


LONGEST = ("test_experiment", "test_step_sharded", "test_export")
MEMORY = 1 << 30  # bytes; a process with jax, torch and TFDS has half of it before it compiles anything


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Programs and their constants stay in JAX's caches until they are dropped: gigabytes by the end of the session."""
    yield
    drop_programs(MEMORY)


def drop_programs(above: int) -> None:
    """Drops what JAX keeps of programs if the process has more than `above` bytes in memory."""
    if resident() > above:
        jax.clear_caches()
        gc.collect()
        if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc
            ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system


def resident() -> int:
    """Bytes of this process in memory."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def numpy_weights(state, scale: float = 1.0):
    """Weights that depend on NumPy and on a variable's path only, so that held numbers survive new flax initialisers.

    Matrices and kernels are normal with the deviation scale / sqrt(inputs), scales near 1, vectors small.
    """

    def fill(path, value):
        name = jax.tree_util.keystr(path)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        draw = rng.normal(size=value.shape)
        if value.ndim > 1:
            draw *= scale / np.sqrt(np.prod(value.shape[:-1]))
        elif "scale" in name or "var" in name:
            draw = 1 + 0.1 * np.abs(draw)
        else:
            draw *= 0.1
        return draw.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, state)


@pytest.fixture(scope="session")
def tiny():
    """A tiny PSDiff, weights from NumPy: .options, .graphdef, .params (trained), .rest; .make(options) for others."""
    from psdiff_jax.models.psdiff import PSDiff, PSDiffOptions
    from psdiff_jax.training.step import is_trained

    options = PSDiffOptions(
        backbone="tiny",
        dim=16,
        side=3,
        heads=2,
        dynamic_width=4,
        embedding_dim=8,
        time_dim=16,
        cascade="paper",
        canonical_size=24.0,
        dtype="float32",
    )

    def make(options):
        # Only shapes come from flax: initialising eagerly would take seconds.
        model = nnx.eval_shape(lambda: PSDiff(options, rngs=nnx.Rngs(0)))
        graphdef, params, rest = nnx.split(model, is_trained(model), ...)
        return SimpleNamespace(
            options=options,
            backbones=model.backbone_specs,
            graphdef=graphdef,
            params=numpy_weights(params),
            rest=numpy_weights(rest),
        )

    return SimpleNamespace(**vars(make(options)), make=make)


@pytest.fixture(scope="module")
def tiny_head(tiny):
    """The name of a re-ID backbone with a head, as wide as the embeddings of `tiny`."""
    from psdiff_jax.models.backbones import BACKBONES
    from psdiff_jax.models.osnet import OSNetSpec

    with pytest.MonkeyPatch.context() as patch:
        spec = OSNetSpec(8, (16, 16, 32), (1, 1, 1), embedding_dim=tiny.options.embedding_dim)
        patch.setitem(BACKBONES, "tiny_head", spec)
        yield "tiny_head"


@pytest.fixture
def make_batch():
    """(images, people, seed) -> a batch of 64x96 noise images with 0, 1, ... `people` boxes, embeddings of 8."""

    def make(images: int = 2, people: int = 3, seed: int = 0, dim: int = 8) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        height, width = 64, 96
        size = rng.uniform(10, 30, (images, people, 2))
        corner = rng.uniform(0, 1, (images, people, 2)) * (np.array([width, height]) - size)
        embeddings = rng.normal(size=(images, people, dim))
        return {
            "image": rng.integers(0, 256, (images, height, width, 3)).astype(np.uint8),
            "image_size": np.tile(np.int32([height, width]), (images, 1)),
            "image_index": np.arange(images, dtype=np.int32),
            "boxes": np.concatenate([corner, corner + size], -1).astype(np.float32),
            "boxes_mask": np.arange(people) < (people - np.arange(images)[:, None]) % (people + 1),
            "embeddings": (embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)).astype(np.float32),
            "person_ids": np.full((images, people), -1, np.int32),
        }

    return make
