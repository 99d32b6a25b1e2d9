"""Builder of the rendered street: `config.data.name = "synthetic_street"`, options in `config.data.builder`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

from psdiff_jax.datasets.common.builder import Examples, RecordBuilder, query_examples
from psdiff_jax.datasets.synthetic_street.options import RENDERER, StreetOptions
from psdiff_jax.datasets.synthetic_street.render import render
from psdiff_jax.datasets.synthetic_street.sources import source_digest
from psdiff_jax.datasets.synthetic_street.street import SPLITS, Street
from psdiff_jax.errors import InputError


class SyntheticStreet(RecordBuilder):
    """Street scenes with splits `train`, `gallery` and `query`; `train` and `query` are left out if empty.

    Args:
      data_dir: folder for the records.
      preset: a name in `options.PRESETS`.
      workers: processes that render; the records do not depend on it.
      root: a folder or tar of RGBA cut-outs, short for the option `source`.
      options: fields of `StreetOptions` that replace the preset's.

    `report` counts images, boxes and identities of each split.
    """

    def __init__(
        self, *, data_dir: str, preset: str = "tiny", workers: int = 1, root: str | None = None, **options: Any
    ):
        self.options = _street_options(preset, root, options)
        self.workers = workers
        self.description = f"Rendered street scenes for person search: {self.options}"
        self.report: dict[str, Any] = {}
        super().__init__(data_dir=data_dir)

    @classmethod
    def fingerprint(cls, preset: str = "tiny", workers: int = 1, root: str | None = None, **options: Any) -> str:
        """A digest of the renderer's version and of the cut-outs, if any, wherever they are."""
        del workers
        resolved = _street_options(preset, root, options)
        return hashlib.sha256(f"{RENDERER} {source_digest(resolved.source)}".encode()).hexdigest()

    def splits(self) -> dict[str, Examples]:
        street = Street(self.options)
        # Before the first scene is rendered: it is quick, and fails at once if the gallery is too small.
        queries = street.queries()
        self.report["query"] = {"queries": len(queries), "ids": len({query.person_id for query in queries})}
        filled = [split for split in SPLITS if street.length(split)]
        generators = {split: self._examples(split, render(street, split, self.workers)) for split in filled}
        return generators | ({"query": query_examples(queries)} if queries else {})

    def _examples(self, split: str, records: Iterable[dict[str, Any]]) -> Examples:
        images, boxes, ids = 0, 0, set()
        for key, record in enumerate(records):
            images, boxes = images + 1, boxes + len(record["boxes"])
            ids |= {int(person_id) for person_id in record["person_ids"] if person_id >= 0}
            yield key, record
        self.report[split] = {"images": images, "boxes": boxes, "ids": len(ids)}


def _street_options(preset: str, root: str | None, options: dict[str, Any]) -> StreetOptions:
    """Raises InputError for unknown presets and options."""
    if root:
        if "source" in options:
            raise InputError("config.data.root and config.data.builder.source both name cut-outs; give one of them")
        options = {**options, "source": os.fspath(root)}
    return StreetOptions.preset(preset, **options)
