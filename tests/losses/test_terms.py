"""Terms between the blocks of two networks."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import nets
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.core.params import build
from pipeline.core.rng import stream
from pipeline.losses import TERMS, Logits, Loss, Seen, Terms
from pipeline.losses.activation_boundary import activation_boundary
from pipeline.losses.attention import attention as distance
from pipeline.losses.features import resized

SHAPE = (3, 16, 16)


def attention(blocks: object = "auto", weight: float = 2.0) -> dict[str, object]:
    return {"attention": {"weight": weight, "blocks": blocks}}


def boundary(blocks: object = "auto", weight: float = 3.0, margin: float = 0.7) -> dict[str, object]:
    return {"activation_boundary": {"weight": weight, "margin": margin, "blocks": blocks}}


def net(arch: str, seed: int = 0) -> nn.Module:
    return nets.build(arch, 5, *SHAPE[::2], rng=stream(seed, "test"))


def images(seed: int = 0, count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=stream(seed, "test/images"))


@pytest.fixture
def student() -> nn.Module:
    return net("resnet8", 1)


@pytest.fixture
def teacher() -> nn.Module:
    return net("wrn_16_1", 2).eval().requires_grad_(requires_grad=False)


def make(student: nn.Module, teacher: nn.Module, *terms: dict[str, object], seed: int = 0) -> Loss:
    on_logits = build(Logits, {"l1": {}}, "loss")
    given = build(Terms, {name: block for term in terms for name, block in term.items()}, "terms")
    return Loss(on_logits, given, student, teacher, SHAPE, stream(seed, "test/connectors"))


def nothing(_: Tensor) -> Tensor:
    raise AssertionError("no term here asks about other images")


def seen(student: Tensor | None = None, target: Tensor | None = None) -> Seen:
    logits = torch.zeros(4, 5)
    return Seen(
        images(), logits if student is None else student, logits if target is None else target, nothing, None,
        lambda: stream(0, "test"),
    )  # fmt: skip


def beside(loss: Loss, *, reach_teacher: bool = False) -> Tensor:
    return torch.stack(tuple(loss.beside(seen(), reach_teacher=reach_teacher).values())).sum()


def outputs(module: nn.Module, names: list[str], x: Tensor) -> list[Tensor]:
    """What blocks put out, seen without the code under test."""
    found: dict[str, Tensor] = {}
    handles = [
        module.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
        for name in names
    ]
    module(x)
    for handle in handles:
        handle.remove()
    return [found[name] for name in names]


def hooks(*modules: nn.Module) -> int:
    return sum(len(part._forward_hooks) for module in modules for part in module.modules())


def test_both_terms_are_the_weighted_sums_over_their_pairs(student, teacher):
    student.eval()
    pairs = [["block1", "layer1"], ["block3", "layer2"]]
    terms = make(student, teacher, attention(pairs), boundary(pairs)).eval()
    connectors = terms.terms["activation_boundary"].connectors
    x = images()
    ours, theirs = outputs(student, ["layer1", "layer2"], x), outputs(teacher, ["block1", "block3"], x)
    with terms.hooks():
        answer, wanted = student(x), teacher(x)
        found = terms(seen(answer, wanted))
    attended = 2.0 * sum(distance(s, t).item() for s, t in zip(ours, theirs, strict=True))
    assert found["attention"].item() == pytest.approx(attended, rel=1e-5)
    hinges = [
        activation_boundary(resized(connector(s), *t.shape[-2:]), t, 0.7).item()
        for connector, s, t in zip(connectors, ours, theirs, strict=True)
    ]
    assert found["activation_boundary"].item() == pytest.approx(3.0 * hinges[1] + 1.5 * hinges[0], rel=1e-5)
    assert found["l1"].item() == pytest.approx((answer - wanted).abs().mean().item(), rel=1e-6)
    assert next(iter(found)) == "loss"
    assert found["loss"].item() == pytest.approx(sum(v.item() for n, v in found.items() if n != "loss"), rel=1e-6)


def test_auto_pairs_blocks_from_the_last_back(student):
    teacher = net("lenet5", 2).eval()
    theirs, ours = nets.feature_points(teacher)[:-1], nets.feature_points(student)[:-1]
    assert len(theirs) != len(ours), "else the test shows nothing"
    by_hand = [[theirs[-count], ours[-count]] for count in range(min(len(theirs), len(ours)), 0, -1)]
    x, values = images(), []
    for blocks in ("auto", by_hand):
        terms = make(student.eval(), teacher, attention(blocks), boundary(blocks)).eval()
        with terms.hooks():
            student(x)
            teacher(x)
            values.append(beside(terms))
    assert torch.equal(values[0], values[1])


def test_gradients_reach_student_and_connectors_and_never_the_teacher(student):
    teacher = net("wrn_16_1", 2)  # its parameters would take a gradient
    terms = make(student, teacher, attention(), boundary())
    with terms.hooks():
        student(images())
        teacher(images())
        beside(terms).backward()
    before_head = [weight for name, weight in student.named_parameters() if not name.startswith("linear")]
    assert all(weight.grad is not None and float(weight.grad.abs().sum()) > 0 for weight in before_head[:3])
    assert all(weight.grad is not None for weight in terms.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())
    own = {id(weight) for weight in terms.parameters()}
    assert not own & {id(weight) for part in (student, teacher) for weight in part.parameters()}


def test_a_gradient_may_be_let_through_the_teacher_to_its_images(student, teacher):
    found = []
    terms = make(student, teacher, attention())
    for reach in (False, True):
        x = images().requires_grad_()
        with terms.hooks():
            student(x.detach())
            teacher(x)
            beside(terms, reach_teacher=reach).backward()
        found.append(x.grad)
    assert found[0] is None
    assert float(found[1].abs().sum()) > 0


@pytest.mark.parametrize("failing", [False, True])
def test_hooks_are_gone_and_nothing_is_kept_however_the_block_ends(student, teacher, failing):
    terms = make(student, teacher, attention(), boundary())
    assert hooks(student, teacher) == 0, "not even after the look at the shapes"

    def watched() -> None:
        with terms.hooks():
            assert hooks(student, teacher) > 0
            student(images())
            teacher(images())
            if failing:
                raise ZeroDivisionError

    if failing:
        with pytest.raises(ZeroDivisionError):
            watched()
    else:
        watched()
    assert hooks(student, teacher) == 0
    with pytest.raises(KeyError):
        beside(terms)


def test_the_last_pass_of_each_network_counts(student, teacher):
    student.eval()
    terms = make(student, teacher, attention())
    with terms.hooks():
        for seed in (1, 0):
            student(images(seed))
            teacher(images(seed))
        last = beside(terms)
    with terms.hooks():
        teacher(images(0))
        student(images(0))
        assert torch.equal(beside(terms), last)


def test_connectors_are_drawn_from_the_generator_only(student, teacher):
    state = torch.get_rng_state()
    weights = []
    for seed, outer in ((0, 1), (0, 2), (1, 1)):
        with torch.random.fork_rng():
            torch.manual_seed(outer)
            inner = torch.get_rng_state()
            terms = make(student, teacher, boundary(), seed=seed)
            assert torch.equal(torch.get_rng_state(), inner)
        weights.append(torch.cat([weight.flatten() for weight in terms.parameters()]))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_connector_keeps_the_spread_of_what_comes_in(student):
    terms = make(student, net("vgg11_bn"), boundary())
    for connector in terms.terms["activation_boundary"].connectors:
        conv = connector[0]
        deviation = float(conv.weight.detach().std())
        assert deviation == pytest.approx(1 / np.sqrt(conv.in_channels), rel=0.15)


def test_the_networks_are_left_as_they_were(student, teacher):
    student.train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    make(student, teacher, attention(), boundary())
    assert all(module.training for module in student.modules())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_without_a_term_the_loss_is_that_on_logits_and_there_is_nothing_to_learn_or_to_watch(student, teacher):
    loss = make(student, teacher)
    answer, wanted = torch.randn(4, 5), torch.randn(4, 5)
    with loss.hooks():
        assert hooks(student, teacher) == 0
        found = loss(seen(answer, wanted))
    assert list(found) == ["loss"]
    assert found["loss"].item() == pytest.approx((answer - wanted).abs().mean().item())
    assert list(loss.parameters()) == []


@pytest.mark.parametrize("name", TERMS)
def test_every_term_is_a_finite_scalar_that_scales_with_its_weight_and_reaches_the_student(student, teacher, name):
    """Every file with a `Term` is covered on arrival; its fields are guessed from their types."""
    guesses = {"blocks": "auto", "labels": "interpolated"}
    fields = [field for field in TERMS[name].model_fields if field != "weight"]
    values = []
    for weight in (1.0, 2.0):
        block = {"weight": weight, **{field: guesses.get(field, 1.0) for field in fields}}
        loss = make(student.eval(), teacher, {name: block})
        with loss.hooks():
            x = images()
            what = Seen(x, student(x), teacher(x), student, teacher, lambda: stream(0, "test"))
            found = loss(what)
            student.zero_grad()
            found[name].backward()
        assert found[name].shape == ()
        assert bool(torch.isfinite(found[name]))
        assert sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None) > 0
        values.append(found[name].item())
    assert values[1] == pytest.approx(2 * values[0], rel=1e-4)
    with pytest.raises(ParamsError, match=rf"terms\.{name}\.weight"):
        make(student, teacher, {name: {**block, "weight": 0}})


def test_terms_that_do_not_exist_are_named():
    with pytest.raises(ParamsError, match=r"terms\.sharpness: .*unknown key"):
        build(Terms, {"sharpness": {"weight": 1.0}}, "terms")


class Foreign(nn.Module):
    """Blocks that put out vectors, sequences and pairs, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.tokens, self.vector, self.idle = nn.Flatten(2), nn.Linear(64, 6), nn.Linear(6, 6)
        self.both = _Both()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(self.conv(x))
        return self.head(self.both(self.vector(tokens.flatten(1)))[0])


class _Both(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize("block", ["vector", "tokens"])
def test_blocks_without_maps_can_match_boundaries_each_number_being_a_neuron(teacher, block):
    foreign = Foreign()
    terms = make(foreign, teacher, boundary([["block3", block]]))
    with terms.hooks():
        foreign(images())
        teacher(images())
        loss = beside(terms)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert float(foreign.conv.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("vector", r"blocks: 'vector' puts out \[1, 6\], attention needs feature maps .*; name pairs of blocks"),
        ("idle", r"blocks: 'idle' is never run by itself; name pairs of other blocks"),
        ("both", r"blocks: 'both' puts out no tensor \[N, \.\.\.\]; name pairs of other blocks"),
    ],
)
def test_a_block_that_a_term_cannot_use_is_named(teacher, block, message):
    with pytest.raises(ParamsError, match=message):
        make(Foreign(), teacher, attention([["block3", block]]))


def test_a_block_that_does_not_exist_is_named(student, teacher):
    with pytest.raises(TeacherError, match="no submodule 'layer9'"):
        make(student, teacher, attention([["layer9", "layer1"]]))
    with pytest.raises(TeacherError, match="no submodule 'layer7'"):
        make(student, teacher, boundary([["block1", "layer7"]]))


def test_networks_without_any_block_ask_for_names(teacher):
    with pytest.raises(ParamsError, match=r"blocks: auto: .* name pairs"):
        make(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), teacher, attention())


def test_an_empty_list_of_pairs_is_refused():
    with pytest.raises(ParamsError, match=r"terms\.attention\.blocks"):
        build(Terms, attention([]), "terms")
