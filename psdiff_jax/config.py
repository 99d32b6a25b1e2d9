"""The whole config of a run: from a ConfigDict (or JSON) to typed, checked options, and back."""

import json
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict

from psdiff_jax.data.options import DataOptions
from psdiff_jax.earlier import todays_keys
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.options import EvaluateOptions
from psdiff_jax.inference.options import IndexOptions
from psdiff_jax.options import NOT_NEGATIVE, POSITIVE, Need, read, tree
from psdiff_jax.teacher.options import TeacherOptions
from psdiff_jax.training.options import TrainingConfig

PATHS = (
    "teacher.file",
    "teacher.init_from",
    "model.backbone_weights",
    "model.reid_weights",
    "train.init_from",
    "train.readout_from",
)

FOLDER = "folder"  # config.data.name of a folder without annotations


@dataclass(frozen=True)
class Config(TrainingConfig):
    """config: every option of a run."""

    distributed: Annotated[bool, "join the other processes of a pod (SLURM, Kubernetes, TPU VMs)"] = False
    distributed_timeout: Annotated[float, POSITIVE, "seconds to wait for all processes of a pod"] = 300.0
    cpu_devices: Annotated[int, NOT_NEGATIVE, "virtual devices where there is no accelerator; 0 = one per core"] = 0
    compilation_cache: Annotated[str, "folder of compiled programs; {cache} = the user's cache, '' = none is kept"] = (
        "{cache}/xla"
    )
    data: DataOptions = field(default_factory=DataOptions)
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    index: IndexOptions = field(default_factory=IndexOptions)

    @property
    def evaluation_data(self) -> DataOptions:
        """The dataset to evaluate on: config.data, or what config.evaluate.data puts in its place."""
        own, other = self.data, self.evaluate.data
        if not other.is_given:
            return own
        same = other.name in ("", own.name)
        root = other.root or (own.root if same else "")
        return replace(own, name=other.name or own.name, root=root, builder=other.builder)

    @property
    def is_folder(self) -> bool:
        """Whether a folder of images and videos is searched, and no annotated dataset."""
        return self.evaluation_data.name == FOLDER

    @property
    def exported_steps(self) -> int:
        """The number of denoising steps whose embeddings are written: the largest of config.evaluate.steps."""
        return max(self.evaluate.steps)

    def teacher_folder(self, workdir: Path) -> Path:
        """Where the teacher and its targets are kept."""
        return Path(self.teacher.folder).expanduser() if self.teacher.folder else workdir / "teacher"

    def check(self, need: Need) -> None:
        most, proposals = self.data.max_boxes, self.noise.num_proposals
        if proposals < most:
            raise InputError(
                f"config.noise.num_proposals={proposals}: must be at least config.data.max_boxes={most}, or some "
                "ground truths are left out"
            )
        needs_readout = {
            "closed_form": self.train.closed_form,
            "readout_from": self.train.readout_from,
            "objective": self.train.objective == "readout",
        }
        for key, asked in needs_readout.items():
            if asked and not self.model.readout_rows:
                raise InputError(f"config.train.{key}: the model has no row read-out; set config.model.readout_rows")
        parts = self.train.init_parts or ("reid_backbone",)
        given = self.model.reid_weights or (self.train.init_from and "reid_backbone" in parts)
        if self.model.reid_crops and not given:
            raise InputError(
                "config.model.reid_weights is empty: name the file of the network that embeds crops (it is not trained)"
            )
        if self.train.views and (trained := sorted(set(self.model.backbones) - set(self.train.frozen))):
            raise InputError(
                f"config.train.views={self.train.views}: the maps of {trained[0]} can only be kept where it is not "
                "trained; name it in config.train.frozen, or set views to 0"
            )
        if max(self.evaluate.steps) > self.diffusion.timesteps:
            raise InputError(
                f"config.evaluate.steps={self.evaluate.steps}: must not be more than config.diffusion.timesteps="
                f"{self.diffusion.timesteps}"
            )
        if self.noise.one_step and self.evaluate.steps != (1,):
            raise InputError(
                f"config.evaluate.steps={self.evaluate.steps}: a model without diffusion (config.noise.one_step) knows "
                "one step; give (1,)"
            )
        super().check(need)


def to_config_dict(config: Config) -> ConfigDict:
    """Options as a ConfigDict, which config files change; the options of builders take any key."""
    made: Any = ConfigDict(tree(config), convert_dict=True)
    for builder in (made.data.builder, made.evaluate.data.builder):
        builder.unlock()
    return made


def from_values(values: Mapping[str, Any] | ConfigDict) -> Config:
    """Checked options from nested dicts or a ConfigDict; {root} in paths stands for config.data.root.

    Raises:
      InputError: naming the first key that is unknown, out of range or at odds with another.
    """
    plain = todays_keys(values.to_dict() if isinstance(values, ConfigDict) else values)
    for key in PATHS:
        group, name = key.split(".")
        path = plain.get(group, {}).get(name, "")
        if not isinstance(path, str) or not path:
            continue
        if "{root}" in path:
            root = plain.get("data", {}).get("root", "")
            if not root:
                raise InputError("config.data.root is empty: name the dataset's folder")
            path = path.replace("{root}", str(root))
        plain[group][name] = str(Path(path).expanduser())
    return read(Config, plain)


def read_config(path: Path, advice: str) -> Config:
    """The config of a run's config.json, of this version or an earlier one; advice: for where there is no such file."""
    if not path.is_file():
        raise InputError(f"{path} is missing: {advice}")
    try:
        return from_values(json.loads(path.read_text(encoding="utf-8")))
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: no config in JSON ({' '.join(str(error).split())})") from error


def check_files(config: Config, parts: tuple[str, ...] = ("model", "train", "teacher")) -> None:
    """Raises InputError naming the key of weights that training these parts needs and that are not there."""
    teacher, weights = config.teacher, config.model.backbone_weights
    trained = teacher.kind == "trained"
    needed = {
        "model": {"model.backbone_weights": weights, "model.reid_weights": config.model.reid_weights},
        "train": {"train.init_from": config.train.init_from, "train.readout_from": config.train.readout_from},
    }
    needed["teacher"] = {"teacher.init_from": teacher.init_from} if trained else {"teacher.file": teacher.file}
    for key, path in [entry for part in parts for entry in needed[part].items()]:
        if key == "model.backbone_weights" and path == "teacher":
            if not (trained and teacher.backbone == config.model.backbone):
                raise InputError(
                    f"config.{key}='teacher': the teacher must be trained here, with config.teacher.backbone equal to "
                    "config.model.backbone; name a file of weights, or none"
                )
        elif path and not Path(path).is_file():
            raise InputError(f"config.{key}={path!r}: no such file")


def load_config(name: str) -> ConfigDict:
    """The config of "FILE" or "FILE:variant", for scripts; main.py's flag reads it with overrides."""
    path, _, variant = name.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--config {path}: no such file")
    return runpy.run_path(path)["get_config"](*[variant] if variant else [])
