"""The ablations of `scripts/ablate.py`: which keys of a config differ in each row. No experiment."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psdiff_jax.configs.base import PRESETS

Overrides = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """rows: label -> config keys that differ. trained=False: only evaluation differs, on the base setting's weights.

    paper: label -> what the paper's table says (CUHK-SYSU, mAP / top-1), where it has the row.
    """

    title: str
    rows: Mapping[str, Overrides]
    paper: Mapping[str, str]
    trained: bool = True


def _scales(box: Sequence[float], embedding: Sequence[float]) -> dict[str, Overrides]:
    return {
        f"s1 = {a:g}, s2 = {b:g}": {"diffusion.box_snr_scale": a, "diffusion.embedding_snr_scale": b}
        for a, b in itertools.product(box, embedding)
    }


def _parts(self_attention: bool, dynamic_conv: bool, cross_attention: bool) -> Overrides:
    return {
        "model.self_attention": self_attention,
        "model.dynamic_conv": dynamic_conv,
        "model.cross_attention": cross_attention,
    }


def _solvers(steps: tuple[int, ...]) -> dict[str, Overrides]:
    rows = {
        "DDIM, eta 1": {"sampler.solver": "ddim", "sampler.eta": 1.0},
        "DDIM, eta 0": {"sampler.solver": "ddim", "sampler.eta": 0.0},
    }
    for (name, solver), order in itertools.product({"DPM-Solver": "dpm", "DPM-Solver++": "dpm++"}.items(), (2, 3)):
        rows[f"{name}, order {order}"] = {"sampler.solver": solver, "sampler.order": order}
    return {label: {**overrides, "evaluate.steps": steps} for label, overrides in rows.items()}


_SNR = dict(
    zip(
        _scales((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0)),
        "93.9 94.0 94.3 93.3 94.2 94.6 95.1 94.4 94.1 94.2 94.5 94.1 93.8 94.0 94.1 93.8".split(),
        strict=True,
    )
)

# The keys of the preset `paper` that matter once the teacher stands.
PAPER = {key: value for key, value in PRESETS["paper"].items() if not key.startswith("teacher.")}

SWEEPS = {
    "cascade": Sweep(
        "Cascaded prediction (Table IV c)",
        {
            "parallel": {"model.cascade": "parallel"},
            "paper": {"model.cascade": "paper"},
            "residual": {"model.cascade": "residual"},
        },
        {"parallel": "93.5 / 94.1", "paper": "95.1 / 95.3"},
    ),
    "matcher": Sweep(
        "Matching rule", {"simota": {"matching.rule": "simota"}, "hungarian": {"matching.rule": "hungarian"}}, {}
    ),
    "paper": Sweep(
        "Deviations from the paper, each undone by itself",
        {
            "default": {},
            **{f"{key}={value}": {key: value} for key, value in PAPER.items()},
            "all of them": PAPER,
        },
        {},
    ),
    "interaction": Sweep(
        "Collaborative interaction (Table IV b)",
        {
            "none": _parts(False, False, False),
            "SA": _parts(True, False, False),
            "SA + DC": _parts(True, True, False),
            "SA + CA": _parts(True, False, True),
            "SA + DC + CA": _parts(True, True, True),
        },
        {
            "none": "91.3 / 91.8",
            "SA": "92.5 / 93.3",
            "SA + DC": "93.8 / 94.3",
            "SA + CA": "94.3 / 94.7",
            "SA + DC + CA": "95.1 / 95.3",
        },
    ),
    "snr": Sweep("Signal scales (Table IV a)", _scales((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0)), _SNR),
    "snr_corners": Sweep(
        "Signal scales, corners (Table IV a)", {**_scales((1.0, 4.0), (1.0, 4.0)), **_scales((2.0,), (3.0,))}, _SNR
    ),
    "snr_lines": Sweep(
        "Signal scales, one at a time (Table IV a)",
        {**_scales((1.0, 2.0, 3.0, 4.0), (3.0,)), **_scales((2.0,), (1.0, 2.0, 4.0))},
        _SNR,
    ),
    "sampler": Sweep(
        "Samplers (Table V)",
        _solvers((1, 2, 4, 8)),
        {"DDIM, eta 1": "95.1", "DPM-Solver, order 2": "95.1", "DPM-Solver++, order 2": "95.0"},
        trained=False,
    ),
    "query": Sweep(
        "Query embedding",
        {
            "ground-truth box": {"evaluate.query": "gt_box"},
            "detected": {"evaluate.query": "detected"},
        },
        {},
        trained=False,
    ),
    "ensemble": Sweep(
        "Ensemble over steps",
        {"last step": {"sampler.ensemble": False}, "all steps": {"sampler.ensemble": True}},
        {},
        trained=False,
    ),
    "renewal": Sweep(
        "Box renewal",
        {f"below {v:g}": {"sampler.renewal_threshold": v} for v in (0.0, 0.1, 0.25, 0.5)},
        {},
        trained=False,
    ),
}
