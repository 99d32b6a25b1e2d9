"""Options of inference over a gallery and of its evaluation."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from psdiff_jax.data.options import DatasetOptions
from psdiff_jax.evaluation.protocols import parse_protocol
from psdiff_jax.evaluation.reranking import parse_rerankings
from psdiff_jax.options import AT_LEAST_1, FRACTION, NOT_NEGATIVE, SEED, Need, Range


@dataclass(frozen=True)
class EvaluateOptions:
    """config.evaluate."""

    steps: Annotated[tuple[int, ...], Range(1), "numbers of denoising steps to report"] = (1, 2, 4, 8)
    batch_size: Annotated[int, AT_LEAST_1, "images per batch, over all devices; rounded up to a multiple of them"] = 8
    query: Annotated[
        Literal["gt_box", "detected"], "query embedding: of the given box, or of the detection that overlaps it most"
    ] = "gt_box"
    shard_rows: Annotated[
        int, AT_LEAST_1, "a shard of embeddings is written after so many detections of all numbers of steps, or images"
    ] = 16384
    max_detections: Annotated[int, AT_LEAST_1, "detections kept per image"] = 100
    detection_threshold: Annotated[float, FRACTION, "smallest score of a detection"] = 0.01
    search_threshold: Annotated[float, FRACTION, "smallest score of a detection that is searched"] = 0.5
    calibrate: Annotated[bool, "choose search_threshold on the images that data.held_out holds out"] = True
    protocols: Annotated[tuple[str, ...], "galleries of a query (`evaluation.protocols`)"] = ("whole",)
    reranking: Annotated[tuple[str, ...], "scored beside plain similarities: cws, cbgm:30,4, cws+cbgm:10,3"] = ()
    seeds: Annotated[tuple[int, ...], SEED, "sampler seeds, for a mean and deviation; () = config.seed"] = ()
    data: Annotated[DatasetOptions, "the dataset to evaluate on, where it is not the one trained on"] = field(
        default_factory=DatasetOptions
    )
    example_queries: Annotated[int, NOT_NEGATIVE, "best, median and worst queries in the report, of each"] = 2

    def check(self, need: Need) -> None:
        need(len(self.steps) > 0, "steps", "give at least one number of denoising steps")
        need(len(set(self.steps)) == len(self.steps), "steps", "give each number of denoising steps once")
        need(len(set(self.seeds)) == len(self.seeds), "seeds", "give different whole numbers, or () for config.seed")
        for protocol in self.protocols:
            parse_protocol(protocol)
        parse_rerankings(self.reranking)
