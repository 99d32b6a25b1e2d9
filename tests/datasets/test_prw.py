"""PRW's reader on small trees with all the defects of the real release, and on the real sequence if available."""

import multiprocessing
import os
import signal
import sys

import cv2
import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from psdiff_jax.datasets.common.checks import check
from psdiff_jax.datasets.common.records import identities
from psdiff_jax.datasets.prw import files, reader, release
from psdiff_jax.datasets.prw.builder import Prw
from psdiff_jax.errors import InputError

from ..options import eval_batches, open_dataset, train_batches
from ..shared import SHARED
from .prw_tree import QUERIES, TEST, TRAIN, annotate, index_of, write_prw

REAL = SHARED / "prw_c6s1"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real sequence is not available")


@pytest.fixture
def tree(tmp_path):
    return write_prw(tmp_path / "prw")


def config_of(root, prepared):
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "prw",
                "root": str(root),
                "prepared_dir": str(prepared),
                "builder": {},
                "image_size": (32, 48),
                "max_boxes": 16,
                "workers": 0,
            },
            "train": {"batch_size": 4},
            "evaluate": {"batch_size": 4},
        }
    )


@pytest.fixture
def config(tree, tmp_path):
    return config_of(tree, tmp_path / "prepared")


def test_images_as_counted_by_hand(config):
    dataset = open_dataset(config.data)
    train, gallery = dataset.annotations("train"), dataset.annotations("gallery")
    assert train.image_names == ("c2s1_000176.jpg", "c1s1_000151.jpg")  # the order of the official list
    assert gallery.image_names == ("c6s2_042326.jpg", "c3s1_000201.jpg", "c3s3_000001.jpg", "odd name.jpg")
    assert train.sizes.tolist() == [[40, 60]] * 2
    assert train.cameras.tolist() == [2, 1] and train.frames.tolist() == [10_000_176, 10_000_151]
    assert gallery.cameras.tolist() == [6, 3, 3, -1]
    assert gallery.frames.tolist() == [20_042_326, 10_000_201, 30_000_001, -1]
    assert [boxes.tolist() for boxes in train.boxes] == [[[50, 10, 60, 35]], [[5, 6, 15, 26], [30.5, 0, 38.5, 16]]]
    # x = -4, w = 14 becomes [0, 14], as PRW's evaluators do it: clipped first, then x + w
    assert gallery.boxes[0].tolist() == [[0, 0, 14, 22], [20, 5, 30, 25]]
    assert [len(boxes) for boxes in gallery.boxes] == [2, 1, 0, 1]
    assert [ids.tolist() for ids in train.person_ids] == [[479], [479, -1]]
    assert [ids.tolist() for ids in gallery.person_ids] == [[12, 12], [900], [], [-1]]
    assert dataset.report == {
        "counts": {
            "train images": 2, "train boxes": 3, "train labelled boxes": 2, "train ids": 1, "gallery images": 4,
            "gallery boxes": 4, "gallery labelled boxes": 3, "gallery ids": 2, "queries": 3, "query ids": 2,
        },
        "findings": {
            "known: negative x or y": 1, "known: identity twice in an image": 1, "known: box without area": 1,
            "known: part of the release": 1, "warning: fewer than two identities": 1,
            "warning: box over the full image": 1, "warning: query without positives": 3,
        },
        "part": "cameras 1, 2, 3, 6, sequences 1, 2, 3",
    }  # fmt: skip
    assert dataset.title == "prw (cameras 1, 2, 3, 6, sequences 1, 2, 3)"


def test_boxes_by_seqnets_rule(config):
    """Whole pixels, uncut at the right border; of a query with a negative corner the far corner stays."""
    config.data.builder = {"boxes": "seqnet"}
    dataset = open_dataset(config.data)
    train, gallery = dataset.annotations("train"), dataset.annotations("gallery")
    assert [boxes.tolist() for boxes in train.boxes] == [[[50, 10, 70, 35]], [[5, 6, 15, 26], [30, 0, 38, 16]]]
    assert gallery.boxes[0].tolist() == [[0, 0, 14, 22], [20, 5, 30, 25]]
    assert dataset.queries().boxes.tolist() == [[1, 2, 11, 22], [0, 0, 10, 20], [20, 5, 30, 25]]
    config.data.builder = {"boxes": "whole"}
    with pytest.raises(InputError, match=r"config\.data\.builder\.boxes='whole': choose from clipped, seqnet"):
        open_dataset(config.data)


def test_both_rules_against_formulas_of_their_own():
    """60 made-up boxes: SeqNet's as its loader computes them, on arrays; ours as the README says."""
    rng = np.random.default_rng(0)
    xywh = np.column_stack([rng.uniform(-20, 90, (60, 2)), rng.uniform(2, 40, (60, 2))])
    rois = np.clip(xywh, 0, None)
    rois[:, 2:] += rois[:, :2]
    theirs = rois.astype(np.int32)
    found = np.asarray([reader.RULES["seqnet"].annotation(*box, (80, 100)) for box in xywh])
    np.testing.assert_array_equal(found, theirs)
    corners = np.clip(np.column_stack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]).astype(np.int32), 0, None)
    np.testing.assert_array_equal([reader.RULES["seqnet"].query(*box, (80, 100)) for box in xywh], corners)
    ours = np.asarray([reader.RULES["clipped"].annotation(*box, (80, 100)) for box in xywh])
    np.testing.assert_allclose(
        ours, np.where([False, False, True, True], np.minimum(rois, [100, 80] * 2), rois), rtol=1e-6
    )
    assert (ours != found).any(1).sum() == 60


def test_a_frame_name_that_leads_out_is_refused(config, tree):
    scipy.io.savemat(tree / "frame_test.mat", {"img_index_test": index_of([*TEST, "../frames/odd name"])})
    with pytest.raises(InputError, match=r"a list names \.\./frames/odd name, which leads out of frames"):
        open_dataset(config.data)


def test_queries_as_counted_by_hand(config):
    queries = open_dataset(config.data).queries()
    assert queries.image_names == ("c3s1_000201.jpg", "c6s2_042326.jpg", "c6s2_042326.jpg")
    assert queries.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 14, 22], [20, 5, 30, 25]]
    assert queries.person_ids.tolist() == [900, 12, 12]
    assert queries.cameras.tolist() == [3, 6, 6] and queries.frames.tolist() == [10_000_201, 20_042_326, 20_042_326]


def test_the_records_are_a_tfds_dataset(config, tree):
    """What TFDS reads with its own builder is what the program reads without it."""
    dataset = open_dataset(config.data)
    builder = Prw(data_dir=str(dataset.folder.parents[1]), root=str(tree)).tfds_builder()
    assert isinstance(builder, tfds.core.GeneratorBasedBuilder)
    source = builder.as_data_source("gallery", decoders={"image": tfds.decode.SkipDecoding()})
    assert len(source) == len(dataset.gallery_source)
    for ours, theirs in ((dataset.gallery_source[i], source[i]) for i in range(len(source))):
        assert ours["image_name"] == theirs["image_name"].decode() and ours["image"] == theirs["image"]
        np.testing.assert_array_equal(ours["boxes"], theirs["boxes"])


def test_image_files_are_stored_unchanged(config, tree):
    dataset = open_dataset(config.data)
    for i, name in enumerate(TEST):
        assert dataset.gallery_source[i]["image"] == (tree / "frames" / f"{name}.jpg").read_bytes()
    assert "tensorflow" not in sys.modules


def test_frames_of_different_sequences_are_far_apart():
    assert reader.frame_number("c6s1_042326") == (6, 10_042_326)
    last, first = reader.frame_number("c1s1_999999")[1], reader.frame_number("c1s2_000000")[1]
    assert first - last > 1_000_000


def test_a_copy_is_the_same_dataset_a_changed_one_is_not(config, tree, tmp_path):
    folder = open_dataset(config.data).folder
    tree.rename(tmp_path / "moved")
    config.data.root = str(tmp_path / "moved")
    assert open_dataset(config.data).folder == folder
    annotate(tmp_path / "moved", "c3s1_000201", "box_new", [[900, 1, 2, 10, 21]])
    changed = open_dataset(config.data)
    assert changed.folder != folder and changed.annotations("gallery").boxes[1].tolist() == [[1, 2, 11, 23]]


def refused(config):
    with pytest.raises(InputError) as caught:
        open_dataset(config.data)
    message = str(caught.value)
    assert "\n" not in message
    return message


EXPECTED = "frames, annotations, frame_train.mat, frame_test.mat, query_info.txt"


def test_no_folder(config, tmp_path):
    config.data.root = str(tmp_path / "nowhere")
    assert refused(config) == (
        f"config.data.root: there is no folder {tmp_path / 'nowhere'}; name the PRW folder with {EXPECTED}"
    )


@pytest.mark.parametrize("name", ["frame_test.mat", "query_info.txt"])
def test_a_file_is_missing(config, tree, name):
    (tree / name).unlink()
    assert refused(config) == f"config.data.root: {tree / name} is missing; a PRW folder holds {EXPECTED}"


def test_a_frame_is_missing(config, tree):
    path = tree / "frames" / "c3s1_000201.jpg"
    path.unlink()
    assert refused(config) == f"{path}: is missing, although a list names it; restore it from the PRW release"


def test_an_annotation_is_missing(config, tree):
    path = tree / "annotations" / "c3s1_000201.jpg.mat"
    path.unlink()
    assert refused(config) == f"{path}: missing; restore it from the PRW release"


def test_an_annotation_without_a_known_key(config, tree):
    annotate(tree, "c3s1_000201", "boxes", [[1, 2, 3, 4, 5]])
    path = tree / "annotations" / "c3s1_000201.jpg.mat"
    assert refused(config) == (
        f"{path}: has no variable box_new or anno_file or anno_previous, only boxes; restore it from the PRW release"
    )


def test_a_damaged_mat_file(config, tree):
    path = tree / "frame_train.mat"
    path.write_bytes(path.read_bytes()[:130])
    assert refused(config).startswith(f"{path}: cannot be read as a MATLAB file (")


@pytest.mark.parametrize(
    "box",
    [[60, 5, 10, 10], [-12, 5, 10, 10], [5, 40, 10, 10], [5, -20, 10, 10]],
    ids=["right", "left", "below", "above"],
)
def test_a_box_outside_its_image_names_frame_and_row(config, tree, box):
    annotate(tree, "c3s1_000201", "box_new", [[900, 1, 2, 10, 20], [7, *box]])
    path = tree / "annotations" / "c3s1_000201.jpg.mat"
    assert refused(config) == (
        f"{path} row 2: the box {box} (xywh) lies outside its 60 x 40 image; correct or remove it"
    )


def test_a_truncated_image_is_named(config, tree):
    path = tree / "frames" / "c3s1_000201.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    assert refused(config) == f"{path} is not a readable image (truncated or broken); replace it"
    assert refused(config).startswith(str(path))  # the half-built dataset is not taken for a finished one


def test_a_file_that_is_no_image_is_named(config, tree):
    path = tree / "frames" / "c3s1_000201.jpg"
    path.write_bytes(b"<html>404</html>")
    assert refused(config) == f"{path}: is not a readable image; restore it from the PRW release"


def test_a_frame_in_both_splits(config, tree):
    scipy.io.savemat(tree / "frame_train.mat", {"img_index_train": index_of([*TRAIN, "c3s1_000201"])})
    assert refused(config) == (
        f"{tree}: frame c3s1_000201.jpg is in frame_train.mat and in frame_test.mat; remove it from one"
    )


def test_a_frame_twice_in_a_list(config, tree):
    scipy.io.savemat(tree / "frame_train.mat", {"img_index_train": index_of([*TRAIN, TRAIN[0]])})
    assert refused(config) == f"{tree / 'frame_train.mat'}: the frame {TRAIN[0]} is listed twice; remove one"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("900 1 2 10 c3s1_000201", "expected 'pid x y w h frame', found '900 1 2 10 c3s1_000201'"),
        ("9.5 1 2 10 20 c3s1_000201", "expected 'pid x y w h frame', found '9.5 1 2 10 20 c3s1_000201'"),
        ("nan 1 2 10 20 c3s1_000201", "expected 'pid x y w h frame', found 'nan 1 2 10 20 c3s1_000201'"),
        (
            "900 1 2 10 20 c1s1_000151",
            "c1s1_000151 is not among the test frames of frame_test.mat; correct or remove the line",
        ),
        (
            "900 99 2 10 20 c3s1_000201",
            "the box [99, 2, 10, 20] (xywh) lies outside its 60 x 40 image; correct or remove it",
        ),
        (
            "900 1 2 0 20 c3s1_000201",
            "the box [1, 2, 0, 20] (xywh) has no area; correct or remove it",
        ),
    ],
)
def test_a_wrong_query_names_its_line(config, tree, line, message):
    (tree / "query_info.txt").write_bytes(QUERIES.split(b"\r\n")[0] + b"\r\n" + line.encode() + b"\r\n")
    assert refused(config) == f"{tree / 'query_info.txt'} line 2: {message}"


def test_the_pipeline_reads_it(config):
    dataset = open_dataset(config.data)
    batches = list(eval_batches(dataset, "query", config))
    assert [b["valid"].tolist() for b in batches] == [[True, True, True, False]]
    assert batches[0]["boxes_mask"].sum(1).tolist() == [1, 1, 1, 0]
    assert batches[0]["person_ids"][:, 0].tolist() == [900, 12, 12, -1]
    np.testing.assert_allclose(batches[0]["boxes"][0, 0], np.asarray([1, 2, 11, 22]) * 0.8, rtol=1e-6)


def test_worker_processes_read_the_same_batches(config):
    """Also after a resume, and with a number of workers that differs from the one the state was taken with."""
    dataset = open_dataset(config.data)
    threaded = train_batches(dataset, config)
    for _ in range(3):
        next(threaded)
    state = threaded.get_state()
    config.data.workers = 1
    with_worker = train_batches(dataset, config)
    with_worker.set_state(state)

    def compare():
        first, second = next(threaded), next(with_worker)
        for key in first:
            np.testing.assert_array_equal(first[key], second[key], err_msg=key)

    compare()
    for child in multiprocessing.active_children():  # as a terminal or a scheduler does: training ends its step first
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(child.pid, number)
    for _ in range(8):  # more than have been made ahead
        compare()
    with_worker.close()
    assert not multiprocessing.active_children()


def found(tree, *levels):
    """[(level, check, text below the folder, image)] of the reader's findings, except "part of the release"."""
    noted = reader.read(tree).findings
    return [
        (f.level, f.check, str(f).removeprefix(f"{tree}/"), f.image)
        for f in noted
        if f.check != "part of the release" and f.level in (levels or ("error", "warning", "known"))
    ]


def test_reading_continues_after_a_fault(config, tree):
    """Every fault is found in one run; a query in an image that was left out is not a second fault."""
    (tree / "frames" / "c3s1_000201.jpg").unlink()
    annotate(
        tree,
        "c1s1_000151",
        "box_new",
        [[479.5, 5, 6, 10, 20], [np.nan, 1, 1, 5, 5], [7, 70, 0, 8, 16], [8, np.inf, 0, 8, 16], [9, 1, 1, 5, 5]],
    )
    row = "annotations/c1s1_000151.jpg.mat row {}: {}; correct or remove {}"
    assert found(tree, "error") == [
        ("error", "pid is no whole number", row.format(1, "pid 479.5", "the row"), "c1s1_000151.jpg"),
        ("error", "pid is no whole number", row.format(2, "pid nan", "the row"), "c1s1_000151.jpg"),
        (
            "error",
            "box outside its image",
            row.format(3, "the box [70, 0, 8, 16] (xywh) lies outside its 60 x 40 image", "it"),
            "c1s1_000151.jpg",
        ),
        (
            "error",
            "box of other than four finite numbers",
            row.format(4, "the box [inf, 0, 8, 16] (xywh) is not four finite numbers", "it"),
            "c1s1_000151.jpg",
        ),
        (
            "error",
            "missing or unreadable image",
            "frames/c3s1_000201.jpg: is missing, although a list names it; restore it from the PRW release",
            "c3s1_000201.jpg",
        ),
    ]
    assert refused(config).endswith(" (and 4 more: scripts/validate_dataset.py lists all)")
    dataset = reader.read(tree)
    assert [image.name for image in dataset.gallery] == ["c6s2_042326.jpg", "c3s3_000001.jpg", "odd name.jpg"]
    assert dataset.train[1].person_ids.tolist() == [9] and len(dataset.queries) == 2


def test_known_defects_are_noted_as_known(tree):
    annotate(
        tree, "c3s1_000201", "box_new", [[900, 1, 2, 10, 20], [-2, 5, 5, 8, 0], [12, 1, 1, 20, 30], [12, 1, 1, 20, 30]]
    )
    note = "annotations/{}.jpg.mat{}: {}"
    assert found(tree) == [
        (
            "known",
            "box without area",
            note.format(
                "c2s1_000176",
                " row 2",
                "the box [8, 8, 0, 20] (xywh) has no area; it is left out",
            ),
            "c2s1_000176.jpg",
        ),
        (
            "known",
            "negative x or y",
            note.format(
                "c6s2_042326",
                " row 1",
                "the box [-4, -2, 14, 22] (xywh) is moved to 0, its width and height stay",
            ),
            "c6s2_042326.jpg",
        ),
        (
            "known",
            "identity twice in an image",
            note.format("c6s2_042326", "", "pid 12 has 2 boxes; search uses the first"),
            "c6s2_042326.jpg",
        ),
        (
            "known",
            "box without area",
            note.format(
                "c3s1_000201",
                " row 2",
                "the box [5, 5, 8, 0] (xywh) has no area; it is left out",
            ),
            "c3s1_000201.jpg",
        ),
        (
            "known",
            "identity twice in an image",
            note.format("c3s1_000201", "", "pid 12 has 2 boxes; search uses the first"),
            "c3s1_000201.jpg",
        ),
        (
            "known",
            "same box twice",
            note.format("c3s1_000201", "", "boxes 2 and 3 of pid 12 are the same; both are kept"),
            "c3s1_000201.jpg",
        ),
    ]


@pytest.mark.parametrize(
    ("box", "level", "check_name"),
    [
        ("1 2 10 20", None, None),
        ("1 2 10.4 20", "known", "query box differs by rounding"),
        ("0 1 11 21", "known", "query box differs by rounding"),
        ("1 2 10 17", "warning", "query box differs from its annotation"),
        ("20 2 10 20", None, None),  # not that person's at all: noted by checks.check
    ],
)
def test_query_boxes_that_differ_from_the_frames_annotation(tree, box, level, check_name):
    (tree / "query_info.txt").write_text(f"900 {box} c3s1_000201\n")
    differing = [(f[0], f[1]) for f in found(tree) if f[1].startswith("query")]
    assert differing == ([(level, check_name)] if level else [])
    assert len(reader.read(tree).queries) == 1


def test_the_lists_of_identities(tree):
    """Stray ids of the training frames are a known defect, with both counts; ids in no frame: a warning."""
    annotate(tree, "c1s1_000151", "box_new", [[479, 5, 6, 10, 20], [932, 30, 0, 8, 16]])
    scipy.io.savemat(tree / "ID_train.mat", {"ID_train": [[479]]})
    scipy.io.savemat(tree / "ID_test.mat", {"ID_test2": [[12, 77, 900]]})
    assert [f for f in found(tree) if "ID_" in f[1]] == [
        (
            "known",
            "pids not in ID_train.mat",
            "ID_train.mat: pids 932 are annotated in train frames and not listed;"
            " they count as identities: 2 identities as annotated, 1 as listed",
            "",
        ),
        (
            "warning",
            "pids of ID_test.mat not annotated",
            "ID_test.mat: pids 77 are listed, but in no gallery frame: 2 identities as annotated, 3 as listed",
            "",
        ),
    ]
    assert reader.read(tree).counts()["train ids"] == 2
    (tree / "ID_train.mat").write_bytes(b"x")
    scipy.io.savemat(tree / "ID_test.mat", {"ID_test": [[12]]})
    unreadable = [f[2] for f in found(tree, "warning") if f[1] == "unreadable id list"]
    assert len(unreadable) == 2 and unreadable[0].startswith("ID_train.mat: cannot be read as a MATLAB file (")
    assert unreadable[1] == "ID_test.mat: has no variable ID_test2, only ID_test; restore it from the PRW release"


def test_published_counts_are_for_the_whole_release_only(tree):
    part = reader.read(tree)
    assert part.published == {}
    assert [str(f) for f in part.findings if f.check == "part of the release"] == [
        f"{tree}: a part of PRW: cameras 1, 2, 3, 6, sequences 1, 2, 3; its counts are not compared with the published"
        " ones"
    ]
    for name in ("c4s1_000001", "c5s1_000001"):
        cv2.imwrite(str(tree / "frames" / f"{name}.jpg"), np.zeros((40, 60, 3), np.uint8))
        annotate(tree, name, "box_new", [[479, 5, 6, 10, 20]])
    scipy.io.savemat(tree / "frame_train.mat", {"img_index_train": index_of([*TRAIN, "c4s1_000001", "c5s1_000001"])})
    whole = reader.read(tree)
    assert whole.published == release.PUBLISHED and not any(f.check == "part of the release" for f in whole.findings)
    assert whole.published.keys() <= whole.counts().keys()
    check(whole)
    differing = [str(f) for f in whole.findings if f.check == "count differs from the published one"]
    assert len(differing) == 7 and differing[0] == "train images: found 4, published 5,704; use a complete copy"
    assert not whole.errors()  # a partial copy can be built on purpose


def test_a_list_with_an_empty_cell(config, tree):
    scipy.io.savemat(tree / "frame_train.mat", {"img_index_train": index_of([TRAIN[0], np.zeros(0)])})
    path = tree / "frame_train.mat"
    assert refused(config) == f"{path}: img_index_train has an empty cell; restore it from the PRW release"


def test_lists_of_identities_are_part_of_what_a_folder_is(tree):
    from psdiff_jax.datasets.prw.builder import Prw

    before = Prw.fingerprint(str(tree))
    scipy.io.savemat(tree / "ID_train.mat", {"ID_train": [[479]]})
    assert Prw.fingerprint(str(tree)) != before and set(files.LISTS) >= {"ID_train.mat", "query_info.txt"}


@needs_real
def test_counts_of_the_real_sequence():
    dataset = reader.read(REAL)
    check(dataset)
    assert dataset.counts() == {
        "train images": 578, "train boxes": 1058, "train labelled boxes": 1048, "train ids": 104,
        "gallery images": 668, "gallery boxes": 1646, "gallery labelled boxes": 1644, "gallery ids": 137,
        "queries": 439, "query ids": 119,
    }  # fmt: skip
    assert not dataset.errors() and dataset.report()["findings"] == {
        "known: identity twice in an image": 1, "known: same box twice": 1, "known: part of the release": 1,
        "known: pids not in ID_test.mat": 1, "warning: identities in both splits": 1,
    }  # fmt: skip
    assert not identities(dataset.train) & {query.person_id for query in dataset.queries}
    assert all(image.camera == 6 for image in dataset.images)
    frames = [image.frame for image in dataset.train]
    assert len(set(frames)) == 578 and frames[0] == 10_000_451


@needs_real
def test_the_real_sequence_from_end_to_end(tmp_path):
    config = config_of(REAL, tmp_path)
    dataset = open_dataset(config.data)
    config.evaluate.batch_size = 64
    found = list(eval_batches(dataset, "gallery", config))
    assert sum(int(batch["valid"].sum()) for batch in found) == 668
    assert sum(int(batch["boxes_mask"].sum()) for batch in found) == 1646
    assert len(dataset.queries()) == 439
