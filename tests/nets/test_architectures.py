"""Every architecture: shapes, published sizes, initialisation, and the same function as an independent version."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from pipeline import nets
from pipeline.core.errors import ParamsError
from pipeline.nets.probe import capture
from pipeline.nets.resnet import BasicBlock, PadShortcut
from pipeline.nets.wrn import PreActivationBlock

OURS = tuple(name for name in nets.names() if ":" not in name)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("arch", OURS)
def test_every_architecture_keeps_the_contract(arch: str) -> None:
    """Refuses too small an image; makes logits from any other; gradients reach everything; its blocks and head run."""
    with pytest.raises(ParamsError, match=rf"{arch}: size is 1, needs at least \d+") as caught:
        nets.build(arch, 10, 3, 1)
    least = int(str(caught.value).rpartition(" ")[2])
    for channels, size in ((1, least), (3, least + 5)):
        net = nets.build(arch, 7, channels, size, rng=rng()).eval()
        images = torch.randn(2, channels, size, size, generator=rng(), requires_grad=True)
        points, order = nets.feature_points(net), list[str]()
        for name in points:
            net.get_submodule(name).register_forward_hook(lambda *_, name=name, order=order: order.append(name))
        with capture(net, points) as outputs:
            logits = net(images)
        assert logits.shape == (2, 7)
        assert bool(torch.isfinite(logits).all())
        assert logits[0].ne(logits[1]).any(), "the logits depend on the image"
        logits.logsumexp(1).sum().backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0
        assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []
        assert order == list(points)
        assert outputs[points[-1]] is logits
        assert net.get_submodule(points[-1]) is nets.final_linear(net)
        maps = [outputs[name] for name in points[:-1]]
        assert len(maps) >= 2
        assert all(value.dim() == 4 for value in maps)
        sides = [value.shape[-1] for value in maps]
        assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize(("classes", "channels", "match"), [(1, 3, "classes is 1"), (10, 0, "channels is 0")])
def test_dimensions_that_make_no_classifier_are_refused(classes: int, channels: int, match: str) -> None:
    with pytest.raises(ParamsError, match=match):
        nets.build("resnet8", classes, channels, 32)


@pytest.mark.parametrize(
    ("arch", "channels", "size", "published"),
    [
        ("lenet5", 1, 32, 61_706),  # LeCun et al. with complete connections
        ("lenet5", 1, 28, 61_706),  # framed to 32
        ("lenet5_half", 1, 32, 15_738),
        ("lenet5_bn", 1, 32, 61_706 + 2 * (6 + 16 + 120 + 84)),
        ("resnet20", 3, 32, 269_722),  # "0.27M", He et al. table 6
        ("resnet32", 3, 32, 464_154),  # "0.46M"
        ("resnet44", 3, 32, 658_586),  # "0.66M"
        ("resnet56", 3, 32, 853_018),  # "0.85M"
        ("resnet110", 3, 32, 1_727_962),  # "1.7M"
        ("resnet18", 3, 32, 11_173_962),
        ("resnet34", 3, 32, 21_282_122),
        ("wrn_40_1", 3, 32, 563_930),  # "0.6M", Zagoruyko and Komodakis table 4
        ("wrn_40_2", 3, 32, 2_243_546),  # "2.2M"
        ("wrn_28_10", 3, 32, 36_479_194),  # "36.5M"
        ("mobilenet_v2", 3, 32, 2_236_682),  # torchvision's 3,504,872 with 10 classes in place of 1000
    ],
)
def test_has_the_published_number_of_parameters(arch: str, channels: int, size: int, published: int) -> None:
    assert count(nets.build(arch, 10, channels, size)) == published


@pytest.mark.parametrize("depth", [8, 14, 26, 50])
def test_a_cifar_resnet_of_any_depth_has_the_parameters_of_the_papers_formula(depth: int) -> None:
    each = (depth - 2) // 6
    expected = 3 * 16 * 9 + 2 * 16 + 64 * 10 + 10
    inputs = 16
    for width in (16, 32, 64):
        expected += 9 * width * inputs + (2 * each - 1) * 9 * width * width + 2 * each * 2 * width
        inputs = width
    assert count(nets.build(f"resnet{depth}", 10, 3, 32)) == expected


@pytest.mark.parametrize(("arch", "half"), [("alexnet", "alexnet_half"), ("lenet5", "lenet5_half")])
def test_a_half_has_every_inner_width_halved(arch: str, half: str) -> None:
    whole, halved = (
        [module for module in nets.build(name, 10, 3, 32).modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        for name in (arch, half)
    )
    outputs = [module.weight.shape[0] for module in whole]
    assert [module.weight.shape[0] for module in halved] == [width // 2 for width in outputs[:-1]] + [10]


@pytest.mark.parametrize("arch", ["resnet21", "resnet2", "resnet", "wrn_17_1", "wrn_4_1", "wrn_16_0", "vgg19", "lenet"])
def test_a_name_that_its_file_does_not_know_is_refused_with_what_there_is(arch: str) -> None:
    family = "".join(letter for letter in arch.partition("_")[0] if letter.isalpha())
    with pytest.raises(ParamsError, match=rf"{arch}: no such architecture; there are {family}"):
        nets.build(arch, 10, 3, 32)


# -- the same function as an independent version ---------------------------------------------------------------------


def test_option_a_takes_every_second_pixel_and_pads_maps_with_zeros_on_both_sides() -> None:
    maps = torch.randn(2, 4, 7, 6, generator=rng())
    expected = np.zeros((2, 8, 4, 3), np.float32)
    for channel in range(4):
        for row in range(4):
            for column in range(3):
                expected[:, channel + 2, row, column] = maps.numpy()[:, channel, 2 * row, 2 * column]
    np.testing.assert_array_equal(PadShortcut(4, 8)(maps).numpy(), expected)


def test_a_residual_block_with_silent_convolutions_is_its_shortcut() -> None:
    block = BasicBlock(4, 8, 2, weighted=False).eval()
    nn.init.zeros_(block.conv2.weight)
    maps = torch.randn(2, 4, 8, 8, generator=rng())
    padded = np.zeros((2, 8, 4, 4), np.float32)
    padded[:, 2:6] = np.maximum(maps.numpy()[:, :, ::2, ::2], 0)
    np.testing.assert_array_equal(block(maps).detach().numpy(), padded)


def test_a_pre_activation_shortcut_sees_the_activated_input_only_where_the_shape_changes() -> None:
    changing, keeping = PreActivationBlock(4, 8, 1).eval(), PreActivationBlock(4, 4, 1).eval()
    for block in (changing, keeping):
        nn.init.zeros_(block.conv2.weight)
        nn.init.constant_(block.bn1.bias, 0.25)
    maps = torch.randn(2, 4, 5, 5, generator=rng())
    assert changing.convShortcut is not None
    active = np.maximum(maps.numpy() / math.sqrt(1 + 1e-5) + 0.25, 0)
    expected = np.einsum("oi,nihw->nohw", changing.convShortcut.weight.detach().numpy()[:, :, 0, 0], active)
    np.testing.assert_allclose(changing(maps).detach().numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(keeping(maps).detach().numpy(), maps.numpy())


def test_resnet18_computes_what_torchvisions_does_with_the_small_stem() -> None:
    ours = nets.build("resnet18", 10, 3, 32, rng=rng()).eval()
    theirs = models.resnet18(weights=None, num_classes=10).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    renamed = {n.replace("shortcut", "downsample").replace("linear", "fc"): v for n, v in ours.state_dict().items()}
    theirs.load_state_dict(renamed)
    same_logits(ours, theirs)


def test_mobilenet_v2_computes_what_torchvisions_does_with_the_small_stem() -> None:
    ours = nets.build("mobilenet_v2", 10, 3, 32, rng=rng()).eval()
    theirs = models.mobilenet_v2(weights=None, num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    for strided in (theirs.features[0][0], theirs.features[2].conv[1][0]):
        assert strided.stride == (2, 2)
        strided.stride = (1, 1)
    same_logits(ours, theirs)


@pytest.mark.parametrize("arch", ["vgg11_bn", "vgg16_bn"])
def test_vgg_computes_what_torchvisions_feature_layers_do(arch: str) -> None:
    ours = nets.build(arch, 10, 3, 32, rng=rng()).eval()
    features: nn.Sequential = getattr(models, arch)(weights=None, init_weights=False).features.eval()
    theirs = nn.Sequential(features, nn.Flatten(), nn.Linear(512, 10)).eval()
    layers = [
        [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
        for net in (ours, theirs)
    ]
    for source, target in zip(*layers, strict=True):
        state = source.state_dict()
        if isinstance(target, nn.Conv2d):
            state["bias"] = torch.zeros(target.out_channels)
        target.load_state_dict(state)
    same_logits(ours, theirs)


def same_logits(ours: nn.Module, theirs: nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32, generator=rng(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_cifar_resnets_name_their_parameters_as_public_checkpoints_do() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = ["conv1.weight", *(f"bn1.{part}" for part in norm)]
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            for number in (1, 2):
                expected.append(f"layer{stage}.{block}.conv{number}.weight")
                expected += [f"layer{stage}.{block}.bn{number}.{part}" for part in norm]
    expected += ["linear.weight", "linear.bias"]
    assert list(nets.build("resnet20", 10, 3, 32).state_dict()) == expected


# -- initialisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["alexnet", "mobilenet_v2", "vgg11_bn", "wrn_16_2", "resnet20"])
def test_weights_start_with_variance_two_over_fan_in_and_biases_at_zero(arch: str) -> None:
    checked = 0
    for module in nets.build(arch, 10, 3, 32, rng=rng()).modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 4000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.08)
            assert module.weight.mean().item() == pytest.approx(0, abs=0.2 * math.sqrt(2 / fan_in))
            assert module.bias is None or not module.bias.any()
            checked += 1
    assert checked >= 3


def test_the_generator_that_is_handed_in_decides_the_weights_and_the_global_one_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (nets.build("resnet8", 10, 3, 32, rng=rng(seed)).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_without_a_generator_the_global_one_decides_the_weights_and_is_put_back() -> None:
    with torch.random.fork_rng(devices=[]):
        weights: list[torch.Tensor] = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            weights.append(nets.build("resnet8", 10, 3, 32).state_dict()["conv1.weight"])
            assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(*weights)


def test_lenet5_bn_with_neutral_batch_norm_is_lenet5() -> None:
    plain, normed = nets.build("lenet5", 10, 1, 28).eval(), nets.build("lenet5_bn", 10, 1, 28).eval()
    layers = [module for module in normed.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    ours = [module for module in plain.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer, own in zip(layers, ours, strict=True):
        layer.load_state_dict(own.state_dict())
    images = torch.rand(4, 1, 28, 28, generator=rng())
    torch.testing.assert_close(normed(images), plain(images), atol=1e-3, rtol=1e-3)  # its epsilon of 1e-5, four times
