"""Pixel loops and generator trainings as research scripts write them: the yardstick, kept plain on purpose.

Beside them, how it is measured: interleaved, and against what the machine can do.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, l1_loss, log_softmax, mse_loss, normalize

from pipeline import nets
from pipeline.classifier import Classifier, Teacher, TeacherCard
from pipeline.nets.layers import MaxPool2x2, StemConv2d

_CPU = torch.device("cpu")


def plain_layers(net: nn.Module) -> nn.Module:
    """The same network with torch's own layers in place of ours, in place."""
    for module in net.modules():
        if isinstance(module, StemConv2d):
            module.__class__ = nn.Conv2d
        for name, child in module.named_children():
            if isinstance(child, MaxPool2x2):
                setattr(module, name, nn.MaxPool2d(2))
    return net


def stand_in(net: nn.Module, arch: str, channels: int, size: int) -> Teacher:
    """A ten-class teacher of random weights, for its speed alone; not frozen yet."""
    card = TeacherCard(
        arch=arch, classes=tuple("0123456789"), channels=channels, size=size, mean=(0.5,) * channels,
        std=(0.25,) * channels, batch_norm=nets.has_batch_norm(net), sha256="", accuracy=None, source="random weights",
    )  # fmt: skip
    return Classifier(net, card).eval()


class PlainLoop:
    """Default settings throughout: memory layout, Adam, and a teacher whose parameters collect gradients too."""

    def __init__(self, teacher: nn.Module, images: Tensor, targets: Tensor, temperature: float, rate: float) -> None:
        """`teacher` takes [0, 1] images; `images` [N, C, H, W] and `targets` [N, K] as in the method."""
        self.teacher = teacher
        self.images = images.clone().requires_grad_()
        self.targets = targets
        self.temperature = temperature
        self.optimiser = torch.optim.Adam([self.images], lr=rate)

    def step(self) -> None:
        """One Adam step on the batch, then the whole batch back into [0, 1]."""
        self.optimiser.zero_grad()
        loss = -(self.targets * log_softmax(self.teacher(self.images) / self.temperature, dim=1)).sum(1).mean()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.images.clamp_(0, 1)


class PlainInversion:
    """DeepInversion's step with the habits of research code.

    A forward hook on every BatchNorm layer takes the mean and, from a rearranged copy, the variance; parameters collect
    gradients too; default layout, precision and optimiser.
    """

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, rate: float) -> None:
        """`net` takes normalised images, `images` [N, C, H, W] are such; `labels` [N]."""
        self.net = net.eval()
        self.images = images.clone().requires_grad_()
        self.labels = labels
        self.optimiser = torch.optim.Adam([self.images], lr=rate)
        self.terms: list[Tensor] = []
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(self._look)

    def step(self) -> None:
        """One Adam step on the batch."""
        self.optimiser.zero_grad()
        self.terms.clear()
        down, right = (int(offset) for offset in torch.randint(-2, 3, (2,)))
        view = torch.roll(self.images, (down, right), (2, 3))
        loss = cross_entropy(self.net(view), self.labels) + 2.5e-5 * _variation(view) + 10 * sum(self.terms)
        (loss + 1e-6 * view.norm()).backward()
        self.optimiser.step()

    def _look(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        maps = inputs[0]
        mean = maps.mean([0, 2, 3])
        variance = maps.permute(1, 0, 2, 3).contiguous().view(maps.shape[1], -1).var(1, unbiased=False)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.terms.append((layer.running_mean - mean).norm() + (layer.running_var - variance).norm())


def _variation(images: Tensor) -> Tensor:
    down, right = images[:, :, :-1] - images[:, :, 1:], images[..., :-1] - images[..., 1:]
    one, other = images[:, :, :-1, :-1] - images[:, :, 1:, 1:], images[:, :, 1:, :-1] - images[:, :, :-1, 1:]
    return down.norm() + right.norm() + one.norm() + other.norm()


class PlainGenerator(nn.Sequential):
    """The published generator with torch's own layers."""

    def __init__(self, noise: int, channels: int, size: int) -> None:
        """128 and 64 feature maps; images of `size` pixels."""
        side = size // 4
        super().__init__(
            nn.Linear(noise, 128 * side**2), nn.Unflatten(1, (128, side, side)), nn.BatchNorm2d(128),
            nn.Upsample(scale_factor=2), nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2), nn.Conv2d(128, 64, 3, padding=1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2),
            nn.Conv2d(64, channels, 3, padding=1), nn.BatchNorm2d(channels),
        )  # fmt: skip


class PlainDuel:
    """ZSKT's and DFAD's iteration as research code writes them: every network collects gradients at every step."""

    def __init__(self, generator: nn.Module, teacher: nn.Module, student: nn.Module, noise: int, batch: int) -> None:
        """The networks take normalised images; the teacher is in evaluation mode."""
        self.generator, self.teacher, self.student = generator, teacher.eval(), student
        self.noise, self.batch = noise, batch
        self.of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3)
        self.of_student = torch.optim.Adam(student.parameters(), lr=2e-3)
        self.maps: dict[str, list[Tensor]] = {}

    def zskt(self, steps: int) -> None:
        """A generator step up the divergence, then student steps on the same images, with attention."""
        images = self.generator(torch.randn(self.batch, self.noise))
        self._learn(self.of_generator, -_kl(self.student(images), self.teacher(images)))
        images = images.detach()
        for _ in range(steps):
            with torch.no_grad():
                label = self._watched("teacher", self.teacher, images)
            answer = self._watched("student", self.student, images)
            pairs = zip(self.maps["teacher"], self.maps["student"], strict=True)
            distance = sum(mse_loss(_attention(ours), _attention(theirs)) for theirs, ours in pairs)
            self._learn(self.of_student, _kl(answer, label) + 2500 * distance)

    def dfad(self, steps: int) -> None:
        """Student steps on fresh images, then a generator step up the distance of logits."""
        for _ in range(steps):
            images = self.generator(torch.randn(self.batch, self.noise)).detach()
            with torch.no_grad():
                label = self.teacher(images)
            self._learn(self.of_student, l1_loss(self.student(images), label))
        images = self.generator(torch.randn(self.batch, self.noise))
        self._learn(self.of_generator, -l1_loss(self.student(images), self.teacher(images)))

    def dafl(self) -> None:
        """The generator's step; the student's beside it is left out."""
        images = self.generator(torch.randn(self.batch, self.noise))
        seen: list[Tensor] = []
        hook = nets.final_linear(self.teacher).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        logits = self.teacher(images)
        hook.remove()
        belief = logits.softmax(1).mean(0)
        loss = cross_entropy(logits, logits.argmax(1)) - 0.1 * seen[0].abs().mean() + (belief * belief.log10()).sum()
        self._learn(self.of_generator, loss)

    def _learn(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def _watched(self, name: str, net: nn.Module, images: Tensor) -> Tensor:
        maps: list[Tensor] = []
        hooks = [
            net.get_submodule(block).register_forward_hook(lambda _module, _inputs, output: maps.append(output))
            for block in nets.feature_points(net)[:-1]
        ]
        logits = net(images)
        for hook in hooks:
            hook.remove()
        self.maps[name] = maps
        return logits


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    return kl_div(log_softmax(student, 1), teacher.softmax(1), reduction="batchmean")


def _attention(maps: Tensor) -> Tensor:
    return normalize(maps.pow(2).mean(1).flatten(1))


def interleaved(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best seconds of each step over `rounds`, the steps taking turns so that a slow spell hits all of them."""
    for step in steps.values():
        step()
    _wait()
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            _wait()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _wait() -> None:
    """Until a GPU, where there is one, has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_flops(dtype: torch.dtype, device: torch.device = _CPU, rounds: int = 5) -> float:
    """The most operations per second that a matrix product or a 3x3 convolution reaches here, with these threads.

    The larger of the two is taken: on some processors a convolution beats the library's matrix product, and a share
    of the smaller one could exceed 100 %.
    """
    side, batch = (8192, 1024) if device.type == "cuda" else (1024, 32)
    square = torch.randn(side, side, device=device, dtype=dtype)
    images = torch.randn(batch, 64, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device, dtype).to(memory_format=torch.channels_last)
    runs: dict[str, Callable[[], object]] = {"matmul": lambda: square @ square, "conv": lambda: conv(images)}
    with torch.no_grad():
        seconds = interleaved(runs, rounds)
        return max(2 * side**3 / seconds["matmul"], nets.flops(conv, images) / seconds["conv"])
