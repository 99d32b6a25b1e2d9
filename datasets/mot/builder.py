"""Builder of MOTChallenge folders: `config.data.name = "mot"`, `config.data.root` = a folder of sequences."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from psdiff_jax.datasets.common.builder import FolderBuilder
from psdiff_jax.datasets.common.layout import digest
from psdiff_jax.datasets.common.records import RawDataset
from psdiff_jax.datasets.mot import reader


class Mot(FolderBuilder):
    """MOTChallenge sequences. README.md beside this file is the dataset card, `reader.read` explains the options,
    `FolderBuilder` explains `stored_size`."""

    description = "MOTChallenge sequences as person search: tracks are identities, sequences are cameras."

    def __init__(
        self,
        *,
        data_dir: str,
        root: str,
        test_sequences: Iterable[str] | str | None = None,
        train_share: float = 0.5,
        every: int = 1,
        min_visibility: float = 0.0,
        query_gap: int = 25,
        queries_per_track: int = 1,
        seed: int = 0,
        stored_size: tuple[int, int] | None = None,
    ):
        super().__init__(
            data_dir,
            reader.read,
            root,
            stored_size,
            test_sequences=test_sequences,
            train_share=train_share,
            every=every,
            min_visibility=min_visibility,
            query_gap=query_gap,
            queries_per_track=queries_per_track,
            seed=seed,
        )

    @classmethod
    def fingerprint(cls, root: str, **options: Any) -> str:
        """A digest of the sequences with ground truth; the options are fingerprinted separately."""
        del options
        folder = Path(root).expanduser()
        sequences = reader.find_sequences(folder, RawDataset())
        annotations = [path for s in sequences for path in (s.ground_truth, s.info_file) if path.is_file()]
        return digest(folder, annotations, [path for s in sequences for _, path in s.frames])
