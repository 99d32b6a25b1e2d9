"""This program: training and inference as they run, and its parts by themselves. Random weights and images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.timing import Contestant, Ready, compiled, of_function
from einops import rearrange
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.config import Config
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.models.backbones import BACKBONES
from psdiff_jax.models.fpn import STRIDES
from psdiff_jax.models.psdiff import merge
from psdiff_jax.ops.nms import nms
from psdiff_jax.ops.roi_align import roi_align
from psdiff_jax.training.optimizer import make_optimizer
from psdiff_jax.training.step import create_state
from psdiff_jax.training.train import abstract_model, training_mesh, training_step

PARTS = ("backbone", "FPN", "RoIAlign", "denoising layer", "NMS")
BACKENDS = ("gather", "matmul")
PEOPLE = 8  # in each image


def fill(tree: Any) -> Any:
    """NumPy's weights for shapes: initialising a model eagerly takes longer than running it."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "scale" in name or "var" in name:
            return jnp.ones(leaf.shape, leaf.dtype)
        return jnp.asarray(0.02 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


def random_boxes(images: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """float32 [images,count,4], as a sampler meets them: half of them people, half noise around half the image."""
    rng, (height, width) = np.random.default_rng(0), size
    side = np.where(
        np.arange(count)[:, None] % 2 == 0,
        rng.uniform(0.03, 0.15, (images, count, 1)) * [[[0.6, 2.0]]],
        np.clip(0.5 + 0.25 * rng.normal(size=(images, count, 2)), 0, 1),
    )
    centre = rng.uniform(size=side.shape)
    boxes = np.concatenate([centre - side / 2, centre + side / 2], -1) * ([width, height] * 2)
    return boxes.astype(np.float32)


@dataclass(frozen=True)
class Setting:
    """What runs: a config (its batch_size is `images` a run), images of `size`."""

    config: Config
    size: tuple[int, int]
    images: int

    def batch(self) -> dict[str, np.ndarray]:
        """As training reads it."""
        rng, dim = np.random.default_rng(0), self.config.model.embedding_dim
        places = self.config.data.max_boxes
        embeddings = rng.normal(size=(self.images, places, dim))
        boxes = np.clip(random_boxes(self.images, places, self.size), 0, [*self.size[::-1], *self.size[::-1]])
        return {
            "image": rng.integers(0, 256, (self.images, *self.size, 3)).astype(np.uint8),
            "image_size": np.tile(np.asarray(self.size, np.int32), (self.images, 1)),
            "image_index": np.arange(self.images, dtype=np.int32),
            "boxes": boxes.astype(np.float32),
            "boxes_mask": np.tile(np.arange(places) < PEOPLE, (self.images, 1)),
            "embeddings": (embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)).astype(np.float32),
            "person_ids": np.full((self.images, places), -1, np.int32),
        }


def training(setting: Setting) -> Ready:
    """A step, its batch on the device already."""
    config = replace(setting.config, train=replace(setting.config.train, batch_size=setting.images))
    mesh, model = training_mesh(config), abstract_model(config)
    nnx.update(model, fill(nnx.state(model)))
    optimizer = make_optimizer(config.train, model.backbone_specs)
    graphdef, state = create_state(model, optimizer, jax.random.key(0), ema=config.train.ema_decay > 0)
    state = parallel.put_sharded(state, mesh)
    batch = parallel.put_batch({k: v for k, v in setting.batch().items() if k != "image_index"}, mesh)
    program, numbers = compiled(training_step(config, graphdef, model, mesh), state, batch)

    def run() -> None:
        nonlocal state  # the step gives up its memory
        state, metrics = program(state, batch)
        jax.block_until_ready(metrics)

    return numbers._replace(run=run)


def inference(setting: Setting, steps: int) -> Ready:
    """Images to people, in so many denoising steps."""
    graphdef, params, rest = nnx.split(abstract_model(setting.config), nnx.Param, ...)
    mesh = parallel.make_mesh()
    params, rest = (parallel.put_replicated(fill(tree), mesh) for tree in (params, rest))
    batch = {name: setting.batch()[name] for name in ("image", "image_size", "image_index")}
    batch, key = parallel.put_batch(batch, mesh), parallel.put_replicated(jax.random.key(0), mesh)
    predictor = Predictor(graphdef, setting.config.sampler)
    program, numbers = compiled(Numbered(predictor, (steps,)), params, rest, batch, key)
    return numbers._replace(run=lambda: jax.block_until_ready(program(params, rest, batch, key)))


@dataclass(frozen=True)
class Numbered:
    """A predictor for numbers of steps that are fixed."""

    predictor: Predictor
    steps: tuple[int, ...]

    def lower(self, *args: Any) -> Any:
        return type(self.predictor).__call__.lower(self.predictor, *args, self.steps)


def parts(setting: Setting, gradient: bool) -> Iterator[Contestant]:
    """Each part on inputs of its own. gradient: with that to the features; NMS has none."""
    config, images, options = setting.config, setting.images, setting.config.model
    graphdef, state = nnx.split(abstract_model(config))
    batch, dtype = setting.batch(), jnp.dtype(options.dtype)
    sizes = jnp.asarray(batch["image_size"])

    def pixels() -> jax.Array:
        return jnp.asarray(batch["image"], jnp.float32)

    def stages(state: Any, image: jax.Array) -> Any:
        return merge(graphdef, state, folded=not gradient).backbone(image, image_size=sizes, dtype=dtype)

    def noise(shapes: Any) -> Any:
        return jax.tree.map(lambda s: jnp.asarray(np.random.default_rng(0).normal(size=s.shape), s.dtype), shapes)

    def pyramid_of(state: Any, maps: Any) -> Any:
        return merge(graphdef, state).fpn(maps, sizes)

    image_shape = jax.ShapeDtypeStruct((images, *setting.size, 3), jnp.float32)
    stage_shapes = jax.eval_shape(stages, state, image_shape)
    pyramid_shapes = jax.eval_shape(pyramid_of, state, stage_shapes)
    count = config.sampler.num_proposals
    boxes = jnp.asarray(random_boxes(images, count, setting.size))
    cells = jax.ShapeDtypeStruct((images, count, options.side**2, options.dim), dtype)
    embedding = jax.ShapeDtypeStruct((images, count, options.embedding_dim), jnp.float32)

    def layer(state: Any, cells: Any, embedding: Any) -> Any:
        return merge(graphdef, state).cdl[0](cells, embedding, jnp.full(images, 500))

    def prepared(function: Any, *inputs: Any) -> Ready:
        return of_function(with_gradient(function) if gradient else function, *(each() for each in inputs))

    weights, suffix = partial(fill, state), ", gradient" * gradient
    own = config.model.backbone
    yield Contestant(f"backbone{suffix}", own, images, partial(prepared, stages, weights, pixels))
    yield Contestant(
        f"FPN{suffix}", "PSDiff", images, partial(prepared, pyramid_of, weights, partial(noise, stage_shapes))
    )
    for backend in BACKENDS:
        align = aligner(setting, backend)
        yield Contestant(
            f"RoIAlign{suffix}", backend, images,
            partial(prepared, align, lambda: boxes, partial(noise, pyramid_shapes)),
        )  # fmt: skip
    yield Contestant(
        f"denoising layer{suffix}", "PSDiff", images,
        partial(prepared, layer, weights, partial(noise, cells), partial(noise, embedding)),
    )  # fmt: skip
    if not gradient:
        scores = jnp.asarray(np.random.default_rng(1).uniform(size=(images, count)), jnp.float32)
        suppress = partial(nms, threshold=config.sampler.nms_threshold)
        yield Contestant("NMS", "PSDiff", images, lambda: of_function(suppress, boxes, scores))


def aligner(setting: Setting, backend: str) -> Any:
    """RoIAlign of (boxes, pyramid), as the model calls it."""
    options = setting.config.model

    def align(boxes: jax.Array, pyramid: Any) -> jax.Array:
        return roi_align(
            pyramid,
            boxes,
            strides=tuple(stride * options.downsample for stride in STRIDES),
            side=options.side,
            sampling_ratio=options.sampling_ratio,
            canonical_size=options.canonical_size * options.downsample,
            backend=backend,
        )

    return align


def other_backbones(setting: Setting, names: list[str], gradient: bool) -> Iterator[Contestant]:
    """Backbones beside the config's own, which is first in their group."""
    for name in names:

        def prepare(name: str = name) -> Ready:
            spec, dtype = BACKBONES[name], jnp.dtype(setting.config.model.dtype)
            graphdef, state = nnx.split(nnx.eval_shape(lambda: spec.make(rngs=nnx.Rngs(0))))
            batch = setting.batch()

            def run(state: Any, image: jax.Array) -> Any:
                network = nnx.merge(graphdef, state)
                if not gradient:
                    spec.fold(network)
                return network(image, image_size=jnp.asarray(batch["image_size"]), dtype=dtype)

            function = with_gradient(run) if gradient else run
            return of_function(function, fill(state), jnp.asarray(batch["image"], jnp.float32))

        yield Contestant(f"backbone{', gradient' * gradient}", name, setting.images, prepare)


def with_gradient(function: Any) -> Any:
    """The gradient of a scalar of the results to all inputs."""

    def loss(*inputs: Any) -> jax.Array:
        outputs = jax.tree.leaves(function(*inputs))
        return sum(((x.astype(jnp.float32) ** 2).mean() for x in outputs), jnp.zeros(()))

    return lambda *inputs: jax.grad(loss, argnums=tuple(range(len(inputs))), allow_int=True)(*inputs)


def flat_levels(pyramid: Any) -> list[np.ndarray]:
    """Channels first, as other runtimes want them."""
    return [np.ascontiguousarray(rearrange(np.asarray(level, np.float32), "b h w c -> b c h w")) for level in pyramid]
