import pytest
import torch
from torch import nn

from pipeline.optimise.network import frozen, mode, seeded


def test_each_module_finds_its_own_mode_again_also_after_an_error():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2))
    net[0].eval()
    before = [module.training for module in net.modules()]
    with mode(net, training=False):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == before
    with pytest.raises(ZeroDivisionError), mode(net, training=False):
        _ = 1 // 0
    assert [module.training for module in net.modules()] == before


def test_a_frozen_net_evaluates_without_gradients_and_finds_its_own_state_again_also_after_an_error():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2))
    net[0].eval()
    net[2].bias.requires_grad_(False)

    def state() -> list[bool]:
        return [*(module.training for module in net.modules()), *(value.requires_grad for value in net.parameters())]

    before = state()
    assert True in before
    with frozen(net), frozen(net):
        assert not any(state())
    assert state() == before
    with pytest.raises(ZeroDivisionError), frozen(net):
        _ = 1 // 0
    assert state() == before


def test_global_generators_are_lent_a_seed_and_get_their_state_back():
    state = torch.get_rng_state()
    drawn = []
    for seed, index in ((1, 0), (1, 0), (1, 1), (2, 0)):
        with seeded(seed, "test", index):
            drawn.append(torch.rand(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])
