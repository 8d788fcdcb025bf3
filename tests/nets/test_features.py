"""Feature points and the capture of what they put out."""

import pytest
import torch
from torch import nn

from pipeline import nets
from pipeline.core.errors import TeacherError
from pipeline.nets.features import capture

OURS = [name for name in nets.names() if ":" not in name and name not in ("wrn_28_10", "resnet110")]


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())


@pytest.mark.parametrize("arch", OURS)
def test_feature_points_run_in_their_order_and_end_with_the_head_that_makes_the_logits(arch: str) -> None:
    net = nets.build(arch, 5, 3, 16).eval()
    points = nets.feature_points(net)
    order: list[str] = []
    handles = [
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: order.append(name)) for name in points
    ]
    with capture(net, points) as outputs:
        logits = net(torch.randn(2, 3, 16, 16))
    for handle in handles:
        handle.remove()
    assert order == list(points)
    assert outputs[points[-1]] is logits
    assert net.get_submodule(points[-1]) is nets.final_linear(net)
    maps = [outputs[name] for name in points[:-1]]
    assert len(maps) >= 2
    assert all(value.dim() == 4 for value in maps)
    sides = [value.shape[-1] for value in maps]
    assert sides == sorted(sides, reverse=True)


def test_captured_outputs_are_live_so_that_a_loss_on_them_reaches_the_image() -> None:
    net = nets.build("resnet8", 5, 3, 8).eval()
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    with capture(net, ["layer2"]) as outputs:
        net(images)
    outputs["layer2"].square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_later_pass_replaces_the_outputs_of_the_one_before() -> None:
    net = nets.build("lenet5", 5, 1, 16)
    with capture(net, ["linear"]) as outputs:
        net(torch.zeros(1, 1, 16, 16))
        last = net(torch.ones(3, 1, 16, 16))
        assert outputs["linear"] is last


def test_what_was_captured_is_not_changed_by_the_layers_after_it() -> None:
    net = nets.build("mobilenet_v2", 5, 3, 16).eval()
    points = nets.feature_points(net)
    copies: dict[str, torch.Tensor] = {}
    for name in points:
        net.get_submodule(name).register_forward_hook(lambda _m, _i, o, name=name: copies.update({name: o.clone()}))
    with torch.no_grad(), capture(net, points) as outputs:
        net(torch.randn(2, 3, 16, 16))
    assert all(torch.equal(outputs[name], copies[name]) for name in points)


def test_hooks_are_gone_after_the_block() -> None:
    net = nets.build("resnet8", 5, 3, 8)
    with capture(net, nets.feature_points(net)) as outputs:
        assert hooks(net) == 4
    assert hooks(net) == 0
    net(torch.zeros(2, 3, 8, 8))
    assert outputs == {}


def test_hooks_are_gone_when_an_exception_escapes() -> None:
    net = nets.build("resnet8", 5, 3, 8)
    with pytest.raises(RuntimeError, match="channels"), capture(net, nets.feature_points(net)):
        net(torch.zeros(2, 1, 8, 8))
    assert hooks(net) == 0


def test_one_capture_inside_another_takes_away_its_own_hooks_only() -> None:
    net = nets.build("resnet8", 5, 3, 8).eval()
    with capture(net, ["layer1"]) as outer:
        with capture(net, ["layer1"]):
            net(torch.zeros(2, 3, 8, 8))
        first = outer["layer1"]
        net(torch.ones(2, 3, 8, 8))
        assert outer["layer1"] is not first


def test_a_submodule_that_does_not_exist_is_named_and_no_hook_is_left() -> None:
    net = nets.build("resnet8", 5, 3, 8)
    with pytest.raises(TeacherError, match=r"no submodule 'layer9' in ResNet; .* layer1, layer2"):
        capture(net, ["layer1", "layer9"]).__enter__()
    assert hooks(net) == 0


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), True),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), True),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)), False),
        (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), False),
    ],
)
def test_batch_norm_counts_where_it_keeps_statistics(net: nn.Module, expected: bool) -> None:
    assert nets.has_batch_norm(net) is expected
