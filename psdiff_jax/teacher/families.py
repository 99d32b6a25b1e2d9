"""The re-ID networks that other projects save, recognised by the names of their tensors. Registering a family here is
all that is needed.
"""

import re
from collections.abc import Mapping

import numpy as np

from psdiff_jax.convert.layout import Checkpoint
from psdiff_jax.errors import InputError
from psdiff_jax.teacher.family import Family
from psdiff_jax.teacher.residual_families import RESIDUAL_FAMILIES

FAMILIES: list[Family] = [*RESIDUAL_FAMILIES]  # the first that fits is taken
_DETECTOR = r"(^|[./])(rpn|roi_heads?|rpn_head|bbox_head|proposal_generator|fpn|transformer|detr|cdl)[./]"


def recognise(arrays: Mapping[str, np.ndarray], where: str) -> tuple[Family, Checkpoint]:
    """The family of a checkpoint, and its tensors read by it.

    Raises:
      InputError: a detector, a teacher that was trained here, or none that is known.
    """
    if not arrays:
        raise InputError(f"{where}: holds no tensor")
    whole = next((name for name in arrays if re.search(_DETECTOR, name)), None)
    if whole:
        raise InputError(f"{where}: a detector or person-search network (it holds {whole!r}); give a re-ID network's")
    if "neck/scale" in arrays:
        raise InputError(f"{where}: trained here; name it in config.teacher.init_from, with kind='trained' and steps=0")
    for family in FAMILIES:
        if file := family.find(arrays, where):
            other = next((name for name in arrays if not name.startswith(file.prefix)), None)
            if other:
                what = f"{family.title}, of which all names begin with {file.prefix!r}, but it holds {other!r}"
                raise InputError(f"{where}: {what}; save one network alone")
            return family, file
    some, titles = ", ".join(map(repr, list(arrays)[:3])), ", ".join(dict.fromkeys(family.title for family in FAMILIES))
    raise InputError(
        f"{where}: not one of {titles} (it holds {some}, ...); other networks come as ONNX, config.teacher.kind='onnx'"
    )
