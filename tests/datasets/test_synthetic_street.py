"""The rendered street: layouts, labels against pixels, and the prepared dataset."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pytest

from psdiff_jax.datasets.synthetic_street import Street, StreetOptions
from psdiff_jax.datasets.synthetic_street.figure import draw_figure
from psdiff_jax.datasets.synthetic_street.identity import draw_identities, draw_stranger
from psdiff_jax.datasets.synthetic_street.render import render
from psdiff_jax.datasets.synthetic_street.skeleton import Pose
from psdiff_jax.datasets.synthetic_street.sprite import View
from psdiff_jax.errors import InputError

from ..options import open_dataset

pytestmark = pytest.mark.slow

SMALL = dict(train_images=12, gallery_images=24, queries=12, train_identities=16, test_identities=10, cameras=3)


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(StreetOptions(**SMALL))


@pytest.fixture(scope="module")
def gallery(street):
    return [street.scene("gallery", k) for k in range(SMALL["gallery_images"])]


def assert_same(a, b):
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.person_ids, b.person_ids)
    assert (a.name, a.camera, a.frame) == (b.name, b.camera, b.frame)


def extent(changed: np.ndarray) -> np.ndarray:
    """xyxy of the pixels [h, w] that are set."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def test_scenes_are_the_same_in_any_order_and_process(street, gallery):
    again = pickle.loads(pickle.dumps(Street(StreetOptions(**SMALL))))
    for index in (17, 3, 8):
        assert_same(again.scene("gallery", index), gallery[index])
    assert_same(again.scene("train", 5), street.scene("train", 5))


def test_seeds_and_cameras_change_the_scenes(gallery):
    for changed in ({"seed": 1}, {"camera_seed": 1}):
        other = Street(StreetOptions(**SMALL, **changed)).scene("gallery", 0)
        assert np.mean(other.image != gallery[0].image) > 0.5


def test_a_scene_does_not_depend_on_the_number_of_others(street):
    longer = Street(StreetOptions(**(SMALL | {"train_images": 40})))
    assert_same(longer.scene("train", 7), street.scene("train", 7))


def test_scene_is_well_formed(street, gallery):
    for scene in gallery:
        assert scene.image.shape == (160, 256, 3) and scene.image.dtype == np.uint8
        assert scene.boxes.shape == (len(scene.person_ids), 4) and scene.boxes.dtype == np.float32
        assert scene.person_ids.dtype == np.int64
        assert (scene.boxes[:, :2] >= 0).all() and (scene.boxes[:, 2:] <= (256, 160)).all()
        assert (scene.boxes[:, 2:] - scene.boxes[:, :2] > 4).all()
        labelled = scene.person_ids[scene.person_ids >= 0]
        assert len(set(labelled)) == len(labelled), "no identity is in a scene twice"
    assert len({scene.name for scene in gallery}) == len(gallery)
    assert any(-1 in scene.person_ids for scene in gallery)


def test_training_and_test_identities_are_disjoint_and_in_two_cameras(street, gallery):
    train = {int(i) for k in range(SMALL["train_images"]) for i in street.scene("train", k).person_ids} - {-1}
    cameras: dict[int, set[int]] = {}
    for scene in gallery:
        for person in scene.person_ids[scene.person_ids >= 0]:
            cameras.setdefault(int(person), set()).add(scene.camera)
    assert len(cameras) == SMALL["test_identities"]
    assert not train & set(cameras)
    assert min(len(seen) for seen in cameras.values()) >= 2


def test_looks_never_cross_between_roles_whatever_the_seed():
    train = {look.key() for seed in range(4) for look in draw_identities(seed, "train", 150)}
    test = {look.key() for seed in range(4) for look in draw_identities(seed, "test", 150)}
    rng, family = np.random.default_rng(0), draw_identities(0, "test", 50)
    strangers = {draw_stranger(rng, family).key() for _ in range(150)}
    assert not train & test and not train & strangers and not test & strangers


def test_identities_look_different_and_many_differ_in_one_detail():
    looks = draw_identities(3, "train", 60)
    pose, pictures = Pose(0.7, 0.4, 0.4, 0.3), []
    for look in looks:
        views = [draw_figure(look, pose, View(yaw, 0.1, 70.0, 0.5)).rgba for yaw in (0.4, 3.6)]
        sheet = np.zeros((2, 170, 110, 4), np.uint8)
        for page, view in zip(sheet, views, strict=True):
            page[: view.shape[0], : view.shape[1]] = view
        pictures.append(sheet)
    alike = 0
    for i in range(len(looks)):
        for j in range(i):
            assert (pictures[i] != pictures[j]).any(-1).sum() > 20, f"identities {i} and {j} look the same"
            alike += sum(a != b for a, b in zip(looks[i].key(), looks[j].key(), strict=True)) <= 2
    assert alike >= 15


def test_boxes_are_the_tight_extent_of_the_drawn_figure(street):
    """Against the difference of two renders: the street with one person alone, and empty."""
    checked = 0
    for index in range(8):
        layout = street.layout("gallery", index)
        everything = set(range(len(layout.objects)))
        empty = street.image(layout, omit=tuple(everything), clean=True).astype(int)
        for k, thing in enumerate(layout.objects):
            if thing.person_id is None:
                continue
            alone = street.image(layout, omit=tuple(everything - {k}), clean=True).astype(int)
            drawn = extent(np.abs(alone - empty).sum(-1) > 12)
            np.testing.assert_allclose(thing.box((160, 256)), drawn, atol=2)
            checked += 1
    assert checked > 15


def test_all_drawn_people_are_annotated_and_visible(street, gallery):
    for index in range(8):
        layout = street.layout("gallery", index)
        people = [k for k, thing in enumerate(layout.objects) if thing.person_id is not None]
        assert len(people) == len(gallery[index].boxes)
        everything = set(range(len(layout.objects)))
        full = street.image(layout, clean=True).astype(int)
        empty = street.image(layout, omit=tuple(everything), clean=True).astype(int)
        for k in people:
            alone = street.image(layout, omit=tuple(everything - {k}), clean=True).astype(int)
            without = street.image(layout, omit=(k,), clean=True).astype(int)
            whole = (np.abs(alone - empty).sum(-1) > 12).sum()
            seen = (np.abs(full - without).sum(-1) > 12).sum()
            assert seen > 0.3 * whole


def test_people_shrink_with_distance(street):
    for index in range(6):
        layout = street.layout("gallery", index)
        people = [thing for thing in layout.objects if thing.person_id is not None]
        for far, near in itertools.pairwise(people):
            assert far.depth >= near.depth
            assert far.foot[1] <= near.foot[1] + 1e-6


def test_queries_are_boxes_of_gallery_scenes_with_positives(street, gallery):
    scenes = {scene.name: scene for scene in gallery}
    queries = street.queries()
    assert len(queries) == SMALL["queries"]
    assert {query.person_id for query in queries} == {16 + k for k in range(10)}
    for query in queries:
        scene = scenes[query.image_name]
        row = list(scene.person_ids).index(query.person_id)
        np.testing.assert_array_equal(scene.boxes[row], query.box)
        assert (scene.camera, scene.frame) == (query.camera, query.frame)
        assert any(query.person_id in other.person_ids and other.camera != query.camera for other in gallery)


@pytest.mark.parametrize("preset", ["small", "full"])
def test_larger_presets(preset):
    options = StreetOptions.preset(
        preset, train_identities=8, test_identities=4, gallery_images=8, queries=4, cameras=2
    )
    scene = Street(options).scene("gallery", 1)
    assert scene.image.shape[:2] == options.size
    heights = scene.boxes[:, 3] - scene.boxes[:, 1]
    assert heights.max() < options.size[0] and len(heights) >= 1


# Cut-outs


def colour_of(person: int) -> np.ndarray:
    """A different saturated RGB colour for each person."""
    hue = np.uint8([[[(person * 7) % 180, 255, 255]]])
    return cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0]


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    """A folder of 24 people x 3 views: plain ellipses in the person's colour."""
    folder = tmp_path_factory.mktemp("cutouts")
    for person in range(24):
        for view in range(3):
            picture = np.zeros((120, 60, 4), np.uint8)
            bgr = tuple(int(c) for c in colour_of(person)[::-1])
            cv2.ellipse(picture, (30, 60), (14 + 3 * view, 50), 0, 0, 360, (*bgr, 255), -1)
            assert cv2.imwrite(str(folder / f"{person:03d}_{view}.{'png' if view else 'webp'}"), picture)
    (folder / "README.txt").write_text("not an image")
    return folder


CUT = dict(train_images=12, gallery_images=16, queries=4, train_identities=12, test_identities=5, cameras=2)


def test_cutouts_keep_their_identity(cutouts):
    street = Street(StreetOptions(**CUT, source=str(cutouts)))
    hues: dict[int, list[float]] = {}
    for split, count in (("train", 12), ("gallery", 16)):
        for index in range(count):
            layout = street.layout(split, index)
            for thing in layout.objects:
                if thing.person_id is not None and thing.person_id >= 0:
                    rgba = thing.sprite.rgba
                    middle = rgba[rgba.shape[0] // 2, rgba.shape[1] // 2, :3]
                    hue = cv2.cvtColor(middle[None, None], cv2.COLOR_RGB2HSV)[0, 0, 0]
                    hues.setdefault(thing.person_id, []).append(hue)
    centres = {person: np.median(seen) for person, seen in hues.items()}
    for person, seen in hues.items():
        assert np.abs(np.array(seen, float) - centres[person]).max() <= 3, "one number, one person"
    # 7 hues apart: no two numbers are the same person, and so no train and test identity.
    ordered = np.sort(list(centres.values()))
    assert len(ordered) > 12 and np.diff(ordered).min() >= 3


def test_a_tar_of_cutouts_is_the_same_as_its_folder(cutouts, tmp_path):
    with tarfile.open(tmp_path / "people.tar", "w") as archive:
        for path in sorted(cutouts.iterdir()):
            archive.add(path, arcname=f"people/{path.name}")
    options = [StreetOptions(**CUT, source=str(source)) for source in (cutouts, tmp_path / "people.tar")]
    assert_same(*(Street(o).scene("gallery", 3) for o in options))


def test_cutout_roles_do_not_depend_on_the_seed(cutouts):
    first, second = (Street(StreetOptions(**CUT, source=str(cutouts), seed=seed)).source.identities for seed in (0, 1))
    assert {role: set(names) for role, names in first.items()} == {role: set(names) for role, names in second.items()}
    assert not set(first["train"]) & set(first["test"]) and not set(first["stranger"]) & set(first["test"])


def test_wrong_cutouts_are_named(cutouts, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        Street(StreetOptions(source=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="train_identities=100"):
        Street(StreetOptions(**(CUT | {"train_identities": 100}), source=str(cutouts)))
    with pytest.raises(InputError, match="no cut-outs"):
        Street(StreetOptions(source=str(tmp_path)))
    (tmp_path / "some.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match=r"some\.tar"):
        Street(StreetOptions(source=str(tmp_path / "some.tar")))
    for person in range(24):
        for view in range(2):
            (tmp_path / f"{person}_{view}.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"\d+_\d\.png is not an 8-bit RGBA"):
        Street(StreetOptions(**CUT, source=str(tmp_path))).scene("gallery", 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"people": (0, 3)}, "people"),
        ({"cameras": 1}, "cameras=1"),
        ({"cameras": "many"}, "cameras='many'; expected a value like"),
        ({"labelled": 0.0}, "labelled"),
        ({"size": (10, 10)}, "size"),
        ({"gallery_images": 6, "test_identities": 80}, "raise gallery_images"),
        ({"queries": 100000}, "lower queries"),
        ({"gallery_images": 0, "queries": 0, "test_identities": 0}, "gallery_images=0 leaves nothing to search"),
    ],
)
def test_impossible_options_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        Street(StreetOptions(**(SMALL | wrong))).queries()


def test_unknown_preset_option_split_and_index(street):
    with pytest.raises(InputError, match="huge"):
        StreetOptions.preset("huge")
    with pytest.raises(InputError, match="colour"):
        StreetOptions.preset("tiny", colour=3)
    with pytest.raises(InputError, match="query"):
        street.scene("query", 0)
    with pytest.raises(InputError, match="no scene 99"):
        street.scene("train", 99)


# The prepared dataset


def test_builder_round_trip_without_tensorflow(tmp_path, street):
    dataset = open_dataset({"name": "synthetic_street", "prepared_dir": str(tmp_path), "builder": SMALL})
    assert "tensorflow" not in sys.modules
    assert len(dataset.train_source) == SMALL["train_images"]
    annotations = dataset.annotations("gallery")
    for index in (0, 13):
        scene, record = street.scene("gallery", index), dataset.gallery_source[index]
        assert annotations.image_names[index] == record["image_name"] == scene.name
        assert (annotations.cameras[index], annotations.frames[index]) == (scene.camera, scene.frame)
        np.testing.assert_array_equal(annotations.boxes[index], scene.boxes)
        np.testing.assert_array_equal(annotations.person_ids[index], scene.person_ids)
        decoded = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(decoded.astype(int) - scene.image).mean() < 6  # JPEG
    queries = dataset.queries()
    assert queries.image_names == tuple(query.image_name for query in street.queries())
    assert dataset.report["gallery"]["ids"] == SMALL["test_identities"]


def test_splits_without_records_are_left_out(tmp_path):
    builder = SMALL | {"train_images": 0, "queries": 0, "gallery_images": 10, "test_identities": 2}
    dataset = open_dataset({"name": "synthetic_street", "prepared_dir": str(tmp_path), "builder": builder})
    assert [len(dataset.source(split)) for split in ("train", "gallery", "query")] == [0, 10, 0]
    assert len(dataset.annotations("train")) == len(dataset.queries().image_names) == 0


def test_workers_render_the_same_scenes():
    street = Street(StreetOptions(**SMALL))
    alone, together = (list(render(street, "train", workers)) for workers in (1, 2))
    assert [record["image"] for record in alone] == [record["image"] for record in together]


def test_the_renderer_needs_numpy_and_opencv_only():
    code = (
        "import sys, psdiff_jax.datasets.synthetic_street as s; s.Street(s.StreetOptions()).scene('train', 0);"
        "print(sorted({'tensorflow', 'tensorflow_datasets', 'jax', 'grain', 'scipy', 'PIL'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
