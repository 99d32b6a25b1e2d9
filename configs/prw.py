"""PRW, the paper's setting: the standard gallery, and frames of other cameras or of the query's camera alone.

    python -m psdiff_jax.main --config configs/prw.py --config.data.root=DIR --workdir runs/prw \\
        --config.model.backbone_weights=RESNET50

DIR holds `frames/`, `annotations/`, ... (datasets/prw/README.md). For an accelerator; not run here, where there is
neither one nor the whole dataset (`configs/prw_c6s1.py` is one camera of it).
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base


def get_config() -> ConfigDict:
    config = base()
    config.data.update({"name": "prw", "held_out": 0.05})
    config.evaluate.update({"protocols": ("whole", "cross_camera", "same_camera"), "reranking": ("cws", "cbgm:30,4")})
    return config
