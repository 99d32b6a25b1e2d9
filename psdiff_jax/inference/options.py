"""Options of the index of a folder."""

from dataclasses import dataclass
from typing import Annotated

from psdiff_jax.options import AT_LEAST_1, FRACTION, POSITIVE


@dataclass(frozen=True)
class IndexOptions:
    """config.index."""

    rate: Annotated[float, POSITIVE, "frames embedded for each second of a video"] = 1.0
    min_score: Annotated[float, FRACTION, "smallest score of a detection that the index keeps"] = 0.1
    shard_rows: Annotated[int, AT_LEAST_1, "a shard is written after so many detections, or images"] = 16384
