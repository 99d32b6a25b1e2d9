"""Mapping by threads is mapping, in order and a little ahead."""

import threading

import pytest

from psdiff_jax.datasets.common.ahead import map_ahead


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order(threads):
    assert list(map_ahead(lambda i: i * i, range(50), threads)) == [i * i for i in range(50)]
    assert list(map_ahead(abs, [], threads)) == []


def test_items_are_computed_at_once_and_not_far_ahead():
    """Two wait for each other: one thread alone would never get on. What is taken is bounded, whatever is read."""
    meeting, taken = threading.Barrier(2, timeout=60), []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = map_ahead(lambda i: meeting.wait() >= 0 and i, items(), threads=2)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(taken) <= 10 + 2 * 2
    meeting.abort()  # of those that are under way
    results.close()
    assert len(taken) <= 10 + 2 * 2


def test_an_error_comes_at_its_turn():
    def fail(i):
        if i >= 5:
            raise ValueError(i)
        return i

    results, seen = map_ahead(fail, range(100), threads=4), []
    with pytest.raises(ValueError, match=r"^5$"):
        seen.extend(results)
    assert seen == [0, 1, 2, 3, 4]
    assert list(map_ahead(fail, range(5), threads=4)) == list(range(5))
