"""MOTChallenge folders: hand-counted splits of small trees with every oddity, and the real sequences if available."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from psdiff_jax.datasets.common.records import RawDataset, identities
from psdiff_jax.datasets.mot.reader import read
from psdiff_jax.errors import InputError

from ..options import open_dataset
from ..shared import SHARED
from .mot_tree import NEW, OLD, OLD_ROWS, SEQINFO, mot_tree, sequence, write_image

REAL = SHARED / "mot15"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real sequences are not available")


@pytest.fixture
def tree(tmp_path):
    return mot_tree(tmp_path / "Größe und Platz")


def lines(dataset: RawDataset, root: Path, level: str) -> list[str]:
    """The findings of a level, without the folder's path."""
    return [str(f).replace(f"{root}/", "") for f in dataset.findings if f.level == level]


def ids(images):
    return {image.name: image.person_ids.tolist() for image in images}


# Identities of the tree in sorted order: OLD 2, 4, 5, 9, 30, 77 are 0 to 5; NEW 5, 8, 9 are 6 to 8.


def test_the_tree_as_counted_by_hand(tree):
    dataset = read(tree)
    assert ids(dataset.train) == {
        f"{OLD}/000001.jpg": [2],
        f"{OLD}/000002.jpg": [2, -1],
        f"{OLD}/000003.jpg": [2, -1],
        f"{NEW}/000001.jpg": [6],
        f"{NEW}/000002.jpg": [6],
    }
    assert ids(dataset.gallery) == {
        f"{OLD}/000007.jpg": [-1, 3, 1],
        f"{OLD}/000008.jpg": [3, 4, -1],
        f"{OLD}/000009.jpg": [0, 1],
        f"{NEW}/000003.jpg": [7],
        f"{NEW}/000004.jpg": [7],
    }
    boxes = {image.name: image.boxes.tolist() for image in [*dataset.train, *dataset.gallery]}
    assert boxes[f"{OLD}/000001.jpg"] == [[10, 5, 20, 25]]  # 11, 6 in 1-based coordinates
    assert boxes[f"{OLD}/000002.jpg"] == [[11.5, 5, 21.5, 25.25], [4, 4, 12, 20]]
    assert boxes[f"{OLD}/000003.jpg"] == [[0, 0, 10, 20], [40, 5, 50, 25]]
    assert boxes[f"{OLD}/000009.jpg"] == [[4, 4, 12, 20], [50, 30, 60, 40]]  # clipped
    assert boxes[f"{NEW}/000004.jpg"] == [[54, 1, 64, 21]]
    assert [(s.camera, s.frame, s.height, s.width) for s in dataset.gallery] == [
        (1, 7, 40, 60),
        (1, 8, 40, 60),
        (1, 9, 40, 60),
        (2, 3, 50, 80),
        (2, 4, 48, 64),
    ]
    assert dataset.counts() == {
        "train images": 5,
        "train boxes": 7,
        "train labelled boxes": 5,
        "train ids": 2,
        "gallery images": 5,
        "gallery boxes": 10,
        "gallery labelled boxes": 8,
        "gallery ids": 5,
        "queries": 3,
        "query ids": 3,
    }
    assert [query.person_id for query in dataset.queries] == [1, 3, 7]  # 0 and 4 are in one gallery image
    assert dataset.person_names[3] == f"{OLD} track 9" and dataset.person_names[7] == f"{NEW} track 8"


def test_the_findings_of_the_tree(tree):
    dataset = read(tree)
    assert dataset.errors() == []
    assert lines(dataset, tree, "warning") == [
        "XYZ-test: has no gt/gt.txt: the sequence is left out",
        f"{OLD}/gt/gt.txt line 16: the box [4, 4, 0, 10] (xywh) has no area; it is left out",
        f"{NEW}/seqinfo.ini: imWidth x imHeight is 80 x 50, 000004.jpg is 64 x 48 (1 of 4 images differ); the"
        " image files are used as they are",
    ]
    assert lines(dataset, tree, "known") == [
        f"{OLD}/gt/gt.txt: 1 rows with flag 0 are left out",
        f"{NEW}/gt/gt.txt: 1 rows with flag 0 are left out",
        f"{NEW}/gt/gt.txt: 1 rows are no pedestrians: car 1",
        f"{OLD}: 3 tracks cross the cut in time: 1 are labelled in train only, 2 in the gallery only",
        f"{NEW}/gt/gt.txt line 7: the box [199, 0, 10, 10] (xywh) lies outside its 80 x 50 image; it is left out",
        f"{tree}: 2 of 5 gallery identities are in one image only: they cannot be found again and give no query",
    ]


@pytest.mark.parametrize("names", [NEW, [NEW], (f" {NEW} ",)])
def test_whole_sequences_as_gallery(tree, names):
    dataset = read(tree, test_sequences=names)
    assert ids(dataset.train)[f"{OLD}/000009.jpg"] == [0, 1] and len(dataset.train) == 6
    assert ids(dataset.gallery) == {
        f"{NEW}/000001.jpg": [6],
        f"{NEW}/000002.jpg": [6],
        f"{NEW}/000003.jpg": [7],
        f"{NEW}/000004.jpg": [7],
    }
    assert [query.person_id for query in dataset.queries] == [6, 7]


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("every", [1, 2])
def test_no_identity_is_in_both_splits(tree, share, every):
    dataset = read(tree, train_share=share, every=every)
    train, gallery = identities(dataset.train), identities(dataset.gallery)
    assert not train & gallery and gallery
    assert len(dataset.train) == round(share * 6 / every) + round(share * 4 / every)


def test_tracks_with_as_many_on_either_side_alternate(tmp_path):
    rows = "".join(f"{frame},{track},1,1,9,9,1\n" for frame in (1, 2, 3, 4) for track in (3, 10, 20, 31, 40))
    dataset = read(sequence(tmp_path / "all the time", dict.fromkeys((1, 2, 3, 4), (20, 30)), rows))
    assert [image.person_ids.tolist() for image in dataset.train] == [[-1, 1, -1, 3, -1]] * 2
    assert [image.person_ids.tolist() for image in dataset.gallery] == [[0, -1, 2, -1, 4]] * 2


def test_every_second_image(tree):
    dataset = read(tree, every=2, train_share=0)
    assert [image.name for image in dataset.gallery] == [
        f"{OLD}/000001.jpg",
        f"{OLD}/000003.jpg",
        f"{OLD}/000008.jpg",
        f"{NEW}/000001.jpg",
        f"{NEW}/000003.jpg",
    ]
    assert dataset.person_names == read(tree).person_names  # person ids do not change


def test_least_visibility(tree):
    dataset = read(tree, min_visibility=0.5)
    found = ids([*dataset.train, *dataset.gallery])
    assert found[f"{NEW}/000002.jpg"] == [] and found[f"{NEW}/000004.jpg"] == [7]
    assert f"{NEW}/gt/gt.txt: 2 boxes with a visibility below 0.5 are left out" in lines(dataset, tree, "known")
    assert f"{OLD}/gt/gt.txt: has no column of visibilities (9 columns): min_visibility leaves nothing out" in lines(
        dataset, tree, "warning"
    )


def test_a_single_sequence_and_a_train_folder_can_be_the_root(tree, tmp_path):
    alone = read(tree / OLD)
    assert [image.name for image in alone.gallery] == [f"{OLD}/000007.jpg", f"{OLD}/000008.jpg", f"{OLD}/000009.jpg"]
    official = tmp_path / "official"
    (official / "test").mkdir(parents=True)
    (tree / "XYZ-test").rename(official / "test" / "XYZ")
    tree.rename(official / "train")
    dataset = read(official)
    assert len(dataset.train) == 5 and len(dataset.gallery) == 5
    assert lines(dataset, official, "warning")[0] == (
        "test: 1 sequences beside train/ are left out; move those with gt/gt.txt there"
    )


def test_a_sequence_may_be_called_train(tree):
    (tree / OLD).rename(tree / "train")
    assert {image.name.split("/")[0] for image in read(tree).gallery} == {"train", NEW}


def test_mot17_comes_in_three_copies(tmp_path):
    rows = "1,1,1,1,10,10,1,1,1\n2,1,1,1,10,10,1,1,1\n"
    for detector in ("DPM", "FRCNN", "SDP"):
        sequence(tmp_path / f"MOT17-02-{detector}", {1: (20, 30), 2: (20, 30)}, rows)
    sequence(tmp_path / "MOT17-04-SDP", {1: (20, 30), 2: (20, 30)}, rows)
    dataset = read(tmp_path, test_sequences="MOT17-02-FRCNN")
    assert [image.name for image in dataset.train] == ["MOT17-04-SDP/000001.jpg", "MOT17-04-SDP/000002.jpg"]
    assert [image.name for image in dataset.gallery] == ["MOT17-02-DPM/000001.jpg", "MOT17-02-DPM/000002.jpg"]
    assert lines(dataset, tmp_path, "known")[0] == (
        "MOT17-02-FRCNN: is MOT17-02-DPM with another detector's detections and is left out"
    )
    assert not lines(dataset, tmp_path, "warning")
    (tmp_path / "MOT17-02-SDP" / "gt" / "gt.txt").write_text(rows[1:])
    assert lines(read(tmp_path), tmp_path, "warning") == [
        "MOT17-02-SDP/gt/gt.txt: differs from MOT17-02-DPM/gt/gt.txt, which is read; restore one of them"
    ]


@pytest.mark.parametrize(
    ("seqinfo", "warning"),
    [
        (None, "is missing"),
        ("imDir=img1", "has no readable [Sequence]"),
        (SEQINFO.format(name="x", length=9, width=60, height=40), "seqLength is 9, there are 6 images"),
        (
            SEQINFO.format(name="x", length=6, width=6, height=4),
            "imWidth x imHeight is 6 x 4, 000001.jpg is 60 x 40 (6 of 6 images differ)",
        ),
        (
            SEQINFO.format(name="x", length=6, width=60, height=40).replace("img1", "images"),
            "imDir is 'images', which is no folder of the sequence",
        ),
        (
            SEQINFO.format(name="x", length=6, width=60, height=40).replace(".jpg", ".png"),
            "imExt is '.png', the first image 000001.jpg",
        ),
    ],
)
def test_image_files_win_over_seqinfo(tree, seqinfo, warning):
    path = tree / OLD / "seqinfo.ini"
    path.unlink()
    if seqinfo is not None:
        path.write_text(seqinfo)
    dataset = read(tree / OLD)
    told = f"{OLD}/seqinfo.ini: {warning}; the image files are used as they are"
    assert told in lines(dataset, tree, "warning")
    assert len(dataset.train) == 3 and len(dataset.gallery) == 3


def test_another_image_folder_and_format(tmp_path):
    root = sequence(tmp_path / "dance", {1: (20, 30)}, "1,3,1,1,10,10,1,1,1\n3,3,2,1,10,10,1,1,1\n")
    (root / "img1").rename(root / "frames")
    write_image(root / "frames" / "cam_00000003.png", 20, 30)
    write_image(root / "frames" / ".hidden_1.png", 20, 30)
    write_image(root / "frames" / "cover.png", 20, 30)
    (root / "seqinfo.ini").write_text(
        SEQINFO.format(name="dance", length=2, width=30, height=20).replace("img1", "frames")
    )
    dataset = read(root)
    assert [image.name for image in [*dataset.train, *dataset.gallery]] == [
        "dance/000001.jpg",
        "dance/cam_00000003.png",
    ]
    assert lines(dataset, root, "warning") == [
        "frames/cover.png: has no frame number at the end of its name and is left out (1 such)"
    ]


WRONG_ROWS = [
    ("1,5,11,6,10", "expected 7 to 10 columns (frame,id,x,y,width,height,flag,...), found 5; correct the line"),
    ("1,5,eleven,6,10,20,1,-1,-1,-1", "'eleven' is not a number; correct the line"),
    ("1,5,,6,10,20,1,-1,-1,-1", "'' is not a number; correct the line"),
    (
        "1.5,5,11,6,10,20,1",
        "frame and id are whole numbers and the others finite, found 1.5,5,11,6,10,20,1; correct the line",
    ),
    (
        "1,5,nan,6,10,20,1",
        "frame and id are whole numbers and the others finite, found 1,5,nan,6,10,20,1; correct the line",
    ),
]


@pytest.mark.parametrize(("row", "what"), WRONG_ROWS)
def test_a_wrong_row_names_its_line(tree, row, what):
    path = tree / OLD / "gt" / "gt.txt"
    path.write_bytes(OLD_ROWS.encode() + b"\r\n" + row.encode())
    assert lines(read(tree), tree, "error") == [f"{OLD}/gt/gt.txt line 17: {what}"]


def test_a_box_outside_its_image_is_left_out_and_noted(tree):
    path = tree / OLD / "gt" / "gt.txt"
    path.write_bytes(OLD_ROWS.encode() + b"\r\n1,5,61,6,10,20,1")
    assert (
        f"{OLD}/gt/gt.txt line 17: the box [60, 5, 10, 20] (xywh) lies outside its 60 x 40 image; it is left out"
    ) in lines(read(tree), tree, "warning")


def test_a_trailing_comma_is_no_column(tree):
    (tree / NEW / "gt" / "gt.txt").write_text("1,5,2,2,10,20,1,3,0.9,\n2,5,2,2,10,20,1,1,0.9,\n")
    assert [ids(read(tree).train)[f"{NEW}/00000{i}.jpg"] for i in (1, 2)] == [[], [6]]  # the first is a car


def test_faults_of_images_are_all_reported(tree):
    (tree / OLD / "img1" / "000003.jpg").unlink()
    (tree / NEW / "img1" / "000001.jpg").write_bytes(b"<html>404</html>")
    write_image(tree / NEW / "img1" / "2.png")
    shutil.rmtree(tree / "XYZ-test" / "img1")
    (tree / "XYZ-test" / "gt").mkdir()
    (tree / "XYZ-test" / "gt" / "gt.txt").touch()
    dataset = read(tree)
    assert lines(dataset, tree, "error") == [
        f"{OLD}/gt/gt.txt line 5: there is no image of frame 3 in {OLD}/img1; restore it or remove its rows",
        f"{NEW}/img1/2.png: is frame 2, and so is 000002.jpg; remove one",
        f"{NEW}/img1/000001.jpg: is not a readable image; restore it",
        "XYZ-test/img1: holds no numbered images; restore them",
    ]
    assert (
        "XYZ-test/gt/gt.txt: has no row of a pedestrian (class 1) with a flag other than 0: the sequence's images have"
        " no boxes"
    ) in lines(dataset, tree, "warning")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test_sequences": (1, 2)},
            "test_sequences=(1, 2): give names with commas between; numbers are quoted twice: \"'0001,0002'\"",
        ),
        ({"test_sequences": ["ETH"]}, f"test_sequences: there is no sequence 'ETH'; there are {OLD}, {NEW}"),
        ({"train_share": 1}, "train_share: 1 is invalid; it is from 0 to below 1 (the rest is the gallery)"),
        ({"every": 0}, "every: 0 is invalid; it is a whole number from 1"),
        ({"min_visibility": 20}, "min_visibility: 20 is invalid; it is from 0 to 1"),
        ({"every": "two"}, "every: 'two' is invalid; it is a whole number from 1"),
        ({"query_gap": -1}, "query_gap: -1 frames; it is a number from 0"),
    ],
)
def test_invalid_options(tree, options, message):
    with pytest.raises(InputError, match=re.escape(f"config.data.builder.{message}") + "$"):
        read(tree, **options)


def test_a_folder_without_sequences(tree):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; name one with MOTChallenge sequences"):
        read(tree / "nowhere")
    with pytest.raises(InputError, match=r"no sequence with gt/gt.txt in .*, not the official test/$"):
        read(tree / "XYZ-test")


def config_of(root, prepared, **options):
    return {"name": "mot", "root": str(root), "prepared_dir": str(prepared), "builder": options}


def test_it_builds(tree, tmp_path):
    dataset = open_dataset(config_of(tree, tmp_path / "prepared"))
    gallery, queries = dataset.annotations("gallery"), dataset.queries()
    assert gallery.image_names == tuple(image.name for image in read(tree).gallery)
    assert gallery.cameras.tolist() == [1, 1, 1, 2, 2] and gallery.frames.tolist() == [7, 8, 9, 3, 4]
    assert queries.person_ids.tolist() == [1, 3, 7]
    assert dataset.train_source[1]["image"] == (tree / OLD / "img1" / "000002.jpg").read_bytes()
    folder = dataset.folder
    tree.rename(tmp_path / "moved")
    assert open_dataset(config_of(tmp_path / "moved", tmp_path / "prepared")).folder == folder
    other = open_dataset(config_of(tmp_path / "moved", tmp_path / "prepared", train_share=0.2))
    assert other.folder != folder and len(other.gallery_source) == 5 + 3


def test_a_folder_with_faults_is_refused_in_one_line(tree, tmp_path):
    (tree / OLD / "img1" / "000003.jpg").unlink()
    (tree / OLD / "img1" / "000007.jpg").unlink()
    with pytest.raises(InputError) as caught:
        open_dataset(config_of(tree, tmp_path / "prepared"))
    assert str(caught.value) == (
        f"{tree}/{OLD}/gt/gt.txt line 5: there is no image of frame 3 in {tree}/{OLD}/img1; restore it or remove"
        " its rows (and 1 more: scripts/validate_dataset.py lists all)"
    )


@needs_real
def test_counts_of_the_real_sequences():
    """Against the lines of gt.txt, counted independently."""
    dataset = read(REAL)
    assert dataset.errors() == []
    rows = {name: np.loadtxt(REAL / name / "gt" / "gt.txt", delimiter=",") for name in ("ETH-Sunnyday", "TUD-Campus")}
    rows = {name: found[found[:, 6] != 0] for name, found in rows.items()}
    counts = dataset.counts()
    assert counts["train images"] + counts["gallery images"] == 354 + 71
    assert counts["train boxes"] + counts["gallery boxes"] == sum(map(len, rows.values())) == 1858 + 359
    assert len(dataset.person_names) == sum(len(np.unique(found[:, 1])) for found in rows.values()) == 30 + 8
    assert counts["train ids"] + counts["gallery ids"] == 38  # no identity is lost or in both
    assert counts["queries"] == counts["query ids"] == counts["gallery ids"] == 17


@needs_real
def test_the_real_sequences_from_end_to_end(tmp_path):
    dataset = open_dataset(config_of(REAL, tmp_path, test_sequences=["TUD-Campus"]))
    assert (len(dataset.train_source), len(dataset.gallery_source), len(dataset.queries())) == (354, 71, 8)
    assert dataset.annotations("gallery").sizes.tolist() == [[480, 640]] * 71
