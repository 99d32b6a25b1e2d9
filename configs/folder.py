"""Search of a folder of images and videos with the shipped weights, which know drawn people only; no training.

    python -m psdiff_jax.main --config configs/folder.py --config.data.root=DIR --workdir runs/photos --mode search \\
        --query IMAGE:x1,y1,x2,y2

With the model of a run of your own: its config and --workdir, and --config.data.name=folder (docs/search.md).
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.small import PRETRAINED
from psdiff_jax.configs.street_pretrain import get_config as street


def get_config() -> ConfigDict:
    config = street()
    config.data.update({"name": "folder", "builder": ConfigDict(), "cache": False})
    config.model.backbone_weights = ""
    config.train.init_from = str(PRETRAINED / "street_psdiff.npz")
    return config
