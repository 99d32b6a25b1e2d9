"""Weights for real people, from drawn and rendered people in strongly varied places. Boxes alone are learned.

    python -m psdiff_jax.main --config configs/people_pretrain.py --config.data.root=TAR --workdir runs/people

TAR: cut-outs of rendered people (datasets/synthetic_street/README.md), half of the people; the others are drawn.
`configs/people_pretrain.py:mobilenet` trains the pyramid and the denoising layer for a frozen MobileNetV2 that has been
trained to detect people; name its file in config.model.backbone_weights.
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import variant_error
from psdiff_jax.configs.small import PRETRAINED
from psdiff_jax.configs.street_pretrain import get_config as street


def get_config(variant: str = "") -> ConfigDict:
    config = street()
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
    config.teacher.kind = "none"
    config.model.backbone_weights = ""
    config.matching.score = "iou"
    config.train.update(
        {
            "steps": 6_000,
            "init_from": str(PRETRAINED / "street_psdiff.npz"),
            "ema_decay": 0.998,
            "image_every": 0,
        }
    )
    config.evaluate.update({"steps": (1, 8), "protocols": ("sized:50,all",)})
    if variant == "mobilenet":
        config.model.backbone = "mobilenet_v2_omz"
        config.train.update({"init_parts": ("cdl",), "frozen": ("backbone",)})
    elif variant:
        raise variant_error("people_pretrain.py", variant, ("mobilenet",))
    return config
