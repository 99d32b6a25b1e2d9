"""CUHK-SYSU, with every gallery size and subset of the literature.

    python -m psdiff_jax.main --config configs/cuhk_sysu.py --config.data.root=DIR --workdir runs/cuhk_sysu \\
        --config.model.backbone_weights=RESNET50

DIR holds `Image/` and `annotation/` (datasets/cuhk_sysu/README.md). The default of the literature is gallery size 100.
`configs/cuhk_sysu.py:paper` is the paper's setting to the letter (docs/paper.md), `configs/cuhk_sysu.py:rows` adds the
row read-out, its closed-form start and scores that are IoUs. For an accelerator; not run yet, for want of one and of
the dataset. Another dataset is evaluated with `--config.evaluate.data.name=... .root=...`.
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base


def get_config(preset: str = "default") -> ConfigDict:
    config = base(preset)
    config.data.update({"name": "cuhk_sysu"})
    if preset != "paper":  # which trains on every image and does not choose a threshold
        config.data.held_out = 0.05
    config.evaluate.update(
        {
            "protocols": ("listed:50,100,500,1000,2000,4000,all", "listed:occlusion,low_resolution"),
            "reranking": ("cws", "cbgm:10,3"),
        }
    )
    return config
