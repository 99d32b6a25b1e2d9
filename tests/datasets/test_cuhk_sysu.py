"""CUHK-SYSU's reader on small trees in the release's format, with its known defects (see cuhk_tree)."""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from ml_collections import ConfigDict

from psdiff_jax.datasets.common.records import KNOWN, WARNING
from psdiff_jax.datasets.cuhk_sysu import lists, matlab, reader
from psdiff_jax.errors import InputError

from ..options import open_dataset
from . import cuhk_tree, mat5
from .cuhk_tree import IMAGES, LISTS, POOL, TRAIN

REQUIRED = ["annotation/Images.mat", "annotation/pool.mat", "annotation/test/train_test/Train.mat"]
RELEASE = "restore it from the CUHK-SYSU release"


@pytest.fixture
def root(tmp_path):
    return cuhk_tree.write_tree(tmp_path / "CUHK SYSU – 人物搜索" / "dataset")


@pytest.fixture
def config(root, tmp_path):
    return ConfigDict({"data": {"name": "cuhk_sysu", "root": str(root), "prepared_dir": str(tmp_path / "prepared")}})


def errors(root):
    return [str(finding) for finding in reader.read(root).errors()]


def test_splits_as_counted_by_hand(config):
    dataset = open_dataset(config.data)
    train, gallery = dataset.annotations("train"), dataset.annotations("gallery")
    assert train.image_names == ("s1.jpg", "s2.jpg", "s3.jpg")  # the order of Images.mat
    assert gallery.image_names == tuple(POOL)  # the order of pool.mat
    assert train.sizes.tolist() == [[60, 80]] * 3
    assert [boxes.tolist() for boxes in train.boxes] == [
        [[0, 0, 10, 20], [30, 5, 42, 45]],
        [[1, 2, 11, 22], [20, 2, 30, 22]],
        [[3, 3, 12, 12]],
    ]
    assert [boxes.tolist() for boxes in gallery.boxes] == [
        [[5, 6, 15, 26], [40, 10, 70, 60]],  # 10 + 60 is beyond the border at 60
        [[10, 10, 30, 40], [60, 40, 70, 55]],
        [[2, 2, 22, 42]],
        [[8, 8, 23, 33], [50, 8, 65, 33]],
        [],
    ]
    # p31 is person 0, p2 person 1; then the queries: p70 person 2, p11 person 3, and p99, the query in row 4
    assert [ids.tolist() for ids in train.person_ids] == [[1, 0], [1, 1], [-1]]
    assert [ids.tolist() for ids in gallery.person_ids] == [[2, 3], [2, 6], [3], [3, 3], []]
    assert dataset.report["counts"] == {
        "train images": 3,
        "train boxes": 5,
        "train labelled boxes": 4,
        "train ids": 2,
        "gallery images": 5,
        "gallery boxes": 7,
        "gallery labelled boxes": 7,
        "gallery ids": 3,
        "queries": 5,
        "query ids": 3,
    }
    assert "tensorflow" not in sys.modules


def test_queries_of_the_smallest_list_come_first_then_those_of_the_subsets(config):
    queries = open_dataset(config.data).queries()
    assert queries.image_names == ("s12.jpg", "s7.jpg", "s5.jpg", "s4.jpg", "s4.jpg")
    assert queries.boxes.tolist() == [
        [5, 6, 15, 26],
        [2, 2, 22, 42],
        [50, 8, 65, 33],
        [10, 10, 30, 40],
        [60, 40, 70, 55],
    ]
    # the third is p11 by its name, the fourth p70 by its box, the fifth a new identity
    assert queries.person_ids.tolist() == [2, 3, 3, 2, 6]


def test_galleries_as_in_the_files(config):
    galleries = open_dataset(config.data).galleries
    expected = {  # name -> query -> (images, ground-truth boxes)
        "50": {0: ([1, 3, 3, 4], {0: [10, 10, 30, 40]}), 1: ([0, 3, 1], {0: [40, 10, 70, 70], 1: [8, 8, 23, 33]})},
        "100": {0: ([1, 2], {0: [10, 10, 30, 40]}), 1: ([0, 3, 1, 4], {0: [40, 10, 70, 70], 1: [8, 8, 23, 33]})},
        "occlusion": {0: ([1, 3], {0: [10, 10, 30, 40]}), 2: ([4, 2], {1: [2, 2, 22, 42]})},
        "low_resolution": {3: ([0], {0: [5, 6, 15, 26]}), 4: ([2, 4], {})},
    }
    found = {
        name: {
            query: (images.tolist(), dict(zip(places.tolist(), boxes.tolist(), strict=True)))
            for query, images, places, boxes in zip(
                gallery.queries.tolist(), gallery.images, gallery.gt_places, gallery.gt_boxes, strict=True
            )
        }
        for name, gallery in galleries.items()
    }
    assert found == expected
    assert [list(gallery) for gallery in found.values()] == [[0, 1], [0, 1], [0, 2], [3, 4]]
    assert galleries["50"].images[0].dtype == np.int32 and galleries["50"].gt_boxes[0].dtype == np.float32


def test_known_defects_are_noted_as_known(root):
    dataset = reader.read(root)
    assert Counter((finding.level, finding.check) for finding in dataset.findings) == {
        (KNOWN, "box without area"): 2,
        (KNOWN, "identity twice in an image"): 2,
        (KNOWN, "image twice in one gallery"): 1,
        (KNOWN, "query of a subset only"): 3,
        (KNOWN, "training images without labelled boxes"): 1,
        (WARNING, "missing list"): 4,
    }
    images = root / "annotation" / "Images.mat"
    train_test = root / "annotation" / "test" / "train_test"
    known = [str(finding) for finding in dataset.findings if finding.level == KNOWN]
    assert known == [
        f"{images} s1.jpg box 3: the box [5, 5, 0, 9] (xywh) has no area; it is left out",
        f"{images} s7.jpg box 2: the box [30, 2, 20, 0] (xywh) has no area; it is left out",
        f"{train_test / 'TestG50.mat'} query 1: 1 of 4 entries repeat an image; they are counted as in the literature",
        *(
            f"{root / 'annotation/test/subset' / name} query {row}: no list before holds this query; it is added"
            for name, row in (("Occlusion.mat", 1), ("Resolution.mat", 1), ("Resolution.mat", 2))
        ),
        f"{root / 'Image/SSM/s2.jpg'}: person 1 has 2 boxes",
        f"{root / 'Image/SSM/s5.jpg'}: person 3 has 2 boxes",
        f"{train_test / 'Train.mat'}: labels boxes in 2 of 3 training images; the others are unlabelled",
    ]
    missing = [finding.where for finding in dataset.findings if finding.level == WARNING]
    assert missing == [str(train_test / f"TestG{size}.mat") for size in (500, 1000, 2000, 4000)]
    assert dataset.published == {
        "train images": 11206,
        "train boxes": 55272,
        "train ids": 5532,
        "gallery images": 6978,
        "gallery boxes": 40871,
        "queries": 2900 + 3,
    }  # three queries are of a subset only


def test_without_the_smallest_list_the_next_one_defines_the_queries(root):
    cuhk_tree.list_path(root, "TestG50").unlink()
    dataset = reader.read(root)
    assert list(dataset.galleries) == ["100", "occlusion", "low_resolution"]
    assert [(query.image_name, query.person_id) for query in dataset.queries[:2]] == [("s7.jpg", 2), ("s12.jpg", 3)]
    assert dataset.galleries["occlusion"].queries.tolist() == [1, 2]


def test_a_query_that_only_a_larger_list_has_is_added_and_noted(root):
    cuhk_tree.save_list(root, "TestG100", [*LISTS["TestG100"], ("s4.jpg", [60, 40, 10, 15], "p99", [("s6.jpg", None)])])
    dataset = reader.read(root)
    assert dataset.galleries["100"].queries.tolist() == [0, 1, 2] and len(dataset.queries) == 5
    assert [str(f) for f in dataset.findings if f.check == "query of a larger gallery only"] == [
        f"{cuhk_tree.list_path(root, 'TestG100')} query 3: no list before holds this query; it is added"
    ]
    assert dataset.galleries["low_resolution"].queries.tolist() == [2, 4]  # which holds it as well


def test_two_queries_of_the_same_box_stay_two(root):
    twice = [LISTS["TestG50"][0], (*cuhk_tree.FIRST[:2], "p71", [("s6.jpg", None)])]
    for name in ("TestG50", "TestG100"):
        cuhk_tree.save_list(root, name, twice)
    dataset = reader.read(root)
    assert [query.person_id for query in dataset.queries[:2]] == [2, 3]
    assert dataset.galleries["100"].queries.tolist() == [0, 1]
    assert dataset.galleries["occlusion"].queries.tolist() == [0, 2]  # p70 is the first of the two
    assert dataset.gallery[0].person_ids.tolist() == [3, -1]  # the last assignment of the box holds
    assert [str(finding) for finding in dataset.findings if finding.check == "one box, two identities"] == [
        f"{cuhk_tree.list_path(root, 'TestG50')} query 2: box [5, 6, 10, 20] (xywh) in s12.jpg is person 2"
        " elsewhere; it becomes person 3"
    ]


def test_a_copy_is_the_same_dataset_a_changed_one_is_not(config, root, tmp_path):
    folder = open_dataset(config.data).folder
    shutil.copytree(root, tmp_path / "copy")
    config.data.root = str(tmp_path / "copy")
    assert open_dataset(config.data).folder == folder
    cuhk_tree.save_list(tmp_path / "copy", "Resolution", LISTS["Resolution"][:1])
    changed = open_dataset(config.data)
    assert changed.folder != folder and len(changed.queries()) == 4


# ---- what is refused: one line that names file and record


def refused(config):
    with pytest.raises(InputError) as caught:
        open_dataset(config.data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_folder(config, tmp_path):
    config.data.root = str(tmp_path / "nowhere")
    assert refused(config) == (
        f"config.data.root: there is no folder {tmp_path / 'nowhere'}; name the CUHK-SYSU folder with Image/SSM,"
        " annotation/Images.mat, annotation/pool.mat, annotation/test/train_test/Train.mat"
    )


@pytest.mark.parametrize("name", REQUIRED)
def test_a_needed_file_is_missing(config, root, name):
    (root / name).unlink()
    assert refused(config) == (
        f"config.data.root: {root / name} is missing; a CUHK-SYSU folder holds Image/SSM, annotation/Images.mat,"
        " annotation/pool.mat, annotation/test/train_test/Train.mat"
    )


def test_no_list_at_all(config, root):
    for name in ("TestG50", "TestG100"):
        cuhk_tree.list_path(root, name).unlink()
    assert refused(config) == (
        f"config.data.root: {root / 'annotation/test/train_test'} holds none of TestG50, TestG100, TestG500, TestG1000,"
        f" TestG2000, TestG4000 (.mat); one of them is needed for the queries; {RELEASE}"
    )


@pytest.mark.parametrize("name", REQUIRED)
def test_a_broken_file(config, root, name):
    path = root / name
    path.write_bytes(path.read_bytes()[:150])
    assert refused(config).startswith(f"{path}: cannot be read as a MATLAB file (")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-30], "query 3 cannot be read (it ends in the middle of an element)"),
        (
            lambda data: b"<html>404</html>",
            "query 1 cannot be read (it is not a MATLAB 5 file of little-endian order (save it with -v7))",
        ),
        (lambda data: data[:128], "query 1 cannot be read (it has no variable TestG50, only none)"),
        (lambda data: data[:200] + bytes(9) + data[209:], "query "),
    ],
    ids=["truncated", "no mat", "empty", "overwritten"],
)
def test_a_broken_list(config, root, change, message):
    path = cuhk_tree.list_path(root, "TestG50")
    entries = [*LISTS["TestG50"], ("s4.jpg", [60, 40, 10, 15], "p99", [(f"s{i % 9}.jpg", None) for i in range(300)])]
    cuhk_tree.save_list(root, "TestG50", entries)
    path.write_bytes(change(path.read_bytes()))
    assert refused(config).startswith(f"{path}: {message}")


def test_other_variables(config, root):
    path = cuhk_tree.list_path(root, "TestG50")
    scipy.io.savemat(path, {"a": np.zeros(3), "b": np.zeros(3)})
    assert refused(config) == (f"{path}: query 1 cannot be read (it has no variable TestG50, only a, b); {RELEASE}")
    scipy.io.savemat(root / "annotation" / "pool.mat", {"a": np.zeros(3), "b": np.zeros(3)})
    assert refused(config) == (f"{root / 'annotation/pool.mat'}: has no variable pool, only a, b; {RELEASE}")


def test_records_without_a_field(config, root):
    path = cuhk_tree.list_path(root, "TestG50")
    cuhk_tree.save(path, "TestG50", cuhk_tree.structs(("Query",), [(np.zeros(1),)]))
    assert refused(config).startswith(f"{path}: query 1 cannot be read (")
    images = root / "annotation" / "Images.mat"
    cuhk_tree.save(images, "Img", cuhk_tree.structs(("name", "box"), [("s1.jpg", np.zeros(0))]))
    assert refused(config) == (f"{images}: a record has no field imname, only name, box; {RELEASE}")


def test_missing_and_unreadable_images(config, root):
    missing, broken = (root / "Image" / "SSM" / name for name in ("s4.jpg", "s2.jpg"))
    missing.unlink()
    broken.write_bytes(b"<html>404</html>")
    assert errors(root) == [
        f"{missing}: is missing, although a list names it; {RELEASE}",
        f"{broken}: is not a readable image; {RELEASE}",
    ]
    assert refused(config) == f"{errors(root)[0]} (and 1 more: scripts/validate_dataset.py lists all)"
    dataset = reader.read(root)  # the rest is consistent: s4.jpg, the second of the pool, is left out
    assert [image.name for image in dataset.gallery] == ["s12.jpg", "s7.jpg", "s5.jpg", "s6.jpg"]
    assert [images.tolist() for images in dataset.galleries["50"].images] == [[2, 2, 3], [0, 2]]
    assert [places.tolist() for places in dataset.galleries["50"].gt_places] == [[], [0, 1]]
    assert len(dataset.galleries["low_resolution"]) == 0 and len(dataset.queries) == 3


@pytest.mark.parametrize("name", ["../../elsewhere/x.jpg", "a/../../x.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(config, root, name):
    """Although the file is there, and an image."""
    path = root / "Image" / "SSM" / name
    file = Path(os.path.normpath(path))
    file.parent.mkdir(exist_ok=True)
    cuhk_tree.save_image(file, 100)
    cuhk_tree.save_images(root, IMAGES | {name: [[3, 3, 9, 9]]})
    assert refused(config) == f"{root / 'annotation/Images.mat'} {name}: {name} leads out of {path.parent}; {RELEASE}"


def gallery_of(entries):
    return [(*LISTS["TestG50"][0][:3], entries), LISTS["TestG50"][1]]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            gallery_of([("s99.jpg", None), ("s4.jpg", [10, 10, 20, 30]), ("s1.jpg", None)]),
            "query 1: its gallery names s99.jpg and 1 more, which pool.mat does not hold",
        ),
        (gallery_of([("s4.jpg", [10, 10, 20])]), "query 1: the idlocate of gallery entry 1 is not four numbers"),
        ([("s1.jpg", [0, 0, 10, 20], "p70", [])], "query 1: pool.mat does not hold the query's image s1.jpg"),
        ([("s99.jpg", [0, 0, 10, 20], "p70", [])], "query 1: pool.mat does not hold the query's image s99.jpg"),
        (
            [("s12.jpg", [5, 6, 10, 21], "p70", [])],
            "query 1: Images.mat has no box [5, 6, 10, 21] (xywh) in s12.jpg",
        ),
        (
            [("s7.jpg", [30, 2, 20, 0], "p70", [])],
            "query 1: the box [30, 2, 20, 0] (xywh) has no area",
        ),
        ([("s12.jpg", [5, 6], "p70", [])], "query 1: the box [nan, nan, nan, nan] (xywh) is not four finite numbers"),
    ],
    ids=["unknown", "three numbers", "training query", "unknown query", "box", "no area", "two numbers"],
)
def test_a_wrong_record_of_a_list(config, root, entries, message):
    cuhk_tree.list_path(root, "TestG100").unlink()
    cuhk_tree.save_list(root, "TestG50", entries)
    path = cuhk_tree.list_path(root, "TestG50")
    assert errors(root) == [f"{path} {message}; {RELEASE}"]
    assert refused(config) == errors(root)[0]


def test_ground_truth_keeps_its_images_when_entries_are_left_out(root):
    entries = gallery_of(
        [("s99.jpg", None), ("s4.jpg", [10, 10, 20, 30]), ("s1.jpg", None), ("s5.jpg", [8, 8, 15, 25])]
    )
    cuhk_tree.save_list(root, "TestG50", entries)
    gallery = reader.read(root).galleries["50"]
    assert gallery.images[0].tolist() == [1, 3] and gallery.gt_places[0].tolist() == [0, 1]
    assert gallery.gt_boxes[0].tolist() == [[10, 10, 30, 40], [8, 8, 23, 33]]


def test_a_ground_truth_box_that_is_no_annotated_box_is_a_warning_and_is_kept(config, root):
    cuhk_tree.save_list(root, "TestG50", gallery_of([("s4.jpg", [11, 10, 20, 30])]))
    dataset = reader.read(root)
    found = [finding for finding in dataset.findings if finding.check == "list's box is no box of Images.mat"]
    assert [str(finding) for finding in found] == [
        f"{cuhk_tree.list_path(root, 'TestG50')} query 1: Images.mat has no box [11, 10, 20, 30] (xywh) in"
        f" s4.jpg; {RELEASE}"
    ]
    assert found[0].level == WARNING
    assert open_dataset(config.data).galleries["50"].gt_boxes[0].tolist() == [[11, 10, 31, 40]]


def test_a_box_outside_its_image_is_left_out(root):
    cuhk_tree.save_images(root, IMAGES | {"s3.jpg": [[3, 3, 9, 9], [80, 3, 9, 9]]})
    dataset = reader.read(root)
    assert [(f.level, str(f)) for f in dataset.findings if f.check == "box outside its image"] == [
        (
            "warning",
            f"{root / 'annotation/Images.mat'} s3.jpg box 2: the box [80, 3, 9, 9] (xywh)"
            " lies outside its 80 x 60 image; it is left out",
        )
    ]
    image = next(image for image in dataset.images if image.name == "s3.jpg")
    assert image.boxes.tolist() == [[3, 3, 12, 12]]


def test_wrong_names_in_pool_and_train(root):
    cuhk_tree.save_pool(root, [*POOL, "s98.jpg", "s4.jpg"])
    cuhk_tree.save_train(root, [*TRAIN, ("p5", [("s97.jpg", [1, 1, 2, 2]), ("s4.jpg", [60, 40, 10, 15])])])
    pool, train = root / "annotation" / "pool.mat", root / "annotation" / "test" / "train_test" / "Train.mat"
    dataset = reader.read(root)
    assert [str(finding) for finding in dataset.errors()] == [
        f"{pool}: names s98.jpg, which Images.mat does not hold; {RELEASE}",
        f"{train} person 3 p5: has a box in s97.jpg, which Images.mat does not hold; {RELEASE}",
    ]
    warnings = [str(f) for f in dataset.findings if f.level == WARNING and f.check != "missing list"]
    assert warnings == [
        f"{pool}: names s4.jpg more than once; it is taken once",
        f"{train} person 3 p5: has a box in s4.jpg, which is no training image; it stays unlabelled there",
    ]
    assert [image.name for image in dataset.gallery] == POOL
    assert dataset.queries[0].person_id == 3  # three identities in Train.mat


# ---- nesting and storage


def test_other_nestings_are_the_same_dataset(config, root, tmp_path):
    dataset = open_dataset(config.data)
    people = [
        (id_name, mat5.Struct(("imname", "idlocate"), [(name, [*box]) for name, box in shown]))
        for id_name, shown in TRAIN
    ]
    mat5.save(
        root / "annotation" / "test" / "train_test" / "Train.mat", "People", mat5.Struct(("idname", "scene"), people)
    )  # structs, not cells of structs; a variable of another name
    mat5.save(root / "annotation" / "pool.mat", "pool", mat5.Cell([mat5.Cell([name]) for name in POOL]))
    for name, entries in LISTS.items():
        mat5.save(cuhk_tree.list_path(root, name), "x", mat5.Cell([cell_of(entry) for entry in entries]), False)
    again = open_dataset(config.data)
    assert again.folder != dataset.folder
    assert again.queries().person_ids.tolist() == dataset.queries().person_ids.tolist()
    for split in ("train", "gallery"):
        one, other = dataset.annotations(split), again.annotations(split)
        assert [ids.tolist() for ids in one.person_ids] == [ids.tolist() for ids in other.person_ids]
    for name, gallery in dataset.galleries.items():
        for field in ("images", "gt_places", "gt_boxes"):
            for one, other in zip(getattr(gallery, field), getattr(again.galleries[name], field), strict=True):
                assert one.tolist() == other.tolist()


def cell_of(entry):
    """A query as a struct whose Query is in a cell and whose Gallery is cells of structs."""
    image, box, id_name, gallery = entry
    query = mat5.Struct(("imname", "idlocate", "idname"), [(mat5.Cell([image]), mat5.Cell([box]), id_name)])
    shown = [mat5.Struct(("idlocate", "imname"), [(where or mat5.NOTHING, name)]) for name, where in gallery]
    return mat5.Struct(("Gallery", "Query"), [(mat5.Cell(shown), mat5.Cell([query]))])


NAMES = ["s1.jpg", "s22.jpg", "s18184.jpg", "ä ö.jpg", "人.jpg", "b.j", "x"]
BOXES = [None, None, None, [14, 0, 14, 14], [14, 0, 1400, 900], [1, 2, 3, 4], [-3, 2, 70000, 14], [0.5, 1, 2.25, 14]]


def random_entries(rng, queries):
    def entry():
        box = BOXES[rng.integers(len(BOXES))]
        return NAMES[rng.integers(len(NAMES))], None if box is None else [*box]

    return [
        (
            NAMES[rng.integers(len(NAMES))],
            BOXES[rng.integers(3, len(BOXES))],
            f"p{i}",
            [entry() for _ in range(rng.integers(0, 60))],
        )
        for i in range(queries)
    ]


def as_matlab(entries, nothing):
    rows = [
        (
            mat5.Struct((*cuhk_tree.ENTRY, "idname"), [(image, box, [0], id_name)]),
            mat5.Struct(cuhk_tree.ENTRY, [(name, box or nothing, [0] if box else nothing) for name, box in shown]),
        )
        for image, box, id_name, shown in entries
    ]
    return mat5.Struct(("Query", "Gallery"), rows)


@pytest.mark.parametrize("storage", ["scipy", "matlab", "matlab, no bytes for []", "matlab, not compressed"])
def test_lists_are_read_as_scipy_reads_them(tmp_path, storage):
    path, rng = tmp_path / "TestG50.mat", np.random.default_rng(5)
    places = {name: i for i, name in enumerate(NAMES[:-1])}  # "x" is unknown
    for _ in range(12):
        entries = random_entries(rng, queries=4)
        if storage == "scipy":
            cuhk_tree.save(path, "TestG50", cuhk_tree.list_array("TestG50", entries))
        else:
            nothing = mat5.NOTHING if "no bytes" in storage else []
            mat5.save(path, "TestG50", as_matlab(entries, nothing), compressed="not" not in storage)
        found = lists.read_list(path, "TestG50", places)
        reference = scipy.io.loadmat(path, uint16_codec="utf-16-le")["TestG50"].squeeze(0)
        assert len(found) == len(reference) == 4
        for i, element in enumerate(reference):
            query, gallery = element["Query"][0, 0], element["Gallery"].reshape(-1)
            names = [entry["imname"].item() for entry in gallery]
            boxes = [entry["idlocate"].astype(float).ravel().tolist() for entry in gallery]
            assert found.query_images[i] == query["imname"].item() and found.id_names[i] == query["idname"].item()
            assert found.query_boxes[i].tolist() == query["idlocate"].astype(float).ravel().tolist()
            assert found.images[i].tolist() == [places.get(name, -1) for name in names]
            assert found.unknown.get(i) == (("x", names.count("x")) if "x" in names else None)
            assert found.gt_places[i].tolist() == [place for place, box in enumerate(boxes) if box]
            assert found.gt_boxes[i].tolist() == [box for box in boxes if box]


def test_a_cut_list_is_never_taken_for_a_whole_one(tmp_path):
    path = tmp_path / "TestG50.mat"
    for compressed in (True, False):
        mat5.save(path, "TestG50", as_matlab(random_entries(np.random.default_rng(0), 3), []), compressed)
        data = path.read_bytes()
        whole = lists.read_list(path, "TestG50", {})
        assert len(whole) == 3
        for size in [*range(0, 400, 7), *range(400, len(data), len(data) // 40), len(data) - 1]:
            path.write_bytes(data[:size])
            with pytest.raises(InputError, match=r"query [1-4] cannot be read"):
                lists.read_list(path, "TestG50", {})


def test_a_changed_byte_is_refused_or_found_but_never_a_crash(tmp_path):
    """What is compressed has a checksum: a change in it is always found. The rest is refused where it is invalid."""
    path, rng = tmp_path / "TestG50.mat", np.random.default_rng(1)
    for compressed in (True, False):
        mat5.save(path, "TestG50", as_matlab(random_entries(rng, 2), []), compressed)
        data, refusals = path.read_bytes(), 0
        for place in rng.integers(136, len(data), 80):
            path.write_bytes(data[:place] + bytes([data[place] ^ rng.integers(1, 256)]) + data[place + 1 :])
            try:
                lists.read_list(path, "TestG50", {})
            except InputError as error:
                assert str(error).startswith(f"{path}: query ") and "\n" not in str(error)
                refusals += 1
        assert refusals == 80 if compressed else refusals > 8


def test_a_list_is_read_in_pieces(tmp_path, monkeypatch):
    """Never more of it in memory than the gallery of one query, here a fortieth."""
    path, asked = tmp_path / "TestG50.mat", []
    mat5.save(path, "TestG50", as_matlab([(*cuhk_tree.FIRST, [("s4.jpg", None)] * 200)] * 40, []))
    some = matlab.Inflated._some
    monkeypatch.setattr(matlab.Inflated, "_some", lambda self, most: (asked.append(most), some(self, most))[1])
    assert len(lists.read_list(path, "TestG50", {"s4.jpg": 0, "s12.jpg": 1})) == 40
    assert max(asked) < sum(asked) / 39
