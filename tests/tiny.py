"""A config small enough for tests: the quick start's path with a model of a few thousand parameters."""

from pathlib import Path

from ml_collections import ConfigDict

from psdiff_jax.configs.street_pretrain import get_config


def tiny_config(prepared_dir: Path) -> ConfigDict:
    config = get_config()
    config.data.update({"prepared_dir": str(prepared_dir), "image_size": (96, 160)})
    config.data.builder.update(
        {
            "train_images": 12,
            "train_identities": 4,
            "gallery_images": 9,
            "test_identities": 3,
            "queries": 3,
            "cameras": 3,
            "size": (96, 160),
            "workers": 1,
        }
    )
    config.teacher.update(
        {
            "backbone": "tiny",
            "crop_size": (48, 24),
            "steps": 2,
            "identities": 2,
            "crops_per_identity": 2,
            "warmup_steps": 1,
            "embedding_dim": 32,
        }
    )
    config.model.update({"backbone": "tiny", "dim": 16, "heads": 2, "embedding_dim": 32, "time_dim": 32, "side": 3})
    config.noise.update({"num_proposals": 12})
    config.sampler.update({"num_proposals": 12})
    config.train.update(
        {"steps": 4, "batch_size": 2, "warmup": 1, "log_every": 2, "checkpoint_every": 2, "image_every": 4}
    )
    config.train.schedule = "constant"  # one program for any number of steps
    config.evaluate.update(
        {
            "steps": (1, 2),
            "batch_size": 4,
            "protocols": ("whole", "sized:4,all"),
            "detection_threshold": 0.0,
            "search_threshold": 0.0,
        }
    )
    return config
