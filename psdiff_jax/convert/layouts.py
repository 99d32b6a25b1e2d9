"""The layouts of backbones, recognised by the names of their tensors. Registering one here is all that is needed."""

import re
from collections.abc import Mapping

import numpy as np

from psdiff_jax.convert.layout import BackboneLayout, Checkpoint
from psdiff_jax.convert.mobilenet import MOBILENETS
from psdiff_jax.convert.osnet import OSNETS
from psdiff_jax.convert.resnet import RESNETS
from psdiff_jax.convert.swin import SWINS
from psdiff_jax.errors import InputError

OURS = BackboneLayout("our own layout", (r".+/.+",), lambda name: (name,), ours=True)
LAYOUTS: list[BackboneLayout] = [OURS, *RESNETS, *SWINS, *OSNETS, *MOBILENETS]  # the first that fits is taken
_WHOLE = r"(^|[./])(rpn|roi_heads?|rpn_head|bbox_head|proposal_generator|fpn|neck|transformer|detr|cdl)[./]"


def recognise(arrays: Mapping[str, np.ndarray], where: str) -> tuple[BackboneLayout, Checkpoint]:
    """The layout of a file of weights, and the file read by it.

    Raises:
      InputError: no known backbone, or more than one (a whole PSDiff, a detector of no layout that is known).
    """
    whole = next((name for name in arrays if re.search(_WHOLE, name)), None)
    for layout in LAYOUTS:
        if (layout.in_detectors or not whole) and (file := layout.find(arrays, where)):
            return layout, file
    if whole:
        hint = "a whole PSDiff goes into config.train.init_from" if "cdl/" in whole else "give a backbone's weights"
        raise InputError(f"{where}: a whole network, such as a detector (it holds {whole!r}); {hint}")
    some, titles = ", ".join(map(repr, list(arrays)[:3])), ", ".join(layout.title for layout in LAYOUTS)
    raise InputError(f"{where}: no layout that is known here ({titles}); it holds {some}, ...")
