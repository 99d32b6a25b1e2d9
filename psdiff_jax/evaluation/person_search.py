"""Person search: mAP and top-k (rank-k in re-ID reports) by the field's de facto rules.

The detections of a query's gallery are ranked by falling similarity. In an image that shows the person, the first
whose IoU with the ground-truth box reaches min(0.5, w h / ((w+10)(h+10))) is a true positive; every other detection is
a false positive. AP is the average precision over all of them times the share of the gallery's positives (images that
show the person) in which the person was found.

Ties: AP treats equal similarities as one threshold; CMC and rankings put false positives first, so that embeddings that
do not discriminate score nothing.

An official list (CUHK-SYSU's TestG50 to TestG4000) brings its own ground truth. Every place in it that shows the
person counts as a positive; the detections of an image that it repeats are ranked once, by the ground truth of the
first place. `reranking.py` has the scorings beside the plain similarity.

Legend: Q queries, K kept detections, M images, P true positives of a query, R ranks kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.evaluation.matches import Matches, matches_by_annotations, matches_by_list
from psdiff_jax.evaluation.protocols import Protocol, query_images
from psdiff_jax.evaluation.reranking import PLAIN, Reranking, Scorings
from psdiff_jax.evaluation.similarity import OUTSIDE, Kept, Progress, kept_detections, similarities, unreported

if TYPE_CHECKING:
    from psdiff_jax.evaluation.curves import SearchCurve

TOP_K = (1, 5, 10)
FEW_LEVELS = 100  # up to so many true positives counting is faster than sorting


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """All queries under one protocol and scoring.

    evaluated: bool [Q], whether the query belongs to the protocol; the numbers of others are 0, without any hit.
    average_precision: float64 [Q]; 0 where nothing was found.
    first_rank: int64 [Q], rank from 1 of the first true positive; 0 where nothing was found.
    positives, found: int64 [Q], images of the gallery that show the person, and those in which the person was found.
    gallery_images: int64 [Q], images in the gallery.
    hits: int64 [Q,R], the best detections as rows of the gallery's Detections; -1 where there are fewer than R.
    similarities: float32 [Q,R] of the hits; true_positive: bool [Q,R].
    """

    protocol: Protocol
    reranking: Reranking
    evaluated: np.ndarray
    average_precision: np.ndarray
    first_rank: np.ndarray
    positives: np.ndarray
    found: np.ndarray
    gallery_images: np.ndarray
    hits: np.ndarray
    similarities: np.ndarray
    true_positive: np.ndarray

    @classmethod
    def empty(cls, protocol: Protocol, reranking: Reranking, queries: int, keep: int) -> SearchResult:
        evaluated = np.zeros(queries, bool)
        evaluated[protocol.queries(queries)] = True
        rank, positives, found, images = np.zeros((4, queries), np.int64)
        hits = np.full((queries, keep), -1, np.int64)
        similarity, true_positive = np.zeros(hits.shape, np.float32), np.zeros(hits.shape, bool)
        numbers = np.zeros(queries), rank, positives, found, images
        return cls(protocol, reranking, evaluated, *numbers, hits, similarity, true_positive)

    @property
    def name(self) -> str:
        """The protocol's name, followed by the scoring's: "whole", "whole+cws"."""
        return self.reranking.of(self.protocol.name)

    def summary(self) -> dict[str, float | int]:
        """mAP and top-k as fractions, and how many queries they are means of (see
        `Protocol.excludes_queries_without_positives`)."""
        without_positives = self.evaluated & (self.positives == 0)
        excludes = self.protocol.excludes_queries_without_positives
        numbers = self._means(self.evaluated & ~without_positives if excludes else self.evaluated)
        if excludes:
            numbers["mAP_all_queries"] = self._means(self.evaluated)["mAP"]
        return {
            **numbers,
            "queries_total": int(self.evaluated.sum()),
            "queries_without_truth": int(without_positives.sum()),
            "queries_without_hit": int((self.evaluated & (self.found == 0) & ~without_positives).sum()),
            "recall": float(self.found.sum() / max(self.positives.sum(), 1)),
            "gallery_images_mean": float(self.gallery_images.sum() / max(self.evaluated.sum(), 1)),
        }

    def _means(self, counted_Q: np.ndarray) -> dict[str, float | int]:
        queries = int(counted_Q.sum())
        rank = self.first_rank[counted_Q]
        numbers: dict[str, float | int] = {"mAP": float(self.average_precision[counted_Q].sum() / max(queries, 1))}
        for k in TOP_K:
            numbers[f"top-{k}"] = float(((rank > 0) & (rank <= k)).sum() / max(queries, 1))
        return {**numbers, "queries": queries}

    def add(self, query: int, ranking: Ranking) -> None:
        """Fills the query's row."""
        self.gallery_images[query], self.positives[query] = ranking.gallery_images, ranking.positives
        self.found[query] = len(ranking.true_P)
        if len(ranking.true_P):
            precision, self.first_rank[query] = precision_and_rank(ranking.true_from, ranking.all_from)
            self.average_precision[query] = precision * len(ranking.true_P) / ranking.positives
        keep = min(self.hits.shape[1], len(ranking.similarity_K))
        if keep:
            rows, is_true = ranking.best(keep)
            self.hits[query, : len(rows)], self.true_positive[query, : len(rows)] = rows, is_true
            self.similarities[query, : len(rows)] = ranking.similarity_K[rows]


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The gallery of one query under one protocol and scoring.

    similarity_K: float32 [K], `OUTSIDE` for detections of other images; values: the same, of the gallery's own
    detections at least. true_P: int64 [P], the true positives. positives: places of the gallery that show the person.
    true_from, all_from: int64 [P], how many true positives, and how many of all detections, are at least as similar as
    each true positive, by rising similarity.
    """

    similarity_K: np.ndarray
    values: np.ndarray
    true_P: np.ndarray
    positives: int
    gallery_images: int
    true_from: np.ndarray
    all_from: np.ndarray

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(int64, bool): up to `count` detections by falling similarity, of equals false positives first and then by
        row; whether each is a true positive."""
        least = np.partition(self.similarity_K, -count)[-count]
        rows = np.flatnonzero(self.similarity_K >= max(least, np.finfo(np.float32).min))  # none outside the gallery
        is_true = np.isin(rows, self.true_P)
        order = np.lexsort((rows, is_true, -self.similarity_K[rows]))[:count]
        return rows[order], is_true[order]


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
    *,
    keep_for: Protocol | None = None,
    curves: Mapping[Protocol, SearchCurve] | None = None,
    progress: Progress = unreported,
) -> list[SearchResult]:
    """Scores every query under every protocol, plainly and by each of `rerankings`, in one pass over the similarities.

    Memory: one block of similarities (`similarity.AT_ONCE`) beside the embeddings.

    Args:
      query: one row a query in the order of `queries`.
      threshold: gallery detections of a lower score are dropped; a query that is left without any scores 0.
      keep: R of the SearchResults; with `keep_for` of this protocol's plain one alone.
      curves: where the plain rankings of some protocols are added to.
      progress: is told of the queries under the name `label`.

    Returns:
      The results of all protocols under the plain scoring, then of all under the first of `rerankings`, ...

    Raises:
      InputError: embeddings and dataset do not belong together.
    """
    kept = kept_detections(gallery, query, annotations, queries, threshold)
    curves, scorings = curves or {}, (PLAIN, *rerankings)
    results = [
        SearchResult.empty(p, r, len(queries), keep * (keep_for is None or (p is keep_for and r is PLAIN)))
        for r in scorings
        for p in protocols
    ]
    by_person = matches_by_annotations(annotations, np.unique(queries.person_ids), kept.boxes, kept.by_image)
    by_list = _matches_of_lists(protocols, kept)
    own_Q = query_images(annotations, queries)
    for q, similarity_K in similarities(query.embeddings, kept.embeddings, label, progress):
        scored_by = Scorings(similarity_K, kept, query.boxes[q], own_Q[q], scorings)
        for i, protocol in enumerate(protocols):
            if not results[i].evaluated[q]:
                continue
            matches = by_person[int(queries.person_ids[q])] if protocol.official is None else by_list[i][q]
            gallery_G = protocol.gallery(q)
            inside_M, positives = _inside(gallery_G, matches, kept.images)
            for result, (scored_K, values) in zip(results[i :: len(protocols)], scored_by.of(inside_M), strict=True):
                true_P = true_positives(scored_K, matches)
                counts = counts_from(values, scored_K[true_P])
                ranking = Ranking(scored_K, values, true_P, positives, len(gallery_G), *counts)
                result.add(q, ranking)
                if protocol in curves and result.reranking is PLAIN:
                    curves[protocol].add(ranking)
    for result in results:
        filled = result.hits >= 0
        result.hits[filled] = kept.numbers[result.hits[filled]]
    return results


def _matches_of_lists(protocols: Sequence[Protocol], kept: Kept) -> dict[int, dict[int, Matches]]:
    """Index of a protocol with an official list -> query -> matches; a list that several share is read once."""
    read: dict[int, dict[int, Matches]] = {}
    by_list = {}
    for i, protocol in enumerate(protocols):
        if protocol.official is not None:
            if id(protocol.official) not in read:
                read[id(protocol.official)] = matches_by_list(protocol.official, kept.boxes, kept.by_image)
            by_list[i] = read[id(protocol.official)]
    return by_list


def _inside(gallery_G: np.ndarray, matches: Matches, images: int) -> tuple[np.ndarray, int]:
    """(bool [M], which images are in the gallery; how many of its places show the person)."""
    inside_M = np.zeros(images, bool)
    inside_M[gallery_G] = True
    if matches.places is not None:
        return inside_M, matches.places
    shows_M = np.zeros(images, bool)
    shows_M[matches.images] = True
    return inside_M, int(np.count_nonzero(shows_M[gallery_G]))


def true_positives(similarity_K: np.ndarray, matches: Matches) -> np.ndarray:
    """int64 [P]: of each image that shows the person the candidate of highest similarity, the first of equals; none
    where all are `OUTSIDE`."""
    similarity_C = similarity_K[matches.candidates]
    use = similarity_C > OUTSIDE
    rows, images = matches.candidates[use], matches.candidate_images[use]  # by image, then by row
    order = np.lexsort((-similarity_C[use], images))
    first = np.ones(len(order), bool)
    first[1:] = images[1:] != images[:-1]
    return rows[order[first]]


def counts_from(similarity_K: np.ndarray, true_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(true positives, all detections) at least as similar as each true positive, int64 [P] each, by rising similarity.

    similarity_K: of all detections; true_P: of the true positives among them. AP and curves need no more than this.
    """
    levels = np.sort(true_P)
    true_from = len(levels) - levels.searchsorted(levels)
    if len(levels) <= FEW_LEVELS:
        return true_from, np.array([np.count_nonzero(similarity_K >= level) for level in levels], np.int64)
    above = np.sort(similarity_K[similarity_K >= levels[0]])
    return true_from, len(above) - above.searchsorted(levels)


def precision_and_rank(true_from: np.ndarray, all_from: np.ndarray) -> tuple[float, int]:
    """(average precision, rank of the first true positive) from `counts_from` with one true positive at least.

    AP = sum over the true positives, of similarity v each, of (#true >= v / #all >= v) / #true, which is sklearn's sum
    with the terms of no recall left out.
    """
    return float((true_from / all_from).sum() / len(true_from)), int(all_from[-1] - true_from[-1] + 1)
