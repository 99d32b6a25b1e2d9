"""The row read-out and the backbone that it reads, from crops of people laid out on sheets: where few people have a
target, other people's crops tell it what to look at. It starts in closed form; nothing else is trained.

    python -m psdiff_jax.main --config configs/readout_pretrain.py --mode train --config.data.root=CROPS \\
        --config.model.reid_weights=OSNET --config.teacher.file=TEACHER --workdir runs/readout

CROPS: a folder or tar of crops (datasets/crop_sheets/README.md). OSNET: osnet_x0_25_msmt17.onnx. TEACHER:
person-reidentification-retail-0277.xml. A run on scenes departs from it with config.train.readout_from =
runs/readout/model.npz. `--config.train.steps=0` leaves the backbone as it is.

`configs/readout_pretrain.py:people` makes the half of the shipped weights for photographs that tells people apart, from
drawn and rendered people (`scripts/cut_crops.py`): it departs from the backbone of the shipped half that finds them.
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base
from psdiff_jax.configs.base import variant_error
from psdiff_jax.configs.real_people import with_people_weights, with_published_backbones

VARIANTS = ("", "people")


def get_config(variant: str = "") -> ConfigDict:
    config = base()
    config.data.update({"name": "crop_sheets", "max_boxes": 112})
    config.teacher.kind = "openvino"
    if variant == "":
        with_published_backbones(config, image_size=(576, 720))
        config.model.update({"backbone": "small", "backbone_weights": "", "reid_weights": ""})
        config.train.update({"init_from": "", "init_parts": (), "frozen": ("backbone", "fpn", "cdl")})
    elif variant == "people":
        with_people_weights(config, image_size=(432, 540))
        config.data.builder.update({"size": (432, 540), "person_height": (52, 216)})
        config.model.reid_backbone = ""
        config.train.update({"init_parts": ("backbone",), "frozen": ("fpn", "cdl")})
    else:
        raise variant_error("readout_pretrain.py", variant, VARIANTS)
    config.data.augment.update({"scale_jitter": (0.8, 1.25), "color": 0.2})
    config.train.update(
        {
            "objective": "readout",
            "steps": 1_400,
            "batch_size": 2,
            "learning_rate": 3e-4,
            "ema_decay": 0.99,
            "image_every": 0,
        }
    )
    config.train.scales.readout = 0.05  # its closed form is near the optimum
    config.noise.num_proposals = 112
    return config
