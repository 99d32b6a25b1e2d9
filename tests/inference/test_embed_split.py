"""Embedding a split: a pipeline, shards as they fill, and the same detections whatever happens on the way.

As a program: one of two processes that embed together.
"""

import dataclasses
import sys
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax import parallel
from psdiff_jax.data.blocks import Blocks
from psdiff_jax.data.detections import Detections, load_embeddings, save_embeddings
from psdiff_jax.data.options import DataOptions
from psdiff_jax.data.pipeline import eval_batches
from psdiff_jax.data.schema import Annotations, Queries
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.options import EvaluateOptions
from psdiff_jax.inference import embed_split
from psdiff_jax.inference.embed import Embedder
from psdiff_jax.inference.embed_split import embed_all, embed_gallery, embed_queries, remove_shards, shards_folder
from psdiff_jax.inference.predictor import Predictions

from ..pod import join_pod, run_pod
from ..stored import stored

IMAGES, PROPOSALS, DIM, BATCH = 23, 5, 4, 4
STEPS = (1, 3)
FIELDS = ("boxes", "scores", "embeddings", "image_index")
LANDSCAPE, MIXED = ((40, 60), (30, 50)), ((40, 60), (50, 30))


class Made:
    """A dataset in memory: noise images of two sizes, a query in every third."""

    name = "made"

    def __init__(self, folder: Path, images: int = IMAGES, sizes=LANDSCAPE):
        rng = np.random.default_rng(0)
        self.folder = folder
        pixels = [rng.integers(0, 256, (*sizes[i % 2], 3), np.uint8) for i in range(images)]
        self._records = [stored(image) for image in pixels]
        boxes = tuple(np.float32([[2, 3, 12 + i % 5, 24]]) for i in range(images))
        self._gallery = Annotations(
            tuple(f"{i:03}.png" for i in range(images)),
            np.asarray([image.shape[:2] for image in pixels], np.int32),
            np.zeros(images, np.int32),
            np.arange(images),
            boxes,
            tuple(np.array([i]) for i in range(images)),
        )
        self._of = np.arange(0, images, 3)

    def source(self, split):
        return self._records if split == "gallery" else [self._records[i] for i in self._of]

    def annotations(self, split):
        if split == "gallery":
            return self._gallery
        a, of = self._gallery, self._of
        names, boxes, ids = ([part[i] for i in of] for part in (a.image_names, a.boxes, a.person_ids))
        return Annotations(tuple(names), a.sizes[of], a.cameras[of], a.frames[of], tuple(boxes), tuple(ids))

    def queries(self):
        a = self.annotations("query")
        return Queries(a.image_names, np.concatenate(a.boxes), np.concatenate(a.person_ids), a.cameras, a.frames)


@partial(jax.jit, static_argnums=4)
def predictor(params, rest, batch, key, steps, query_boxes, has_query, known):
    """Depends on an image's pixels and noise, on the number of steps, and on the box that is held."""
    mean = batch["image"].astype(jnp.float32).mean((1, 2))
    draws = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (PROPOSALS, DIM + 5)))(
        batch["image_index"]
    )
    found = {}
    for k in steps:
        x = draws * k + mean[:, None, :1] / 255 + params
        corner = jnp.abs(x[..., :2]) * 5
        boxes = jnp.concatenate([corner, corner + 4 + jnp.abs(x[..., 2:4])], -1)
        boxes = boxes.at[:, 0].set(jnp.where(has_query[:, None], query_boxes, boxes[:, 0]))
        unit = x[..., 5:] / jnp.linalg.norm(x[..., 5:], axis=-1, keepdims=True)
        found[k] = Predictions(boxes, jax.nn.sigmoid(x[..., 4]), unit, x[..., 4] > -0.5)
    return found


def embedder(shard_rows: int = 16, **options) -> Embedder:
    given = EvaluateOptions(steps=STEPS, batch_size=BATCH, detection_threshold=0.3, shard_rows=shard_rows, **options)
    params, mesh = parallel.put_replicated(jnp.float32(0.25), parallel.make_mesh()), parallel.make_mesh()
    data = DataOptions(image_size=(32, 48))
    return Embedder(predictor, DIM, params, {}, jax.random.key(5), mesh, data, given)


@pytest.fixture(autouse=True)
def weights_hash(monkeypatch):
    monkeypatch.setattr(Embedder, "hash", property(toy_hash))


def toy_hash(self) -> str:
    """The toy's parameter is no nnx state."""
    return f"{float(self.params.addressable_data(0))}{jax.random.key_data(self.key)}"


def plainly(model: Embedder, dataset: Made, k: int) -> Detections:
    """The gallery batch after batch, all of it in memory."""
    people, sizes = {}, dataset.annotations("gallery").sizes
    for batch in eval_batches(dataset, "gallery", model.data, batch_size=BATCH):
        batch["original_size"] = sizes[np.maximum(batch["image_index"], 0)]
        found = model.predict(batch, STEPS)[k]
        people |= {batch["image_index"][i]: model.people(found, batch, i) for i in np.flatnonzero(batch["valid"])}
    rows = [people[image] for image in range(len(sizes))]
    owner = np.repeat(np.arange(len(rows)), [len(row.scores) for row in rows]).astype(np.int32)
    boxes, scores, embeddings = (np.concatenate(part) for part in zip(*rows, strict=True))
    return Detections(dataset.annotations("gallery").image_names, boxes, scores, embeddings, owner)


def assert_equal(some: Detections, other: Detections) -> None:
    assert some.images == other.images
    for name in FIELDS:
        one, two = (np.asarray(getattr(each, name)) for each in (some, other))
        assert one.dtype == two.dtype, name
        np.testing.assert_array_equal(one, two, err_msg=name)


def shards(folder: Path, split: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{split}-*/[0-9]*"))


@pytest.fixture
def small_windows(monkeypatch):
    """Portrait and landscape images wait for each other within 8 images."""
    monkeypatch.setattr(embed_split, "WINDOW", 2)


@pytest.mark.parametrize("sizes", [LANDSCAPE, MIXED], ids=["landscape", "mixed"])
def test_shards_together_are_the_gallery(tmp_path, small_windows, sizes):
    dataset, model = Made(tmp_path, sizes=sizes), embedder()
    found = embed_gallery(model, dataset, tmp_path / "shards")
    for k in STEPS:
        assert_equal(found[k], plainly(model, dataset, k))
    names = shards(tmp_path / "shards", "gallery")
    assert len(names) > 2
    ends = [tuple(map(int, name.split("-"))) for name in names]
    assert ends[0][0] == 0 and ends[-1][1] == IMAGES - 1
    assert all(first == last + 1 and first % BATCH == 0 for (_, last), (first, _) in pairwise(ends))
    # What is in memory is a shard: 16 rows, and one window at most.
    for path in (tmp_path / "shards").glob("gallery-*/[0-9]*"):
        rows = sum(len(np.load(path / str(k) / "scores.npy")) for k in STEPS)
        assert rows < 16 + (1 + (sizes is MIXED)) * BATCH * PROPOSALS * len(STEPS)
    for k in STEPS:
        assert isinstance(found[k].embeddings, Blocks)
        assert all(isinstance(part, np.memmap) for part in found[k].embeddings.parts)


@pytest.mark.parametrize("query", ["gt_box", "detected"])
def test_queries_have_a_row_each(tmp_path, query):
    dataset, model = Made(tmp_path), embedder(query=query)
    found, gallery = (each(model, dataset, tmp_path / "shards") for each in (embed_queries, embed_gallery))
    queries = dataset.queries()
    for k in STEPS:
        assert [found[k].images[i] for i in found[k].image_index] == list(queries.image_names)
        assert found[k].person_id.tolist() == queries.person_ids.tolist()
        if query == "gt_box":
            np.testing.assert_allclose(found[k].boxes, queries.boxes, atol=1e-4)
            continue
        for row, name in enumerate(queries.image_names):  # the noise of its gallery image, hence one of its detections
            inside = gallery[k].image_index == gallery[k].images.index(name)
            assert (gallery[k].boxes[inside] == found[k].boxes[row]).all(1).any() or found[k].scores[row] < 0.3


class Killed(BaseException):
    pass


@pytest.mark.parametrize("sizes", [LANDSCAPE, MIXED], ids=["landscape", "mixed"])
def test_killed_three_times_equals_one_go(tmp_path, monkeypatch, small_windows, sizes):
    dataset, model, folder = Made(tmp_path, sizes=sizes), embedder(), tmp_path / "shards"
    whole = embed_all(model, dataset, tmp_path / "whole")
    send, batches = Embedder.send, []

    def killed_after(count):
        def sending(self, batch, *given):
            if len(batches) == count:
                raise Killed
            is_query = given[1]
            batches.append([] if is_query else batch["position"][batch["valid"]].tolist())
            return send(self, batch, *given)

        return sending

    done = []
    for count in (3, 3, 3):
        batches.clear()
        monkeypatch.setattr(Embedder, "send", killed_after(count))
        with pytest.raises(Killed):
            embed_all(model, dataset, folder)
        (next(folder.glob("gallery-*")) / ".0000000020-0000000022").mkdir(exist_ok=True)  # of a kill while writing
        assert not set(chain.from_iterable(batches)) & set(done)  # what is in a shard is not embedded again
        done = [i for name in shards(folder, "gallery") for i in range(int(name[:10]), int(name[11:]) + 1)]
    assert len(done) == IMAGES and len(shards(folder, "query")) == 0  # the last time in the middle of the queries
    monkeypatch.setattr(Embedder, "send", send)
    for k, both in embed_all(model, dataset, folder).items():
        for again, once in zip(both, whole[k], strict=True):
            assert_equal(again, once)
    assert not list(folder.glob("*/.0*"))


def test_nothing_is_embedded_again_but_with_another_model_or_other_options(tmp_path, monkeypatch, capfd):
    dataset, folder, sent = Made(tmp_path), tmp_path / "shards", []
    send = Embedder.send
    monkeypatch.setattr(Embedder, "send", lambda self, *given: sent.append(0) or send(self, *given))
    first = embed_gallery(embedder(), dataset, folder)
    count = len(sent)
    assert_equal(embed_gallery(embedder(), dataset, folder)[1], first[1])
    assert (
        len(sent) == count and f"embedding gallery: {IMAGES} of {IMAGES} images are embedded" in capfd.readouterr().err
    )
    others = [
        dataclasses.replace(embedder(), params=jnp.float32(0.5)),
        embedder().with_seed(6),
        dataclasses.replace(embedder(), options=dataclasses.replace(embedder().options, steps=(1,))),
    ]
    for i, other in enumerate(others, 2):
        embed_gallery(other, dataset, folder)
        assert len(sent) == i * count
    embed_gallery(embedder(), Made(tmp_path, IMAGES - 4), folder)
    assert len(sent) == (len(others) + 2) * count - 1


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_processes_share_the_images(tmp_path, monkeypatch, processes):
    """Each embeds its share, one after the other here; together it is the gallery that one process makes."""
    positions = np.r_[0:9, 13:IMAGES]
    shares = [embed_split._share(positions, 2, p, processes) for p in range(processes)]
    assert np.concatenate(shares).tolist() == positions.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 2 * 2
    if processes > 2:
        return
    dataset, model = Made(tmp_path), embedder()
    whole = embed_gallery(model, dataset, tmp_path / "whole")
    # All see what is missing before the first of them writes.
    monkeypatch.setattr(embed_split, "missing_images", lambda folder, count: np.arange(count))
    for process in range(processes):
        monkeypatch.setattr(parallel, "place", lambda process=process: (process, processes, 2))
        found = embed_gallery(model, dataset, tmp_path / "shards")
    for k in STEPS:
        assert found[k].image_index.tolist() == whole[k].image_index.tolist()
        for name in ("boxes", "scores", "embeddings"):
            np.testing.assert_allclose(getattr(found[k], name), getattr(whole[k], name), rtol=1e-5, atol=1e-6)


def test_two_processes_embed_what_one_does(tmp_path):
    for code, output in run_pod("tests.inference.test_embed_split", str(tmp_path)):
        assert code == 0, output
    whole = embed_all(embedder(), Made(tmp_path, 12), tmp_path / "whole")
    for k in STEPS:
        for part, one in zip(("gallery", "query"), whole[k], strict=True):
            both = [load_embeddings(tmp_path / f"of {process}" / str(k) / part) for process in range(2)]
            assert_equal(*both)
            assert both[0].image_index.tolist() == one.image_index.tolist()
            for name in ("boxes", "scores", "embeddings"):
                np.testing.assert_allclose(getattr(both[0], name), getattr(one, name), rtol=1e-5, atol=1e-6)
    # Each wrote shards of its own half, of devices of its own.
    assert (tmp_path / "sent 0").read_text() == (tmp_path / "sent 1").read_text() == "3 x 2"


def main(process: int, folder: Path) -> None:
    Embedder.hash, send, sizes = property(toy_hash), Embedder.send, []

    def sending(self, batch, *given):
        if not given[1]:
            sizes.append(len(batch["image"]))
        return send(self, batch, *given)

    Embedder.send = sending
    for k, both in embed_all(embedder(), Made(folder, 12), folder / "shards").items():
        for part, found in zip(("gallery", "query"), both, strict=True):
            save_embeddings(folder / f"of {process}" / str(k) / part, found)
    (folder / f"sent {process}").write_text(f"{len(sizes)} x {sizes[0]}")


def test_the_next_batch_is_sent_before_one_is_read(tmp_path, monkeypatch):
    dataset, model, events = Made(tmp_path, 12), embedder(), []
    send, fetch = Embedder.send, parallel.fetch
    monkeypatch.setattr(Embedder, "send", lambda self, *given: events.append("send") or send(self, *given))
    monkeypatch.setattr(parallel, "fetch", lambda tree: events.append("read") or fetch(tree))
    embed_gallery(model, dataset, tmp_path / "shards")
    assert events == ["send", "send", "read", "send", "read", "read"]


def test_a_folder_of_embeddings_from_shards_is_what_it_always_was(tmp_path):
    dataset, model = Made(tmp_path), embedder()
    save_embeddings(tmp_path / "shards_out", embed_gallery(model, dataset, tmp_path / "shards")[3])
    save_embeddings(tmp_path / "plain_out", plainly(model, dataset, 3))
    for path in (tmp_path / "plain_out").iterdir():
        assert path.read_bytes() == (tmp_path / "shards_out" / path.name).read_bytes(), path.name
    assert isinstance(load_embeddings(tmp_path / "shards_out").embeddings, np.memmap)


def test_a_damaged_shard_is_named(tmp_path):
    dataset, model = Made(tmp_path), embedder()
    embed_gallery(model, dataset, shards_folder(tmp_path))
    shard = sorted(shards_folder(tmp_path).glob("gallery-*/[0-9]*"))[1]
    (shard / "3" / "boxes.npy").write_bytes(b"")
    with pytest.raises(InputError, match=f"{shard}: damaged shard .*; delete it and run again"):
        embed_gallery(model, dataset, shards_folder(tmp_path))
    remove_shards(tmp_path)
    assert not shards_folder(tmp_path).exists()


def test_blocks_are_their_concatenation():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 3)).astype(np.float32) for n in (4, 0, 1, 7)]
    whole = np.concatenate(parts)
    blocks = Blocks([partial(np.asarray, part) for part in parts], [len(part) for part in parts], 3)
    assert len(blocks) == 12 and blocks.shape == (12, 3)
    np.testing.assert_array_equal(np.asarray(blocks), whole)
    for rows in (slice(2, 9), slice(10, 40), slice(5, 5), np.array([11, 0, 4, 3, 4]), np.array([], int)):
        np.testing.assert_array_equal(blocks[rows], whole[rows])
    empty = SimpleNamespace(blocks=Blocks([], [], 3)).blocks
    assert np.asarray(empty).shape == (0, 3) and empty[:5].shape == (0, 3)


if __name__ == "__main__":
    main(join_pod(*sys.argv[1:4]), Path(sys.argv[4]))
