"""Networks that were not written here: torchvision, timm, and anything that is merely a module."""

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import nets
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.nets.probe import capture


@pytest.mark.parametrize(
    ("name", "size", "blocks", "head"),
    [
        ("resnet18", 32, ("layer1", "layer2", "layer3", "layer4"), "fc"),
        ("mobilenet_v3_small", 32, tuple(f"features.{number}" for number in range(13)), "classifier.3"),
        ("shufflenet_v2_x0_5", 32, ("conv1", "stage2", "stage3", "stage4", "conv5"), "fc"),
        (
            "densenet121",
            32,
            tuple(
                f"features.{name}"
                for number in (1, 2, 3, 4)
                for name in (f"denseblock{number}", f"transition{number}")
                if name != "transition4"
            ),
            "classifier",
        ),
        ("vit_b_32", 32, tuple(f"encoder.layers.encoder_layer_{number}" for number in range(12)), "heads.head"),
        ("googlenet", 32, None, "fc"),
    ],
)
def test_the_blocks_and_the_head_of_torchvision_networks_are_found(
    name: str, size: int, blocks: tuple[str, ...] | None, head: str
) -> None:
    net = nets.build(f"torchvision:{name}", 6, 3, size).eval()
    points = nets.feature_points(net)
    assert points[-1] == head
    assert blocks is None or points[:-1] == blocks
    assert nets.final_linear(net).out_features == 6
    with torch.no_grad(), capture(net, points) as outputs:
        logits = net(torch.randn(2, 3, size, size))
    assert set(outputs) == set(points)
    assert outputs[head] is logits


@pytest.mark.parametrize("channels", [1, 4])
def test_the_first_convolution_is_adapted_to_the_channels(channels: int) -> None:
    net = nets.build("torchvision:resnet18", 6, channels, 32)
    assert net(torch.randn(2, channels, 32, 32)).shape == (2, 6)
    first = net.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    assert (first.stride, first.padding, first.bias) == ((2, 2), (3, 3), None)


def test_a_network_with_auxiliary_outputs_gives_one_output_in_training_too() -> None:
    net = nets.build("torchvision:googlenet", 6, 3, 32)
    assert net.training
    assert isinstance(net(torch.randn(2, 3, 32, 32)), Tensor)


@pytest.mark.parametrize("name", ["fcn_resnet50", "fasterrcnn_resnet50_fpn", "raft_small", "r3d_18"])
def test_what_does_not_classify_images_is_refused(name: str) -> None:
    with pytest.raises(ParamsError, match=f"torchvision:{name}: not an image classifier"):
        nets.build(f"torchvision:{name}", 6, 3, 32)


def test_a_misspelt_name_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ParamsError, match=r"torchvision:resnet19: no such classifier; near it are .*resnet18"):
        nets.build("torchvision:resnet19", 6, 3, 32)


def test_images_too_small_for_the_network_are_an_error_with_its_reason() -> None:
    with pytest.raises(ParamsError, match=r"torchvision:alexnet: cannot take 3x32x32 images: .*too small"):
        nets.build("torchvision:alexnet", 6, 3, 32)


def test_a_network_that_ends_in_a_convolution_has_blocks_but_no_head() -> None:
    net = nets.build("torchvision:squeezenet1_1", 6, 3, 32)
    assert len(nets.feature_points(net)) == 8
    with pytest.raises(TeacherError, match="SqueezeNet does not end in a linear layer"):
        nets.final_linear(net)


def test_timm_that_is_not_installed_is_an_error_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ParamsError, match=r"timm is not installed; run `pip install 'photogram\[timm\]'`"):
        nets.build("timm:resnet18", 6, 3, 32)


class StandInForTimm(types.ModuleType):
    """The three functions of timm that are used."""

    def __init__(self) -> None:
        super().__init__("timm")
        self.asked: dict[str, Any] = {}

    def is_model(self, name: str) -> bool:
        return name in self.list_models()

    def list_models(self) -> list[str]:
        return ["resnet18"]

    def create_model(self, name: str, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        self.asked = {"name": name, "pretrained": pretrained}
        return nn.Sequential(
            nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
        )


def test_timm_is_asked_for_a_network_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = StandInForTimm()
    monkeypatch.setitem(sys.modules, "timm", timm)
    net = nets.build("timm:resnet18", 6, 2, 16)
    assert timm.asked == {"name": "resnet18", "pretrained": False}
    assert nets.feature_points(net) == ("0", "3")


@pytest.mark.parametrize("name", ["hf-hub:someone/net", "local-dir:/x", "resnet17"])
def test_names_that_timm_would_fetch_from_elsewhere_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = StandInForTimm()
    monkeypatch.setitem(sys.modules, "timm", timm)
    with pytest.raises(ParamsError, match="no such classifier"):
        nets.build(f"timm:{name}", 6, 3, 32)
    assert timm.asked == {}
