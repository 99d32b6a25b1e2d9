"""The hybrid memory bank against NumPy written from the definitions, and torch's autograd for the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psdiff_jax.errors import InputError
from psdiff_jax.teacher.memory_bank import init_memory_bank, memory_loss, update_memory_bank


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def example(people=5, dim=7, negatives=3, seed=0):
    rng = np.random.default_rng(seed)
    state = init_memory_bank(unit(rng.normal(size=(20, dim))), np.arange(20) % people, people, negatives)
    state = state._replace(hard=unit(rng.normal(size=(people, dim))))
    if negatives:
        rows = unit(rng.normal(size=(negatives, dim)))
        rows[-1] = 0
        state = state._replace(negatives=rows)
    state = jax.tree.map(jnp.asarray, state)
    return state, unit(rng.normal(size=(9, dim))), np.asarray([1, 1, 1, 4, 4, 4, 0, -1, -1], np.int32)


def reference_loss(features, labels, memory, temperature, hard_weight):
    total = 0.0
    for rows, weight in ((memory.mean, 1 - hard_weight), (memory.hard, hard_weight)):
        filled = [r for r in np.asarray(memory.negatives) if r.any()]
        columns = np.concatenate([np.asarray(rows), *[r[None] for r in filled]]).astype(np.float64)
        for f, label in zip(features.astype(np.float64), labels, strict=True):
            if label >= 0:
                e = np.exp(columns @ f / temperature)
                total -= weight * np.log(e[label] / e.sum()) / (labels >= 0).sum()
    return total


@pytest.mark.parametrize("negatives", [0, 3])
def test_loss_equals_its_definition(negatives):
    memory, features, labels = example(negatives=negatives)
    loss, terms = memory_loss(features, labels, memory, temperature=0.1, hard_weight=0.3)
    assert float(loss) == pytest.approx(reference_loss(features, labels, memory, 0.1, 0.3), rel=1e-5)
    assert float(loss) == pytest.approx(0.7 * float(terms["loss_mean"]) + 0.3 * float(terms["loss_hard"]), rel=1e-6)


def test_gradient_equals_torch():
    torch = pytest.importorskip("torch")
    memory, features, labels = example(negatives=0)
    ours = jax.grad(lambda f: memory_loss(f, labels, memory)[0])(features)
    f = torch.tensor(features, requires_grad=True)
    known, classes = torch.tensor(labels >= 0), torch.tensor(labels).long()
    losses = [
        torch.nn.functional.cross_entropy((f @ torch.tensor(np.asarray(rows)).T / 0.05)[known], classes[known])
        for rows in (memory.mean, memory.hard)
    ]
    (sum(losses) / 2).backward()
    np.testing.assert_allclose(ours, f.grad.numpy(), atol=1e-5)
    assert not np.asarray(ours)[labels < 0].any()


def test_update_moves_the_rows_of_the_batch_only():
    memory, features, labels = example()
    new = jax.jit(update_memory_bank)(memory, features, labels)
    for person in range(5):
        mine = features[labels == person]
        if not len(mine):
            np.testing.assert_array_equal(new.mean[person], memory.mean[person])
            np.testing.assert_array_equal(new.hard[person], memory.hard[person])
            continue
        hardest = mine[(mine @ np.asarray(memory.hard[person])).argmin()]
        for row, old, x in ((new.mean, memory.mean, mine.mean(0)), (new.hard, memory.hard, hardest)):
            np.testing.assert_allclose(row[person], unit(0.1 * np.asarray(old[person]) + 0.9 * x), atol=1e-6)


def test_a_few_batches_follow_the_published_loop():
    """A reading of the authors' CM_Hybrid in torch: loss against the old rows, then both rows of a person move."""
    torch = pytest.importorskip("torch")
    rng, people, dim = np.random.default_rng(3), 6, 8
    memory = init_memory_bank(unit(rng.normal(size=(18, dim))), np.arange(18) % people, people)
    rows = torch.tensor(np.concatenate([memory.hard, memory.mean]))  # hard ones first, as there
    update = jax.jit(update_memory_bank)
    for _ in range(4):
        labels = rng.permutation(np.repeat(rng.choice(people, 3, replace=False), 4)).astype(np.int32)
        features = unit(rng.normal(size=(12, dim)))
        loss, terms = memory_loss(features, labels, memory)
        memory = update(memory, features, labels)

        x, y = torch.tensor(features), torch.tensor(labels).long()
        hard, mean = (torch.nn.functional.cross_entropy(half, y) for half in (x @ rows.T / 0.05).chunk(2, dim=1))
        found = [float(terms[name]) for name in ("loss_hard", "loss_mean")]
        assert found == pytest.approx([float(hard), float(mean)], rel=1e-5)
        assert float(loss) == pytest.approx(0.5 * float(hard) + 0.5 * float(mean), rel=1e-5)
        for label in y.unique():
            mine = x[y == label]
            for row, new in ((label, mine[(mine @ rows[label]).argmin()]), (label + people, mine.mean(0))):
                rows[row] = torch.nn.functional.normalize(0.1 * rows[row] + 0.9 * new, dim=0)
        np.testing.assert_allclose(np.concatenate([memory.hard, memory.mean]), rows.numpy(), atol=1e-6)


def test_unlabelled_people_replace_the_oldest_negatives():
    memory, features, labels = example()
    new = update_memory_bank(memory._replace(cursor=np.int32(2)), features, labels)
    np.testing.assert_array_equal(new.negatives[2], features[7])
    np.testing.assert_array_equal(new.negatives[0], features[8])
    np.testing.assert_array_equal(new.negatives[1], memory.negatives[1])
    assert int(new.cursor) == 1
    few = update_memory_bank(
        memory._replace(negatives=memory.negatives[:1]), features, labels
    )  # more newcomers than places
    np.testing.assert_array_equal(few.negatives[0], features[8])


def test_memory_of_a_good_network_has_almost_no_loss():
    """Fine-tuning a network that tells everybody apart must start without pulling at it."""
    embeddings = np.eye(6, dtype=np.float32).repeat(4, axis=0)
    labels = np.arange(6).repeat(4)
    memory = init_memory_bank(embeddings, labels, 6)
    np.testing.assert_allclose(memory.mean, np.eye(6), atol=1e-6)
    np.testing.assert_array_equal(memory.mean, memory.hard)
    loss, terms = memory_loss(embeddings, labels, memory)
    assert float(loss) < 1e-6 and float(terms["accuracy"]) == 1.0


def test_a_person_without_crops_is_refused():
    with pytest.raises(InputError, match=r"numbered 0\.\.2"):
        init_memory_bank(np.eye(2, dtype=np.float32), np.asarray([0, 2]), 3)
