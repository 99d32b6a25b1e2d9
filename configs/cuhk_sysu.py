"""CUHK-SYSU, the paper's setting, with every gallery size and subset of the literature.

    python -m psdiff_jax.main --config configs/cuhk_sysu.py --config.data.root=DIR --workdir runs/cuhk_sysu \\
        --config.model.backbone_weights=RESNET50

DIR holds `Image/` and `annotation/` (datasets/cuhk_sysu/README.md). The default of the literature is gallery size 100.
For an accelerator; not run here, where there is neither one nor the dataset. To look for the same people with a model
of another dataset: `--config.evaluate.data.name=... --config.evaluate.data.root=...` (README, "Another dataset").
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.data.update({"name": "cuhk_sysu", "held_out": 0.05})
    config.evaluate.update(
        {
            "protocols": ("listed:50,100,500,1000,2000,4000,all", "listed:occlusion,low_resolution"),
            "reranking": ("cws", "cbgm:10,3"),
        }
    )
    return config
