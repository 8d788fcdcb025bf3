from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.augment import Augment
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import TeacherError
from pipeline.core.rng import generator
from pipeline.methods import class_impressions, noise, zskd
from pipeline.synthesis.start import Start
from pipeline.teacher.model import Teacher, TeacherInfo

COMPUTE = Compute(device="cpu", precision="float32", channels_last=False, compile="never")
OFF = Augment(crop=0, flip=False, rotate=0, translate=0, scale=(1, 1), shear=0, cutout=0, fill="border")
START = Start(distribution="uniform", level=0.5, spread=0.5, resolution=99)


@pytest.fixture
def teacher() -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4))
    return Teacher(net, info(4))


def info(classes: int) -> TeacherInfo:
    return TeacherInfo(
        arch="none", classes=tuple("abcdefgh"[:classes]), channels=1, size=6, mean=(0.5,), std=(0.5,),
        batch_norm=False, sha256="", accuracy=None, source="random weights",
    )  # fmt: skip


def impressions(**changes: Any) -> zskd.Method:
    fields: dict[str, Any] = {
        "concentrations": (1.0, 0.1), "floor": 1e-4, "temperature": 5.0, "views": OFF, "start": START,
        "total_variation": 0.0, "steps": 40, "learning_rate": 0.05, "bound": "clamp", "batch": 100,
    }  # fmt: skip
    return zskd.Method(**{**fields, **changes})


def draw(method: Any, teacher: Teacher, tmp_path: Path, count: int = 80):
    source = method.fit(teacher, generator(0, "fit"), Checkpoint(tmp_path / "fit"), COMPUTE)
    return source.draw(count, generator(0, "t"), 0)


def test_zskd_targets_follow_each_beta_in_turn(teacher: Teacher, tmp_path: Path) -> None:
    """Small beta gives peaky targets: half of the images must be much peakier than the other half."""
    targets = draw(impressions(concentrations=(50.0, 0.05), steps=1), teacher, tmp_path, 800).targets
    peaks = np.sort(targets.max(1).values.numpy())
    assert peaks[:350].mean() < 0.75
    assert peaks[450:].mean() > 0.9


def test_zskd_moves_the_softened_prediction_towards_the_target(teacher: Teacher, tmp_path: Path) -> None:
    images, targets = draw(impressions(), teacher, tmp_path)
    start = START.draw((80, 1, 6, 6), generator(0, "start"))

    def distance(x: torch.Tensor) -> float:
        return -(targets * (teacher(x) / 5).log_softmax(1)).sum(1).mean().item()

    assert distance(images) < distance(start) - 0.05


def test_zskd_splits_its_work_without_changing_it(teacher: Teacher, tmp_path: Path) -> None:
    whole, split = (draw(impressions(batch=size), teacher, tmp_path) for size in (80, 16))
    torch.testing.assert_close(whole.images, split.images, atol=1e-4, rtol=0)


def test_the_total_variation_prior_smooths(teacher: Teacher, tmp_path: Path) -> None:
    rough, smooth = (draw(impressions(total_variation=weight), teacher, tmp_path).images for weight in (0.0, 0.01))
    assert np.abs(np.diff(smooth.numpy())).mean() < 0.8 * np.abs(np.diff(rough.numpy())).mean()


def test_zskd_needs_a_final_linear_layer(tmp_path: Path) -> None:
    headless = Teacher(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 6), torch.nn.Flatten()), info(4))
    with pytest.raises(TeacherError, match="linear"):
        draw(impressions(), headless, tmp_path)


def class_method(**changes: Any) -> class_impressions.Method:
    fields: dict[str, Any] = {
        "confidence": (0.55, 0.99), "views": OFF, "start": START, "steps": 400, "check_every": 1,
        "learning_rate": 0.01, "bound": "clamp", "batch": 100,
    }  # fmt: skip
    return class_impressions.Method(**{**fields, **changes})


def test_class_impressions_stop_at_confidences_over_the_whole_range(teacher: Teacher, tmp_path: Path) -> None:
    images, targets = draw(class_method(confidence=(0.4, 0.8)), teacher, tmp_path)
    confidence = (teacher(images).softmax(1) * targets).sum(1)
    assert confidence.min() >= 0.4
    assert confidence.std() > 0.05
    wanted = torch.bincount(targets.argmax(1), minlength=4)
    assert wanted.tolist() == [20, 20, 20, 20]


def test_class_impressions_that_never_get_there_are_the_last_step(teacher: Teacher, tmp_path: Path) -> None:
    unreachable, unwatched = (
        draw(class_method(confidence=(0.9999, 0.99999), steps=5, check_every=every), teacher, tmp_path)
        for every in (1, 100)
    )
    assert torch.equal(unreachable.images, unwatched.images)


def test_kept_impressions_are_copies_that_later_steps_do_not_change(teacher: Teacher, tmp_path: Path) -> None:
    """An alias of the live pixels would let every image run on to the last step's confidence."""
    images, targets = draw(class_method(confidence=(0.4, 0.41), steps=300), teacher, tmp_path)
    confidence = (teacher(images).softmax(1) * targets).sum(1)
    starts = (teacher(START.draw((80, 1, 6, 6), generator(0, "x"))).softmax(1)).max(1).values
    assert confidence.median() < max(0.6, starts.median().item() + 0.1)


def test_normal_noise_is_standard_in_the_teachers_space(teacher: Teacher, tmp_path: Path) -> None:
    images = draw(noise.Method(distribution="normal"), teacher, tmp_path, 2000).images
    inside = (images > 0) & (images < 1)
    expected = 0.6827  # mean +- one std is exactly [0, 1] here
    assert inside.float().mean().item() == pytest.approx(expected, abs=0.01)


def test_uniform_noise_is_uniform_and_filed_under_the_teachers_answer(teacher: Teacher, tmp_path: Path) -> None:
    images, targets = draw(noise.Method(distribution="uniform"), teacher, tmp_path, 2000)
    histogram = torch.histc(images, 10, 0, 1) / images.numel()
    torch.testing.assert_close(histogram, torch.full((10,), 0.1), atol=0.005, rtol=0)
    assert torch.equal(teacher(images).argmax(1), targets.argmax(1))
