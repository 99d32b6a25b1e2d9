"""The Python interface: a trained model that detects, embeds, indexes and searches people. NumPy in, NumPy out.

    ps = PersonSearch.load("runs/quickstart")      # or an .npz of weights, or nothing for the shipped ones
    people = ps.detect(image)                      # everybody in an image
    query = ps.embed(other, (120, 40, 180, 220))   # one person, by a box
    people.embeddings @ query                      # cosine similarities

    index = ps.index("photos")                     # a folder of images and videos
    index.search(image, (120, 40, 180, 220))       # the most similar people in it

    for frame in ps.track(read_frames("clip.mp4", rate=5)):   # psdiff_jax.data.media
        frame.time, frame.people.boxes, frame.tracks

`from psdiff_jax import PersonSearch` imports it.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from psdiff_jax.compilation import keep_compiled
from psdiff_jax.config import Config, check_files, from_values, read_config
from psdiff_jax.configs.real_people import with_crops
from psdiff_jax.configs.small import PRETRAINED
from psdiff_jax.errors import InputError
from psdiff_jax.files import cache_folder
from psdiff_jax.inference.calibrate import calibrated_threshold
from psdiff_jax.inference.embed import Embedder, People
from psdiff_jax.inference.images import ImageEmbedder
from psdiff_jax.inference.index import Index, Within
from psdiff_jax.inference.indexing import OnProgress, Summary, update_index
from psdiff_jax.inference.options import IndexOptions
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.inference.ranking import Hit
from psdiff_jax.inference.tracking import TrackedFrame, TrackingOptions, track
from psdiff_jax.ops.boxes import is_inside
from psdiff_jax.options import read, tree
from psdiff_jax.training.train import load_parts, load_trained, load_weights, newest_step, weights, whole_weights

SHIPPED = PRETRAINED / "people_psdiff.npz"


def load_embedder(config: Config, workdir: Path) -> tuple[Embedder, int]:
    """(the model of the newest checkpoint in `workdir`, its training step).

    Raises:
      InputError: there is no checkpoint, and config.train.init_from names no weights.
    """
    graphdef, state = load_trained(config, workdir, config.teacher_folder(workdir) / "teacher.npz")
    return _embedder(config, graphdef, weights(state), state.rest), int(state.step)


def search_threshold(config: Config, workdir: Path, steps: int) -> float:
    """The score from which a detection is searched: what the run in `workdir` has chosen on held-out images for a
    number of denoising steps, or else config.evaluate.search_threshold."""
    is_chosen = config.data.held_out and config.evaluate.calibrate
    chosen = calibrated_threshold(workdir, steps) if is_chosen else None
    return config.evaluate.search_threshold if chosen is None else chosen


def _embedder(config: Config, graphdef: nnx.GraphDef, params: Any, rest: Any) -> Embedder:
    predictor = Predictor(graphdef, config.sampler)
    data, options = config.evaluation_data, config.evaluate
    return Embedder.create(config.model, config.diffusion, predictor, params, rest, config.seed, data, options)


class PersonSearch:
    """A trained model behind NumPy arrays. Compiles for `detect` and `embed` and for `index`, once for landscape images
    and once for portrait ones, then runs in milliseconds.

    Embeddings are unit vectors: the similarity of two people is their dot product. Any number of threads may call an
    instance; the devices compute for one of them at a time.

    steps: denoising steps. threshold: score from which a detection counts as a person (config.evaluate.search_threshold
    or, for a run that has calibrated it, what was chosen). model: hash of weights and config.
    """

    def __init__(self, config: Config, embedder: Embedder, steps: int | None = None, threshold: float | None = None):
        self.config = config
        self.steps = _checked_steps(config, steps)
        self.threshold = config.evaluate.search_threshold if threshold is None else threshold
        self.model = embedder.hash
        self._embedder, self._lock = embedder, threading.Lock()

    @classmethod
    def load(
        cls, run: str | Path | None = None, steps: int | None = None, reid_weights: str | Path | None = None
    ) -> "PersonSearch":
        """A trained model.

        Args:
          run: the `--workdir` of a finished (or still running) run; or a file of weights with its config beside it,
            NAME_psdiff.npz with NAME_config.json, or any .npz with config.json; None: the weights that come with this
            package.
          steps: denoising steps; None: the largest of the config's evaluate.steps.
          reid_weights: file of a re-ID network that embeds crops of the people found, in the place of what the model
            itself makes of them (`config.model.reid_crops`): person-reidentification-retail-0277.xml of Open Model Zoo.

        Raises:
          InputError: there is no such run or file, or it does not fit its config.
        """
        path = SHIPPED if run is None else Path(run).expanduser()
        if reid_weights is not None and path.suffix != ".npz":
            path /= "model.npz"  # a checkpoint is restored as the whole that was trained
        if path.suffix != ".npz":
            config = read_config(path / "config.json", "name the --workdir of a run, or an .npz of weights")
            return cls.of_run(config, path, steps)
        named = path.with_name(path.name.removesuffix("_psdiff.npz") + "_config.json")
        given = named if named.is_file() and named.stem != path.stem else path.with_name("config.json")
        config = read_config(given, f"put the config of {path.name} beside it")
        if reid_weights is None:
            model = load_weights(config, path)
        else:
            config = _with_crops(config, path, str(reid_weights))
            check_files(config, ("model", "train"))
            model = load_parts(config)
        keep_compiled(config.compilation_cache)
        return cls(config, _embedder(config, *model), steps)

    @classmethod
    def of_run(cls, config: Config, workdir: Path, steps: int | None = None) -> "PersonSearch":
        """The newest checkpoint of `workdir`; without one its model.npz, or else config.train.init_from."""
        keep_compiled(config.compilation_cache)
        steps = _checked_steps(config, steps)
        whole = whole_weights(config, workdir)
        if whole and not newest_step(workdir):  # no line about it: the page and a folder's search do so every time
            embedder = _embedder(config, *load_weights(config, whole))
        else:
            embedder, _ = load_embedder(config, workdir)
        return cls(config, embedder, steps, search_threshold(config, workdir, steps))

    def detect(self, image: np.ndarray) -> People:
        """Everybody in an image uint8 [H,W,3] RGB, best score first: boxes are xyxy pixels of that image."""
        return self._detect(image, self.steps)

    def _detect(self, image: np.ndarray, steps: int, known: People | None = None, draw: int = 0) -> People:
        with self._lock:
            return self._embedder.detect(_checked(image), steps, known, draw)

    def track(
        self, frames: Iterable[tuple[float, np.ndarray]], options: TrackingOptions | None = None
    ) -> Iterator[TrackedFrame]:
        """The people of a video's frames (seconds, uint8 [H,W,3] RGB) with track numbers, a frame at a time.

        Each frame is denoised from the people of the one before, in two steps; options: `TrackingOptions`, by default
        with this model's `steps` for frames that begin from noise, and its `threshold` for people who get a number.
        """
        options = options or TrackingOptions(cold_steps=self.steps, track_score=self.threshold)
        for steps in (options.cold_steps, options.warm_steps):
            _checked_steps(self.config, steps)
        return track(self._detect, frames, options)

    def embed(self, image: np.ndarray, box: Sequence[float] | np.ndarray) -> np.ndarray:
        """Unit embedding [D] of the person in `box` (x1, y1, x2, y2 in pixels) of an image uint8 [H,W,3] RGB."""
        height, width = _checked(image).shape[:2]
        xyxy = np.asarray(box, np.float32)
        if not is_inside(xyxy, height, width):
            raise InputError(f"box {xyxy.tolist()} does not lie in the image of {width}x{height} pixels; give xyxy")
        with self._lock:
            return self._embedder.embed_box(image, xyxy, self.steps)

    def index(
        self,
        folder: str | Path,
        into: str | Path | None = None,
        rate: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> "PeopleIndex":
        """Makes the index of a folder of images and videos, or brings it up to date.

        Args:
          into: folder of the index; None: one in the user's cache folder, for this folder and model.
          rate: frames embedded for each second of a video; None: config.index.rate.
          on_progress: is called with (images and frames done, about how many there are).

        Raises:
          InputError: the folder is missing or holds no media; `into` is the index of another model.
        """
        given = {} if rate is None else {"rate": rate}
        options = read(IndexOptions, tree(self.config.index) | given, "config.index")
        into = self.cached_index(folder, options) if into is None else Path(into).expanduser()
        embedder = ImageEmbedder(self._embedder.on_this_process(), self.steps, self.model, self.threshold, self._lock)
        return PeopleIndex(into, self, update_index(embedder, folder, into, options, on_progress))

    def open_index(self, into: str | Path) -> "PeopleIndex":
        """An index as it is, without looking at its folder; InputError if another model made it."""
        index = PeopleIndex(into, self)
        made = index.settings
        replace(made, model=self.model, steps=self.steps).check_same(made, index.folder)
        return index

    def cached_index(self, folder: str | Path, options: IndexOptions) -> Path:
        """Where the index of a folder is, unless the caller names another place."""
        root = Path(folder).expanduser().resolve()
        made_with = f"{root}\n{self.model}\n{self.steps}\n{options.rate}\n{options.min_score}"
        return cache_folder() / "index" / f"{root.name}-{hashlib.sha256(made_with.encode()).hexdigest()[:12]}"


class PeopleIndex(Index):
    """An index with the model that made it. summary: what the update did; None for one that was only opened."""

    def __init__(self, folder: str | Path, person_search: PersonSearch, summary: Summary | None = None):
        super().__init__(folder)
        self.person_search, self.summary = person_search, summary

    def search(
        self,
        image: np.ndarray,
        box: Sequence[float] | np.ndarray,
        top: int = 20,
        threshold: float | None = None,
        within: Within | None = None,
    ) -> list[Hit]:
        """The `top` people most similar to the one in `box` (x1, y1, x2, y2 pixels) of an image uint8 [H,W,3] RGB.

        Args:
          threshold: smallest detection score; None: the model's. within: see `Index.nearest`.
        """
        threshold = self.person_search.threshold if threshold is None else threshold
        return self.nearest(self.person_search.embed(image, box), top, threshold, within)


def _with_crops(config: Config, weights: Path, reid_weights: str) -> Config:
    """A config with crops embedded, and all but the network that does so taken from `weights`."""
    values = with_crops(tree(config), reid_weights)
    values["model"]["backbone_weights"] = ""
    values["train"] |= {"init_from": str(weights), "init_parts": ("backbone", "fpn", "cdl"), "readout_from": ""}
    values["train"] |= {"objective": "denoising", "views": 0}
    return from_values(values)


def _checked_steps(config: Config, steps: int | None) -> int:
    steps, most = config.exported_steps if steps is None else steps, config.diffusion.timesteps
    if not 1 <= steps <= most:
        raise InputError(f"steps is {steps}: give a number of denoising steps from 1 to {most}")
    return steps


def _checked(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"image is {image.dtype} {list(image.shape)}: give uint8 [height, width, 3] RGB")
    return image
