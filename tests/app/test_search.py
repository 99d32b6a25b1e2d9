"""Searching on the page, route by route: a model that sees colours, a real index of a folder."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from psdiff_jax.app.gallery import Gallery
from psdiff_jax.app.sessions import MAX_IMAGES

from .conftest import BLUE, GREEN, RED, YELLOW
from .standin import png

REDS = {"north/1.jpg", "south/1.jpg", "south/a b.jpg", "film/walk.webm"}


def test_an_image_is_looked_at_from_left_to_right(browser):
    state = browser.upload(png({BLUE: 30, RED: 200}), "on the way.png").json()
    (image,) = state["images"]
    assert (image["name"], image["width"], image["height"]) == ("on the way.png", 320, 200)
    assert [person["box"] for person in image["people"]] == [
        [30, 60, 70, 160],
        [200, 60, 240, 160],
    ]  # no false positive
    assert state["hits"] == [] and state["gallery"] == {
        "people": 13,
        "images": 5,
        "videos": 1,
        "folders": [".", "film", "north", "south"],
    }
    stored = Image.open(io.BytesIO(browser.get(f"/api/images/{image['id']}").content))
    assert stored.size == (320, 200)


def test_a_chosen_person_is_found(browser):
    state = browser.choose(person=0, people=(RED, BLUE))
    assert {hit["image"] for hit in state["hits"][:4]} == REDS
    assert [hit["rank"] for hit in state["hits"]] == list(range(1, len(state["hits"]) + 1))
    assert all(a["similarity"] >= b["similarity"] for a, b in zip(state["hits"], state["hits"][1:], strict=False))
    (film,) = [hit for hit in state["hits"][:4] if hit["image"] == "film/walk.webm"]
    assert film["time"] == pytest.approx(1, abs=0.25) and state["hits"][0]["time"] is None


def test_a_drawn_box_is_searched(browser):
    image = browser.upload(png({RED: 20, GREEN: 100})).json()["images"][0]
    state = browser.post("/api/choose", json={"image": image["id"], "box": [105, 70, 135, 150]}).json()
    assert {hit["image"] for hit in state["hits"][:2]} == {"south/1.jpg", "north/2.jpg"}
    for box in ([105, 70, 135, 950], [50, 50, 50, 50]):
        answer = browser.post("/api/choose", json={"image": image["id"], "box": box})
        assert answer.status_code == 400 and "does not lie in the image" in answer.json()["error"]
    assert browser.get("/api/state").json() == state


def test_judgements_move_the_query_and_undo_takes_them_back(browser):
    browser.choose(people=(RED,))
    before = browser.post("/api/filters", json={"top": 24, "similarity": -1}).json()
    other = next(hit for hit in before["hits"] if hit["image"] == "top.jpg")
    judged = browser.post("/api/judge", json={"hit": other["id"], "is_them": True}).json()
    now = {hit["id"]: hit for hit in judged["hits"]}
    assert now[other["id"]]["is_them"] is True and now[other["id"]]["similarity"] > other["similarity"]
    rejected = browser.post("/api/judge", json={"hit": other["id"], "is_them": False}).json()
    assert {hit["id"]: hit for hit in rejected["hits"]}[other["id"]]["similarity"] < other["similarity"]
    assert browser.post("/api/judge", json={"hit": other["id"], "is_them": None}).json()["hits"] == before["hits"]
    for expected in (rejected, judged, before):
        assert browser.post("/api/undo").json() == expected
    assert browser.post("/api/undo").json()["examples"] == []
    assert browser.post("/api/undo").json()["can_undo"] is False


def test_judgements_outlast_the_index(browser, desk, index):
    """Also of a person in a video; said again, each counts once."""
    browser.choose(people=(RED,))
    hits = browser.post("/api/filters", json={"top": 24, "similarity": -1}).json()["hits"]
    chosen = [next(hit for hit in hits if hit["image"] == name) for name in ("top.jpg", "film/walk.webm")]
    for hit in chosen:
        before = browser.post("/api/judge", json={"hit": hit["id"], "is_them": True}).json()["hits"]
    desk.indexing.gallery = Gallery(index, 0.5)
    after = browser.get("/api/state").json()["hits"]
    assert [hit | {"id": ""} for hit in after] == [hit | {"id": ""} for hit in before]
    assert not {hit["id"] for hit in after} & {hit["id"] for hit in before}
    said = [hit["id"] for hit in after if hit["is_them"]]
    assert len(said) == 2
    for hit in said:
        assert browser.post("/api/judge", json={"hit": hit, "is_them": True}).json()["hits"] == after
    for hit in said:
        state = browser.post("/api/judge", json={"hit": hit, "is_them": None}).json()
    assert [hit | {"id": ""} for hit in state["hits"]] == [hit | {"id": ""} for hit in hits]


def test_several_images_of_one_person(browser):
    browser.choose(people=(RED,))
    state = browser.choose(people=(YELLOW,))
    assert len(state["examples"]) == 2
    reds, yellows = (
        [h["similarity"] for h in state["hits"] if h["image"] == name] for name in ("north/1.jpg", "film/walk.webm")
    )
    assert max(yellows) < 1 and max(reds) < 1  # the query is between the two
    state = browser.delete(f"/api/images/{state['examples'][1]['image']}").json()
    assert len(state["images"]) == len(state["examples"]) == 1 and state["hits"][0]["similarity"] > 0.999
    assert browser.post("/api/clear").json()["images"] == []


def test_another_person_of_the_same_image_replaces_the_first(browser):
    image = browser.upload(png({RED: 20, BLUE: 100})).json()["images"][0]["id"]
    state = browser.post("/api/choose", json={"image": image, "person": 0}).json()
    browser.post("/api/judge", json={"hit": state["hits"][0]["id"], "is_them": True})
    state = browser.post("/api/choose", json={"image": image, "person": 1}).json()
    assert len(state["examples"]) == 1 and not any(hit["is_them"] for hit in state["hits"])
    assert {hit["image"] for hit in state["hits"][:4]} == {"north/1.jpg", "south/a b.jpg", "top.jpg", "film/walk.webm"}


@pytest.mark.parametrize(
    ("wanted", "images"),
    [
        ({"folder": "south"}, {"south/1.jpg", "south/a b.jpg"}),
        ({"folder": "."}, set()),
        ({"similarity": 0.9}, REDS),
        ({"after": 0.5}, {"film/walk.webm"}),
        ({"before": 0.5, "similarity": 0.9}, set()),
        ({"after": 0.5, "before": 1.5, "similarity": 0.9}, {"film/walk.webm"}),
        ({"folder": "north", "after": 0}, set()),
    ],
)
def test_filters(browser, wanted, images):
    browser.choose(people=(RED,))
    state = browser.post("/api/filters", json={"top": 24, "similarity": 0.6, **wanted}).json()
    assert {hit["image"] for hit in state["hits"]} == images
    assert browser.get("/api/state").json() == state


def test_filters_by_time_look_behind_the_first_hits(browser):
    """The best hit is an image: with one hit wanted, those that pass are further down."""
    browser.choose(people=(RED,))
    state = browser.post("/api/filters", json={"top": 1, "similarity": -1, "after": 1.9}).json()
    assert [hit["image"] for hit in state["hits"]] == ["film/walk.webm"] and state["hits"][0]["time"] > 1.9
    more = browser.post("/api/filters", json={"top": 2, "similarity": -1}).json()
    assert len(more["hits"]) == 2 and more["more"]


def test_pictures_of_a_hit(browser, folder):
    hits = browser.choose(people=(RED,))["hits"]
    for hit in hits[:4]:
        crop = np.asarray(Image.open(io.BytesIO(browser.get(f"/api/hits/{hit['id']}/crop").content)))
        assert np.abs(crop[50, 20].astype(int) - (214, 60, 52)).max() < 40
        for size in ("small", "large"):
            answer = browser.get(f"/api/hits/{hit['id']}/frame/{size}")
            frame = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
            left = int(hit["box"][0])
            assert frame.shape == (200, 320, 3) and np.abs(frame[110, left] - (255, 176, 32)).max() < 60  # the box
            assert "max-age" in answer.headers["cache-control"]
    image = next(hit for hit in hits if hit["image"] == "south/a b.jpg")
    assert browser.get(f"/api/hits/{image['id']}/media").content == (folder / "south/a b.jpg").read_bytes()


def test_a_video_is_sent_in_ranges(browser, folder):
    hit = next(hit for hit in browser.choose(people=(RED,))["hits"] if hit["time"] is not None)
    video, url = (folder / "film/walk.webm").read_bytes(), f"/api/hits/{hit['id']}/media"
    part = browser.get(url, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == video[100:200]
    assert (
        part.headers["content-range"] == f"bytes 100-199/{len(video)}" and part.headers["content-type"] == "video/webm"
    )
    assert browser.get(url).headers["accept-ranges"] == "bytes"
    assert browser.get(url, headers={"Range": f"bytes={len(video)}-"}).status_code == 416


def test_exports(browser):
    hits = browser.choose(people=(RED,))["hits"]
    browser.post("/api/judge", json={"hit": hits[0]["id"], "is_them": True})
    answer = browser.get("/export/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="hits.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == len(hits) and rows[0]["image"] == hits[0]["image"] and rows[0]["is_them"] == "True"
    assert [float(rows[0][key]) for key in ("x1", "y1", "x2", "y2")] == hits[0]["box"]
    plain = json.loads(browser.get("/export/json").content)
    assert plain[1]["box"] == hits[1]["box"] and "id" not in plain[0]
    archive = zipfile.ZipFile(io.BytesIO(browser.get("/export/zip").content))
    assert archive.namelist() == ["hits.csv", *(f"{hit['rank']:03}.jpg" for hit in hits)]
    assert Image.open(archive.open("001.jpg")).size[1] > 100
    assert browser.get("/export/exe").status_code == 422


def test_before_there_is_an_index(browser, desk):
    desk.indexing.gallery = None
    state = browser.choose(people=(RED,))
    assert state["gallery"] is None and state["hits"] == [] and len(state["examples"]) == 1
    answer = browser.get("/api/hits/x-1/crop")
    assert answer.status_code == 400 and "no index yet" in answer.json()["error"]


def test_too_many_images_and_removed_ones(browser):
    for _ in range(MAX_IMAGES):
        browser.upload(png({RED: 20}))
    answer = browser.upload(png({RED: 20}))
    assert answer.status_code == 400 and "remove one first" in answer.json()["error"]
    gone = browser.post("/api/choose", json={"image": "gone", "person": 0})
    assert gone.status_code == 400 and "has been removed" in gone.json()["error"]
    assert len(browser.get("/api/state").json()["images"]) == MAX_IMAGES
