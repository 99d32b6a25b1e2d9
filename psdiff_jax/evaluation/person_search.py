"""How well a person is found again: mAP and top-k by the de facto rules of person search.

For each query, over the photographs of its gallery: detections are walked by falling similarity, and in a photograph
that shows the person the first whose IoU with the truth box reaches min(0.5, w h / ((w+10)(h+10))) is right; every
other detection is wrong. AP is the average precision over all those detections times the share of true photographs in
which the person was found.

Equal similarities: AP treats them as one threshold; in top-k and rankings a wrong detection stands before a right
one, so that embeddings that tell nobody apart score nothing.

Legend: Q queries, K kept detections, M photographs, R ranks kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.detection import box_iou, image_rows, rows_by_image
from psdiff_jax.evaluation.embeddings import Detections
from psdiff_jax.evaluation.protocols import Protocol

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations, Queries

TOP_K = (1, 5, 10)
SIMILARITIES_AT_ONCE = 2**25  # float32 entries of one block of the similarity matrix: 128 MiB


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What became of every query under one protocol.

    average_precision: float64 [Q]; 0 where nothing was found.
    first_rank: int64 [Q], rank from 1 of the first right detection; 0 where nothing was found.
    truths, found: int64 [Q], true photographs in the gallery, and those of them in which the person was found.
    gallery_images: int64 [Q], photographs in the gallery.
    hits: int64 [Q,R], the best detections as rows of the gallery's Detections; -1 where there are fewer than R.
    similarities: float32 [Q,R] of the hits; right: bool [Q,R].
    """

    protocol: Protocol
    average_precision: np.ndarray
    first_rank: np.ndarray
    truths: np.ndarray
    found: np.ndarray
    gallery_images: np.ndarray
    hits: np.ndarray
    similarities: np.ndarray
    right: np.ndarray

    def summary(self) -> dict[str, float | int]:
        """mAP and top-k as fractions, and the counts that say over what they are means (see
        `Protocol.leaves_out_hopeless`)."""
        hopeless = self.truths == 0
        numbers = self._means(~hopeless if self.protocol.leaves_out_hopeless else np.ones_like(hopeless))
        if self.protocol.leaves_out_hopeless:
            numbers["mAP_all_queries"] = self._means(np.ones_like(hopeless))["mAP"]
        return {
            **numbers,
            "queries_total": len(hopeless),
            "queries_without_truth": int(hopeless.sum()),
            "queries_without_hit": int(((self.found == 0) & ~hopeless).sum()),
            "recall": float(self.found.sum() / max(self.truths.sum(), 1)),
            "gallery_images_mean": float(self.gallery_images.mean()) if len(hopeless) else 0.0,
        }

    def _means(self, counted_Q: np.ndarray) -> dict[str, float | int]:
        queries = int(counted_Q.sum())
        rank = self.first_rank[counted_Q]
        numbers = {"mAP": float(self.average_precision[counted_Q].sum() / max(queries, 1))}
        for k in TOP_K:
            numbers[f"top-{k}"] = float(((rank > 0) & (rank <= k)).sum() / max(queries, 1))
        return {**numbers, "queries": queries}


@dataclasses.dataclass(frozen=True)
class _Person:
    """Where a person stands: photographs [P], and the detections that could count as him, with the photograph of
    each."""

    images: np.ndarray
    candidates: np.ndarray
    candidate_images: np.ndarray


def score_search(
    gallery: Detections,
    query: Detections,
    annotations: Annotations,
    queries: Queries,
    protocols: Sequence[Protocol],
    threshold: float = 0.5,
    keep: int = 0,
) -> list[SearchResult]:
    """Scores every query under every protocol in one pass over the similarities.

    Gallery detections with a score below `threshold` are dropped; a query that is left without any scores 0. `query`
    holds one row a query in the order of `queries`. `keep` = R of the SearchResults. Memory: one block of
    similarities (`SIMILARITIES_AT_ONCE`) beside the embeddings. InputError when embeddings and dataset do not belong
    together.
    """
    check_queries(query, queries)
    if gallery.embeddings.shape[1] != query.embeddings.shape[1]:
        raise InputError(
            f"gallery embeddings are {gallery.embeddings.shape[1]} wide, query embeddings {query.embeddings.shape[1]}: "
            "not of one model"
        )
    kept_K = np.flatnonzero(np.asarray(gallery.scores) >= threshold)
    image_K = image_rows(gallery, annotations.image_names)[kept_K]
    people = _locate(np.asarray(gallery.boxes)[kept_K], image_K, annotations, np.unique(queries.person_ids))
    results = [_empty_result(protocol, len(queries.image_names), keep) for protocol in protocols]
    for q, similarity_K in _similarities(gallery, query, kept_K):
        person = people[int(queries.person_ids[q])]
        for result in results:
            _score_query(q, similarity_K, image_K, person, result, len(annotations.image_names))
    for result in results:
        filled = result.hits >= 0
        result.hits[filled] = kept_K[result.hits[filled]]
    return results


def check_queries(query: Detections, queries: Queries) -> None:
    """Raises InputError unless row i of `query` is query i of the dataset."""
    if query.person_id is None:
        raise InputError("query embeddings: person_id.npy is missing")
    if len(query) != len(queries.image_names):
        raise InputError(f"query embeddings: {len(query)} rows, but the dataset has {len(queries.image_names)} queries")
    for q, (name, person) in enumerate(zip(queries.image_names, queries.person_ids, strict=True)):
        given = query.images[query.image_index[q]], int(query.person_id[q])
        if given != (name, int(person)):
            raise InputError(
                f"query embeddings: row {q} is person {given[1]} in {given[0]!r}, but query {q} of the dataset is "
                f"person {person} in {name!r}"
            )


def truth_threshold(box: np.ndarray) -> float:
    """IoU from which a detection counts as the truth xyxy `box`: 0.5, less for boxes under about 24 pixels."""
    width, height = float(box[2]) - float(box[0]), float(box[3]) - float(box[1])
    return min(0.5, width * height / ((width + 10.0) * (height + 10.0)))


def _locate(
    boxes_K4: np.ndarray, image_K: np.ndarray, annotations: Annotations, people: np.ndarray
) -> dict[int, _Person]:
    """For each of `people`: the photographs and the detections that reach the IoU threshold there."""
    stands: dict[int, list[int]] = {int(p): [] for p in people}
    candidates: dict[int, list[np.ndarray]] = {int(p): [np.zeros(0, np.int64)] for p in people}
    members = rows_by_image(image_K, len(annotations.image_names))
    for image, (truth, person_ids) in enumerate(zip(annotations.boxes, annotations.person_ids, strict=True)):
        ids, first = np.unique(person_ids, return_index=True)  # of a person standing there twice the first box counts
        wanted = np.isin(ids, people) & (ids >= 0)
        if not wanted.any():
            continue
        iou_NK = box_iou(truth[first[wanted]], boxes_K4[members[image]])
        for person, box, iou_K in zip(ids[wanted].tolist(), truth[first[wanted]], iou_NK, strict=True):
            stands[person].append(image)
            reached = (iou_K >= truth_threshold(box)) & (iou_K > 0)  # an empty truth box, threshold 0, is met by nobody
            candidates[person].append(members[image][reached])
    located = {}
    for person, images in stands.items():
        rows = np.concatenate(candidates[person])
        located[person] = _Person(np.array(images, np.int64), rows, image_K[rows])
    return located


def _similarities(gallery: Detections, query: Detections, kept_K: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (query number, float32 [K] similarities), computed in blocks of queries."""
    embeddings_KD = np.asarray(gallery.embeddings)
    if len(kept_K) < len(embeddings_KD):
        embeddings_KD = embeddings_KD[kept_K]
    block = max(1, SIMILARITIES_AT_ONCE // max(len(kept_K), 1))
    for start in range(0, len(query), block):
        similarity_QK = np.asarray(query.embeddings[start : start + block]) @ embeddings_KD.T
        yield from enumerate(similarity_QK, start)


def _empty_result(protocol: Protocol, queries: int, keep: int) -> SearchResult:
    counts = [np.zeros(queries, np.int64) for _ in range(4)]
    hits = np.full((queries, keep), -1, np.int64)
    return SearchResult(
        protocol, np.zeros(queries), *counts, hits, np.zeros(hits.shape, np.float32), np.zeros(hits.shape, bool)
    )


def _score_query(
    q: int, similarity_K: np.ndarray, image_K: np.ndarray, person: _Person, result: SearchResult, images: int
) -> None:
    """Fills row q of `result`."""
    gallery_G = result.protocol.gallery(q)
    inside_M, shows_M = np.zeros(images, bool), np.zeros(images, bool)
    inside_M[gallery_G], shows_M[person.images] = True, True
    result.gallery_images[q] = len(gallery_G)
    result.truths[q] = shows_M[gallery_G].sum()  # a photograph listed twice counts twice, but its detections once
    similarity_K = np.where(inside_M[image_K], similarity_K, -np.inf)
    right = _right_detections(similarity_K, person, inside_M)
    result.found[q] = len(right)
    if len(right):
        precision, result.first_rank[q] = _precision_of(similarity_K, similarity_K[right])
        result.average_precision[q] = precision * len(right) / result.truths[q]
    _keep_best(q, similarity_K, right, result)


def _right_detections(similarity_K: np.ndarray, person: _Person, inside_M: np.ndarray) -> np.ndarray:
    """The detection of highest similarity among the candidates of each true photograph in the gallery (the first of
    equals)."""
    use = inside_M[person.candidate_images]
    rows, images = person.candidates[use], person.candidate_images[use]
    order = np.lexsort((rows, -similarity_K[rows], images))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(images[order]) != 0
    return rows[order[first]]


def _precision_of(similarity_K: np.ndarray, right_P: np.ndarray) -> tuple[float, int]:
    """(average precision, rank of the first right one) from all similarities and those of the right detections.

    Only the ranks of right detections matter: AP = sum over their distinct similarities v of
    (#right = v / #right) (#right >= v / #all >= v), which is sklearn's sum with the terms of no recall left out.
    """
    levels, at_level = np.unique(right_P, return_counts=True)
    above = np.sort(similarity_K[similarity_K >= levels[0]])
    all_from = len(above) - np.searchsorted(above, levels)
    right_from = np.cumsum(at_level[::-1])[::-1]
    precision = np.sum(at_level * right_from / all_from) / len(right_P)
    return float(precision), int(all_from[-1] - at_level[-1] + 1)


def _keep_best(q: int, similarity_K: np.ndarray, right: np.ndarray, result: SearchResult) -> None:
    keep = min(result.hits.shape[1], len(similarity_K))
    if not keep:
        return
    least = np.partition(similarity_K, -keep)[-keep]
    rows = np.flatnonzero(similarity_K >= max(least, np.finfo(np.float32).min))  # not those outside the gallery
    is_right = np.isin(rows, right)
    order = np.lexsort((rows, is_right, -similarity_K[rows]))[:keep]
    result.hits[q, : len(order)] = rows[order]
    result.similarities[q, : len(order)] = similarity_K[rows[order]]
    result.right[q, : len(order)] = is_right[order]
