"""From a ConfigDict to the typed options of each part, with one line of error that names the key."""

import ast
import dataclasses
import difflib
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psdiff_jax.diffusion.noise import Diffusion
from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.diffusion.solvers import SOLVERS
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.protocols import parse_protocol
from psdiff_jax.evaluation.reranking import parse_rerankings
from psdiff_jax.models.backbones import SPECS
from psdiff_jax.models.cdl import CDLOptions
from psdiff_jax.models.psdiff import PSDiffSpec
from psdiff_jax.teacher.options import TeacherOptions
from psdiff_jax.training.matcher import MatchOptions
from psdiff_jax.training.optimizer import OptimizerOptions
from psdiff_jax.training.states import NoiseOptions

CHOICES = {
    "model.backbone": tuple(SPECS),
    "model.cascade": ("paper", "residual", "parallel"),
    "model.pool": ("mean", "flatten"),
    "model.roi_backend": ("auto", "gather", "matmul"),
    "model.dtype": ("float32", "bfloat16"),
    "matching.rule": ("simota", "hungarian"),
    "train.schedule": ("step", "cosine", "constant"),
    "sampler.solver": SOLVERS,
    "sampler.order": (1, 2, 3),
    "evaluate.query": ("pin", "match"),
}
PARTS = ("backbone", "fpn", "cdl")  # modules of a PSDiff
AT_LEAST_ONE = (
    "data.max_boxes",
    "model.dim",
    "model.embedding_dim",
    "model.side",
    "model.heads",
    "model.dynamic_width",
    "model.time_dim",
    "model.num_cdl",
    "model.sampling_ratio",
    "diffusion.timesteps",
    "noise.slots",
    "matching.candidates",
    "train.batch_size",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "sampler.slots",
    "evaluate.batch_size",
    "evaluate.max_detections",
)
NOT_NEGATIVE = (
    "train.steps",
    "train.warmup",
    "noise.gt_box_proposals",
    "evaluate.strips",
    "cpu_devices",
    "train.weight_decay",
    "sampler.eta",
)
SHARES = (
    "noise.random_fraction",
    "noise.rollout_probability",
    "sampler.renewal_threshold",
    "sampler.nms_threshold",
    "train.ema_decay",
    "evaluate.detection_threshold",
    "evaluate.search_threshold",
    "data.held_out",
)


def load_config(name: str) -> Any:
    """The config of "FILE" or "FILE:variant", for scripts; main.py's flag reads it with overrides."""
    path, _, variant = name.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--config {path}: no such file")
    return runpy.run_path(path)["get_config"](*[variant] if variant else [])


def builder_options(argv: list[str]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """(argv without them, (group, key, value) of each --config.data.builder.KEY=VALUE and of evaluate.data.builder's).

    A builder's options are its own: a config lists those that it sets, and ml_collections overrides no key that is not
    there yet. `data.records.check_options` refuses one that the builder does not take.
    """
    given = [re.fullmatch(r"--config\.((?:evaluate\.)?data\.builder)\.(\w+)=(.*)", arg, re.DOTALL) for arg in argv]
    rest = [arg for arg, option in zip(argv, given, strict=True) if option is None]
    return rest, [(option[1], option[2], option[3]) for option in given if option is not None]


def set_builder_options(config: Any, options: list[tuple[str, str, str]]) -> None:
    """Sets what `builder_options` found, each as a Python literal or else as text; InputError for another type than the
    config's own."""
    for group, key, text in options:
        builder = look_up(config, group)
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        default = builder.get(key)
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if default is not None and type(value) is not type(default):
            raise InputError(f"config.{group}.{key}={text}: expected a value like {default!r}")
        with builder.unlocked():
            builder[key] = value


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def unknown_key(config: Mapping[str, Any], key: str) -> str | None:
    """One line about a dotted key that the config does not have, with the nearest that it has; None if it has it."""
    node: Any = config
    for depth, part in enumerate(key.split(".")):
        if not isinstance(node, Mapping) and not hasattr(node, "keys"):
            return f"config.{key}: config.{'.'.join(key.split('.')[:depth])} is a value, not a group of keys"
        if part not in node:
            near = difflib.get_close_matches(part, list(node.keys()), 1)
            inside = ".".join(["config", *key.split(".")[:depth]])
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(node.keys()))}"
            return f"config.{key}: no such key in {inside}; {hint}"
        node = node[part]
    return None


def fill_in_root(config: Any) -> None:
    """Replaces {root} in the paths of a config by config.data.root."""
    for key in ("teacher.file", "teacher.init_from", "model.backbone_weights", "train.init_from"):
        group, name = key.split(".")
        value = config[group][name]
        if "{root}" in value:
            if not config["data"]["root"]:
                raise InputError("config.data.root is empty: name the dataset's folder")
            config[group][name] = value.replace("{root}", str(config["data"]["root"]))


def validate(config: Mapping[str, Any]) -> None:
    """Raises InputError naming the first key that is out of range or does not go with another."""

    def need(holds: bool, key: str, what: str) -> None:
        if not holds:
            raise InputError(f"config.{key}={look_up(config, key)!r}: {what}")

    for key, choices in CHOICES.items():
        need(look_up(config, key) in choices, key, f"choose one of {', '.join(map(str, choices))}")
    for key in AT_LEAST_ONE:
        need(look_up(config, key) >= 1, key, "must be 1 or more")
    for key in NOT_NEGATIVE:
        need(look_up(config, key) >= 0, key, "must not be negative")
    for key in SHARES:
        need(0 <= look_up(config, key) <= 1, key, "must lie within 0 and 1")
    for key in ("train.learning_rate", "train.clip_norm", "diffusion.box_snr_scale", "diffusion.embedding_snr_scale"):
        need(look_up(config, key) > 0, key, "must be above 0")
    need(config["sampler"]["time_power"] >= 1, "sampler.time_power", "must be 1 (evenly spaced times) or more")
    need(
        len(config["data"]["image_size"]) == 2 and min(config["data"]["image_size"]) >= 32,
        "data.image_size",
        "give (height, width), each 32 or more",
    )
    need(config["model"]["dim"] % config["model"]["heads"] == 0, "model.heads", "must divide config.model.dim")
    need(
        config["noise"]["gt_box_proposals"] < config["noise"]["slots"],
        "noise.gt_box_proposals",
        "must be below config.noise.slots",
    )
    need(
        config["noise"]["slots"] >= config["data"]["max_boxes"],
        "noise.slots",
        f"must be at least config.data.max_boxes={config['data']['max_boxes']}, or people are left out",
    )
    for key in ("train.init_parts", "train.frozen"):
        need(set(look_up(config, key)) <= set(PARTS), key, f"name modules of the model: {', '.join(PARTS)}")
    need(set(config["train"]["frozen"]) != set(PARTS), "train.frozen", "leave a module to train")
    need(
        config["train"]["steps"] == 0 or config["train"]["warmup"] < config["train"]["steps"],
        "train.warmup",
        f"must be below config.train.steps={config['train']['steps']}",
    )
    steps = config["evaluate"]["steps"]
    need(
        len(steps) > 0 and all(isinstance(s, int) and 1 <= s <= config["diffusion"]["timesteps"] for s in steps),
        "evaluate.steps",
        "give numbers of denoising steps, each from 1 to config.diffusion.timesteps",
    )
    need(
        not config["noise"]["one_step"] or tuple(steps) == (1,),
        "evaluate.steps",
        "a model without diffusion (config.noise.one_step) knows one step; give (1,)",
    )
    seeds = config["evaluate"]["seeds"]
    need(
        all(isinstance(s, int) and s >= 0 for s in seeds) and len(set(seeds)) == len(seeds),
        "evaluate.seeds",
        "give different whole numbers, or () for config.seed alone",
    )
    for protocol in config["evaluate"]["protocols"]:
        parse_protocol(protocol)
    parse_rerankings(config["evaluate"]["reranking"])
    TeacherOptions.from_config(config["teacher"])


def transfers(config: Any) -> bool:
    """Whether config.evaluate.data names a dataset of its own to evaluate on."""
    other = config["evaluate"]["data"]
    return bool(other["name"] or other["root"] or other["builder"])


def evaluation_data(config: Any) -> Mapping[str, Any]:
    """The part of the config that names the dataset to evaluate on: config.data, or what config.evaluate.data puts in
    its place: a `root` and `builder` options of its own, and a `name` where it is another kind of dataset."""
    own, other = config["data"], config["evaluate"]["data"]
    if not transfers(config):
        return own
    same = other["name"] in ("", own["name"])
    return {
        **own,
        "name": other["name"] or own["name"],
        "root": other["root"] or (own["root"] if same else ""),
        "builder": other["builder"],
    }


def check_files(config: Mapping[str, Any], parts: tuple[str, ...] = ("model", "train", "teacher")) -> None:
    """Raises InputError naming the key of weights that training these parts needs and that are not there."""
    trained = config["teacher"]["kind"] == "trained"
    for key in ("model.backbone_weights", "train.init_from", "teacher.init_from" if trained else "teacher.file"):
        path = look_up(config, key) if key.split(".")[0] in parts else ""
        if key == "model.backbone_weights" and path == "teacher":
            if not (trained and config["teacher"]["backbone"] == config["model"]["backbone"]):
                raise InputError(
                    f"config.{key}='teacher': the teacher must be trained here, with "
                    "config.teacher.backbone equal to config.model.backbone; name a file of weights, "
                    "or none"
                )
        elif path and not Path(path).expanduser().is_file():
            raise InputError(f"config.{key}={path!r}: no such file")


def _fields(cls: type, *groups: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {key: value for group in groups for key, value in group.items() if key in names}


def model_spec(config: Mapping[str, Any]) -> PSDiffSpec:
    """The model that config.model and config.diffusion describe."""
    model = config["model"]
    rest = {key: value for key, value in _fields(PSDiffSpec, model).items() if key != "backbone"}
    diffusion = Diffusion(**config["diffusion"], embedding_dim=model["embedding_dim"])
    return PSDiffSpec(
        backbone=SPECS[model["backbone"]], cdl=CDLOptions(**_fields(CDLOptions, model)), diffusion=diffusion, **rest
    )


def noise_spec(config: Mapping[str, Any]) -> NoiseOptions:
    return NoiseOptions(**config["noise"])


def match_spec(config: Mapping[str, Any]) -> MatchOptions:
    return MatchOptions(**config["matching"])


def sampler_spec(config: Mapping[str, Any]) -> SamplerOptions:
    return SamplerOptions(**_fields(SamplerOptions, config["sampler"]))


def optimizer_spec(config: Mapping[str, Any]) -> OptimizerOptions:
    return OptimizerOptions(**_fields(OptimizerOptions, config["train"]))


def override_error(argv: list[str], config: Any, error: Exception) -> str:
    """One line about a command line that could not be parsed. `config`: what --config gave, or None."""
    keys = [re.match(r"--config\.([\w.]+)", arg) for arg in argv]
    if config is not None:
        for problem in (unknown_key(config, key[1]) for key in keys if key):
            if problem:
                return problem
    files = [
        arg.split("=", 1)[-1]
        for arg, before in zip(argv, ["", *argv], strict=False)
        if arg.startswith("--config=") or before == "--config"
    ]
    if config is None and files and isinstance(error, OSError | ImportError):
        return f"--config {files[0]}: cannot be read ({' '.join(str(error).split())[-80:]})"
    if "Traceback" in str(error):  # raised inside the config file
        return f"--config {files[0] if files else ''}: {str(error).strip().splitlines()[-1].split(': ', 1)[-1]}"
    return " ".join(str(error).split()) or type(error).__name__
