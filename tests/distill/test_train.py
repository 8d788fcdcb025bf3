import csv
import math

import pytest
import torch
from torch.nn import functional

from pipeline import nets
from pipeline.core.errors import TrainingError
from pipeline.core.rng import stream
from pipeline.distill import train, write_history
from pipeline.shards.reader import Dataset


def weights(student) -> torch.Tensor:
    return torch.cat([value.flatten() for value in student.state_dict().values()])


def test_a_student_learns_digits_from_stored_logits_alone(tmp_path, write, digits, kernel_teacher, params, cpu):
    """No teacher, no real labels and no real test data are at hand while it trains."""
    images = digits.images[:1200]
    logits = kernel_teacher(images)
    dataset = write(tmp_path / "set", images, logits, logits.argmax(1), (500, 500), (200,))
    settings = params(batch=50, epochs=5, steps_per_epoch=60, learning_rate=0.005, loss={"kl": {"temperature": 2.0}})
    student, history = train(dataset, "lenet5_half", settings, 0, cpu)
    answers = student(digits.images[1200:].float() / 255).argmax(1)
    accuracy = float((answers == digits.labels[1200:]).double().mean())
    assert accuracy > 0.9
    assert history[-1]["loss"] < history[0]["loss"] / 4
    assert history[-1]["agreement"] > 0.95
    assert history[-1]["holdout_agreement"] > 0.9


def test_a_student_says_where_it_comes_from(tmp_path, small_set, params, cpu):
    student, _ = train(small_set, "lenet5_half", params(), 5, cpu)
    card = small_set.manifest.teacher
    assert student.card.model_dump() == {
        "arch": "lenet5_half", "classes": card.classes, "channels": 1, "size": 16, "mean": (0.3,), "std": (0.3,),
        "method": "noise", "data_free": True, "labels": "stored", "seed": 5, "dataset": small_set.sha256,
        "teacher": card.sha256, "few_shot": None, "cell": "", "sha256": "",
    }  # fmt: skip
    assert not student.training


def test_the_history_measures_the_holdout_as_anyone_would(tmp_path, small_set, params, cpu):
    student, history = train(small_set, "lenet5_half", params(), 0, cpu)
    assert list(history[0]) == ["epoch", "loss", "agreement", "learning_rate", "holdout_kl", "holdout_agreement"]
    held = small_set.load("holdout")
    with torch.no_grad():
        log_q = student(held.images.float() / 255).double().log_softmax(1)
    log_p = held.logits.double().log_softmax(1)
    assert history[-1]["holdout_kl"] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(1).mean()), rel=1e-4)
    assert history[-1]["holdout_agreement"] == float((log_q.argmax(1) == log_p.argmax(1)).double().mean())


def test_without_holdout_there_is_nothing_to_measure(tmp_path, write, digits, kernel_teacher, params, cpu):
    images = digits.images[:20]
    dataset = write(tmp_path / "set", images, kernel_teacher(images), digits.labels[:20], (20,))
    _, history = train(dataset, "lenet5_half", params(), 0, cpu)
    assert list(history[0]) == ["epoch", "loss", "agreement", "learning_rate"]


def test_live_labels_are_the_teacher_s_answers_to_the_very_views(
    tmp_path, small_set, params, cpu, teacher, monkeypatch
):
    seen, answered = [], []
    monkeypatch.setattr(teacher.net, "forward", lambda x, f=teacher.net.forward: seen.append(x) or f(x))
    real = functional.kl_div
    monkeypatch.setattr(functional, "kl_div", lambda q, p, **kw: answered.append(p.detach()) or real(q, p, **kw))
    augment = {"augment": {"rotate": 20.0, "fill": "zeros"}}
    block = params(labels="live", loss={"kl": {"temperature": 1.0}}, epochs=1, steps_per_epoch=3, mixup=0.5, **augment)
    one_shard = Dataset.open(small_set.folder)
    train(one_shard, "lenet5_half", block, 0, cpu, None, teacher)
    stored = {image.numpy().tobytes() for image in one_shard.load("train").images}
    monkeypatch.undo()
    assert len(seen) == 3
    for inferred, label in zip(seen, answered, strict=False):
        views = inferred.clone()
        assert not any((view * 0.3 + 0.3).mul(255).round().byte().numpy().tobytes() in stored for view in views)
        torch.testing.assert_close(label, teacher.net(views).log_softmax(1), atol=1e-5, rtol=1e-5)


def test_live_labels_leave_the_teacher_as_it_was(tmp_path, small_set, params, cpu, teacher):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    train(small_set, "lenet5_half", params(labels="live"), 0, cpu, None, teacher)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert not teacher.training


def test_live_labels_without_a_teacher_are_refused_with_two_cures(tmp_path, small_set, params, cpu):
    with pytest.raises(
        TrainingError, match=r"labels: live needs the teacher lenet5 .*labels: stored, which needs none"
    ):
        train(small_set, "lenet5_half", params(labels="live"), 0, cpu)


def test_a_teacher_that_did_not_label_the_set_is_refused(tmp_path, small_set, params, cpu, teacher):
    teacher.card = teacher.card.model_copy(update={"sha256": "cd" * 32})
    with pytest.raises(TrainingError, match=rf"sha256 is {'cd' * 32}, .* was labelled by {'ab' * 32}"):
        train(small_set, "lenet5_half", params(labels="live"), 0, cpu, None, teacher)


def test_hard_labels_are_classes_and_the_logits_do_not_matter(tmp_path, write, digits, kernel_teacher, params, cpu):
    images, labels = digits.images[:40], digits.labels[:40]
    logits = kernel_teacher(images)
    ends = []
    for name, given in (("a", logits), ("b", -3 * logits)):
        (tmp_path / name).mkdir()
        dataset = write(tmp_path / name / "set", images, given, labels, (40,))
        block = params(labels="hard", epochs=1, steps_per_epoch=2, batch=40)
        student, history = train(dataset, "lenet5_half", block, 0, cpu)
        ends.append(weights(student))
        first = nets.build("lenet5_half", 10, 1, 16, rng=stream(0, "student/weights"))
        loss = functional.cross_entropy(first((images.float() / 255 - 0.3) / 0.3), labels)
        assert history[0]["loss"] == pytest.approx(loss.item(), rel=0.2), "the mean of two steps, the first is this"
    assert torch.equal(ends[0], ends[1])


def test_the_initial_weights_belong_to_the_seed(tmp_path, small_set, params, cpu):
    block = params(epochs=1, steps_per_epoch=1, learning_rate=1e-12)
    ends = []
    for seed in (0, 1):
        ends.append(weights(train(small_set, "lenet5_half", block, seed, cpu)[0]))
    expected = nets.build("lenet5_half", 10, 1, 16, rng=stream(1, "student/weights"))
    torch.testing.assert_close(ends[1], torch.cat([value.flatten() for value in expected.state_dict().values()]))
    assert not torch.equal(ends[0], ends[1])


def test_training_leaves_torch_s_global_generator_alone(tmp_path, small_set, params, cpu):
    state = torch.get_rng_state()
    train(small_set, "lenet5_half", params(mixup=0.3), 0, cpu)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_set_that_does_not_fit_in_memory_trains_a_student_too(tmp_path, small_set, params, cpu, monkeypatch):
    monkeypatch.setattr(small_set, "decoded_bytes", lambda split: {"train": 1 << 21, "holdout": 1}[split])
    student, history = train(small_set, "lenet5_half", params(memory_mb=1), 0, cpu)
    assert bool(torch.isfinite(weights(student)).all())
    assert 0 <= history[-1]["holdout_agreement"] <= 1


def test_mixed_stored_labels_are_interpolated_logits(tmp_path, small_set, params, cpu, monkeypatch):
    """A student whose logits were the interpolation itself would have no loss."""
    labels = []
    monkeypatch.setattr("pipeline.losses.logits.kl", lambda s, t, tau: labels.append(t) or s.float().square().mean())
    train(small_set, "lenet5_half", params(mixup=1.0, epochs=1, steps_per_epoch=3), 0, cpu)
    logits = small_set.load("train").logits
    for row in torch.cat(labels[:3]):
        # Every mixed row lies on a segment between two stored rows: the best pair leaves nothing over.
        i, j = torch.triu_indices(50, 50, 1)
        span = logits[j] - logits[i]
        along = (((row - logits[i]) * span).sum(1) / span.square().sum(1)).clamp(0, 1)
        rest = (logits[i] + along[:, None] * span - row).norm(dim=1)
        assert float(rest.min()) < 1e-4


def test_a_training_that_diverges_says_so(tmp_path, small_set, params, cpu):
    block = params(name="sgd", learning_rate=1e30, epochs=2)
    with pytest.raises(TrainingError, match="epoch 1: the loss is"):
        train(small_set, "lenet5_half", block, 0, cpu)


def test_the_history_file_has_a_line_per_epoch_and_the_same_bytes_for_the_same_rows(tmp_path):
    rows = [{"epoch": 1, "loss": 0.1 + 0.2, "learning_rate": 1e-5}, {"epoch": 2, "loss": 1 / 3, "learning_rate": 0.0}]
    for name in ("a.csv", "b.csv"):
        write_history(rows, tmp_path / "history" / name)
    text = (tmp_path / "history" / "a.csv").read_text()
    assert text == (tmp_path / "history" / "b.csv").read_text()
    read = list(csv.DictReader(text.splitlines()))
    assert [row["epoch"] for row in read] == ["1", "2"]
    assert math.isclose(float(read[1]["loss"]), 1 / 3, rel_tol=0)
    assert text.splitlines()[0] == "epoch,loss,learning_rate"
