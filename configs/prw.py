"""PRW: the standard gallery, and frames of other cameras or of the query's camera alone.

    python -m psdiff_jax.main --config configs/prw.py --config.data.root=DIR --workdir runs/prw \\
        --config.model.backbone_weights=RESNET50

DIR holds `frames/`, `annotations/`, ... (datasets/prw/README.md). `configs/prw.py:paper` is the paper's setting to the
letter (docs/paper.md), `configs/prw.py:rows` adds the row read-out, its closed-form start and scores that are IoUs. For
an accelerator; not run yet, for want of one and of the whole dataset (`configs/prw_c6s1.py` is one camera of it).
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base


def get_config(preset: str = "default") -> ConfigDict:
    config = base(preset)
    config.data.update({"name": "prw"})
    if preset != "paper":  # which trains on every image and does not choose a threshold
        config.data.held_out = 0.05
    config.evaluate.update({"protocols": ("whole", "cross_camera", "same_camera"), "reranking": ("cws", "cbgm:30,4")})
    return config
