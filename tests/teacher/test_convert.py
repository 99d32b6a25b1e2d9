"""Re-ID networks from PyTorch: the same embeddings, every tensor accounted for, one line for what is wrong."""

import json
import sys

import numpy as np
import pytest

from psdiff_jax.convert.files import read_state_dict
from psdiff_jax.errors import InputError
from psdiff_jax.models.weights import flatten_state
from psdiff_jax.teacher.convert import (
    compare,
    convert_teacher,
    crop_teacher,
    load_teacher,
    main,
    save_teacher,
)
from psdiff_jax.teacher.families import recognise
from psdiff_jax.teacher.torch_reference import embeddings

torch = pytest.importorskip("torch")
from . import published_reid as published  # noqa: E402

pytestmark = pytest.mark.slow


def crops_of(size, count=3):
    """Noise that is not the same everywhere, uint8 [count,h,w,3]."""
    rng = np.random.default_rng(0)
    return (rng.random((count, *size, 3)) * 255 * rng.random((count, *size, 1)) ** 0.5).astype(np.uint8)


def as_hhcl(model):
    """DataParallel's names beside a step and a NumPy scalar."""
    arrays = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    return {"state_dict": arrays, "epoch": 50, "best_mAP": np.float64(0.84)}


def as_pplr(model):
    return torch.nn.DataParallel(model).state_dict()


def bare(model):
    return model.state_dict()


def agw():
    """Its blocks as published: two after stage 3 and three after stage 4."""
    return published.Baseline(non_layers=(0, 2, 3, 0), gem=True, depths=(1, 2, 3, 1))


CASES = {
    "HHCL": (lambda: published.HHCL(), as_hhcl, "checkpoint.pth.tar", (75, 37), 64, (256, 128), 0),
    "HHCL, GeM, linear, IBN-a": (
        lambda: published.HHCL("gem", 20, ibn=True, num_classes=9), as_hhcl, "best.pth.tar", (61, 43), 20, (256, 128), 1
    ),
    "strong baseline": (lambda: published.Baseline(), bare, "resnet50_120.pth", (75, 37), 64, (256, 128), 1),
    "strong baseline, IBN-a": (
        lambda: published.Baseline(ibn=True), lambda m: {"model": m.state_dict()}, "a.pth", (61, 43), 64, (256, 128), 3
    ),
    "AGW": (lambda: agw(), bare, "agw.pth", (75, 37), 64, (256, 128), 1),
    "AGW of other blocks": (
        lambda: published.Baseline(non_layers=(1, 0, 1, 1), inner=3), bare, "agw.pth", (33, 47), 64, (256, 128), 1
    ),
    "PPLR": (lambda: published.PPLR(), as_pplr, "best.pth", (75, 37), 64, (384, 128), 4 + 3 * 5 - 3),
    "MGN": (lambda: published.MGN(), bare, "model_best.pt", (384, 128), 48, (384, 128), 16),
    "MGN, odd": (lambda: published.MGN(size=(125, 45)), bare, "model_best.pt", (125, 45), 48, (384, 128), 16),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_embeddings_equal_the_published_networks(case, tmp_path):
    make, pack, name, size, dim, crop_size, training_only = CASES[case]
    model, crops = published.randomised(make()), crops_of(size)
    torch.save(pack(model), tmp_path / name)
    expected = published.unit(model, crops)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2  # tells crops apart, so that a wrong layer would show

    arrays = read_state_dict(tmp_path / name)
    network = convert_teacher(arrays, name)
    assert network.title.startswith(case.split(",")[0].split(" of ")[0]) and network.crop_size == crop_size
    counters = [name for name in network.left_out if name.endswith("num_batches_tracked")]
    assert len(network.left_out) - len(counters) == training_only
    assert len(flatten_state(network.state)) + len(network.left_out) == len(arrays)

    teacher = crop_teacher(network)
    assert (teacher.dim, teacher.crop_size) == (dim, crop_size)
    ours = np.asarray(teacher.embed(crops))
    assert ours.shape == (3, dim) and ours.dtype == np.float32
    assert np.abs(ours - expected).max() < 1e-4


@pytest.fixture(scope="module")
def hhcl():
    """A network of HHCL with its tensors, as HHCL saves them."""
    model = published.randomised(published.HHCL(num_classes=9))
    return model, as_hhcl(model)


def arrays_of(hhcl):
    return {name: tensor.numpy().copy() for name, tensor in hhcl[1]["state_dict"].items()}


def test_statistics_are_the_files_and_stay(hhcl):
    arrays = arrays_of(hhcl)
    network = convert_teacher(arrays, "file")
    teacher, before = crop_teacher(network), flatten_state(network.state)
    crops = crops_of((75, 37))
    ours = np.asarray(teacher.embed(crops))
    # By its running statistics, not by those of the batch: another batch changes nothing.
    np.testing.assert_array_equal(teacher.embed(crops[[0, 0, 0]])[1], teacher.embed(crops[[0, 2, 1]])[0])
    np.testing.assert_array_equal(ours, teacher.embed(crops))
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    for ours, theirs in (("neck", "feat_bn"), ("backbone/bn1", "base.1"), ("backbone/layer3/1/bn2", "base.6.1.bn2")):
        np.testing.assert_array_equal(before[f"{ours}/mean"], arrays[f"module.{theirs}.running_mean"])
        np.testing.assert_array_equal(before[f"{ours}/var"], arrays[f"module.{theirs}.running_var"])
    assert crop_teacher(network).hash == teacher.hash
    arrays["module.feat_bn.running_var"][0] += 1e-3
    assert crop_teacher(convert_teacher(arrays, "file")).hash != teacher.hash


def test_command_converts_compares_and_describes(hhcl, tmp_path, capsys):
    model, content = hhcl
    torch.save(content, tmp_path / "in.pth.tar")
    assert main([str(tmp_path / "in.pth.tar"), str(tmp_path / "out.npz"), "--crop", "75x37"]) == 0
    said = capsys.readouterr()
    out = said.out.strip().splitlines()
    assert not said.err
    assert "HHCL, ResNet-17, avg pooling; 104 tensors" in out[0] and out[0].endswith("64-d embeddings")
    assert out[1] == "left out: 1 of training alone (module.classifier); 21 counters (num_batches_tracked)"
    assert out[2].startswith("crops of 75 x 37")
    assert out[3] == "no tensor tells the pooling: avg, unless --pool says otherwise"
    assert "written here" in out[4] and float(out[4].split()[-2]) < 1e-5
    teacher, crops = load_teacher(tmp_path / "out.npz"), crops_of((75, 37))
    assert teacher.crop_size == (75, 37) and teacher.title == "out.npz (HHCL, ResNet-17, avg pooling)"
    assert load_teacher(tmp_path / "out.npz", (64, 32)).crop_size == (64, 32)
    assert teacher.hash == load_teacher(tmp_path / "in.pth.tar").hash
    assert np.abs(teacher.embed(crops) - published.unit(model, crops)).max() < 1e-4
    with np.load(tmp_path / "out.npz") as stored:
        assert json.loads(stored["description"].tobytes())["network"]["widths"] == list(published.WIDTHS)


def test_a_file_of_an_earlier_version_does_not_name_its_family(hhcl, tmp_path):
    network = convert_teacher(arrays_of(hhcl), "file")
    save_teacher(tmp_path / "out.npz", network)
    arrays = dict(np.load(tmp_path / "out.npz"))
    description = json.loads(arrays["description"].tobytes())
    assert description.pop("family") == "HHCL"
    np.savez(
        tmp_path / "old.npz", **arrays | {"description": np.frombuffer(json.dumps(description).encode(), np.uint8)}
    )
    assert load_teacher(tmp_path / "old.npz").hash == crop_teacher(network).hash


@pytest.mark.parametrize("case", ["HHCL, GeM, linear, IBN-a", "AGW", "MGN, odd"])
def test_functions_of_torch_equal_the_published_modules(case):
    make, _, name, size, *_ = CASES[case]
    model, crops = published.randomised(make()), crops_of(size)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    network = convert_teacher(arrays, name)._replace(crop_size=size)
    theirs = embeddings(recognise(arrays, name)[1], network.spec, crops)
    assert np.abs(theirs - published.unit(model, crops)).max() < 1e-5


def test_difference_shows_a_wrong_conversion(hhcl):
    arrays = arrays_of(hhcl)
    network = convert_teacher(arrays, "file")._replace(crop_size=(75, 37))
    arrays["module.base.5.0.conv2.weight"] *= 1.1
    assert float(compare(network, arrays).split()[-2]) > 1e-4
    arrays["module.feat_bn.running_var"] -= 9
    assert "are not finite" in compare(network, arrays)


def test_pooling_that_no_tensor_tells():
    for model, pooling in (
        (published.HHCL("max"), "max"), (published.MGN(torch.nn.AvgPool2d, size=(125, 45)), "avg")
    ):  # fmt: skip
        model, crops = published.randomised(model), crops_of((125, 45))
        arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        network, other = convert_teacher(arrays, "file", pooling), convert_teacher(arrays, "file")
        expected = published.unit(model, crops)
        assert np.abs(crop_teacher(network).embed(crops) - expected).max() < 1e-4
        assert network.spec.pooling == pooling != other.spec.pooling
        assert crop_teacher(network).hash != crop_teacher(other).hash


def test_safetensors_need_no_torch(hhcl, tmp_path, capsys, monkeypatch):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file(arrays_of(hhcl), tmp_path / "in.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main([str(tmp_path / "in.safetensors"), str(tmp_path / "out.npz"), "--crop", "32x32"]) == 0
    assert "not compared with PyTorch: it is not installed" in capsys.readouterr().out
    assert load_teacher(tmp_path / "out.npz").hash == load_teacher(tmp_path / "in.safetensors").hash


class Foreign:
    """What a hostile pickle would hold: something that runs when it is loaded."""

    def __reduce__(self):
        return (print, ("executed",))


def test_foreign_code_and_truncated_files_are_refused(hhcl, tmp_path, capsys):
    torch.save(hhcl[1] | {"best_mAP": Foreign()}, tmp_path / "foreign.pth")
    torch.save(hhcl[0], tmp_path / "module.pth")  # a whole module: a pickle that names its class
    torch.save(hhcl[1], tmp_path / "whole.pth")
    assert main([str(tmp_path / "whole.pth"), str(tmp_path / "whole.npz"), "--crop", "32x32"]) == 0
    for name in ("whole.pth", "whole.npz"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    for name, words in (
        ("foreign.pth", "more than tensors"), ("module.pth", "convert it once: torch.save(torch.load('module.pth', w"),
        ("cut_whole.pth", "truncated"),
        ("cut_whole.npz", "not a readable"), ("missing.pth", "no such file"),
    ):  # fmt: skip
        assert main([str(tmp_path / name), str(tmp_path / "out.npz")]) == 1
        said = capsys.readouterr()
        assert not said.out and len(said.err.strip().splitlines()) == 1  # "executed" would be on stdout
        assert said.err.startswith(f"error: {tmp_path / name}: ") and words in said.err, said.err
        assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("change, message", [
    (lambda a: [a.pop(name) for name in list(a) if ".base.5.0.bn2." in name],
     r"HHCL lacks 'module\.base\.5\.0\.bn2\.bias' and 3 more"),
    (lambda a: [a.pop(name) for name in list(a) if "feat_bn" in name], r"HHCL lacks 'module\.feat_bn\.bias' and 3"),
    (lambda a: a.pop("module.base.0.weight"), r"lacks 'module\.base\.0\.weight'"),
    (lambda a: a.pop("module.base.6.0.conv2.weight"), r"lacks 'module\.base\.6\.0\.conv2\.weight'"),
    (lambda a: a.update({"module.feat_bn.bias": np.zeros(3)}),
     r"'module\.feat_bn\.bias' has shape \(3,\), the network needs \(64,\)"),
    (lambda a: a.update({"module.base.4.0.conv3.weight": np.zeros((32, 9, 1, 1))}),
     r"'module\.base\.4\.0\.conv3\.weight' has shape \(32, 9, 1, 1\), the network needs \(32, 8, 1, 1\)"),
    (lambda a: a.update({"module.base.0.weight": np.zeros(8)}), r"'module\.base\.0\.weight' has shape \(8,\), not 4"),
    (lambda a: a["module.base.6.1.bn3.running_var"].fill(np.nan), r"'module\.base\.6\.1\.bn3\.running_var' holds val"),
    (lambda a: a.update({"module.attention.weight": np.zeros(3)}), r"unknown to this network, 'module\.attention\.wei"),
    (lambda a: [a.pop(name) for name in list(a) if "conv3" in name], r"blocks of two 3x3 \(ResNet-18, -34\)"),
    (lambda a: a.update({"roi_heads.box_head.fc6.weight": np.zeros(3)}),
     r"a detector or person-search network \(it holds 'roi_heads\.box_head\.fc6\.weight'\)"),
    (lambda a: (a.clear(), a.update({"neck/scale": np.zeros(3)})), r"trained here; name it in config\.teacher\.init_"),
    (lambda a: (a.clear(), a.update({"fc.weight": np.zeros(3)})),
     r"not one of MGN, PPLR, HHCL, AGW, strong baseline \(it holds 'fc\.weight', \.\.\.\)"),
    (lambda a: a.update({"ema.base.0.weight": np.zeros(3)}),
     r"names begin with 'module\.', but it holds 'ema\.base\.0\.weight'; save one network alone"),
    (lambda a: a.clear(), "holds no tensor"),
])  # fmt: skip
def test_wrong_tensors_are_named(change, message, hhcl):
    arrays = arrays_of(hhcl)
    change(arrays)
    with pytest.raises(InputError, match=message) as error:
        convert_teacher(arrays, "in.pth")
    assert str(error.value).startswith("in.pth: ") and "\n" not in str(error.value)


def test_wrong_options_and_descriptions_are_named(hhcl, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", **arrays_of(hhcl))
    for options, words in (
        (["out.pth"], "is an .npz"), (["out.npz", "--crop", "256"], "--crop 256: give height x"),
        (["out.npz", "--crop", "31x64"], "in.npz: crops of 31 x 64; HHCL, ResNet-17, avg pooling needs 32 x 32"),
    ):  # fmt: skip
        assert main([str(tmp_path / "in.npz"), str(tmp_path / options[0]), *options[1:]]) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and words in said[0]
    gem = {name: tensor.numpy() for name, tensor in published.HHCL("gem").state_dict().items()}
    with pytest.raises(InputError, match=r"in\.pth: HHCL pools by gem, not max; omit --pool"):
        convert_teacher(gem, "in.pth", "max")
    pplr = {name: tensor.numpy() for name, tensor in published.PPLR().state_dict().items()}
    with pytest.raises(InputError, match=r"in\.pth: PPLR pools by avg, not max; omit --pool"):
        convert_teacher(pplr, "in.pth", "max")
    mgn = {name: tensor.numpy() for name, tensor in published.MGN().state_dict().items()}
    np.savez(tmp_path / "mgn.npz", **mgn)
    with pytest.raises(InputError, match=r"mgn\.npz: crops of 40 x 40; MGN, .* needs 48 x 32 or more"):
        load_teacher(tmp_path / "mgn.npz", (40, 40))
    network = convert_teacher(arrays_of(hhcl), "in.pth")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"file/out\.npz: cannot be written \("):
        save_teacher(tmp_path / "file/out.npz", network)
    save_teacher(tmp_path / "out.npz", network)
    assert main([str(tmp_path / "out.npz"), str(tmp_path / "again.npz")]) == 1
    assert capsys.readouterr().err.endswith("is converted already; give it to config.teacher.file as it is\n")
    with np.load(tmp_path / "out.npz") as stored:
        arrays = dict(stored)
    for description, words in (
        (b"{", "description cannot be read"), (json.dumps({"network": {"deep": 3}}).encode(), "description cannot be"),
        (b"{}", "description cannot be read"),
    ):  # fmt: skip
        np.savez(tmp_path / "bad.npz", **arrays | {"description": np.frombuffer(description, np.uint8)})
        with pytest.raises(InputError, match=f"bad.npz: its {words}"):
            load_teacher(tmp_path / "bad.npz")
    arrays.pop("neck/mean")
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=r"bad\.npz: lacks 'neck/mean'"):
        load_teacher(tmp_path / "bad.npz")
