"""The generator's layers against plain ones, its published structure, and its files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.errors import ParamsError, ShardError
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.nets.generators import (
    Generator,
    GeneratorCard,
    GeneratorParams,
    UpConv2d,
    build_generator,
    generator_bytes,
    load_generator,
)

MEAN, STD = (0.2, 0.5, 0.9), (0.3, 0.1, 0.25)
BLOCK: dict[str, Any] = {"latent_dim": 6, "widths": (8, 4), "epsilon": 1e-5, "tanh": True, "affine": False}


def params(**changes: Any) -> GeneratorParams:
    return GeneratorParams(**{**BLOCK, **changes})


def made(seed: int = 0, size: int = 8, **changes: Any) -> Generator:
    return build_generator(params(**changes), MEAN, STD, size, stream(seed, "weights"))


def noise(count: int, seed: int = 0, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=stream(seed, "noise"))


# The layer that doubles.


def plain(layer: UpConv2d, maps: Tensor) -> Tensor:
    """Nearest neighbours, then the 3x3 convolution."""
    return functional.conv2d(functional.interpolate(maps, scale_factor=2), layer.weight, layer.bias, padding=1)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 3, 5, 7), (3, 3, 1, 1), (2, 3, 1, 6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_upsampling_and_convolution_in_one_are_equal_to_both_forward_and_backward(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    layer = UpConv2d(3, 5).double().to(memory_format=layout)
    rng = stream(0, "maps")
    maps = torch.randn(shape, generator=rng, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    down = torch.randn(shape[0], 5, 2 * shape[2], 2 * shape[3], generator=rng, dtype=torch.float64)
    wanted = (maps, layer.weight, layer.bias)
    found, expected = layer(maps), plain(layer, maps)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, wanted, down), torch.autograd.grad(expected, wanted, down), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


# The network.


@pytest.mark.parametrize(("affine", "last"), [(False, 0), (True, 2)])
def test_the_published_sizes_have_the_published_number_of_parameters(affine: bool, last: int) -> None:
    shape = params(latent_dim=100, widths=(128, 64), affine=affine)
    net = build_generator(shape, (0.5,), (0.5,), 32, stream(0, "weights"))
    linear, norms = 100 * 8192 + 8192, 2 * (128 + 128 + 64)
    convolutions = (128 * 128 * 9 + 128) + (128 * 64 * 9 + 64) + (64 * 1 * 9 + 1)
    assert sum(weights.numel() for weights in net.parameters()) == linear + norms + convolutions + last


@pytest.mark.parametrize("tanh", [True, False])
def test_the_layers_stand_in_the_published_order(tanh: bool) -> None:
    net = made(tanh=tanh, affine=True, epsilon=0.8)
    with torch.random.fork_rng():
        for module in net.modules():  # away from 1 and 0, which would hide a BatchNorm's scale and shift
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias, -1, 1)

    def normalised(maps: Tensor, norm: nn.BatchNorm2d, epsilon: float) -> Tensor:
        mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
        scale, shift = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
        return (maps - mean) / (variance + epsilon).sqrt() * scale + shift

    z = noise(5)
    maps = normalised((z @ net.linear.weight.T + net.linear.bias).view(5, 8, 2, 2), net.bn0, 1e-5)
    maps = normalised(plain(net.up1, maps), net.bn1, 0.8)
    maps = normalised(plain(net.up2, torch.where(maps > 0, maps, 0.2 * maps)), net.bn2, 0.8)
    maps = functional.conv2d(torch.where(maps > 0, maps, 0.2 * maps), net.conv.weight, net.conv.bias, padding=1)
    images = normalised(maps.tanh() if tanh else maps, net.bn3, 1e-5)
    expected = images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
    torch.testing.assert_close(net(z), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [8, 12, 16])
def test_without_a_learnt_scale_a_batch_has_the_teachers_mean_and_spread_in_each_channel(size: int) -> None:
    images = made(size=size)(noise(64))
    assert images.shape == (64, 3, size, size)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.tensor(MEAN), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.tensor(STD), atol=0, rtol=1e-3)
    assert images.min() < 0  # nothing bounds them


def test_images_are_float32_in_autocast_too() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = made()(noise(4))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, made()(noise(4)), atol=0.05, rtol=0.05)


def test_weights_come_from_the_generator_that_was_handed_in_alone() -> None:
    before = torch.get_rng_state()
    first = made(0).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = made(0).state_dict(), made(1).state_dict()
    torch.set_rng_state(before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in ("linear.weight", "up1.weight", "conv.bias"))


@pytest.mark.parametrize("size", [1, 10, 15, 33])
def test_a_size_that_does_not_divide_by_four_is_refused(size: int) -> None:
    with pytest.raises(ParamsError, match=rf"images of {size} pixels; expected a multiple of 4"):
        made(size=size)


# Its file.


def card(**changes: Any) -> dict[str, Any]:
    block = {"generator": BLOCK, "mean": MEAN, "std": STD, "size": 8, "bn_mode": "eval"}
    return {**block, **changes}


def write(path: Path, net: Generator, described: Any, weights: dict[str, Tensor] | None = None) -> Path:
    """A file as it is written where there is such a card, and something like it where there is none."""
    state = net.state_dict() if weights is None else weights
    try:
        path.write_bytes(generator_bytes(state, build(GeneratorCard, described, "card")))
    except ParamsError:
        save_file(state, path, metadata=None if described is None else {"generator": json.dumps(described)})
    return path


@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_a_generator_comes_back_from_its_file_and_makes_the_same_images(tmp_path: Path, bn_mode: str) -> None:
    net = made()
    net(noise(32))  # moves the running statistics
    before = torch.get_rng_state()
    found = load_generator(write(tmp_path / "g", net, card(bn_mode=bn_mode)))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.training == (bn_mode == "train")
    net.train(bn_mode == "train")
    torch.testing.assert_close(found(noise(5)), net(noise(5)), rtol=0, atol=0)


def test_samples_are_the_images_of_normal_noise_clamped_and_depend_on_the_generator_handed_in() -> None:
    net = made()
    for seed in range(30):  # moves the running statistics to where they belong
        net(noise(20, seed))
    net.eval()
    assert net(noise(40)).min() < 0
    found = net.sample(40, stream(0, "noise"))
    assert torch.equal(found, net(noise(40)).detach().clamp(0, 1))
    assert not torch.equal(found, net.sample(40, stream(1, "noise")))
    assert not found.requires_grad
    assert net.sample(0, stream(0, "noise")).shape == (0, 3, 8, 8)


def resaved(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        weights = load_file(path)
        change(weights)
        write(path, made(), card(), weights)

    return edit


NO_SAFETENSORS = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
NOT_ITS_FILE = {
    "no card": lambda path: write(path, made(), None),
    "a card that is a list": lambda path: write(path, made(), [1]),
    "a card of one brace": lambda path: save_file(made().state_dict(), path, metadata={"generator": "{"}),
    "a card nested deeply": lambda path: save_file(made().state_dict(), path, metadata={"generator": "[" * 100_000}),
    "a card with a further key": lambda path: write(path, made(), card(extra=1)),
    "no mode": lambda path: write(path, made(), card(bn_mode="both")),
    "a mean too few": lambda path: write(path, made(), card(mean=MEAN[:2])),
    "no spread": lambda path: write(path, made(), card(std=(0.0, 0.1, 0.1))),
    "an odd size": lambda path: write(path, made(), card(size=9)),
    "too large for any memory": lambda path: write(path, made(), card(size=4 * 10**12)),
    "too many dimensions for a tensor": lambda path: write(
        path, made(), card(generator={**BLOCK, "latent_dim": 10**30})
    ),
}
OF_ANOTHER = {
    "another latent space": lambda path: write(path, made(latent_dim=7), card()),
    "another size": lambda path: write(path, made(size=12), card()),
    "some terabytes": lambda path: write(path, made(), card(generator={**BLOCK, "latent_dim": 10**11})),
    "a scale and a shift": lambda path: write(path, made(affine=True), card()),
    "one too few": resaved(lambda weights: weights.pop("conv.bias")),
}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        *(pytest.param(damage, "(no|not a|damaged) .*", id=name) for name, damage in NO_SAFETENSORS.items()),
        *(pytest.param(damage, "not a generator's file", id=name) for name, damage in NOT_ITS_FILE.items()),
        *(pytest.param(damage, "weights of another generator", id=name) for name, damage in OF_ANOTHER.items()),
        pytest.param(
            resaved(lambda weights: weights.update({"conv.bias": weights["conv.bias"].int()})),
            "the weights do not fit: conv.bias: int32, expected float32", id="whole numbers",
        ),
        pytest.param(
            resaved(lambda weights: weights["linear.weight"].__setitem__((1, 2), float("nan"))),
            "the weights do not fit: linear.weight: 1 of 192 values are not finite", id="not a number",
        ),
    ],
)  # fmt: skip
def test_any_other_file_is_an_error_that_names_it(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    path = write(tmp_path / "generator-0002.safetensors", made(), card())
    damage(path)
    with pytest.raises(ShardError, match=rf"generator-0002.safetensors: {reason}.*fetch or make the dataset again"):
        load_generator(path)


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    path = write(tmp_path / "g", made(), card())
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = stream(0, "flips")
    anywhere = torch.randint(0, 8 * len(content), (120,), generator=rng).tolist()
    for place in [*anywhere, *torch.randint(0, 8 * header, (80,), generator=rng).tolist()]:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match="fetch or make the dataset again"):
            load_generator(path)


def test_the_same_generator_is_the_same_bytes() -> None:
    described = build(GeneratorCard, card(), "card")
    assert generator_bytes(made().state_dict(), described) == generator_bytes(made().state_dict(), described)


def test_an_edited_card_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "g", made(), card(bn_mode="eval"))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'bn_mode\\": \\"eval', b'bn_mode\\":\\"train', 1))
    assert path.read_bytes() != content
    with pytest.raises(ShardError, match="damaged: its weights or its card"):
        load_generator(path)
