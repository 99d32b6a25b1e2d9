"""The samplers against diffusers, exact denoisers, and their promises about pins, renewal and batches.

The tables of numbers that they run on have tests of their own: test_solvers.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psdiff_jax.diffusion import samplers
from psdiff_jax.diffusion.noise import Diffusion, State
from psdiff_jax.diffusion.samplers import Known, Path, QueryBox, SamplerOptions, begin, renew, sample
from psdiff_jax.diffusion.schedule import cosine_alpha_bar, sampling_times
from psdiff_jax.diffusion.solvers import solver_table

DIFFUSION = Diffusion(embedding_dim=5)
ddim_step = jax.jit(samplers.ddim_step, static_argnums=0)
advance = jax.jit(samplers.advance)  # the numbers are arguments: compiled once for each order, for any number of steps
SOLVERS = [{"eta": 1.0}, {"eta": 0.0}, *({"solver": s, "order": o} for s in ("dpm", "dpm++") for o in (1, 2, 3))]
EVERY_SOLVER = pytest.mark.parametrize("solver", SOLVERS, ids=lambda v: "-".join(map(str, v.values())))


def random_state(seed, images=2, num_proposals=6):
    rng = np.random.default_rng(seed)
    return State(
        jnp.float32(rng.normal(size=(images, num_proposals, 4))),
        jnp.float32(rng.normal(size=(images, num_proposals, 5))),
    )


def table_of(solver, steps, power=1.0):
    """(times, a table as `sample` makes it)."""
    times = sampling_times(1000, steps, power)
    options = {"solver": "ddim", **solver}
    return times, solver_table(alpha_bar=cosine_alpha_bar(1000)[times], **options)


def row(table, step):
    return jax.tree.map(lambda v: jnp.float32(v[step]), table)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 20])
def test_ddim_is_diffusers(eta, steps):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    # In float32 theirs takes the root of a negative number at T: it runs in float64, on the same signal powers.
    scheduler.alphas_cumprod = torch.tensor(cosine_alpha_bar(1000)[1:])
    scheduler.set_timesteps(steps)
    times, table = table_of({"eta": eta}, steps)
    path = begin(random_state(0), table.order)
    for i in range(steps):
        t, following = times[i : i + 2]
        x, x0, noise = path.x, random_state(2 * i + 1), random_state(2 * i + 2)
        path = advance(path, x0, row(table, i), noise)
        got = ddim_step(DIFFUSION, x, x0, jnp.full(2, t), jnp.full(2, following), noise, eta)  # training's
        for half in range(2):
            clean, noisy, fresh = (torch.tensor(np.asarray(state[half], np.float64)) for state in (x0, x, noise))
            want = scheduler.step(clean, t - 1, noisy, eta=eta, variance_noise=fresh).prev_sample
            np.testing.assert_allclose(path.x[half], want.numpy(), atol=1e-5, err_msg=f"{t} -> {following}")
            np.testing.assert_allclose(got[half], want.numpy(), atol=1e-5, err_msg=f"{t} -> {following}")
    np.testing.assert_array_equal(path.x.box, x0.box)  # at t = 0 the state is the estimate


def test_times_may_differ_by_image():
    x, x0, noise = (random_state(seed) for seed in range(3))
    both = ddim_step(DIFFUSION, x, x0, jnp.int32([900, 300]), jnp.int32([200, 299]), noise, 1.0)
    for image, (t, following) in enumerate([(900, 200), (300, 299)]):
        own = [jax.tree.map(lambda v, i=image: v[i : i + 1], state) for state in (x, x0, noise)]
        alone = ddim_step(DIFFUSION, *own[:2], jnp.int32([t]), jnp.int32([following]), own[2], 1.0)
        np.testing.assert_allclose(both.box[image], alone.box[0], rtol=1e-6)


def run(denoise, spec, steps, images=2, query_box=None, keys=None, diffusion=DIFFUSION, known=None):
    keys = jax.random.split(jax.random.key(0), images) if keys is None else keys
    return jax.jit(lambda keys, query_box, known: sample(denoise, diffusion, spec, keys, steps, query_box, known))(
        keys, query_box, known
    )


@EVERY_SOLVER
@settings(max_examples=12, deadline=None)
@given(steps=st.integers(1, 12), power=st.sampled_from([1.0, 1.5, 3.0]), seed=st.integers(0, 99))
def test_a_perfect_denoiser_recovers_the_truth(solver, steps, power, seed):
    """In any number of steps; without randomness along x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps with one eps."""
    times, table = table_of(solver, steps, power)
    path, gt = begin(random_state(seed), table.order), random_state(seed + 1)
    a = cosine_alpha_bar(1000)[times]
    eps = jax.tree.map(lambda x, x0: (x - np.sqrt(a[0]) * x0) / np.sqrt(1 - a[0]), path.x, gt)
    for i in range(steps):
        path = advance(path, gt, row(table, i), random_state(seed + 2 + i))
        if not table.noise.any():
            for x, x0, noise in zip(path.x, gt, eps, strict=True):
                want = np.sqrt(a[i + 1]) * x0 + np.sqrt(1 - a[i + 1]) * noise
                np.testing.assert_allclose(x, want, atol=1e-5)
    for x, x0 in zip(path.x, gt, strict=True):
        np.testing.assert_array_equal(x, x0)


def test_one_step_of_all_samplers_agrees():
    outputs = [run(contracting, SamplerOptions(7, renewal_threshold=0.0, **solver), 1) for solver in SOLVERS]
    for output in outputs[1:]:
        for got, want in zip(jax.tree.leaves(output), jax.tree.leaves(outputs[0]), strict=True):
            np.testing.assert_array_equal(got, want)
    _, tables = zip(*(table_of(solver, 1) for solver in SOLVERS), strict=True)
    for table in tables:  # and the state after it is the estimate
        np.testing.assert_array_equal(row(table, 0).combine[:, :2], [[0, 1]] * table.order)


@pytest.mark.parametrize(
    "solver", [SOLVERS[1], *(s for s in SOLVERS if s.get("order", 1) > 1)], ids=lambda v: "-".join(map(str, v.values()))
)
def test_sampling_follows_the_table_and_renewed_proposals_start_anew(solver):
    """Each state of the scan is the table's combination of what went before, over the proposal's own path only."""
    steps, num_proposals, threshold = 8, 40, 0.45
    run_of = run(contracting, SamplerOptions(num_proposals, renewal_threshold=threshold, **solver), steps)
    x, x0 = (jax.tree.map(np.float64, state) for state in run_of)
    _, table = table_of(solver, steps)
    scores = 1 / (1 + np.exp(-x.box[..., 0]))
    length, stale, seen = np.zeros(scores.shape[1:], int), 0.0, set()
    for half in range(2):
        past = []
        length[:] = 0
        for i in range(steps - 1):
            known = [x[half][i], x0[half][i], *past[: table.order - 1]]
            known += [np.zeros_like(known[0])] * (table.order + 1 - len(known))
            want = np.einsum("bno,obnd->bnd", table.combine[i][length], np.stack(known))
            kept = scores[i] >= threshold
            np.testing.assert_allclose(x[half][i + 1][kept], want[kept], atol=1e-5 * max(1, np.abs(known).max()))
            assert np.abs(x[half][i + 1][~kept] - want[~kept]).min(initial=1) > 1e-7  # fresh noise instead
            full = np.einsum("o,obnd->bnd", table.combine[i][min(i, table.order - 1)], np.stack(known))
            stale = max(stale, np.abs(full - want)[kept].max())
            seen |= set(length[kept])
            length = np.where(kept, np.minimum(length + 1, table.order - 1), 0)
            past.insert(0, table.remember[i, 0] * known[0] + table.remember[i, 1] * known[1])
    assert seen == set(range(table.order))
    assert table.order == 1 or stale > 0.01  # a solver that forgot the renewal would be found out


@pytest.mark.parametrize("order", [2, 3])
def test_a_short_path_looks_at_nothing_older(order):
    _, table = table_of({"solver": "dpm", "order": order}, 6)
    x, x0, first, other = (random_state(seed) for seed in range(4))
    past = (first, random_state(9))[: order - 1]
    changed = (*past[:-1], other)  # the oldest prediction is another one
    for length in range(order):
        lengths = jnp.full((2, 6), length)
        one, two = (advance(Path(x, p, lengths), x0, row(table, 3)) for p in (past, changed))
        assert np.array_equal(one.x.box, two.x.box) == (length < order - 1)
        assert int(one.length[0, 0]) == min(length + 1, order - 1)
        for kept, old in zip(one.past[1:], past, strict=False):
            np.testing.assert_array_equal(kept.box, old.box)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_perfect_denoiser_recovers_the_truth_along_the_forward_process(eta, steps):
    """States that a perfect denoiser meets are those of Eq. 10: the same noise (eta 0), the same law (eta 1)."""
    num_proposals = 600
    gt = State(jnp.full((2, num_proposals, 4), 1.5), jnp.full((2, num_proposals, 5), -0.7))

    def denoise(x, t):
        return gt, jnp.ones((2, num_proposals)), (x, t, gt)

    x, t, out = run(denoise, SamplerOptions(num_proposals, eta, renewal_threshold=0.0), steps)
    np.testing.assert_array_equal(t[:, 0], np.round(1000 - 1000 / steps * np.arange(steps)))
    np.testing.assert_array_equal(out.box[-1], gt.box)
    a = np.asarray(DIFFUSION.alpha_bar(t[:, 0]), np.float64)[:, None, None, None]
    for half in range(2):
        noise = (np.asarray(x[half]) - np.sqrt(a) * gt[half]) / np.sqrt(1 - a)
        assert np.abs(noise.mean((1, 2))).max() < 0.15
        np.testing.assert_allclose(noise.std((1, 2)), 1, atol=0.12)
        if eta == 0 or steps == 1:
            np.testing.assert_allclose(noise, np.broadcast_to(noise[:1], noise.shape), atol=1e-3)
        else:
            assert np.abs(np.corrcoef(noise.reshape(steps, -1)) - np.eye(steps)).max() < 0.9


def test_the_times_may_be_spaced_by_a_power():
    def denoise(x, t):
        return x, jnp.ones(x.box.shape[:2]), t

    t = run(denoise, SamplerOptions(3, renewal_threshold=0.0, time_power=2.0), 4)
    np.testing.assert_array_equal(t[:, 0], [1000, 562, 250, 62])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_ideal_denoiser_of_a_gaussian_samples_that_gaussian(eta):
    """x_0 ~ N(m, c^2): then E[x_0 | x_t] is known, and sampling with it must return m and c."""
    mean, deviation, num_proposals = 0.6, 0.3, 3000

    def denoise(x, t):
        a = DIFFUSION.alpha_bar(t)[:, None, None]
        gain = jnp.sqrt(a) * deviation**2 / (a * deviation**2 + 1 - a)
        x0 = State(*(mean + gain * (v - jnp.sqrt(a) * mean) for v in x))
        return x0, jnp.ones(x.box.shape[:2]), x0

    out = run(denoise, SamplerOptions(num_proposals, eta, renewal_threshold=0.0), 100)
    for half in (out.box[-1], out.embedding[-1]):
        assert float(half.mean()) == pytest.approx(mean, abs=0.02)
        assert float(half.std()) == pytest.approx(deviation, rel=0.06)


def contracting(x, t):
    """A denoiser that depends on the state: it answers half of it, and scores a proposal by its box's first number."""
    x0 = State(*(0.5 * v for v in x))
    return x0, jax.nn.sigmoid(x.box[..., 0]), (x, x0)


@pytest.mark.parametrize("solver", [SOLVERS[0], SOLVERS[4], SOLVERS[7]], ids=["ddim", "dpm-3", "dpm++-3"])
def test_a_result_does_not_depend_on_the_batch(solver):
    spec, keys = SamplerOptions(7, renewal_threshold=0.5, **solver), jax.random.split(jax.random.key(5), 4)
    together, _ = run(contracting, spec, 5, keys=keys)
    order = jnp.int32([3, 1])
    apart, _ = run(contracting, spec, 5, keys=keys[order])  # nor on its size
    np.testing.assert_allclose(apart.box, together.box[:, order], rtol=1e-6, atol=1e-6)
    assert not np.allclose(together.box[:, 0], together.box[:, 1])


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_noise_is_fresh_in_every_step(threshold):
    """Estimates of zero leave nothing but noise, of which DDIM (eta 1) keeps a known share from step to step."""

    def denoise(x, t):
        return jax.tree.map(jnp.zeros_like, x), jnp.zeros(x.box.shape[:2]), x

    x = run(denoise, SamplerOptions(400, 1.0, threshold), 6)
    correlation = np.corrcoef(np.concatenate([np.reshape(v, (6, -1)) for v in x], 1))
    a = np.asarray(DIFFUSION.alpha_bar(jnp.round(1000 - 1000 / 6 * jnp.arange(6)).astype(int)), np.float64)
    kept = np.sqrt(a[:-1] * (1 - a[1:]) / (a[1:] * (1 - a[:-1])))
    want = np.eye(6)
    for i in range(6):
        for j in range(i + 1, 6):  # scores are 0: with renewal nothing is kept at all
            want[i, j] = want[j, i] = 0 if threshold else np.prod(kept[i:j])
    assert want[4, 5] > 0.3 or threshold
    np.testing.assert_allclose(correlation, want, atol=0.06)


def test_renewal_takes_box_and_embedding_of_poor_slots_only():
    x, noise = random_state(0), random_state(1)
    scores = jnp.float32([[0.1, 0.5, 0.49, 0.9, 0.0, 1.0]] * 2)
    got = renew(x, noise, scores, 0.5)
    poor = [0, 2, 4]
    for mine, old, new in zip(got, x, noise, strict=True):
        np.testing.assert_array_equal(mine[:, poor], new[:, poor])
        np.testing.assert_array_equal(mine[:, [1, 3, 5]], old[:, [1, 3, 5]])


def test_pinned_boxes_stay_put_and_are_never_renewed():
    box = jnp.float32([[0.3, -0.4, -1.0, -0.5], [1, 1, 1, 1], [0.2, 0.2, -1.5, -1.2]])
    active = jnp.array([True, False, True])

    def poor(x, t):  # every proposal scores low: all but the held one start anew in each step
        x0 = State(*(0.5 * v for v in x))
        return x0, jnp.zeros(x.box.shape[:2]), x

    spec = SamplerOptions(6, 1.0, 0.5)
    x, free = run(poor, spec, 4, images=3, query_box=QueryBox(box, active)), run(poor, spec, 4, images=3)
    for image in (0, 2):
        np.testing.assert_array_equal(x.box[:, image, 0], np.tile(box[image], (4, 1)))
    np.testing.assert_allclose(x.box[:, 1], free.box[:, 1], rtol=1e-6)  # not active: as if there were no pin
    np.testing.assert_allclose(x.box[:, :, 1:], free.box[:, :, 1:], rtol=1e-6)
    # eta 0, estimates x/2: the held proposal's embedding is denoised like any other and never starts anew.
    x = run(
        lambda x, t: (*contracting(x, t)[:2], x),
        SamplerOptions(6, 0.0, 1.0),
        4,
        images=3,
        query_box=QueryBox(box, active),
    )
    kept = np.asarray(x.embedding[:, 0, 0])
    start = kept[0]
    for step in range(1, 4):
        assert np.corrcoef(kept[step], start)[0, 1] > 0.999
    assert np.corrcoef(x.embedding[1, 0, 1], x.embedding[0, 0, 1])[0, 1] < 0.99


@pytest.mark.parametrize("solver", ["dpm", "dpm++"])
def test_higher_orders_hold_pinned_boxes_in_state_and_estimate(solver):
    """The path of a held proposal's embedding is that of the free one: the box held beside it takes no part in it."""

    def halve(x, t):
        x0 = State(*(0.5 * v for v in x))
        return x0, jnp.ones(x.box.shape[:2]), x

    box = jnp.float32([[0.3, -0.4, -1.0, -0.5]] * 2)
    spec = SamplerOptions(6, renewal_threshold=0.0, solver=solver, order=3)
    held, free = (run(halve, spec, 6, query_box=QueryBox(box, jnp.full(2, active))) for active in (True, False))
    np.testing.assert_array_equal(held.box[:, :, 0], np.tile(box, (6, 1, 1)))
    np.testing.assert_allclose(held.box[:, :, 1:], free.box[:, :, 1:], rtol=1e-6)
    np.testing.assert_allclose(held.embedding, free.embedding, rtol=1e-6)


@pytest.mark.parametrize("solver", [SOLVERS[0], SOLVERS[7]], ids=["ddim", "dpm++-3"])
def test_a_warm_start_at_T_with_nobody_is_a_cold_start(solver):
    nobody = Known(random_state(0, num_proposals=3), jnp.zeros((2, 3), bool))
    spec = SamplerOptions(7, renewal_threshold=0.5, warm_time=1.0, **solver)
    warm, cold = (run(contracting, spec, 4, known=known) for known in (nobody, None))
    for got, want in zip(jax.tree.leaves(warm), jax.tree.leaves(cold), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_warm_start_noises_the_known_people_and_leaves_noise_for_new_ones():
    """Eq. 10 on each valid person as often as on the others, in the given share of the proposals; the noise is that of
    the cold start. The last image has nobody."""
    people, valid = (
        random_state(0, images=3, num_proposals=5),
        jnp.array([[1, 1, 0, 1, 0], [0, 1, 0, 0, 0], [0] * 5], bool),
    )
    spec = SamplerOptions(16, eta=0.0, renewal_threshold=0.0, warm_time=0.2, warm_share=0.75)

    def denoise(x, t):
        return x, jnp.ones(x.box.shape[:2]), (x, t)

    x, t = run(denoise, spec, 2, images=3, known=Known(people, valid))
    np.testing.assert_array_equal(t[:, 0], [200, 100])
    noise = run(denoise, spec, 1, images=3)[0]
    a = float(DIFFUSION.alpha_bar(jnp.int32(200)))
    for image in range(3):
        fresh = 0 if valid[image].any() else 16
        from_noise = np.isclose(x.box[0, image], noise.box[0, image]).all(-1)
        assert from_noise.sum() == (fresh or 4) and from_noise[12:].all()
        begun = np.flatnonzero(~from_noise)
        owners = []
        for half in range(2):
            clean = (np.asarray(x[half][0, image]) - np.sqrt(1 - a) * noise[half][0, image])[begun] / np.sqrt(a)
            distance = np.abs(clean[:, None] - people[half][image]).max(-1)
            owners.append(distance.argmin(1) if len(begun) else np.zeros(0))
            assert not len(begun) or distance.min(1).max() < 1e-5
        np.testing.assert_array_equal(*owners)  # box and embedding of one person
        counts = np.bincount(np.int64(owners[0]), minlength=5)
        np.testing.assert_array_equal(counts, np.where(valid[image], 12 // max(1, int(valid[image].sum())), 0))


def test_a_warm_start_has_a_time_for_every_step():
    def denoise(x, t):
        return x, jnp.ones(x.box.shape[:2]), t

    known = Known(random_state(0), jnp.ones((2, 6), bool))
    t = run(denoise, SamplerOptions(6, renewal_threshold=0.0, warm_time=0.0), 3, known=known)
    np.testing.assert_array_equal(t[:, 0], [3, 2, 1])
