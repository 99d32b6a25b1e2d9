"""MOTChallenge sequences as person search: tracks are identities, sequences are cameras.

    python -m psdiff_jax.main --config configs/mot.py:cpu --config.data.root=DIR --workdir runs/mot

DIR holds sequences (`SEQ/img1`, `SEQ/gt/gt.txt`; datasets/mot/README.md says how queries are drawn). The full variant
is for an accelerator. For two CPU cores:

    cpu     published backbones and a published teacher (configs/real_people.py), in DIR/../weights unless the command
            names others
    crops   the same, but no teacher: its network embeds crops of the people found
    small   the model shipped for photographs, and nothing else
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base
from psdiff_jax.configs.base import variant_error
from psdiff_jax.configs.real_people import (
    TEACHER,
    with_boxes_alone,
    with_crops,
    with_kept_readout,
    with_people_weights,
    with_published_backbones,
)

VARIANTS = ("", "cpu", "crops", "small")


def get_config(variant: str = "") -> ConfigDict:
    config = base()
    config.data.update({"name": "mot", "max_boxes": 128, "builder": {"queries_per_track": 5}})
    config.data.augment.update({"scale_jitter": (0.8, 1.25), "color": 0.2})
    config.evaluate.update({"protocols": ("whole", "temporal_gap:25"), "search_threshold": 0.3})
    if variant not in VARIANTS:
        raise variant_error("mot.py", variant, VARIANTS)
    if variant in ("cpu", "crops"):
        config.data.max_boxes = 32
        config.teacher.update({"kind": "openvino", "file": TEACHER})
        with_published_backbones(config, image_size=(576, 768))
        if variant == "cpu":
            with_kept_readout(config).train.steps = 800
        else:
            with_boxes_alone(with_crops(config)).train.views = 4
        return config
    if variant == "small":
        config.data.max_boxes = 32
        return with_people_weights(config, image_size=(432, 576))
    return config
