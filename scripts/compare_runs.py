"""Runs side by side, as one HTML page and as tables on the terminal.

    python scripts/compare_runs.py runs/a runs/b [--out compare.html] [--names a,b]

RUN is a workdir that was evaluated, or its evaluation.json. Differences are to the first run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from psdiff_jax.errors import InputError
from psdiff_jax.files import write_atomically
from psdiff_jax.report.compare import compare, comparison_page, comparison_text
from psdiff_jax.report.runs import read_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a workdir, or its evaluation.json")
    parser.add_argument("--out", default="compare.html", help="the page; default: %(default)s")
    parser.add_argument("--names", default="", help="what to call the runs, separated by commas")
    args = parser.parse_args()
    out = Path(args.out).expanduser()
    try:
        runs = read_runs(args.runs, [name.strip() for name in args.names.split(",")] if args.names else ())
        chapters = compare(runs)
        write_atomically(out, comparison_page(runs, chapters))
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{comparison_text(chapters)}\ncomparison: {out}")


if __name__ == "__main__":
    main()
