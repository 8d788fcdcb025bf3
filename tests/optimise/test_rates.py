import pytest
import torch

from pipeline.optimise.learner import cosine, warming


def test_the_warm_up_rises_linearly_to_one_and_ends() -> None:
    assert [warming(step, 4) for step in range(5)] == [0.25, 0.5, 0.75, None, None]
    assert warming(0, 0) is None
    assert warming(0, 1) is None


def test_cosine_is_pytorchs() -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=10)
    for step in range(11):
        assert cosine(step, 10) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


def test_cosine_starts_when_the_warm_up_ends() -> None:
    assert cosine(2, 12, warmup=4) == 1  # not there yet
    assert cosine(4, 12, warmup=4) == 1
    assert cosine(8, 12, warmup=4) == pytest.approx(0.5)
    assert cosine(12, 12, warmup=4) == pytest.approx(0)


def test_a_warm_up_as_long_as_the_run_divides_by_nothing() -> None:
    assert cosine(3, 4, warmup=4) == 1
