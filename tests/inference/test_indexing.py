"""Building an index: what changes in the folder changes in it, and a killed build goes on where it stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from psdiff_jax.data.media import read_frames, read_image
from psdiff_jax.errors import InputError
from psdiff_jax.inference import indexing, shards
from psdiff_jax.inference.index import Index
from psdiff_jax.inference.indexing import Summary, update_index
from psdiff_jax.inference.options import IndexOptions

from ..folder import OPTIONS, ColourEmbedder, people_of, write_image, write_video
from ..pod import join_pod, run_pod


@pytest.fixture
def photos(tmp_path) -> Path:
    for number in range(30):
        write_image(tmp_path / f"photos/{number % 3}/{number:02}.png", number)
    return tmp_path / "photos"


def update(photos, into, **given) -> tuple[Summary, int]:
    """(summary, number of images embedded)."""
    embedder = ColourEmbedder()
    summary = update_index(embedder, photos, into, **{"options": OPTIONS, **given})
    return summary, embedder.images


def rows_of(into) -> dict[str, list]:
    """{path: its rows}, in the order of time."""
    index, found = Index.open(into), {}
    vectors = np.concatenate([np.zeros((0, 8)), *index.embeddings])
    for file in index.files:
        found[file.path] = []
    for row in np.lexsort((np.arange(len(index.time)), index.time)):
        if index.live[row]:
            path = index.files[index.source[row]].path
            values = (index.time[row], index.scores[row], *index.boxes[row], *vectors[row])
            found[path].append(np.nan_to_num(np.array(values, np.float64), nan=-1).tolist())
    return found


def expected_rows(photos) -> dict[str, list]:
    """The same without the program: image by image, frame by frame."""
    found, prepare = {}, ColourEmbedder().prepare
    for path in sorted(path for path in photos.rglob("*.*") if path.is_file()):
        frames = read_frames(path, OPTIONS.rate) if path.suffix == ".mp4" else [(-1, read_image(path))]
        found[path.relative_to(photos).as_posix()] = rows = []
        for now, image in frames:
            people = people_of(*prepare(image))
            for box, score, vector in zip(*people, strict=True):
                if score >= OPTIONS.min_score:
                    rows.append([np.float32(now), score, *box, *vector.astype(np.float16)])
    return found


def same(found, expected):
    assert list(found) == sorted(expected)
    for path, rows in expected.items():
        np.testing.assert_allclose(np.array(found[path]), np.array(rows), rtol=1e-6, err_msg=path)


def contents(into) -> dict[str, bytes]:
    """Every file of the shards, without the times in files.json."""
    found = {}
    for path in sorted((into / "shards").rglob("*.*")):
        if path.is_file():
            found[path.relative_to(into).as_posix()] = path.read_bytes()
    return found


def test_an_index_holds_every_image(photos, tmp_path):
    seen = []
    into = tmp_path / "index"
    summary, embedded = update(photos, into, on_progress=lambda done, total: seen.append((done, total)))
    assert (summary.added, summary.unreadable, embedded) == (30, {}, 30)
    assert seen == [(i + 1, 30) for i in range(30)]
    same(rows_of(into), expected_rows(photos))
    everyone = [people_of(*ColourEmbedder().prepare(read_image(path))) for path in photos.rglob("*.png")]
    assert summary.people == sum((people.scores >= 0.5).sum() for people in everyone) > 5
    assert str(summary) == f"files: 30 added; people in the index: {summary.people}"
    again, embedded = update(photos, into)
    assert (again.unchanged, again.people, embedded) == (30, summary.people, 0)


@pytest.mark.parametrize(
    ("portrait", "batches"),
    [
        (range(0, 50, 2), [4] * 12 + [1, 1]),  # 25 of each kind
        ([0], [4] * 7 + [1] + [4] * 5 + [1]),  # nobody waits longer than eight batches for the only one
    ],
)
def test_portrait_and_landscape_images_are_embedded_apart(tmp_path, portrait, batches):
    for number in range(50):
        write_image(tmp_path / "photos" / f"{number:02}.png", 5 * number, (16, 24) if number in portrait else (24, 16))
    embedder = ColourEmbedder()
    update_index(embedder, tmp_path / "photos", tmp_path / "index", OPTIONS)
    same(rows_of(tmp_path / "index"), expected_rows(tmp_path / "photos"))
    assert embedder.batches == batches


def test_a_batch_is_sent_before_the_people_of_the_last_are_asked_for(photos, tmp_path):
    happened = []

    class Watched(ColourEmbedder):
        def send(self, images):
            number, people = len(self.batches), super().send(images)
            happened.append(f"send {number}")
            return lambda: happened.append(f"receive {number}") or people()

    update_index(Watched(batch_size=8), photos, tmp_path / "index", OPTIONS)  # of 30 images
    expected = "send 0, send 1, receive 0, send 2, receive 1, send 3, receive 2, receive 3"
    assert ", ".join(happened) == expected


def test_shards_are_no_larger_than_they_should_be(photos, tmp_path):
    update(photos, tmp_path / "index", options=IndexOptions(min_score=0.3, shard_rows=5))
    found = shards.read_shards(tmp_path / "index")
    assert len(found) > 3 and all(len(shard.rows().scores) < 5 + 4 and len(shard.files) <= 5 for shard in found)
    same(rows_of(tmp_path / "index"), expected_rows(photos))


def test_changes_of_the_folder_are_found_by_content(photos, tmp_path):
    into = tmp_path / "index"
    update(photos, into)
    write_image(photos / "new/100.png", 100)
    write_image(photos / "0/03.png", 103)  # another image under the same name
    os.utime(photos / "0/06.png", (1, 1))  # touched
    times = (photos / "0/09.png").stat()
    write_image(photos / "0/09.png", 109)  # changed, and its time set back
    os.utime(photos / "0/09.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    (photos / "1/01.png").rename(photos / "new/moved.png")
    (photos / "1").rename(photos / "album")
    (photos / "2/02.png").rename(photos / "2/x.png")  # two change places
    (photos / "2/05.png").rename(photos / "2/02.png")
    (photos / "2/x.png").rename(photos / "2/05.png")
    (photos / "2/08.png").unlink()
    summary, embedded = update(photos, into)
    assert embedded == 3
    counts = summary.added, summary.changed, summary.moved, summary.removed, summary.unchanged
    assert counts == (1, 2, 10 + 2, 1, 30 - 2 - 12 - 1)
    same(rows_of(into), expected_rows(photos))
    assert update(photos, into) == (
        Summary(0, 0, 0, 0, 30, summary.people), 0
    )  # fmt: skip


def test_an_index_without_its_files_is_deleted_shard_by_shard(photos, tmp_path):
    into = tmp_path / "index"
    update(photos, into, options=IndexOptions(min_score=0.3, shard_rows=5))
    shutil.rmtree(photos / "0")
    shutil.rmtree(photos / "1")
    before = Index.open(into)
    update(photos, into, options=IndexOptions(min_score=0.3, shard_rows=5))
    assert before.nearest(np.eye(8)[0])  # who has it open may search on
    same(rows_of(into), expected_rows(photos))
    before = Index.open(into)  # this one, too: the next update deletes the shards that the last one has emptied
    update(photos, into, options=IndexOptions(min_score=0.3, shard_rows=5))
    assert before.nearest(np.eye(8)[0]) == Index.open(into).nearest(np.eye(8)[0])
    assert all(any(file.path for file in shard.files) for shard in shards.read_shards(into))
    assert Index.open(into).files[0].path == "2/02.png"
    same(rows_of(into), expected_rows(photos))


def test_what_is_deleted_is_gone_from_the_disk_too(photos, tmp_path, monkeypatch):
    """A shard of which more than half is gone is written anew, whether or not the first attempt is killed."""
    into, whole = tmp_path / "index", IndexOptions(min_score=0.3, shard_rows=1000)
    update(photos, into, options=whole)
    (shard,) = shards.read_shards(into)
    kept = [file.path for file in shard.files][::3]
    for file in shard.files:
        if file.path not in kept:
            (photos / file.path).unlink()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards, "write_shard", killed)
        update(photos, into, options=whole)
    for embedded in (len(kept), 0):  # those of the shard that was not written; then nothing
        assert update(photos, into, options=whole)[1] == embedded
        same(rows_of(into), expected_rows(photos))
    (photos / kept.pop()).unlink()
    for path in kept[2:]:
        (photos / path).unlink()
    assert update(photos, into, options=whole)[1] == 0  # this time it was written
    same(rows_of(into), expected_rows(photos))
    update(photos, into, options=whole)
    assert sum(len(shard.rows().scores) for shard in shards.read_shards(into)) == len(Index.open(into))


def test_equal_files_are_both_there(photos, tmp_path):
    for name in ("a.png", "b.png"):
        shutil.copy(photos / "0/00.png", photos / name)
    into = tmp_path / "index"
    update(photos, into)
    (photos / "a.png").rename(photos / "c.png")
    (photos / "0/00.png").unlink()
    summary, embedded = update(photos, into)
    assert (summary.moved, summary.removed, embedded) == (1, 1, 0)
    same(rows_of(into), expected_rows(photos))


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(photos, tmp_path):
    (photos / "0/notes.jpg").write_text("Dear diary")
    (photos / "1/cut.png").write_bytes((photos / "1/01.png").read_bytes()[:-30])
    (photos / "text.mp4").write_text("no video")
    (photos / "dangling.jpg").symlink_to("nowhere")
    into = tmp_path / "index"
    summary, embedded = update(photos, into)
    assert (summary.added, embedded) == (30, 30)
    assert list(summary.unreadable) == ["dangling.jpg", "0/notes.jpg", "1/cut.png", "text.mp4"]
    assert summary.unreadable["0/notes.jpg"] == "not an image"
    assert "not readable: 0/notes.jpg: not an image" in str(summary).splitlines()
    write_image(photos / "1/cut.png", 200)
    (photos / "0/notes.jpg").unlink()
    again, embedded = update(photos, into)
    assert (again.added, again.unchanged, embedded) == (1, 30, 1)
    assert sorted(again.unreadable) == ["dangling.jpg", "text.mp4"]


def test_names_that_are_no_utf8_are_named(photos, tmp_path):
    write_image(photos / "Äpfel im Winter 苹果.png", 90)
    try:
        shutil.copy(photos / "0/00.png", os.fsencode(photos) + b"/\xff.png")
        os.symlink("nowhere", os.fsencode(photos) + b"/\xfe.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    summary, _ = update(photos, tmp_path / "index")
    said = ["cannot be read (No such file or directory)", "its name is not UTF-8; rename it"]
    assert summary.added == 31 and sorted(summary.unreadable.values()) == said
    str(summary).encode()


def test_files_out_of_reach_keep_their_rows(photos, tmp_path):
    (tmp_path / "disk").mkdir()
    (photos / "1").rename(tmp_path / "disk/1")
    (photos / "1").symlink_to(tmp_path / "disk/1")
    into = tmp_path / "index"
    update(photos, into)
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    summary, _ = update(photos, into)
    assert (summary.removed, summary.unchanged, list(summary.unreadable)) == (0, 20, ["1"])
    (tmp_path / "unplugged").rename(tmp_path / "disk")
    assert update(photos, into)[0].unchanged == 30


def test_a_folder_without_media_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    with pytest.raises(InputError, match=r"empty holds no images or videos$"):
        update(tmp_path / "empty", tmp_path / "index")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        update(tmp_path / "nowhere", tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_folder_without_people_is_an_index_without_rows(tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / f"photos/{name}", 1)  # people_of this colour: nobody
    summary, _ = update(tmp_path / "photos", tmp_path / "index")
    assert summary.people == 0 and "people in the index: 0" in str(summary)
    index = Index.open(tmp_path / "index")
    assert len(index) == 0 and len(index.files) == 2 and index.nearest(np.eye(8)[0]) == []
    assert update(tmp_path / "photos", tmp_path / "index")[0].unchanged == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, "is an index of another model (colours, not other): choose another folder for it"),
        ({"steps": 8}, "is an index of another number of denoising steps (1, not 8)"),
        ({"rate": 1.0}, "is an index of another rate of frames (2.0, not 1.0)"),
        ({"min_score": 0.0}, "is an index of another smallest score (0.3, not 0.0)"),
    ],
)
def test_the_index_of_another_model_is_refused(photos, tmp_path, change, message):
    into = tmp_path / "index"
    update(photos, into)
    before, embedder = contents(into), ColourEmbedder()
    options = IndexOptions(**{"rate": 2.0, "min_score": 0.3} | {k: v for k, v in change.items() if k in vars(OPTIONS)})
    for key in {"model", "steps"} & set(change):
        setattr(embedder, key, change[key])
    with pytest.raises(InputError) as caught:
        update_index(embedder, photos, into, options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert contents(into) == before


class Stops(ColourEmbedder):
    """Fails at a batch, as a killed process does."""

    def __init__(self, after: int):
        super().__init__()
        self.left = after

    def send(self, images):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().send(images)


@pytest.fixture
def mixed(photos) -> Path:
    """Images and two videos, one of them longer than a shard."""
    pytest.importorskip("av")
    write_video(photos / "1/long.mp4", 40, rate=1)
    write_video(photos / "2/short.mp4", 7, rate=1)
    return photos


@pytest.mark.parametrize("shard_rows", [3, 7, 1000])
@pytest.mark.parametrize("batches", [1, 4, 9, 14])
def test_a_stopped_build_goes_on_where_it_stopped(mixed, tmp_path, shard_rows, batches):
    options = IndexOptions(rate=2.0, min_score=0.3, shard_rows=shard_rows)
    update(mixed, tmp_path / "whole", options=options)
    into, ended = tmp_path / "index", False
    while not ended:
        try:
            update_index(Stops(batches), mixed, into, options)
            ended = True
        except KeyboardInterrupt:
            batches += 3  # or a shard might never be filled
    assert contents(into) == contents(tmp_path / "whole")
    same(rows_of(into), expected_rows(mixed))
    video = next(file for file in Index.open(into).files if file.path == "1/long.mp4")
    assert (video.images, video.until, video.width, video.height) == (40, None, 64, 48)


def test_a_video_that_moved_or_changed_is_known_in_all_its_parts(mixed, tmp_path):
    options, into = IndexOptions(rate=2.0, min_score=0.3, shard_rows=5), tmp_path / "index"
    update(mixed, into, options=options)
    (mixed / "1/long.mp4").rename(mixed / "3.mp4")
    summary, embedded = update(mixed, into, options=options)
    assert (summary.moved, embedded) == (1, 0)
    same(rows_of(into), expected_rows(mixed))
    write_video(mixed / "3.mp4", 20, rate=1)
    summary, embedded = update(mixed, into, options=options)
    assert (summary.changed, embedded) == (1, 20)
    same(rows_of(into), expected_rows(mixed))


def test_a_video_that_breaks_off_is_indexed_up_to_there_and_gone_on_with(mixed, tmp_path, monkeypatch):
    from psdiff_jax.inference import readings

    def breaking(path, rate, after=None):
        for frame in read_frames(path, rate, after):
            if frame.time > 5 and "long" in path.name:
                raise InputError(f"{path}: broken video (no more)")
            yield frame

    monkeypatch.setattr(readings, "read_frames", breaking)
    summary, _ = update(mixed, tmp_path / "index")
    assert summary.unreadable == {"1/long.mp4": "broken video (no more); indexed up to 5.0 s"}
    video = next(file for file in Index.open(tmp_path / "index").files if file.path == "1/long.mp4")
    assert (video.images, video.until) == (6, 5.0)
    assert update(mixed, tmp_path / "index")[0].unreadable == summary.unreadable  # as long as it is so
    monkeypatch.undo()  # the disk is there again
    assert not update(mixed, tmp_path / "index")[0].unreadable
    same(rows_of(tmp_path / "index"), expected_rows(mixed))


def test_what_a_killed_process_left_is_deleted(photos, tmp_path):
    into = tmp_path / "index"
    (into / "shards/.000-000000").mkdir(parents=True)
    (into / "shards/.000-000000/boxes.npy").write_bytes(b"half")
    update(photos, into)
    assert not list((into / "shards").glob(".*"))
    same(rows_of(into), expected_rows(photos))


def test_a_full_disk_is_one_line(photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); make room and run again"):
        update(photos, tmp_path / "index")


@pytest.mark.slow
def test_a_build_that_is_killed_ten_times_makes_the_same_index(tmp_path):
    """2,000 images, SIGKILL at random moments: nothing twice, nothing missing."""
    photos, into, whole = tmp_path / "photos", tmp_path / "index", tmp_path / "whole"
    for number in range(2000):
        write_image(photos / f"{number // 100}/{number:04}.png", number)
    update(photos, whole)
    command = [sys.executable, "-m", "tests.folder", str(into), str(photos), "0.002"]
    rng, killed, written = np.random.default_rng(0), 0, []
    for _ in range(10):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
        before, begin = len(list(into.glob("shards/0*"))), time.monotonic()
        while process.poll() is None and len(list(into.glob("shards/0*"))) == before:
            assert time.monotonic() - begin < 300
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        written.append(len(list(into.glob("shards/0*"))))
    assert killed >= 8 and written == sorted(written) and written[0] < written[-1]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    assert contents(into) == contents(whole)
    assert [file.path for file in Index.open(into).files] == sorted(f"{n // 100}/{n:04}.png" for n in range(2000))
    assert not list((into / "shards").glob(".*"))


@pytest.mark.slow
def test_the_processes_of_a_pod_share_the_files(photos, tmp_path):
    (photos / "0/notes.jpg").write_text("Dear diary")
    (photos / "0/diary.jpg").write_text("Dear diary")
    into = tmp_path / "index"
    for code, said in run_pod("tests.inference.test_indexing", str(photos), str(into)):
        assert code == 0, said
        assert "files: 30 added" in said and "not readable: 0/notes.jpg" in said and "0/diary.jpg" in said
    assert {shard.folder.name[:3] for shard in shards.read_shards(into)} == {"000", "001"}
    same(rows_of(into), {path: rows for path, rows in expected_rows_of_images(photos).items()})
    (photos / "1").rename(photos / "album")
    for code, said in run_pod("tests.inference.test_indexing", str(photos), str(into)):
        assert code == 0, said
    same(rows_of(into), expected_rows_of_images(photos))


def expected_rows_of_images(photos):
    for path in photos.rglob("*.jpg"):
        path.rename(path.with_suffix(""))
    found = expected_rows(photos)
    for name in ("notes", "diary"):
        (photos / "0" / name).rename(photos / "0" / f"{name}.jpg")
    return found


if __name__ == "__main__":
    if join_pod(*sys.argv[1:4]):  # it sees an older folder: each file is somebody's all the same
        find_media = indexing.find_media
        indexing.find_media = lambda *given: find_media(*given)[3:]
    print(update_index(ColourEmbedder(), *sys.argv[4:], OPTIONS))
