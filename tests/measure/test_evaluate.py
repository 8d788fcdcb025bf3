"""Every metric against a derivation of its own in numpy."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.errors import DataError, TrainingError
from pipeline.grid import PROXY, Cell, Row
from pipeline.measure.belief import BeliefParams, match_beliefs
from pipeline.measure.evaluate import EvaluateParams, Evaluation, evaluate
from pipeline.measure.metrics import Belief, Metrics, class_labels, read_metrics, write_metrics
from pipeline.real import Labelled
from tests.support import CPU

BELIEF = BeliefParams(images=6, steps=3, step_size=0.25, stepped="teacher", batch=4)
CELL = Cell(Row("zskd"), "small", 3)


class Net(nn.Module):
    """A linear classifier of 3 x 3 pixels that records the mode it was called in."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        self.linear = nn.Linear(9, classes)
        self.dropout = nn.Dropout(0.5)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.linear.weight.normal_(0, 3, generator=generator)
            self.linear.bias.normal_(0, 1, generator=generator)
        names = tuple(f"class {index}" for index in range(classes))
        self.card = SimpleNamespace(
            arch="net",
            classes=names,
            channels=1,
            size=3,
            labels="stored",
            sha256="the teacher",
            method="zskd",
            data_free=True,
            seed=3,
            dataset="the manifest",
            teacher="the teacher",
            few_shot=None,
            cell="",
        )
        self.modes: list[bool] = []
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.float32
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1
        self.modes.append(self.dropout.training)
        self.batches.append(len(images))
        return self.linear(self.dropout(images.flatten(1)))


def frozen(classes: int, seed: int) -> nn.Module:
    """A stand-in for a teacher: always in eval mode."""
    return Net(classes, seed).eval()


def labelled(count: int, classes: int, seed: int = 0) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 3, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Labelled(images, labels, tuple(f"class {index}" for index in range(classes)))


def dataset(*shards: tuple[torch.Tensor, torch.Tensor]) -> SimpleNamespace:
    def of(split: str):
        assert split == "holdout", "only held-out images may be looked at"
        return (SimpleNamespace(images=images, logits=logits) for images, logits in shards)

    manifest = SimpleNamespace(method="zskd")
    return SimpleNamespace(shards=of, folder="data/synthetic/zskd", manifest=manifest, sha256="the manifest")


def logits_of(net: Net, images: torch.Tensor) -> np.ndarray:
    """The net in numpy float64."""
    weight, bias = net.linear.weight.detach().double().numpy(), net.linear.bias.detach().double().numpy()
    return images.flatten(1).double().numpy() / 255 @ weight.T + bias


def kl(teacher: np.ndarray, student: np.ndarray) -> float:
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (teacher, student))
    return float(np.mean(np.sum(p * np.log(p / q), axis=1)))


def evaluated(student, teacher, test, data, batch: int, belief: BeliefParams | None, cell: Cell = CELL) -> Evaluation:
    params = EvaluateParams(batch=batch, belief=belief)
    return evaluate(student, teacher, test, data, cell, params, CPU, torch.Generator().manual_seed(5))


def measure(student, teacher, test, data, batch: int) -> Metrics:
    found = evaluated(student, teacher, test, data, batch, None)
    assert found.beliefs is found.metrics.belief is None
    return found.metrics


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_every_metric_equals_its_numpy_derivation_for_any_batch_size(batch):
    student, teacher, test = Net(23, 1), frozen(23, 2), labelled(100, 23)
    found = measure(student, teacher, test, None, batch)
    mine, theirs, labels = logits_of(student, test.images), logits_of(teacher, test.images), test.labels.numpy()
    assert found.accuracy == np.mean(mine.argmax(1) == labels)
    ranks = (mine > mine[np.arange(100), labels][:, None]).sum(1)
    assert found.top5 == np.mean(ranks < 5)
    assert found.agreement == np.mean(mine.argmax(1) == theirs.argmax(1))
    assert found.kl_to_teacher == pytest.approx(kl(theirs, mine), rel=1e-5)
    assert found.teacher_accuracy == np.mean(theirs.argmax(1) == labels)
    expected = {f"class {k}": np.mean(mine.argmax(1)[labels == k] == k) for k in range(23) if (labels == k).any()}
    assert {name: share for name, share in found.per_class.items() if share is not None} == expected
    assert (found.samples, found.agreement_on, found.note) == (100, "test", None)
    assert found.parameters == 9 * 23 + 23


def test_kl_runs_from_the_teacher_to_the_student_and_not_back():
    student, teacher, test = Net(4, 1), frozen(4, 2), labelled(50, 4)
    mine, theirs = logits_of(student, test.images), logits_of(teacher, test.images)
    found = measure(student, teacher, test, None, 16)
    assert abs(kl(theirs, mine) - kl(mine, theirs)) > 0.1
    assert found.kl_to_teacher == pytest.approx(kl(theirs, mine), rel=1e-5)


def test_a_student_equal_to_its_teacher_agrees_everywhere_at_no_divergence():
    found = measure(Net(5, 1), frozen(5, 1), labelled(40, 5), None, 16)
    assert found.agreement == 1
    assert found.kl_to_teacher == pytest.approx(0, abs=1e-9)


def test_top5_is_left_out_below_twenty_classes():
    assert measure(Net(19, 1), None, labelled(20, 19), None, 16).top5 is None
    assert measure(Net(20, 1), None, labelled(20, 20), None, 16).top5 is not None


def test_a_class_without_test_images_has_no_accuracy():
    test = labelled(30, 4)
    test = Labelled(test.images, test.labels.clamp(max=2), test.classes)
    assert measure(Net(4, 1), None, test, None, 16).per_class["class 3"] is None


def test_without_real_data_held_out_images_are_measured_and_no_accuracy_is_claimed():
    student, teacher = Net(4, 1), frozen(4, 2)
    sets = [labelled(count, 4, seed=count).images for count in (11, 6)]
    stored = [torch.tensor(logits_of(teacher, images), dtype=torch.float32) for images in sets]
    found = measure(student, None, None, dataset(*zip(sets, stored, strict=True)), 4)
    mine = np.concatenate([logits_of(student, images) for images in sets])
    theirs = np.concatenate([logits.numpy() for logits in stored]).astype(np.float64)
    assert found.accuracy is found.top5 is found.per_class is found.teacher_accuracy is None
    assert found.agreement == found.holdout_agreement == np.mean(mine.argmax(1) == theirs.argmax(1))
    assert found.kl_to_teacher == found.holdout_kl == pytest.approx(kl(theirs, mine), rel=1e-5)
    assert (found.samples, found.agreement_on) == (17, "holdout")
    assert "No accuracy can be given" in found.note


def test_with_real_data_both_agreements_are_kept_apart():
    student, teacher, test = Net(4, 1), frozen(4, 2), labelled(60, 4)
    images = labelled(40, 4, seed=9).images
    stored = torch.tensor(logits_of(teacher, images), dtype=torch.float32)
    found = measure(student, teacher, test, dataset((images, stored)), 16)
    on_test = np.mean(logits_of(student, test.images).argmax(1) == logits_of(teacher, test.images).argmax(1))
    assert (found.agreement, found.agreement_on, found.samples) == (on_test, "test", 60)
    assert found.holdout_agreement == np.mean(logits_of(student, images).argmax(1) == stored.numpy().argmax(1))


def test_test_data_without_a_teacher_gives_accuracy_and_says_where_agreement_is_from():
    images = labelled(8, 4).images
    held_out = dataset((images, torch.randn(8, 4)))
    found = measure(Net(4, 1), None, labelled(30, 4), held_out, 16)
    assert found.accuracy is not None
    assert found.agreement_on == "holdout"
    assert "no teacher was given" in found.note


def test_half_precision_images_are_taken_as_they_are():
    student = Net(4, 1)
    images = torch.rand(6, 1, 3, 3).half()
    logits = torch.tensor(logits_of(student, images.float() * 255), dtype=torch.float32)
    assert measure(student, None, None, dataset((images, logits)), 4).agreement == 1


class Roaming(Net):
    """Takes pixels of any value: the images of belief match leave [0, 1]."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__(classes, seed)
        self.card.std = (0.5,)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))


def test_belief_match_is_measured_on_the_test_data_and_named_with_its_settings():
    student, teacher, test = Roaming(4, 1), Roaming(4, 2).eval(), labelled(60, 4)
    found = evaluated(student, teacher, test, None, 16, BELIEF)
    expected = match_beliefs(student, teacher, test.images, BELIEF, torch.Generator().manual_seed(5), CPU)
    assert expected.mte > 0.01
    assert found.metrics.belief == Belief(mte=expected.mte, images=6, steps=3, step_size=0.25, stepped="teacher")
    assert torch.equal(found.beliefs.student, expected.student)
    assert found.metrics.model_copy(update={"belief": None}) == measure(student, teacher, test, None, 16)


def test_there_is_no_belief_match_without_real_data_or_a_teacher_or_where_the_two_never_agree():
    student, teacher, test = Roaming(4, 1), Roaming(4, 2).eval(), labelled(60, 4)
    opposite = Roaming(4, 1).eval()
    opposite.linear.weight.data.neg_(), opposite.linear.bias.data.neg_()
    held_out = dataset((test.images, torch.randn(60, 4)))
    for others in ((teacher, None, held_out), (None, test, None), (opposite, test, None)):
        found = evaluated(student, *others, 16, BELIEF)
        assert found.beliefs is found.metrics.belief is None


def test_batches_are_bounded_and_the_students_mode_is_restored():
    student = Net(4, 1)
    student.train()
    student.linear.eval()
    measure(student, None, labelled(10, 4), None, 4)
    assert student.batches == [4, 4, 2]
    assert not any(student.modes)
    assert (student.training, student.linear.training, student.dropout.training) == (True, False, True)


def test_the_mode_is_restored_after_an_error_too():
    student = Net(4, 1)
    with torch.no_grad():
        student.linear.bias[0] = float("nan")
    with pytest.raises(TrainingError, match=r"not finite.*learning_rate"):
        measure(student, None, labelled(10, 4), None, 4)
    assert student.dropout.training


def test_nothing_to_measure_on_is_an_error():
    with pytest.raises(DataError, match="zskd-small-3: nothing to evaluate on"):
        measure(Net(4, 1), None, None, dataset(), 4)


def test_images_or_classes_that_do_not_fit_are_errors():
    with pytest.raises(DataError, match="5 classes, the student knows 4"):
        measure(Net(4, 1), None, labelled(10, 5), None, 4)
    wide = Labelled(torch.zeros(2, 1, 3, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), ("a", "b", "c", "d"))
    with pytest.raises(DataError, match=r"shape \(1, 3, 4\)"):
        measure(Net(4, 1), None, wide, None, 4)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (Cell(Row("noise"), "small", 3), "noise-small-3: the student learned from dataset 'zskd', expected 'noise'"),
        (Cell(Row("zskd"), "small", 4), "zskd-small-4: the student's seed is 3, expected 4"),
        (Cell(Row("zskd", "true"), "small", 3), "zskd_labels-small-3: the student learned true labels: False"),
        (Cell(Row("zskd", "few_shot"), "small", 3), "zskd_few_shot-small-3: the student was finished on a few real"),
        (Cell(Row("zskt"), PROXY, 3), "zskt-proxy: the student learned from dataset 'zskd', expected 'zskt'"),
    ],
)
def test_a_student_in_the_place_of_another_is_refused(cell, said):
    with pytest.raises(DataError) as error:
        evaluated(Net(4, 1), frozen(4, 2), labelled(10, 4), None, 4, None, cell)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", ["target", "hard"])
def test_students_of_every_kind_are_measured_in_their_own_place(labels):
    student = Net(4, 1)
    student.card.labels = labels
    assert evaluated(student, None, labelled(10, 4), None, 4, None, Cell(Row("zskd", "true"), "a", 3)).metrics.accuracy
    student.card.few_shot = SimpleNamespace()
    found = evaluated(student, None, labelled(10, 4), None, 4, None, Cell(Row("zskd", "few_shot"), "a", 3)).metrics
    assert (found.cell, found.method, found.online) == ("zskd_few_shot-a-3", "zskd_few_shot", False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "noise"}, "is of 'noise', expected 'zskd'"),
        ({"sha256": "another"}, "the manifest that the student learned from is 'the manifest', expected 'another'"),
    ],
)
def test_a_dataset_in_the_place_of_another_is_refused(change, said):
    found = dataset((labelled(8, 4).images, torch.randn(8, 4)))
    found.manifest.method = change.get("method", "zskd")
    found.sha256 = change.get("sha256", found.sha256)
    with pytest.raises(DataError, match=said):
        measure(Net(4, 1), None, labelled(10, 4), found, 4)


def test_another_teacher_is_refused_and_one_of_other_classes_in_one_line():
    teacher, test = frozen(4, 2), labelled(10, 4)
    teacher.card.sha256 = "another"
    with pytest.raises(DataError, match="the student learned from is 'the teacher', expected 'another"):
        measure(Net(4, 1), teacher, test, None, 4)
    with pytest.raises(DataError, match="the number of classes of student and teacher: 4, expected 7"):
        measure(Net(4, 1), frozen(7, 2), test, None, 4)


def test_the_card_says_what_is_a_result():
    student = Net(4, 1)
    assert measure(student, None, labelled(10, 4), None, 4).role == "result"
    student.card.data_free = False
    found = measure(student, None, labelled(10, 4), None, 4)
    assert (found.data_free, found.role) == (False, "reference")


def test_classes_of_the_same_name_stay_apart():
    assert class_labels(("crane", "crane", "gull")) == ("0: crane", "1: crane", "2: gull")
    assert class_labels(("crane", "gull")) == ("crane", "gull")


def test_metrics_survive_the_disk_and_name_the_file_when_they_do_not(tmp_path):
    found = measure(Net(4, 1), frozen(4, 2), labelled(30, 4), None, 16)
    path = tmp_path / "metrics" / f"{CELL.name}.json"
    write_metrics(found, path)
    assert read_metrics(path) == found
    assert json.loads(path.read_text())["cell"] == "zskd-small-3"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"accuracy": 1.5}))
    with pytest.raises(DataError, match=r"zskd-small-3\.json.*accuracy"):
        read_metrics(path)
    with pytest.raises(DataError, match="no such metrics file"):
        read_metrics(tmp_path / "none.json")


def test_every_edit_of_a_metrics_file_is_found(tmp_path):
    path = tmp_path / f"{CELL.name}.json"
    write_metrics(measure(Net(4, 1), frozen(4, 2), labelled(30, 4), None, 16), path)
    content = json.loads(path.read_text())
    for name, value in content.items():
        other = {str: f"{value}x", bool: not value, int: 2, float: 0.25, dict: {"class 0": 0.25}, type(None): None}
        edits = [{key: kept for key, kept in content.items() if key != name}, content | {name: other[type(value)]}]
        for edit in edits if value is not None else edits[:1]:
            path.write_text(json.dumps(edit))
            with pytest.raises(DataError, match=r"zskd-small-3\.json"):
                read_metrics(path)
    path.write_text(json.dumps(content))
    assert read_metrics(path).cell == CELL.name
    for text in ("[]", "[" * 100_000, "\N{BLACK HEART SUIT}"):
        path.write_text(text)
        with pytest.raises(DataError, match="not a metrics file"):
            read_metrics(path)
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"other\.json: holds the measurements of zskd-small-3"):
        read_metrics(tmp_path / "other.json")
