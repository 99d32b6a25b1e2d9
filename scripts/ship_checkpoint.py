"""Puts a finished run's weights where configs find them: half precision, with the run's config and log.

    python scripts/ship_checkpoint.py --workdir runs/street_pretrain
    python scripts/ship_checkpoint.py --workdir runs/people --name people --parts fpn,cdl

The second leaves out a backbone that is somebody else's. configs/pretrained/README.md says what is shipped.
"""

import json
import shutil
import sys
from pathlib import Path

from absl import app, flags

from psdiff_jax.config import PATHS, read_config
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import read_npz, save_npz
from psdiff_jax.options import tree

WORKDIR = flags.DEFINE_string("workdir", None, "the finished run", required=True)
NAME = flags.DEFINE_string("name", "street", "what the files' names begin with")
PARTS = flags.DEFINE_list("parts", [], "modules of the model that are shipped; default: all")
OUT = flags.DEFINE_string("out", "configs/pretrained", "where the files go")


def main(_: list[str]) -> None:
    workdir, out = Path(WORKDIR.value), Path(OUT.value)
    config = read_config(workdir / "config.json", "--workdir is not a run's folder")
    model, teacher = workdir / "model.npz", config.teacher_folder(workdir) / "teacher.npz"
    shipped = {model: "psdiff"} | ({teacher: "teacher"} if config.teacher.kind == "trained" else {})
    for file in shipped:
        if not file.is_file():
            raise InputError(f"{file} is missing: let the run finish first")
    out.mkdir(parents=True, exist_ok=True)
    for file, kind in shipped.items():
        arrays = read_npz(file)
        known = {name.split("/")[0] for name in arrays}
        if file == model and not set(PARTS.value) <= known:
            raise InputError(f"--parts={','.join(PARTS.value)}: the model has {', '.join(sorted(known))}")
        if file == model and PARTS.value:
            arrays = {name: array for name, array in arrays.items() if name.split("/")[0] in PARTS.value}
        save_npz(out / f"{NAME.value}_{kind}.npz", arrays, half=True)
    said = tree(config)
    del said["data"]["prepared_dir"], said["teacher"]["folder"]  # folders of this machine
    for group, key in (("data", "root"), *(path.split(".") for path in PATHS)):
        said[group][key] = Path(said[group][key]).name
    (out / f"{NAME.value}_config.json").write_text(json.dumps(said, indent=2) + "\n")
    metrics = workdir / "metrics.jsonl"
    if metrics.is_file():  # a run of no steps has none
        shutil.copy(metrics, out / f"{NAME.value}_metrics.jsonl")
    total = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {total / 2**20:.1f} MiB")


if __name__ == "__main__":
    try:
        app.run(main)
    except InputError as error:
        sys.exit(f"error: {error}")
