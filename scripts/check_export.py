"""Compares the files of `--mode export` with the program itself, on images of the run's gallery.

    python scripts/check_export.py --run runs/X [--images 50] [--batch 5]

Both get the noise that the program draws. The first half of the images is searched for everybody; in the second half
a ground-truth box is held as a query, where there is one. Printed are the largest differences: boxes in pixels of the
network image, scores, embeddings, and how many proposals non-maximum suppression decides differently; "apart" is the
share of proposals that differ by more than 1e-4 in anything (boxes as fractions of the image). Steps amplify rounding.
By how much says "noise changed by 1e-6": predictor.stablehlo against itself, its noise multiplied by 1 +- 1e-6.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from psdiff_jax.api import load_embedder
from psdiff_jax.config import read_config
from psdiff_jax.data.pipeline import eval_batches
from psdiff_jax.data.records import open_dataset
from psdiff_jax.data.transforms import turned
from psdiff_jax.diffusion.noise import Diffusion
from psdiff_jax.diffusion.samplers import image_noise, num_draws
from psdiff_jax.errors import InputError
from psdiff_jax.inference.embed import Batch, Embedder
from psdiff_jax.inference.export import INPUTS
from psdiff_jax.inference.predictor import Predictions

Run = Callable[[Mapping[str, np.ndarray]], Predictions]


def open_files(folder: Path) -> dict[str, Run]:
    """File name -> a function from the inputs to the outputs."""
    exported = jax.export.deserialize(bytearray((folder / "predictor.stablehlo").read_bytes()))
    call, session = jax.jit(exported.call), onnxruntime.InferenceSession(folder / "predictor.onnx")
    return {
        "predictor.stablehlo": lambda inputs: Predictions(**call(*(inputs[name] for name in INPUTS))),
        "predictor.onnx": lambda inputs: Predictions(*session.run(Predictions._fields, dict(inputs))),
    }


def program_noise(embedder: Embedder, diffusion: Diffusion, num_proposals: int, batch: Batch, steps: int) -> np.ndarray:
    """What the program draws for a batch, as the files take it: [B,2K-1,N,4+D]."""
    keys = jax.vmap(partial(jax.random.fold_in, embedder.key))(batch["image_index"])
    draw = jax.vmap(partial(image_noise, diffusion, keys, num_proposals), out_axes=1)
    return np.asarray(jnp.concatenate(draw(jnp.arange(num_draws(steps))), axis=-1))


def differences(got: Predictions, want: Predictions, side: int) -> dict[str, float]:
    """See above; `keep` is how many differ. side: of the network image, in pixels."""
    boxes, scores, embeddings, keep = (np.asarray(a).astype(np.float32) - b for a, b in zip(got, want, strict=True))
    apart = np.concatenate([boxes / side, scores[..., None], embeddings], axis=-1)
    return {
        "boxes": abs(boxes).max(),
        "scores": abs(scores).max(),
        "embeddings": abs(embeddings).max(),
        "keep": int(np.count_nonzero(keep)),
        "apart": (abs(apart).max(axis=-1) > 1e-4).mean(),
    }


def check(run: Path, images: int, batch_size: int) -> dict[str, dict[str, float]]:
    """What is compared -> differences over all images, and median seconds an image (the first batch left out)."""
    config = read_config(run / "config.json", "--run is not a run's folder")
    embedder, _ = load_embedder(config, run)
    files, steps = open_files(run / "export"), config.exported_steps
    diffusion = Diffusion(**vars(config.diffusion), embedding_dim=config.model.embedding_dim)
    results: dict[str, list[dict[str, float]]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ("program", *files)}
    rng = np.random.default_rng(0)
    dataset, data = open_dataset(config.evaluation_data), config.evaluation_data
    fitting = np.flatnonzero(~turned(dataset.annotations("gallery").sizes, data.image_size))  # a file knows one size
    batches = eval_batches(dataset, "gallery", data, batch_size=batch_size, indices=fitting[:images])
    for done, batch in enumerate(batches):
        query = bool(batch["boxes_mask"][:, 0].all()) and 2 * done * batch_size >= images
        inputs = {
            "images": batch["image"],
            "image_size": batch["image_size"],
            "noise": program_noise(embedder, diffusion, config.sampler.num_proposals, batch, steps),
            "query_boxes": np.ascontiguousarray(batch["boxes"][:, 0]),
            "has_query": np.full(batch_size, query),
        }
        started = time.perf_counter()
        want = embedder.predict(batch, (steps,), gt_box=query)[steps]
        seconds["program"].append(time.perf_counter() - started)
        side, answers = max(config.evaluation_data.image_size), {}
        for name, call in files.items():
            started = time.perf_counter()
            answers[name] = jax.device_get(call(inputs))
            seconds[name].append(time.perf_counter() - started)
            results.setdefault(name, []).append(differences(answers[name], want, side))
        noise = inputs["noise"] * (1 + 1e-6 * rng.choice([-1, 1], inputs["noise"].shape)).astype(np.float32)
        changed = jax.device_get(files["predictor.stablehlo"]({**inputs, "noise": noise}))
        rows = results.setdefault("noise changed by 1e-6", [])
        rows.append(differences(changed, answers["predictor.stablehlo"], side))
        print(f"{(done + 1) * batch_size} images", file=sys.stderr, flush=True)
    over = {"keep": np.sum, "apart": np.mean}
    summary: dict[str, dict[str, float]] = {"program": {}}
    for name, rows in results.items():
        summary[name] = {key: float(over.get(key, np.max)([row[key] for row in rows])) for key in rows[0]}
    for name, times in seconds.items():
        summary[name]["seconds an image"] = float(np.median(times[1:] or times)) / batch_size
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--batch", type=int, default=5)
    arguments = parser.parse_args()
    for name, values in check(arguments.run.expanduser(), arguments.images, arguments.batch).items():
        print(name, *(f"{output} {value:.2g}" for output, value in values.items()), sep="  ")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
