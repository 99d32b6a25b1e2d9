"""PRW's reader on small trees with all the dirt of the real release, and on the real sequence where it is at hand."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from ml_collections import ConfigDict

from psdiff_jax.data.pipeline import eval_batches, train_batches
from psdiff_jax.data.records import open_dataset
from psdiff_jax.datasets.prw import reader
from psdiff_jax.errors import InputError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "prw_c6s1"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real sequence is not at hand")

# frame -> (key of the annotation, rows of pid, x, y, w, h); photographs are 60 x 40 (width x height)
FRAMES = {
    "c1s1_000151": ("box_new", [[479, 5, 6, 10, 20], [-2, 30.5, 0, 8, 16]]),
    "c6s2_042326": ("anno_file", [[12, -4, -2, 14, 22], [12, 20, 5, 10, 20]]),  # negative; one pid for two people
    "c2s1_000176": ("anno_previous", [[479, 50, 10, 20, 25], [3, 8, 8, 0, 20]]),  # over the right border; no width
    "c3s1_000201": ("box_new", [[900, 1, 2, 10, 20]]),
    "c3s3_000001": ("box_new", []),
    "odd name": ("box_new", [[-2, 0, 0, 60, 40]]),
}
TRAIN, TEST = ["c2s1_000176", "c1s1_000151"], ["c6s2_042326", "c3s1_000201", "c3s3_000001", "odd name"]
QUERIES = b"900 1 2 10 20 c3s1_000201\r\n\t12  -4\t-2 14 22   c6s2_042326  \r\n\r\n12 20 5 10 20 c6s2_042326"


def index_of(names):
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    return cells


@pytest.fixture
def tree(tmp_path):
    """A folder in PRW's format: 2 training frames, 4 test frames, 3 queries."""
    root = tmp_path / "prw"
    (root / "frames").mkdir(parents=True)
    (root / "annotations").mkdir()
    for i, (name, (key, rows)) in enumerate(FRAMES.items()):
        cv2.imwrite(str(root / "frames" / f"{name}.jpg"), np.full((40, 60, 3), 20 * i, np.uint8))
        annotate(root, name, key, rows)
    scipy.io.savemat(root / "frame_train.mat", {"img_index_train": index_of(TRAIN)})
    scipy.io.savemat(root / "frame_test.mat", {"img_index_test": index_of(TEST)})
    (root / "query_info.txt").write_bytes(QUERIES)
    return root


def annotate(root, name, key, rows):
    scipy.io.savemat(root / "annotations" / f"{name}.jpg.mat", {key: np.asarray(rows, float).reshape(-1, 5)})


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


def test_scenes_as_counted_by_hand(config):
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
        "train": {"images": 2, "boxes": 3, "ids": 1, "dropped_boxes": 1},
        "gallery": {"images": 4, "boxes": 4, "ids": 2, "dropped_boxes": 0},
        "query": {"queries": 3, "ids": 2},
    }


def test_queries_as_counted_by_hand(config):
    queries = open_dataset(config.data).queries()
    assert queries.image_names == ("c3s1_000201.jpg", "c6s2_042326.jpg", "c6s2_042326.jpg")
    assert queries.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 14, 22], [20, 5, 30, 25]]
    assert queries.person_ids.tolist() == [900, 12, 12]
    assert queries.cameras.tolist() == [3, 6, 6] and queries.frames.tolist() == [10_000_201, 20_042_326, 20_042_326]


def test_photographs_pass_through_unchanged(config, tree):
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
        f"config.data.root: there is no folder {tmp_path / 'nowhere'}; name the PRW folder that holds {EXPECTED}"
    )


@pytest.mark.parametrize("name", ["frame_test.mat", "query_info.txt"])
def test_a_file_is_missing(config, tree, name):
    (tree / name).unlink()
    assert refused(config) == f"config.data.root: {tree / name} is missing; a PRW folder holds {EXPECTED}"


def test_a_frame_is_missing(config, tree):
    path = tree / "frames" / "c3s1_000201.jpg"
    path.unlink()
    assert refused(config) == f"{path} is missing, though the frame lists name it; restore it from the PRW release"


def test_an_annotation_is_missing(config, tree):
    path = tree / "annotations" / "c3s1_000201.jpg.mat"
    path.unlink()
    assert refused(config) == f"{path} is missing; restore it from the PRW release"


def test_an_annotation_without_a_known_key(config, tree):
    annotate(tree, "c3s1_000201", "boxes", [[1, 2, 3, 4, 5]])
    path = tree / "annotations" / "c3s1_000201.jpg.mat"
    assert refused(config) == (
        f"{path} has none of the variables box_new, anno_file, anno_previous; restore it from the PRW release"
    )


def test_a_damaged_mat_file(config, tree):
    path = tree / "frame_train.mat"
    path.write_bytes(path.read_bytes()[:130])
    assert refused(config).startswith(f"{path} cannot be read as a MATLAB file (")


@pytest.mark.parametrize(
    "box",
    [[60, 5, 10, 10], [-12, 5, 10, 10], [5, 40, 10, 10], [5, -20, 10, 10]],
    ids=["right", "left", "below", "above"],
)
def test_a_box_outside_its_photograph_names_frame_and_row(config, tree, box):
    annotate(tree, "c3s1_000201", "box_new", [[900, 1, 2, 10, 20], [7, *box]])
    path = tree / "annotations" / "c3s1_000201.jpg.mat"
    assert refused(config) == (
        f"{path} row 2 of frame c3s1_000201: the box {[float(v) for v in box]} (x y w h) lies outside its"
        " 60 x 40 photograph; correct or remove it"
    )


def test_a_truncated_photograph_is_named(config, tree):
    path = tree / "frames" / "c3s1_000201.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    assert refused(config) == f"{path} is not a readable image (truncated or broken); replace it"
    assert refused(config).startswith(str(path))  # the half-built dataset is not taken for a finished one


def test_a_file_that_is_no_photograph_is_named(config, tree):
    path = tree / "frames" / "c3s1_000201.jpg"
    path.write_bytes(b"<html>404</html>")
    assert refused(config) == f"{path} is not a readable image; restore it from the PRW release"


def test_a_frame_in_both_splits(config, tree):
    scipy.io.savemat(tree / "frame_train.mat", {"img_index_train": index_of([*TRAIN, "c3s1_000201"])})
    assert refused(config) == (
        f"{tree}: frame c3s1_000201.jpg is in frame_train.mat and in frame_test.mat; remove it from one"
    )


def test_a_frame_twice_in_a_list(config, tree):
    scipy.io.savemat(tree / "frame_train.mat", {"img_index_train": index_of([*TRAIN, TRAIN[0]])})
    assert refused(config) == f"{tree / 'frame_train.mat'} lists the frame {TRAIN[0]} twice; remove one"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("900 1 2 10 c3s1_000201", "expected 'pid x y w h frame', found '900 1 2 10 c3s1_000201'"),
        (
            "900 1 2 10 20 c1s1_000151",
            "c1s1_000151 is not among the test frames of frame_test.mat; correct or remove the line",
        ),
        (
            "900 99 2 10 20 c3s1_000201",
            "the box [99.0, 2.0, 10.0, 20.0] (x y w h) lies outside its 60 x 40 photograph; correct or remove it",
        ),
        (
            "900 1 2 0 20 c3s1_000201",
            "the query box [1.0, 2.0, 0.0, 20.0] (x y w h) has no area; correct or remove the line",
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
    """Also behind a resume, and with a number of workers that differs from the one the state was taken with."""
    dataset = open_dataset(config.data)
    threaded = train_batches(dataset, config)
    for _ in range(3):
        next(threaded)
    state = threaded.get_state()
    config.data.workers = 1
    with_worker = train_batches(dataset, config)
    with_worker.set_state(state)
    for _ in range(3):
        first, second = next(threaded), next(with_worker)
        for key in first:
            np.testing.assert_array_equal(first[key], second[key], err_msg=key)
    with_worker.close()


@needs_real
def test_counts_of_the_real_sequence():
    train, gallery = reader.read_scenes(REAL, "train"), reader.read_scenes(REAL, "gallery")
    queries = reader.read_queries(REAL, gallery)
    assert (len(train), len(gallery), len(queries)) == (578, 668, 439)
    assert sum(len(scene.boxes) for scene in [*train, *gallery]) == 2704
    ids = [{i for scene in scenes for i in scene.person_ids.tolist()} - {-1} for scenes in (train, gallery)]
    assert [len(split) for split in ids] == [104, 137]
    asked = {query.person_id for query in queries}
    assert len(asked) == 119 and not asked & ids[0]
    assert all(scene.camera == 6 and scene.dropped == 0 for scene in [*train, *gallery])
    frames = [scene.frame for scene in train]
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
