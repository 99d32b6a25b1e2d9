"""Made-up and mutated input: one line or a result, never a traceback or a hang, in a bounded number of examples."""

import contextlib
import csv
import faulthandler
import io
import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psdiff_jax.app.uploads import decode
from psdiff_jax.config import from_values
from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.data.detections import load_embeddings, save_embeddings
from psdiff_jax.data.media import read_image
from psdiff_jax.datasets.cuhk_sysu.annotations import read_images
from psdiff_jax.datasets.custom import reader as custom
from psdiff_jax.datasets.mot import reader as mot
from psdiff_jax.datasets.prw import files as prw
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import read_npz
from psdiff_jax.options import describe

from ..command_lines import CONFIGS, parsed
from ..datasets import cuhk_tree
from ..datasets.custom_tree import CSV, TRAIN, csv_tree, json_tree
from ..datasets.mot_tree import mot_tree
from ..pod import LIMIT
from .stages import some_detections

pytestmark = pytest.mark.slow
SECONDS = 5.0
BOUNDED = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def bounded(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """A test that waits for ever shows where, and ends; none takes a gibibyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with capfd.disabled():
        faulthandler.dump_traceback_later(LIMIT, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kilobytes


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """TimeoutError after `SECONDS` of this process's own time: no matter how busy the machine is."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"it takes more than {SECONDS:g} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def check(read: Callable[[], Any], tried: Callable[[str, str], None], fault: str) -> None:
    try:
        with no_hang():
            read()
        outcome = "read"
    except InputError as error:
        outcome = "one line"
        assert "\n" not in str(error) and str(error), repr(error)
    tried(f"fuzzed {fault}", outcome)


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """A few bytes of the content replaced, inserted, removed or cut off."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        kind = draw(st.sampled_from(("replace", "insert", "remove", "cut", "repeat")))
        if kind == "replace" and found:
            found[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            found[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del found[at : at + draw(st.integers(1, 16))]
        elif kind == "cut":
            del found[at:]
        else:
            found[at:at] = found[at : at + 16]
    return bytes(found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def as_bytes(write: Callable[[Any], None]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def images_mat() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("Image/SSM", "annotation"):
            (Path(folder) / name).mkdir(parents=True)
        cuhk_tree.save_images(Path(folder), cuhk_tree.IMAGES)
        return (Path(folder) / "annotation/Images.mat").read_bytes()


PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
ARRAYS = {"backbone/kernel": np.ones((3, 4), np.float32), "step": np.int32(3)}
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
FILES: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "JPEG": ("image.jpg", cv2.imencode(".jpg", PIXELS)[1].tobytes(), read_image),
    "PNG": ("image.png", cv2.imencode(".png", PIXELS)[1].tobytes(), read_image),
    "WebP": ("image.webp", cv2.imencode(".webp", PIXELS)[1].tobytes(), read_image),
    "upload": ("up.png", cv2.imencode(".png", PIXELS)[1].tobytes(), lambda path: decode(path.read_bytes(), path.name)),
    ".npz": ("model.npz", as_bytes(lambda file: np.savez(file, **ARRAYS)), read_npz),
    ".safetensors": ("w.safetensors", len(HEADER).to_bytes(8, "little") + HEADER + bytes(16), read_state_dict),
    "PRW .mat": (
        "frame.jpg.mat", as_bytes(lambda file: scipy.io.savemat(file, {"box_new": np.ones((2, 5))})), prw.read_rows,
    ),
    "CUHK-SYSU .mat": (
        "Images.mat", images_mat(), lambda path: list(read_images(path)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_files(kind, places, tried):
    name, content, read = FILES[kind]
    (places / name).write_bytes(content)
    assert read(places / name) is not None  # as it is it can be read

    @BOUNDED
    @given(mutated(content))
    def run(changed):
        path = places / name
        path.write_bytes(changed)
        check(lambda: read(path), tried, kind)

    run()


def test_embeddings_folders(places, tried):
    save_embeddings(places / "gallery", some_detections())
    files = sorted((places / "gallery").iterdir())

    @BOUNDED
    @given(st.data())
    def run(data):
        file = data.draw(st.sampled_from(files))
        content = file.read_bytes()
        file.write_bytes(data.draw(mutated(content)))
        check(lambda: load_embeddings(places / "gallery"), tried, "folder of embeddings")
        file.write_bytes(content)

    run()


def test_coco(places, tried):
    root = json_tree(places / "coco")
    path = root / "train.json"
    names = st.sampled_from(("id", "file_name", "width", "split", "camera", "frame", "image_id", "bbox", "person_id",
                             "category_id", "iscrowd", "query", "name"))  # fmt: skip

    @BOUNDED
    @given(st.data())
    def run(data):
        changed = json.loads(json.dumps(TRAIN))
        for _ in range(data.draw(st.integers(1, 4))):
            records = changed.get(data.draw(st.sampled_from(("images", "annotations", "categories"))), [])
            if isinstance(records, list) and records:
                records[data.draw(st.integers(0, len(records) - 1))][data.draw(names)] = data.draw(JSON)
        if data.draw(st.booleans()):
            changed[data.draw(st.sampled_from(("images", "annotations", "categories")))] = data.draw(JSON)
        path.write_text(json.dumps(changed))
        check(lambda: custom.read(root), tried, "COCO")

    run()

    @BOUNDED
    @given(mutated(json.dumps(TRAIN).encode()))
    def run_bytes(content):
        path.write_bytes(content)
        check(lambda: custom.read(root), tried, "COCO")

    run_bytes()


def test_csv(places, tried):
    root = csv_tree(places / "csv")
    path = root / "annotations.csv"
    rows = list(csv.reader(io.StringIO(CSV)))
    cell = st.one_of(st.text(max_size=12), st.integers().map(str), st.floats().map(str))

    @BOUNDED
    @given(st.data())
    def run(data):
        changed = [list(row) for row in rows]
        for _ in range(data.draw(st.integers(1, 4))):
            row = data.draw(st.integers(0, len(changed) - 1))
            if changed[row]:
                changed[row][data.draw(st.integers(0, len(changed[row]) - 1))] = data.draw(cell)
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows(changed)
        path.write_bytes(buffer.getvalue().encode(errors="surrogatepass"))
        check(lambda: custom.read(root), tried, "CSV")

    run()

    @BOUNDED
    @given(mutated(CSV.encode()))
    def run_bytes(content):
        path.write_bytes(content)
        check(lambda: custom.read(root), tried, "CSV")

    run_bytes()


def test_ground_truth_of_mot(places, tried):
    root = mot_tree(places / "mot")
    files = [next(root.rglob(name)) for name in ("gt.txt", "seqinfo.ini")]
    contents = {path: path.read_bytes() for path in files}

    @settings(BOUNDED, max_examples=120)
    @given(st.data())
    def run(data):
        path = data.draw(st.sampled_from(files))
        path.write_bytes(data.draw(mutated(contents[path])))
        check(lambda: mot.read(root), tried, path.name)
        path.write_bytes(contents[path])

    run()


def test_config_overrides(tried):
    quickstart = str(CONFIGS / "quickstart.py")
    options = list(describe(from_values(parsed("--config", quickstart, "--workdir=x"))))
    keys = st.sampled_from([option.key for option in options]) | st.from_regex(
        r"config(\.[a-z_]{1,9}){1,3}", fullmatch=True
    )
    values = st.one_of(
        st.text(max_size=12), st.integers().map(str), st.floats().map(str), JSON.map(repr),
        st.sampled_from(("()", "(1,)", "{}", "None", "nan", "__import__('os').getcwd()", "~", "a" * 300, "9" * 400)),
    )  # fmt: skip

    @settings(BOUNDED, max_examples=120)
    @given(st.lists(st.tuples(keys, values), min_size=1, max_size=3))
    def run(overrides):
        given_ = [f"--{key}={value}" for key, value in overrides if "\x00" not in value]
        with no_hang():
            config = parsed("--config", quickstart, "--workdir=x", *given_)
        if isinstance(config, str):
            assert config.startswith("error: ") and "\n" not in config and "Traceback" not in config, config
            tried("fuzzed config overrides", "one line")
        else:
            check(lambda: from_values(config), tried, "config overrides")

    before = os.getcwd()
    run()
    assert os.getcwd() == before
