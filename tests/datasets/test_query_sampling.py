"""The rule that draws queries, against plain loops, hand-worked cases and sums made by sha256sum."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from psdiff_jax.datasets.common.query_sampling import add_drawn_queries, draw_queries
from psdiff_jax.datasets.common.records import Contents, Scene
from psdiff_jax.errors import InputError


def scene(name, people, camera=-1, frame=-1):
    boxes = np.asarray([[i, 0, i + 1, 9] for i in range(len(people))], np.float32).reshape(-1, 4)
    return Scene(name, Path(name), 10, 99, boxes, np.asarray(people, np.int64), camera, frame)


def drawn(*arguments, **options):
    return [(query.person_id, query.image_name) for query in draw_queries(*arguments, **options)]


def by_loops(scenes, per_person, gap, seed):
    """The rule as its description reads."""
    found = []
    for person in sorted({p for s in scenes for p in s.person_ids.tolist() if p >= 0}):
        shown = [s for s in scenes if person in s.person_ids]
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
    scenes = [
        scene(f"{i}.jpg", random.integers(-1, 8, random.integers(0, 4)), *random.integers(-1, (3, 40)))
        for i in range(random.integers(1, 40))
    ]
    options = {"per_person": int(random.integers(1, 4)), "gap": int(random.integers(0, 30)), "seed": seed}
    expected = by_loops(scenes, **options)
    assert drawn(scenes, **options) == expected
    shuffled = [scenes[i] for i in random.permutation(len(scenes))]
    assert drawn(shuffled, **options) == expected  # the order of the folder does not matter


def test_the_order_is_that_of_the_sums():
    # printf '0\0007\000a.jpg' | sha256sum
    sums = {"a": "0253", "b": "a1fa", "c": "b950", "d": "762c", "e": "cf3c", "f": "85db"}
    scenes = [scene(f"{name}.jpg", [7]) for name in sums]
    assert drawn(scenes, 6, 0, 0) == [(7, f"{name}.jpg") for name in sorted(sums, key=sums.get)]


def test_a_photograph_with_a_far_one_goes_first():
    near = [scene(f"near {i}", [1], 4, frame) for i, frame in enumerate((100, 105, 110))]
    for seed in range(10):
        # 10 frames apart at most: none is far at a gap of 10, the outer two are at 9
        assert {name for _, name in drawn(near, 2, 9, seed)} == {"near 0", "near 2"}
        assert drawn([*near[:2], scene("far", [1], 4, 200)], 1, 96, seed) == [(1, drawn_far(seed))]
        # another camera is far for all that know theirs, an unknown one for none
        elsewhere, unknown = scene("elsewhere", [1], 5), scene("unknown", [1], -1, 500)
        assert drawn([*near, elsewhere, unknown], 5, 99, seed)[4] == (1, "unknown")


def drawn_far(seed):
    """Of frames 100, 105 and 200 at a gap of 96, 100 and 200 have a far one: the smaller sum of the two."""
    return min(["near 0", "far"], key=lambda name: hashlib.sha256(f"{seed}\0001\0{name}".encode()).digest())


def test_the_choice_does_not_depend_on_other_photographs():
    scenes = [scene(f"{i}.jpg", [3]) for i in range(9)]
    first = drawn(scenes, 1, 25, 5)[0][1]
    without = [s for s in scenes if s.name == first or s.name in ("1.jpg", "2.jpg", "3.jpg")]
    assert drawn(without, 1, 25, 5) == [(3, first)]


def test_seeds_draw_differently():
    scenes = [scene(f"{i}.jpg", [3]) for i in range(50)]
    assert len({drawn(scenes, seed=seed)[0][1] for seed in range(20)}) > 10


def test_a_query_is_the_first_box_of_the_person():
    query = draw_queries([scene("a", [5, 2, 2], 3, 8), scene("b", [2, 2], 3, 9)], per_person=2)
    by_name = {q.image_name: q for q in query}
    assert by_name["a"].box.tolist() == [1, 0, 2, 9] and by_name["b"].box.tolist() == [0, 0, 1, 9]
    assert (by_name["a"].camera, by_name["a"].frame) == (3, 8)


def test_who_cannot_be_found_again_is_counted():
    contents = Contents(gallery=[scene("a", [1, 2, 2]), scene("b", [1, -1]), scene("c", [-1, 3])])
    add_drawn_queries(contents, "folder", per_person=1, gap=25, seed=0)
    assert [query.person_id for query in contents.queries] == [1]
    assert [str(finding) for finding in contents.findings] == [
        "folder: 2 of 3 labelled people of the gallery are in one photograph only: they cannot be found again and give"
        " no query"
    ]


@pytest.mark.parametrize("wrong", [{"per_person": 0}, {"per_person": "2"}, {"gap": -1}, {"gap": "near"}])
def test_options_that_make_no_sense(wrong):
    with pytest.raises(InputError, match=r"config\.data\.builder.* it is a (whole )?number from [01]$"):
        draw_queries([], **wrong)
