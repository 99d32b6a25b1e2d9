"""People who are found by denoising and embedded by crops of them (config.model.reid_crops)."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest
from flax import nnx

from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.errors import InputError
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.models.psdiff import Condition, PSDiffOptions
from psdiff_jax.options import read

pytestmark = pytest.mark.slow

CROPS = 3
LOW = 0.5  # the score from which on a person is embedded by a crop
FIELDS = ("image", "image_size", "image_index")


@pytest.fixture(scope="module")
def cropping(tiny, tiny_head):
    return tiny.make(dataclasses.replace(tiny.options, reid_backbone=tiny_head, reid_crops=CROPS))


@pytest.fixture(scope="module")
def embed(cropping):
    """(images uint8 [B,H,W,3], sizes [B,2], boxes [B,N,4]) -> unit embeddings [B,N,D]."""

    @jax.jit
    def run(images, sizes, boxes):
        model = nnx.merge(cropping.graphdef, cropping.params, cropping.rest)
        return model.embed_crops(Condition((), sizes, images=images), boxes, np.ones(boxes.shape[:2], bool))

    return run


@pytest.fixture
def batch(make_batch):
    found = {k: v for k, v in make_batch(4).items() if k in FIELDS}
    rng = np.random.default_rng(0)  # large patches of colour: what is made of noise is the same everywhere
    patches = rng.integers(0, 256, (4, 4, 6, 3)).astype(np.uint8)
    return found | {"image": patches.repeat(16, 1).repeat(16, 2)}


def test_crops_are_what_opencv_cuts(cropping, embed, batch):
    """As the network's own, on crops of whole pixels resized by OpenCV; of two images with padding."""
    sizes = np.int32([[64, 96], [50, 70]])
    boxes = np.float32([[[4, 6, 30, 60], [40, 0, 96, 64]], [[1, 2, 20, 45], [40, 10, 70, 50]]])
    got = np.asarray(embed(batch["image"][:2], sizes, boxes))
    network = nnx.merge(cropping.graphdef, cropping.params, cropping.rest).reid_backbone
    whole = nnx.jit(lambda network, crops: network.head(network(crops)[-1]))
    for image, row, found in zip(batch["image"], boxes.astype(int), got, strict=False):
        crops = [cv2.resize(image[y1:y2, x1:x2], (128, 256)) for x1, y1, x2, y2 in row]
        want = np.asarray(whole(network, np.float32(crops)))
        assert abs(want[0] - want[1]).max() > 0.02  # two people
        np.testing.assert_allclose(found, want, atol=4e-3)


def test_the_best_that_are_kept_or_the_query_are_embedded_by_crops(cropping, embed, tiny, batch):
    """Nobody else is kept; all the rest is as in the same model without crops."""
    sampler = SamplerOptions(num_proposals=10, nms_threshold=0.4, renewal_threshold=LOW)
    box, has_query = np.float32([[4, 6, 30, 60]] * 4), np.bool_([False, True, False, False])
    plain = dataclasses.replace(cropping.options, reid_backbone="", reid_crops=0)
    model, without = cropping, tiny.make(plain)
    parts = [{k: v for k, v in part.items() if k != "reid_backbone"} for part in (model.params, model.rest)]
    key = jax.random.key(1)
    found = Predictor(model.graphdef, sampler)(model.params, model.rest, batch, key, (2,), box, has_query)[2]
    before = Predictor(without.graphdef, sampler)(*map(nnx.State, parts), batch, key, (2,), box, has_query)[2]
    for name in ("boxes", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(before, name))
    looked_at = []
    for image in range(4):
        rank = np.where(before.keep[image], found.scores[image], -1)
        if has_query[image]:
            rank[:] = [2, *[-1] * 9]
        best = np.argsort(-rank, kind="stable")[:CROPS]
        best = best[(rank[best] >= LOW) | (np.arange(CROPS) == 0)]
        looked_at.append(len(best))
        boxes = np.array(found.boxes[image])
        if has_query[image]:
            boxes[0] = box[image]
        rows = slice(image, image + 1)
        row = np.resize(best, CROPS)  # one shape, one program
        want = embed(batch["image"][rows], batch["image_size"][rows], boxes[None, row])[0, : len(best)]
        np.testing.assert_allclose(found.embeddings[image][best], want, atol=1e-4)
        others = np.setdiff1d(np.arange(10), best)
        assert not found.keep[image][others].any()
        np.testing.assert_array_equal(found.keep[image][best], before.keep[image][best])
        np.testing.assert_array_equal(found.embeddings[image][others], before.embeddings[image][others])
        assert (abs(found.embeddings[image][best] - before.embeddings[image][best]).max(1) > 0.05).all()
    assert {1, CROPS} <= set(looked_at)  # the query, or the best of nobody; and more than are embedded


def test_no_loss_moves_a_backbone_that_reads_crops(cropping, tiny):
    assert set(cropping.params) == set(tiny.params)
    assert "reid_backbone" in cropping.rest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reid_crops": 4}, r"config\.model\.reid_crops=4: needs a reid_backbone with a head, .* osnet_omz \(256\)"),
        (
            {"reid_backbone": "osnet_omz", "reid_crops": 4, "embedding_dim": 128},
            r"config\.model\.reid_crops=4: needs .* that head's config\.model\.embedding_dim: osnet_omz \(256\)",
        ),
        (
            {"reid_backbone": "osnet_omz", "reid_crops": 4, "readout_rows": 2},
            r"config\.model\.reid_crops=4: must be 0 with readout_rows",
        ),
    ],
)
def test_options_that_make_no_sense(values, message):
    with pytest.raises(InputError, match=message):
        read(PSDiffOptions, values, "config.model")
