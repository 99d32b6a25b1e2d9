"""Re-identification of cropped persons: single query, mAP and CMC.

The rule of Market-1501 (Zheng et al. 2015): crops of the query's person from the query's camera neither help nor hurt,
they are left out; all others stay. Average precision is the standard one (scikit-learn's), CMC at rank k is the share
of queries with a true match among the k most similar. Ties: false matches come first.

Legend: N crops, Q queries, K crops of the gallery, D embedding.
"""

from __future__ import annotations

import hashlib

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.person_search import TOP_K, counts_from, precision_and_rank
from psdiff_jax.evaluation.similarity import similarities


def reid_scores(
    embeddings: np.ndarray,
    person_ids: np.ndarray,
    cameras: np.ndarray | None = None,
    *,
    queries: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    images: np.ndarray | None = None,
) -> dict[str, float | int]:
    """mAP and top-1, 5 and 10 as fractions, and the counts that they are of.

    A query's gallery is `gallery` without the query itself and without other crops of the same person from the same
    camera (`cameras`) or the same image (`images`). A query without a true match in its gallery is counted in
    `queries_without_truth` and is in no mean, as in Market-1501's evaluation.

    Args:
      embeddings: [N,D] unit norm. person_ids: int [N], -1 unlabelled. cameras: int [N], -1 unknown; None: all are.
      queries: int [Q], crops to look for; None: all labelled ones. gallery: int [K], crops to search in; None: all.
      images: int [N], which image a crop is from; None: each is from another.

    Raises:
      InputError: arrays that do not fit together, a query without identity, or no query with a true match.
    """
    ids = np.asarray(person_ids)
    queries = np.flatnonzero(ids >= 0) if queries is None else np.asarray(queries)
    gallery = np.arange(len(ids)) if gallery is None else np.asarray(gallery)
    places = [np.asarray(place) for place in (cameras, images) if place is not None]
    if any(len(array) != len(ids) for array in (embeddings, *places)):
        raise InputError("re-ID scores: embeddings, person ids, cameras and images differ in number")
    if (ids[queries] < 0).any():
        raise InputError("re-ID scores: a query has no person id; choose labelled crops")
    precision, rank = np.zeros(len(queries)), np.zeros(len(queries), np.int64)
    for i, similarity_K in similarities(np.asarray(embeddings)[queries], np.asarray(embeddings)[gallery]):
        query = queries[i]
        same_person = ids[gallery] == ids[query]
        left_out = gallery == query
        for place in places:
            left_out |= same_person & (place[gallery] == place[query]) & (place[query] >= 0)
        true = same_person & ~left_out
        if true.any():
            counts = counts_from(similarity_K[~left_out], similarity_K[true])
            precision[i], rank[i] = precision_and_rank(*counts)
    return _means(precision, rank, len(gallery))


def _means(precision_Q: np.ndarray, rank_Q: np.ndarray, gallery: int) -> dict[str, float | int]:
    counted = rank_Q > 0
    if not counted.any():
        raise InputError("re-ID scores: no query has a true match in its gallery; other cameras or images are needed")
    scores: dict[str, float | int] = {"mAP": float(precision_Q[counted].mean())}
    for k in TOP_K:
        scores[f"top-{k}"] = float((rank_Q[counted] <= k).mean())
    return {**scores, "queries": int(counted.sum()), "queries_without_truth": int((~counted).sum()), "gallery": gallery}


def hold_out(person_ids: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """int [count] rising: identities to test on, which are then not trained on. The same on every machine.

    Raises:
      InputError: there are no more than `count` identities.
    """
    identities = np.unique(person_ids[np.asarray(person_ids) >= 0])
    if not 0 < count < len(identities):
        raise InputError(f"{count} identities cannot be held out of {len(identities)}")
    drawn = sorted(identities.tolist(), key=lambda pid: hashlib.sha256(f"{seed}/{pid}".encode()).digest())
    return np.sort(np.asarray(drawn[:count]))


def cross_camera_queries(person_ids: np.ndarray, cameras: np.ndarray, each: int = 1) -> np.ndarray:
    """int [Q] rising: the first `each` crops from every camera of every identity seen by two cameras or more."""
    ids, cameras = np.asarray(person_ids), np.asarray(cameras)
    chosen: list[int] = []
    for pid in np.unique(ids[ids >= 0]):
        rows = np.flatnonzero((ids == pid) & (cameras >= 0))
        seen_by = np.unique(cameras[rows])
        if len(seen_by) > 1:
            chosen += [row for camera in seen_by for row in rows[cameras[rows] == camera][:each]]
    return np.sort(np.asarray(chosen, np.int64))
