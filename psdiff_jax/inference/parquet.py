"""An index as one Parquet file, which vector databases and DuckDB read as it is.

path string, kind string ("image", "video"), time float (seconds in a video, null for an image),
box fixed_size_list<float>[4] (xyxy pixels), score float, embedding fixed_size_list<float>[D] (unit norm)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.files import replacing, writing

if TYPE_CHECKING:
    from psdiff_jax.inference.index import Index


def write_parquet(index: Index, path: Path) -> None:
    """Writes the live rows, a row group for each shard. InputError without pyarrow, or if it cannot be written."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError("Parquet needs pyarrow; pip install 'psdiff-jax[parquet]'") from error
    schema = pa.schema(
        {
            "path": pa.string(),
            "kind": pa.string(),
            "time": pa.float32(),
            "box": pa.list_(pa.float32(), 4),
            "score": pa.float32(),
            "embedding": pa.list_(pa.float32(), index.settings.embedding_dim),
        }
    )
    paths = np.asarray([file.path for file in index.files], object)
    kinds = np.asarray([file.kind for file in index.files], object)

    def lists(values: np.ndarray) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(values).astype(np.float32)), values.shape[1])

    with writing(path), replacing(path) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        start = 0
        for block in index.embeddings:
            rows = start + np.flatnonzero(index.live[start : start + len(block)])
            vectors = np.asarray(block[rows - start], np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # of unit norm in float16 only up to rounding
            columns = [
                pa.array(paths[index.source[rows]], pa.string()),
                pa.array(kinds[index.source[rows]], pa.string()),
                pa.array(index.time[rows], from_pandas=True),
                lists(index.boxes[rows]),
                pa.array(index.scores[rows]),
                lists(vectors),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            start += len(block)
