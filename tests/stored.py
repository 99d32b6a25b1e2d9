"""Records of images in memory, as a builder would have stored them."""

from typing import Any

import cv2
import numpy as np


def stored(image: np.ndarray, **others: Any) -> dict[str, Any]:
    """The record of an image uint8 [h, w, 3] BGR, as PNG."""
    height, width = image.shape[:2]
    data = cv2.imencode(".png", image)[1].tobytes()
    return {"image": data, "height": height, "width": width, "scale": 1.0, **others}
