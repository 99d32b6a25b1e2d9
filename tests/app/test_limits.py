"""What the page refuses, each with one line, after which it goes on."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from psdiff_jax.app import uploads

from .conftest import RED, found
from .standin import png


def huge_png(width, height):
    """A PNG of so many pixels, which is a few bytes long: only its header says so."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def refused(browser, answer, status, line):
    """One line, and the page goes on."""
    error = answer.json()["error"]
    assert answer.status_code == status and line in error and "\n" not in error and len(error) < 200
    assert browser.get("/api/state").json()["images"] == []
    assert found(browser.choose(people=(RED,)))


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        (b"this is a text", 415, "holiday.jpg is not an image that can be read; give a JPEG, PNG or WebP"),
        (b"", 400, "holiday.jpg is empty"),
        (png({RED: 20})[:200], 415, "holiday.jpg: broken image"),
        (huge_png(30_000, 30_000), 413, "at most 64 million"),
        (huge_png(10_000, 10_000), 413, "holiday.jpg has 10000 x 10000 pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", 415, "not an image"),
        (b"GIF89a" + bytes(20), 415, "not an image"),
    ],
    ids=["text", "empty", "cut off", "pixel bomb", "many pixels", "PostScript", "GIF"],
)
def test_uploads_that_are_no_images(browser, content, status, line):
    refused(browser, browser.upload(content, "holiday.jpg"), status, line)


@pytest.mark.parametrize(
    "name", ["../../secret.jpg", "..", "a/b.jpg", "a\\b.jpg", "", "a\x00.jpg", "C:\\x.jpg", "a\n.jpg"]
)
def test_names_that_are_paths(browser, name):
    refused(browser, browser.upload(png({RED: 20}), name), 400, "is no name of a file")


def test_long_names_are_cut(browser):
    (image,) = browser.upload(png({RED: 20}), "a" * 300 + ".png").json()["images"]
    assert image["name"] == "a" * 116 + ".png"


def test_two_gigabytes_are_refused_before_they_are_sent(browser):
    headers = {"Content-Length": str(2 * 2**30)}
    answer = browser.post("/api/images", params={"name": "film.jpg"}, content=b"x", headers=headers)
    refused(browser, answer, 413, "film.jpg is larger than 50 MB; give a smaller image")


@pytest.mark.anyio
async def test_an_undeclared_body_is_read_to_the_limit_only():
    read = 0

    async def chunks():
        nonlocal read
        for _ in range(2000):
            read += 2**20
            yield bytes(2**20)

    with pytest.raises(uploads.UploadError, match="larger than 50 MB"):
        await uploads.read_limited(chunks(), None, "film.jpg")
    assert read <= uploads.MAX_BYTES + 2**20


@pytest.mark.parametrize("content", [b"x" * 2**17, iter([b"{}"])], ids=["long", "of unknown length"])
def test_other_requests_are_short(browser, content):
    refused(browser, browser.post("/api/filters", content=content), 413, "64 kB at most")


def test_large_images_are_shrunk_and_turned():
    image = np.zeros((1500, 4096, 3), np.uint8)
    image[:, :2048] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", exif=exif)
    pixels = uploads.decode(buffer.getvalue(), "a.jpg")
    assert pixels.shape == (2048, 750, 3) and pixels[100].mean() > 250 and pixels[-100].mean() < 5
    gray = io.BytesIO()
    Image.new("LA", (30, 20)).save(gray, "PNG")
    assert uploads.decode(gray.getvalue(), "b.png").shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("path", "body", "status", "line"),
    [
        ("/api/filters", {"top": 0}, 422, "top: "),
        ("/api/filters", {"top": 10**6}, 422, "top: "),
        ("/api/filters", {"top": 5, "folder": "../.."}, 400, "There is no folder ../.. in the index"),
        ("/api/choose", {"image": "x", "box": [1, 2, 3]}, 422, "box"),
        ("/api/choose", {}, 422, "image: "),
        ("/api/judge", {"hit": "0-0", "is_them": True}, 400, "Choose a person first"),
        ("/api/nothing", {}, 404, "Not Found"),
    ],
)
def test_requests_that_make_no_sense(browser, path, body, status, line):
    refused(browser, browser.post(path, json=body), status, line)


def test_a_time_without_end_is_refused(browser):
    """JSON's 1e999 is read as infinity, which no answer could hold."""
    headers = {"Content-Type": "application/json"}
    answer = browser.post("/api/filters", content='{"top": 5, "after": 1e999}', headers=headers)
    refused(browser, answer, 422, "after: ")
    assert browser.get("/api/state").json()["filters"]["after"] is None


@pytest.mark.parametrize(
    "hit", ["0-0", "x", "..%2f..%2fsecret.jpg", "%00", "{v}-99999", "{v}--1", "{v}-1.0", "{v}-\u0663"]
)
@pytest.mark.parametrize("what", ["crop", "media", "frame/small"])
def test_hits_that_are_not_there(browser, hit, what):
    version = browser.choose(people=(RED,))["hits"][0]["id"].partition("-")[0]
    answer = browser.get(f"/api/hits/{hit.format(v=version)}/{what}")
    assert answer.status_code in (400, 404) and "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/../secret.jpg"]
)
def test_no_path_leaves_its_folder(browser, path):
    answer = browser.get(path)
    assert answer.status_code == 404 and answer.json()["error"] == "Not Found"


def test_links_out_of_the_folder_are_not_followed(browser, desk, folder):
    """Not even those that the index has followed."""
    hit = next(hit for hit in browser.choose(people=(RED,))["hits"] if hit["image"] == "north/1.jpg")
    url, file = f"/api/hits/{hit['id']}/media", folder / "north/1.jpg"
    kept = file.rename(folder.parent / "kept.jpg")
    try:
        assert "is no longer there" in browser.get(url).json()["error"]
        file.symlink_to(folder.parent / "secret.jpg")
        assert "leads out of the folder" in browser.get(url).json()["error"]
        assert browser.get(f"/api/hits/{hit['id']}/crop").status_code == 400
    finally:
        file.unlink(missing_ok=True)
        kept.rename(file)
    assert browser.get(url).status_code == 200


@pytest.mark.parametrize("size", [(100, 50), (170, 200)], ids=["without the box", "with a part of it"])
def test_an_image_that_became_smaller(browser, folder, size):
    """Its crop is refused; the ZIP has the others, and says so."""
    hits = browser.choose(people=(RED,))["hits"]
    hit = next(hit for hit in hits if hit["image"] == "south/1.jpg")
    file, line = folder / "south/1.jpg", "south/1.jpg has changed since it was indexed; index the folder again"
    before = file.read_bytes()
    try:
        Image.new("RGB", size).save(file)
        answer = browser.get(f"/api/hits/{hit['id']}/crop")
        assert (answer.status_code, answer.json()) == (400, {"error": line})
        archive = zipfile.ZipFile(io.BytesIO(browser.get("/export/zip").content))
    finally:
        file.write_bytes(before)
    left_out = [each["rank"] for each in hits if each["image"] == "south/1.jpg"]
    pictures = [f"{each['rank']:03}.jpg" for each in hits if each["rank"] not in left_out]
    assert archive.namelist() == ["hits.csv", *pictures, "left_out.txt"]
    assert archive.read("left_out.txt").decode() == "".join(f"{rank:03}.jpg: {line}\n" for rank in left_out)
    assert len(archive.read("hits.csv").splitlines()) == 1 + len(hits)
