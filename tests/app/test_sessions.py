"""The query's vector against Rocchio's formula written out, and what a session keeps."""

import numpy as np
import pytest

from psdiff_jax.app import sessions
from psdiff_jax.app.sessions import Example, Filters, Judgement, Query, QueryImage, Session, Sessions


def unit(*values):
    return (np.asarray(values) / np.linalg.norm(values)).astype(np.float32)


A, B, C = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)
BOX = (0.0, 0.0, 1.0, 1.0)


def query(examples, confirmed=(), rejected=()):
    judged = [(True, each) for each in confirmed] + [(False, each) for each in rejected]
    return Query(
        tuple(Example(str(i), BOX, each) for i, each in enumerate(examples)),
        tuple(Judgement((str(i), None, BOX), is_them, each) for i, (is_them, each) in enumerate(judged)),
    )


def test_rocchio():
    np.testing.assert_allclose(query([A]).vector(), A)
    np.testing.assert_allclose(query([A, B]).vector(), unit(1, 1, 0), atol=1e-6)
    np.testing.assert_allclose(query([A], [B]).vector(), unit(1, 0.75, 0), atol=1e-6)
    np.testing.assert_allclose(query([A], [B, C]).vector(), unit(1, 0.375, 0.375), atol=1e-6)
    np.testing.assert_allclose(query([A], [A], [B, C]).vector(), unit(1.75, -0.075, -0.075), atol=1e-6)
    assert query([A], [B], [C]).vector().dtype == np.float32


def test_the_same_person_chosen_again_keeps_what_was_judged():
    session, first = Session(), query([A], [B])
    session.change(lambda _: first)
    session.change(lambda now: now.with_example(Example("0", BOX, A)))
    assert session.query is first
    session.undo()
    assert session.query == Query()  # nothing was added to the history
    session.change(lambda _: first)
    session.change(lambda now: now.with_example(Example("0", (0.0, 0.0, 2.0, 2.0), C)))  # somebody else
    assert not session.query.judgements and len(session.query.examples) == 1


def test_undo_has_no_steps_that_change_nothing():
    session = Session()
    for image in ("a", "b"):
        session.add(QueryImage(image, image, b"", (1, 1), *np.zeros((3, 0))))
        session.change(lambda now, image=image: now.with_example(Example(image, BOX, A)))
    session.change(lambda now: now.judged(Judgement(("x", None, BOX), True, B), ("x", None, BOX)))
    session.change(lambda now: now.judged(Judgement(("x", None, BOX), True, B), ("x", None, BOX)))  # a double click
    session.remove("b")
    assert len(session.query.judgements) == 1
    session.undo()
    assert [each.image for each in session.query.examples] == ["a"] and not session.query.judgements
    session.undo()
    assert session.query == Query() and not session.can_undo


@pytest.mark.parametrize("case", [query([A, -A]), query([A], [-A, -A]), query([A], [-A], [A])])
def test_opposites_leave_a_unit_vector(case):
    assert np.linalg.norm(case.vector()) == pytest.approx(1)


def test_sessions_that_are_not_used_go_first(monkeypatch):
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    kept = Sessions()
    first, second = kept.keep("1"), kept.keep("2")
    assert kept.get("1") is first and kept.get("3") is not kept.get("3")
    kept.keep("3")
    assert kept.get("1") is first and kept.get("2") is not second


def test_the_history_is_bounded(monkeypatch):
    monkeypatch.setattr(sessions, "MAX_HISTORY", 5)
    session = Session()
    for i in range(9):
        session.change(lambda query, i=i: query.with_example(Example(f"image {i}", BOX, A)))
    assert len(session.query.examples) == 9
    for _ in range(9):
        session.undo()
    assert not session.can_undo and len(session.query.examples) == 5


def test_a_new_search_keeps_the_filters():
    session = Session()
    session.filters = Filters(folder="north", similarity=0.5, top=96)
    session.clear()
    assert session.filters == Filters(folder="north", similarity=0.5)
