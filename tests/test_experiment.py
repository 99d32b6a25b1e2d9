"""The whole program in miniature: train, stop and go on, evaluate, score a folder, search."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from psdiff_jax import PersonSearch, experiment, modes
from psdiff_jax.api import load_embedder
from psdiff_jax.config import from_values
from psdiff_jax.data.detections import Detections, load_embeddings
from psdiff_jax.data.pipeline import eval_batches
from psdiff_jax.errors import InputError
from psdiff_jax.inference.embed import image_loader
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.inference.tracking import TrackingOptions
from psdiff_jax.models.weights import read_npz
from psdiff_jax.teacher.crops import load_crops
from psdiff_jax.teacher.kinds import open_targets
from psdiff_jax.training.train import build_model, load_trained
from psdiff_jax.training.writer import read_metrics

from .datasets import cuhk_tree
from .options import open_dataset
from .pod import run_pod
from .tiny import tiny_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predicted() -> list[str]:
    """The shapes of what the predictor was called with when `finished` was made, and its numbers of steps."""
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, predicted) -> tuple[ConfigDict, Path]:
    """(config, workdir) of a run that was trained and evaluated."""
    folder = tmp_path_factory.mktemp("experiment")
    config, call = tiny_config(folder / "prepared"), Predictor.__call__

    def recorded(self, params, rest, batch, key, steps, *query):
        predicted.append(f"{jax.tree.map(jax.typeof, batch)}, {steps}, {jax.tree.map(jax.typeof, query[:2])}")
        return call(self, params, rest, batch, key, steps, *query)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "__call__", recorded)
        experiment.run(config, folder / "run", "train_and_evaluate")
    return config, folder / "run"


def test_one_program_predicts_in_training_and_evaluation(finished, predicted):
    assert len(predicted) == 1 + 3 + 1 and len(set(predicted)) == 1  # images of training, 9 of the gallery, 3 queries


def test_cores_are_shared_by_what_a_step_computes_at_once(tmp_path, monkeypatch):
    config, asked = tiny_config(tmp_path), []
    config.train.update({"batch_size": 8, "accumulate": 4})
    monkeypatch.setattr(experiment.parallel, "setup_cpu_devices", lambda *given: asked.append(given))
    monkeypatch.setattr(experiment, "_run", lambda *_: None)
    experiment.run(config, tmp_path / "run", "train")
    assert asked == [(0, 2, config.evaluate.batch_size)]


def test_everything_is_there(finished):
    _, workdir = finished
    for name in (
        "config.json",
        "model.npz",
        "metrics.jsonl",
        "evaluation.json",
        "report/steps.png",
        "report/ranking.png",
        "report/table.txt",
        "teacher/teacher.npz",
        "checkpoints",
        "tensorboard",
    ):
        assert (workdir / name).exists(), name


def test_embeddings_folder_is_what_the_design_says(finished):
    config, workdir = finished
    for part in ("gallery", "query"):
        folder = workdir / "embeddings" / part
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("embeddings", "boxes", "scores", "image_index")
        }
        count = len(arrays["scores"])
        assert count > 0
        assert arrays["embeddings"].dtype == np.float32 and arrays["embeddings"].shape == (count, 32)
        np.testing.assert_allclose(np.linalg.norm(arrays["embeddings"], axis=1), 1, atol=1e-4)
        assert arrays["boxes"].dtype == np.float32 and arrays["boxes"].shape == (count, 4)
        assert arrays["boxes"].min() >= 0 and arrays["boxes"][:, 2].max() <= 160 and arrays["boxes"][:, 3].max() <= 96
        assert arrays["image_index"].dtype == np.int32
        images = json.loads((folder / "images.json").read_text())
        assert arrays["image_index"].max() < len(images)
    assert len(np.load(workdir / "embeddings/query/person_id.npy")) == config.data.builder.queries


def test_metrics_are_json_lines(finished):
    _, workdir = finished
    records = read_metrics(workdir / "metrics.jsonl", "train")
    assert [record["step"] for record in records] == [2, 4]
    assert {"loss", "cls", "l1", "giou", "reid", "learning_rate", "gradient_norm"} <= set(records[0])


def test_evaluation_names_every_protocol_size_and_step(finished):
    _, workdir = finished
    result = json.loads((workdir / "evaluation.json").read_text())
    assert set(result["search"]) == {"whole", "sized"}
    assert set(result["search"]["sized"]) == {"4", "all"}
    for by_steps in result["search"]["sized"].values():
        assert set(by_steps) == {"1", "2"}
        assert {"mAP", "top-1", "top-5", "top-10"} <= set(by_steps["1"])


def test_going_on_equals_not_stopping(finished, tmp_path):
    """Two steps, a stop, and the same command again end where four steps in one go end, bit for bit."""
    full, alone = finished
    half = full.copy_and_resolve_references()
    half.train.steps = full.train.steps // 2
    experiment.run(half, tmp_path, "train")
    experiment.run(full, tmp_path, "train")
    stopped, whole = (read_npz(folder / "model.npz") for folder in (tmp_path, alone))
    assert stopped.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(stopped[name], whole[name], err_msg=name)


def test_two_processes_do_what_one_does(finished, tmp_path):
    """As on a pod: the teacher's training, PSDiff's, and evaluation of the same weights.

    Two processes add in another order than one does. What is compared here hardly depends on the last bits.
    """
    config, alone = finished
    training, copy = tmp_path / "training", tmp_path / "copy"
    shutil.copytree(alone, copy, ignore=shutil.ignore_patterns("embeddings", "report", "evaluation.json"))
    first, second = run_pod("tests.pod", config.data.prepared_dir, str(training), str(copy))
    assert (first[0], second[0]) == (0, 0), first[1] + second[1]
    assert "report:" in first[1] and "report:" not in second[1] and "ETA" not in second[1]  # the first alone speaks
    for split in ("teacher", "train"):
        ours, theirs = (read_metrics(folder / "metrics.jsonl", split) for folder in (training, alone))
        for name in ("loss", "gradient_norm"):
            values = ([record[name] for record in records] for records in (ours, theirs))
            np.testing.assert_allclose(*values, rtol=1e-3, err_msg=f"{split} {name}")
    for name, rate in (
        ("teacher/teacher.npz", config.teacher.learning_rate),
        ("model.npz", config.train.learning_rate),
    ):
        ours, theirs = (read_npz(folder / name) for folder in (training, alone))
        apart = np.concatenate([np.abs(ours[leaf] - theirs[leaf]).ravel() for leaf in theirs])
        # Of a step of Adam's; all of them have moved the median weight by two. Not the largest difference, for where a
        # gradient is near zero Adam makes a step either way. How much it is depends on the processor's sums.
        assert np.median(apart) < 0.02 * rate, name
    for part in ("gallery", "query"):
        ours, theirs = (load_embeddings(folder / "embeddings" / part) for folder in (copy, alone))
        # Matched: where two scores or overlaps are all but equal, order and number are chance.
        assert min(share_found(ours, theirs), share_found(theirs, ours)) > 0.95, part
    experiment.run(config, tmp_path / "scored", "evaluate", embeddings=str(copy / "embeddings"))
    result, again = (json.loads((folder / "evaluation.json").read_text()) for folder in (copy, tmp_path / "scored"))
    assert result["search"]["whole"]["all"]["2"] == again["search"]["whole"]["all"]["given"]


def share_found(some: Detections, others: Detections) -> float:
    """The share of `some` detections that are among the `others`."""
    ours, theirs = (
        np.column_stack([found.image_index, found.scores, found.boxes, found.embeddings]) for found in (some, others)
    )
    tolerance = np.repeat([0.5, 1e-5, 0.1, 1e-3], [1, 1, 4, some.embeddings.shape[1]])
    return (np.abs(ours[:, None] - theirs) < tolerance).all(axis=2).any(axis=1).mean()


def test_scoring_the_exported_folder_gives_the_same_numbers(finished, tmp_path):
    config, workdir = finished
    experiment.run(config, tmp_path, "evaluate", embeddings=str(workdir / "embeddings"))
    given = json.loads((tmp_path / "evaluation.json").read_text())
    model = json.loads((workdir / "evaluation.json").read_text())
    assert given["search"]["whole"]["all"]["given"] == model["search"]["whole"]["all"]["2"]
    assert given["detection"]["given"] == model["detection"]["2"]
    assert given["settings"]["query_embedding"] == "given" and "as given" in (tmp_path / "report/table.txt").read_text()


def test_an_evaluation_that_finds_nobody_says_why(finished, tmp_path, capsys):
    config, workdir = finished
    shutil.copytree(workdir / "embeddings", tmp_path / "embeddings")
    scores = tmp_path / "embeddings/gallery/scores.npy"
    np.save(scores, np.load(scores) * np.float32(1e-6))
    experiment.run(config, tmp_path / "run", "evaluate", embeddings=str(tmp_path / "embeddings"))
    assert "nobody" in capsys.readouterr().out.lower() and "obody" in (tmp_path / "run/report/table.txt").read_text()


def test_search_by_query_number_and_by_image(finished, tmp_path):
    import cv2

    config, workdir = finished
    experiment.run(config, workdir, "search", query="1", top=3)
    answer = json.loads((workdir / "search/hits.json").read_text())
    similarities = [hit["similarity"] for hit in answer["hits"]]
    assert len(similarities) == 3 and similarities == sorted(similarities, reverse=True)
    assert answer["query"]["image"] not in {hit["image"] for hit in answer["hits"]}
    assert (workdir / "search/hits.png").stat().st_size > 1000

    image = tmp_path / "my photo ü.png"
    cv2.imencode(".png", np.full((120, 200, 3), 90, np.uint8))[1].tofile(image)
    experiment.run(config, workdir, "search", query=f"{image}:10,20,60,110", top=2)
    assert len(json.loads((workdir / "search/hits.json").read_text())["hits"]) == 2


def test_export_writes_the_trained_predictor(finished, monkeypatch, capsys):
    """What the files hold is in tests/inference/test_export.py; here it is of the right model, sizes and steps."""
    config, workdir = finished
    monkeypatch.setattr(modes, "write_onnx", lambda path, predictor: path.write_bytes(b"onnx"))
    monkeypatch.setattr(experiment, "open_datasets", None)  # no data is needed
    experiment.run(config, workdir, "export")
    exported = jax.export.deserialize((workdir / "export/predictor.stablehlo").read_bytes())
    assert [shape.shape[1:] for shape in exported.in_avals] == [(96, 160, 3), (2,), (3, 12, 4 + 32), (4,), ()]
    assert "predictor.onnx: 2 denoising steps" in capsys.readouterr().out


def test_keys_that_are_not_those_of_training_are_told(finished, monkeypatch, capsys):
    config, workdir = finished
    monkeypatch.setattr(modes, "export_predictor", lambda *_: None)
    for scale in (2.0, 3.0):
        other = config.copy_and_resolve_references()
        other.update({"diffusion": {"box_snr_scale": scale}, "model": {"backbone_weights": "elsewhere.npz"}})
        experiment.run(other, workdir, "export")
    told = f"note: config.diffusion.box_snr_scale is 3.0 now, and 2.0 in {workdir / 'config.json'}: the model was made"
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(notes) == 1 and notes[0].startswith(told)


def test_a_search_imports_neither_what_builds_datasets_nor_what_trains(finished, tmp_path):
    """Half of the time of a search is imports."""
    _, workdir = finished
    heavy = {"tensorflow_datasets", "orbax", "grain", "matplotlib", "scipy.optimize", "tensorboardX", "faiss"}
    code = (
        "import json, sys; from pathlib import Path; from psdiff_jax import experiment; run = Path(sys.argv[1]);"
        "experiment.run(json.loads((run / 'config.json').read_text()), run, 'search', query='1', top=3);"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(json.loads((run / "search/hits.json").read_text())["hits"]) == 3


def test_the_python_interface_finds_what_the_program_finds(finished):
    """The gallery's detections, and a query's embedding, from the images alone."""
    config, workdir = finished
    dataset = open_dataset(config.data)
    search = PersonSearch.load(workdir)
    gallery = load_embeddings(workdir / "embeddings/gallery")
    load, queries = image_loader(dataset), dataset.queries()
    image = load(gallery.images[0])  # the noise of image 0
    found, rows = search.detect(image), gallery.image_index == 0
    np.testing.assert_allclose(found.scores, gallery.scores[rows], atol=1e-5)
    np.testing.assert_allclose(found.boxes, gallery.boxes[rows], atol=1e-2)
    np.testing.assert_allclose(found.embeddings, gallery.embeddings[rows], atol=1e-4)
    own = search.embed(load(queries.image_names[0]), queries.boxes[0])
    assert own.shape == (32,) and np.linalg.norm(own) == pytest.approx(1, abs=1e-5)
    embedder, _ = load_embedder(from_values(config), workdir)
    batch = next(iter(eval_batches(dataset, "query", embedder.data, batch_size=embedder.options.batch_size)))
    batch["image_index"][:] = 0  # its noise, too
    np.testing.assert_allclose(own, embedder.predict(batch, (2,), gt_box=True)[2].embeddings[0, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda search, image: search.detect(image.astype(np.float32)), r"image is float32 \[96, 160, 3\]: give uint8"),
        (lambda search, image: search.embed(image, (10, 10, 5, 20)), r"box \[10.0, 10.0, 5.0, 20.0\] does not lie in"),
        (lambda search, image: search.embed(image, (10, 10, 500, 20)), "160x96 pixels"),
        (lambda search, image: PersonSearch.load("nowhere"), "config.json is missing: name the --workdir of a run"),
        (lambda search, image: PersonSearch(search.config, None, 0), "steps is 0: give a number .* from 1 to 1000"),
        (lambda search, image: search.track([], TrackingOptions(cold_steps=1001)), "steps is 1001"),
    ],
)
def test_wrong_calls_of_the_python_interface_are_one_line(finished, call, message):
    with pytest.raises(InputError, match=message):
        call(PersonSearch.load(finished[1]), np.zeros((96, 160, 3), np.uint8))


def test_a_search_makes_embeddings_of_another_number_of_steps_or_model_again(finished, tmp_path, capsys):
    config, workdir = finished
    shutil.copytree(workdir, tmp_path / "run")
    again = "are of another model, number of steps or dataset: making them again"
    config = config.copy_and_resolve_references()
    config.evaluate.steps = (1,)
    for made in (True, False):
        experiment.run(config, tmp_path / "run", "search", query="1")
        assert (again in capsys.readouterr().err) == made
    assert json.loads((tmp_path / "run/search/hits.json").read_text())["denoising_steps"] == 1
    scores = np.load(tmp_path / "run/embeddings/gallery/scores.npy")
    config.seed = 1  # other noise
    experiment.run(config, tmp_path / "run", "search", query="1")
    assert again in capsys.readouterr().err
    assert not np.array_equal(np.load(tmp_path / "run/embeddings/gallery/scores.npy"), scores)


def test_views_with_other_targets_are_made_anew(finished, tmp_path):
    config, workdir = finished
    config = config.copy_and_resolve_references()
    config.train.update({"views": 1, "frozen": ("backbone",)})
    options, dataset, folder = from_values(config), open_dataset(config.data), workdir / "teacher"
    model = build_model(options, folder / "teacher.npz")
    targets = open_targets(options.teacher, dataset, folder, embedding_dim=32, seed=options.seed, fit=None)
    before, after = (
        modes.features(options, tmp_path, dataset, model, each).batch([0], [0])["embeddings"]
        for each in (targets, targets.map(np.negative, "turned round"))
    )
    assert before.any()
    np.testing.assert_array_equal(after, -before)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("nowhere.jpg:1,2,3,4", "no image"),
        ("99", "a number below 3"),
        ("nobody", "nor a query of"),
    ],
)
def test_a_wrong_query_is_one_line(finished, query, message):
    config, workdir = finished
    with pytest.raises(InputError, match=message) as caught:
        experiment.run(config, workdir, "search", query=query)
    assert "\n" not in str(caught.value)


def test_a_query_embedding_is_that_of_its_ground_truth_box(finished):
    """Held boxes come back as given, in pixels of the original image."""
    config, workdir = finished

    queries = open_dataset(config.data).queries()
    found = load_embeddings(workdir / "embeddings/query")
    np.testing.assert_allclose(found.boxes, queries.boxes, atol=1e-3)
    assert [found.images[i] for i in found.image_index] == list(queries.image_names)


def test_detected_queries_are_detections(finished, tmp_path):
    from psdiff_jax.api import load_embedder
    from psdiff_jax.inference.embed_split import embed_gallery, embed_queries

    config, workdir = finished
    detected = config.copy_and_resolve_references()
    detected.evaluate.query = "detected"
    embedder, _ = load_embedder(from_values(detected), workdir)
    dataset = open_dataset(detected.data)
    query, gallery = (each(embedder, dataset, tmp_path)[2] for each in (embed_queries, embed_gallery))
    for row, name in enumerate(dataset.queries().image_names):
        boxes = gallery.boxes[gallery.image_index == gallery.images.index(name)]
        assert np.abs(boxes - query.boxes[row]).max(axis=1).min() < 1e-2


def test_weights_of_another_model_are_refused(finished, tmp_path):
    config, workdir = finished
    other = config.copy_and_resolve_references()
    other.train.init_from = str(workdir / "model.npz")
    other.model.dim = 32
    with pytest.raises(InputError, match=r"model\.npz.*shape"):
        build_model(from_values(other), tmp_path)


def test_finished_weights_start_another_run(finished, tmp_path):
    config, workdir = finished
    other = config.copy_and_resolve_references()
    other.train.init_from = str(workdir / "model.npz")
    other.seed = 5
    from psdiff_jax.models.weights import flatten_state

    ours = flatten_state(nnx.state(build_model(from_values(other), tmp_path)))
    for name, value in read_npz(workdir / "model.npz").items():
        np.testing.assert_array_equal(np.asarray(ours[name]), value, err_msg=name)

    other.train.init_parts = ("backbone", "fpn")
    ours = flatten_state(nnx.state(build_model(from_values(other), tmp_path)))
    same = {name for name, value in read_npz(workdir / "model.npz").items() if np.array_equal(ours[name], value)}
    assert same >= {name for name in ours if not name.startswith("cdl")} and "cdl/0/embed/kernel" not in same


def test_a_config_names_another_backbone_and_its_weights(tmp_path):
    from psdiff_jax.models.backbones import BACKBONES
    from psdiff_jax.models.weights import flatten_state, save_npz

    config = tiny_config(tmp_path)
    config.model.backbone, config.model.backbone_weights = "swin_toy", str(tmp_path / "swin.npz")
    swin = nnx.state(BACKBONES["swin_toy"].make(rngs=nnx.Rngs(jax.random.key(7, impl="rbg"))))
    save_npz(tmp_path / "swin.npz", swin)
    loaded = flatten_state(nnx.state(build_model(from_values(config), tmp_path).backbone))
    for name, value in flatten_state(swin).items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)
    config.model.backbone = "tiny"
    with pytest.raises(InputError, match=r"swin\.npz"):
        build_model(from_values(config), tmp_path)


def run_script(name: str, *options: str) -> subprocess.CompletedProcess:
    script = Path(__file__).parents[1] / "scripts" / name
    return subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, timeout=300)


def test_shipping_a_checkpoint_halves_it_and_names_no_folder(finished, tmp_path):
    _, workdir = finished
    done = run_script("ship_checkpoint.py", "--workdir", str(workdir), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    whole, half = read_npz(workdir / "model.npz"), read_npz(tmp_path / "street_psdiff.npz")
    assert whole.keys() == half.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(half[name], value, rtol=2e-3, atol=1e-6, err_msg=name)
    assert str(workdir.parent) not in (tmp_path / "street_config.json").read_text()


def test_shipping_some_modules_alone(finished, tmp_path):
    _, workdir = finished
    options = ("ship_checkpoint.py", "--workdir", str(workdir), "--out", str(tmp_path), "--name", "parts", "--parts")
    assert run_script(*options, "fpn,cdl").returncode == 0
    assert {name.split("/")[0] for name in read_npz(tmp_path / "parts_psdiff.npz")} == {"fpn", "cdl"}
    assert "--parts=head: the model has backbone, cdl, fpn" in run_script(*options, "head").stderr


def parts_changed(before, after):
    """The modules whose weights differ between two files."""
    return {name.split("/")[0] for name in after if not np.allclose(before[name], after[name], rtol=1e-5)}


def test_a_readout_that_starts_in_closed_form(finished, tmp_path):
    """Zero steps leave the closed form; another run departs from it, trains the rest and finds people with it."""
    config, workdir = finished
    config = config.copy_and_resolve_references()
    config.teacher.folder = str(workdir / "teacher")
    config.model.update({"readout_rows": 2, "reid_backbone": "tiny", "downsample": 2})
    config.train.update({"closed_form": True, "steps": 0, "frozen": ("backbone", "reid_backbone")})
    experiment.run(config, tmp_path / "first", "train")
    first = read_npz(tmp_path / "first" / "model.npz")
    _, left = load_trained(from_values(config), tmp_path / "first", Path())  # without a step there is no checkpoint
    kernel = left.params["readout"]["linear"]["kernel"]
    np.testing.assert_array_equal(kernel[...], first["readout/linear/kernel"])
    assert first["readout/linear/kernel"].any() and not first["cdl/0/embedding_head/kernel"].any()
    alone = config.copy_and_resolve_references()
    alone.train.update({"objective": "readout", "steps": 2, "frozen": ("backbone", "fpn", "cdl")})
    experiment.run(alone, tmp_path / "alone", "train")
    assert parts_changed(first, read_npz(tmp_path / "alone" / "model.npz")) == {"reid_backbone", "readout"}
    config.train.update({"steps": 2, "readout_from": str(tmp_path / "first" / "model.npz"), "closed_form": False})
    config.train.scales.readout = 0.0
    experiment.run(config, tmp_path / "second", "train_and_evaluate")
    second = read_npz(tmp_path / "second" / "model.npz")
    assert parts_changed(first, second) == {"fpn", "cdl"}
    assert (tmp_path / "second" / "evaluation.json").is_file()
    config.model.update({"readout_rows": 0, "reid_backbone": ""})
    with pytest.raises(InputError, match=r"config\.train\.readout_from: the model has no row read-out"):
        experiment.run(config, tmp_path / "third", "train")


def test_diagnosis_has_a_row_for_each_time(finished, tmp_path):
    config, workdir = finished
    described = tmp_path / "described.py"
    described.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({json.dumps(json.dumps(config.to_dict()))!s}))\n"
    )
    done = run_script(
        "diagnose_sampler.py",
        "--config",
        str(described),
        "--workdir",
        str(workdir),
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "2",
        "--images",
        "4",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "out/diagnosis.json").read_text())
    assert result["times"] == [1000, 250]
    for kind in ("ground truth", "sampler"):
        assert all(0 <= v <= 1 for side in ("iou_in", "iou_out") for v in result[kind][side])
        assert len(result[kind]["cosine_out"]) == 2
    # Ground truths noised to a later t lie closer to the ground truths: that is what noise means.
    assert result["ground truth"]["iou_in"][1] > result["ground truth"]["iou_in"][0]
    assert (tmp_path / "out/diagnosis.png").stat().st_size > 1000


def test_another_dataset_by_config_alone(finished, tmp_path):
    """Trained on one street, evaluated on another: the model is the same, gallery and queries are the other's."""
    config, workdir = finished
    other = config.copy_and_resolve_references()
    other.train.init_from = str(workdir / "model.npz")
    other.evaluate.data.builder = {**config.data.builder.to_dict(), "camera_seed": 5, "seed": 5, "gallery_images": 7}
    experiment.run(other, tmp_path, "evaluate")
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["counts"]["gallery_images"] == 7
    assert result["settings"]["trained_on"] == result["settings"]["dataset"] == "synthetic_street"
    alone = other.copy_and_resolve_references()
    alone.data.builder = other.evaluate.data.builder
    alone.evaluate.data.builder = {}
    experiment.run(alone, tmp_path / "alone", "evaluate")
    same = json.loads((tmp_path / "alone" / "evaluation.json").read_text())
    assert same["search"] == result["search"] and same["detection"] == result["detection"]
    assert "trained_on" not in same["settings"]


def test_a_mistake_in_the_other_dataset_names_its_own_key(finished, tmp_path):
    other = finished[0].copy_and_resolve_references()
    other.evaluate.data.update({"name": "prw", "root": str(tmp_path / "nowhere")})
    with pytest.raises(InputError, match=r"^config\.evaluate\.data\.root: there is no folder"):
        experiment.run(other, tmp_path, "evaluate")


def test_several_seeds_give_mean_and_spread(finished, tmp_path):
    config, workdir = finished
    results = {}
    for name, seeds in (("3", (3,)), ("4", (4,)), ("both", (3, 4))):
        one = config.copy_and_resolve_references()
        one.train.init_from = str(workdir / "model.npz")
        one.evaluate.seeds = seeds
        experiment.run(one, tmp_path / name, "evaluate")
        results[name] = json.loads((tmp_path / name / "evaluation.json").read_text())
    first, second, both = (r["detection"]["2"]["all"] for r in results.values())
    values = np.asarray([first["recall"], second["recall"]])
    assert both["recall"] == pytest.approx(values.mean()) and both["sd"]["recall"] == pytest.approx(values.std(ddof=1))
    assert results["both"]["settings"]["seeds"] == [3, 4] and "sd" not in first
    ours, theirs = (load_embeddings(tmp_path / name / "embeddings/gallery") for name in ("both", "3"))
    np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)  # the first seed's are exported


def test_the_threshold_is_chosen_on_held_out_images(finished, tmp_path, monkeypatch, capsys):
    from psdiff_jax.evaluation.calibration import Calibration
    from psdiff_jax.inference import calibrate

    config, workdir = finished
    held = config.copy_and_resolve_references()
    held.train.init_from = str(workdir / "model.npz")
    held.data.held_out = 0.9
    experiment.run(held, tmp_path / "nobody", "evaluate")  # four training steps: no score reaches 0.05
    settings = json.loads((tmp_path / "nobody/evaluation.json").read_text())["settings"]
    assert settings["search_threshold"] == held.evaluate.search_threshold and "calibration" not in settings
    assert "2 steps: calibration: none of" in capsys.readouterr().err

    def at_scores_of_this_model(gallery, query, annotations, queries, **_):
        assert len(query) == len(queries) > 0 and set(gallery.images) == set(annotations.image_names)
        assert set(annotations.image_names) < set(train_names)
        return Calibration(0.01, (0.01, 0.02), (0.4, 0.3))

    train_names = open_dataset(config.data).annotations("train").image_names
    monkeypatch.setattr(calibrate, "choose_threshold", at_scores_of_this_model)
    experiment.run(held, tmp_path, "evaluate")
    settings = json.loads((tmp_path / "evaluation.json").read_text())["settings"]
    chosen = json.loads((tmp_path / "calibration.json").read_text())
    assert chosen == settings["calibration"] and set(chosen) == {"1", "2"}
    assert settings["search_threshold"] == {"1": 0.01, "2": 0.01}
    assert calibrate.calibrated_threshold(tmp_path, 2) == chosen["2"]["threshold"]
    assert calibrate.calibrated_threshold(tmp_path, 7) is calibrate.calibrated_threshold(workdir, 2) is None


def test_a_users_own_images_are_searched(finished, tmp_path):
    """A folder of images, some boxes in the gallery and nothing else: embed, evaluate and search."""
    import cv2

    config, workdir = finished
    root = tmp_path / "meine Fotos"
    root.mkdir()
    for i in range(3):
        cv2.imencode(".png", np.full((90, 120 + i, 3), 60 * i, np.uint8))[1].tofile(root / f"{i}.png")
    boxes = [{"id": 1, "image_id": 0, "bbox": [10, 10, 20, 50], "person_id": "x"}]
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(3)]
    (root / "gallery.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    own = config.copy_and_resolve_references()
    own.train.init_from = str(workdir / "model.npz")
    own.data.update({"name": "custom", "root": str(root)})
    own.data.builder = {}
    experiment.run(own, tmp_path / "run", "evaluate")
    result = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert result["counts"] == {"gallery_images": 3, "gallery_boxes": 1, "labelled_boxes": 1, "people": 1, "queries": 0}
    assert result["search"]["whole"]["all"]["2"]["queries"] == 0
    assert len(load_embeddings(tmp_path / "run/embeddings/gallery").images) == 3
    with pytest.raises(InputError, match=r"--query=1.png: neither .* nor a query of custom \(it has none\)"):
        experiment.run(own, tmp_path / "run", "search", query="1.png")
    experiment.run(own, tmp_path / "run", "search", query=f"{root / '1.png'}:10,10,30,60", top=2)
    assert (tmp_path / "run/search/hits.png").is_file()
    with pytest.raises(InputError, match="dataset custom has no images to train on"):
        experiment.run(own, tmp_path / "trained", "train")


def test_the_galleries_of_a_dataset_are_scored_by_config_alone(finished, tmp_path):
    """CUHK-SYSU's layout with its lists, searched by a model that was trained on drawn streets."""
    config, workdir = finished
    cuhk_tree.write_tree(tmp_path / "cuhk")
    other = config.copy_and_resolve_references()
    other.train.init_from = str(workdir / "model.npz")
    other.evaluate.data.update({"name": "cuhk_sysu", "root": str(tmp_path / "cuhk")})
    other.evaluate.protocols = ("listed:50,all", "listed:occlusion,low_resolution")
    other.evaluate.reranking = ("cws", "cbgm:10,3")
    experiment.run(other, tmp_path / "run", "evaluate")
    result = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert set(result["search"]) == {"listed", "listed+cws", "listed+cbgm:10,3"}
    sizes = result["search"]["listed"]
    assert list(sizes) == ["50", "all", "occlusion", "low_resolution"]
    assert sizes["50"]["1"]["queries"] == sizes["all"]["1"]["queries"] == 2
    assert sizes["all"]["1"]["gallery_images_mean"] > sizes["50"]["1"]["gallery_images_mean"]
    assert (tmp_path / "run/report/index.html").stat().st_size > 10_000
    other.evaluate.protocols = ("listed:200",)
    for mode in ("evaluate", "train_and_evaluate"):
        with pytest.raises(InputError, match="no gallery called '200'"):
            experiment.run(other, tmp_path / "refused", mode)
    assert sorted(path.name for path in (tmp_path / "refused").iterdir()) == [
        ".lock",
        "config.json",
    ]  # before anything else was done


def test_a_teacher_is_trained_and_scored_alone(finished, tmp_path):
    config, workdir = finished
    experiment.run(config, tmp_path, "evaluate_teacher")
    result = json.loads((tmp_path / "teacher_evaluation.json").read_text())
    assert result["embeddings"] == ["32-d"] and set(result["search"]) == {"whole", "sized"}
    assert (tmp_path / "teacher/teacher.npz").is_file() and not (tmp_path / "checkpoints").exists()
    ours, theirs = (read_npz(folder / "teacher/teacher.npz") for folder in (tmp_path, workdir))
    for name in theirs:  # the teacher that a training of PSDiff makes from the same config
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    narrow = config.copy_and_resolve_references()
    narrow.teacher.folder = str(tmp_path / "teacher")
    narrow.model.embedding_dim = 16
    experiment.run(narrow, tmp_path / "narrow", "evaluate_teacher")
    result = json.loads((tmp_path / "narrow/teacher_evaluation.json").read_text())
    assert result["embeddings"] == ["32-d", "16-d (PCA)"] and 0 < result["pca"]["variance"] <= 1


def test_a_published_checkpoint_is_a_teacher_by_config_alone(finished, tmp_path):
    """From the file that PyTorch saved to the targets that PSDiff would be trained on: those of the torch module."""
    torch = pytest.importorskip("torch")
    from .teacher import published_reid as published

    model = published.randomised(published.HHCL("gem", ibn=True))
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}},
        tmp_path / "hhcl.pth.tar",
    )
    config, _ = finished
    config = config.copy_and_resolve_references()
    config.teacher.update({"kind": "network", "file": str(tmp_path / "hhcl.pth.tar")})
    config.model.backbone_weights = ""
    experiment.run(config, tmp_path / "run", "evaluate_teacher")
    result = json.loads((tmp_path / "run/teacher_evaluation.json").read_text())
    assert result["embeddings"] == ["64-d", "32-d (PCA)"] and "IBN-a" in result["teacher"]["source"]

    dataset = open_dataset(config.data)
    crops = load_crops(dataset, "gallery", (256, 128))
    theirs = published.unit(model, crops.crops)
    folder = tmp_path / "run/teacher"
    np.testing.assert_allclose(np.load(folder / "unprojected/targets-gallery.npy"), theirs, atol=1e-4)

    experiment.run(config, tmp_path / "run", "train")
    narrow = np.load(folder / "targets-train.npy")  # what the step was taken towards
    train = published.unit(model, load_crops(dataset, "train", (256, 128)).crops)
    expected = normalize(PCA(32).fit_transform(train))
    np.testing.assert_allclose(narrow @ narrow.T, expected @ expected.T, atol=1e-3)
