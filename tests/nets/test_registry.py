"""The file's name is the registry."""

from pathlib import Path

import pytest

from pipeline import nets
from pipeline.core.errors import ParamsError, PipelineError


@pytest.mark.parametrize(
    ("arch", "module"),
    [
        ("lenet5_half", "pipeline.nets.lenet"),
        ("resnet20", "pipeline.nets.resnet"),
        ("wrn_16_1", "pipeline.nets.wrn"),
        ("mobilenet_v2", "pipeline.nets.mobilenet"),
        ("torchvision:resnet18", "pipeline.nets.external"),
        ("timm:resnet18", "pipeline.nets.external"),
        ("python:a/b.py:net", "pipeline.nets.userfile"),
    ],
)
def test_the_leading_letters_or_the_prefix_name_the_module(arch: str, module: str) -> None:
    assert nets.module_of(arch) == module


@pytest.mark.parametrize(
    "arch", ["transformer", "", "ResNet20", "8resnet", "resnet20:x", "os:path", "common", "external", "userfile"]
)
def test_an_unknown_name_is_refused_with_all_that_is_known(arch: str) -> None:
    with pytest.raises(ParamsError, match=r"no such architecture; there are .*resnet20.*torchvision:NAME, timm:NAME"):
        nets.build(arch, 10, 3, 32)


@pytest.mark.parametrize("arch", ["../x", "resnet20/../x", "lenet.5", "inspection", "features", "a" * 500, "rés20"])
def test_no_name_leads_anywhere_but_to_an_architecture_file(arch: str) -> None:
    with pytest.raises(PipelineError, match="no such architecture"):
        nets.build(arch, 10, 3, 32)


def test_a_new_file_in_the_folder_is_found_without_being_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "perceptron.py").write_text(
        "from torch import nn\n"
        "NAMES = ('perceptron_8',)\n"
        "def build(arch, classes, channels, size):\n"
        "    width = int(arch.split('_')[1])\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, width), nn.Linear(width, classes))\n"
    )
    assert "perceptron_8" not in nets.names()
    monkeypatch.setattr(nets, "__path__", [*nets.__path__, str(tmp_path)])
    assert "perceptron_8" in nets.names()
    assert nets.module_of("perceptron_16") == "pipeline.nets.perceptron"
    assert nets.final_linear(nets.build("perceptron_16", 5, 1, 4)).weight.shape == (5, 16)
