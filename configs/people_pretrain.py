"""Weights for real people, from drawn and rendered people in strongly varied places: what is shipped for photographs.

Four runs, each of which takes the results of those before:

    python scripts/imitate_backbone.py --config configs/people_pretrain.py:imitate --config.data.root=TAR \\
        --imitated person-detection-0203.xml --workdir runs/imitated
    python -m psdiff_jax.main --config configs/people_pretrain.py:mobilenet --config.data.root=TAR --mode train \\
        --config.model.backbone_weights=person-detection-0203.xml --workdir runs/people_pyramid
    configs/readout_pretrain.py:people, to runs/people_readout
    python -m psdiff_jax.main --config configs/people_pretrain.py --config.data.root=TAR --mode train \\
        --config.model.backbone_weights=runs/imitated/backbone.npz --workdir runs/people \\
        --config.train.init_from=runs/people_pyramid/model.npz --config.train.readout_from=runs/people_readout/model.npz

TAR: cut-outs of rendered people (datasets/synthetic_street/README.md), half of the people; the others are drawn.

1. A backbone learns the maps of a detector of the Open Model Zoo.
2. Pyramid and denoising layer are trained on that detector's own backbone, whose maps the first one makes.
3. A copy of the backbone, with the row read-out, learns to tell people apart as a re-ID network of the zoo does.
4. The parts are put together; nothing is trained (`config.train.steps`).
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base
from psdiff_jax.configs.base import variant_error
from psdiff_jax.configs.real_people import with_people_settings
from psdiff_jax.configs.small import PRETRAINED
from psdiff_jax.configs.street_pretrain import get_config as street

VARIANTS = ("", "mobilenet", "imitate")


def get_config(variant: str = "") -> ConfigDict:
    config = street()
    config.sampler = base().sampler  # even times are better here with 8 steps; the street's are for few
    config.sampler.num_proposals = 64
    config.data.update({"image_size": (240, 320), "max_boxes": 16})
    config.data.augment.update({"color": 0.2, "scale_jitter": (0.8, 1.3)})
    config.data.builder = ConfigDict(
        {
            "preset": "varied",
            "drawn_share": 0.5,
            "train_images": 16_000,
            "gallery_images": 400,
            "train_identities": 570,
            "test_identities": 120,
            "queries": 120,
            "workers": 2,
        }
    )
    with_people_settings(config)
    config.train.update(
        {
            "steps": 2_000,
            "init_from": str(PRETRAINED / "people_psdiff.npz"),
            "init_parts": ("fpn", "cdl"),
            "frozen": ("backbone",),
            "ema_decay": 0.998,
            "image_every": 0,
        }
    )
    config.evaluate.update({"steps": (1, 8), "protocols": ("sized:50,all",)})
    config.model.update({"backbone": "mobilenet_v2_omz", "backbone_weights": ""})
    if variant == "":
        config.data.image_size = (432, 576)
        few = {"train_images": 16, "gallery_images": 16, "train_identities": 8, "test_identities": 4, "queries": 4}
        config.data.builder.update(few)
        config.teacher.kind = "none"
        config.model.update({"reid_backbone": "mobilenet_v2_omz", "readout_rows": 4})
        config.train.update({"steps": 0, "frozen": ("backbone", "reid_backbone")})
        config.train.scales.readout = 0.02
    elif variant == "mobilenet":
        config.teacher.kind = "none"
        config.model.cascade = "parallel"  # boxes read nothing of the embeddings, which a read-out takes over later
        config.train.update(
            {"steps": 6_000, "init_from": str(PRETRAINED / "street_psdiff.npz"), "init_parts": ("cdl",)}
        )
    elif variant == "imitate":
        config.teacher.kind = "none"
        config.data.image_size = (192, 256)
        config.data.augment.update({"color": 0.5, "scale_jitter": (0.8, 1.8)})
        config.train.update({"steps": 4_500, "learning_rate": 3e-3, "warmup": 100, "checkpoint_every": 250})
    else:
        raise variant_error("people_pretrain.py", variant, VARIANTS)
    return config
