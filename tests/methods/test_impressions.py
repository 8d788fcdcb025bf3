from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.classifier import Teacher
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.methods import class_impressions, noise, zskd
from pipeline.methods.zskd import class_similarity, dirichlet_alphas, dirichlet_targets
from pipeline.optimise.pixels import Init
from tests.support import a_run, drawn, frozen

INIT = Init(distribution="uniform", mean=0.5, std=12**-0.5, resolution=99)


@pytest.fixture
def teacher() -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4))
    return frozen(net, classes=4, size=6, mean=(0.5,), std=(0.5,))


def impressions(**changes: Any) -> zskd.Method:
    fields: dict[str, Any] = {
        "beta": (1.0, 0.1), "floor": 1e-4, "temperature": 5.0, "augment": None, "init": INIT,
        "total_variation": 0.0, "steps": 40, "learning_rate": 0.05, "bound": "clamp", "batch": 100,
    }  # fmt: skip
    return zskd.Method(**{**fields, **changes})


def draw(method: Any, teacher: Teacher, count: int = 80):
    return drawn(method.fit(a_run(teacher)), count)


def test_zskd_targets_follow_each_beta_in_turn(teacher: Teacher) -> None:
    """Small beta gives peaky targets: half of the images must be much peakier than the other half."""
    targets = draw(impressions(beta=(50.0, 0.05), steps=1), teacher, 800).targets
    peaks = np.sort(targets.max(1).values.numpy())
    assert peaks[:350].mean() < 0.75
    assert peaks[450:].mean() > 0.9


def test_zskd_moves_the_softened_prediction_towards_the_target(teacher: Teacher) -> None:
    images, targets = draw(impressions(), teacher)
    start = INIT.draw((80, 1, 6, 6), stream(0, "start"))

    def distance(x: torch.Tensor) -> float:
        return -(targets * (teacher(x) / 5).log_softmax(1)).sum(1).mean().item()

    assert distance(images) < distance(start) - 0.05


def test_zskd_splits_its_work_without_changing_it(teacher: Teacher) -> None:
    whole, split = (draw(impressions(batch=size), teacher) for size in (80, 16))
    torch.testing.assert_close(whole.images, split.images, atol=1e-4, rtol=0)


def test_the_total_variation_prior_smooths(teacher: Teacher) -> None:
    rough, smooth = (draw(impressions(total_variation=weight), teacher).images for weight in (0.0, 0.01))
    assert np.abs(np.diff(smooth.numpy())).mean() < 0.8 * np.abs(np.diff(rough.numpy())).mean()


def test_zskd_needs_a_final_linear_layer() -> None:
    headless = frozen(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 6), torch.nn.Flatten()), classes=4, size=6)
    with pytest.raises(TeacherError, match="linear"):
        draw(impressions(), headless)


def class_method(**changes: Any) -> class_impressions.Method:
    fields: dict[str, Any] = {
        "confidence": (0.55, 0.99), "augment": None, "init": INIT, "steps": 400, "check_every": 1,
        "learning_rate": 0.01, "bound": "clamp", "batch": 100,
    }  # fmt: skip
    return class_impressions.Method(**{**fields, **changes})


def test_class_impressions_stop_at_confidences_over_the_whole_range(teacher: Teacher) -> None:
    images, targets = draw(class_method(confidence=(0.4, 0.8)), teacher)
    confidence = (teacher(images).softmax(1) * targets).sum(1)
    assert confidence.min() >= 0.4
    assert confidence.std() > 0.05
    wanted = torch.bincount(targets.argmax(1), minlength=4)
    assert wanted.tolist() == [20, 20, 20, 20]


def test_class_impressions_that_never_get_there_are_the_last_step(teacher: Teacher) -> None:
    unreachable, unwatched = (
        draw(class_method(confidence=(0.9999, 0.99999), steps=5, check_every=every), teacher) for every in (1, 100)
    )
    assert torch.equal(unreachable.images, unwatched.images)


def test_kept_impressions_are_copies_that_later_steps_do_not_change(teacher: Teacher) -> None:
    """An alias of the live pixels would let every image run on to the last step's confidence."""
    images, targets = draw(class_method(confidence=(0.4, 0.41), steps=300), teacher)
    confidence = (teacher(images).softmax(1) * targets).sum(1)
    starts = (teacher(INIT.draw((80, 1, 6, 6), stream(0, "x"))).softmax(1)).max(1).values
    assert confidence.median() < max(0.6, starts.median().item() + 0.1)


def test_normal_noise_is_standard_in_the_teachers_space(teacher: Teacher) -> None:
    images = draw(noise.Method(distribution="normal"), teacher, 2000).images
    inside = (images > 0) & (images < 1)
    expected = 0.6827  # mean +- one std is exactly [0, 1] here
    assert inside.float().mean().item() == pytest.approx(expected, abs=0.01)


def test_uniform_noise_is_uniform_and_steered_nowhere(teacher: Teacher) -> None:
    images, targets = draw(noise.Method(distribution="uniform"), teacher, 2000)
    histogram = torch.histc(images, 10, 0, 1) / images.numel()
    torch.testing.assert_close(histogram, torch.full((10,), 0.1), atol=0.005, rtol=0)
    assert targets is None


@pytest.mark.parametrize("bound", ["free", "rescale", "clamp"])
def test_confidence_is_that_of_the_image_as_it_is_stored(teacher: Teacher, bound: str) -> None:
    """Free pixels that roamed beyond [0, 1] were kept as they were, and refused by the writer."""
    method = class_method(confidence=(0.4, 0.9), bound=bound, learning_rate=0.3, check_every=3, steps=60)
    images, targets = draw(method, teacher)
    assert images.min() >= 0
    assert images.max() <= 1
    confidence = (teacher(images.mul(255).round() / 255).softmax(1) * targets).sum(1)
    assert confidence.min() >= 0.4


@pytest.mark.parametrize(
    ("confidence", "reason"),
    [
        ([1.5, 2.0], "confidence.0: 1.5: input should be less than 1"),
        ([0.5, 1], "confidence.1: 1: input should be less than 1"),
        ([0.0, 0.5], "confidence.0: 0.0: input should be greater than 0"),
        ([0.9, 0.5], r"confidence: \[0.9, 0.5\]: .*expected the lower confidence first"),
    ],
)
def test_impossible_confidences_are_refused(confidence: list[float], reason: str) -> None:
    block = {**class_method().model_dump(mode="json"), "confidence": confidence}
    with pytest.raises(ParamsError, match=rf"methods.class_impressions.{reason}"):
        build(class_impressions.Method, block, "methods.class_impressions")


# ZSKD's label distributions.


def test_class_similarity_is_the_cosine_between_rows() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 7))
    expected = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in weight] for a in weight]
    np.testing.assert_allclose(class_similarity(torch.from_numpy(weight)).numpy(), expected, rtol=1e-12)


def test_a_row_of_zeros_is_similar_to_nothing() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-4.0, 3.0]])
    np.testing.assert_allclose(class_similarity(weight), np.diag([1.0, 0.0, 1.0]), atol=1e-12)
    assert torch.equal(
        dirichlet_alphas(class_similarity(weight), 1.0, 0.1)[1], torch.full((3,), 0.1, dtype=torch.float64)
    )


@pytest.mark.parametrize("beta", [1.0, 0.1, 7.0])
def test_every_beta_scales_the_concentrations(beta: float) -> None:
    similarity = class_similarity(torch.randn(5, 9, generator=torch.Generator().manual_seed(1)))
    rows = similarity.numpy()
    minmax = (rows - rows.min(1, keepdims=True)) / (rows.max(1, keepdims=True) - rows.min(1, keepdims=True))
    found = dirichlet_alphas(similarity, beta, 1e-4).numpy()
    np.testing.assert_allclose(found, beta * minmax + 1e-4, rtol=1e-12)
    assert found.min() == pytest.approx(1e-4)
    np.testing.assert_allclose(np.diag(found), beta + 1e-4)  # a class is most similar to itself


def test_rows_of_dirichlet_parameters_do_not_mix() -> None:
    similarity = torch.tensor([[1.0, 0.0, 0.5], [0.8, 1.0, 0.6], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    expected = [[1, 0, 0.5], [0.5, 1, 0], [0, 0.5, 1]]
    np.testing.assert_allclose(dirichlet_alphas(similarity, 1.0, 0.0).numpy(), expected, atol=1e-12)


def test_dirichlet_targets_have_the_mean_and_variance_of_the_dirichlet() -> None:
    alpha = torch.tensor([0.05, 0.4, 1.5], dtype=torch.float64)
    draws = dirichlet_targets(alpha.expand(20_000, 3), stream(0, "test")).double().numpy()
    expected = stats.dirichlet(alpha.numpy())
    sigma = np.sqrt(expected.var() / len(draws))
    assert (np.abs(draws.mean(0) - expected.mean()) < 6 * sigma).all()
    np.testing.assert_allclose(draws.var(0), expected.var(), rtol=0.1)


def test_tiny_dirichlet_parameters_still_give_distributions() -> None:
    draws = dirichlet_targets(torch.full((500, 10), 1e-4, dtype=torch.float64), stream(0, "test"))
    assert torch.isfinite(draws).all()
    torch.testing.assert_close(draws.sum(1), torch.ones(500))


def test_targets_depend_on_the_generator_alone() -> None:
    alphas = torch.ones(6, 3, dtype=torch.float64)
    first, again, other = (dirichlet_targets(alphas, stream(0, "t", index)) for index in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
