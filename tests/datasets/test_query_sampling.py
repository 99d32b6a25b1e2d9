"""The query sampling rule, against plain loops, hand-worked cases and hashes made by sha256sum."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from psdiff_jax.datasets.common.query_sampling import add_sampled_queries, sample_queries
from psdiff_jax.datasets.common.records import AnnotatedImage, RawDataset
from psdiff_jax.errors import InputError


def image(name, person_ids, camera=-1, frame=-1):
    boxes = np.asarray([[i, 0, i + 1, 9] for i in range(len(person_ids))], np.float32).reshape(-1, 4)
    return AnnotatedImage(name, Path(name), 10, 99, boxes, np.asarray(person_ids, np.int64), camera, frame)


def sampled(*arguments, **options):
    return [(query.person_id, query.image_name) for query in sample_queries(*arguments, **options)]


def by_loops(images, per_person, gap, seed):
    """The rule as its description reads."""
    found = []
    for person in sorted({p for s in images for p in s.person_ids.tolist() if p >= 0}):
        shown = [s for s in images if person in s.person_ids]
        if len(shown) == 1:
            continue
        ranked = []
        for a in shown:
            far = False
            for b in shown:
                if a.camera >= 0 and b.camera >= 0 and a.camera != b.camera:
                    far = True
                if a.camera == b.camera and min(a.frame, b.frame) >= 0 and abs(a.frame - b.frame) > gap:
                    far = True
            digest = hashlib.sha256(f"{seed}\0{person}\0{a.name}".encode()).hexdigest()
            ranked.append((0 if far else 1, digest, a.name))
        found += [(person, name) for _, _, name in sorted(ranked)[:per_person]]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_as_the_description_reads(seed):
    random = np.random.default_rng(seed)
    images = [
        image(f"{i}.jpg", random.integers(-1, 8, random.integers(0, 4)), *random.integers(-1, (3, 40)))
        for i in range(random.integers(1, 40))
    ]
    options = {"per_person": int(random.integers(1, 4)), "gap": int(random.integers(0, 30)), "seed": seed}
    expected = by_loops(images, **options)
    assert sampled(images, **options) == expected
    shuffled = [images[i] for i in random.permutation(len(images))]
    assert sampled(shuffled, **options) == expected  # the order of the folder does not matter


def test_the_order_is_that_of_the_hashes():
    # printf '0\0007\000a.jpg' | sha256sum
    hashes = {"a": "0253", "b": "a1fa", "c": "b950", "d": "762c", "e": "cf3c", "f": "85db"}
    images = [image(f"{name}.jpg", [7]) for name in hashes]
    assert sampled(images, 6, 0, 0) == [(7, f"{name}.jpg") for name in sorted(hashes, key=hashes.get)]


def test_an_image_with_a_distant_view_goes_first():
    near = [image(f"near {i}", [1], 4, frame) for i, frame in enumerate((100, 105, 110))]
    for seed in range(10):
        # 10 frames apart at most: none is distant at a gap of 10, the outer two are at 9
        assert {name for _, name in sampled(near, 2, 9, seed)} == {"near 0", "near 2"}
        assert sampled([*near[:2], image("far", [1], 4, 200)], 1, 96, seed) == [(1, sampled_distant(seed))]
        # another camera is distant for all known cameras, an unknown one for none
        elsewhere, unknown = image("elsewhere", [1], 5), image("unknown", [1], -1, 500)
        assert sampled([*near, elsewhere, unknown], 5, 99, seed)[4] == (1, "unknown")


def sampled_distant(seed):
    """Of frames 100, 105 and 200 at a gap of 96, 100 and 200 have a distant view: the smaller hash of the two."""
    return min(["near 0", "far"], key=lambda name: hashlib.sha256(f"{seed}\0001\0{name}".encode()).digest())


def test_the_choice_does_not_depend_on_other_images():
    images = [image(f"{i}.jpg", [3]) for i in range(9)]
    first = sampled(images, 1, 25, 5)[0][1]
    without = [s for s in images if s.name == first or s.name in ("1.jpg", "2.jpg", "3.jpg")]
    assert sampled(without, 1, 25, 5) == [(3, first)]


def test_seeds_sample_differently():
    images = [image(f"{i}.jpg", [3]) for i in range(50)]
    assert len({sampled(images, seed=seed)[0][1] for seed in range(20)}) > 10


def test_a_query_is_the_first_box_of_the_person():
    query = sample_queries([image("a", [5, 2, 2], 3, 8), image("b", [2, 2], 3, 9)], per_person=2)
    by_name = {q.image_name: q for q in query}
    assert by_name["a"].box.tolist() == [1, 0, 2, 9] and by_name["b"].box.tolist() == [0, 0, 1, 9]
    assert (by_name["a"].camera, by_name["a"].frame) == (3, 8)


def test_identities_that_cannot_be_found_again_are_counted():
    dataset = RawDataset(gallery=[image("a", [1, 2, 2]), image("b", [1, -1]), image("c", [-1, 3])])
    add_sampled_queries(dataset, "folder", per_person=1, gap=25, seed=0)
    assert [query.person_id for query in dataset.queries] == [1]
    assert [str(finding) for finding in dataset.findings] == [
        "folder: 2 of 3 gallery identities are in one image only: they cannot be found again and give no query"
    ]


@pytest.mark.parametrize("wrong", [{"per_person": 0}, {"per_person": "2"}, {"gap": -1}, {"gap": "near"}])
def test_invalid_options(wrong):
    with pytest.raises(InputError, match=r"config\.data\.builder.* it is a (whole )?number from [01]$"):
        sample_queries([], **wrong)
