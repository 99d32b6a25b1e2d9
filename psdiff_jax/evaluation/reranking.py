"""Scorings beside the plain one: confidence-weighted similarity (CWS) and context bipartite graph matching (CBGM).

Both are of Li and Miao, "Sequential End-to-end Network for Efficient Person Search" (AAAI 2021); the rules follow its
published evaluator. CWS multiplies a gallery embedding by its detection score, so a similarity becomes score x cosine;
query and context embeddings are never weighted. CBGM, for each image that holds one of the K1 highest similarities of
a query's gallery: the query and the K2 - 1 persons beside it in its own image are matched with the image's detections,
so that the sum of similarities is highest; the detection matched to the query gets the highest similarity of all
matched pairs. Without a match for the query (fewer detections than persons) nothing changes.

Context persons are the detections of the query's image above the search threshold, best score first, without those
whose IoU with the query's box is over 0.5: the original adds the query's box with score 1 before a non-maximum
suppression at 0.5. Of equal similarities at the K1 border (the original leaves them to an unstable sort) and of equal
scores the lower row of the Detections goes first; of equal matchings SciPy's decides, which is the same each time.

Legend: K kept detections, D embedding width, M images, J persons in the query's image, R rows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.similarity import OUTSIDE, Kept
from psdiff_jax.ops.boxes import box_iou

CONTEXT_IOU = 0.5
LEADERS = 1024  # most similar detections, in which all protocols of a query look for the leaders first
SMALL_GALLERY = 3  # a gallery of less than one image in so many is scored by its detections, others by a mask


@dataclasses.dataclass(frozen=True)
class Reranking:
    """A scoring: weighted by detection score or not; CBGM's `top` = K1 and `persons` = K2, 0 without it.

    name: as in the config; "" is the plain scoring.
    """

    name: str = ""
    weighted: bool = False
    top: int = 0
    persons: int = 0

    def of(self, protocol: str) -> str:
        """The name of `protocol` under this scoring, as in "whole+cws"."""
        return f"{protocol}+{self.name}" if self.name else protocol

    def describe(self) -> str:
        """One phrase for evaluation.json."""
        weighted = ["gallery embeddings multiplied by their detection scores"] if self.weighted else []
        matched = [f"context matching of {self.persons} people in the photographs of the {self.top} best detections"]
        return ", ".join(weighted + (matched if self.top else []))


PLAIN = Reranking()


def parse_reranking(spec: str) -> Reranking:
    """The scoring that "cws", "cbgm:K1,K2" or "cws+cbgm:K1,K2" names; InputError naming one that means nothing."""
    found = re.fullmatch(r"(cws)|(cws\+)?cbgm:([1-9]\d*),([1-9]\d*)", str(spec).replace(" ", ""))
    if found is None:
        raise InputError(
            f"config.evaluate.reranking: {spec!r} is not understood; there are 'cws', 'cbgm:K1,K2' and "
            "'cws+cbgm:K1,K2' (K1,K2 in papers: 10,3 for CUHK-SYSU, 30,4 for PRW)"
        )
    return Reranking(found[0], bool(found[1] or found[2]), int(found[3] or 0), int(found[4] or 0))


def parse_rerankings(specs: Sequence[str]) -> tuple[Reranking, ...]:
    """The scorings of config.evaluate.reranking; InputError also for one that is given twice."""
    made = tuple(parse_reranking(spec) for spec in specs)
    twice = next((r.name for i, r in enumerate(made) if r in made[:i]), None)
    if twice is not None:
        raise InputError(f"config.evaluate.reranking: {twice!r} is given twice")
    return made


def context_persons(
    box: np.ndarray, rows: np.ndarray, boxes_K4: np.ndarray, scores_K: np.ndarray, count: int
) -> np.ndarray:
    """int64: up to `count` of the detections `rows` of a query's image that are beside the query's `box`."""
    beside = rows[box_iou(np.reshape(box, (1, 4)), boxes_K4[rows])[0] <= CONTEXT_IOU]
    return beside[np.argsort(-scores_K[beside], kind="stable")][:count]


class Scorings:
    """All scorings of one query: its similarities with and without weights, and what context matching makes of them.

    similarity_K: the plain ones. box: the query's, xyxy in its image, which is number `own` of the annotations.
    """

    def __init__(
        self, similarity_K: np.ndarray, kept: Kept, box: np.ndarray, own: int, rerankings: Sequence[Reranking]
    ):
        self._kept, self._rerankings = kept, rerankings
        self._outside_K = np.full(len(similarity_K), OUTSIDE)
        self._base = {False: similarity_K}
        if any(r.weighted for r in rerankings):
            self._base[True] = similarity_K * kept.scores
        self._matchers: dict[bool, Matcher] = {}
        persons = max(r.persons for r in rerankings)
        if persons:
            own_rows = kept.by_image.of(np.array([own]))[1]
            beside = context_persons(box, own_rows, kept.boxes, kept.scores, persons - 1)
            for weighted in {r.weighted for r in rerankings if r.top}:
                self._matchers[weighted] = Matcher(self._base[weighted], kept.embeddings[beside], kept, weighted)

    def of(self, inside_M: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(float32 [K] similarities in a gallery of the images `inside_M`, `OUTSIDE` for other detections; the same of
        its own detections at least), scoring by scoring. The arrays are valid until the next scoring."""
        inside_K, rows_R = np.zeros(0, bool), None
        if np.count_nonzero(inside_M) * SMALL_GALLERY < len(inside_M):
            rows_R = self._kept.by_image.of(np.flatnonzero(inside_M))[1]
        else:
            inside_K = inside_M[self._kept.image]
        for reranking in self._rerankings:
            base_K = self._base[reranking.weighted]
            if rows_R is None:
                scored_K = np.where(inside_K, base_K, OUTSIDE)
            else:
                scored_K = self._outside_K
                scored_K[rows_R] = base_K[rows_R]
            if reranking.top:
                self._matchers[reranking.weighted].rerank(scored_K, reranking)
            yield scored_K, scored_K if rows_R is None else scored_K[rows_R]
            if rows_R is not None:
                scored_K[rows_R] = OUTSIDE


class Matcher:
    """CBGM of one query under one weighting; matchings are kept, since protocols share them.

    similarity_K: the query's similarities, weighted already if they are to be. context_JD: the embeddings of the
    persons beside the query, whose products are `weighted` with the scores of the detections, or not.
    """

    def __init__(self, similarity_K: np.ndarray, context_JD: np.ndarray, kept: Kept, weighted: bool):
        self._similarity_K, self._context_JD, self._kept, self._weighted = similarity_K, context_JD, kept, weighted
        self._matched: dict[tuple[int, int], tuple[int, float] | None] = {}
        self._leaders = _highest(similarity_K, LEADERS)

    def rerank(self, similarity_K: np.ndarray, reranking: Reranking) -> None:
        """Changes `similarity_K` in place: the query's similarities in one gallery, `OUTSIDE` outside of it."""
        best = self._leaders[similarity_K[self._leaders] > OUTSIDE][: reranking.top]
        if len(best) < reranking.top:
            rows = np.flatnonzero(similarity_K > OUTSIDE)
            best = rows[_highest(similarity_K[rows], reranking.top)]
        persons = min(reranking.persons, len(self._context_JD) + 1)
        if persons == 1:  # the best detection of each image would get its own similarity
            return
        images = np.unique(self._kept.image[best])
        self._match([image for image in images.tolist() if (image, persons) not in self._matched], persons)
        for image in images.tolist():
            found = self._matched[image, persons]
            if found is not None:
                similarity_K[found[0]] = found[1]

    def _match(self, images: list[int], persons: int) -> None:
        """Fills `_matched` for `images`: (detection matched to the query, highest matched similarity) or None."""
        if not images:
            return
        place_R, row_R = self._kept.by_image.of(np.array(images))
        weight_JR = np.empty((persons, len(row_R)), np.float32)
        weight_JR[0] = self._similarity_K[row_R]
        np.matmul(self._context_JD[: persons - 1], self._kept.embeddings[row_R].T, out=weight_JR[1:])
        if self._weighted:
            weight_JR[1:] *= self._kept.scores[row_R]
        ends = np.searchsorted(place_R, np.arange(len(images) + 1)).tolist()
        for image, start, end in zip(images, ends[:-1], ends[1:], strict=True):
            self._matched[image, persons] = _match_one(weight_JR[:, start:end], row_R[start:end])


def _match_one(weight_JR: np.ndarray, rows: np.ndarray) -> tuple[int, float] | None:
    """(row matched to person 0, highest weight of all matched pairs); None where person 0 is left over."""
    from scipy.optimize import linear_sum_assignment  # here, for it takes half a second that a search would wait

    person, column = linear_sum_assignment(weight_JR, maximize=True)
    if person[0] != 0:
        return None
    return int(rows[column[0]]), float(weight_JR[person, column].max())


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """int64: the places of the `count` highest values, highest first, of equal ones the first first."""
    places = np.arange(len(values))
    if len(values) > count:
        places = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return places[np.argsort(-values[places], kind="stable")][:count]
