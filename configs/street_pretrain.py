"""The run that made the checkpoint the quick start continues from: drawn street scenes, a model for two CPU cores.

    python -m psdiff_jax.main --config configs/street_pretrain.py --workdir runs/street_pretrain

docs/results.md says how long it took and what came out.
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.data.update({"name": "synthetic_street", "image_size": (160, 256), "max_boxes": 8, "cache": True})
    config.data.augment.update({"color": 0.1})
    config.data.builder = ConfigDict(
        {
            "preset": "tiny",
            "train_images": 6000,
            "train_identities": 1500,
            "gallery_images": 300,
            "test_identities": 100,
            "queries": 100,
            "cameras": 12,
            "camera_seed": 0,
            "seed": 0,
        }
    )
    config.teacher.update(
        {
            "backbone": "small",
            "crop_size": (96, 48),
            "steps": 1500,
            "identities": 32,
            "crops_per_identity": 4,
            "learning_rate": 2e-3,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "warmup_steps": 100,
            "jitter": 0.1,
            "unlabelled": 0,
            "negatives": 0,
        }
    )
    config.model.update(
        {
            "backbone": "small",
            "backbone_weights": "teacher",
            "dim": 64,
            "self_attention": False,
            "pool": "flatten",
            "time_dim": 256,
            "sampling_ratio": 1,
            "canonical_size": 112.0,
            "dtype": "float32",
        }
    )
    config.noise.update({"num_proposals": 64})
    config.sampler.update({"num_proposals": 64, "time_power": 2.0, "warm_time": 0.25})
    config.train.update(
        {
            "steps": 14_000,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "warmup": 200,
            "schedule": "cosine",
            "ema_decay": 0.999,
            "checkpoint_every": 500,
            "image_every": 2_000,
        }
    )
    config.evaluate.update({"protocols": ("sized:50,100,all",), "search_threshold": 0.3, "batch_size": 16})
    return config
