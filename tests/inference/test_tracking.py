"""Warm starts frame by frame, and track numbers on made-up sequences: psdiff_jax.inference.tracking."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from psdiff_jax import parallel
from psdiff_jax.data.options import DataOptions
from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.evaluation.options import EvaluateOptions
from psdiff_jax.inference.embed import Embedder, People
from psdiff_jax.inference.predictor import Predictor
from psdiff_jax.inference.tracking import NO_TRACK, Tracker, TrackingOptions, track


def people(*rows):
    """(x, y, score, embedding) of people of 10x30 pixels -> People."""
    boxes = np.float32([[x, y, x + 10, y + 30] for x, y, _, _ in rows]).reshape(-1, 4)
    scores = np.float32([score for _, _, score, _ in rows])
    embeddings = np.float32([embedding for *_, embedding in rows]).reshape(-1, 2)
    return People(boxes, scores, embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9))


class FakeEmbedder:
    """Finds what it is told to; remembers (steps, known people, draw) of each call."""

    def __init__(self, found):
        self.found, self.calls = list(found), []

    def detect(self, image, steps, known=None, draw=0):
        self.calls.append((steps, known, draw))
        return self.found[len(self.calls) - 1]


GREY, WHITE = np.full((48, 64, 3), 90, np.uint8), np.full((48, 64, 3), 250, np.uint8)
RED, BLUE = (1, 0), (0, 1)


def test_frames_begin_from_the_people_before_them_but_for_the_first_cuts_and_every_nth():
    found = [people((4, 4, 0.9, RED), (30, 4, 0.05, BLUE))] * 8
    fake = FakeEmbedder(found)
    images = [GREY, GREY, GREY, WHITE, WHITE, WHITE, WHITE, WHITE]
    options = TrackingOptions(cold_steps=8, warm_steps=2, cold_every=3)
    frames = list(track(fake.detect, enumerate(images), options))
    cold = [True, False, False, True, False, False, True, False]
    assert [frame.cold for frame in frames] == cold
    assert [frame.time for frame in frames] == list(range(8))
    for number, (steps, known, draw) in enumerate(fake.calls):
        assert draw == number and steps == (8 if cold[number] else 2)
        assert (known is None) == cold[number]
        if known is not None:  # without the low score
            np.testing.assert_array_equal(known.scores, np.float32([0.9]))


def test_after_an_empty_frame_a_few_steps_from_noise_look_for_somebody():
    fake = FakeEmbedder([people(), people(), people((4, 4, 0.9, RED)), people((5, 4, 0.9, RED))])
    list(track(fake.detect, ((i, GREY) for i in range(4)), TrackingOptions(cold_steps=8, warm_steps=1)))
    assert [(steps, known is None) for steps, known, _ in fake.calls] == [(8, True), (1, True), (1, True), (1, False)]


def test_people_who_cross_keep_their_numbers():
    """Boxes alone would exchange them: they meet at one place and part again."""
    tracker, seen = Tracker(TrackingOptions()), []
    for i in range(11):
        rows = [(4 * i, 4, 0.9, (1, 0.1)), (40 - 4 * i, 4, 0.8, (0.1, 1))]
        seen.append(tracker.update(i / 5, people(*(rows if i % 2 else rows[::-1])))[1])
    for i, numbers in enumerate(seen):
        assert numbers.tolist() == ([1, 0] if i % 2 else [0, 1])


def test_a_track_outlives_a_gap_ends_with_patience_and_low_scores_have_none():
    tracker = Tracker(TrackingOptions(patience=2.0))

    def numbers(time, *rows):
        return tracker.update(time, people(*rows))[1].tolist()

    assert numbers(0.0, (0, 0, 0.9, RED), (30, 0, 0.1, BLUE)) == [0, NO_TRACK]
    assert numbers(0.5) == []
    assert numbers(1.5, (50, 0, 0.9, RED)) == [0]  # elsewhere, by similarity
    assert numbers(2.0, (50, 0, 0.9, BLUE), (90, 0, 0.9, BLUE)) == [0, 1]  # by overlap
    assert numbers(4.5, (90, 0, 0.9, BLUE)) == [2]
    assert Tracker(TrackingOptions()).update(0.0, people())[1].dtype == np.int64


def test_after_a_cut_only_similarity_continues_a_track():
    found = [people((4, 4, 0.9, RED)), people((4, 4, 0.9, BLUE)), people((40, 4, 0.9, RED), (4, 4, 0.8, BLUE))]
    frames = list(track(FakeEmbedder(found).detect, [(0.0, GREY), (0.2, WHITE), (0.4, GREY)]))
    assert [frame.tracks.tolist() for frame in frames] == [[0], [1], [0, 1]]
    np.testing.assert_allclose(frames[1].people.embeddings, [BLUE], atol=1e-6)  # nothing of who stood there before


def test_an_embedding_is_the_mean_of_its_track_and_the_next_frame_begins_from_it():
    fake = FakeEmbedder(
        [people((4, 4, 0.9, RED), (40, 4, 0.1, BLUE)), people((4, 4, 0.9, BLUE), (40, 4, 0.1, RED))] * 2
    )
    frames = list(track(fake.detect, ((i / 5, GREY) for i in range(3)), TrackingOptions(memory=0.5)))
    means = [np.array(v) / np.linalg.norm(v) for v in ((1, 0), (0.5, 1), (1.25, 0.5))]
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.people.embeddings[0], means[i], rtol=1e-5)
        np.testing.assert_array_equal(frame.people.embeddings[1], (RED if i % 2 else BLUE))  # without a track
    np.testing.assert_allclose(fake.calls[2][1].embeddings, [means[1]], rtol=1e-5)


@pytest.fixture(scope="module")
def embedder(tiny):
    """A tiny model on one device, whose warm starts begin at T."""
    sampler = SamplerOptions(num_proposals=10, renewal_threshold=0.0, warm_time=1.0)
    data = DataOptions(name="none", image_size=(64, 96))
    key, mesh = jax.random.key(1), jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params, rest = (parallel.put_replicated(tree, mesh) for tree in (tiny.params, tiny.rest))
    return Embedder(Predictor(tiny.graphdef, sampler), 8, params, rest, key, mesh, data, EvaluateOptions())


@pytest.mark.slow
def test_a_warm_start_at_T_from_nobody_is_a_cold_start_and_known_people_count(embedder):
    image = np.random.default_rng(0).integers(0, 256, (128, 160, 3)).astype(np.uint8)
    nobody = People(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 8), np.float32))
    cold, warm = embedder.detect(image, 2, draw=3), embedder.detect(image, 2, nobody, draw=3)
    for got, want in zip(warm, cold, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)
    assert not np.allclose(embedder.detect(image, 2, draw=4).boxes[0], cold.boxes[0], atol=0.1)
    near = replace(embedder.predictor.sampler, warm_time=0.001, warm_share=1.0)
    near = replace(embedder, predictor=replace(embedder.predictor, sampler=near))
    begun = near._known(cold, {"scale": np.float32([0.5]), "image_size": np.int32([[64, 80]])})
    np.testing.assert_allclose(begun.boxes[0, : len(cold.boxes)], cold.boxes / 2, atol=1e-3)  # of the network image
    assert begun.valid.sum() == len(cold.scores) and begun.boxes.shape == (1, 10, 4)
    again = near.detect(image, 1, cold, draw=3)
    assert SimpleNamespace(people=again).people.boxes.shape[1] == 4 and not np.allclose(again.boxes[0], cold.boxes[0])
