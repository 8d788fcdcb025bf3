from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor, nn
from torch._dynamo.utils import counters

from pipeline.classifier import Teacher
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.methods import Batch, deepinversion
from pipeline.methods.deepinversion import Phase
from pipeline.optimise.augment import Augment
from pipeline.optimise.pixels import Init
from tests.support import CPU, a_run, drawn, frozen

INIT = Init(distribution="uniform", mean=0.5, std=12**-0.5, resolution=99)
MEAN, STD = 0.4, 0.3


@pytest.fixture
def teacher() -> Teacher:
    """An untrained network whose statistics are those of smooth images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6, momentum=1), nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
        )  # fmt: skip
        net(nn.functional.interpolate(torch.randn(64, 1, 4, 4), 8, mode="bilinear"))
    return a_teacher(net)


def a_teacher(net: nn.Module) -> Teacher:
    return frozen(net, arch="lenet5", classes=4, mean=(MEAN,), std=(STD,))


def inversion(steps: int = 10, **changes: Any) -> deepinversion.Method:
    fields: dict[str, Any] = {
        "group": 8, "groups": 1, "bn": 1.0, "first_layer": 1.0, "total_variation": 1e-3, "l2": 1e-3,
        "augment": None, "init": INIT, "phases": (Phase(pool=1, steps=steps, jitter=0),), "learning_rate": 0.02,
        "betas": (0.9, 0.999), "schedule": "constant", "warmup": 0, "bound": "clamp", "keep": "last",
        "labels": "balanced",
    }  # fmt: skip
    return deepinversion.Method(**{**fields, **changes})


def draw(method: Any, teacher: Teacher, count: int, compute: Compute = CPU, number: int = 0) -> Batch:
    return drawn(method.fit(a_run(teacher, compute=compute)), count, number)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The losses of every step of every draw, as the loop got them, and what they are losses of."""
    seen: list[Tensor] = []
    real = deepinversion.descend

    def listening(images: Tensor, objective: Callable[[Tensor], Tensor], **settings: Any) -> Tensor:
        def heard(pixels: Tensor) -> Tensor:
            found = objective(pixels)
            seen.append(found.detach().clone())
            return found

        return real(images, heard, **settings)

    monkeypatch.setattr(deepinversion, "descend", listening)
    return seen


def statistics_in_numpy(net: nn.Module, x: Tensor, first: float) -> float:
    """R of one group of normalised images, float64."""
    total = 0.0
    for place, factor in ((1, first), (4, 1.0)):
        layer: Any = net[place]  # type: ignore[index]
        maps = net[:place](x).double().numpy()  # type: ignore[index]
        mean, var = (value.double().numpy() for value in (layer.running_mean, layer.running_var))
        total += factor * np.linalg.norm(maps.mean((0, 2, 3)) - mean)
        total += factor * np.linalg.norm(maps.var((0, 2, 3)) - var)
    return total


def test_the_loss_against_numpy(teacher: Teacher, losses: list[Tensor]) -> None:
    settings = {"bn": 0.7, "first_layer": 10.0, "total_variation": 0.02, "l2": 0.05, "groups": 2}
    batch = draw(inversion(steps=1, learning_rate=1e-9, **settings), teacher, 16)  # the images are the start
    labels = batch.targets.argmax(1).numpy()
    x = (batch.images - MEAN) / STD
    ce = -log_softmax(teacher.net(x).double().numpy(), 1)[np.arange(16), labels]
    pixels = x.double().numpy()
    l2 = np.linalg.norm(pixels.reshape(16, -1), axis=1)
    for group, found in zip((slice(0, 8), slice(8, 16)), losses[0], strict=True):
        p = pixels[group]
        neighbours = (
            (p[..., 1:], p[..., :-1]), (p[..., 1:, :], p[..., :-1, :]),
            (p[..., 1:, 1:], p[..., :-1, :-1]), (p[..., 1:, :-1], p[..., :-1, 1:]),
        )  # fmt: skip
        expected = ce[group].mean() + 0.05 * l2[group].mean() + 0.7 * statistics_in_numpy(teacher.net, x[group], 10)
        expected += 0.02 * sum(np.sqrt(((a - b) ** 2).sum()) for a, b in neighbours)
        assert found.item() == pytest.approx(expected, rel=1e-4)


def test_images_get_their_class_and_look_more_like_the_data_of_the_statistics(teacher: Teacher) -> None:
    images, targets = draw(inversion(steps=100, group=16), teacher, 16)
    start, _ = draw(inversion(steps=1, learning_rate=1e-9), teacher, 16)

    def measured(x: Tensor) -> tuple[float, float]:
        right = (teacher(x).argmax(1) == targets.argmax(1)).float().mean().item()
        return right, statistics_in_numpy(teacher.net, (x - MEAN) / STD, 1)

    (sure, near), (unsure, far) = measured(images), measured(start)
    assert unsure < 0.5
    assert sure > 0.9
    assert near < far / 2


@pytest.mark.parametrize("count", [24, 22])
def test_groups_side_by_side_are_the_groups_one_by_one(teacher: Teacher, count: int) -> None:
    one, three = (draw(inversion(groups=groups), teacher, count) for groups in (1, 3))
    assert torch.equal(one.targets, three.targets)
    torch.testing.assert_close(one.images, three.images, atol=1e-4, rtol=0)


def test_the_group_is_part_of_the_method(teacher: Teacher) -> None:
    small, large = (draw(inversion(group=group), teacher, 24).images for group in (8, 24))
    assert (small - large).abs().max() > 0.01


@pytest.mark.parametrize(("group", "each"), [(8, {2}), (3, {0, 1}), (6, {1, 2})])
def test_every_group_holds_the_classes_as_equally_as_it_can(teacher: Teacher, group: int, each: set[int]) -> None:
    targets = draw(inversion(steps=1, group=group), teacher, 24).targets
    counts = targets.unflatten(0, (-1, group)).sum(1)
    assert set(counts.flatten().tolist()) == each
    assert targets.sum(0).tolist() == [6, 6, 6, 6]


def test_small_groups_do_not_always_hold_the_same_classes(teacher: Teacher) -> None:
    source: Any = inversion(steps=1, group=2).fit(a_run(teacher))
    first = {frozenset(drawn(source, 4, i).targets.argmax(1)[:2].tolist()) for i in range(40)}
    assert len(first) == 6  # every pair of the four classes


def test_a_phase_with_a_pool_shows_the_teacher_averages(teacher: Teacher) -> None:
    phases = (Phase(pool=2, steps=3, jitter=0), Phase(pool=1, steps=2, jitter=0))
    source: Any = inversion(phases=phases).fit(a_run(teacher))
    seen: list[Tensor] = []
    handle = teacher.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    drawn(source, 8)
    handle.remove()
    assert [x.shape[-1] for x in seen] == [4, 4, 4, 8, 8]
    start, _ = draw(inversion(steps=1, learning_rate=1e-9), teacher, 8)
    averages = start.numpy().reshape(8, 1, 4, 2, 4, 2).mean((3, 5))
    np.testing.assert_allclose(seen[0].numpy(), (averages - MEAN) / STD, atol=1e-5)


def test_each_phase_goes_on_from_the_one_before(teacher: Teacher) -> None:
    def run(*phases: Phase) -> Tensor:
        return draw(inversion(phases=phases, learning_rate=0.05), teacher, 8).images

    coarse, fine = Phase(pool=2, steps=40, jitter=1), Phase(pool=1, steps=1, jitter=0)
    start, _ = draw(inversion(steps=1, learning_rate=1e-9), teacher, 8)
    both, before = run(coarse, fine), run(coarse)
    assert (both - before).abs().max() <= 0.0501  # one step of Adam
    assert (both - start).abs().max() > 0.2


def test_jitter_and_augmentation_change_what_is_made(teacher: Teacher) -> None:
    plain = draw(inversion(), teacher, 8).images
    rolled = draw(inversion(phases=(Phase(pool=1, steps=10, jitter=2),)), teacher, 8).images
    flipped = draw(inversion(augment=Augment(flip=True)), teacher, 8).images
    assert (plain - rolled).abs().max() > 0.01
    assert (plain - flipped).abs().max() > 0.01


def test_a_teacher_without_batch_norm_is_told_of_methods_that_need_none() -> None:
    plain = a_teacher(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
    with pytest.raises(TeacherError, match=r"no BatchNorm.*class_impressions.*noise.*zskd") as caught:
        draw(inversion(), plain, 8)
    assert "deepinversion" not in str(caught.value)


def test_bfloat16_losses_are_near_those_of_float32(teacher: Teacher, losses: list[Tensor]) -> None:
    for precision in ("float32", "bfloat16"):
        draw(inversion(steps=5), teacher, 8, CPU.model_copy(update={"precision": precision}))
    full, half = torch.cat(losses[:5]), torch.cat(losses[5:])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.005, atol=0)  # measured: 0.0008 at most


def test_compiled_losses_are_the_eager_ones_and_one_compilation_serves_every_draw(
    teacher: Teacher, losses: list[Tensor]
) -> None:
    torch.compiler.reset()
    counters.clear()
    method = inversion(groups=2, phases=(Phase(pool=1, steps=3, jitter=1),))
    always = CPU.model_copy(update={"compile": "always", "channels_last": True})
    source: Any = method.fit(a_run(teacher, compute=always))
    drawn(source, 16)
    with torch.compiler.set_stance("fail_on_recompile"):
        drawn(source, 32, 1)
    assert counters["stats"]["unique_graphs"] == 1
    fast = torch.stack(losses)
    losses.clear()
    source = method.fit(a_run(teacher))
    drawn(source, 16)
    drawn(source, 32, 1)
    torch.testing.assert_close(fast, torch.stack(losses), rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_groups_of_two_sizes_and_the_best_images_compile_as_they_are(
    teacher: Teacher, losses: list[Tensor], precision
) -> None:
    torch.compiler.reset()
    method = inversion(steps=3, groups=2, keep="best")
    for how in ("always", "never"):
        draw(method, teacher, 22, CPU.model_copy(update={"compile": how, "precision": precision}))
    half = len(losses) // 2
    fast, plain = torch.cat(losses[:half]), torch.cat(losses[half:])
    torch.testing.assert_close(fast, plain, rtol=1e-5 if precision == "float32" else 0.005, atol=0)


def test_random_labels_are_drawn_one_by_one(teacher: Teacher) -> None:
    targets = draw(inversion(steps=1, labels="random", group=40), teacher, 400).targets
    counts = targets.sum(0)
    assert counts.sum() == 400
    assert len(set(counts.tolist())) > 1
    assert ((counts - 100).abs() < 50).all()  # five and a half standard deviations


@pytest.mark.parametrize("pool", [3, 16])
def test_a_pool_that_does_not_divide_the_image_is_refused(teacher: Teacher, pool: int) -> None:
    """The last pixels would never be seen; more than the image is none at all."""
    method = inversion(phases=(Phase(pool=1, steps=2, jitter=0), Phase(pool=pool, steps=2, jitter=0)))
    line = f"methods.deepinversion.phases.1.pool: {pool}: expected a divisor of the image's 8 pixels"
    assert method.check(1, 8, 4) == [line]
    assert method.check(1, 48, 4) == []
    with pytest.raises(ParamsError, match=line):
        method.fit(a_run(teacher))


def test_a_pool_that_leaves_too_little_for_the_teacher_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    with pytest.raises(ParamsError, match=r"phases.0.pool: 2: leaves images of 4 pixels, too small for Sequential"):
        inversion(phases=(Phase(pool=2, steps=2, jitter=0),)).fit(a_run(a_teacher(net)))
