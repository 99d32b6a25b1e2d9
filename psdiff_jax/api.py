"""The Python interface: a trained run that detects people in images and embeds them.

    search = PersonSearch.load("runs/quickstart")
    people = search.detect(image)                     # everybody in an image
    query = search.embed(other, (120, 40, 180, 220))  # one person, by a box
    people.embeddings @ query                         # cosine similarities

`from psdiff_jax import PersonSearch` imports it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from psdiff_jax.config import Config, from_values
from psdiff_jax.errors import InputError
from psdiff_jax.inference.embed import Embedder, People
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.ops.boxes import is_inside
from psdiff_jax.training.train import load_trained, weights


def load_embedder(config: Config, workdir: Path) -> tuple[Embedder, int]:
    """(the model of the newest checkpoint in `workdir`, its training step).

    Raises:
      InputError: there is no checkpoint, and config.train.init_from names no weights.
    """
    graphdef, state = load_trained(config, workdir, config.teacher_folder(workdir) / "teacher.npz")
    embedder = Embedder.create(
        config.model,
        Predictor(graphdef, config.sampler),
        weights(state),
        state.rest,
        config.seed,
        config.evaluation_data,
        config.evaluate,
    )
    return embedder, int(state.step)


class PersonSearch:
    """A trained model behind NumPy arrays. Compiles once for each of `detect` and `embed`, then runs in milliseconds.

    Embeddings are unit vectors: the similarity of two people is their dot product.
    """

    def __init__(self, embedder: Embedder, steps: int):
        self._embedder, self.steps = embedder, steps

    @classmethod
    def load(cls, run: str | Path, steps: int | None = None) -> "PersonSearch":
        """The model of a finished (or still running) run.

        Args:
          run: its `--workdir`. steps: denoising steps; None: the largest of the run's config.evaluate.steps.

        Raises:
          InputError: the folder is no run, or holds no weights.
        """
        folder = Path(run).expanduser()
        path = folder / "config.json"
        if not path.is_file():
            raise InputError(f"{path} is missing: name the --workdir of a run")
        config = from_values(json.loads(path.read_text(encoding="utf-8")))
        embedder, _ = load_embedder(config, folder)
        return cls(embedder, steps or config.exported_steps)

    def detect(self, image: np.ndarray) -> People:
        """Everybody in an image uint8 [H,W,3] RGB, best score first: boxes are xyxy pixels of that image."""
        return self._embedder.detect(_checked(image), self.steps)

    def embed(self, image: np.ndarray, box: Sequence[float] | np.ndarray) -> np.ndarray:
        """Unit embedding [D] of the person in `box` (x1, y1, x2, y2 in pixels) of an image uint8 [H,W,3] RGB."""
        height, width = _checked(image).shape[:2]
        xyxy = np.asarray(box, np.float32)
        if not is_inside(xyxy, height, width):
            raise InputError(f"box {xyxy.tolist()} does not lie in the image of {width}x{height} pixels; give xyxy")
        return self._embedder.embed_box(image, xyxy, self.steps)


def _checked(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"image is {image.dtype} {list(image.shape)}: give uint8 [height, width, 3] RGB")
    return image
