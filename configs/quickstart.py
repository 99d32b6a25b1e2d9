"""Fresh clone to finished report on two CPU cores: a new set of cameras and new people, from the shipped checkpoint.

    python -m psdiff_jax.main --config configs/quickstart.py --workdir runs/quickstart

`configs/quickstart.py:smoke` does all of it in miniature, for a test.
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import variant_error
from psdiff_jax.configs.small import PRETRAINED
from psdiff_jax.configs.street_pretrain import get_config as pretrain


def get_config(variant: str = "") -> ConfigDict:
    config = pretrain()
    config.data.builder.update(
        {
            "train_images": 1800,
            "train_identities": 450,
            "gallery_images": 200,
            "test_identities": 80,
            "queries": 80,
            "cameras": 6,
            "camera_seed": 1,
            "seed": 1,
        }
    )
    # The shipped teacher is fine-tuned: its embedding space stays, so what PSDiff has learned stays good for it.
    config.teacher.update(
        {
            "init_from": str(PRETRAINED / "street_teacher.npz"),
            "steps": 100,
            "learning_rate": 3e-4,
            "warmup_steps": 20,
            "freeze_statistics": True,
        }
    )
    config.train.update(
        {
            "init_from": str(PRETRAINED / "street_psdiff.npz"),
            "steps": 1200,
            "learning_rate": 5e-4,
            "warmup": 50,
            "ema_decay": 0.995,
            "checkpoint_every": 200,
            "image_every": 600,
        }
    )
    config.model.backbone_weights = ""
    if variant == "smoke":
        config.data.builder.update(
            {
                "train_images": 24,
                "train_identities": 6,
                "gallery_images": 16,
                "test_identities": 4,
                "queries": 4,
                "cameras": 2,
            }
        )
        config.teacher.update({"steps": 2, "identities": 4, "crops_per_identity": 2})
        config.train.update({"steps": 4, "warmup": 1, "log_every": 2, "checkpoint_every": 2, "image_every": 4})
        config.evaluate.update({"steps": (1, 2), "protocols": ("sized:8,all",)})
    elif variant:
        raise variant_error("quickstart.py", variant, ("smoke",))
    return config
