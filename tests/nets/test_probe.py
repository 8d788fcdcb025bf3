"""What a network does not say itself: its blocks, its head, its BatchNorm, and what its layers put out."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline import nets
from pipeline.core.errors import TeacherError
from pipeline.nets.probe import capture, needs_batches, note


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())


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


@pytest.mark.parametrize(
    ("arch", "size", "expected"),
    [
        ("lenet5", 16, False),
        ("lenet5_bn", 16, True),
        ("resnet8", 8, False),
        ("vgg11_bn", 8, True),
        ("vgg11_bn", 32, False),
    ],
)
def test_a_network_needs_batches_where_training_on_one_image_fails(arch: str, size: int, expected: bool) -> None:
    net = nets.build(arch, 5, 1, size)
    before = copy.deepcopy(net.state_dict())
    assert needs_batches(net, torch.zeros(7, 1, size, size)) is expected
    assert hooks(net) == 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    if expected:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            net(torch.zeros(1, 1, size, size))
    else:
        net(torch.zeros(1, 1, size, size))


# -- networks that were not built here -------------------------------------------------------------------------------


class Misleading(nn.Module):
    """Its head is registered first, a linear layer inside the trunk last."""

    def __init__(self) -> None:
        super().__init__()
        self.head_layer = nn.Linear(4, 3)
        self.unused = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.gate = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.second(self.first(images)).mean((2, 3))
        return self.head_layer(pooled * self.gate(pooled).sigmoid()).squeeze()


def test_one_run_finds_the_head_that_makes_the_logits_and_the_blocks_in_their_order() -> None:
    net = Misleading()
    note(net, torch.zeros(1, 1, 6, 6))
    assert nets.final_linear(net) is net.head_layer
    assert nets.feature_points(net) == ("first", "second", "head_layer")
    assert nets.feature_points(copy.deepcopy(net)) == ("first", "second", "head_layer")


def test_the_run_leaves_modes_statistics_and_hooks_as_they_were() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    note(net, torch.ones(1, 1, 6, 6))
    assert [module.training for module in net] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert hooks(net) == 0


def test_modes_and_hooks_are_put_back_when_the_run_fails() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError):
        note(net, torch.ones(1, 1, 6, 6))
    assert all(module.training for module in net.modules())
    assert hooks(net) == 0


def test_probabilities_are_not_taken_for_logits() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.LogSoftmax(1))
    note(net, torch.zeros(1, 1, 4, 4))
    with pytest.raises(TeacherError, match="does not end in a linear layer"):
        nets.final_linear(net)


def test_without_a_run_the_last_linear_layer_counts() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    assert nets.feature_points(net) == ("0", "3", "5")
    assert nets.final_linear(net) is net[5]


def test_a_wrapped_network_is_looked_into() -> None:
    inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    assert nets.feature_points(nn.Sequential(inner)) == ("0.0", "0.1", "0.3")


def test_declared_points_win_over_what_can_be_seen() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 3))
    net.blocks, net.head = ("0",), "1"  # pyright: ignore[reportAttributeAccessIssue]
    assert nets.feature_points(net) == ("0", "1")
    net.head = "9"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TeacherError, match="does not end in a linear layer"):
        nets.final_linear(net)


@pytest.mark.parametrize("arch", ["lenet5_bn", "resnet8", "wrn_16_1", "alexnet_half", "torchvision:mobilenet_v2"])
def test_operations_are_counted_as_torch_counts_them(arch: str) -> None:
    net, images = nets.build(arch, 10, 3, 32).eval(), torch.zeros(2, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(images)
    assert nets.flops(net, images) == counter.get_total_flops()
    assert hooks(net) == 0
