"""Images of your own, annotated in COCO's JSON with person ids, or in a CSV.

    python -m psdiff_jax.main --config configs/custom.py:cpu --config.data.root=DIR --workdir runs/mine

datasets/custom/README.md says what DIR holds. `cpu` is the variant for two CPU cores, which begins with the
weights that are shipped for photographs; the full variant is for an accelerator.
"""

from ml_collections import ConfigDict

from psdiff_jax.configs.base import get_config as base
from psdiff_jax.configs.base import variant_error
from psdiff_jax.configs.real_people import with_people_weights


def get_config(variant: str = "") -> ConfigDict:
    config = base()
    config.data.update({"name": "custom"})
    config.data.augment.update({"scale_jitter": (0.8, 1.25), "color": 0.2})
    config.evaluate.update({"protocols": ("whole",), "search_threshold": 0.3})
    if variant == "cpu":
        return with_people_weights(config, image_size=(432, 576))
    if variant:
        raise variant_error("custom.py", variant, ("cpu",))
    return config
