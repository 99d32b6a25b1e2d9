"""Images of predictions while a model trains."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from psdiff_jax import parallel
from psdiff_jax.data.iterators import Processes
from psdiff_jax.data.options import DataOptions
from psdiff_jax.data.pipeline import eval_batches
from psdiff_jax.data.records import PreparedDataset
from psdiff_jax.evaluation.options import EvaluateOptions
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.models.psdiff import PSDiff
from psdiff_jax.report.drawing import draw_boxes
from psdiff_jax.training.options import TrainingConfig
from psdiff_jax.training.step import TrainState
from psdiff_jax.training.train import weights
from psdiff_jax.training.writer import MetricWriter

SHOWN = 2  # images
MIN_SCORE = 0.3


def prediction_images(
    config: TrainingConfig,
    evaluate: EvaluateOptions,
    data: DataOptions,
    dataset: PreparedDataset,
    model: PSDiff,
    writer: MetricWriter,
) -> Callable[[int, TrainState], None]:
    """A hook that writes gallery images to TensorBoard: ground truth, and predictions at every number of steps."""
    predictor, mesh = Predictor(nnx.graphdef(model), config.sampler), parallel.make_mesh()
    batch: dict[str, np.ndarray] = {}

    def write(step: int, state: TrainState) -> None:
        if not batch:  # as large as evaluation's, and with its arguments: then both run the same compiled program
            size = parallel.whole_batch(evaluate.batch_size)
            shown = range(min(SHOWN, len(dataset.gallery_source)))
            where = Processes(*parallel.place())
            batches = eval_batches(dataset, "gallery", data, batch_size=size, indices=shown, processes=where)
            batch.update(next(iter(batches)))
        wanted = {name: batch[name] for name in ("image", "image_size", "image_index")}
        key = jax.random.key(config.seed)
        images = len(batch["valid"])
        no_query = np.zeros((images, 4), np.float32), np.zeros(images, bool)
        on_device, held = parallel.put_batch((wanted, no_query), mesh)
        predicted = predictor(weights(state), state.rest, on_device, key, evaluate.steps, *held)
        predicted = parallel.fetch(predicted)
        for i in np.flatnonzero(batch["valid"]):
            gt_boxes = batch["boxes"][i][batch["boxes_mask"][i]]
            for k in evaluate.steps:
                found = jax.tree.map(lambda v, i=i: v[i], predicted[k])
                boxes, scores = found.boxes[found.keep], found.scores[found.keep]
                drawn = draw_boxes(batch["image"][i], boxes, scores, gt_boxes, min_score=MIN_SCORE)
                writer.images(step, f"predictions/{i}/steps_{k}", drawn)

    return write
