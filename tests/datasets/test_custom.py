"""The user's own images: one set of them in every form of list, counted by hand, and every fault by name."""

import re

import cv2
import numpy as np
import pytest
from PIL import Image

from psdiff_jax.datasets.custom.listing import numbered, parse_id
from psdiff_jax.datasets.custom.reader import read
from psdiff_jax.errors import InputError

from ..options import open_dataset
from .custom_tree import CSV, GALLERY, TRAIN, changed, csv_tree, json_tree, one_json, write_images, write_json

SEMICOLONS = CSV.replace(",", ";").replace("30.5", "30,5").replace('"nobody; really"', "")


def three_tables(root):
    """train.csv and gallery.csv, with the columns in another order."""
    csv_tree(root)
    rows = [line.split(",") for line in (root / "annotations.csv").read_text().splitlines() if line]
    (root / "annotations.csv").unlink()
    for split in ("train", "gallery"):
        lines = [[row[5], row[0], *row[1:5], *row[7:9]] for row in rows if row[6] in (split, "split")]
        (root / f"{split}.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    return root


FORMS = {
    "json": json_tree,
    "one json": one_json,
    "csv": csv_tree,
    "semicolons, BOM, CRLF": lambda root: csv_tree(root, "\ufeff" + SEMICOLONS.replace("\n", "\r\n")),
    "tabs": lambda root: csv_tree(root, SEMICOLONS.replace(";", "\t")),
    "csv for each split": three_tables,
}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "Fotos für uns"


def lines(dataset, root, level):
    """The findings of a level, without the folder's path."""
    return [str(f).replace(f"{root}/", "") for f in dataset.findings if f.level == level]


@pytest.mark.parametrize("form", FORMS)
def test_the_set_as_counted_by_hand(root, form):
    dataset = read(FORMS[form](root))
    assert dataset.errors() == []
    found = {
        s.name: (s.boxes.tolist(), s.person_ids.tolist(), s.camera, s.frame, s.height, s.width)
        for s in [*dataset.train, *dataset.gallery]
    }
    assert found == {  # Ünal is sorted after anna, bob and nobody: person ids are 0 anna, 1 bob, 2 nobody, 3 Ünal
        "a/1.jpg": ([[5, 6, 15, 26], [30.5, 0, 38.5, 16]], [0, -1], -1, -1, 40, 60),
        "Zoë 2.jpg": ([[50, 10, 60, 35]], [0], -1, -1, 40, 60),
        "b/3.png": ([[0, 0, 14, 22], [20, 5, 30, 25]], [1, 3], 2, 7, 50, 80),
        "4.webp": ([[1, 2, 11, 22], [30, 30, 35, 35]], [1, -1], 2, 90, 48, 64),
        "5.bmp": ([], [], 3, -1, 20, 30),
        "C:/data/cam1/6.jpg": ([[2, 2, 12, 12]], [1], -1, -1, 40, 60),
    }
    assert [s.name for s in dataset.train] == ["a/1.jpg", "Zoë 2.jpg"]
    assert [s.name for s in dataset.gallery] == ["b/3.png", "4.webp", "5.bmp", "C:/data/cam1/6.jpg"]
    assert dataset.person_names == {0: "anna", 1: "bob", 2: "nobody", 3: "Ünal"}
    # bob can be found again; at a gap of 25 frames 3.png and 4.webp go before 6.jpg, whose frame is unknown
    assert [(q.person_id, q.image_name in ("b/3.png", "4.webp")) for q in dataset.queries] == [(1, True)]
    assert [line.split(":")[-1] for line in lines(dataset, root, "warning")] == [
        " the box [8, 8, 0, 20] (xywh) has no area; it is left out"
    ]


def test_what_is_left_out_of_a_coco_file_is_counted(root):
    dataset = read(json_tree(root))
    assert lines(dataset, root, "known")[:2] == [
        "train.json: 1 annotations are left out: crowds (iscrowd)",
        "train.json: 1 annotations are left out: other categories than person",
    ]
    assert lines(dataset, root, "warning")[0].startswith("train.json annotation 6: the box")


@pytest.mark.parametrize("kind", ["json", "csv", "marks in json", "marks in csv"])
def test_queries_that_the_user_gives(root, kind):
    if kind.endswith("csv"):
        marked = CSV.replace("./4.webp,1,2,10,20,bob,gallery,2,90,", "./4.webp,1,2,10,20,bob,gallery,2,90,Yes")
        csv_tree(root, marked if kind.startswith("marks") else CSV)
    else:
        json_tree(root)
    if kind == "csv":
        three_tables(root)
        (root / "query.csv").write_text("image,x,y,width,height,person_id\n4.webp,1,2,10,20,bob\n")
    elif kind == "json":
        write_json(root / "query.json", changed(GALLERY, lambda d: d.update(annotations=[d["annotations"][1]])))
    elif kind == "marks in json":
        write_json(root / "gallery.json", changed(GALLERY, lambda d: d["annotations"][1].update(query=1)))
    dataset = read(root)
    assert dataset.errors() == []
    assert [(q.image_name, q.box.tolist(), q.person_id, q.camera, q.frame) for q in dataset.queries] == [
        ("4.webp", [1, 2, 11, 22], 1, 2, 90)
    ]


def test_only_a_gallery_to_search_in(root):
    write_images(root)
    write_json(root / "gallery.json", {"images": [{"id": 1, "file_name": "a/1.jpg"}]})
    dataset = read(root)
    assert (len(dataset.train), len(dataset.gallery), len(dataset.queries)) == (0, 1, 0)
    assert dataset.errors() == []


def test_without_a_split_everything_is_gallery(root):
    csv_tree(root, "image,x,y,width,height\na/1.jpg,5,6,10,20\n5.bmp,,,,\n")
    dataset = read(root)
    assert [image.name for image in dataset.gallery] == ["a/1.jpg", "5.bmp"] and not dataset.train
    assert dataset.gallery[0].person_ids.tolist() == [-1]
    assert lines(dataset, root, "warning") == ["annotations.csv: has no column split: all images become the gallery"]


def test_ids_in_any_spelling():
    same = [7, 7.0, "7", " 7 ", "7.0"]
    assert {parse_id(value) for value in same} == {"7"}
    assert {parse_id(value) for value in (None, "", "-1", -1, -2.0, "nan", float("nan"))} == {None}
    assert numbered(["12", "7", None, "12"]) == ({"12": 12, "7": 7}, False)
    assert numbered(["12", "7", "x", None]) == ({"12": 0, "7": 1, "x": 2}, True)
    assert numbered(["007", "7"]) == ({"007": 0, "7": 1}, True)  # two identities
    assert numbered(["1" * 30, "2"])[0]["2"] == 1  # more than an int64 holds
    assert parse_id("NaN") is None  # as MATLAB writes nothing
    assert numbered(["2147483647"]) == ({"2147483647": 2147483647}, False)
    assert numbered(["2147483648", "3"]) == ({"2147483648": 0, "3": 1}, True)  # more than an int32 holds
    with pytest.raises(ValueError, match="neither a number nor text"):
        parse_id([7])


def test_cameras_by_name(root):
    dataset = read(csv_tree(root, CSV.replace("gallery,2,", "gallery,west,").replace("gallery,3,", "gallery,east,")))
    assert [image.camera for image in dataset.gallery] == [1, 1, 0, -1]
    assert "cameras: they are numbered: 0 is east, 1 is west" in lines(dataset, root, "known")


def test_images_in_a_separate_folder(root, tmp_path):
    csv_tree(root)
    for folder in ("elsewhere", str(tmp_path / "outside")):
        place = write_images(root / folder)
        for name in ("b", "cam1"):
            (place / "images" / name).rename(place / name)
        dataset = read(root, images=folder)
        assert not dataset.errors() and len(dataset.gallery) == 4
        assert all(image.path.is_relative_to(place) for image in dataset.gallery)


def test_corners_instead_of_width_and_height_give_a_warning(root):
    write_images(root)
    boxes = [(x, y, 10, 18) for x in (0, 15, 30, 45) for y in (2, 22)]  # inside a/1.jpg, 60 x 40
    corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]  # all four below, and the one on the upper right
    said = {}
    for name, rows in (("sizes", boxes), ("corners", corners)):
        text = "image,x,y,width,height\n" + "".join(f"a/1.jpg,{','.join(map(str, row))}\n" for row in rows)
        (root / "gallery.csv").write_text(text)
        said[name] = [line for line in lines(read(root), root, "warning") if line.startswith("boxes:")]
    assert said == {
        "sizes": [],
        "corners": [
            "boxes: 5 of 8 reach over the border by more than half: check that they are x, y, width, height and not two"
            " corners"
        ],
    }


def broken_json(root, change, data=GALLERY, name="gallery.json"):
    json_tree(root)
    write_json(root / name, changed(data, change))
    return root


def image_0(**values):
    return lambda data: data["images"][0].update(values)


def annotation_0(**values):
    return lambda data: data["annotations"][0].update(values)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (
            annotation_0(bbox=[1, 2, 3]),
            "gallery.json annotation 1: [1, 2, 3] is not four numbers x, y, width, height; correct it",
        ),
        (
            annotation_0(bbox=None),
            "gallery.json annotation 1: None is not four numbers x, y, width, height; correct it",
        ),
        (
            annotation_0(bbox=[1, 2, float("nan"), 4]),
            "gallery.json annotation 1: [1, 2, nan, 4] is not four numbers x, y, width, height; correct it",
        ),
        (
            annotation_0(bbox=[80, 5, 10, 10]),
            "gallery.json annotation 1: the box [80, 5, 10, 10] (xywh) lies outside its"
            " 80 x 50 image; correct or remove it",
        ),
        (annotation_0(image_id=77), "gallery.json annotation 1: there is no image with the image_id 77; correct it"),
        (annotation_0(person_id=[1]), "gallery.json annotation 1: [1] is neither a number nor text; correct it"),
        (
            annotation_0(person_id=None, query=True),
            "gallery.json annotation 1: a query needs a person_id; give it one or remove it",
        ),
        (image_0(id="y"), "gallery.json image 'y': another image has the same id, b/3.png; correct it"),
        (image_0(file_name=""), "gallery.json image 'x': it has no file_name; correct it"),
        (
            image_0(file_name="a/1.jpg"),
            "gallery.json image 'x': a/1.jpg is in the lists already, as train.json image 1; correct it",
        ),
        (
            image_0(file_name="b/3\n.png"),
            "gallery.json image 'x': the file name 'b/3\\n.png' has a line break or"
            " another control character in it; correct it",
        ),
        (image_0(frame="soon"), "gallery.json image 'x': 'soon' is not a whole number; correct it"),
        (
            image_0(file_name="b/33.png"),
            "gallery.json image 'x': b/33.png is in none of ROOT, images; restore it, or"
            " name the image folder in config.data.builder.images",
        ),
        (
            image_0(width=40, height=25),
            "gallery.json image 'x': b/3.png is 80 x 50 as stored, the list says 40 x 25, so"
            " its boxes may be in other pixels; use the image that was annotated, or"
            " correct width and height",
        ),
        (
            image_0(width=50, height=80),
            "gallery.json image 'x': b/3.png is 80 x 50 as stored, the list says 50 x 80, so"
            " its boxes may be in other pixels; use the image that was annotated, or"
            " correct width and height",
        ),
        (
            lambda data: data.update(categories=[{"id": 1, "name": "Fußgänger"}, {"id": 2, "name": "car"}]),
            'gallery.json: no category is called "person", there are Fußgänger, car; rename the one of people',
        ),
    ],
)
def test_a_wrong_record_is_named(root, change, first):
    found = lines(read(broken_json(root, change)), root, "error")
    assert found and found[0] == first.replace("ROOT", str(root))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "0,0,14,22,bob,gallery,2,7,,",
            "0,zero,14,22,bob,gallery,2,7,,",
            "['0', 'zero', '14', '22'] is not four numbers x, y, width, height",
        ),
        (
            "0,0,14,22,bob,gallery,2,7,,",
            "0,,14,22,bob,gallery,2,7,,",
            "['0', '', '14', '22'] is not four numbers x, y, width, height",
        ),
        (
            "0,0,14,22,bob,gallery,2,7,,",
            "0,0,14,22,bob,test,2,7,,",
            "b/3.png has the split 'test', expected train or gallery",
        ),
        ("0,0,14,22,bob,gallery,2,7,,", "0,0,14,22,bob,gallery,2,7,perhaps,", "query is 'perhaps', expected 1 or 0"),
        ("0,0,14,22,bob,gallery,2,7,,", "0,0,14,22,bob,gallery,2,7,,,,8", "it has 13 values for 11 columns"),
        ("b\\3.png,0,0,14,22,bob,gallery,2,7,,", ",0,0,14,22,bob,gallery,2,7,,", "it names no image"),
        ("0,0,14,22,bob,gallery,2,7,,", "0,0,14,22,bob,gallery,2,x,,", "'x' is not a whole number"),
    ],
)
def test_a_wrong_line_is_named(root, old, new, message):
    dataset = read(csv_tree(root, CSV.replace(old, new)))
    assert lines(dataset, root, "error")[0] == f"annotations.csv line 7: {message}; correct the line"


def test_a_quotation_mark_that_is_not_closed(root):
    dataset = read(csv_tree(root, CSV.replace("b\\3.png,0,0", '"b\\3.png,0,0')))
    assert lines(dataset, root, "error") == [
        "annotations.csv line 7: the file name 'b\\\\3.png,0,0,14,22,bob,gallery,2,7,,\\n./4.' has a line break or"
        " another control character in it; correct the line"
    ]


def test_lines_that_contradict_each_other(root):
    dataset = read(csv_tree(root, CSV.replace("Ünal,gallery,2,7", "Ünal,gallery,2,8")))
    assert lines(dataset, root, "error") == [
        "annotations.csv line 9: b/3.png has another split, camera or frame than in annotations.csv line 7; correct the"
        " line"
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "nobody.jpg,1,2,10,20,bob",
            "nobody.jpg is not among the gallery images; add it there or remove the query",
        ),
        (
            "a/1.jpg,5,6,10,20,anna",
            "a/1.jpg is in train, but a query must be in a gallery image; correct it",
        ),
        ("4.webp,1,2,10,20,", "a query needs a person_id; give it one or remove it"),
        ("4.webp,,,,,bob", "a query needs a box; correct the line"),
    ],
)
def test_a_wrong_query_is_named(root, line, message):
    three_tables(root)
    (root / "query.csv").write_text(f"image,x,y,width,height,person_id\n{line}\n")
    dataset = read(root)
    assert lines(dataset, root, "error") == [f"query.csv line 2: {message}"]
    assert dataset.queries == []  # there is a query list: none are sampled


def write_rotated(path, orientation):
    """An 80 x 50 JPEG that viewers rotate."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((50, 80, 3), np.uint8)).save(path, exif=exif)


def test_an_image_that_viewers_rotate(root):
    json_tree(root)
    write_rotated(root / "t.jpg", 6)
    write_json(root / "gallery.json", changed(GALLERY, image_0(file_name="t.jpg", width=50, height=80)))
    assert lines(read(root), root, "error") == [
        "gallery.json image 'x': t.jpg is 80 x 50 as stored, rotated by its EXIF orientation 6, and annotated as 50 x"
        " 80: boxes are read in pixels as stored; store its pixels upright (as `mogrify -auto-orient` does)"
    ]
    write_json(root / "gallery.json", changed(GALLERY, image_0(file_name="t.jpg")))
    stored = read(root)  # annotated in stored pixels: no error
    assert not stored.errors() and (stored.gallery[0].height, stored.gallery[0].width) == (50, 80)
    write_json(root / "gallery.json", changed(GALLERY, image_0(file_name="t.jpg", width=None)))
    assert lines(read(root), root, "warning")[1] == (
        "gallery.json image 'x': t.jpg is 80 x 50 as stored and rotated by its EXIF orientation 6: boxes are read in"
        " pixels as stored; check that they fit"
    )


@pytest.mark.parametrize("name", ["../elsewhere/x.jpg", "a/../../elsewhere/x.jpg", "{tmp}/elsewhere/x.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused_unless_allowed(root, tmp_path, name):
    json_tree(root)
    (tmp_path / "elsewhere").mkdir()
    cv2.imwrite(str(tmp_path / "elsewhere/x.jpg"), np.zeros((40, 60, 3), np.uint8))
    name = name.format(tmp=tmp_path)
    write_json(root / "gallery.json", changed(GALLERY, image_0(file_name=name, width=None)))
    (line,) = lines(read(root), root, "error")
    assert re.fullmatch(r"gallery.json image 'x': \S+elsewhere/x.jpg lies outside of .*; copy it there, or allow such "
                        r"names with config.data.builder.outside=True", line), line  # fmt: skip
    options = {"name": "custom", "root": str(root), "prepared_dir": str(tmp_path / "prepared")}
    with pytest.raises(InputError, match="lies outside of"):
        open_dataset({**options, "builder": {}})
    allowed = open_dataset({**options, "builder": {"outside": True}})
    assert any("elsewhere/x.jpg" in name for name in allowed.annotations("gallery").image_names)
    assert len(allowed.gallery_source) == len(GALLERY["images"])


def test_a_link_in_the_folder_is_followed(root, tmp_path):
    """Whoever sets a link means it; a list that came with images cannot."""
    json_tree(root)
    (root / "images").rename(tmp_path / "store")
    (root / "images").symlink_to(tmp_path / "store")
    assert read(root).errors() == []


def test_one_image_under_two_names(root):
    json_tree(root)
    write_json(root / "gallery.json", changed(GALLERY, image_0(file_name="/elsewhere/a/1.jpg", width=None)))
    assert lines(read(root), root, "error") == [
        "gallery.json image 'x': /elsewhere/a/1.jpg is the same file as a/1.jpg; remove one from the lists"
    ]


def spoil(name, content):
    def change(root):
        json_tree(root)
        (root / name).write_bytes(content)

    return change


def both_kinds(root):
    json_tree(root)
    csv_tree(root)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, r"config\.data\.root: there is no folder ROOT; name one that holds gallery\.json"),
        (write_images, r"config\.data\.root: ROOT holds no list of the gallery; it needs gallery\.json"),
        (both_kinds, r"config\.data\.root: there are both ROOT/train\.json and annotations\.csv; keep one"),
        (spoil("train.json", b'{"images": ['), r"ROOT/train\.json is not JSON \(Expecting value.*\); export it again"),
        (spoil("train.json", b"[]"), r"ROOT/train\.json has no list of records 'images', as COCO's format has"),
        (spoil("train.json", b"\xff\xfe"), r"ROOT/train\.json is not JSON \('utf-8' codec.*\); export it again"),
        (
            lambda root: csv_tree(root, "image;x;y;w;h\n"),
            r"ROOT/annotations\.csv line 1: the header has no column"
            r" width, height; it has image, x, y, w, h$",
        ),
        (lambda root: csv_tree(root, ""), r"annotations\.csv line 1: the header has no column image.*; it has none$"),
    ],
)
def test_lists_that_cannot_be_read(root, prepare, message):
    prepare(root)
    with pytest.raises(InputError, match=message.replace("ROOT", re.escape(str(root)))) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_a_list_in_another_encoding(root):
    csv_tree(root)
    (root / "annotations.csv").write_bytes(CSV.encode("latin-1", errors="replace"))
    with pytest.raises(InputError, match=r"annotations\.csv is not text in UTF-8 \(byte \d+\); save it as UTF-8"):
        read(root)
    with pytest.raises(InputError, match=r"config\.data\.builder\.images: there is no folder .*pictures; name"):
        read(root, images="pictures")


def config_of(root, tmp_path, **options):
    return {"name": "custom", "root": str(root), "prepared_dir": str(tmp_path / "prepared"), "builder": options}


def test_it_builds(root, tmp_path):
    dataset = open_dataset(config_of(json_tree(root), tmp_path))
    assert dataset.annotations("gallery").image_names == ("b/3.png", "4.webp", "5.bmp", "C:/data/cam1/6.jpg")
    assert dataset.queries().person_ids.tolist() == [1]
    assert dataset.train_source[0]["image"] == (root / "a/1.jpg").read_bytes()
    webp = cv2.imdecode(np.frombuffer(dataset.gallery_source[1]["image"], np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(webp, cv2.imread(str(root / "4.webp")))
    root.rename(tmp_path / "moved")
    assert open_dataset(config_of(tmp_path / "moved", tmp_path)).folder == dataset.folder
    write_json(tmp_path / "moved" / "train.json", changed(TRAIN, annotation_0(bbox=[5, 6, 10, 21])))
    again = open_dataset(config_of(tmp_path / "moved", tmp_path))
    assert again.folder != dataset.folder and again.annotations("train").boxes[0][0].tolist() == [5, 6, 15, 27]


def test_images_outside_the_folder_are_in_the_fingerprint(root, tmp_path):
    csv_tree(root)
    write_images(tmp_path / "outside")
    for name in ("b", "cam1"):
        (tmp_path / "outside" / "images" / name).rename(tmp_path / "outside" / name)
    options = config_of(root, tmp_path, images=str(tmp_path / "outside"))
    first = open_dataset(options)
    assert len(first.gallery_source) == 4
    with (tmp_path / "outside" / "5.bmp").open("ab") as file:
        file.write(b"longer")
    assert open_dataset(options).folder != first.folder


def test_a_folder_with_faults_is_refused_in_one_line(root, tmp_path):
    broken_json(root, annotation_0(bbox="1 2 3 4"))
    with pytest.raises(InputError) as caught:
        open_dataset(config_of(root, tmp_path))
    assert str(caught.value) == (
        f"{root}/gallery.json annotation 1: '1 2 3 4' is not four numbers x, y, width, height; correct it"
    )


def test_a_gallery_alone_is_built_to_search_in(root, tmp_path):
    write_images(root)
    write_json(root / "gallery.json", {"images": [{"id": 1, "file_name": "a/1.jpg"}]})
    dataset = open_dataset(config_of(root, tmp_path))
    assert dataset.annotations("gallery").image_names == ("a/1.jpg",)
    assert len(dataset.train_source) == len(dataset.queries()) == len(dataset.query_source) == 0
    assert len(dataset.annotations("train")) == len(dataset.annotations("query")) == 0


def test_person_names_are_kept(root, tmp_path):
    assert open_dataset(config_of(json_tree(root), tmp_path)).person_names == {
        0: "anna",
        1: "bob",
        2: "nobody",
        3: "Ünal",
    }
    write_json(root / "train.json", changed(TRAIN, lambda data: data.update(annotations=[])))
    write_json(
        root / "gallery.json", changed(GALLERY, lambda data: [a.update(person_id=7) for a in data["annotations"]])
    )
    assert open_dataset(config_of(root, tmp_path)).person_names == {}  # ids that are numbers need no names
