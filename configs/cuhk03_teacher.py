"""A teacher alone: supervised HHCL on the crops of CUHK03, tested on 100 held-out identities across two cameras.

    python scripts/unpack_cuhk03.py cuhk03_128x64.tar DIR
    python -m psdiff_jax.main --config configs/cuhk03_teacher.py --config.data.root=DIR --workdir runs/cuhk03 \\
        --mode evaluate_teacher

trains the quick start's small backbone and then scores it, in some minutes on two CPU cores. It starts from the shipped
street teacher, whose first layers help although it was trained on drawings only. Variants behind a colon:

    resnet50   the recipe of the paper's teacher for an accelerator: ResNet-50 at 256x128, 16 identities x 16 crops,
               from ImageNet weights (config.teacher.init_from)
    imagenet   no training: ImageNet's features alone, ResNet-50 pooled and without a head
               (config.teacher.init_from)

`--config.teacher.init_from` names a file that `psdiff_jax.convert.backbone` reads; the v1 layout (stride on the first
1x1) is also `--config.teacher.backbone=resnet50_v1`.
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base
from psdiff_jax.configs.base import variant_error
from psdiff_jax.configs.small import PRETRAINED

VARIANTS = {
    "": {
        "backbone": "small", "crop_size": (128, 64), "init_from": str(PRETRAINED / "street_teacher.npz"),
        "steps": 900, "identities": 32, "crops_per_identity": 4, "learning_rate": 2e-3, "warmup_steps": 50,
        "weight_decay": 1e-4, "schedule": "cosine",
    },
    "resnet50": {"steps": 4_000, "schedule": "step", "bfloat16": True},
    "imagenet": {"steps": 0, "embedding_dim": 2048},
}  # fmt: skip


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise variant_error("cuhk03_teacher.py", variant, VARIANTS)
    config = base()
    config.data.update({"name": "custom"})
    config.teacher.update(VARIANTS[variant])
    config.model.embedding_dim = config.teacher.embedding_dim  # no PCA
    config.evaluate.update({"protocols": ("cross_camera",)})
    return config
