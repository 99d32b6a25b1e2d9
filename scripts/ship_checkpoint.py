"""Puts a finished run's weights where the quick start finds them: half precision, with the run's config and log.

python -m psdiff_jax.main --config configs/street_pretrain.py --workdir runs/street_pretrain
python scripts/ship_checkpoint.py --workdir runs/street_pretrain
"""

import json
import shutil
from pathlib import Path

from absl import app, flags

from psdiff_jax.config import from_values
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import read_npz, save_npz
from psdiff_jax.options import tree

WORKDIR = flags.DEFINE_string("workdir", None, "the finished run", required=True)
OUT = flags.DEFINE_string("out", "configs/pretrained", "where the files go")


def main(_: list[str]) -> None:
    workdir, out = Path(WORKDIR.value), Path(OUT.value)
    if not (workdir / "config.json").is_file():
        raise InputError(f"{workdir / 'config.json'} is missing: --workdir is not a run's folder")
    config = from_values(json.loads((workdir / "config.json").read_text()))
    teacher = config.teacher_folder(workdir) / "teacher.npz"
    for file in (workdir / "model.npz", teacher, workdir / "metrics.jsonl"):
        if not file.is_file():
            raise InputError(f"{file} is missing: let the run finish first")
    out.mkdir(parents=True, exist_ok=True)
    for file, shipped in ((workdir / "model.npz", "street_psdiff.npz"), (teacher, "street_teacher.npz")):
        save_npz(out / shipped, read_npz(file), half=True)
    said = tree(config)
    del said["data"]["prepared_dir"], said["teacher"]["folder"]  # folders of this machine
    (out / "street_config.json").write_text(json.dumps(said, indent=2) + "\n")
    shutil.copy(workdir / "metrics.jsonl", out / "street_metrics.jsonl")
    total = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {total / 2**20:.1f} MiB")


if __name__ == "__main__":
    app.run(main)
