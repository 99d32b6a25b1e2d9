"""Prepared datasets: built once by TFDS as ArrayRecord files, then opened for random access.

    dataset = open_dataset(options)
    dataset.train_source[3]["image"]            encoded bytes
    dataset.annotations("gallery").boxes[7]     float32 [n, 4] xyxy pixels
    dataset.queries().person_ids

A prepared dataset is in `<prepared_dir>/<name>-<fingerprint>/`. The fingerprint covers the builder's version, every
option and, if the builder reads files, the contents of annotations and the names and sizes in bytes of images: a change
gives another folder. Delete the folder after images were edited to files of the very same size, as in `.bmp`.

A builder is a `datasets.common.builder.RecordBuilder`, or a `tfds.core.GeneratorBasedBuilder` whose features are
`record_features()`, made with `data_dir` and its own options by keyword. It may have
  - `fingerprint(**options) -> str`, a classmethod: a digest of the files it reads (then their path does not count);
  - an option `workers`, the number of building processes: it may not change the records and is not in the fingerprint;
  - `report`, a dict that it fills while it generates (boxes dropped, ...), kept as `PreparedDataset.report`;
  - `galleries`, name -> `GalleryList`, where the dataset lists a gallery for each query;
  - `person_names`, person id -> the identity's name in the folder, kept as `PreparedDataset.person_names`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import io
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax.data.galleries import GalleryList, save_galleries
from psdiff_jax.data.options import DataOptions
from psdiff_jax.data.prepared import (
    GALLERIES_FILE,
    PERSON_NAMES_FILE,
    SPLITS,
    Images,
    PreparedDataset,
    Source,
    damaged,
    folder_of_records,
    read_json,
    shard_sizes,
)
from psdiff_jax.data.schema import (
    UNKNOWN,
    UNLABELLED,
    Annotations,
    Queries,
    image_example,
    query_example,
    record_features,
)
from psdiff_jax.errors import InputError
from psdiff_jax.files import flush, locked, write_atomically
from psdiff_jax.interruption import AGAIN, stage
from psdiff_jax.options import is_like

__all__ = [  # this module is where the rest of the program finds all of them
    "BUILDERS",
    "SPLITS",
    "UNKNOWN",
    "UNLABELLED",
    "Annotations",
    "GalleryList",
    "Images",
    "PreparedDataset",
    "Queries",
    "Source",
    "image_example",
    "open_dataset",
    "query_example",
    "record_features",
]

BUILDERS = {
    "crop_sheets": "psdiff_jax.datasets.crop_sheets.builder:CropSheets",
    "cuhk_sysu": "psdiff_jax.datasets.cuhk_sysu.builder:CuhkSysu",
    "custom": "psdiff_jax.datasets.custom.builder:Custom",
    "mot": "psdiff_jax.datasets.mot.builder:Mot",
    "prw": "psdiff_jax.datasets.prw.builder:Prw",
    "synthetic_street": "psdiff_jax.datasets.synthetic_street.builder:SyntheticStreet",
}


def open_dataset(options: DataOptions) -> PreparedDataset:
    """Opens the dataset that config.data describes, and builds it first if necessary.

    Raises:
      InputError: naming the key, or the file of the data, that is wrong.
    """
    name = options.name
    builder_class = builder_class_of(name)
    given = dict(options.builder)
    if options.root:
        given["root"] = options.root
    check_options(name, builder_class, given)
    if not options.prepared_dir:
        raise InputError("config.data.prepared_dir is empty: name the folder that prepared datasets are kept in")

    folder = Path(options.prepared_dir).expanduser() / f"{name.split(':')[-1]}-{_fingerprint(builder_class, given)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"config.data.prepared_dir: cannot write to {folder.parent} ({error.strerror})") from error
    report_path = folder / "prepared.json"  # written last: a dataset without it is unfinished
    if not report_path.is_file():
        with locked(folder / ".lock", f"prepares {folder}"):  # one process of a pod builds, the others wait
            if not report_path.is_file():
                with stage(f"preparing dataset {name}", f"nothing of it is kept; {AGAIN}"):
                    _prepare(name, builder_class, given, report_path)
    report = read_json(report_path).get("report")
    if not isinstance(report, dict):
        raise InputError(damaged(folder, f"{report_path.name} holds no report"))
    return PreparedDataset(name, folder_of_records(folder), report)


def _prepare(name: str, builder_class: Any, options: Mapping[str, Any], report_path: Path) -> None:
    with _quiet_tfds():
        import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # its bars are thousands of lines in a log file
    print(f"preparing dataset {name} in {report_path.parent} (once)", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    for leftover in report_path.parent.iterdir():  # of a build that was killed
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
    builder = builder_class(data_dir=str(report_path.parent), **options)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints about downloads
        builder.download_and_prepare(file_format="array_record")
    report, records = dict(getattr(builder, "report", {})), folder_of_records(report_path.parent)
    if getattr(builder, "galleries", None):
        save_galleries(records / GALLERIES_FILE, builder.galleries)
    if getattr(builder, "person_names", None):
        names = json.dumps(builder.person_names, ensure_ascii=False, indent=1)
        write_atomically(records / PERSON_NAMES_FILE, names)
    flush(*report_path.parent.rglob("*"))
    write_atomically(report_path, json.dumps({"options": options, "report": report}, indent=2, default=_plain))
    counts = ", ".join(f"{split} {sum(sizes)}" for split, sizes in shard_sizes(records).items())
    noted = "; ".join(f"{kind}: {count}" for kind, count in report.get("findings", {}).items())
    print(
        f"prepared {name}: {counts} records in {time.perf_counter() - begin:.0f} s" + f" ({noted})" * bool(noted),
        file=sys.stderr,
    )


def builder_class_of(name: str) -> Any:
    """The class of builder of a name in `BUILDERS` or of "module:Class"; InputError if there is none."""
    path = name if ":" in name else BUILDERS.get(name)
    if path is None:
        known = ", ".join(BUILDERS)
        raise InputError(
            f"config.data.name: there is no dataset {name!r}; choose one of {known}, or name a module:Class"
        )
    module, _, attribute = path.partition(":")
    try:
        with _quiet_tfds():
            return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        if path in BUILDERS.values():
            raise  # a bug of this package
        raise InputError(f"config.data.name: {name!r} cannot be imported ({error})") from error


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Suppresses the log of importing TFDS without TensorFlow."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)


def check_options(name: str, builder_class: Any, options: Mapping[str, Any]) -> None:
    """Raises InputError for an option that the builder does not have, one of another type than its default, or a
    required one that is missing."""
    parameters = inspect.signature(builder_class.__init__).parameters
    named = {key: p for key, p in parameters.items() if key not in ("self", "data_dir") and p.kind is not p.VAR_KEYWORD}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())  # then the builder checks them itself
    for key in sorted(set(options) - set(named)) * (not takes_any):
        known = ", ".join(named) or "none"
        raise InputError(f"config.data.{_key(key)}: dataset {name} takes no such option; it knows {known}")
    for key in sorted(set(options) & set(named)):
        value, default = options[key], named[key].default
        if not is_like(value, default):
            quoted = (
                f"; a text that looks like a number is quoted twice: \"'{value}'\"" if default == str(default) else ""
            )
            raise InputError(f"config.data.{_key(key)}={value!r}: expected a value like {default!r}{quoted}")
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in options:
            raise InputError(f"config.data.{_key(key)} is not set: dataset {name} needs --config.data.{_key(key)}=...")


def _key(option: str) -> str:
    return option if option == "root" else f"builder.{option}"


def _fingerprint(builder_class: Any, options: Mapping[str, Any]) -> str:
    counted = {key: value for key, value in options.items() if key != "workers"}
    counted["version"] = str(builder_class.VERSION)  # raised with every change of the records for the same folder
    if hasattr(builder_class, "fingerprint"):
        counted["root"] = builder_class.fingerprint(**options)  # the contents of the folder, not its path
    elif "root" in counted:
        counted["root"] = str(Path(counted["root"]).resolve())
    text = json.dumps(counted, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return str(value)
