"""Terms beside the loss on a student's logits."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from pipeline import nets
from pipeline.classifier import Classifier, StudentCard
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.core.rng import stream
from pipeline.distill import train
from pipeline.losses.interpolation import beta_shares
from pipeline.optimise import network
from pipeline.optimise.network import order

PAIRS = [["conv1", "conv1"], ["conv2", "conv2"]]
ATTENTION = {"weight": 7.0, "blocks": PAIRS}
BOUNDARY = {"weight": 0.5, "margin": 1.0, "blocks": "auto"}
MIXED = {"weight": 0.25, "alpha": 0.8, "labels": "interpolated"}
ALL = {"labels": "live", "attention": ATTENTION, "activation_boundary": BOUNDARY, "interpolation": MIXED}
ONE_STEP = {"batch": 50, "epochs": 1, "steps_per_epoch": 1, "learning_rate": 1e-9}


class Batch:
    """The one batch of a training of one step: all of the small set in the order of seed 0, and what networks say."""

    def __init__(self, dataset, teacher) -> None:
        samples, places = dataset.load("train"), order(50, 0, 50, 0)
        self.images = samples.images[places].float() / 255
        self.stored, self.cls = samples.logits[places], samples.cls[places]
        self.net = nets.build("lenet5_half", 10, 1, 16, rng=stream(0, "student/weights"))
        self.teacher = teacher

    def student(self, images: Tensor) -> np.ndarray:
        return self.net((images - 0.3) / 0.3).detach().double().numpy()

    def mixed(self, values: Tensor) -> Tensor:
        share = beta_shares(0.8, (50,), stream(0, "distill/interpolation", 0))
        rows = [own * values[i] + (1 - own) * values[i - 1] for i, own in enumerate(share)]
        return torch.stack(rows)


@pytest.fixture
def batch(small_set, teacher) -> Batch:
    return Batch(small_set, teacher)


def kl(student: np.ndarray, teacher: np.ndarray, tau: float = 4.0) -> float:
    def log_softmax(values: np.ndarray) -> np.ndarray:
        return values - np.log(np.exp(values).sum(1, keepdims=True))

    q, p = log_softmax(student / tau), log_softmax(teacher.astype(np.float64) / tau)
    return float(tau**2 * (np.exp(p) * (p - q)).sum(1).mean())


def first_row(dataset, params, cpu, teacher=None) -> dict[str, float]:
    return train(dataset, "lenet5_half", params, 0, cpu, None, teacher)[1][0]


def test_l1_is_the_mean_difference_of_logits(tmp_path, small_set, params, cpu, batch):
    row = first_row(small_set, params(loss={"l1": {}}, **ONE_STEP), cpu)
    expected = np.abs(batch.student(batch.images) - batch.stored.numpy()).mean()
    assert row["loss"] == pytest.approx(expected, rel=1e-5)
    assert list(row)[:3] == ["epoch", "loss", "agreement"]
    assert "l1" not in row, "one term needs no column of its own"


def test_with_stored_labels_mixed_images_have_mixed_labels(tmp_path, small_set, params, cpu, batch):
    row = first_row(small_set, params(interpolation=MIXED, **ONE_STEP), cpu)
    plain = kl(batch.student(batch.images), batch.stored.numpy())
    virtual = kl(batch.student(batch.mixed(batch.images)), batch.mixed(batch.stored).numpy())
    assert row["kl"] == pytest.approx(plain, rel=1e-5)
    assert row["interpolation"] == pytest.approx(0.25 * virtual, rel=1e-5)
    assert row["loss"] == pytest.approx(plain + 0.25 * virtual, rel=1e-5)


def test_with_hard_labels_the_one_hot_rows_are_mixed(tmp_path, small_set, params, cpu, batch):
    row = first_row(small_set, params(labels="hard", interpolation=MIXED, **ONE_STEP), cpu)
    soft = batch.mixed(torch.eye(10)[batch.cls]).double()
    log_q = torch.from_numpy(batch.student(batch.mixed(batch.images))).log_softmax(1)
    assert row["interpolation"] == pytest.approx(-0.25 * float((soft * log_q).sum(1).mean()), rel=1e-5)
    assert "cross_entropy" in row


def test_the_teacher_can_label_the_mixed_images_itself(tmp_path, small_set, params, cpu, batch):
    block = {**MIXED, "labels": "teacher"}
    row = first_row(small_set, params(labels="live", interpolation=block, **ONE_STEP), cpu, batch.teacher)
    mixed = batch.mixed(batch.images)
    expected = 0.25 * kl(batch.student(mixed), batch.teacher(mixed).numpy())
    assert row["interpolation"] == pytest.approx(expected, rel=1e-4)
    interpolated = 0.25 * kl(batch.student(mixed), batch.mixed(batch.teacher(batch.images)).numpy())
    assert abs(expected - interpolated) > 1e-3 * expected, "else the test shows nothing"


def output(net: torch.nn.Module, name: str, images: Tensor) -> Tensor:
    found: list[Tensor] = []
    hook = net.get_submodule(name).register_forward_hook(lambda _, __, out: found.append(out.detach()))
    net(images)
    hook.remove()
    return found[0]


def test_attention_is_of_the_batch_itself_though_mixed_images_come_after_it(tmp_path, small_set, params, cpu, batch):
    row = first_row(small_set, params(**{**ALL, **ONE_STEP}), cpu, batch.teacher)
    expected = 0.0
    for name in ("conv1", "conv2"):
        found = [output(net, name, (batch.images - 0.3) / 0.3) for net in (batch.net, batch.teacher.net)]
        flat = [(maps.double() ** 2).mean(1).flatten(1) for maps in found]
        expected += float(functional.mse_loss(*(each / each.norm(dim=1, keepdim=True) for each in flat)))
    assert row["attention"] == pytest.approx(7.0 * expected, rel=1e-4)


def test_the_loss_is_the_sum_of_its_terms_and_each_has_a_column(tmp_path, small_set, params, cpu, teacher):
    _, history = train(small_set, "lenet5_half", params(**ALL), 0, cpu, None, teacher)
    terms = ["kl", "activation_boundary", "attention", "interpolation"]
    assert list(history[0]) == [
        "epoch", "loss", "agreement", *terms, "learning_rate", "holdout_kl", "holdout_agreement",
    ]  # fmt: skip
    for row in history:
        assert row["loss"] == pytest.approx(sum(row[name] for name in terms), rel=1e-5)
        assert all(row[name] > 0 for name in terms)


@pytest.mark.parametrize("term", ["attention", "activation_boundary"])
def test_a_term_that_weighs_most_is_what_falls(tmp_path, small_set, params, cpu, teacher, term):
    block = {"attention": {**ATTENTION, "weight": 1e4}, "activation_boundary": {**BOUNDARY, "weight": 100.0}}[term]
    settings = params(labels="live", epochs=4, steps_per_epoch=25, learning_rate=0.005, **{term: block})
    _, history = train(small_set, "lenet5_half", settings, 0, cpu, None, teacher)
    assert history[-1][term] < 0.7 * history[0][term]


def test_connectors_learn_with_the_student_and_are_in_the_checkpoint_but_not_in_what_is_saved(
    tmp_path, small_set, params, cpu, teacher
):
    path = tmp_path / "training.safetensors"
    student, _ = train(small_set, "lenet5_half", params(**ALL), 0, cpu, Checkpoint(path), teacher)
    plain = nets.build("lenet5_half", 10, 1, 16).state_dict()
    with safe_open(path, "pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    connectors = [value for value in held.values() if value.shape[2:] == (1, 1)]
    assert len(connectors) == 6, "two weights, and two moments of each"
    student.save(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        assert {key: file.get_tensor(key).shape for key in file.keys()} == {  # noqa: SIM118
            name: value.shape for name, value in plain.items()
        }
    assert Classifier.load(tmp_path / "saved", StudentCard).card == student.card


class _Pulled(Exception):
    """The plug was pulled."""


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_died_goes_on_to_the_same_bits(tmp_path, small_set, params, cpu, teacher, monkeypatch, after):
    settings = params(**ALL, mixup=0.3, augment={"rotate": 10.0, "fill": "zeros"})
    whole, history = train(small_set, "resnet8", named(settings), 3, cpu, None, teacher)
    checkpoint = Checkpoint(tmp_path / "training.safetensors")
    epochs = []

    def pulled(point: str) -> None:
        epochs.append(point)
        if len(epochs) == after:
            raise _Pulled

    monkeypatch.setattr(network, "crash_point", pulled)
    with pytest.raises(_Pulled):
        train(small_set, "resnet8", named(settings), 3, cpu, checkpoint, teacher)
    monkeypatch.undo()
    resumed, rows = train(small_set, "resnet8", named(settings), 3, cpu, checkpoint, teacher)
    assert rows == history
    ends = [torch.cat([value.double().flatten() for value in each.state_dict().values()]) for each in (whole, resumed)]
    assert torch.equal(*ends)


def named(settings):
    """The same with blocks of a ResNet student."""
    pairs = (("conv1", "layer1"), ("conv2", "layer3"))
    attention = settings.terms.attention.model_copy(update={"blocks": pairs})
    return settings.model_copy(update={"terms": settings.terms.model_copy(update={"attention": attention})})


def hooks(net: torch.nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in net.modules())


def test_teacher_and_global_randomness_are_left_alone_and_hooks_are_gone(tmp_path, small_set, params, cpu, teacher):
    before, state = {name: value.clone() for name, value in teacher.state_dict().items()}, torch.get_rng_state()
    student, _ = train(small_set, "lenet5_half", params(**ALL), 0, cpu, None, teacher)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in teacher.parameters())
    assert hooks(student) == hooks(teacher) == 0


def test_without_terms_nothing_is_added_to_a_training(tmp_path, small_set, params, cpu, teacher, monkeypatch):
    passes = []
    monkeypatch.setattr(teacher.net, "forward", lambda x, f=teacher.net.forward: passes.append(len(x)) or f(x))
    settings = params(labels="live", **{**ONE_STEP, "batch": 7})
    path = tmp_path / "training.safetensors"
    student, history = train(small_set, "lenet5_half", settings, 0, cpu, Checkpoint(path), teacher)
    assert passes == [7]
    assert list(history[0])[:4] == ["epoch", "loss", "agreement", "learning_rate"]
    count = sum(1 for _ in student.net.state_dict())
    with safe_open(path, "pt") as file:
        held = len(file.keys())
    buffers = len(student.state_dict()) - count
    assert held == count + buffers + 3 * sum(1 for _ in student.parameters()), "two moments and a count of each"


def test_under_bfloat16_terms_are_close_to_those_in_float32(tmp_path, small_set, params, cpu, teacher):
    rows = []
    for precision in ("float32", "bfloat16"):
        compute = cpu.model_copy(update={"precision": precision, "channels_last": True})
        rows.append(first_row(small_set, params(**{**ALL, **ONE_STEP}), compute, teacher))
    for name in ("kl", "attention", "activation_boundary", "interpolation"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("terms", [("attention", "activation_boundary", "interpolation"), ("interpolation",)])
def test_compiled_steps_give_what_plain_ones_give(tmp_path, small_set, params, cpu, teacher, terms):
    settings = params(labels="live", **{name: ALL[name] for name in terms}, learning_rate=0.001)
    ends, rows = [], []
    for mode in ("never", "always"):
        compute = cpu.model_copy(update={"compile": mode})
        student, history = train(small_set, "lenet5_half", settings, 0, compute, None, teacher)
        ends.append(torch.cat([value.flatten() for value in student.parameters()]))
        rows.append(history)
    torch.testing.assert_close(*ends, atol=1e-4, rtol=1e-3)
    for plain, quick in zip(*rows, strict=True):
        assert plain == pytest.approx(quick, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"labels": "stored", "attention": ATTENTION}, "attention"),
        ({"labels": "hard", "activation_boundary": BOUNDARY}, "activation_boundary"),
        ({"labels": "stored", "interpolation": {**MIXED, "labels": "teacher"}}, "interpolation"),
    ],
)
def test_terms_that_ask_the_teacher_need_live_labels(params, changes, key):
    with pytest.raises(
        ParamsError, match=rf"^distill\.terms: .*{key}: .*labels: {changes['labels']} does without; take it out"
    ):
        params(**changes)
    params(**{**changes, "labels": "live"})


def test_a_wrong_kind_of_labels_is_one_error(params):
    with pytest.raises(ParamsError) as caught:
        params(labels="soft", attention=ATTENTION)
    assert len(str(caught.value).splitlines()) == 1


def test_a_block_that_the_student_does_not_have_is_named(tmp_path, small_set, params, cpu, teacher):
    block = {**ATTENTION, "blocks": [["conv1", "layer1"]]}
    with pytest.raises(TeacherError, match="no submodule 'layer1' in LeNet"):
        train(small_set, "lenet5_half", params(labels="live", attention=block), 0, cpu, None, teacher)
