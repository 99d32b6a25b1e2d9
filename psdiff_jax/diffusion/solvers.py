"""Every sampler as a table of numbers: the next state is a linear combination of what is known.

    x_next = c_x x + c_0 x0 + c_1 m_1 + c_2 m_2 + c_noise noise

x0 is the clean state estimated now, m_k the prediction of k steps ago: the clean state itself (DPM-Solver++) or the
noise that was left (DPM-Solver). Times are known before anything runs, so the numbers come from float64 NumPy and a
scan only reads them.

Legend: K step, O order (1 to 3), that is how many predictions a step uses at most.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Table(NamedTuple):
    """The numbers of all steps, or of one step without the leading K.

    combine: [K,O,O+1] of (x, x0, m_1, ..); row j is for proposals that have j earlier predictions of their own.
    remember: [K,2] of (x, x0): what a step leaves as m_1 to the next.
    noise: [K] of fresh Gaussian noise.
    """

    combine: Any
    remember: Any
    noise: Any

    @property
    def order(self) -> int:
        return self.combine.shape[-2]


def ddim_coefficients(a: Any, a_next: Any, eta: float) -> tuple[Any, Any, Any]:
    """Coefficients of (x, x0, noise) from signal power a to a_next > a (Song et al. 2021, Eq. 12 and 16).

    a, a_next: arrays of one shape, NumPy's or JAX's; a below 1.
    """
    sigma = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)) ** 0.5
    # (1 - a_next - sigma^2) / (1 - a_next), rewritten: at eta = 1 and T that difference is all rounding in float32.
    share = 1 - eta**2 + eta**2 * (a / a_next) * (1 - a_next) / (1 - a)
    direction = ((1 - a_next) / (1 - a) * share.clip(0)) ** 0.5
    return direction, a_next**0.5 - direction * a**0.5, sigma


def multistep_weights(z: float, ratios: tuple[float, ...]) -> np.ndarray:
    """Weights of the predictions (m_0, m_1, ..) in the integral of exp over a step of signed length z in lambda.

    ratios: lengths of the earlier steps over this one's, newest first: none, one or two of them give order 1, 2 or 3.
    Lu et al. 2022a write it for noise (z = h), 2022b for clean data (z = -h); it is one formula: exponentials are
    exact, the prediction is a polynomial through the earlier ones. Order 2 is the papers' midpoint form. Order 3 is the
    form of published implementations (diffusers), which weighs the curvature by half (see docs/decisions.md).
    """
    grow = np.expm1(z)
    if not ratios:
        return np.array([grow])
    if len(ratios) == 1:
        slope = np.array([1, -1]) / ratios[0]
        return grow * (np.array([1, 0]) + 0.5 * slope)
    newer, older = np.array([1, -1, 0]) / ratios[0], np.array([0, 1, -1]) / ratios[1]
    curvature = (newer - older) / sum(ratios)
    slope = newer + ratios[0] * curvature
    first = grow / z - 1
    return grow * np.array([1, 0, 0]) + first * slope + (first / z - 0.5) * curvature


def step_coefficients(alpha: np.ndarray, sigma: np.ndarray, predicts_noise: bool) -> np.ndarray:
    """Coefficients of (x, x0, m_1, ..) for one step of DPM-Solver (`predicts_noise`) or DPM-Solver++.

    alpha, sigma: of the time to reach, the time now, then those of the earlier predictions: 2 to 4 numbers, sigma[0]
    above 0.
    """
    lambdas = np.log(alpha) - np.log(sigma)
    lengths = lambdas[:-1] - lambdas[1:]
    ratios = tuple(lengths[1:] / lengths[0])
    if not predicts_noise:
        weights = -alpha[0] * multistep_weights(-lengths[0], ratios)
        return np.array([sigma[0] / sigma[1], *weights])
    now, *earlier = -sigma[0] * multistep_weights(lengths[0], ratios)
    # The noise of now is (x - alpha x0) / sigma. Put in here: at T, in float32, its difference to x is lost.
    return np.array([alpha[0] / alpha[1] + now / sigma[1], -now * alpha[1] / sigma[1], *earlier])


def _dpm_table(alpha_bar: np.ndarray, order: int, predicts_noise: bool) -> Table:
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    steps = len(alpha_bar) - 1
    combine = np.zeros((steps, order, order + 1))
    for i in range(steps):
        for j in range(order):
            used = min(j, i)
            if sigma[i + 1] == 0:  # the limit of order 1; higher orders have none
                combine[i, j, 1] = 1
                continue
            window = slice(i - used, i + 2)
            combine[i, j, : used + 2] = step_coefficients(alpha[window][::-1], sigma[window][::-1], predicts_noise)
    remember = np.tile([0.0, 1.0], (steps, 1))
    if predicts_noise:
        remember = np.stack([1 / sigma[:-1], -alpha[:-1] / sigma[:-1]], axis=1)
    return Table(combine, remember, np.zeros(steps))


def _ddim_table(alpha_bar: np.ndarray, eta: float) -> Table:
    *both, noise = ddim_coefficients(alpha_bar[:-1], alpha_bar[1:], eta)
    return Table(np.stack(both, axis=-1)[:, None], np.zeros((len(noise), 2)), noise)


# Name -> table along signal powers alpha_bar [K+1], for an order and eta (which a solver may ignore).
SOLVERS: dict[str, Callable[[np.ndarray, int, float], Table]] = {
    "ddim": lambda alpha_bar, order, eta: _ddim_table(alpha_bar, eta),
    "dpm": lambda alpha_bar, order, eta: _dpm_table(alpha_bar, order, predicts_noise=True),
    "dpm++": lambda alpha_bar, order, eta: _dpm_table(alpha_bar, order, predicts_noise=False),
}


def solver_table(solver: str, alpha_bar: np.ndarray, order: int = 2, eta: float = 1.0) -> Table:
    """The numbers of a solver along signal powers alpha_bar, float64 [K+1], rising, the last one 1 (clean).

    solver: "ddim" (eta: its randomness; order is not used), or "dpm" or "dpm++" (order 1 to 3; eta is not used, they
    are deterministic). Order 1 of both is DDIM with eta = 0. The last step is of order 1 and gives the clean estimate;
    the first ones, and those of proposals that start anew, have the order that their few predictions allow.

    Raises:
      ValueError: no such solver.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r}: choose from {', '.join(SOLVERS)}")
    return SOLVERS[solver](alpha_bar, order, eta)
