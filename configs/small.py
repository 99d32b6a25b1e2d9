"""The small model of the quick start, for two CPU cores: other configs shrink themselves to it. No experiment."""

from pathlib import Path

from ml_collections import ConfigDict

from psdiff_jax.configs.street_pretrain import get_config as street

PRETRAINED = Path(__file__).parent / "pretrained"


def shrink(config: ConfigDict, image_size: tuple[int, int]) -> ConfigDict:
    """Puts the shipped street model in, to be fine-tuned on images of `image_size`; a few minutes of training.

    The teacher, where it is trained here, is fine-tuned from the shipped one as well.
    """
    small = street()
    config.model = small.model
    config.model.backbone_weights = ""
    config.data.update({"image_size": image_size, "cache": True})
    config.noise.update({"num_proposals": 64})
    config.sampler.update({"num_proposals": 64})
    config.train.update(
        {
            "steps": 1_000,
            "batch_size": 8,
            "learning_rate": 5e-4,
            "warmup": 100,
            "schedule": "cosine",
            "ema_decay": 0.995,
            "init_from": str(PRETRAINED / "street_psdiff.npz"),
            "checkpoint_every": 200,
            "image_every": 500,
        }
    )
    if config.teacher.kind == "trained":
        config.teacher = small.teacher
        config.teacher.update(
            {
                "init_from": str(PRETRAINED / "street_teacher.npz"),
                "steps": 300,
                "learning_rate": 3e-4,
                "warmup_steps": 20,
                "freeze_statistics": True,
            }
        )
    return config
