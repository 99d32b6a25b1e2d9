"""`validate` and its result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psdiff_jax.data.records import builder_class_of, check_options
from psdiff_jax.datasets.common.builder import FolderBuilder
from psdiff_jax.datasets.common.records import LEVELS, WARNING, Finding, RawDataset
from psdiff_jax.datasets.validation.decoding import decode_all
from psdiff_jax.errors import InputError


@dataclass(frozen=True)
class Count:
    """A row of the table of counts. published: None if no number was published."""

    key: str
    found: int
    published: int | None

    @property
    def verdict(self) -> str:
        """ "ok", "differs", or "" without a published number."""
        return "" if self.published is None else "ok" if self.found == self.published else "differs"


@dataclass(frozen=True)
class Kind:
    """All findings of one level and check."""

    level: str
    check: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Validation:
    """The result. decoded: number of images decoded, None if decoding was not requested; seconds: the time it took."""

    name: str
    root: str
    dataset: RawDataset
    decoded: int | None
    seconds: float

    @property
    def counts(self) -> list[Count]:
        published = self.dataset.published
        return [Count(key, found, published.get(key)) for key, found in self.dataset.counts().items()]

    @property
    def kinds(self) -> list[Kind]:
        """The findings by level, worst first, and check, in the order of their first occurrence."""
        found: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.dataset.findings:
            found.setdefault((finding.level, finding.check), []).append(finding)
        order = sorted(found, key=lambda kind: LEVELS.index(kind[0]))
        return [Kind(*kind, tuple(found[kind])) for kind in order]

    @property
    def differing(self) -> list[str]:
        return [count.key for count in self.counts if count.verdict == "differs"]

    @property
    def status(self) -> int:
        """0: no errors, at most warnings and known defects; 1: errors, or counts other than the published ones."""
        return int(bool(self.dataset.errors() or self.differing))

    @property
    def verdict(self) -> str:
        """One line."""
        errors = len(self.dataset.errors())
        warnings = sum(finding.level == WARNING for finding in self.dataset.findings)
        counts = f"counts differ from the published ones: {', '.join(self.differing)}" if self.differing else ""
        if errors:
            damage = f"damaged: {_number(errors, 'error')}; replace or correct the files they name"
            text = "; ".join(filter(None, (damage, counts)))
        elif counts:
            text = f"incomplete: {counts}; a build uses what is there"
        elif warnings:
            text = f"usable: no errors, {_number(warnings, 'warning')} to look at"
        else:
            text = f"fine: no errors, no warnings{', known defects only' * bool(self.dataset.findings)}"
        return text + " (images were not decoded)" * (self.decoded is None)

    def as_dict(self) -> dict[str, Any]:
        """What --json writes."""
        return {
            "name": self.name, "root": self.root, "status": self.status, "verdict": self.verdict,
            "decoded": self.decoded, "seconds": round(self.seconds, 2),
            "counts": {c.key: {"found": c.found, "published": c.published, "verdict": c.verdict} for c in self.counts},
            "findings": [vars(finding) for kind in self.kinds for finding in kind.findings],
        }  # fmt: skip


def validate(
    name: str, root: str | None = None, options: Mapping[str, Any] | None = None, decode: bool = True
) -> Validation:
    """Reads and checks a folder.

    Args:
      name, root, options: as `config.data.name`, `.root` and `.builder`.
      decode: also decode every image, with progress on stderr.

    Raises:
      InputError: there is no such dataset or option, nothing to read, or the dataset is rendered.
    """
    begin = time.perf_counter()
    dataset = _read(name, {**(options or {}), **({"root": root} if root else {})})
    decoded = decode_all(dataset) if decode else None
    return Validation(name, root or "", dataset, decoded, time.perf_counter() - begin)


def _read(name: str, options: dict[str, Any]) -> RawDataset:
    builder_class = builder_class_of(name)
    if not (isinstance(builder_class, type) and issubclass(builder_class, FolderBuilder)):
        raise InputError(f"dataset {name} is rendered when it is prepared: there is nothing to validate")
    if not options.get("root"):
        raise InputError(f"dataset {name} is read from a folder: name it with --root")
    check_options(name, builder_class, options)
    return builder_class(data_dir="", **options).read()


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
