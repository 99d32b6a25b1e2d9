"""The modes that look at people rather than train: evaluate, embed, search."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax import config as cfg
from psdiff_jax import parallel
from psdiff_jax.data.detections import Detections, load_embeddings, save_embeddings
from psdiff_jax.data.held_out import HeldOut
from psdiff_jax.data.records import PreparedDataset
from psdiff_jax.data.scenes import image_batch
from psdiff_jax.data.transforms import decode_image
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.calibration import choose_threshold
from psdiff_jax.evaluation.curves import make_curves
from psdiff_jax.evaluation.evaluate import evaluate, threshold_at, write_evaluation
from psdiff_jax.evaluation.protocols import Protocol, make_protocols
from psdiff_jax.evaluation.seeds import mean_and_sd
from psdiff_jax.files import write_atomically
from psdiff_jax.inference.embed import Embedder, embed_gallery, embed_queries, image_loader, make_embedder
from psdiff_jax.inference.ranking import rank
from psdiff_jax.report.naming import gallery_name, steps_name
from psdiff_jax.report.rankings import search_picture, telling_strips, write_picture
from psdiff_jax.report.report import write_report
from psdiff_jax.report.table import format_hits, format_table
from psdiff_jax.training.train import load_trained
from psdiff_jax.training.writer import MetricWriter

CALIBRATION = "calibration.json"
StepDetections = dict[Any, tuple[Detections, Detections]]  # number of steps -> (gallery, query)


def trained_embedder(config: Any, workdir: Path) -> tuple[Embedder, int]:
    """(the model of the newest checkpoint, its training step)."""
    graphdef, state = load_trained(config, workdir)
    params = state.params if state.ema is None else state.ema
    return make_embedder(config, graphdef, params, state.rest), int(state.step)


def exported_steps(config: Any) -> int:
    """The number of denoising steps whose embeddings are written: the largest of config.evaluate.steps."""
    return max(config.evaluate.steps)


def embed_all(embedder: Embedder, dataset: PreparedDataset, config: Any) -> StepDetections:
    """{steps: (gallery, query)} of a dataset."""
    gallery, query = embed_gallery(embedder, dataset, config), embed_queries(embedder, dataset, config)
    return {k: (gallery[k], query[k]) for k in gallery}


def embed(config: Any, workdir: Path, dataset: PreparedDataset) -> None:
    """Embeds gallery and queries and writes `workdir/embeddings`."""
    export(config, workdir, embed_all(trained_embedder(config, workdir)[0], dataset, config))


def export(config: Any, workdir: Path, detections: StepDetections) -> None:
    """Writes `workdir/embeddings`, of `exported_steps`."""
    if parallel.is_main_process():
        chosen = exported_steps(config)
        for part, found in zip(("gallery", "query"), detections[chosen], strict=True):
            save_embeddings(workdir / "embeddings" / part, found)
        print(f"embeddings of {chosen} denoising steps: {workdir / 'embeddings'}", flush=True)


def evaluate_model(
    config: Any,
    workdir: Path,
    dataset: PreparedDataset,
    train_set: PreparedDataset | None = None,
) -> dict[str, Any]:
    """Embeds, scores every protocol at every number of steps, and writes evaluation.json and the report.

    dataset: whose gallery is searched; train_set: whose held-out photographs the search threshold is chosen on. With
    several config.evaluate.seeds the numbers are means; embeddings and pictures are those of the first.
    """
    embedder, step = trained_embedder(config, workdir)
    calibration = calibrate(config, workdir, embedder, train_set)
    settings: dict[str, Any] = {"training_step": step} | ({"calibration": calibration} if calibration else {})
    if cfg.transfers(config):
        settings["trained_on"] = config.data.name
    shown, results = None, []
    for seed in config.evaluate.seeds or (config.seed,):
        detections = embed_all(embedder.with_seed(seed), dataset, config)
        if shown is None:
            shown = detections
            export(config, workdir, shown)
        if parallel.is_main_process():
            results.append(score(config, dataset, detections, {**settings, "seed": seed}))
    if not results:
        return {}
    result = mean_and_sd(results)
    with MetricWriter(workdir) as writer:
        for kind, metrics in scalars(result).items():
            writer.scalars(step, kind, metrics)
    report(config, workdir, dataset, shown, result)
    return result


def calibrate(config: Any, workdir: Path, embedder: Embedder, train_set: PreparedDataset | None) -> dict[str, Any]:
    """{steps: Calibration as a dict} on the training photographs held out, also in `workdir/calibration.json`; {} when
    there are none, or config.evaluate.calibrate is off. Steps at which nobody is found again are told and left out."""
    if not (config.data.held_out and config.evaluate.calibrate and train_set):
        return {}
    held_out = HeldOut(train_set, config.data.held_out)
    annotations, queries = held_out.annotations("gallery"), held_out.queries()
    print(
        f"choosing the search threshold on {len(annotations)} held-out training photographs, {len(queries)} queries",
        file=sys.stderr,
        flush=True,
    )
    chosen = {}
    for k, found in embed_all(embedder, held_out, config).items():
        try:
            chosen[str(k)] = dataclasses.asdict(choose_threshold(*found, annotations, queries))
        except InputError as error:  # of a model that has hardly been trained: no reason to end here
            print(f"{k} steps: {error}; taking {config.evaluate.search_threshold}", file=sys.stderr, flush=True)
    if parallel.is_main_process():
        write_atomically(workdir / CALIBRATION, json.dumps(chosen, indent=2) + "\n")
    return chosen


def search_threshold(config: Any, workdir: Path) -> float:
    """The threshold for the exported number of steps: the one that evaluation chose, else the config's."""
    path = workdir / CALIBRATION
    if config.data.held_out and config.evaluate.calibrate and path.is_file():
        chosen = json.loads(path.read_text()).get(str(exported_steps(config)))
        if chosen:
            return float(chosen["threshold"])
    return config.evaluate.search_threshold


def evaluate_folder(config: Any, workdir: Path, dataset: PreparedDataset, folder: Path) -> dict[str, Any]:
    """Scores a folder of embeddings, whoever made them: no model is loaded."""
    detections = {"given": (load_embeddings(folder / "gallery"), load_embeddings(folder / "query"))}
    result = score(config, dataset, detections, {"embeddings": str(folder)})
    report(config, workdir, dataset, detections, result)
    return result


def score(
    config: Any,
    dataset: PreparedDataset,
    detections: StepDetections,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Every protocol of config.evaluate.protocols over every entry of `detections`: the content of evaluation.json.

    settings: what made the detections; its "calibration", if any, holds the search thresholds.
    """
    calibration, threshold = settings.get("calibration"), config.evaluate.search_threshold
    if calibration:
        threshold = {k: calibration.get(str(k), {}).get("threshold", threshold) for k in detections}
    annotations, queries = dataset.annotations("gallery"), dataset.queries()
    return evaluate(
        detections,
        annotations,
        queries,
        protocols_of(config, dataset),
        reranking=config.evaluate.reranking,
        detection_threshold=config.evaluate.detection_threshold,
        search_threshold=threshold,
        query_embedding=config.evaluate.query,
        settings={"dataset": dataset.title, "seed": config.seed, **settings},
    )


def protocols_of(config: Any, dataset: PreparedDataset) -> list[Protocol]:
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
    config: Any,
    workdir: Path,
    dataset: PreparedDataset,
    detections: StepDetections,
    result: dict[str, Any],
) -> None:
    """Writes evaluation.json and `workdir/report`, and prints the table."""
    write_evaluation(workdir / "evaluation.json", result)
    text = format_table(result)
    print(text, flush=True)
    folder, threshold = workdir / "report", result["settings"]["search_threshold"]
    write_atomically(folder / "table.txt", text + "\n")
    annotations, queries, protocols = dataset.annotations("gallery"), dataset.queries(), protocols_of(config, dataset)
    curves = make_curves(
        detections,
        annotations,
        queries,
        protocols,
        search_threshold=threshold,
        detection_threshold=config.evaluate.detection_threshold,
    )
    steps, shown = list(detections)[-1], protocols[-1]
    strips = telling_strips(
        *detections[steps], annotations, queries, shown, threshold_at(threshold, steps), each=config.evaluate.strips
    )
    strips_of = f"{gallery_name(shown.name, str(shown.size))}, {steps_name(str(steps))}"
    page = write_report(folder, result, curves, strips, image_loader(dataset), strips_of)
    print(f"report: {page}", flush=True)


def search(config: Any, workdir: Path, dataset: PreparedDataset, query: str, top: int) -> list[dict[str, Any]]:
    """Finds one person in the gallery and writes `workdir/search/{hits.json,hits.txt,hits.png}`.

    query: "PHOTOGRAPH:x1,y1,x2,y2" (a file of the user's, box in its pixels), or the number or image name of a query of
    the dataset. The gallery's embeddings are read from `workdir/embeddings` and made first where they are missing.
    """
    folder = workdir / "embeddings" / "gallery"
    if not (folder / "embeddings.npy").is_file():
        embed(config, workdir, dataset)
    gallery = load_embeddings(folder)
    image, box, name, leave_out = find_query(query, dataset)
    embedding = embed_box(config, workdir, image, box)
    hits = rank(embedding, gallery, top, search_threshold(config, workdir), leave_out)
    out = workdir / "search"
    out.mkdir(parents=True, exist_ok=True)
    table = format_hits(hits)
    answer = {
        "query": {"image": name, "box": [float(v) for v in box]},
        "denoising_steps": exported_steps(config),
        "hits": [hit.as_json() for hit in hits],
    }
    (out / "hits.json").write_text(json.dumps(answer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "hits.txt").write_text(table + "\n", encoding="utf-8")
    write_picture(out / "hits.png", search_picture(image, box, hits, image_loader(dataset), name=name))
    print(f"{table}\nsearch: {out}", flush=True)
    return answer["hits"]


def find_query(query: str, dataset: PreparedDataset) -> tuple[np.ndarray, np.ndarray, str, tuple[str, ...]]:
    """(photograph uint8 RGB, box [4] in its pixels, name, gallery photographs to leave out) of a --query."""
    given = re.fullmatch(r"(.+):([-\d.]+),([-\d.]+),([-\d.]+),([-\d.]+)", query)
    if given:
        path, box = Path(given[1]).expanduser(), np.asarray([float(v) for v in given.groups()[1:]], np.float32)
        if not path.is_file():
            raise InputError(f"--query: there is no photograph {path}")
        image = decode_image(path.read_bytes(), str(path))
        height, width = image.shape[:2]
        if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
            raise InputError(
                f"--query: box {box.tolist()} does not lie in {path} of {width}x{height} pixels; give x1,y1,x2,y2"
            )
        return image, box, path.name, ()
    queries = dataset.queries()
    if query.isdigit() and int(query) < len(queries.image_names):
        row = int(query)
    elif query in queries.image_names:
        row = queries.image_names.index(query)
    else:
        raise InputError(
            f"--query={query}: neither PHOTOGRAPH:x1,y1,x2,y2 nor a query of {dataset.name} (a number "
            f"below {len(queries.image_names)}, or an image name such as {queries.image_names[0]})"
        )
    name = queries.image_names[row]
    return image_loader(dataset)(name), queries.boxes[row], name, (name,)


def embed_box(config: Any, workdir: Path, image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Unit embedding [D] of the person in `box` (xyxy pixels of `image`), pinned, in the exported number of steps."""
    embedder, _ = trained_embedder(config, workdir)
    batch = image_batch(image, box, tuple(config.data.image_size), copies=embedder.mesh.size)
    people = embedder.predict(batch, (exported_steps(config),), pinned=True)[exported_steps(config)]
    return people.embeddings[0, 0]
