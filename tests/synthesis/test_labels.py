import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.core.rng import generator
from pipeline.synthesis.labels import balanced, class_similarity, concentrations, dirichlet_targets


def test_balanced_gives_each_group_its_share_and_spreads_the_rest_over_distinct_groups() -> None:
    counts = torch.bincount(balanced(47, 10, generator(0, "test")), minlength=10)
    assert counts.sum() == 47
    assert set(counts.tolist()) == {4, 5}


def test_class_similarity_is_the_cosine_between_rows() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 7))
    expected = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in weight] for a in weight]
    np.testing.assert_allclose(class_similarity(torch.from_numpy(weight)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("beta", [1.0, 0.1, 7.0])
def test_every_beta_scales_the_concentrations(beta: float) -> None:
    similarity = class_similarity(torch.randn(5, 9, generator=torch.Generator().manual_seed(1)))
    rows = similarity.numpy()
    minmax = (rows - rows.min(1, keepdims=True)) / (rows.max(1, keepdims=True) - rows.min(1, keepdims=True))
    found = concentrations(similarity, beta, 1e-4).numpy()
    np.testing.assert_allclose(found, beta * minmax + 1e-4, rtol=1e-12)
    assert found.min() == pytest.approx(1e-4)
    np.testing.assert_allclose(np.diag(found), beta + 1e-4)  # a class is most similar to itself


def test_rows_of_the_concentrations_do_not_mix() -> None:
    similarity = torch.tensor([[1.0, 0.0, 0.5], [0.8, 1.0, 0.6], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    expected = [[1, 0, 0.5], [0.5, 1, 0], [0, 0.5, 1]]
    np.testing.assert_allclose(concentrations(similarity, 1.0, 0.0).numpy(), expected, atol=1e-12)


def test_dirichlet_targets_have_the_mean_and_variance_of_the_dirichlet() -> None:
    alpha = torch.tensor([0.05, 0.4, 1.5], dtype=torch.float64)
    draws = dirichlet_targets(alpha.expand(20_000, 3), generator(0, "test")).double().numpy()
    expected = stats.dirichlet(alpha.numpy())
    sigma = np.sqrt(expected.var() / len(draws))
    assert (np.abs(draws.mean(0) - expected.mean()) < 6 * sigma).all()
    np.testing.assert_allclose(draws.var(0), expected.var(), rtol=0.1)


def test_tiny_concentrations_still_give_distributions() -> None:
    draws = dirichlet_targets(torch.full((500, 10), 1e-4, dtype=torch.float64), generator(0, "test"))
    assert torch.isfinite(draws).all()
    torch.testing.assert_close(draws.sum(1), torch.ones(500))


def test_targets_depend_on_the_generator_alone() -> None:
    alphas = torch.ones(6, 3, dtype=torch.float64)
    first, again, other = (dirichlet_targets(alphas, generator(0, "t", index)) for index in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
