"""Images and videos of a folder: what is found, and what is read."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from psdiff_jax.data.decoding import MAX_PIXELS
from psdiff_jax.data.media import Media, count_frames, find_media, frame_at, read_frames, read_image
from psdiff_jax.errors import InputError

from ..folder import write_image, write_video


def test_media_are_found_in_subfolders_by_suffix(tmp_path):
    for name in ("b.JPG", "a/Straße 横断.png", "a/b/c.webp", "z.MOV", "notes.txt", ".hidden.jpg", ".git/x.jpg", "jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "thumbnails").mkdir()
    (tmp_path / "thumbnails/.nomedia").touch()
    (tmp_path / "thumbnails/t.jpg").touch()
    assert find_media(tmp_path) == [
        Media("a/Straße 横断.png", "image"),
        Media("a/b/c.webp", "image"),
        Media("b.JPG", "image"),
        Media("z.MOV", "video"),
    ]


def test_links_are_followed_once(tmp_path):
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    write_image(photos / "z/one.png", 1)
    write_image(elsewhere / "two.png", 2)
    (photos / "a").symlink_to("z")  # sorts first, and is not the folder's own name
    (photos / "z/up").symlink_to("..")
    (photos / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(photos)
    (photos / "self.png").symlink_to("self.png")
    (photos / "gone").symlink_to(tmp_path / "unmounted")
    os.mkfifo(photos / "pipe.png")
    unreadable = {}
    assert [media.path for media in find_media(photos, unreadable)] == ["linked/two.png", "z/one.png"]
    assert sorted(unreadable) == ["gone", "self.png"]
    assert all(reason.startswith("cannot be read (") for reason in unreadable.values())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_media(tmp_path / "nowhere")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(tmp_path, orientation):
    """Against Pillow's own encoding of the EXIF orientation, by its meaning: where the first row and column are."""
    upright = np.zeros((8, 12, 3), np.uint8)
    upright[0], upright[:, 0] = 100, 200  # the top row, and the left column
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), upright)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("RGBA", (10, 20, 30, 128), (10, 20, 30)),
        ("I;16", 90 << 8, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, value, expected):
    Image.new(mode, (5, 4), value).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert image.dtype == np.uint8 and image.shape == (4, 5, 3) and tuple(image[2, 2]) == expected


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".heic", ".tif", ".bmp", ".gif"])
def test_other_formats_are_read(tmp_path, suffix):
    if suffix == ".heic":
        pytest.importorskip("pillow_heif")
    path = tmp_path / f"x{suffix}"
    Image.new("RGB", (64, 48), (200, 30, 60)).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.abs(read_image(path).astype(int) - [200, 30, 60]).max() <= 8


def png(width: int, height: int) -> bytes:
    """A PNG that says it is this large, and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg(size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"Dear diary", "not an image"),
        (jpeg()[:-300], "broken image (image file is truncated"),
        (jpeg()[:3], "not an image"),
        (png(12_000, 12_000), f"12000 x 12000 pixels, more than {MAX_PIXELS / 1e6:.0f} million"),
        (png(60_000, 60_000), f"more than {MAX_PIXELS / 1e6:.0f} million pixels"),
        (png(20, 20), "broken image"),
    ],
    ids=["empty", "text", "truncated", "stub", "large", "bomb", "no pixels"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_broken_image_is_one_line(tmp_path, content, message):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.jpg: cannot be read \(No such file"):
        read_image(tmp_path / "none.jpg")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """4 seconds at 10 frames a second; frame i is 6 i bright."""
    pytest.importorskip("av")
    return write_video(tmp_path_factory.mktemp("video") / "Überwachung 1.mp4", 40)


def number(image: np.ndarray) -> int:
    return round(float(image[24:, 32:].mean()) / 6)


@pytest.mark.parametrize("rate", [0.5, 1, 2.5, 3, 10, 30])
def test_frames_are_the_first_of_their_slots(video, rate):
    frames = list(read_frames(video, rate))
    slots = {}
    for i in range(40):
        slots.setdefault(int(i * rate / 10 + 1e-9), i)
    assert [number(frame.image) for frame in frames] == list(slots.values())
    np.testing.assert_allclose([frame.time for frame in frames], np.array(list(slots.values())) / 10, atol=1e-6)
    assert frames[0].image.shape == (48, 64, 3) and frames[0].image[:8, :8].min() > 200
    assert count_frames(video, rate) == pytest.approx(4 * rate, abs=1)
    for frame in frames[::3]:
        rest = list(read_frames(video, rate, after=frame.time))
        assert [each.time for each in rest] == [each.time for each in frames if each.time > frame.time]


def test_a_frame_is_found_by_its_time(video):
    for i in (0, 1, 7, 8, 23, 39):
        assert number(frame_at(video, np.float32(i / 10))) == i
    assert number(frame_at(video, 1.26)) == 13
    assert number(frame_at(video, 100.0)) == 39


def test_a_turned_video_is_upright(video, tmp_path):
    """A display matrix as telephones write it; FFmpeg is asked to turn the stored frame clockwise by 90 degrees."""
    import av

    turned = tmp_path / "turned.mp4"
    with av.open(str(video)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = turned.read_bytes()
    unit, one = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), 1 << 16
    at = data.index(b"tkhd")
    place = data.index(unit, at)
    clockwise = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 << 16, 0, 1 << 30)
    turned.write_bytes(data[:place] + clockwise + data[place + len(unit) :])
    image = frame_at(turned, 0.0)
    assert image.shape == (64, 48, 3)
    assert image[:10, -8:].min() > 200 and image[:10, :20].max() < 60  # the corner went from upper left to upper right


def test_a_broken_video_is_one_line(tmp_path, video):
    pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n")
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:2000])
    for name in ("text.mp4", "list.mp4", "cut.mp4", "none.mp4"):
        with pytest.raises(InputError, match=f"{name}: broken video") as caught:
            list(read_frames(tmp_path / name, 1.0))
        assert "\n" not in str(caught.value)
        assert count_frames(tmp_path / name, 1.0) == 0
