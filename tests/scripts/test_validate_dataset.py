"""The validator: its output, its exit status, the damaged images that it finds, and its page."""

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from psdiff_jax import progress
from psdiff_jax.data.records import BUILDERS
from psdiff_jax.datasets.common.records import AnnotatedImage, Query, RawDataset
from psdiff_jax.datasets.prw import release
from psdiff_jax.datasets.validation import Validation, decoding, validate
from psdiff_jax.report import validation_page

from ..datasets.cuhk_tree import write_tree
from ..datasets.custom_tree import json_tree
from ..datasets.mot_tree import mot_tree
from ..datasets.prw_tree import TEST, TRAIN, annotate, index_of, write_prw
from .loading import SCRIPTS, load_script

script = load_script("validate_dataset")
ODD = "<b>&\"'ü"  # a frame's name that HTML must escape


@pytest.fixture
def tree(tmp_path):
    """A clean part of PRW: every query is in two gallery images, and all findings are known defects."""
    root = write_prw(tmp_path / "prw é")
    train = {
        "c2s1_000176": [[479, 50, 10, 20, 25], [3, 8, 8, 0, 20]],
        "c1s1_000151": [[479, 5, 6, 10, 20], [480, 30.5, 0, 8, 16]],
    }
    test = {
        "c6s2_042326": [[12, -4, -2, 14, 22]],
        "c3s1_000201": [[900, 1, 2, 10, 20]],
        "c3s3_000001": [[900, 20, 5, 10, 20], [-2, 40, 1, 9, 9]],
        "odd name": [[12, 1, 2, 10, 20]],
    }
    for name, rows in {**train, **test}.items():
        annotate(root, name, "box_new", rows)
    (root / "query_info.txt").write_text("900 1 2 10 20 c3s1_000201\r\n12 -4 -2 14 22 c6s2_042326\r\n")
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    """(exit status, lines on stdout, lines on stderr) of the script."""

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)

    def start(*options):
        monkeypatch.setattr(sys, "argv", ["validate_dataset.py", *map(str, options)])
        status = script.main()
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    return start


def test_known_defects_are_fine(run, tree):
    status, out, err = run("--name", "prw", "--root", tree)
    assert status == 0
    assert re.fullmatch(r"fine: no errors, no warnings, known defects only  \[\d+\.\d s, 6 images decoded\]", out[-1])
    assert f"{'gallery boxes':24}{5:10}" in out and not any("published  " in line for line in out)
    kinds = [line.split(maxsplit=2) for line in out if line.startswith(("error", "warning", "known"))]
    assert kinds == [
        ["known", "1", "box without area"],
        ["known", "1", "negative x or y"],
        ["known", "1", "part of the release"],
    ]
    note = out[out.index("known        1  box without area") + 1]
    assert note == (
        f"                {tree}/annotations/c2s1_000176.jpg.mat row 2: the box"
        " [8, 8, 0, 20] (xywh) has no area; it is left out"
    )
    assert re.fullmatch(r"decoding 6/6 +[\d.]+ images/s  ETA 00:00", err[-1])


def test_quick_does_not_decode(run, tree):
    path = tree / "frames" / "c3s1_000201.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    status, out, err = run("--name", "prw", "--root", tree, "--quick")
    assert status == 0 and err == [] and "(images were not decoded)" in out[-1]
    status, out, _ = run("--name", "prw", "--root", tree)
    assert status == 1
    assert f"                {path}: cannot be decoded: truncated or broken; replace it" in out
    assert out[-1].startswith("damaged: 1 error; replace or correct the files they name  [")


def test_three_examples_or_all(run, tree):
    for name in [*TRAIN, *TEST[2:]]:
        (tree / "frames" / f"{name}.jpg").unlink()
    status, out, _ = run("--name", "prw", "--root", tree, "--quick")
    assert (
        status == 1
        and out.index("error        4  missing or unreadable image")
        == out.index("                and 1 more; --all lists them") - 4
    )
    _, everything, _ = run("--name", "prw", "--root", tree, "--quick", "--all")
    assert sum("is missing, although a list names it" in line for line in everything) == 4
    assert not any("more; --all" in line for line in everything)


def test_counts_that_are_not_the_published_ones(run, tree, tmp_path, monkeypatch):
    """A copy that lacks something ends with status 1, and all that is published is compared."""
    for name in ("c4s1_000001", "c5s1_000001"):
        cv2.imwrite(str(tree / "frames" / f"{name}.jpg"), np.zeros((40, 60, 3), np.uint8))
        annotate(tree, name, "box_new", [[479, 5, 6, 10, 20]])
    scipy.io.savemat(tree / "frame_train.mat", {"img_index_train": index_of([*TRAIN, "c4s1_000001", "c5s1_000001"])})
    counts = {
        "train images": 4,
        "train boxes": 5,
        "train ids": 2,
        "gallery images": 4,
        "gallery boxes": 5,
        "gallery ids": 2,
        "queries": 2,
    }
    monkeypatch.setattr(release, "PUBLISHED", counts)
    status, out, _ = run("--name", "prw", "--root", tree, "--quick")
    assert status == 0 and "train boxes                      5           5  ok" in out
    monkeypatch.setattr(release, "PUBLISHED", {**counts, "gallery boxes": 1006, "queries": 3})
    status, out, _ = run("--name", "prw", "--root", tree, "--quick", "--json", tmp_path / "found.json")
    assert status == 1
    assert "gallery boxes                    5       1,006  differs" in out
    assert out[-1].startswith("incomplete: counts differ from the published ones: gallery boxes, queries; a build uses")
    stored = json.loads((tmp_path / "found.json").read_text())
    assert stored["counts"]["gallery boxes"] == {"found": 5, "published": 1006, "verdict": "differs"}
    assert stored["counts"]["train ids"]["verdict"] == "ok" and stored["counts"]["query ids"]["published"] is None
    assert stored["status"] == 1 and stored["decoded"] is None
    assert {"level": "known", "check": "box without area", "image": "c2s1_000176.jpg"}.items() <= next(
        f for f in stored["findings"] if f["check"] == "box without area"
    ).items()


def test_a_config_file_names_the_dataset(run, tree, tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(
        "from psdiff_jax.configs.base import get_config as base\n\ndef get_config(variant=''):\n"
        f"    config = base()\n    config.data.name, config.data.root = 'prw', {str(tree)!r}\n    return config\n"
    )
    assert run("--config", config, "--quick")[0] == 0
    status, _, err = run("--config", config, "--root", tmp_path / "nowhere")
    assert status == 2 and f"there is no folder {tmp_path / 'nowhere'}" in err[0]
    status, _, err = run("--config", config, "--name", "mot")  # another dataset does not use the config's folder
    assert (status, err) == (2, ["error: dataset mot is read from a folder: name it with --root"])


def test_every_error_is_one_line(run, tree, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config():\n    raise KeyError('x')\n")
    folder = ["--name", "prw", "--root", tree]
    for options, message in (
        (["--nmae", "prw"], "unrecognized arguments: --nmae prw; see --help"),
        ([], "--name is missing (or --config); see --help"),
        (["--name", "prw"], "dataset prw is read from a folder: name it with --root"),
        (["--name", "prv", "--root", tree], "config.data.name: there is no dataset 'prv'; choose one of"),
        (["--name", "synthetic_street"], "dataset synthetic_street is rendered when it is prepared: there is"),
        (["--name", "prw", "--root", tmp_path / "no"], f"config.data.root: there is no folder {tmp_path / 'no'}; name"),
        (["--name", "prw", "--root", tmp_path], f"config.data.root: {tmp_path / 'frames'} is missing; a PRW folder"),
        ([*folder, "--option", "gap"], "--option gap: give it as key=value"),
        ([*folder, "--option", "gap=3"], "config.data.builder.gap: dataset prw takes no such option; it knows root"),
        (["--config", tmp_path / "no.py"], f"--config {tmp_path / 'no.py'}: no such file"),
        (["--config", broken], f"--config {broken}: KeyError: 'x'"),
        ([*folder, "--html", tmp_path], f"{tmp_path} is a folder; name a file to write"),
        ([*folder, "--json", broken / "x.json"], f"{broken / 'x.json'}: cannot write there (File exists)"),
    ):
        status, out, err = run(*options)
        assert (status, out, len(err)) == (2, [], 1), err
        assert err[0].startswith(f"error: {message}")


def test_the_process(tree):
    """Its exit status, and that libjpeg's warnings become findings instead of output on stderr."""
    path = tree / "frames" / "c3s1_000201.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    path.write_bytes(data[: len(data) // 2] + data[-2:])
    command = [sys.executable, SCRIPTS / "validate_dataset.py", "--name", "prw", "--root", tree]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and "error        1  corrupt image" in ended.stdout.splitlines()
    assert ended.stderr == ""


FOLDERS = {"cuhk_sysu": write_tree, "custom": json_tree, "mot": mot_tree, "prw": write_prw}


@pytest.mark.parametrize("name", sorted(BUILDERS.keys() - {"crop_sheets", "synthetic_street"}))
def test_every_dataset_that_is_read_from_a_folder(name, tmp_path):
    """Its builder leads to its reader, with the builder's options; all its images are decoded and can be drawn."""
    found = validate(name, str(FOLDERS[name](tmp_path / "ein Ördner")))
    counts = {count.key: count.found for count in found.counts}
    assert found.decoded == counts["train images"] + counts["gallery images"] > 4
    assert min(counts.values()) > 0 and not found.dataset.errors()
    assert any(tag == "img" for tag, _ in Page(validation_page.page(found)).tags)


def test_options_reach_the_reader(run, tmp_path):
    root = mot_tree(tmp_path / "mot")
    queries = []
    for option in ([], ["--option", "queries_per_track=2"]):
        run("--name", "mot", "--root", root, "--quick", "--json", tmp_path / "found.json", *option)
        queries.append(json.loads((tmp_path / "found.json").read_text())["counts"]["queries"]["found"])
    assert queries[1] > queries[0] > 0


def test_options_are_read_as_values():
    assert script.options_of(["gap=25", "share=0.5", "images=a b", "test=('x','y')", "path=a=b"]) == {
        "gap": 25,
        "share": 0.5,
        "images": "a b",
        "test": ("x", "y"),
        "path": "a=b",
    }


# --- damaged images


def image_of(path, size):
    """An image without boxes."""
    return AnnotatedImage(path.name, path, *size, np.zeros((0, 4), np.float32), np.zeros(0, int))


def fault_of(path, data, size=(48, 64)):
    path.write_bytes(data)
    found = decoding.image_fault(image_of(path, size))
    return found and found[0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_damaged_images(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    path = tmp_path / f"a{suffix}"
    assert fault_of(path, data) is None
    assert fault_of(path, data + b"\0" * 7) is None  # cameras append bytes
    assert fault_of(path, data, (64, 48)) == "image of another size"
    for cut in (1, 2, 40, len(data) // 2, len(data)):
        assert fault_of(path, data[:-cut]) == "missing or unreadable image", cut


def jpeg(*options):
    """The file of a 480 x 640 image with texture on every row."""
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(pixels, (0, 0), 3), options)[1].tobytes()


def decodes(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


def test_the_end_of_a_jpeg_file():
    thumbnail = b"\xff\xe1" + (2 + 12).to_bytes(2, "big") + b"Exif\0\0" + b"\xff\xd8\0\0\xff\xd9"
    for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)):
        data = jpeg(*options)
        for start in (b"\xff\xd8", b"\xff\xd8" + thumbnail, b"\xff\xd8\xff" + thumbnail):  # one with a fill byte
            assert decodes(start + data[2:]) and decoding.has_jpeg_end(start + data[2:] + b"\0\0")
            for length in (2, 20, 200, len(data) // 2, len(data) - 1):  # the thumbnail's marker does not count
                assert not decoding.has_jpeg_end(start + data[2:length]), (options, length)


def test_a_jpeg_without_end_that_decodes(tmp_path):
    """A file that was allocated and not filled: libjpeg decodes zeros as image data."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    half = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
    assert decodes(half) and fault_of(tmp_path / "a.jpg", half) == "truncated image"


def test_corrupt_data_that_libjpeg_conceals(tmp_path, capfd, monkeypatch):
    """The images decode and have an end; libjpeg's warnings are attributed to each image."""
    data = jpeg()
    middle = len(data) // 2
    files = {
        "whole": data,
        "cut": data[:middle] + data[middle + 2000 :],
        "half": data[:middle] + data[-2:],
        "broken": data[:middle],
        "other": jpeg(cv2.IMWRITE_JPEG_QUALITY, 50),
        "extra": data[:-2] + b"\0" * 9 + data[-2:],
    }  # bytes before the end marker: harmless
    images = []
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert decodes(content) == (name != "broken")
        images.append(image_of(tmp_path / name, (480, 640)))
    capfd.readouterr()
    dataset = RawDataset(gallery=images)
    monkeypatch.setattr(decoding, "progress", lambda items, *_: print("progress", file=sys.stderr) or items)
    decoding.decode_all(dataset)
    assert {(f.check, f.image) for f in dataset.findings} == {
        ("corrupt image", "cut"),
        ("corrupt image", "half"),
        ("missing or unreadable image", "broken"),
    }
    corrupt = next(f for f in dataset.findings if f.image == "half")
    assert str(corrupt) == (
        f"{tmp_path / 'half'}: Corrupt JPEG data: premature end of data segment; part of the"
        " image is filled in; replace it"
    )
    assert set(capfd.readouterr().err.split()) == {"progress"}  # C's output is captured, Python's is not
    dataset = RawDataset(gallery=[images[0], images[4]])
    decoding.decode_all(dataset)
    assert dataset.findings == []


def test_every_image_is_decoded_once(tmp_path, monkeypatch, capsys):
    for i in range(20):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), np.full((48, 64, 3), i, np.uint8))
    (tmp_path / "7.jpg").write_bytes(b"")
    images = [image_of(tmp_path / f"{i}.jpg", (48, 64)) for i in range(20)]
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    dataset = RawDataset(train=images[:12], gallery=images[10:])
    assert decoding.decode_all(dataset) == 20
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines[:19]] == [f"{i}/20" for i in range(2, 21)]
    assert [(f.level, f.image) for f in dataset.findings] == [("error", "7.jpg")]


# --- the page


class Page(HTMLParser):
    """Refuses tags that are not closed in order; keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def spoiled(tree):
    """Training frames with an odd name, a repeated pid and a missing image; a query box that is not annotated."""
    cv2.imwrite(str(tree / "frames" / f"{ODD}.jpg"), np.full((90, 1200, 3), 90, np.uint8))
    annotate(tree, ODD, "box_new", [[481, 5, 6, 100, 20], [481, 300, 0, 80, 60], [-2, 600, 10, 30, 30]])
    scipy.io.savemat(tree / "frame_train.mat", {"img_index_train": index_of([*TRAIN, ODD, "c1s1_<i>"])})
    with (tree / "query_info.txt").open("a") as file:
        file.write("900 30 2 10 20 c3s3_000001\r\n")
    return tree


def test_the_page_is_complete_and_self_contained(run, spoiled, tmp_path):
    file = tmp_path / "new folder" / "page.html"
    status, out, _ = run("--name", "prw", "--root", spoiled, "--html", file)
    source = file.read_text(encoding="utf-8")
    page = Page(source)
    assert status == 1 and file.stat().st_size < 300_000
    # the same tables
    assert out[-1].partition("  [")[0] in page.text and str(spoiled) in page.text
    for line in out[2:13]:
        assert line.strip().rpartition(" ")[0].strip() in page.text
    for finding in ("missing or unreadable image", "query box is no gallery box", "identity twice in an image"):
        assert finding in page.text
    assert f"{ODD}.jpg (1200 x 90, 3 boxes)" in page.text and "c1s1_<i>.jpg: is missing, although" in page.text
    # nothing from elsewhere, nothing that runs; made for phones too
    assert not {"script", "link", "iframe", "b", "i"} & {tag for tag, _ in page.tags}
    assert "http" not in source and "@import" not in source and "url(" not in source
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    for tag, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes)
        assert all(attributes.get(key, "data:").startswith("data:") for key in ("src", "href")), tag
    # every kind of finding about an image that can be decoded, samples of both splits and queries
    headings = re.findall(r"<h3>(.*?)</h3>", source)
    assert [re.sub("<.*?>", "", heading) for heading in headings] == [
        "warning query box is no gallery box",
        "known box without area",
        "known identity twice in an image",
        "known negative x or y",
        "Samples of train",
        "Samples of gallery",
        "Samples of the queries",
    ]
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert len(pictures) == 1 + 1 + 1 + 1 + 3 + 4 + 3 and {a["alt"] for a in pictures} >= {f"{ODD}.jpg"}
    for attributes in pictures:
        data = base64.b64decode(attributes["src"].removeprefix("data:image/jpeg;base64,"))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == ((36, 480, 3) if attributes["alt"] == f"{ODD}.jpg" else (40, 60, 3))


def test_an_image_that_cannot_be_decoded_is_reported(run, tree, tmp_path):
    path = tree / "frames" / "c3s1_000201.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    run("--name", "prw", "--root", tree, "--html", tmp_path / "page.html")
    assert "(cannot be decoded)" in Page((tmp_path / "page.html").read_text()).text


def test_boxes_are_drawn_in_place(tmp_path):
    """In an image of twice the page's width; each kind of box in its colour, queries over boxes."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((400, 2 * validation_page.WIDTH, 3), 128, np.uint8))
    boxes = np.float32([[100, 200, 200, 300], [400, 200, 500, 300], [700, 200, 800, 300]])
    image = AnnotatedImage("a.png", path, 400, 960, boxes, np.asarray([5, -1, 6]))
    drawn = validation_page.picture(image, [Query("a.png", boxes[2], 6)])
    assert drawn.shape == (200, 480, 3)
    for x, color in ((50, validation_page.LABELLED), (200, validation_page.UNLABELLED), (350, validation_page.QUERY)):
        for place in ((130, x), (130, x + 50), (150, x + 25)):  # left, right, bottom
            assert tuple(drawn[place]) == color
        assert tuple(drawn[125, x + 25]) == (128, 128, 128)
    assert (drawn[80:98, 45:75] == validation_page.LABELLED).all(-1).any()  # a number over the labelled box
    assert (drawn[80:98, 195:225] == 128).all()  # none over the unlabelled one
    only_queries = validation_page.picture(image, [], boxes=False)
    assert (only_queries == 128).all()


def test_the_page_of_a_dataset_without_a_finding():
    dataset = RawDataset()
    clean = Validation("prw", "somewhere", dataset, None, 1.0)
    assert "No faults were found." in Page(validation_page.page(clean)).text and clean.status == 0
    dataset.note("warning", "check", "where", "what")
    assert clean.verdict == "usable: no errors, 1 warning to look at (images were not decoded)"
    assert Path(clean.root).name == "somewhere"
