"""What `--mode` names: train, evaluate, export, evaluate_teacher; `gallery` and `folder` have embed and search."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.api import load_embedder
from psdiff_jax.config import Config
from psdiff_jax.data.detections import load_embeddings
from psdiff_jax.data.held_out import training_positions
from psdiff_jax.data.iterators import EvalBatches, Processes, reading_threads
from psdiff_jax.data.pipeline import eval_batches, stored_batches, train_batches, view_batches
from psdiff_jax.data.records import Images, PreparedDataset
from psdiff_jax.data.views import StoredViews
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.evaluate import Evaluation, threshold_at, write_evaluation
from psdiff_jax.evaluation.evaluate import evaluate as evaluate_detections
from psdiff_jax.evaluation.nobody import why_nobody
from psdiff_jax.evaluation.protocols import Protocol, make_protocols
from psdiff_jax.evaluation.seeds import mean_and_sd
from psdiff_jax.files import write_atomically
from psdiff_jax.gallery import StepDetections, write_embeddings
from psdiff_jax.inference.calibrate import calibrate
from psdiff_jax.inference.embed import image_loader
from psdiff_jax.inference.embed_split import embed_all, remove_shards, shards_folder
from psdiff_jax.inference.export import ExportedPredictor, write_onnx, write_stablehlo
from psdiff_jax.models.psdiff import PSDiff
from psdiff_jax.progress import progress
from psdiff_jax.report.naming import gallery_name, steps_name
from psdiff_jax.report.predictions import prediction_images
from psdiff_jax.report.rankings import example_queries
from psdiff_jax.report.run_page import write_report
from psdiff_jax.report.terminal import format_table
from psdiff_jax.teacher.evaluate import evaluate_teacher as score_teacher
from psdiff_jax.teacher.kinds import open_targets
from psdiff_jax.teacher.targets import Targets, arrays_hash, dataset_name
from psdiff_jax.training import train as training
from psdiff_jax.training.closed_form import start_readout
from psdiff_jax.training.frozen_features import features_folder, remove_features, store_features
from psdiff_jax.training.loop import fit
from psdiff_jax.training.writer import MetricWriter

FITTED_BOXES = 20_000  # ten for each of the 2,000 features of a box; a pass over a large dataset takes hours


def train(config: Config, workdir: Path, dataset: Images, gallery: PreparedDataset) -> None:
    """Makes the teacher's targets and trains PSDiff on `dataset`; TensorBoard shows predictions on `gallery`."""
    if not len(dataset.source("train")):
        raise InputError(
            f"config.data: dataset {dataset.name} has no images to train on; --mode evaluate, embed and search work, "
            "with the weights of another run (config.train.init_from)"
        )
    mesh, data, folder = parallel.make_mesh(), config.data, config.teacher_folder(workdir)
    training.training_mesh(config)  # what cannot be is refused before the teacher's targets are made
    if config.train.views and jax.process_count() > 1:
        raise InputError("config.train.views: features are kept by a single process; set it to 0 on a pod")
    with MetricWriter(workdir) as writer:
        targets = open_targets(
            config.teacher,
            dataset,
            folder,
            embedding_dim=config.model.embedding_dim,
            seed=config.seed,
            workers=reading_threads(data),
            fit=partial(fit, writer=writer, mesh=mesh, prefix="teacher"),
        )
        model = training.build_model(config, folder / "teacher.npz")
        processes = Processes(*parallel.place())
        given: dict[str, Any] = {"batch_size": config.train.batch_size, "seed": config.seed, "processes": processes}
        batches = train_batches(dataset, data, targets=targets, **given)
        if config.train.closed_form and not training.newest_step(workdir):
            closed_form(config, dataset, model, targets)
        if config.train.views and training.newest_step(workdir) < config.train.steps:
            batches = stored_batches(features(config, workdir, dataset, model, targets), data, **given)
        show = prediction_images(config, config.evaluate, data, gallery, model, writer)
        training.train(config, workdir, model, batches, writer, hooks=[(config.train.image_every, show)])
        parallel.act_on_sigterm()
        remove_features(workdir)


def features(config: Config, workdir: Path, dataset: Images, model: PSDiff, targets: Targets) -> StoredViews:
    """What the frozen backbones of `model` make of config.train.views views of the training images."""

    def batches(view: int) -> EvalBatches:
        size = parallel.whole_batch(config.evaluate.batch_size)
        return view_batches(dataset, config.data, view=view, batch_size=size, seed=config.seed, targets=targets)

    # Where images lie and how they are read does not change them.
    data = replace(config.data, root="", prepared_dir="", cache=False, threads=0, workers=0)
    made_from = [config.seed, repr(data), arrays_hash(targets.all("train")), dataset_name(dataset)]
    images = len(training_positions(dataset.annotations("train"), config.data.held_out))
    shared = config.train.views_folder
    folder = Path(shared).expanduser() if shared else features_folder(workdir)
    return store_features(folder, model, batches, images, config.train.views, made_from, shared=bool(shared))


def closed_form(config: Config, dataset: Images, model: PSDiff, targets: Targets) -> None:
    """Sets the row read-out of `model` to its closed form on `FITTED_BOXES` ground truths of images taken at random."""
    annotations = dataset.annotations("train")
    positions = np.random.default_rng(config.seed).permutation(training_positions(annotations, config.data.held_out))
    boxes = np.cumsum([len(annotations.boxes[position]) for position in positions])
    positions = positions[: np.searchsorted(boxes, FITTED_BOXES) + 1]
    batches = eval_batches(
        dataset,
        "train",
        config.data,
        batch_size=parallel.whole_batch(config.evaluate.batch_size),
        indices=positions,
        targets=targets,
        processes=Processes(*parallel.place()),
    )
    shown = progress(
        batches,
        "closed form",
        "images",
        len(positions),
        lambda batch: int(batch["valid"].sum()) * jax.process_count(),
        shown=parallel.is_main_process(),
    )
    start_readout(model, shown)


def evaluate(
    config: Config, workdir: Path, dataset: PreparedDataset, train_set: Images | None = None
) -> dict[str, Any]:
    """Embeds, scores every protocol at every number of steps, and writes evaluation.json and the report.

    dataset: whose gallery is searched; train_set: whose held-out images the search threshold is chosen on. With
    several config.evaluate.seeds the numbers are means; embeddings and figures are those of the first.
    """
    protocols = protocols_of(config, dataset)  # before anything is loaded: the dataset may not serve one of them
    embedder, step = load_embedder(config, workdir)
    calibration = calibrate(embedder, workdir, train_set)
    settings: dict[str, Any] = {"training_step": step} | ({"calibration": calibration} if calibration else {})
    if config.evaluate.data.is_given or config.data.also:
        settings["trained_on"] = config.data.trained_on
    shown, evaluations = {}, []
    for seed in config.evaluate.seeds or (config.seed,):
        seeded = embedder.with_seed(seed)
        detections = embed_all(seeded, dataset, shards_folder(workdir))
        if not shown:
            shown = detections
            write_embeddings(config, workdir, seeded, dataset, shown)
        if parallel.is_main_process():
            evaluations.append(score(config, dataset, protocols, detections, {**settings, "seed": seed}))
    if not evaluations:
        return {}
    result = mean_and_sd([evaluation.numbers for evaluation in evaluations])
    with MetricWriter(workdir) as writer:
        for kind, metrics in scalars(result).items():
            writer.scalars(step, kind, metrics)
    report(config, workdir, dataset, shown, evaluations[0], result)
    remove_shards(workdir)
    return result


def evaluate_folder(config: Config, workdir: Path, dataset: PreparedDataset, folder: Path) -> dict[str, Any]:
    """Scores a folder of embeddings, whoever made them: no model is loaded."""
    detections = {"given": (load_embeddings(folder / "gallery"), load_embeddings(folder / "query"))}
    settings = {"embeddings": str(folder)}
    evaluation = score(config, dataset, protocols_of(config, dataset), detections, settings, query_embedding="given")
    report(config, workdir, dataset, detections, evaluation, evaluation.numbers)
    return evaluation.numbers


def score(
    config: Config,
    dataset: PreparedDataset,
    protocols: Sequence[Protocol],
    detections: StepDetections,
    settings: dict[str, Any],
    query_embedding: str = "",
) -> Evaluation:
    """Every protocol over every entry of `detections`.

    settings: what made the detections; its "calibration", if any, holds the search thresholds. query_embedding: how the
    queries were embedded (`evaluate`); "": as config.evaluate.query says.
    """
    own = {"gt_box": "pin", "detected": "match"}[config.evaluate.query]  # evaluation.json's words
    calibration, threshold = settings.get("calibration"), config.evaluate.search_threshold
    if calibration:
        threshold = {k: calibration.get(str(k), {}).get("threshold", threshold) for k in detections}
    annotations, queries = dataset.annotations("gallery"), dataset.queries()
    return evaluate_detections(
        detections,
        annotations,
        queries,
        protocols,
        reranking=config.evaluate.reranking,
        detection_threshold=config.evaluate.detection_threshold,
        search_threshold=threshold,
        query_embedding=query_embedding or own,
        settings={"dataset": dataset.title, "seed": config.seed, **settings},
        progress=progress,
    )


def protocols_of(config: Config, dataset: PreparedDataset) -> list[Protocol]:
    """config.evaluate.protocols on this dataset."""
    return make_protocols(
        config.evaluate.protocols,
        dataset.annotations("gallery"),
        dataset.queries(),
        seed=config.seed,
        galleries=dataset.galleries,
    )


def scalars(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """evaluation.json as flat scalars for TensorBoard, by number of steps: {"steps_4": {"whole/all/mAP": ...}}."""
    flat: dict[str, dict[str, float]] = {}
    for k, kinds in result["detection"].items():
        into = flat.setdefault(f"evaluate/steps_{k}", {})
        into.update({f"detection/{name}": float(kinds["all"][name]) for name in ("AP", "recall")})
        for protocol, sizes in result["search"].items():
            for size, by_steps in sizes.items():
                into.update({f"{protocol}/{size}/{name}": float(by_steps[k][name]) for name in ("mAP", "top-1")})
    return flat


def report(
    config: Config,
    workdir: Path,
    dataset: PreparedDataset,
    detections: StepDetections,
    evaluation: Evaluation,
    result: dict[str, Any],
) -> None:
    """Writes evaluation.json and `workdir/report`, and prints the table.

    evaluation: of `detections`, for curves and figures; result: its numbers, or the means of several evaluations.
    """
    write_evaluation(workdir / "evaluation.json", result)
    text, steps = format_table(result), list(detections)[-1]
    thresholds = config.evaluate.detection_threshold, threshold_at(result["settings"]["search_threshold"], steps)
    if line := why_nobody(detections[steps][0], dataset.annotations("gallery"), *thresholds):
        text += f"\n{line}\n"
    print(text, flush=True)
    folder = workdir / "report"
    write_atomically(folder / "table.txt", text + "\n")
    examples, searched = [], ""
    if evaluation.ranked:
        protocol = evaluation.ranked.protocol
        examples = example_queries(
            evaluation.ranked, detections[steps][0], dataset.queries(), config.evaluate.example_queries
        )
        searched = f"{gallery_name(protocol.name, str(protocol.size))}, {steps_name(str(steps))}"
    page = write_report(folder, result, evaluation.curves, examples, image_loader(dataset), searched)
    print(f"report: {page}", flush=True)


def evaluate_teacher(
    config: Config, workdir: Path, dataset: PreparedDataset, train_set: Images | None
) -> dict[str, Any]:
    """Scores the teacher alone; one that is trained here is trained first."""
    return score_teacher(
        config.teacher,
        workdir,
        dataset,
        protocols_of(config, dataset),
        folder=config.teacher_folder(workdir),
        embedding_dim=config.model.embedding_dim,
        train_set=train_set,
        seed=config.seed,
        workers=reading_threads(config.data),
    )


def export_predictor(config: Config, workdir: Path) -> None:
    """Writes `workdir/export/{predictor.stablehlo,predictor.onnx}`, for `config.exported_steps`."""
    graphdef, state = training.load_trained(config, workdir, config.teacher_folder(workdir) / "teacher.npz")
    variables = parallel.fetch(nnx.merge_state(training.weights(state), state.rest))
    image_size = config.evaluation_data.image_size
    predictor = ExportedPredictor(graphdef, variables, config.sampler, config.exported_steps, image_size)
    if not parallel.is_main_process():
        return
    for name, write in (("predictor.stablehlo", write_stablehlo), ("predictor.onnx", write_onnx)):
        path = workdir / "export" / name
        write(path, predictor)
        print(f"{path}: {config.exported_steps} denoising steps, {path.stat().st_size / 2**20:.1f} MiB", flush=True)
