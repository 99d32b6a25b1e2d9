"""Search of a folder of images and videos with the weights that are shipped for photographs; no training.

    python -m psdiff_jax.main --config configs/folder.py --config.data.root=DIR --workdir runs/photos --mode search \\
        --query IMAGE:x1,y1,x2,y2

With the model of a run of your own: its config and --workdir, and --config.data.name=folder (docs/search.md).

Variants:

    crops    a published re-ID network embeds crops of the people found: give its file as config.model.reid_weights
             (person-reidentification-retail-0277.xml of Open Model Zoo)
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base
from psdiff_jax.configs.base import variant_error
from psdiff_jax.configs.real_people import with_crops, with_people_weights


def get_config(variant: str = "") -> ConfigDict:
    config = base()
    config.data.name = "folder"
    with_people_weights(config, image_size=(432, 576))
    config.train.update({"init_parts": (), "closed_form": False})  # the whole model as it is
    if variant == "crops":
        with_crops(config, reid_weights="").train.init_parts = ("backbone", "fpn", "cdl")
    elif variant:
        raise variant_error("folder.py", variant, ("crops",))
    return config
