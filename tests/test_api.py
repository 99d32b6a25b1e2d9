"""The Python interface on folders, and the command line on them, with a tiny model."""

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax import PersonSearch, experiment
from psdiff_jax.config import Config, to_config_dict
from psdiff_jax.data.media import read_frames, read_image
from psdiff_jax.data.options import DataOptions
from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.options import EvaluateOptions
from psdiff_jax.inference import predictor
from psdiff_jax.inference.index import Index
from psdiff_jax.inference.options import IndexOptions
from psdiff_jax.inference.tracking import NO_TRACK, TrackingOptions
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.models.osnet import OSNetSpec
from psdiff_jax.models.weights import save_npz
from psdiff_jax.options import tree

from .conftest import numpy_weights
from .folder import write_video
from .scripts.loading import load_script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tiny) -> Config:
    return Config(
        model=tiny.options,
        data=DataOptions(image_size=(64, 96)),
        sampler=SamplerOptions(num_proposals=10),
        evaluate=EvaluateOptions(steps=(1, 2), batch_size=4, search_threshold=0.2, detection_threshold=0.0),
        index=IndexOptions(rate=2.0, min_score=0.0, shard_rows=25),
    )


@pytest.fixture(scope="module")
def weights(tiny, config, tmp_path_factory):
    """tiny_psdiff.npz, its config beside it."""
    folder = tmp_path_factory.mktemp("weights")
    save_npz(folder / "tiny_psdiff.npz", nnx.merge_state(tiny.params, tiny.rest))
    (folder / "tiny_config.json").write_text(json.dumps(tree(config)))
    return folder / "tiny_psdiff.npz"


@pytest.fixture(scope="module")
def ps(weights) -> PersonSearch:
    return PersonSearch.load(weights)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven noise images of several shapes, and a video of three seconds."""
    pytest.importorskip("av")
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    from PIL import Image

    for i, (h, w) in enumerate([(64, 96), (64, 96), (90, 40), (128, 192), (33, 80), (64, 64), (70, 100)]):
        Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)).save(folder / f"ü{i}.png")
    write_video(folder / "sub/clip.mp4", 30)
    return folder


@pytest.fixture(scope="module")
def index(ps, photos, tmp_path_factory):
    return ps.index(photos, tmp_path_factory.mktemp("into") / "index")


def test_an_index_holds_what_detect_finds(ps, photos, index):
    assert index.summary.added == 8 and len(index.files) == 8 and index.root == photos
    vectors = np.concatenate(index.embeddings).astype(np.float32)
    for position, file in enumerate(index.files):
        path = photos / file.path
        frames = read_frames(path, 2.0) if file.kind == "video" else [(np.nan, read_image(path))]
        rows = np.flatnonzero(index.source == position)
        found = [(time, ps.detect(image)) for time, image in frames]
        times = np.concatenate([np.full(len(people.scores), time, np.float32) for time, people in found])
        boxes, scores, embeddings = (np.concatenate(part) for part in zip(*(p for _, p in found), strict=True))
        np.testing.assert_array_equal(index.time[rows], times)
        np.testing.assert_allclose(index.scores[rows], scores, atol=1e-5)
        np.testing.assert_allclose(index.boxes[rows], boxes, atol=1e-2)
        np.testing.assert_allclose(vectors[rows], embeddings, atol=1e-3)
        assert file.people == (scores >= ps.threshold).sum()
        assert (file.height, file.width) == ((48, 64) if file.kind == "video" else read_image(path).shape[:2])


def test_a_search_ranks_by_similarity(ps, photos, index):
    image, box = read_image(photos / "ü3.png"), (20, 10, 90, 120)
    hits = index.search(image, box, top=5)
    query = ps.embed(image, box)
    similarity = np.concatenate(index.embeddings).astype(np.float32) @ query
    similarity[index.scores < ps.threshold] = -2
    assert [hit.detection for hit in hits] == np.argsort(-similarity, kind="stable")[:5].tolist()
    assert hits == index.nearest(query, 5, ps.threshold)
    assert Index.open(index.folder).nearest(query, 5, ps.threshold) == hits  # without a model
    assert ps.open_index(index.folder).search(image, box, 5) == hits
    assert {hit.image for hit in index.search(image, box, within=lambda f: f.kind == "video")} == {"sub/clip.mp4"}


def test_an_index_is_brought_up_to_date(ps, photos, index, tmp_path):
    again = ps.index(photos, index.folder)
    assert again.summary.unchanged == 8 and len(again) == len(index)
    assert ps.index(photos, index.folder, rate=2).summary.unchanged == 8  # a whole number is one, too
    with pytest.raises(InputError, match="is an index of another rate"):
        ps.index(photos, index.folder, rate=5.0)
    with pytest.raises(InputError, match=r"config\.index\.rate=0\.0: must be above 0"):
        ps.index(photos, index.folder, rate=0)


def test_the_index_of_another_model_is_refused(tiny, ps, photos, index, config, weights, tmp_path):
    changed = jax.tree.map(lambda value: value * 1.01, tiny.params)
    save_npz(tmp_path / "model.npz", nnx.merge_state(changed, tiny.rest))
    (tmp_path / "config.json").write_text(json.dumps(tree(config)))
    other = PersonSearch.load(tmp_path / "model.npz")
    for call in (lambda: other.index(photos, index.folder), lambda: other.open_index(index.folder)):
        with pytest.raises(InputError, match="is an index of another model"):
            call()
    with pytest.raises(InputError, match="another number of denoising steps"):
        PersonSearch.load(weights, steps=1).open_index(index.folder)
    (tmp_path / "config.json").write_text(json.dumps(tree(replace(config, seed=1))))
    save_npz(tmp_path / "model.npz", nnx.merge_state(tiny.params, tiny.rest))
    assert PersonSearch.load(tmp_path).model != ps.model  # other noise


def test_a_run_without_checkpoints_is_loaded_from_its_weights(tiny, ps, config, tmp_path):
    save_npz(tmp_path / "model.npz", nnx.merge_state(tiny.params, tiny.rest))
    (tmp_path / "config.json").write_text(json.dumps(tree(config)))
    assert PersonSearch.load(tmp_path).model == PersonSearch.load(tmp_path / "model.npz").model == ps.model


def test_without_a_place_the_index_is_in_the_users_cache(ps, photos, index, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = ps.index(photos)
    assert cached.folder.parent == tmp_path / "psdiff_jax/index" and len(cached) == len(index)
    assert ps.index(photos, rate=1.0).folder != cached.folder


def test_a_cold_frame_is_tracked_as_an_image_is_detected(ps, photos):
    frames = list(read_frames(photos / "sub/clip.mp4", 4.0))
    tracked = list(ps.track(iter(frames)))
    assert [frame.time for frame in tracked] == [time for time, _ in frames]
    assert [frame.cold for frame in tracked] == [True] + [False] * (len(frames) - 1)
    first = ps.detect(frames[0][1])
    for found, expected in zip(tracked[0].people, first, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(tracked[0].tracks != NO_TRACK, first.scores >= ps.threshold)
    always_cold = list(ps.track(frames, TrackingOptions(cold_steps=1, cold_every=1, track_score=1.0)))
    assert all(frame.cold and (frame.tracks == NO_TRACK).all() for frame in always_cold)


def test_a_video_is_searched_by_a_time_and_a_box(ps, photos, tmp_path, capsys):
    script, video = load_script("search_video"), photos / "sub/clip.mp4"
    script.search(ps, video, "@0.5:5,5,40,40", tmp_path, rate=4.0, similarity=-1.0)
    found = json.loads((tmp_path / "appearances.json").read_text(encoding="utf-8"))
    image, box = script.read_query("@0.5:5,5,40,40", video)
    assert box.tolist() == [5, 5, 40, 40] and image.shape == (48, 64, 3)
    query = ps.embed(image, box)
    tracked = list(ps.track(read_frames(video, 4.0)))
    best = max(float((frame.people.embeddings[frame.tracks != NO_TRACK] @ query).max()) for frame in tracked)
    assert found[0]["best_similarity"] == pytest.approx(best, abs=1e-3)
    sights = sum(len(each["track"]) for each in found)
    assert sights == sum((frame.tracks != NO_TRACK).sum() for frame in tracked)  # similarity -1 leaves nobody out
    assert f"{len(found)} appearances: {tmp_path}" in capsys.readouterr().out
    rows = (tmp_path / "appearances.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + len(found)
    assert len(list(read_frames(tmp_path / "annotated.mp4", 1000.0))) == 30
    assert (tmp_path / "timeline.png").stat().st_size > 1000
    script.search(ps, video, "@0.5:5,5,40,40", tmp_path / "slow", rate=0.4, similarity=-1.0)  # frames are 2.5 s apart
    found = json.loads((tmp_path / "slow/appearances.json").read_text(encoding="utf-8"))
    assert max(len(each["track"]) for each in found) == 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("clip.mp4", "--query=clip.mp4: give IMAGE:x1,y1,x2,y2 or @SECONDS:x1,y1,x2,y2"),
        ("@soon:5,5,40,40", "--query=@soon:5,5,40,40: give IMAGE:x1,y1,x2,y2 or @SECONDS:x1,y1,x2,y2"),
        ("@0.5:5,5,40,-.-", "give the box as x1,y1,x2,y2 in pixels"),
        ("@99:5,5,40,40", "sub/clip.mp4 ends after 3 seconds"),
        ("@0.5:5,5,40,400", "does not lie in the image of 64x48 pixels"),
    ],
)
def test_a_wrong_query_of_a_video_is_one_line(ps, photos, tmp_path, query, message):
    with pytest.raises(InputError) as caught:
        load_script("search_video").search(ps, photos / "sub/clip.mp4", query, tmp_path, 4.0, 0.5)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_threads_may_share_it(ps, photos):
    images = [read_image(path) for path in sorted(photos.glob("*.png"))]
    box, barrier = (5, 5, 30, 30), threading.Barrier(4)

    def work(i):
        barrier.wait()
        return [ps.detect(images[(i + k) % 4]).scores.sum() + ps.embed(images[(i + k) % 4], box)[0] for k in range(4)]

    expected = [ps.detect(image).scores.sum() + ps.embed(image, box)[0] for image in images[:4]]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(work, range(4))):
            assert found == [expected[(i + k) % 4] for k in range(4)]


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.npz", "none.npz: no such file"), ("none", "none/config.json is missing: name the --workdir of a run")],
)
def test_a_model_that_is_not_there_is_one_line(weights, name, message):
    (weights.parent / "config.json").write_text((weights.parent / "tiny_config.json").read_text())
    with pytest.raises(InputError, match=message):
        PersonSearch.load(weights.parent / name)


def test_weights_without_their_config_are_one_line(weights, tmp_path):
    (tmp_path / "a_psdiff.npz").write_bytes(weights.read_bytes())
    with pytest.raises(InputError, match=r"config.json is missing: put the config of a_psdiff.npz beside it"):
        PersonSearch.load(tmp_path / "a_psdiff.npz")


def test_the_shipped_weights_are_loaded_without_a_name():
    ps = PersonSearch.load()
    assert ps.steps == 8 and ps.detect(np.full((120, 160, 3), 127, np.uint8)).embeddings.shape[1] == 256


def test_a_network_of_ones_own_embeds_crops(ps, weights, tiny, tmp_path, monkeypatch):
    """The same people, embedded otherwise; in boxes of one's own as well."""
    monkeypatch.setattr(predictor, "OVERLAP", 1.0)  # to this network many look alike: no box is one too many
    head = OSNetSpec(8, (16, 16, 32), (1, 1, 1), embedding_dim=8, head=True)
    monkeypatch.setitem(BACKBONES, "osnet_omz", replace(head, head=False))
    graphdef, state = nnx.split(nnx.eval_shape(lambda: head.for_reid().make(rngs=nnx.Rngs(0))))
    network = nnx.merge(graphdef, numpy_weights(state))
    save_npz(tmp_path / "reid.npz", nnx.state(network))
    crops = PersonSearch.load(weights, reid_weights=tmp_path / "reid.npz")
    assert crops.model != ps.model and crops.config.data.image_size == (128, 192)
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    boxes = crops.detect(image).boxes
    seen = ps.detect(image)  # the pixels that the detector sees are the same but for rounding
    assert len(boxes) == len(seen.boxes) and np.abs(boxes - seen.boxes).max() < 3
    whole = boxes.round()[:2]
    embed = nnx.jit(lambda network, crops: network.head(network(crops)[-1]))
    for x1, y1, x2, y2 in whole.astype(int):
        crop = np.float32(cv2.resize(image[y1:y2, x1:x2], (128, 256)))
        np.testing.assert_allclose(crops.embed(image, (x1, y1, x2, y2)), embed(network, crop[None])[0], atol=0.03)


def test_a_network_that_is_not_there_or_does_not_fit_is_one_line(weights):
    with pytest.raises(InputError, match=r"config.model.reid_crops=64: needs .*embedding_dim: osnet_omz \(256\)"):
        PersonSearch.load(weights, reid_weights="none.xml")  # the model's embeddings are not as wide
    with pytest.raises(InputError, match=r"config.model.reid_weights='none.xml': no such file"):
        PersonSearch.load(reid_weights="none.xml")
    with pytest.raises(InputError, match=r"nowhere/config.json is missing"):
        PersonSearch.load("nowhere", reid_weights="none.xml")


def of_folder(config, weights, photos):
    values = to_config_dict(config)
    values.data.update({"name": "folder", "root": str(photos)})
    values.train.init_from = str(weights)
    return values


def test_the_command_line_embeds_and_searches_a_folder(config, weights, photos, index, ps, tmp_path, capsys):
    values, workdir = of_folder(config, weights, photos), tmp_path / "run"
    experiment.run(values, workdir, "embed")
    printed = capsys.readouterr().out
    assert f"files: 8 added; people in the index: {index.summary.people}\nindex: {workdir / 'index'}" in printed
    query = photos / "ü3.png"
    experiment.run(values, workdir, "search", query=f"{query}:20,10,90,120", top=30)
    printed = capsys.readouterr().out
    assert "files: 8 unchanged" in printed
    answer = json.loads((workdir / "search/hits.json").read_text(encoding="utf-8"))
    expected = index.search(read_image(query), (20, 10, 90, 120), 30, within=lambda file: file.path != "ü3.png")
    assert [hit["image"] for hit in answer["hits"]] == [hit.image for hit in expected]
    assert [hit["time"] for hit in answer["hits"]] == [hit.time for hit in expected]
    assert any(hit["time"] is not None for hit in answer["hits"]) and answer["query"]["image"] == "ü3.png"
    table = (workdir / "search/hits.txt").read_text(encoding="utf-8")
    assert table in printed and "sub/clip.mp4 at 0:0" in table
    assert (workdir / "search/hits.png").stat().st_size > 1000
    inside = photos / "runs"
    experiment.run(values, inside, "search", query=f"{query}:20,10,90,120")
    experiment.run(values, inside, "embed")
    assert "files: 8 unchanged" in capsys.readouterr().out  # pictures of hits are none of the folder


def test_people_in_files_out_of_reach_are_found(config, weights, photos, tmp_path, capsys):
    folder, disk = tmp_path / "photos", tmp_path / "disk"
    shutil.copytree(photos, disk / "photos", ignore=shutil.ignore_patterns("sub"))
    folder.mkdir()
    (folder / "linked").symlink_to(disk / "photos")
    values, query = of_folder(config, weights, folder), f"{photos / 'ü3.png'}:20,10,90,120"
    shutil.copy(photos / "ü0.png", folder)
    experiment.run(values, tmp_path / "run", "search", query=query, top=30)
    before = json.loads((tmp_path / "run/search/hits.json").read_text())["hits"]
    assert {hit["image"].split("/")[0] for hit in before} == {"linked", "ü0.png"}
    disk.rename(tmp_path / "unplugged")
    experiment.run(values, tmp_path / "run", "search", query=query, top=30)
    assert json.loads((tmp_path / "run/search/hits.json").read_text())["hits"] == before
    assert "linked/ü1.png: cannot be read (No such file or directory): grey in the picture" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["train_and_evaluate", "train", "evaluate", "evaluate_teacher"])
def test_other_modes_refuse_a_folder(config, weights, photos, mode, tmp_path):
    with pytest.raises(InputError) as caught:
        experiment.run(of_folder(config, weights, photos), tmp_path / "run", mode)
    assert str(caught.value) == (
        f"config.data.name=folder: a folder has no annotations; use --mode embed or --mode search, not {mode}"
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("3", "--query=3: a folder has no query list; give IMAGE:x1,y1,x2,y2"),
        ("none.jpg:1,2,3,4", "--query: there is no image none.jpg"),
        ("{}:1,2,3,4000", "ü3.png of 192x128 pixels; give x1,y1,x2,y2"),
        ("{}:1,2,3,-.-", "give the box as x1,y1,x2,y2 in pixels"),
    ],
)
def test_a_wrong_query_is_one_line(config, weights, photos, tmp_path, query, message):
    with pytest.raises(InputError) as caught:
        experiment.run(
            of_folder(config, weights, photos), tmp_path / "run", "search", query=query.format(photos / "ü3.png")
        )
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run/index").exists()  # before anything is embedded


def test_a_folder_needs_a_root(config, weights, tmp_path):
    with pytest.raises(InputError, match=r"config\.data\.root is empty: name the folder"):
        experiment.run(of_folder(config, weights, ""), tmp_path, "embed")


def test_no_builder_of_datasets_is_imported(tmp_path):
    """TFDS takes seconds to import. Without an image that can be read nothing is compiled, either."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/notes.jpg").write_text("Dear diary")
    options = ["--config=configs/folder.py", "--mode=embed", f"--workdir={tmp_path / 'run'}"]
    lines = f"""
import sys
sys.argv[1:] = {[*options, f"--config.data.root={tmp_path / 'photos'}"]!r}
from psdiff_jax import main
main.main(main.parse_flags(sys.argv))
sys.exit("tensorflow_datasets" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    expected = ["files: none; people in the index: 0", "not readable: notes.jpg: not an image"]
    assert done.stdout.splitlines()[:2] == expected
