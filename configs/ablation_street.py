"""The setting of the ablations (`scripts/ablate.py`): what the denoising layer learns on a finished feature extractor.

    python scripts/ablate.py --config configs/ablation_street.py --workdir runs/ablation

Backbone and FPN are the shipped checkpoint's and stay as they are; the denoising layer, the paper's with every switch
on, begins with random weights. So a run takes minutes on two CPU cores and differs by what is ablated alone.
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.small import PRETRAINED
from psdiff_jax.configs.street_pretrain import get_config as pretrain


def get_config() -> ConfigDict:
    config = pretrain()
    config.teacher.update({"init_from": str(PRETRAINED / "street_teacher.npz"), "steps": 0})
    config.model.update({"backbone_weights": "", "self_attention": True, "side": 5, "pool": "mean"})
    config.noise.update({"num_proposals": 32})
    config.sampler.time_power = 1.0
    config.train.update(
        {
            "init_from": str(PRETRAINED / "street_psdiff.npz"),
            "init_parts": ("backbone", "fpn"),
            "frozen": ("backbone", "fpn"),
            "steps": 2000,
            "warmup": 100,
            "ema_decay": 0.99,
            "image_every": 100_000,
        }
    )
    config.evaluate.update({"steps": (1, 8), "example_queries": 0})
    return config
