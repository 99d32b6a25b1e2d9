"""The noise schedule: cumulative signal power of Nichol & Dhariwal's cosine schedule."""

import numpy as np


def cosine_alpha_bar(timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """alpha_bar[t] for t = 0..T, float64 [T+1]; alpha_bar[0] = 1 is clean data (Nichol & Dhariwal 2021, Eq. 17).

    The paper's Eq. 10 writes alpha_t and means this cumulative product. Betas are clipped at `max_beta`, so that
    alpha_bar[T] is small but not zero.
    """
    t = np.arange(timesteps + 1, dtype=np.float64) / timesteps
    f = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], max_beta)
    return np.concatenate([[1.0], np.cumprod(1 - betas)])


def sampling_times(timesteps: int, steps: int, power: float = 1.0) -> np.ndarray:
    """`steps + 1` times from T down to 0: T (1 - i/K)^power rounded, strictly falling; int32 [steps+1].

    power (1 or more): 1 is evenly spaced; above 1 the last steps are at smaller t, where boxes and embeddings are
    nearly clean.
    """
    remaining = np.arange(steps, -1, -1)
    times = np.round(timesteps * (remaining / steps) ** power)
    return np.maximum(times, remaining).astype(np.int32)  # a steep curve would round its last times onto each other
