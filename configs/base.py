"""Every key with its default, made from the options' dataclasses, and named deviations from it.

    python -m psdiff_jax.main --config configs/base.py --print_config

lists the keys. This file is no experiment of its own: it names no dataset folder. Other configs start from it and
change a few keys.
"""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from psdiff_jax.config import Config, to_config_dict

# The keys in which a named config differs from the defaults (docs/paper.md says why, and what each is worth).
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Algorithms 1 and 2 of the paper and its section V-A3, to the letter; give it an ImageNet backbone.
    "paper": {
        "model.cascade": "paper",
        "model.head_init": "xavier",
        "noise.random_fraction": 0.0,
        "noise.rollout_probability": 0.0,
        "noise.gt_box_proposals": 0,
        "matching.rule": "hungarian",
        "matching.reid_reduction": "sum",
        "sampler.eta": 0.0,
        "sampler.renewal_threshold": 0.0,
        "evaluate.query": "detected",
        "teacher.warmup_steps": 0,
    },
    # For accuracy beyond the paper: a heavier layer; and what finds real people in the small models (docs/models.md).
    "wide": {"model.dynamic_width": 64, "model.pool": "flatten", "model.proposal_attention": True},
    "rows": {
        "model.readout_rows": 4,
        "train.closed_form": True,
        "train.scales.readout": 0.02,
        "matching.score": "iou",
        "evaluate.search_threshold": 0.6,
    },
}


def variant_error(file: str, variant: str, known: Iterable[str]) -> ValueError:
    """What a config file raises for a variant that it does not have."""
    return ValueError(f"configs/{file} has no variant {variant!r}; choose {', '.join(filter(None, known))}")


def get_config(preset: str = "default") -> ConfigDict:
    """The defaults with the changes of a preset; `--config configs/base.py:wide` passes the name."""
    if preset not in PRESETS:
        raise variant_error("base.py", preset, PRESETS)
    config = to_config_dict(Config())
    config.update_from_flattened_dict(PRESETS[preset])
    return config
