"""How well a person is found again: mAP and top-k by the de facto rules of person search.

For each query, over the photographs of its gallery: detections are walked by falling similarity, and in a photograph
that shows the person the first whose IoU with the truth box reaches min(0.5, w h / ((w+10)(h+10))) is right; every
other detection is wrong. AP is the average precision over all those detections times the share of true photographs in
which the person was found.

Equal similarities: AP treats them as one threshold; in top-k and rankings a wrong detection stands before a right
one, so that embeddings that tell nobody apart score nothing.

An official list (CUHK-SYSU's TestG50 to TestG4000) says itself where the person stands; every place of it that shows
him counts, also of a photograph that stands there again, whose detections are passed over then: its first place
decides. `reranking.py` has the scorings beside the plain similarity.

Legend: Q queries, K kept detections, M photographs, R ranks kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.evaluation.matches import Standing, stand_by_annotations, stand_by_list
from psdiff_jax.evaluation.protocols import Protocol, query_images
from psdiff_jax.evaluation.reranking import PLAIN, Reranking, Scorings
from psdiff_jax.evaluation.similarity import NOWHERE, Kept, kept_detections, similarities

if TYPE_CHECKING:
    from psdiff_jax.data.records import Annotations, Queries

TOP_K = (1, 5, 10)
FEW_LEVELS = 100  # up to so many right detections counting is faster than sorting


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What became of every query under one protocol and scoring.

    asked: bool [Q], whether the query belongs to the protocol; for others every number below is 0 and no hit is kept.
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
    asked: np.ndarray
    reranking: Reranking = PLAIN

    @property
    def name(self) -> str:
        """The protocol's name, with the scoring's behind it: "whole", "whole+cws"."""
        return self.reranking.of(self.protocol.name)

    def summary(self) -> dict[str, float | int]:
        """mAP and top-k as fractions, and the counts that say over what they are means (see
        `Protocol.leaves_out_hopeless`)."""
        hopeless = self.asked & (self.truths == 0)
        numbers = self._means(self.asked & ~hopeless if self.protocol.leaves_out_hopeless else self.asked)
        if self.protocol.leaves_out_hopeless:
            numbers["mAP_all_queries"] = self._means(self.asked)["mAP"]
        return {
            **numbers,
            "queries_total": int(self.asked.sum()),
            "queries_without_truth": int(hopeless.sum()),
            "queries_without_hit": int((self.asked & (self.found == 0) & ~hopeless).sum()),
            "recall": float(self.found.sum() / max(self.truths.sum(), 1)),
            "gallery_images_mean": float(self.gallery_images.sum() / max(self.asked.sum(), 1)),
        }

    def _means(self, counted_Q: np.ndarray) -> dict[str, float | int]:
        queries = int(counted_Q.sum())
        rank = self.first_rank[counted_Q]
        numbers = {"mAP": float(self.average_precision[counted_Q].sum() / max(queries, 1))}
        for k in TOP_K:
            numbers[f"top-{k}"] = float(((rank > 0) & (rank <= k)).sum() / max(queries, 1))
        return {**numbers, "queries": queries}


def score_search(
    gallery: Detections,
    query: Detections,
    annotations: Annotations,
    queries: Queries,
    protocols: Sequence[Protocol],
    threshold: float = 0.5,
    keep: int = 0,
    rerankings: Sequence[Reranking] = (),
    label: str = "search",
) -> list[SearchResult]:
    """Scores every query under every protocol, plainly and by each of `rerankings`, in one pass over the similarities.

    Returns the results of all protocols under the plain scoring, then of all under the first of `rerankings`, ...
    Gallery detections with a score below `threshold` are dropped; a query that is left without any scores 0. `query`
    holds one row a query in the order of `queries`. `keep` = R of the SearchResults. Memory: one block of
    similarities (`similarity.AT_ONCE`) beside the embeddings. A pass of more than ten seconds says on stderr how far
    it is, under the name `label`. InputError when embeddings and dataset do not belong together.
    """
    kept = kept_detections(gallery, query, annotations, queries, threshold)
    scorings = (PLAIN, *rerankings)
    results = [_empty_result(p, r, len(queries.image_names), keep) for r in scorings for p in protocols]
    people = stand_by_annotations(annotations, np.unique(queries.person_ids), kept.boxes, kept.rows)
    by_list = _lists(protocols, kept)
    own_Q = query_images(annotations, queries)
    for q, similarity_K in similarities(kept, query, label):
        scored_by = Scorings(similarity_K, kept, query.boxes[q], own_Q[q], scorings)
        for i, protocol in enumerate(protocols):
            if not results[i].asked[q]:
                continue
            person = people[int(queries.person_ids[q])] if protocol.official is None else by_list[i][q]
            gallery_G = protocol.gallery(q)
            inside_M, truths = inside_gallery(gallery_G, person, kept.images)
            for result, (scored_K, values) in zip(results[i :: len(protocols)], scored_by.of(inside_M), strict=True):
                result.gallery_images[q], result.truths[q] = len(gallery_G), truths
                right = _fill(q, scored_K, values, person, result)
                _keep_best(q, scored_K, right, result)
    for result in results:
        filled = result.hits >= 0
        result.hits[filled] = kept.numbers[result.hits[filled]]
    return results


def _lists(protocols: Sequence[Protocol], kept: Kept) -> dict[int, dict[int, Standing]]:
    """Number of a listed protocol -> query -> where the person stands; lists that are the same one are read once."""
    read: dict[int, dict[int, Standing]] = {}
    by_list = {}
    for i, protocol in enumerate(protocols):
        if protocol.official is not None:
            if id(protocol.official) not in read:
                read[id(protocol.official)] = stand_by_list(protocol.official, kept.boxes, kept.rows)
            by_list[i] = read[id(protocol.official)]
    return by_list


def inside_gallery(gallery_G: np.ndarray, person: Standing, images: int) -> tuple[np.ndarray, int]:
    """(bool [M], which photographs are in the gallery; how many of its places show the person)."""
    inside_M = np.zeros(images, bool)
    inside_M[gallery_G] = True
    if person.places is not None:
        return inside_M, person.places
    shows_M = np.zeros(images, bool)
    shows_M[person.images] = True
    return inside_M, int(np.count_nonzero(shows_M[gallery_G]))


def _empty_result(protocol: Protocol, reranking: Reranking, queries: int, keep: int) -> SearchResult:
    counts = [np.zeros(queries, np.int64) for _ in range(4)]
    hits = np.full((queries, keep), -1, np.int64)
    asked = np.zeros(queries, bool)
    asked[protocol.queries(queries)] = True
    similarities, right = np.zeros(hits.shape, np.float32), np.zeros(hits.shape, bool)
    return SearchResult(protocol, np.zeros(queries), *counts, hits, similarities, right, asked, reranking)


def _fill(q: int, similarity_K: np.ndarray, values: np.ndarray, person: Standing, result: SearchResult) -> np.ndarray:
    """Fills row q of `result`, whose truths are counted; returns the right detections."""
    right = right_detections(similarity_K, person)
    result.found[q] = len(right)
    if len(right):
        precision, result.first_rank[q] = precision_of(values, similarity_K[right])
        result.average_precision[q] = precision * len(right) / result.truths[q]
    return right


def right_detections(similarity_K: np.ndarray, person: Standing) -> np.ndarray:
    """int64 [P]: of each true photograph the candidate of highest similarity, the first of equals; those of `NOWHERE`
    are none."""
    similarity_C = similarity_K[person.candidates]
    use = similarity_C > NOWHERE
    rows, images = person.candidates[use], person.candidate_images[use]  # by photograph, then by row
    order = np.lexsort((-similarity_C[use], images))
    first = np.ones(len(order), bool)
    first[1:] = images[1:] != images[:-1]
    return rows[order[first]]


def precision_of(similarity_K: np.ndarray, right_P: np.ndarray) -> tuple[float, int]:
    """(average precision, rank of the first right one) from all similarities and those of the right detections.

    Only the ranks of right detections matter: AP = sum over the right ones, of similarity v each, of
    (#right >= v / #all >= v) / #right, which is sklearn's sum with the terms of no recall left out.
    """
    levels = np.sort(right_P)
    right_from = len(levels) - levels.searchsorted(levels)
    all_from = _at_least(similarity_K, levels)
    return float((right_from / all_from).sum() / len(levels)), int(all_from[-1] - right_from[-1] + 1)


def _at_least(similarity_K: np.ndarray, levels_L: np.ndarray) -> np.ndarray:
    """int64 [L]: how many similarities reach each of the rising levels."""
    if len(levels_L) <= FEW_LEVELS:
        return np.array([np.count_nonzero(similarity_K >= level) for level in levels_L])
    above = np.sort(similarity_K[similarity_K >= levels_L[0]])
    return len(above) - above.searchsorted(levels_L)


def _keep_best(q: int, similarity_K: np.ndarray, right: np.ndarray, result: SearchResult) -> None:
    keep = min(result.hits.shape[1], len(similarity_K))
    if not keep:
        return
    least = np.partition(similarity_K, -keep)[-keep]
    rows = np.flatnonzero(similarity_K >= max(least, np.finfo(np.float32).min))  # none outside the gallery
    is_right = np.isin(rows, right)
    order = np.lexsort((rows, is_right, -similarity_K[rows]))[:keep]
    result.hits[q, : len(order)] = rows[order]
    result.similarities[q, : len(order)] = similarity_K[rows[order]]
    result.right[q, : len(order)] = is_right[order]
