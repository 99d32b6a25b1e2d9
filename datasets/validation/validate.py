"""Is a folder the dataset it should be? Reads and checks it as a build does, then decodes every photograph.

validation = validate("prw", "~/data/PRW")
validation.status, validation.verdict       0, "fine: ..."
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psdiff_jax.data.records import builder_class_of, check_options
from psdiff_jax.datasets.common.records import LEVELS, WARNING, Contents, Finding
from psdiff_jax.datasets.validation.decoding import decode_all
from psdiff_jax.errors import InputError


@dataclass(frozen=True)
class Count:
    """A row of the table of counts; published: None where nobody has published it."""

    key: str
    found: int
    published: int | None

    @property
    def verdict(self) -> str:
        """ "ok", "differs", or "" where there is nothing to compare with."""
        return "" if self.published is None else "ok" if self.found == self.published else "differs"


@dataclass(frozen=True)
class Kind:
    """All findings of one level and check."""

    level: str
    check: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Validation:
    """What was found. decoded: how many photographs, None when none were to be; seconds: how long it took."""

    name: str
    root: str
    contents: Contents
    decoded: int | None
    seconds: float

    @property
    def counts(self) -> list[Count]:
        published = self.contents.published
        return [Count(key, found, published.get(key)) for key, found in self.contents.counts().items()]

    @property
    def kinds(self) -> list[Kind]:
        """The findings by level, worst first, and check, in the order they were met."""
        found: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.contents.findings:
            found.setdefault((finding.level, finding.check), []).append(finding)
        order = sorted(found, key=lambda kind: LEVELS.index(kind[0]))
        return [Kind(*kind, tuple(found[kind])) for kind in order]

    @property
    def differing(self) -> list[str]:
        return [count.key for count in self.counts if count.verdict == "differs"]

    @property
    def status(self) -> int:
        """0: fine, or with known dirt and warnings only; 1: errors, or counts that are not the published ones."""
        return int(bool(self.contents.errors() or self.differing))

    @property
    def verdict(self) -> str:
        """One line."""
        errors = len(self.contents.errors())
        warnings = sum(finding.level == WARNING for finding in self.contents.findings)
        counts = f"other counts than the published ones: {', '.join(self.differing)}" if self.differing else ""
        if errors:
            damage = f"damaged: {_number(errors, 'error')}; replace or correct what they name"
            text = "; ".join(filter(None, (damage, counts)))
        elif counts:
            text = f"incomplete: {counts}; a build takes what is there"
        elif warnings:
            text = f"usable: no errors, {_number(warnings, 'warning')} to look at"
        else:
            text = f"fine: no errors, no warnings{', known dirt only' * bool(self.contents.findings)}"
        return text + " (photographs were not decoded)" * (self.decoded is None)

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
      decode: also decode every photograph, with progress on stderr.

    Raises:
      InputError: there is no such dataset or option, nothing to read, or the dataset is not read from a folder.
    """
    begin = time.perf_counter()
    contents = _read(name, {**(options or {}), **({"root": root} if root else {})})
    decoded = decode_all(contents, _tell_progress) if decode else None
    return Validation(name, root or "", contents, decoded, time.perf_counter() - begin)


def _read(name: str, options: dict[str, Any]) -> Contents:
    builder_class = builder_class_of(name)
    from psdiff_jax.datasets.common.folder import FolderBuilder  # after `builder_class_of`, which keeps TFDS quiet

    if not (isinstance(builder_class, type) and issubclass(builder_class, FolderBuilder)):
        raise InputError(f"dataset {name} is rendered, not read from a folder: there is nothing to validate")
    if not options.get("root"):
        raise InputError(f"dataset {name} is read from a folder: name it with --root")
    check_options(name, builder_class, options)
    with tempfile.TemporaryDirectory() as nowhere:  # TFDS wants to know where it would write
        return builder_class(data_dir=nowhere, **options).contents()


def _tell_progress(done: int, total: int, seconds: float) -> None:
    """One line on stderr: rewritten on a terminal, else about ten of them."""
    on_terminal = sys.stderr.isatty()
    if done < total and done % (25 if on_terminal else total // 10 + 1):
        return
    rate = done / max(seconds, 1e-6)
    text = f"decoding: {done:,} of {total:,} photographs, {rate:.0f} a second, ETA {(total - done) / rate:.0f} s"
    print(
        f"\r{text}\033[K" if on_terminal else text,
        end="\n" if done == total or not on_terminal else "",
        file=sys.stderr,
        flush=True,
    )


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
