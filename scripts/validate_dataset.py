"""Checks whether a copy of a dataset is complete and undamaged.

    python scripts/validate_dataset.py --name prw --root DIR [--option key=value ...] [--quick] [--all]
        [--html FILE] [--json FILE]
    python scripts/validate_dataset.py --config configs/prw_c6s1.py --root DIR

Reads the folder as a build does, compares counts with the published ones, and decodes every image. Exit status: 0 no
errors (at most warnings and known defects), 1 errors, or counts that differ from the published ones, 2 wrong usage or
nothing to read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from psdiff_jax.command_line import literal
from psdiff_jax.errors import InputError

if TYPE_CHECKING:
    from psdiff_jax.datasets.validation import Validation

EXAMPLES = 3


def options_of(pairs: list[str]) -> dict[str, Any]:
    """["gap=25", "kind=csv"] -> {"gap": 25, "kind": "csv"}."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InputError(f"--option {pair}: give it as key=value")
        options[key] = literal(value)
    return options


def what_to_validate(arguments: argparse.Namespace) -> tuple[str, str, dict[str, Any]]:
    """(name, root, options): those of the config file, overridden by the command line. With a --name other than the
    config's, the config's folder and options are not used."""
    name, root, options = arguments.name, arguments.root, {}
    if arguments.config:
        data = _config_data(arguments.config)
        if name in (None, data.name):
            name, root, options = data.name, root or data.root, dict(data.builder)
    if not name:
        raise InputError("--name is missing (or --config); see --help")
    return name, root, options | options_of(arguments.option)


def _config_data(name: str) -> Any:
    from psdiff_jax.config import load_config

    try:
        return load_config(name).data
    except InputError:
        raise
    except Exception as error:  # the file is the user's program
        raise InputError(f"--config {name}: {type(error).__name__}: {error}") from error


def text_of(validation: Validation, examples: int | None = EXAMPLES) -> str:
    """The tables as text; `examples` of each kind of finding, None: all."""
    rows = [("", "found", "published" * bool(validation.dataset.published), "")]
    rows += [
        (c.key, f"{c.found:,}", "" if c.published is None else f"{c.published:,}", c.verdict) for c in validation.counts
    ]
    lines = [f"{validation.name} {validation.root}", ""]
    lines += [f"{key:<24}{found:>10}{published:>12}  {verdict}".rstrip() for key, found, published, verdict in rows]
    for kind in validation.kinds:
        lines += ["", f"{kind.level:<8}{len(kind.findings):>6,}  {kind.check}"]
        lines += [f"{'':16}{finding}" for finding in kind.findings[:examples]]
        left = len(kind.findings) - len(kind.findings[:examples])
        lines += [f"{'':16}and {left:,} more; --all lists them"] * bool(left)
    decoded = "" if validation.decoded is None else f", {validation.decoded:,} images decoded"
    return "\n".join([*lines, "", f"{validation.verdict}  [{validation.seconds:.1f} s{decoded}]"])


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="as config.data.name: of a dataset that is read from a folder, or module:Class")
    parser.add_argument("--root", help="the folder, as config.data.root")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the dataset, as config.data.builder.KEY; may be repeated",
    )
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="use name, root and options of an experiment")
    parser.add_argument("--quick", action="store_true", help="do not decode the images")
    parser.add_argument("--all", action="store_true", help=f"print every finding, not {EXAMPLES} of each kind")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page with the tables and sample images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="counts and all findings")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    """Validates, prints and writes; 0 or 1."""
    name, root, options = what_to_validate(arguments)
    for path in filter(None, (arguments.html, arguments.json)):
        _check_writable(path)
    from psdiff_jax.datasets.validation import validate
    from psdiff_jax.files import write_atomically

    validation = validate(name, root, options, decode=not arguments.quick)
    print(text_of(validation, None if arguments.all else EXAMPLES))
    if arguments.json:
        write_atomically(arguments.json, json.dumps(validation.as_dict(), indent=2, ensure_ascii=False) + "\n")
    if arguments.html:
        from psdiff_jax.report.validation_page import page

        write_atomically(arguments.html, page(validation))
    return validation.status


def main() -> int:
    """The exit status."""
    try:
        return run(parse())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _check_writable(path: Path) -> None:
    """Raises InputError now rather than minutes later, when the file would be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file to write")
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror})") from error


if __name__ == "__main__":
    sys.exit(main())
