import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.core.errors import TeacherError
from pipeline.sources import checkpoint, unpack


@pytest.fixture
def small() -> nn.Module:
    """Convolution, BatchNorm, linear: every kind of state there is."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def state_of(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_that_all_names_share_are_stripped(small, tmp_path, prefix):
    save_file({prefix + name: value for name, value in state_of(small).items()}, tmp_path / "w.safetensors")
    assert checkpoint.read_weights(tmp_path / "w.safetensors", None).keys() == small.state_dict().keys()


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    save_file({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert set(checkpoint.read_weights(tmp_path / "w.safetensors", None)) == {"module.a", "b"}


def test_a_data_parallel_checkpoint_under_a_key_comes_through_the_sandbox_exactly(small, tmp_path):
    path = tmp_path / "w.th"
    content = {"epoch": 3, "nets": {"ema": nn.DataParallel(small).state_dict()}, "model": {"a": torch.zeros(1)}}
    torch.save(content, path)
    weights = checkpoint.read_weights(path, "nets.ema")
    expected = small.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert all(weights[name].dtype == value.dtype for name, value in expected.items())


def test_views_and_shared_storages_come_through_the_sandbox_as_they_look(tmp_path):
    path = tmp_path / "w.pt"
    base = torch.arange(12.0).view(3, 4)
    views = {"whole": base, "turned": base.T, "row": base[1], "last": base.to(memory_format=torch.contiguous_format)}
    torch.save({"state_dict": views}, path, _use_new_zipfile_serialization=False)
    weights = checkpoint.read_weights(path, None)
    assert all(torch.equal(weights[name], value) for name, value in views.items())


WEIGHTS = {"a": torch.zeros(1)}


@pytest.mark.parametrize("name", ["state_dict", "model", "net"])
def test_weights_are_found_under_the_usual_names(name):
    assert unpack._choose({"epoch": 3, name: WEIGHTS}, None) is WEIGHTS
    assert unpack._choose(WEIGHTS, None) is WEIGHTS


@pytest.mark.parametrize(
    ("content", "key", "reason"),
    [
        ({"state_dict": WEIGHTS, "net": WEIGHTS}, None, "state dicts under state_dict, net; say which"),
        ({"ema": WEIGHTS}, None, r"no state dict found: it holds ema \(dict\); name where it is"),
        ([WEIGHTS], None, "no state dict found: it holds a list"),
        ({}, None, "no state dict found"),
        ({"a": torch.zeros(1), "lr": 0.1}, None, r"no state dict found: it holds a \(Tensor\), lr \(float\)"),
        ({"ema": WEIGHTS}, "emma", r"nothing under key 'emma': it holds ema \(dict\)"),
        ({"ema": WEIGHTS}, "ema.a", "no state dict under key 'ema.a': it holds a Tensor"),
        (WEIGHTS, "a.b", "nothing under key 'a.b'"),
    ],
)
def test_what_is_ambiguous_or_not_there_is_described(content, key, reason):
    with pytest.raises(unpack._RefusedError, match=reason):
        unpack._choose(content, key)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TeacherError, match=r"absent.pt: no such checkpoint file"):
        checkpoint.read_weights(tmp_path / "absent.pt", None)


def test_a_fifo_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(TeacherError, match="no such checkpoint file"):
        checkpoint.read_weights(tmp_path / "w.pt", None)


@pytest.mark.parametrize("name", ["w.pkl", "w.bin", "w.onnx", "w"])
def test_other_kinds_of_file_are_refused_unread(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(TeacherError, match=r"expected .safetensors or one of .pt, .pth, .th"):
        checkpoint.read_weights(tmp_path / name, None)


def test_a_key_into_safetensors_is_an_error(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    with pytest.raises(TeacherError, match=r"set teacher\.key: null"):
        checkpoint.read_weights(tmp_path / "w.safetensors", "state_dict")
