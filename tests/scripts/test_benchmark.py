"""The benchmark in miniature: its table and its file, and that the peers are what they are called."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .loading import SCRIPTS, SMALL, load_script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield load_script("benchmark")


@pytest.fixture
def run(benchmark, tmp_path, capsys):
    """(options) -> (rows of the table, content of the file)."""
    (tmp_path / "small.py").write_text(SMALL)

    def running(*options: str):
        given = ["--config", tmp_path / "small.py", "--size", 64, 96, "--images", 2, "--repeats", 2, "--matmul", 64]
        out = tmp_path / "out.json"
        benchmark.main([*map(str, given), "--json", str(out), *options])
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines], json.loads(Path(out).read_text())

    return running


def test_parts(run):
    (header, *rows), said = run("--only", "RoIAlign", "NMS", "--peers", "onnxruntime")
    assert header == ["group", "contestant", "images/s", "ms", "least ms", "ratio", "peak MiB", "compile s",
                      "share of matmul"]  # fmt: skip
    names = [("RoIAlign", "gather"), ("RoIAlign", "matmul"), ("RoIAlign", "onnxruntime"), ("NMS", "PSDiff")]
    assert [tuple(row[:2]) for row in rows] == names
    assert said["images"] == 2 and said["size"] == [64, 96] and said["proposals"] == 12
    for row, result in zip(rows, said["results"], strict=True):
        assert row[:2] == [result["group"], result["name"]]
        assert result["images_per_second"] == pytest.approx(1e3 / result["milliseconds"])
        assert result["least_milliseconds"] <= result["milliseconds"]
    gather, matmul, other, _ = said["results"]
    assert gather["ratio"] == 1 and matmul["ratio"] == pytest.approx(gather["milliseconds"] / matmul["milliseconds"])
    assert matmul["share"] > 0 and gather["compile_seconds"] > 0 and other["compile_seconds"] is None


def test_training_and_inference_beside_peers(run, benchmark, monkeypatch):
    peers = benchmark.torch_peers

    class Small(peers.DETR):
        backbone = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}  # noqa: RUF012
        transformer = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 5}  # noqa: RUF012

    monkeypatch.setattr(peers, "detectors", lambda: {"DETR": Small})
    (_, *rows), said = run("--only", "training", "inference", "--steps", "2")
    assert [tuple(row[:2]) for row in rows] == [
        ("training", "PSDiff"),
        ("training", "DETR, eager"),
        ("inference", "PSDiff, 2 steps"),
        ("inference", "DETR, eager"),
        ("inference", "PSDiff, 2 steps, ONNX in onnxruntime"),
    ]
    training, _, inference, *_ = said["results"]
    assert training["peak_mib"] > inference["peak_mib"] > 64 * 96 * 3 * 2 / 2**20


def test_the_peers_parameters_are_those_of_their_papers(benchmark):
    """DETR: 41.3 M (Carion et al., Table 1); RT-DETR: 42 M (Zhao et al., Table 2)."""
    detectors = benchmark.torch_peers.detectors()
    if "torchvision" in str(detectors):
        pytest.skip("torchvision is installed and takes their place")
    config = benchmark.from_values(benchmark.base())
    millions = {}
    for name, make in detectors.items():
        network = make(benchmark.Setting(config, (64, 64), 1)).network
        millions[name.split()[0]] = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == {"DETR": pytest.approx(41.3, abs=0.5), "RT-DETR": pytest.approx(42, abs=1)}


def test_the_memory_of_a_run_is_seen():
    """In a process of its own: this one gives memory back when it likes."""
    lines = """
import numpy as np
from benchmarks.timing import host_peak
held = []
print(host_peak(lambda: held.append(np.ones(2**23))))
"""
    done = subprocess.run([sys.executable, "-c", lines], cwd=SCRIPTS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    grown = done.stdout.strip()
    assert grown == "None" or 60 < int(grown) / 2**20 < 90  # 64 MiB
