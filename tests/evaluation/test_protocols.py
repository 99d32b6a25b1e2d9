"""Which images a query is compared with."""

import itertools

import numpy as np
import pytest

from psdiff_jax.data.galleries import GalleryList
from psdiff_jax.data.schema import images_of_identities
from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.evaluate import evaluate
from psdiff_jax.evaluation.protocols import Protocol, make_protocols, parse_protocol, query_images
from psdiff_jax.evaluation.protocols.base import positive, register
from psdiff_jax.report.naming import gallery_name
from psdiff_jax.report.terminal import format_table

BOX = (0, 0, 40, 100)


@pytest.fixture
def street(make):
    """Two cameras, frames 0, 100, 200, ...; person 1 in images 0, 3 and 4."""
    persons = {0: [(BOX, 1), (BOX, -1)], 3: [(BOX, 1), (BOX, 2)], 4: [(BOX, 1), (BOX, 1)], 5: [(BOX, -1)]}
    annotations = make.annotations([(f"{i}.jpg", i % 2, 100 * i, persons.get(i, [])) for i in range(60)])
    return annotations, make.queries(annotations, [("0.jpg", BOX, 1), ("3.jpg", BOX, 2)])


def gallery(spec, street, query=0, seed=0):
    return [set(p.gallery(query).tolist()) for p in make_protocols([spec], *street, seed)]


def test_exclusion_rules(street):
    everyone = set(range(60))
    assert gallery("whole", street) == [everyone - {0}]
    assert gallery("cross_camera", street) == [set(range(1, 60, 2))]
    assert gallery("same_camera", street, 1) == [set(range(1, 60, 2)) - {3}]
    assert gallery("temporal_gap:250", street) == [everyone - {0, 2}]
    assert gallery("temporal_gap:250", street, 1) == [everyone - {1, 3, 5}]
    assert gallery("temporal_gap", street) == gallery("temporal_gap:250", street)
    assert gallery("temporal_gap:399", street) == [everyone - {0, 2}]
    assert gallery("temporal_gap:400", street) == [everyone - {0, 2, 4}]  # the gap itself is left out


def test_sized_galleries(street):
    sizes = gallery("sized:5,20,40,all", street)
    assert [len(g) for g in sizes] == [5, 20, 40, 59]
    assert all(small < large for small, large in itertools.pairwise(sizes))
    assert all({3, 4} <= g and 0 not in g for g in sizes)
    assert gallery("sized:5,20,40,all", street) == sizes  # the same again
    assert gallery("sized:40,5", street) == [sizes[2], sizes[0]]  # whichever else is asked for
    assert gallery("sized:20", street, seed=1) != [sizes[1]]
    other = gallery("sized:20", street, query=1)[0]
    assert other != sizes[1] and 3 not in other
    assert gallery("sized:1", street) == [{3, 4}]  # every positive is in, however small the gallery
    assert gallery("sized:999", street) == [sizes[3]]


def test_sized_galleries_are_the_same_on_every_machine_and_for_ever(plain, street):
    """The negatives are those of smallest draw, the draws being Philox4x64-10 keyed by (seed, query number)."""
    draws = plain.philox(7, 1, 60)
    draws[3] = 2**64  # the query's own image; no other shows person 2
    expected = sorted(range(60), key=draws.__getitem__)[:8]
    assert sorted(gallery("sized:8", street, query=1, seed=7)[0]) == sorted(expected)
    assert all(p.gallery(0).dtype == np.int64 for p in make_protocols(["sized:8", "whole"], *street))


def test_negatives_are_drawn_evenly(make):
    annotations = make.annotations([(f"{i}", 0, 0, [(BOX, 1)] if i == 0 else []) for i in range(21)])
    queries = make.queries(annotations, [("0", BOX, 1)] * 400)
    protocol = make_protocols(["sized:5"], annotations, queries)[0]
    counts = np.bincount(np.concatenate([protocol.gallery(q) for q in range(400)]), minlength=21)[1:]
    assert counts.sum() == 2000 and counts.min() > 60 and counts.max() < 145  # 100 expected, deviation 8.7


def test_images_of_identities(street):
    shown = images_of_identities(street[0].person_ids)
    assert {person: images.tolist() for person, images in shown.items()} == {1: [0, 3, 4], 2: [3]}


def test_names_and_sizes(street):
    made = make_protocols(["whole", "temporal_gap", "sized"], *street)
    expected = [("whole", "all"), ("temporal_gap:250", "all"), *(("sized", s) for s in (20, 50, 100, "all"))]
    assert [(p.name, p.size) for p in made] == expected
    assert [p.excludes_queries_without_positives for p in made] == [False, True, False, False, False, False]
    assert all(p.description for p in made)


@pytest.mark.parametrize(
    "spec",
    [
        "wole",
        "",
        "whole:3",
        "temporal_gap:x",
        "temporal_gap:1,2",
        "temporal_gap:-5",
        "sized:0",
        "sized:5,,6",
        "sized:1.5",
        "listed",
        "listed:",
        "listed:50,,100",
        "listed:../x",
    ],
)
def test_a_spec_that_means_nothing_is_named(spec):
    with pytest.raises(InputError, match=r"config\.evaluate\.protocols") as error:
        parse_protocol(spec)
    assert repr(spec) in str(error.value)


@pytest.fixture
def lists():
    """Official galleries of the street's two queries: "100" and "30" of both, "hard" of the second alone."""
    box = np.array([BOX], np.float32)

    def made(queries, galleries):
        rows = tuple(np.array(g, np.int32) for g in galleries)
        return GalleryList(np.array(queries), rows, (np.array([0], np.int32),) * len(rows), (box,) * len(rows))

    return {
        "100": made([0, 1], [[4, 9, 8, 7], [5, 6, 7, 8]]),
        "30": made([0, 1], [[4, 9, 4], [5, 6]]),
        "hard": made([1], [[5, 7]]),
    }


def test_listed_galleries(street, lists):
    made = make_protocols(["listed:30,100", "listed:hard,all"], *street, galleries=lists)
    assert [(p.name, p.size) for p in made] == [("listed", 30), ("listed", 100), ("listed", "hard"), ("listed", "all")]
    thirty, hundred, hard, everything = made
    assert thirty.gallery(0).tolist() == [4, 9, 4]  # as it is given, repeated images and order included
    assert hundred.gallery(1).tolist() == [5, 6, 7, 8]
    assert hard.queries(2).tolist() == [1] and hard.gallery(1).tolist() == [5, 7]
    assert hundred.queries(2).tolist() == [0, 1]
    behind = everything.gallery(0).tolist()  # the list of the smallest number, then the rest but the query's own
    assert behind[:3] == [4, 9, 4] and behind[3:] == [i for i in range(60) if i not in (0, 4, 9)]
    assert everything.queries(2).tolist() == [0, 1]
    assert 3 not in everything.gallery(1) and len(everything.gallery(1)) == 59


def test_unknown_lists_are_named(street, lists):
    with pytest.raises(InputError, match=r"no gallery called '200'; there are 100, 30, hard, all$"):
        make_protocols(["listed:30,200"], *street, galleries=lists)
    with pytest.raises(InputError, match=r"no gallery called 'all'; there are hard$"):
        make_protocols(["listed:all"], *street, galleries={"hard": lists["hard"]})
    for none in (None, {}):
        with pytest.raises(InputError, match=r"'listed:50': the dataset has no galleries of its own"):
            make_protocols(["listed:50"], *street, galleries=none)
    with pytest.raises(InputError, match="listed with gallery size 30 is given twice"):
        make_protocols(["listed:30", "listed:100,30"], *street, galleries=lists)


def test_what_the_data_cannot_serve_is_named(make, street):
    blind = make.annotations([("a.jpg", -1, 3, [(BOX, 1)]), ("b.jpg", 0, -1, [])])
    queries = make.queries(blind, [("a.jpg", BOX, 1)])
    with pytest.raises(InputError, match=r"'cross_camera': it needs the camera of every image; 'a.jpg' has none"):
        make_protocols(["cross_camera"], blind, queries)
    with pytest.raises(InputError, match=r"'temporal_gap': it needs the frame number of every image; 'b.jpg' has none"):
        make_protocols(["temporal_gap"], blind, queries)
    with pytest.raises(InputError, match="whole with gallery size all is given twice"):
        make_protocols(["whole", "whole"], *street)
    with pytest.raises(InputError, match=r"query 0: its image 'a.jpg'"):
        query_images(street[0], queries)


@register("first_images")
class FirstImages(Protocol):
    """A protocol from outside the package: the first images of the gallery, "first_images:20"."""

    label, usage = "first images of the gallery", "one number of images, as in 'first_images:20'"
    excludes_queries_without_positives = True

    def __init__(self, task, size):
        super().__init__(task)
        self.size, self.description = size, f"the first {size} images"

    @classmethod
    def parse(cls, arguments):
        (size,) = arguments
        return (positive(size),)

    def gallery(self, query):
        return np.setdiff1d(np.arange(self.size), self.task.query_images[query])


def test_a_protocol_from_outside_is_evaluated_by_its_spec(make):
    case = make.random_case(3, images=40, identities=8)
    data = case.annotations, case.queries
    protocols = make_protocols(["whole", "first_images:30", "first_images:40"], *data)
    evaluation = evaluate({4: (case.gallery, case.query)}, *data, protocols, search_threshold=0.3)
    found = evaluation.numbers["search"]["first_images"]
    assert found["40"]["4"]["mAP_all_queries"] == evaluation.numbers["search"]["whole"]["all"]["4"]["mAP"]
    assert 29 < found["30"]["4"]["gallery_images_mean"] < 30 and found["30"]["4"]["mAP"] > 0
    assert evaluation.numbers["protocols"]["first_images"] == "the first 30 images; the first 40 images"
    assert list(evaluation.curves["search"]["first_images"]) == ["40"]
    assert gallery_name("first_images", "30") == "first images of the gallery, 30"
    assert "\nfirst_images " in format_table(evaluation.numbers)
    with pytest.raises(InputError, match="'first_images:x' is not understood; first_images takes one number of images"):
        parse_protocol("first_images:x")
    with pytest.raises(ValueError, match="is called 'whole' already"):
        register("whole")(FirstImages)
