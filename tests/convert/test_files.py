"""Reading every kind of weights file, whole and damaged, without executing what is in it."""

import argparse
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
    torch.save({"model": {"x": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, tmp_path / "options.pth")
    with pytest.raises(InputError, match=r"holds more than tensors \(argparse\.Namespace\) and is not loaded"):
        read_state_dict(tmp_path / "options.pth")

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
    for content in (b"", b"\x02" + bytes(7) + b"[]", b"<html>"):
        (tmp_path / "not.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"not\.safetensors: not a readable \.safetensors file"):
            read_state_dict(tmp_path / "not.safetensors")


def test_a_pickle_cut_anywhere_or_no_pickle_at_all_is_one_line(arrays, tmp_path):
    """PyTorch's format before zip: its reader fails in another way at each length."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({"state_dict": tensors}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "a.pth").read_bytes()
    assert read_state_dict(tmp_path / "a.pth").keys() == arrays.keys()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
    for content in (*(whole[:length] for length in range(0, len(whole), 29)), b"<!DOCTYPE html>", pointer):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.pth: ") as error:
            read_state_dict(tmp_path / "a.pth")
        assert "\n" not in str(error.value)
    assert "a.pth: not a readable PyTorch file" in str(error.value)


def test_parameters_are_tensors_too_and_what_is_none_is_named(arrays, tmp_path):
    torch = pytest.importorskip("torch")
    parameters = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in arrays.items()}
    torch.save({"net": parameters}, tmp_path / "a.pth")  # as an average of the weights is often kept
    read = read_state_dict(tmp_path / "a.pth")
    assert all((read[key] == arrays[key]).all() for key in arrays)
    for content, message in (
        ({"epoch": 3, "network": parameters}, "'epoch' is of type int, no tensor; save the network's state_dict alone"),
        ([parameters], "holds a list; save the state_dict"),
    ):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(InputError, match=message):
            read_state_dict(tmp_path / "a.pth")
