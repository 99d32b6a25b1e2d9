"""The modes that look at people rather than train: evaluate, embed, search."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.data.records import PreparedDataset
from psdiff_jax.data.scenes import photograph_batch
from psdiff_jax.data.transforms import decode_image
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.embed import Embedder, embed_gallery, embed_queries, image_loader, make_embedder
from psdiff_jax.evaluation.embeddings import Detections, load_embeddings, save_embeddings
from psdiff_jax.evaluation.evaluate import evaluate, write_evaluation
from psdiff_jax.evaluation.figures import sizes_figure, steps_figure
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import make_protocols
from psdiff_jax.evaluation.ranking import rank
from psdiff_jax.evaluation.strips import ranking_sheet, search_picture, strip_of, telling_queries, write_picture
from psdiff_jax.evaluation.table import format_hits, format_table
from psdiff_jax.training.train import load_trained
from psdiff_jax.training.writer import MetricWriter


def trained_embedder(config: Any, workdir: Path) -> tuple[Embedder, int]:
    """(the model of the newest checkpoint, its training step)."""
    graphdef, state = load_trained(config, workdir)
    params = state.params if state.ema is None else state.ema
    return make_embedder(config, graphdef, params, state.rest), int(state.step)


def exported_steps(config: Any) -> int:
    """The number of denoising steps whose embeddings are written: the largest of config.evaluate.steps."""
    return max(config.evaluate.steps)


def embed(config: Any, workdir: Path, dataset: PreparedDataset) -> tuple[dict[int, tuple[Detections, Detections]], int]:
    """Embeds gallery and queries and writes `workdir/embeddings`: ({steps: (gallery, query)}, training step)."""
    embedder, step = trained_embedder(config, workdir)
    gallery = embed_gallery(embedder, dataset, config)
    query = embed_queries(embedder, dataset, config)
    if parallel.is_main_process():
        chosen = exported_steps(config)
        save_embeddings(workdir / "embeddings" / "gallery", gallery[chosen])
        save_embeddings(workdir / "embeddings" / "query", query[chosen])
        print(f"embeddings of {chosen} denoising steps: {workdir / 'embeddings'}", flush=True)
    return {k: (gallery[k], query[k]) for k in gallery}, step


def evaluate_model(config: Any, workdir: Path, dataset: PreparedDataset) -> dict[str, Any]:
    """Embeds, scores every protocol at every number of steps, and writes evaluation.json and the report."""
    detections, step = embed(config, workdir, dataset)
    result = score(config, dataset, detections, {"training_step": step}) if parallel.is_main_process() else {}
    if result:
        with MetricWriter(workdir) as writer:
            for kind, metrics in scalars(result).items():
                writer.scalars(step, kind, metrics)
        report(config, workdir, dataset, detections, result)
    return result


def evaluate_folder(config: Any, workdir: Path, dataset: PreparedDataset, folder: Path) -> dict[str, Any]:
    """Scores a folder of embeddings, whoever made them: no model is loaded."""
    detections = {"given": (load_embeddings(folder / "gallery"), load_embeddings(folder / "query"))}
    result = score(config, dataset, detections, {"embeddings": str(folder)})
    report(config, workdir, dataset, detections, result)
    return result


def score(config: Any, dataset: PreparedDataset, detections: dict[Any, tuple[Detections, Detections]],
          settings: dict[str, Any]) -> dict[str, Any]:
    """Every protocol of config.evaluate.protocols over every entry of `detections`: the content of evaluation.json."""
    annotations, queries = dataset.annotations("gallery"), dataset.queries()
    protocols = make_protocols(config.evaluate.protocols, annotations, queries, seed=config.seed)
    return evaluate(
        detections, annotations, queries, protocols, detection_threshold=config.evaluate.detection_threshold,
        search_threshold=config.evaluate.search_threshold, query_embedding=config.evaluate.query,
        settings={"dataset": dataset.name, "seed": config.seed, **settings},
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


def report(config: Any, workdir: Path, dataset: PreparedDataset, detections: dict[Any, tuple[Detections, Detections]],
           result: dict[str, Any]) -> None:
    """Writes evaluation.json and the figures of `workdir/report`, and prints the table."""
    write_evaluation(workdir / "evaluation.json", result)
    print(format_table(result), flush=True)
    folder = workdir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.txt").write_text(format_table(result) + "\n", encoding="utf-8")
    steps_figure(result, folder / "steps.png", title=dataset.name)
    sizes_figure(result, folder / "gallery_sizes.png", title=dataset.name)
    if config.evaluate.strips:
        annotations, queries = dataset.annotations("gallery"), dataset.queries()
        protocol = make_protocols(config.evaluate.protocols, annotations, queries, seed=config.seed)[-1]
        gallery, query = detections[list(detections)[-1]]
        found = score_search(gallery, query, annotations, queries, [protocol], config.evaluate.search_threshold,
                             keep=10)[0]
        strips = [strip_of(found, q, gallery, queries, name)
                  for name, q in telling_queries(found, queries, each=config.evaluate.strips)]
        write_picture(folder / "ranking.png", ranking_sheet(strips, image_loader(dataset)))
    print(f"report: {folder}", flush=True)


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
    hits = rank(embedding, gallery, top, config.evaluate.search_threshold, leave_out)
    out = workdir / "search"
    out.mkdir(parents=True, exist_ok=True)
    table = format_hits(hits)
    answer = {"query": {"image": name, "box": [float(v) for v in box]}, "denoising_steps": exported_steps(config),
              "hits": [hit.as_json() for hit in hits]}
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
            raise InputError(f"--query: box {box.tolist()} does not lie in {path} of {width}x{height} pixels; "
                             "give x1,y1,x2,y2")
        return image, box, path.name, ()
    queries = dataset.queries()
    if query.isdigit() and int(query) < len(queries.image_names):
        row = int(query)
    elif query in queries.image_names:
        row = queries.image_names.index(query)
    else:
        raise InputError(f"--query={query}: neither PHOTOGRAPH:x1,y1,x2,y2 nor a query of {dataset.name} (a number "
                         f"below {len(queries.image_names)}, or an image name such as {queries.image_names[0]})")
    name = queries.image_names[row]
    return image_loader(dataset)(name), queries.boxes[row], name, (name,)


def embed_box(config: Any, workdir: Path, image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Unit embedding [D] of the person in `box` (xyxy pixels of `image`), pinned, in the exported number of steps."""
    embedder, _ = trained_embedder(config, workdir)
    batch = photograph_batch(image, box, tuple(config.data.image_size), copies=embedder.mesh.size)
    people = embedder.predict(batch, (exported_steps(config),), pinned=True)[exported_steps(config)]
    return people.embeddings[0, 0]


