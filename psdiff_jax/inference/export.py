"""The predictor as a file that runs without this package: StableHLO for JAX on any device, ONNX for onnxruntime.

Both hold the same function, weights included: an image's features, all denoising steps and non-maximum suppression.

    inputs  images uint8 [B,H,W,3] RGB, resized to fit into H x W and padded to the right and below
            image_size int32 [B,2], (height, width) of what is not padding
            noise float32 [B,2K-1,N,4+D], standard normal
            query_boxes float32 [B,4] xyxy pixels of the network image, held in proposal 0 where
            has_query bool [B] says so
    outputs boxes float32 [B,N,4] xyxy pixels of the network image, scores [B,N], embeddings [B,N,D] of length one,
            keep bool [B,N], what survives non-maximum suppression

B is open, all else is fixed. Noise is an input, as random generators differ between runtimes: the caller draws it, and
the same noise gives the same people everywhere.

Legend: B image, N proposal, D embedding, K denoising step.
"""

import dataclasses
from collections.abc import Callable
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
INSTALL_JAX2ONNX = "pip install --no-deps jax2onnx"


def predictor_function(model: PSDiff, sampler: SamplerOptions, steps: int) -> Callable[..., Predictions]:
    """The function that is exported; see above."""

    def predictor(
        images: jax.Array, image_size: jax.Array, noise: jax.Array, query_boxes: jax.Array, has_query: jax.Array
    ) -> Predictions:
        condition = model.features(images, image_size)
        query = pixel_query(model, condition, query_boxes, has_query)
        return predict(model, condition, sampler, State(noise[..., :4], noise[..., 4:]), steps, query)

    return predictor


def argument_shapes(
    model: PSDiff, sampler: SamplerOptions, steps: int, image_size: tuple[int, int]
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Of the function's arguments, in the order of `INPUTS`; the number of images is a symbol."""
    (images,) = jax.export.symbolic_shape("B")
    noise = (num_draws(steps), sampler.num_proposals, 4 + model.options.embedding_dim)
    sides = ((*image_size, 3), (2,), noise, (4,), ())
    dtypes = (jnp.uint8, jnp.int32, jnp.float32, jnp.float32, jnp.bool_)
    return tuple(
        jax.ShapeDtypeStruct((images, *rest), dtype) for rest, dtype in zip(sides, dtypes, strict=True)
    )


def write_stablehlo(
    path: Path, graphdef: nnx.GraphDef, state: Any, sampler: SamplerOptions, steps: int, image_size: tuple[int, int]
) -> None:
    """Writes `jax.export`'s serialisation of the function, for `PLATFORMS`. It computes in config.model.dtype.

    Raises:
      InputError: flatbuffers is missing.
    """
    try:
        import flatbuffers  # noqa: F401, what serialisation needs
    except ImportError as error:
        raise InputError("writing StableHLO needs flatbuffers: pip install 'psdiff-jax[export]'") from error
    model = merge(graphdef, state, folded=True)
    function = predictor_function(model, sampler, steps)
    exported = jax.export.export(jax.jit(lambda *args: function(*args)._asdict()), platforms=PLATFORMS)
    write_atomically(path, bytes(exported(*argument_shapes(model, sampler, steps, image_size)).serialize()))


def write_onnx(
    path: Path, graphdef: nnx.GraphDef, state: Any, sampler: SamplerOptions, steps: int, image_size: tuple[int, int]
) -> None:
    """Writes the function as ONNX, in float32 whatever config.model.dtype says.

    Raises:
      InputError: jax2onnx is missing.
    """
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise InputError(f"writing ONNX needs jax2onnx ({error}): {INSTALL_JAX2ONNX}") from error
    model: PSDiff = nnx.merge(graphdef, state)
    model.options = dataclasses.replace(model.options, dtype="float32")
    model = merge(*nnx.split(model), folded=True)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Depthwise):
            module.shifted = False
    shapes = argument_shapes(model, sampler, steps, image_size)
    proto: Any = to_onnx(
        simplified(predictor_function(model, sampler, steps), *shapes),
        inputs=list(shapes),
        model_name="psdiff",
        input_names=INPUTS,
        output_names=Predictions._fields,
    )
    write_atomically(path, proto.SerializeToString())
