"""Reading every kind of weights file, whole and damaged, without executing what is in it."""

import json

import numpy as np
import pytest

from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.errors import InputError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"conv1.weight": rng.normal(size=(4, 3, 7, 7)).astype(np.float32), "bn1.bias": np.float32([1, 2, 3])}


def test_every_kind_of_file_gives_the_same(arrays, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.numpy")
    np.savez(tmp_path / "a.npz", **arrays)
    safetensors.save_file(arrays, tmp_path / "b.safetensors")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "c.pth")
    torch.save({"model": tensors, "max_accuracy": 81.2}, tmp_path / "d.pth")
    torch.save(tensors, tmp_path / "e.bin")
    for name in ("a.npz", "b.safetensors", "c.pth", "d.pth", "e.bin"):
        read = read_state_dict(tmp_path / name)
        assert read.keys() == arrays.keys()
        assert all((read[key] == arrays[key]).all() for key in arrays)


def test_bfloat16_safetensors(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensor = torch.randn(3, 5).to(torch.bfloat16)
    save_file({"x": tensor}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.safetensors")["x"], tensor.float().numpy())


class Foreign:
    """What a hostile pickle would hold: something that runs when it is loaded."""

    def __reduce__(self):
        return (print, ("executed",))


def test_damaged_and_foreign_files(arrays, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": Foreign()}, tmp_path / "foreign.pth")
    with pytest.raises(InputError, match=r"foreign\.pth: holds more than tensors"):
        read_state_dict(tmp_path / "foreign.pth")
    assert "executed" not in capsys.readouterr().out

    np.savez(tmp_path / "whole.npz", **arrays)
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "whole.pth")
    header = json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "whole.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    for name in ("whole.npz", "whole.pth", "whole.safetensors"):
        content = (tmp_path / name).read_bytes()
        assert read_state_dict(tmp_path / name)
        (tmp_path / name).write_bytes(content[:-7])
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_state_dict(tmp_path / name)
    for name in ("missing.npz", "missing.ckpt"):
        with pytest.raises(InputError, match="no such file"):
            read_state_dict(tmp_path / name)
