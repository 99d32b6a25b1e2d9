"""The predictor as a file that runs without this package: StableHLO for JAX on any device, ONNX for onnxruntime.

Both hold the same function, weights included: an image's features, all denoising steps and non-maximum suppression.

    inputs  images uint8 [B,H,W,3] RGB, resized to fit into H x W and padded to the right and below. Where most are of
            the other orientation, export with the sides of config.data.image_size exchanged
            image_size int32 [B,2], (height, width) of what is not padding
            noise float32 [B,2K-1,N,4+D], standard normal
            query_boxes float32 [B,4] xyxy pixels of the network image, held in proposal 0 where
            has_query bool [B] says so
    outputs boxes float32 [B,N,4] xyxy pixels of the network image, scores [B,N], embeddings [B,N,D] of length one,
            keep bool [B,N], what survives non-maximum suppression (more in `predictor.Predictions`)

B is open, all else is fixed. Noise is an input, as random generators differ between runtimes: the caller draws it, and
the same noise gives the same people everywhere.

Legend: B image, N proposal, D embedding, K denoising step.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from psdiff_jax.diffusion.noise import State
from psdiff_jax.diffusion.samplers import SamplerOptions, num_draws
from psdiff_jax.errors import InputError
from psdiff_jax.files import write_atomically
from psdiff_jax.inference.predictor import Predictions, pixel_query, predict
from psdiff_jax.inference.simplify import simplified
from psdiff_jax.models.layers import Depthwise
from psdiff_jax.models.psdiff import PSDiff, merge

PLATFORMS = ("cpu", "cuda", "tpu")
INPUTS = ("images", "image_size", "noise", "query_boxes", "has_query")
INSTALL = "pip install 'psdiff-jax[export]'"


@dataclass(frozen=True)
class ExportedPredictor:
    """What is exported: a model with a sampler, for a number of steps and one size (H, W) of network images.

    variables: the model's, on the host.
    """

    graphdef: nnx.GraphDef
    variables: Any
    sampler: SamplerOptions
    steps: int
    image_size: tuple[int, int]

    @property
    def shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Of the arguments, in the order of `INPUTS`; the number of images is a symbol."""
        (images,) = jax.export.symbolic_shape("B")
        width = 4 + nnx.merge(self.graphdef, self.variables).options.embedding_dim
        sides = ((*self.image_size, 3), (2,), (num_draws(self.steps), self.sampler.num_proposals, width), (4,), ())
        dtypes = (jnp.uint8, jnp.int32, jnp.float32, jnp.float32, jnp.bool_)
        return tuple(jax.ShapeDtypeStruct((images, *rest), dtype) for rest, dtype in zip(sides, dtypes, strict=True))

    def function(self, dtype: str = "", shifted: bool = True) -> Callable[..., Predictions]:
        """The function, with constants for weights.

        dtype: of the computation, instead of config.model.dtype. shifted: see `models.layers.Depthwise`.
        """
        model: PSDiff = nnx.merge(self.graphdef, self.variables)
        if dtype:
            model.options = dataclasses.replace(model.options, dtype=dtype)
        for _, module in nnx.iter_modules(model):
            if isinstance(module, Depthwise):
                module.shifted = shifted
        graphdef, variables = nnx.split(model)
        made = nnx.eval_shape(lambda: merge(graphdef, variables, folded=True))
        weights = jax.jit(lambda v: nnx.state(merge(graphdef, v, folded=True)))(variables)
        model = nnx.merge(nnx.graphdef(made), jax.device_get(weights))

        def predictor(
            images: jax.Array, image_size: jax.Array, noise: jax.Array, query_boxes: jax.Array, has_query: jax.Array
        ) -> Predictions:
            condition = model.features(images, image_size)
            query = pixel_query(model, condition, query_boxes, has_query)
            draws = State(noise[..., :4], noise[..., 4:])
            return predict(model, condition, self.sampler, draws, self.steps, query)

        return predictor


def write_stablehlo(path: Path, predictor: ExportedPredictor) -> None:
    """Writes `jax.export`'s serialisation of the function, for `PLATFORMS`, its outputs as a dict.

    Raises:
      InputError: flatbuffers is missing.
    """
    try:
        import flatbuffers  # noqa: F401, what serialisation needs
    except ImportError as error:
        raise InputError(f"writing StableHLO needs flatbuffers: {INSTALL}") from error
    function = predictor.function()
    exported = jax.export.export(jax.jit(lambda *args: function(*args)._asdict()), platforms=PLATFORMS)
    write_atomically(path, bytes(exported(*predictor.shapes).serialize()))


def write_onnx(path: Path, predictor: ExportedPredictor) -> None:
    """Writes the function as ONNX, in float32 whatever config.model.dtype says.

    Raises:
      InputError: jax2onnx is missing.
    """
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise InputError(f"writing ONNX needs jax2onnx ({error}): {INSTALL}") from error
    for name in ("jax2onnx", "onnx_ir"):  # they warn of converters that this JAX has no use for, and of untyped values
        logging.getLogger(name).setLevel(logging.ERROR)
    shapes = predictor.shapes
    model: Any = to_onnx(
        simplified(predictor.function(dtype="float32", shifted=False), *shapes),
        inputs=list(shapes),
        model_name="psdiff",
        input_names=INPUTS,
        output_names=Predictions._fields,
    )
    drop_unused(model.graph)
    write_atomically(path, model.SerializeToString())


def drop_unused(graph: Any) -> None:
    """Drops constants of an ONNX graph that no node reads, in loops too; onnxruntime would name them all."""
    used = set(_read(graph))
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for body in _bodies(graph):
        drop_unused(body)


def _bodies(graph: Any) -> Iterator[Any]:
    return (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))


def _read(graph: Any) -> Iterator[str]:
    """The names that are read in a graph and in the bodies of its loops."""
    yield from (value.name for value in graph.output)
    yield from (name for node in graph.node for name in node.input)
    for body in _bodies(graph):
        yield from _read(body)
