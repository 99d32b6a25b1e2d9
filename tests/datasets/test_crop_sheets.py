"""Sheets of crops: every crop once, boxes against pixels, splits, queries, cut-outs and errors."""

from __future__ import annotations

import itertools
import json
import shutil
import tarfile
from collections import Counter

import cv2
import numpy as np
import pytest

from psdiff_jax.datasets.common.checks import check
from psdiff_jax.datasets.crop_sheets.crops import draw_ground, find_crops, person_numbers, read_crop
from psdiff_jax.datasets.crop_sheets.options import SheetOptions
from psdiff_jax.datasets.crop_sheets.sheets import GROUND, Sheets
from psdiff_jax.errors import InputError
from psdiff_jax.ops.boxes import box_iou, is_inside

from ..options import open_dataset

SMALL = dict(size=(120, 160), person_height=(24, 60), test_share=0.3)
PEOPLE, VIEWS = 20, 6


def colour_of(person: int) -> np.ndarray:
    """A different saturated RGB colour for each person."""
    return cv2.cvtColor(np.uint8([[[person * 9, 255, 255]]]), cv2.COLOR_HSV2RGB)[0, 0]


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """A folder of 20 people x 6 crops in the person's colour, and a file that is no crop."""
    folder = tmp_path_factory.mktemp("crops")
    for person, view in itertools.product(range(PEOPLE), range(VIEWS)):
        picture = np.full((64 + view, 32, 3), colour_of(person)[::-1])
        assert cv2.imwrite(str(folder / f"{person + 5:04d}_c{view}_00.{('jpg', 'png', 'webp')[view % 3]}"), picture)
    (folder / "README.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    """A folder of 4 people x 2 cut-outs: a red rectangle of 40 x 16 pixels somewhere on a transparent canvas."""
    folder = tmp_path_factory.mktemp("cutouts")
    for person, view in itertools.product("abcd", range(2)):
        picture = np.zeros((100, 60, 4), np.uint8)
        picture[20 + view : 60 + view, 10:26] = (0, 0, 255, 255)
        assert cv2.imwrite(str(folder / f"{person}_{view}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def sheets(crops) -> Sheets:
    return Sheets(crops, SheetOptions(**SMALL))


def placed_crops(sheets: Sheets, split: str):
    return [placed for layout in sheets.layouts[split] for placed in layout]


def all_sheets(sheets: Sheets):
    """(image, crops on it) of both splits."""
    for split, layouts in sheets.layouts.items():
        for index, layout in enumerate(layouts):
            yield sheets.image(split, index), layout


def test_every_crop_is_used_once(sheets, crops):
    used = Counter(placed.crop.name for split in ("train", "gallery") for placed in placed_crops(sheets, split))
    assert used == Counter(path.name for path in crops.iterdir() if path.suffix != ".txt")
    assert sheets.crops == {"train": 14 * VIEWS, "gallery": 6 * VIEWS} and sheets.others == ["README.txt"]


def test_repeats_are_passes_over_the_training_crops(sheets, crops):
    again = Sheets(crops, SheetOptions(**SMALL, repeats=3))
    used = Counter(placed.crop.name for placed in placed_crops(again, "train"))
    assert set(used.values()) == {3} and len(used) == 14 * VIEWS
    assert again.layouts["gallery"] == sheets.layouts["gallery"]
    names = [placed.crop.name for placed in placed_crops(again, "train")]
    assert names[: 14 * VIEWS] != names[14 * VIEWS : 28 * VIEWS]


def test_boxes_are_inside_disjoint_and_in_rows(sheets):
    for layout in sheets.layouts["train"]:
        boxes = np.array([placed.box for placed in layout], np.float32)
        assert all(is_inside(box, 120, 160) for box in boxes)
        assert not np.triu(box_iou(boxes, boxes), k=1).any()
        heights, widths = boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]
        assert heights.min() >= 24 and heights.max() <= 60
        assert (widths <= 0.55 * heights).all() and (widths > 0.42 * heights - 1).all()
        for _, row in itertools.groupby(boxes, key=lambda box: box[1]):
            row = np.stack(list(row))
            assert row[0, 0] == 0 and (row[1:, 0] == row[:-1, 2]).all() and len(set(row[:, 3])) == 1


def test_heights_are_drawn_log_uniformly(crops):
    sheets = Sheets(crops, SheetOptions(size=(2000, 100), person_height=(20, 80), repeats=40))
    rows = {(k, p.box[1], p.box[3]) for k, layout in enumerate(sheets.layouts["train"]) for p in layout}
    logs = np.log([bottom - top for _, top, bottom in rows])
    shares = np.histogram(logs, np.log([19.5, 28.3, 40, 56.6, 80.5]))[0] / len(logs)
    np.testing.assert_allclose(shares, 0.25, atol=0.06)


def test_boxes_show_their_person_and_nothing_else_is_on_the_sheet(sheets):
    for image, layout in all_sheets(sheets):
        assert image.shape == (120, 160, 3) and image.dtype == np.uint8
        covered = np.zeros((120, 160), bool)
        for crop, (x1, y1, x2, y2), _ in layout:
            pasted = image[y1:y2, x1:x2].reshape(-1, 3).astype(int)
            assert np.abs(pasted - colour_of(int(crop.person) - 5)).max() < 12  # JPEG, WebP
            covered[y1:y2, x1:x2] = True
        assert (image[~covered] == GROUND).all()


def test_an_identity_is_on_a_sheet_once(sheets):
    dataset = sheets.dataset()
    check(dataset)
    assert [finding.check for finding in dataset.findings] == ["file that is no crop"]


def test_identities_are_split_by_name_whatever_the_seed(sheets, crops):
    dataset = sheets.dataset()
    train, gallery = ({i for image in images for i in image.person_ids.tolist()} for images in dataset.splits.values())
    assert not train & gallery and train | gallery == {person + 5 for person in range(PEOPLE)} and len(gallery) == 6
    other = Sheets(crops, SheetOptions(**SMALL, seed=1))
    assert {p.crop.person for p in placed_crops(other, "gallery")} == {f"{i:04d}" for i in gallery}
    assert placed_crops(other, "gallery") != placed_crops(sheets, "gallery")
    fewer = Sheets(crops, SheetOptions(**(SMALL | {"test_share": 0.1})))
    assert {int(p.crop.person) for p in placed_crops(fewer, "gallery")} < gallery


def test_queries_are_gallery_boxes_with_positives_on_other_sheets(sheets):
    dataset = sheets.dataset()
    images = {image.name: image for image in dataset.gallery}
    assert len(dataset.queries) == 6
    for query in dataset.queries:
        image = images[query.image_name]
        np.testing.assert_array_equal(image.boxes[image.person_ids.tolist().index(query.person_id)], query.box)
        assert sum(query.person_id in other.person_ids for other in dataset.gallery) >= 2


def test_the_same_options_give_the_same_sheets(sheets, crops):
    again = Sheets(crops, SheetOptions(**{key: list(v) if isinstance(v, tuple) else v for key, v in SMALL.items()}))
    assert again.layouts == sheets.layouts
    np.testing.assert_array_equal(again.image("train", 1), sheets.image("train", 1))


def test_mirrored_crops(tmp_path):
    picture = np.zeros((40, 20, 3), np.uint8)
    picture[:, 10:] = 255
    for person, view in itertools.product("ab", range(20)):
        cv2.imwrite(str(tmp_path / f"{person}_{view}.png"), picture)
    seen = []
    for image, layout in all_sheets(Sheets(tmp_path, SheetOptions(**SMALL))):
        for _, (x1, y1, x2, _), mirrored in layout:
            assert image[y1, x1, 0] == 255 * mirrored and image[y1, x2 - 1, 0] == 255 * (not mirrored)
            seen.append(mirrored)
    assert 10 < sum(seen) < 30


def test_a_tar_is_the_same_as_its_folder(crops, sheets, tmp_path):
    with tarfile.open(tmp_path / "crops.tar", "w") as archive:
        archive.add(crops, arcname="some/folder")
    packed = Sheets(tmp_path / "crops.tar", SheetOptions(**SMALL))
    assert packed.others == ["some/folder/README.txt"]
    for split in ("train", "gallery"):
        for index in range(len(sheets.layouts[split])):
            np.testing.assert_array_equal(packed.image(split, index), sheets.image(split, index))
    for one, other in zip(packed.dataset().images, sheets.dataset().images, strict=True):
        np.testing.assert_array_equal(one.person_ids, other.person_ids)


# Cut-outs and aspect ratios


def test_cutouts_are_trimmed_and_lie_on_a_ground(cutouts):
    for image, layout in all_sheets(Sheets(cutouts, SheetOptions(**SMALL, own_aspect=True))):
        for _, (x1, y1, x2, y2), _ in layout:
            assert (image[y1:y2, x1:x2] == (255, 0, 0)).all(), "the box is the figure"
            assert 0.9 * 0.4 * (y2 - y1) - 1 < x2 - x1 <= 1.1 * 0.4 * (y2 - y1)


def test_grounds_are_plain_or_not():
    grounds = [draw_ground((40, 20), np.random.default_rng(seed)) for seed in range(30)]
    assert all(ground.shape == (40, 20, 3) and ground.dtype == np.uint8 for ground in grounds)
    assert 4 < sum(bool((ground == ground[0, 0]).all()) for ground in grounds) < 20


def test_transparent_parts_show_the_ground(tmp_path):
    picture = np.zeros((60, 30, 4), np.uint8)
    cv2.ellipse(picture, (15, 30), (9, 25), 0, 0, 360, (0, 0, 255, 255), -1)
    for k in range(12):
        cv2.imwrite(str(tmp_path / f"{k}_0.webp"), picture)
    corners = []
    for image, layout in all_sheets(Sheets(tmp_path, SheetOptions(**SMALL))):
        for _, (x1, y1, x2, y2), _ in layout:
            np.testing.assert_allclose(image[(y1 + y2) // 2, (x1 + x2) // 2].astype(int), (255, 0, 0), atol=4)
            corners.append(tuple(image[y1, x1].tolist()))
    assert len(set(corners)) == 12 and (GROUND,) * 3 not in corners


def test_grey_and_16_bit_crops_are_read(tmp_path):
    cv2.imwrite(str(tmp_path / "1_0.png"), np.full((20, 10), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "1_1.png"), np.full((20, 10, 3), 77 * 257, np.uint16))
    for crop in find_crops(str(tmp_path)).people["1"]:
        np.testing.assert_array_equal(read_crop(str(tmp_path), crop), np.full((20, 10, 3), 77))


# Person ids


@pytest.mark.parametrize(
    ("people", "numbers"),
    [
        (["0305", "7"], ({"0305": 305, "7": 7}, False)),
        (["-1", "0000", "0002"], ({"0000": 0, "0002": 2}, False)),
        (["7", "07", "x"], ({"07": 0, "7": 1, "x": 2}, True)),
        (["7", "07"], ({"07": 0, "7": 1}, True)),
        (["1" * 30, "2"], ({"1" * 30: 0, "2": 1}, True)),
    ],
)
def test_person_numbers(people, numbers):
    assert person_numbers(people) == numbers


def test_negative_numbers_are_unlabelled_and_may_be_on_a_sheet_often(tmp_path):
    for person, view in itertools.product(("-1", "0001", "0002"), range(5)):
        cv2.imwrite(str(tmp_path / f"{person}_c1s1_{view}.jpg"), np.zeros((64, 32, 3), np.uint8))
    dataset = Sheets(tmp_path, SheetOptions(**SMALL)).dataset()
    ids = [image.person_ids.tolist() for image in dataset.train]
    assert sum(row.count(-1) for row in ids) == 5 and max(row.count(-1) for row in ids) > 1
    assert dataset.counts()["gallery ids"] == 1


# The prepared dataset


def config_of(root, tmp_path, **builder):
    return {
        "name": "crop_sheets", "root": str(root), "prepared_dir": str(tmp_path / "prepared"),
        "builder": SMALL | builder,
    }  # fmt: skip


def test_it_builds(crops, sheets, tmp_path, capsys):
    dataset = open_dataset(config_of(crops, tmp_path))
    assert "warning: file that is no crop: 1" in capsys.readouterr().err
    for split, source in (("train", dataset.train_source), ("gallery", dataset.gallery_source)):
        expected = sheets.dataset().splits[split]
        assert len(source) == len(expected)
        found = dataset.annotations(split)
        for index, image in enumerate(expected):
            assert found.image_names[index] == image.name and tuple(found.sizes[index]) == (120, 160)
            np.testing.assert_array_equal(found.boxes[index], image.boxes)
            np.testing.assert_array_equal(found.person_ids[index], image.person_ids)
        decoded = cv2.imdecode(np.frombuffer(source[0]["image"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(decoded.astype(int) - sheets.image(split, 0)).mean() < 6  # JPEG
    assert dataset.queries().person_ids.tolist() == [query.person_id for query in sheets.dataset().queries]
    assert dataset.report["crops"] == {"train": 84, "gallery": 36} and dataset.person_names == {}
    assert dataset.report["most boxes of a sheet"] == max(len(image.boxes) for image in sheets.dataset().images)
    json.dumps(dataset.report)
    shutil.copytree(crops, tmp_path / "moved")
    assert open_dataset(config_of(tmp_path / "moved", tmp_path)).folder == dataset.folder
    (tmp_path / "moved" / "0005_new.jpg").write_bytes((crops / "0005_c0_00.jpg").read_bytes())
    assert open_dataset(config_of(tmp_path / "moved", tmp_path)).folder != dataset.folder


def test_names_that_are_no_numbers_are_kept(cutouts, tmp_path):
    dataset = open_dataset(config_of(cutouts, tmp_path))
    assert dataset.person_names == {0: "a", 1: "b", 2: "c", 3: "d"}


def broken_jpeg(folder):
    """A crop that is cut off."""
    path = folder / "0007_c0_00.jpg"
    path.write_bytes(path.read_bytes()[:300])


def fully_transparent(folder):
    cv2.imwrite(str(folder / "0007_t.png"), np.zeros((20, 10, 4), np.uint8))


def wide(folder):
    cv2.imwrite(str(folder / "0007_w.png"), np.zeros((10, 40, 3), np.uint8))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (broken_jpeg, {}, "ROOT: 0007_c0_00.jpg is not a readable image (truncated or broken); replace it"),
        (fully_transparent, {}, "ROOT: 0007_t.png is fully transparent"),
        (
            wide,
            {"own_aspect": True},
            "ROOT: 0007_w.png is 40 x 10 pixels, too wide for a row of 60 pixels of size=(120, 160); lower"
            " person_height, raise size or set own_aspect=False",
        ),
    ],
)
def test_a_crop_that_cannot_be_used_is_named(crops, tmp_path, change, options, message):
    root = shutil.copytree(crops, tmp_path / "copy")
    change(root)
    with pytest.raises(InputError) as caught:
        open_dataset(config_of(root, tmp_path, **options))
    assert str(caught.value) == message.replace("ROOT", str(root))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder or tar file; name one that holds crops named <person>_<anything>.jpg"),
        (lambda root: root.mkdir(), "holds no crops named <person>_<anything>.jpg, .png or .webp"),
        (lambda root: root.write_bytes(b"x" * 2000), "not an uncompressed tar file ("),
    ],
)
def test_no_crops(tmp_path, make, message):
    make(tmp_path / "root")
    with pytest.raises(InputError) as caught:
        open_dataset(config_of(tmp_path / "root", tmp_path))
    assert str(caught.value).startswith(f"{tmp_path / 'root'}: {message}") and "\n" not in str(caught.value)


def test_too_few_people_to_split(tmp_path):
    cv2.imwrite(str(tmp_path / "1_0.png"), np.zeros((20, 10, 3), np.uint8))
    with pytest.raises(InputError, match="1 people are too few to split; add more or lower test_share"):
        Sheets(tmp_path, SheetOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": 1}, "has no option 'colour'; it has own_aspect, person_height"),
        ({"person_height": (90, 60)}, "person_height=(90, 60) must be two heights in pixels, smallest >= 8 first"),
        (
            {"person_height": (24, 130)},
            "person_height=(24, 130) fits no row of size=(120, 160); lower it or raise size",
        ),
        (
            {"size": (120, 30)},
            "person_height=(24, 60) and person_width=(0.42, 0.55) give boxes 33 pixels wide, which fit no row of"
            " size=(120, 30); lower them or raise size",
        ),
        ({"person_width": (0.6, 0.5)}, "person_width=(0.6, 0.5) must be two shares"),
        ({"repeats": 0}, "repeats=0 must be 1 or more"),
        ({"own_aspect": "no"}, "own_aspect='no'; expected a value like False"),
        ({"test_share": 0.0}, "test_share=0.0 must be in (0, 1)"),
    ],
)
def test_impossible_options_are_named(crops, tmp_path, options, message):
    with pytest.raises(InputError) as caught:
        open_dataset(config_of(crops, tmp_path, **options))
    assert message in str(caught.value) and str(caught.value).startswith("crop_sheets")
    assert "\n" not in str(caught.value)
