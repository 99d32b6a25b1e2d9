"""What the variants for two CPU cores have to find real people with. Not an experiment.

`with_people_settings`: how weights for photographs are trained and sampled.
`with_people_weights`: the model whose weights are shipped for photographs, and nothing else.
`with_published_backbones`: two extractors that are not shipped, neither trained further: at half resolution the
MobileNetV2 of a person detector, whose maps become the pyramid in which people are found; at full resolution an OSNet
trained for re-ID, from whose maps the row read-out tells them apart. config.model.backbone_weights and
config.model.reid_weights name their files.
`with_kept_readout`: training that leaves that read-out as its start has it.
`with_reid_network`: a better one of the second kind.
`with_crops`: the same, but it embeds crops of the people that are found, as a search in two stages does.
`with_boxes_alone`: training for crops, which needs no teacher.
"""

from typing import Any

from ml_collections import ConfigDict

from psdiff_jax.configs.small import PRETRAINED, shrink

DETECTOR = "{root}/../weights/intel/person-detection-0203.xml"  # Open Model Zoo
TEACHER = "{root}/../weights/intel/person-reidentification-retail-0277.xml"
CROPS = 64  # people of an image at most; who is not there costs nothing
REID = "{root}/../weights/osnet_x0_25_msmt17.onnx"
KEPT = ("backbone", "reid_backbone", "readout")  # frozen, where the read-out is as good as it gets


def with_kept_readout(config: ConfigDict) -> ConfigDict:
    """The row read-out stays as sheets and the closed form have left it: the few people of these scenes would spoil it.
    What is frozen sees each view of an image once then, and the layer has little to learn but boxes."""
    config.model.cascade = "parallel"
    config.matching.reid = 1.0
    config.train.update({"views": 2, "frozen": KEPT})
    return config


def with_reid_network(config: ConfigDict) -> ConfigDict:
    """The re-ID network behind the teacher instead of OSNet x0.25: ten times the arithmetic, so each image is seen by
    it a few times only."""
    config.model.update({"reid_backbone": "osnet_omz", "reid_weights": TEACHER, "readout_strides": (8, 16)})
    config.train.update({"views": 3, "frozen": KEPT})
    return config


def with_crops(config: Any, reid_weights: str = TEACHER) -> Any:
    """That network embeds crops of the people of an image, once they are found, and nothing else: a ConfigDict or
    nested dicts, changed in place. A detector that has seen whole images finds people at half their resolution then,
    so that crops are twice as large.
    """
    model, data = config["model"], config["data"]
    model.update({"reid_backbone": "osnet_omz", "reid_weights": reid_weights, "reid_crops": CROPS})
    model.update({"readout_rows": 0, "reid_head": False, "reid_scale": 1})
    if model["downsample"] == 1:
        height, width = data["image_size"]
        data["image_size"], model["downsample"] = (2 * height, 2 * width), 2
    config["train"].update({"frozen": ("backbone", "reid_backbone"), "closed_form": False})
    config["sampler"]["same_person"] = 0.6
    return config


def with_boxes_alone(config: ConfigDict) -> ConfigDict:
    """Nothing is learned of embeddings, and boxes read nothing of them: where crops tell people apart they only take
    the layer's attention off finding people."""
    config.teacher.kind = "none"
    config.model.cascade = "parallel"
    return config


def with_people_settings(config: ConfigDict) -> ConfigDict:
    """What the weights shipped for photographs are trained and sampled with, other than the paper's model."""
    config.diffusion.box_snr_scale = 3.0  # boxes fit better than with 2
    config.matching.score = "iou"
    config.evaluate.search_threshold = 0.5  # of an expected IoU
    config.sampler.nms_threshold = 0.4  # a poor second box of a person ranks before good ones of others
    config.sampler.average_threshold = 0.7
    return config


def with_people_weights(config: ConfigDict, image_size: tuple[int, int]) -> ConfigDict:
    """The model that is shipped for photographs, to be fine-tuned; its read-out starts anew, for another teacher.

    It has two backbones of one kind: one finds people, from the other's maps the row read-out tells them apart.
    """
    shrink(config, image_size)
    config.model.update({"backbone": "mobilenet_v2_omz", "reid_backbone": "mobilenet_v2_omz", "readout_rows": 4})
    with_people_settings(config)
    config.train.update(
        {
            "init_from": str(PRETRAINED / "people_psdiff.npz"),
            "init_parts": ("backbone", "fpn", "cdl", "reid_backbone"),
            "frozen": ("backbone", "reid_backbone"),
            "closed_form": True,
        }
    )
    config.train.scales.readout = 0.02  # the closed form is soon undone otherwise
    return config


def with_published_backbones(config: ConfigDict, image_size: tuple[int, int]) -> ConfigDict:
    """The same on two published backbones; the shipped pyramid and denoising layer fit the first of them."""
    with_people_weights(config, image_size)
    config.model.update(
        {
            "backbone_weights": DETECTOR,
            "downsample": 2,
            "reid_backbone": "osnet_x0_25",
            "reid_weights": REID,
        }
    )
    config.train.init_parts = ("fpn", "cdl")
    return config
