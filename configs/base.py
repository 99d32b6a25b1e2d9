"""Every key with its default, made from the options' dataclasses, and named deviations from it.

    python -m psdiff_jax.main --config configs/base.py --print_config

lists the keys. This file is no experiment of its own: it names no dataset folder. Other configs start from it and
change a few keys.
"""

from typing import Any

from ml_collections import ConfigDict

from psdiff_jax.config import Config, to_config_dict

# The keys in which a named config differs from the defaults (docs/paper.md says why, and what each is worth).
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Algorithms 1 and 2 of the paper and its section V-A3, to the letter.
    "paper": {"model.cascade": "paper"},
    # For accuracy beyond the paper.
    "wide": {"model.dynamic_width": 64, "model.pool": "flatten", "model.proposal_attention": True},
}


def get_config(preset: str = "default") -> ConfigDict:
    """The defaults with the changes of a preset; `--config configs/base.py:wide` passes the name."""
    if preset not in PRESETS:
        raise ValueError(f"configs/base.py has no preset {preset!r}; there are {', '.join(PRESETS)}")
    config = to_config_dict(Config())
    config.update_from_flattened_dict(PRESETS[preset])
    return config
