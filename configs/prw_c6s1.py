"""Real frames: PRW, camera 6 sequence 1 (one camera: report it as prw_c6s1, never as PRW).

    python -m psdiff_jax.main --config configs/prw_c6s1.py --config.data.root=DIR/prw_c6s1 --workdir runs/prw_c6s1

The full variant is for an accelerator: ResNet-50 from ImageNet weights and an external teacher's embeddings, both of
which the command must name (config.model.backbone_weights, config.teacher.file) unless they lie beside DIR as in
DIR/prw_c6s1/teacher_omz0277.npz and DIR/weights/resnet50_v1_imagenet.npz.

Every variant but crops reads those embeddings. They are not published; the network behind them does as well:
--config.teacher.kind=openvino --config.teacher.file=.../person-reidentification-retail-0277.xml (Open Model Zoo).

Variants:

    cpu          two CPU cores, 20 minutes: an Open Model Zoo detector's backbone at half resolution to find people and
                 OSNet to tell them apart (configs/real_people.py), DIR/../weights/intel/person-detection-0203.xml and
                 DIR/../weights/osnet_x0_25_msmt17.onnx unless the command names others
    long         the same in an hour, after 50 minutes for its read-out, with the re-ID network behind the teacher
    crops        the same in 40 minutes: that network sees crops of the people found, and no images; no teacher
    small        two CPU cores, 15 minutes, nothing but the teacher and what is shipped: the model for photographs at
                 432x540 pixels
    distillation, cpu_distillation, small_distillation
                 the plain distillation that the paper's Table VI compares with: the same network without diffusion,
                 people and their embeddings regressed from random boxes in one step
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base
from psdiff_jax.configs.base import variant_error
from psdiff_jax.configs.real_people import (
    with_boxes_alone,
    with_crops,
    with_kept_readout,
    with_people_weights,
    with_published_backbones,
    with_reid_network,
)

VARIANTS = ("", "cpu", "long", "crops", "small", "distillation", "cpu_distillation", "small_distillation")


def get_config(variant: str = "") -> ConfigDict:
    config = base()
    config.data.update({"name": "prw", "image_size": (576, 720), "max_boxes": 16, "cache": True})
    config.data.augment.update({"scale_jitter": (0.8, 1.25), "color": 0.2})
    config.teacher.update({"kind": "file", "file": "{root}/teacher_omz0277.npz"})
    config.model.update(
        {
            "backbone": "resnet50_v1",
            "backbone_weights": "{root}/../weights/resnet50_v1_imagenet.npz",
            "pool": "flatten",
        }
    )
    config.train.update({"steps": 12_000, "batch_size": 16, "learning_rate": 1e-4, "ema_decay": 0.999})
    config.evaluate.update({"protocols": ("whole", "temporal_gap:250"), "search_threshold": 0.3})
    if variant not in VARIANTS:
        raise variant_error("prw_c6s1.py", variant, VARIANTS)
    if variant.startswith(("cpu", "long", "crops")):
        with_published_backbones(config, image_size=(576, 720))
        if variant.startswith("cpu"):
            with_kept_readout(config).train.steps = 1_500
        elif variant == "long":
            with_reid_network(config).train.steps = 3_500
        else:
            with_boxes_alone(with_crops(config)).train.update({"views": 4, "steps": 3_500})
    elif variant.startswith("small"):
        with_people_weights(config, image_size=(432, 540))
        config.train.init_parts += ("readout",)  # this teacher is the one that it was made for
    if variant.endswith("distillation"):
        config.noise.one_step = True
        config.evaluate.steps = (1,)
    return config
