"""What is measured, and how: contestants of a group take turns, so that other load meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Ready(NamedTuple):
    """A prepared contestant. run: blocks until the result is there. peak: bytes on the device, where they are known
    beforehand. flops: of one run, by the compiler."""

    run: Callable[[], Any]
    compile_seconds: float | None = None
    peak: int | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Contestant:
    """Something to measure; `prepare` makes inputs and compiles. images: of one run."""

    group: str
    name: str
    images: int
    prepare: Callable[[], Ready]


@dataclass(frozen=True)
class Result:
    """Numbers of a contestant. milliseconds: an image's, the median. ratio: images/s over those of the first of the
    group. peak_mib, compile_seconds, share: None where unknown. share: FLOP/s over those of a large matrix product."""

    group: str
    name: str
    images_per_second: float
    milliseconds: float
    least_milliseconds: float
    ratio: float
    peak_mib: float | None
    compile_seconds: float | None
    share: float | None


def compiled(function: Any, *args: Any) -> tuple[Any, Ready]:
    """(the compiled program of a jitted function, its numbers)."""
    started = time.perf_counter()
    program = function.lower(*args).compile()
    seconds, memory, cost = time.perf_counter() - started, program.memory_analysis(), program.cost_analysis()
    peak = None
    if memory is not None:
        peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        peak -= memory.alias_size_in_bytes
    return program, Ready(lambda: None, seconds, peak, (cost or {}).get("flops"))


def of_function(function: Callable[..., Any], *args: Any) -> Ready:
    """A function of arrays, jitted and compiled."""
    program, numbers = compiled(jax.jit(function), *args)
    return numbers._replace(run=lambda: jax.block_until_ready(program(*args)))


def measure(contestants: Sequence[Contestant], repeats: int, clock: Callable[[], float], matmul: float) -> list[Result]:
    """The results of one group, by turns; the first run of each is not counted. matmul: FLOP/s, see `matmul_rate`."""
    ready = [contestant.prepare() for contestant in contestants]
    measured = [host_peak(each.run) for each in ready]
    peaks = [peak if each.peak is None else each.peak for each, peak in zip(ready, measured, strict=True)]
    seconds: list[list[float]] = [[] for _ in ready]
    for _ in range(repeats):
        for each, into in zip(ready, seconds, strict=True):
            started = clock()
            each.run()
            into.append(clock() - started)
    results: list[Result] = []
    for contestant, each, peak, taken in zip(contestants, ready, peaks, seconds, strict=True):
        median = statistics.median(taken) / contestant.images
        rate = 1 / max(median, 1e-9)
        results.append(
            Result(
                contestant.group,
                contestant.name,
                rate,
                1e3 * median,
                1e3 * min(taken) / contestant.images,
                rate / (results[0].images_per_second if results else rate),
                None if peak is None else peak / 2**20,
                each.compile_seconds,
                None if each.flops is None else each.flops / contestant.images * rate / matmul,
            )
        )
    return results


def host_peak(run: Callable[[], Any]) -> int | None:
    """By how many bytes the memory of this process grows during a run at most; None where the system does not say."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kilobytes(key: str) -> int:
        return int(next(line for line in status.read_text().splitlines() if line.startswith(key)).split()[1])

    try:
        reset.write_text("5")  # the high-water mark starts anew
        before = kilobytes("VmRSS")
    except OSError:
        run()
        return None
    run()
    return max(0, kilobytes("VmHWM") - before) * 1024


def matmul_rate(dtype: str, size: int, clock: Callable[[], float]) -> float:
    """FLOP/s of a product of two square matrices on the first device: what is attainable here."""
    a = jnp.ones((size, size), dtype)
    run = jax.jit(jnp.dot)
    jax.block_until_ready(run(a, a))
    taken = []
    for _ in range(5):
        started = clock()
        jax.block_until_ready(run(a, a))
        taken.append(clock() - started)
    return 2 * size**3 / max(min(taken), 1e-9)


def table(results: Sequence[Result]) -> str:
    """Markdown."""
    columns = "group", "contestant", "images/s", "ms", "least ms", "ratio", "peak MiB", "compile s", "share of matmul"
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for result in results:
        group, name, *numbers = asdict(result).values()
        lines.append("| " + " | ".join([group, name, *map(digits, numbers)]) + " |")
    return "\n".join(lines)


def digits(value: float | None) -> str:
    """Three significant digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
