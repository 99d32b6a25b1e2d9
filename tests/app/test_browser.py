"""The page in a real browser, over drawn street scenes and the shipped weights: from the folder to the export."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from psdiff_jax.app.security import Gate
from psdiff_jax.app.server import create_app
from psdiff_jax.datasets.synthetic_street import Street, StreetOptions
from psdiff_jax.ops.boxes import box_iou

pytest.importorskip("playwright", reason="the browser test needs playwright (extra test)")
pytest.importorskip("axe_playwright_python", reason="the browser test needs axe-playwright-python (extra test)")

import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from .conftest import RED
from .standin import png

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]
ADDRESS = re.compile(r"Person search: (http://127\.0\.0\.1:\d+/)")
WAIT = 600_000  # ms: the model compiles, on a busy machine
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (403|415)")  # noted by browsers
HOSTILE = "<img src=x onerror=alert(1)>"  # in names of files, which the page shows as they are
QUERY = 0  # the scene that is uploaded; the others are in the folder


@pytest.fixture(scope="module")
def scenes():
    counts = {"gallery_images": 12, "test_identities": 4, "queries": 4, "cameras": 2}
    street = Street(StreetOptions.preset("tiny", camera_seed=1, seed=1, **counts))
    return [street.scene("gallery", i) for i in range(12)]


@pytest.fixture(scope="module")
def photos(scenes, tmp_path_factory):
    root = tmp_path_factory.mktemp("street") / "photos"
    for i, scene in enumerate(scenes):
        path = root / f"camera {scene.camera} {HOSTILE}" / f"{i}.png" if i != QUERY else root.parent / "query.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(path)
    (root / f"{HOSTILE}.jpg").write_text("this is a text")
    return root


@pytest.fixture(scope="module")
def address(photos):
    """A server of its own, as a user starts it."""
    command = [sys.executable, "-m", "psdiff_jax.app", "--folder", str(photos), "--index", str(photos.parent / "index")]
    server = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    line = server.stdout.readline()
    if not ADDRESS.match(line):
        server.kill()
        pytest.fail(f"the page did not start: {line}{server.stderr.read()}")
    yield ADDRESS.match(line)[1]
    server.send_signal(signal.SIGINT)
    _, errors = server.communicate(timeout=60)
    assert server.returncode == 0 and "Traceback" not in errors, errors


@pytest.fixture
def open_page(request):
    """(width, scheme, address) -> a new browser's page; at the end nothing may stand in its console."""
    said = []
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)

        def open_page(width=1280, scheme="light", address=None):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            page.set_default_timeout(WAIT)
            page.on("console", lambda message: REFUSED.match(message.text) or said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(address or request.getfixturevalue("address"))
            return page

        yield open_page
        browser.close()
    assert not said


@pytest.fixture
def with_token(desk):
    """The address of a page that is open to the network."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        desk.gate = Gate("0.0.0.0", listener.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(create_app(desk), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield desk.gate.address.replace(socket.gethostname(), "127.0.0.1")
        server.should_exit = True
        thread.join()


def accessible(page):
    found = Axe().run(page).response["violations"]
    assert not [(v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found if v["impact"] != "minor"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out


def choose(page, scenes, photos):
    """Uploads the query's scene and clicks a person who is in other scenes, too; their id."""
    page.set_input_files("#file", photos.parent / "query.png")
    page.locator(".person").first.wait_for()
    (image,) = page.evaluate("fetch('/api/state').then((answer) => answer.json())")["images"]
    scene = scenes[QUERY]
    place, person = next((i, int(p)) for i, p in enumerate(scene.person_ids) if p >= 0)
    boxes = np.asarray([each["box"] for each in image["people"]])
    overlap = box_iou(np.asarray(scene.boxes[place : place + 1], float), boxes)[0]
    assert overlap.max() > 0.5
    page.locator("button.person").nth(int(overlap.argmax())).click()
    page.locator(".card").first.wait_for()
    return person


def test_from_the_folder_to_the_export(open_page, scenes, photos, tmp_path):
    page = open_page()
    expect(page.locator("#about")).to_contain_text("in 11 images", timeout=WAIT)  # the index stands
    expect(page.locator("#unreadable summary")).to_have_text("1 file could not be read")
    expect(page.locator("#empty")).to_contain_text("Start with an image")
    accessible(page)

    person = choose(page, scenes, photos)
    (state,) = [page.evaluate("fetch('/api/state').then((answer) => answer.json())")]
    first = state["hits"][0]
    expect(page.locator(".source").first).to_contain_text(HOSTILE)
    expect(page.locator("#unreadable li")).to_contain_text(HOSTILE)
    expect(page.locator("#folder option").last).to_contain_text(HOSTILE)
    expect(page.locator("img[src=x]")).to_have_count(0)
    scene = scenes[int(re.search(r"(\d+)\.png", first["image"])[1])]
    truth = scene.boxes[list(scene.person_ids).index(person)]  # ValueError: the first hit is somebody else
    assert box_iou(np.asarray([truth], float), np.asarray([first["box"]]))[0, 0] > 0.5
    accessible(page)

    before = page.locator(".card .value").all_inner_texts()
    page.locator(".them").first.click()
    expect(page.locator(".card.is-them")).to_have_count(1)
    page.locator(".not").nth(5).click()
    expect(page.locator(".card.is-not")).to_have_count(1)
    assert page.locator(".card .value").all_inner_texts() != before
    page.reload()  # the search is still there
    expect(page.locator(".card.is-them")).to_have_count(1)
    for _ in range(2):
        page.locator("#undo").click()
    expect(page.locator(".card.is-them, .card.is-not")).to_have_count(0)
    assert page.locator(".card .value").all_inner_texts() == before

    with page.expect_download() as download:
        page.get_by_role("link", name="Crops").click()
    download.value.save_as(tmp_path / "hits.zip")
    assert len(zipfile.ZipFile(tmp_path / "hits.zip").namelist()) == len(before) + 1

    page.locator(".open").first.click()
    expect(page.get_by_role("dialog").locator("img")).to_be_visible()
    accessible(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New search").click()
    expect(page.locator("#empty")).to_contain_text("Start with an image")


def test_the_token_opens_the_page(with_token, open_page):
    page = open_page(390, "dark", with_token.partition("#")[0])
    expect(page).to_have_url(re.compile("/sign-in$"))
    accessible(page)
    page.get_by_label("Token").fill("guess")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert")).to_have_text("This is not the token.")
    accessible(page)
    page = open_page(address=with_token)  # as it is printed
    expect(page.locator("#about")).to_contain_text("in 5 images and 1 video")
    assert "token" not in page.url


def test_filters_stay_as_they_are_typed_while_the_index_is_made(with_token, desk, open_page, tmp_path):
    (tmp_path / "query.png").write_bytes(png({RED: 20}))
    desk.calibration = {"similarities": [0.0, 0.5], "precision": [0.2, 0.9]}
    gallery, ready = desk.gallery, threading.Event()
    indexing = desk.indexing.start(lambda _: (gallery, {}) if ready.wait(WAIT / 1000) else None)
    try:
        page = open_page(address=with_token)
        page.set_input_files("#file", tmp_path / "query.png")
        page.locator("button.person").click()
        page.locator(".card").first.wait_for()
        card = page.locator(".open").first.element_handle()
        card.focus()
        for _ in range(2):  # the first may have been under way
            page.wait_for_event("response", lambda response: response.url.endswith("/api/state"))
        assert card.evaluate("each => each === document.activeElement")  # and a press would not be lost
        similarity = page.get_by_label("Similarity of at least")
        similarity.evaluate("each => { each.value = 0.55; each.dispatchEvent(new Event('input', { bubbles: true })); }")
        page.get_by_label("From").fill("1.5")
        for _ in range(2):  # the first may have been under way
            page.wait_for_event("response", lambda response: response.url.endswith("/api/state"))
        expect(page.get_by_label("From")).to_have_value("1.5")
        expect(similarity).to_have_value("0.55")
        expect(page.locator("#least")).to_have_text("0.55")
        expect(page.locator("#promise")).to_contain_text("90 % were right")
    finally:
        ready.set()
        indexing.join()
    page.get_by_label("From").press("Enter")
    expect(page.get_by_label("From")).to_have_value("0:01.5")
    page.get_by_label("To", exact=True).fill("1:30")
    page.get_by_label("To", exact=True).press("Enter")
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    filters = page.evaluate("fetch('/api/state').then((answer) => answer.json())")["filters"]
    assert (filters["after"], filters["before"], filters["similarity"]) == (1.5, 90, 0.55)


def test_a_text_file_is_refused_and_the_page_goes_on(open_page, scenes, photos, tmp_path):
    page = open_page(390, "dark")
    for name in ("holiday.jpg", "birthday.jpg"):
        (tmp_path / name).write_text("this is a text")
    page.set_input_files("#file", [tmp_path / "holiday.jpg", tmp_path / "birthday.jpg"])
    for name in ("holiday.jpg", "birthday.jpg"):
        expect(page.get_by_role("alert")).to_contain_text(f"{name} is not an image that can be read")
    accessible(page)
    choose(page, scenes, photos)
    expect(page.get_by_role("alert")).to_be_hidden()
    accessible(page)


def test_by_keyboard(open_page, scenes, photos):
    """People, and a box that is moved with the arrow keys; the focus stays where it was."""
    page = open_page(390)
    choose(page, scenes, photos)
    page.locator("button.person").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("button.person").first).to_have_attribute("aria-pressed", "true")
    expect(page.locator("button.person").first).to_be_focused()
    page.get_by_role("button", name="Draw a box").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".draft")).to_be_focused()
    before = page.locator(".draft").bounding_box()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    after = page.locator(".draft").bounding_box()
    assert after["x"] > before["x"] and after["height"] > before["height"]
    accessible(page)
    page.keyboard.press("Escape")
    expect(page.locator(".veil")).to_have_count(0)
    expect(page.get_by_role("button", name="Draw a box")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator(".drawn")).to_be_visible()
    expect(page.locator(".card").first).to_be_visible()
    expect(page.get_by_role("button", name="Draw a box")).to_be_focused()
    page.get_by_role("button", name="New search").press("Enter")
    expect(page.locator("#file")).to_be_focused()


def test_a_box_is_drawn_with_the_pointer(open_page, scenes, photos):
    page = open_page()
    choose(page, scenes, photos)
    page.get_by_role("button", name="Draw a box").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".veil")).to_have_count(0)
    page.get_by_role("button", name="Draw a box").click()
    area = page.locator(".veil").bounding_box()
    page.mouse.move(area["x"] + 30, area["y"] + 20)
    page.mouse.down()
    page.mouse.move(area["x"] + 35, area["y"] + 25)
    page.mouse.up()
    expect(page.locator(".veil")).to_have_count(1)  # a click is no box
    page.mouse.move(area["x"] + 30, area["y"] + 20)
    page.mouse.down()
    page.mouse.move(area["x"] + 110, area["y"] + 160)
    page.mouse.up()
    drawn = page.locator(".drawn").bounding_box()
    assert abs(drawn["x"] - area["x"] - 30) < 3 and abs(drawn["width"] - 80) < 4
