"""The command line, and the thread that indexes."""

import socket
import sys
from pathlib import Path

import pytest

from psdiff_jax.app import __main__ as start
from psdiff_jax.app.desk import PersonSearch, open_desk
from psdiff_jax.app.gallery import Gallery
from psdiff_jax.app.indexing import Indexing
from psdiff_jax.app.server import create_app
from psdiff_jax.config import from_values
from psdiff_jax.errors import InputError
from psdiff_jax.inference.calibrate import calibrated_precision

from . import standin
from .conftest import RED, Browser


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "error: give --folder, images and videos to search, or --index, an index that stands"),
        (["--folder", "nowhere"], "error: --folder nowhere: no such folder"),
        (["--folder=~/nowhere"], f"error: --folder {Path('~/nowhere').expanduser()}: no such folder"),
        (["--folder", ".", "--run", "nowhere"], "error: nowhere/config.json is missing"),
        (
            ["--folder", ".", "--host", "no.such.host.invalid"],
            "error: --host no.such.host.invalid --port 0: cannot listen",
        ),
        (
            ["--folder", ".", "--public-url", "search.example.org"],
            "error: --public-url search.example.org: give https://NAME",
        ),
        (["--folder", ".", "--public-url", "https://a.b/c"], "error: --public-url https://a.b/c: give https://NAME"),
        (["--folder", ".", "--port", "700000"], "error: --host 127.0.0.1 --port 700000: cannot listen there"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, arguments, line):
    monkeypatch.setattr(sys, "argv", ["app", "--port", "0", *arguments])
    with pytest.raises(SystemExit) as end:
        start.main()
    assert str(end.value).startswith(line) and "\n" not in str(end.value)


def test_a_port_that_is_taken(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(sys, "argv", ["app", "--folder", ".", "--port", str(other.getsockname()[1])])
        with pytest.raises(SystemExit, match=r"cannot listen there \(Address already in use.*\); give another"):
            start.main()


def test_the_page_goes_on_while_the_index_is_made(desk):
    before, desk.indexing = desk.indexing.gallery, Indexing()
    browser = Browser(create_app(desk)).open()

    def work(report):
        report(3, 7)
        state = browser.get("/api/state").json()
        assert state["indexing"]["running"] and (state["indexing"]["done"], state["indexing"]["total"]) == (3, 7)
        assert browser.choose(people=(RED,))["hits"] == []
        return before, {"b.jpg": "not an image", "a.jpg": "an empty file"}

    desk.indexing.start(work).join()
    state = browser.get("/api/state").json()
    assert state["indexing"]["unreadable"] == ["a.jpg: an empty file", "b.jpg: not an image"]
    assert not state["indexing"]["running"] and not state["indexing"]["error"] and state["hits"]


@pytest.mark.parametrize(
    ("error", "line"),
    [(InputError("x holds no images or videos"), "x holds no"), (KeyError("x"), "has failed; the terminal")],
)
def test_an_index_that_cannot_be_made(desk, error, line, capsys):
    def work(report):
        raise error

    desk.indexing.start(work).join()
    state = Browser(create_app(desk)).open().get("/api/state").json()
    assert line in state["indexing"]["error"] and state["gallery"]["people"]  # the index before is still searched
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, KeyError)


def test_an_index_without_people(desk, tmp_path):
    standin.draw({}, tmp_path / "photos/empty street.jpg")
    desk.indexing.gallery = Gallery(standin.make_index(tmp_path / "photos", tmp_path / "index"), 0.5)
    state = Browser(create_app(desk)).open().choose(people=(RED,))
    assert state["gallery"]["people"] == 0 and state["hits"] == [] and state["examples"]


def test_what_calibration_promises(tmp_path):
    assert calibrated_precision(tmp_path, 4) is None
    known = '{"similarities": [0.0, 0.5], "precision": [0.2, null], "threshold": 0.1}'
    (tmp_path / "calibration.json").write_text(f'{{"4": {known}, "8": {{"threshold": 0.1}}}}')
    assert calibrated_precision(tmp_path, 4) == {"similarities": [0.0, 0.5], "precision": [0.2, None]}
    assert calibrated_precision(tmp_path, 8) is calibrated_precision(tmp_path, 2) is None


@pytest.mark.parametrize(
    ("held_out", "calibrate", "is_known"), [(0.1, True, True), (0.0, True, False), (0.1, False, False)]
)
def test_the_calibration_of_a_run(desk, index, monkeypatch, tmp_path, held_out, calibrate, is_known):
    """Is shown where the run uses it, also of a run in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    known = '{"1": {"similarities": [0.0], "precision": [0.2], "threshold": 0.1}}'
    (tmp_path / "run/calibration.json").write_text(known)
    search = standin.ColorSearch()
    search.config = from_values({"data": {"held_out": held_out}, "evaluate": {"calibrate": calibrate}})
    search.open_index = lambda _: index
    monkeypatch.setattr(PersonSearch, "load", lambda *_, **__: search)
    for run in ("~/run", str(tmp_path / "run")):
        opened = open_desk(desk.gate, run, index=tmp_path, folder=None)
        assert opened.calibration == ({"similarities": [0.0], "precision": [0.2]} if is_known else None)
