"""What goes into denoising and what comes out, at each t: on noised ground truths and on the sampler's own states.

    python scripts/diagnose_sampler.py --config configs/quickstart.py --workdir runs/quickstart --out diagnosis

A model that denoises noised ground truths well and its own states badly has a train/test mismatch: more steps then make
detection worse. Three quantities are averaged over the gallery's ground-truth boxes: the best IoU of any proposal with
the box, the cosine of that proposal's embedding with the teacher's, and the same cosine when the box is held, as in a
ground-truth-box query. Writes diagnosis.json and diagnosis.png.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from ml_collections import config_flags

from psdiff_jax import parallel
from psdiff_jax.command_line import run_script
from psdiff_jax.config import Config
from psdiff_jax.data.pipeline import eval_batches
from psdiff_jax.data.records import open_dataset
from psdiff_jax.diffusion.noise import State
from psdiff_jax.diffusion.samplers import QueryBox, SamplerOptions, sample
from psdiff_jax.diffusion.schedule import sampling_times
from psdiff_jax.models.psdiff import Condition, PSDiff
from psdiff_jax.ops import boxes as box_ops
from psdiff_jax.ops.normalize import normalize
from psdiff_jax.teacher.kinds import open_targets
from psdiff_jax.training.states import NoiseOptions, noised_gt
from psdiff_jax.training.train import load_trained, weights

CONFIG = config_flags.DEFINE_config_file("config", None, "the run's config")
WORKDIR = flags.DEFINE_string("workdir", None, "the run's folder")
OUT = flags.DEFINE_string("out", "diagnosis", "where the figure and the numbers go")
STEPS = flags.DEFINE_integer("steps", 8, "denoising steps; the times looked at are theirs")
IMAGES = flags.DEFINE_integer("images", 64, "gallery images looked at")


def quality(boxes: jax.Array, embeddings: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """[B,M,2]: IoU of the best proposal for each ground truth, and the cosine of its embedding with the target."""
    ious = box_ops.pairwise(box_ops.iou, batch["boxes"], boxes)
    best = jnp.argmax(ious, axis=-1)
    cosine = jnp.einsum("bmd,bnd->bmn", batch["embeddings"], normalize(embeddings))
    pick = partial(jnp.take_along_axis, indices=best[..., None], axis=-1)
    return jnp.concatenate([pick(ious), pick(cosine)], axis=-1)


def diagnose(model: PSDiff, batch: dict[str, jax.Array], key: jax.Array, steps: int, sampler: SamplerOptions) -> Any:
    """{"ground truth", "sampler": [steps, 2 (in, out), B, M, 2]; "query": [steps, B], cosine of the first box}."""
    diffusion = model.diffusion
    condition: Condition = model.features(batch["image"], batch["image_size"])
    times = sampling_times(diffusion.timesteps, steps, sampler.time_power)[:-1]
    images = batch["image"].shape[0]

    def look(state: State, t: jax.Array) -> tuple[tuple[State, jax.Array], jax.Array]:
        estimate = model.denoise(condition, state, t)[-1]
        before = quality(diffusion.decode_boxes(state.box, batch["image_size"]), state.embedding, batch)
        after = quality(box_ops.clip(estimate.boxes, batch["image_size"]), estimate.embeddings, batch)
        return model.clean(condition, estimate), jnp.stack([before, after])

    gt = []
    for i, time in enumerate(times):
        t = jnp.full((images,), time)
        noise = NoiseOptions(sampler.num_proposals, random_fraction=0.0, rollout_probability=0.0, gt_box_proposals=0)
        state = noised_gt(jax.random.fold_in(key, i), diffusion, batch, t, noise)
        gt.append(look(state, t)[1])

    def denoise(state: State, t: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        (clean, scores), seen = look(state, t)
        return clean, scores, seen

    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(images))
    sampled = sample(denoise, diffusion, sampler, keys, steps)

    def denoise_query(state: State, t: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        estimate = model.denoise(condition, state, t)[-1]
        cosine = jnp.sum(normalize(estimate.embeddings[:, 0]) * batch["embeddings"][:, 0], axis=-1)
        return *model.clean(condition, estimate), cosine

    box = diffusion.encode_boxes(batch["boxes"][:, :1], batch["image_size"])[:, 0]
    query = sample(denoise_query, diffusion, sampler, keys, steps, QueryBox(box, jnp.ones(images, bool)))
    return {"ground truth": jnp.stack(gt), "sampler": sampled, "query": query}


def collect(config: Config, workdir: Path) -> dict[str, Any]:
    """Averages over the gallery's ground truths, by kind of state and time."""
    dataset, folder = open_dataset(config.data), config.teacher_folder(workdir)
    targets = open_targets(
        config.teacher,
        dataset,
        folder,
        splits=("gallery",),
        embedding_dim=config.model.embedding_dim,
        seed=config.seed,
    )
    graphdef, state = load_trained(config, workdir, folder / "teacher.npz")
    run = jax.jit(lambda p, r, batch, key: diagnose(nnx.merge(graphdef, p, r), batch, key, STEPS.value, config.sampler))
    count = min(IMAGES.value, len(dataset.gallery_source))
    rows: dict[str, list[np.ndarray]] = {"ground truth": [], "sampler": [], "query": []}
    size = config.evaluate.batch_size
    for batch in eval_batches(dataset, "gallery", config.data, batch_size=size, indices=range(count), targets=targets):
        wanted = {k: batch[k] for k in ("image", "image_size", "boxes", "boxes_mask", "embeddings")}
        found = parallel.fetch(run(weights(state), state.rest, wanted, jax.random.key(config.seed)))
        gts = batch["boxes_mask"] & batch["valid"][:, None]
        for kind in ("ground truth", "sampler"):
            rows[kind].append(found[kind][:, :, gts])
        rows["query"].append(found["query"][:, gts[:, 0]])
    times = sampling_times(config.diffusion.timesteps, STEPS.value, config.sampler.time_power)[:-1]
    result: dict[str, Any] = {"times": times.tolist()}
    for kind in ("ground truth", "sampler"):
        mean = np.concatenate(rows[kind], axis=2).mean(axis=2)
        result[kind] = {
            f"{what}_{side}": mean[:, j, i].round(4).tolist()
            for i, what in enumerate(("iou", "cosine"))
            for j, side in enumerate(("in", "out"))
        }
    result["query"] = {"cosine_out": np.concatenate(rows["query"], axis=1).mean(axis=1).round(4).tolist()}
    return result


def draw(result: dict[str, Any], path: Path) -> None:
    """Two panels against t: IoU and cosine, in (dashed) and out (solid)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    colors = {"ground truth": "tab:blue", "sampler": "tab:orange", "query": "tab:green"}
    names = {
        "ground truth": "noised ground truths",
        "sampler": "sampler's own states",
        "query": "ground-truth-box query",
    }
    for panel, what, title in zip(
        panels, ("iou", "cosine"), ("best IoU with a ground truth", "cosine with the teacher"), strict=True
    ):
        for kind, color in colors.items():
            for side, style in (("in", "--"), ("out", "-")):
                values = result[kind].get(f"{what}_{side}")
                if values:
                    panel.plot(
                        result["times"],
                        values,
                        style,
                        color=color,
                        marker="o",
                        markersize=3,
                        label=f"{names[kind]}, {side}",
                    )
        panel.set(xlabel="t (sampling runs from right to left)", title=title, ylim=(0, 1))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main(config: Config) -> None:
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    result = collect(config, Path(str(WORKDIR.value)))
    (out / "diagnosis.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(result, out / "diagnosis.png")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    run_script(main, CONFIG, WORKDIR)
