"""How good a teacher is, before anything is trained on it: `--mode evaluate_teacher`.

A teacher of kind "trained" is trained first where its folder does not hold it yet, so that one command trains a teacher
and evaluates it:

    python -m psdiff_jax.main --config configs/cuhk03_teacher.py ... --mode evaluate_teacher

Two ways of scoring, both on the ground-truth boxes of gallery and queries. Re-ID style ranks crops against crops
(`evaluation.reid`). Person-search style gives these boxes to the ordinary evaluator: what PSDiff would reach with
perfect boxes and perfectly denoised embeddings. Where the teacher is wider than config.model.embedding_dim both are
also scored after the PCA, and the difference is what the narrower embedding costs.

`workdir/teacher_evaluation.json` holds fractions from 0 to 1, by embedding ("2048-d", "256-d (PCA)"):

    {"teacher": {kind, source, dim, ...}, "dataset": title, "counts": {...}, "embeddings": [...],
     "protocols": {name: description}, "reid": {rule: {embedding: {mAP, top-1, ..., queries, gallery}}},
     "search": {protocol: {gallery size: {embedding: {mAP, top-1, ...}}}}, "pca": {variance, mAP_loss} or null}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.data.detections import Detections
from psdiff_jax.data.records import Images, PreparedDataset
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.evaluate import count
from psdiff_jax.evaluation.person_search import score_search
from psdiff_jax.evaluation.protocols import Protocol
from psdiff_jax.evaluation.reid import cross_camera_queries, reid_scores
from psdiff_jax.files import write_atomically
from psdiff_jax.progress import progress
from psdiff_jax.report.naming import gallery_name, in_words
from psdiff_jax.report.tables import SEARCH, Cell, Table, amount, as_text, rate
from psdiff_jax.teacher.kinds import open_targets, open_teacher
from psdiff_jax.teacher.options import TeacherOptions
from psdiff_jax.teacher.projection import FILE, Projection
from psdiff_jax.teacher.targets import Targets, teacher_detections
from psdiff_jax.training.loop import fit
from psdiff_jax.training.writer import MetricWriter

RESULT = "teacher_evaluation.json"
SPLITS = ("gallery", "query")
RULES = {
    "cross-camera": "the person's crops from the query's camera are left out (Market-1501)",
    "any camera": "only the crops of the query's own image are left out",
}


def evaluate_teacher(
    options: TeacherOptions,
    workdir: Path,
    dataset: PreparedDataset,
    protocols: Sequence[Protocol],
    *,
    folder: Path,
    embedding_dim: int,
    train_set: Images | None = None,
    seed: int = 0,
    workers: int = 1,
) -> dict[str, Any]:
    """Trains the teacher if need be, scores it, prints a table and writes `workdir/teacher_evaluation.json`.

    Args:
      dataset: whose gallery and queries are scored. train_set: where the teacher is trained and the PCA fitted; None:
        the same one.
      folder: where teacher and targets are kept. embedding_dim: PSDiff's, scored after a PCA where it is another.
      workers: threads that decode images.

    Returns:
      the file's content; empty on all processes but the first.
    """
    if not len(dataset.queries()):
        raise InputError(f"config.data: dataset {dataset.name} has no queries to evaluate a teacher on")
    train_set = train_set or dataset
    with MetricWriter(workdir) as writer:
        run = partial(fit, writer=writer, mesh=parallel.make_mesh(), prefix="teacher")
        opened = open_teacher(options, train_set, folder, seed=seed, workers=workers, fit=run)
    open_width = partial(
        open_targets, options, dataset, folder, SPLITS, train_set=train_set, teacher=opened, workers=workers
    )
    own = open_width(embedding_dim=None)
    teacher = {"kind": options.kind, "source": own.source, "dim": own.dim}
    variants = {f"{own.dim}-d": own}
    if own.dim != embedding_dim:
        variants[f"{embedding_dim}-d (PCA)"] = open_width(embedding_dim=embedding_dim)
        teacher["pca_variance"] = Projection.load(folder / FILE).kept
    if not parallel.is_main_process():
        return {}
    counts = count(dataset.annotations("gallery"), dataset.queries())
    result = {"teacher": teacher, "dataset": dataset.title, "counts": counts, "embeddings": list(variants)}
    result |= score_targets(variants, dataset, protocols)
    result["pca"] = _loss(result, teacher)
    write_atomically(workdir / RESULT, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(format_teacher(result), flush=True)
    return result


def score_targets(
    variants: Mapping[str, Targets], dataset: PreparedDataset, protocols: Sequence[Protocol]
) -> dict[str, Any]:
    """{"protocols", "reid", "search"} of some embeddings of one dataset's gallery and queries."""
    annotations, queries = dataset.annotations("gallery"), dataset.queries()
    found: dict[str, Any] = {"protocols": {p.name: p.description for p in protocols}, "reid": {}, "search": {}}
    for name, targets in variants.items():
        gallery, query = (teacher_detections(targets, dataset, split) for split in SPLITS)
        for rule, scores in crop_scores(gallery, query, dataset).items():
            found["reid"].setdefault(rule, {})[name] = scores
        for search in score_search(
            gallery, query, annotations, queries, protocols, 0.0, label=f"search, {name}", progress=progress
        ):
            sizes = found["search"].setdefault(search.name, {})
            sizes.setdefault(str(search.protocol.size), {})[name] = search.summary()
    return found


def crop_scores(gallery: Detections, query: Detections, dataset: PreparedDataset) -> dict[str, dict[str, float | int]]:
    """Re-ID scores of crops by each of `RULES`; the first only where two cameras have seen a query's identity."""
    annotations, queries = dataset.annotations("gallery"), dataset.queries()
    position = {name: i for i, name in enumerate(annotations.image_names)}
    own_Q = np.asarray([position[name] for name in queries.image_names], np.int64)
    person_ids = np.concatenate([np.zeros(0, np.int64), *annotations.person_ids, queries.person_ids])
    images = np.concatenate([gallery.image_index, own_Q])
    cameras = np.asarray(annotations.cameras)[images]
    embeddings = np.concatenate([gallery.embeddings, query.embeddings])
    rows = {"gallery": np.arange(len(gallery)), "queries": len(gallery) + np.arange(len(query))}
    scored = {}
    across = person_ids[cross_camera_queries(person_ids, cameras)]  # seen by two cameras: in videos there may be none
    if np.isin(queries.person_ids, across).any():
        scored["cross-camera"] = reid_scores(embeddings, person_ids, cameras, images=images, **rows)
    return scored | {"any camera": reid_scores(embeddings, person_ids, images=images, **rows)}


def _loss(result: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the PCA costs, as fractions of mAP: {"variance": share kept, "mAP_loss": {way of scoring: difference}}."""
    if "pca_variance" not in teacher:
        return None
    own, narrow = result["embeddings"]
    scored = {name: by[own]["mAP"] - by[narrow]["mAP"] for name, by in _scored(result)}
    return {"variance": teacher["pca_variance"], "mAP_loss": scored}


def _scored(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Mapping[str, float]]]]:
    """[(way of scoring in words, {embedding: numbers})] of everything in the result."""
    scored = [(f"re-ID, {rule}", by) for rule, by in result["reid"].items()]
    for protocol, sizes in result["search"].items():
        scored += [(f"search, {gallery_name(protocol, size)}", by) for size, by in sizes.items()]
    return scored


def format_teacher(result: Mapping[str, Any]) -> str:
    """The numbers as a table in percent; above it teacher and dataset, below it what the numbers are."""
    teacher = result["teacher"]
    rows = [
        [Cell(way), Cell(name), *(rate(numbers, key) for key in SEARCH), amount(numbers, "queries")]
        for way, by in _scored(result)
        for name, numbers in by.items()
    ]
    table = as_text(Table(["", "embedding", *SEARCH, "queries"], rows, labels=2))
    counts = " · ".join(f"{number:,} {in_words(key)}" for key, number in result["counts"].items())
    notes = [f"re-ID, {rule}: {RULES[rule]}" for rule in result["reid"]]
    notes += ["search: the ordinary evaluator on the ground-truth boxes; PSDiff with perfect boxes and embeddings"]
    if result["pca"]:
        lost = "; ".join(f"{name} {100 * loss:+.1f}" for name, loss in result["pca"]["mAP_loss"].items())
        notes.append(f"PCA keeps {100 * result['pca']['variance']:.1f}% of the variance; mAP lost: {lost}")
    made = f"teacher ({teacher['kind']}): {teacher['source']}, {teacher['dim']}-d"
    return "\n".join([made, f"{result['dataset']}: {counts}", "", table, "", *notes])
