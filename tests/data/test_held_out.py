"""Which images are held out, and the gallery that they make."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from psdiff_jax.data.held_out import HeldOut, held_out_identities, training_positions
from psdiff_jax.data.schema import Annotations
from psdiff_jax.errors import InputError

from ..options import train_batches
from .test_pipeline import MemoryDataset


def annotations_of(people: list[list[int]]) -> Annotations:
    """Image i shows the identities `people[i]`, side by side."""
    count = len(people)
    return Annotations(
        image_names=tuple(f"{i}.png" for i in range(count)),
        sizes=np.full((count, 2), 100, np.int32),
        cameras=np.arange(count, dtype=np.int32),
        frames=np.arange(count, dtype=np.int64),
        boxes=tuple(
            np.asarray([[10 * k, 0, 10 * k + 8, 20] for k in range(len(ids))], np.float32).reshape(-1, 4)
            for ids in people
        ),
        person_ids=tuple(np.asarray(ids, np.int64) for ids in people),
    )


@pytest.fixture
def crowd() -> Annotations:
    rng = np.random.default_rng(0)
    return annotations_of([rng.choice(np.r_[-1, -1, np.arange(30)], 3, replace=False).tolist() for _ in range(100)])


def test_every_image_of_a_held_out_identity_is_held_out(crowd):
    positions, people = held_out_identities(crowd, 0.3)
    assert 20 < len(positions) <= 30 and len(people) >= 2
    for i, ids in enumerate(crowd.person_ids):
        assert (i in positions) == bool(np.isin(ids, people).any())
    kept = training_positions(crowd, 0.3)
    assert sorted([*kept, *positions]) == list(range(100))
    assert not any(np.isin(crowd.person_ids[i], people).any() for i in kept)


def test_the_choice_depends_on_nothing_but_the_dataset(crowd):
    first, again = held_out_identities(crowd, 0.3), held_out_identities(crowd, 0.3)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_no_share_holds_nothing_out(crowd):
    np.testing.assert_array_equal(training_positions(crowd, 0.0), np.arange(100))


@pytest.mark.parametrize(
    ("people", "share", "hint"),
    [
        ([[1], [1], [2], [2]], 0.25, "the smallest share that holds one is 0.500"),
        ([[1], [2], [-1, -1]], 0.9, "no identity has two images"),
    ],
)
def test_a_share_that_holds_no_identity_is_refused(people, share, hint):
    with pytest.raises(InputError) as caught:
        held_out_identities(annotations_of(people), share)
    assert str(caught.value) == f"config.data.held_out={share}: no identity's images fit into that share; {hint}"


def test_the_view_is_a_gallery_with_queries():
    people = [[1, -1], [7, 1], [2], [2, 3], [3]]
    dataset = SimpleNamespace(
        name="made up",
        folder=None,
        annotations=lambda split: annotations_of(people),
        source=lambda split: SimpleNamespace(at=lambda positions: positions.tolist()),
    )
    view = HeldOut(dataset, 0.4)
    chosen, ids = held_out_identities(annotations_of(people), 0.4)
    gallery, queries = view.annotations("gallery"), view.queries()
    assert gallery.image_names == tuple(f"{i}.png" for i in chosen) and view.source("gallery") == chosen.tolist()
    expected = [
        (f"{i}.png", person, 10.0 * people[i].index(person)) for i in chosen for person in people[i] if person in ids
    ]
    found = list(zip(queries.image_names, queries.person_ids.tolist(), queries.boxes[:, 0].tolist(), strict=True))
    assert found == expected and len(found) == 2
    assert view.source("query") == [int(name.split(".")[0]) for name in queries.image_names]
    assert [len(boxes) for boxes in view.annotations("query").boxes] == [1, 1]
    assert queries.cameras.tolist() == view.source("query")


def test_held_out_images_are_never_in_training_batches():
    dataset = MemoryDataset()
    ids = dataset._annotations.person_ids
    for i in (0, 1):
        ids[i][0] = 0  # person 0 is in images 0 and 1, all others in one
    config = ConfigDict(
        {
            "seed": 3,
            "train": {"batch_size": 4},
            "data": {"image_size": (32, 48), "max_boxes": 5, "held_out": 0.2, "augment": {"flip": False}},
        }
    )
    batches = train_batches(dataset, config)
    seen = np.concatenate([next(batches)["image_index"] for _ in range(9)])
    assert set(seen.tolist()) == set(range(2, 11))
    assert batches.get_state()["images"] == 9
