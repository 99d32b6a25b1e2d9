"""Search of a folder of images and videos with the weights that are shipped for photographs; no training.

    python -m psdiff_jax.main --config configs/folder.py --config.data.root=DIR --workdir runs/photos --mode search \\
        --query IMAGE:x1,y1,x2,y2

With the model of a run of your own: its config and --workdir, and --config.data.name=folder (docs/search.md).
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base
from psdiff_jax.configs.real_people import with_people_weights


def get_config() -> ConfigDict:
    config = base()
    config.data.name = "folder"
    with_people_weights(config, image_size=(432, 576))
    config.train.update({"init_parts": (), "closed_form": False})  # the whole model as it is
    return config
