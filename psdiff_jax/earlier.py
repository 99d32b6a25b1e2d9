"""Config keys and values of earlier versions, which command lines, config files and files of old runs may hold."""

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "diffusion.box_scale": "diffusion.box_snr_scale",
    "diffusion.embedding_scale": "diffusion.embedding_snr_scale",
    "evaluate.strips": "evaluate.example_queries",
    "model.slot_attention": "model.proposal_attention",
    "noise.exact_slots": "noise.gt_box_proposals",
    "noise.slots": "noise.num_proposals",
    "sampler.slots": "sampler.num_proposals",
    "teacher.crops_per_person": "teacher.crops_per_identity",
    "teacher.people": "teacher.identities",
    "train.backbone_scale": "train.scales.backbone",
}
RENAMED_VALUES = {"evaluate.query": {"pin": "gt_box", "match": "detected"}}


def todays_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of a config with today's keys and values in place of those of earlier versions."""
    plain = {name: dict(group) if isinstance(group, Mapping) else group for name, group in values.items()}
    groups = {name: group for name, group in plain.items() if isinstance(group, dict)}
    for old, new in RENAMED.items():
        (name, before), (_, *inner, after) = old.split("."), new.split(".")
        group = groups.get(name, {})
        if before in group:
            value, into = group.pop(before), group
            for part in inner:
                into[part] = dict(into.get(part, {}))
                into = into[part]
            into[after] = value  # a file that starts from the defaults has both
    for key, meanings in RENAMED_VALUES.items():
        name, option = key.split(".")
        group = groups.get(name, {})
        if group.get(option) in meanings:
            group[option] = meanings[group[option]]
    return plain
