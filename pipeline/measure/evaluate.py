"""Measure a student: accuracy on real data where there is any, and how closely it follows the teacher's beliefs."""

from typing import Annotated, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor

from ..classifier import Student, Teacher
from ..core.device import Compute
from ..core.errors import DataError, TrainingError
from ..core.images import to_unit
from ..core.params import Block
from ..grid import Cell
from ..optimise.network import mode
from ..real import Labelled
from ..shards.reader import Dataset
from .belief import BeliefMatch, BeliefParams, match_beliefs
from .metrics import Belief, Metrics, class_labels

__all__ = ["EvaluateParams", "Evaluation", "evaluate"]

_TOP5_FROM = 20  # classes; with fewer, five guesses say little
_TRUE = ("hard", "target")  # `labels` of a card that are true classes
_NO_ACCURACY = (
    "No accuracy can be given: there is no real labelled data. Agreement and KL are measured on held-out synthetic "
    "images, which tell how well the student follows the teacher there, not how well it would do on real images."
)
_NO_TEACHER = "No agreement on the test data: no teacher was given. Agreement and KL are of held-out synthetic images."


class EvaluateParams(Block):
    """The `evaluate` block."""

    batch: Annotated[int, Field(gt=0)]  # images per forward pass
    belief: BeliefParams | None  # None: belief match is not measured


class Evaluation(NamedTuple):
    """What was measured of one student."""

    metrics: Metrics
    beliefs: BeliefMatch | None  # the curves behind `metrics.belief`


def evaluate(
    student: Student,
    teacher: Teacher | None,
    test: Labelled | None,
    dataset: Dataset | None,
    cell: Cell,
    params: EvaluateParams,
    compute: Compute,
    rng: torch.Generator,
) -> Evaluation:
    """Measure a student in one pass over each set, in float32 whatever the training precision was.

    Belief match comes after it, where it is asked for and there are test data and a teacher.

    Args:
        student: takes [N, C, H, W] images in [0, 1], returns [N, K] logits. Its mode is restored afterwards.
        teacher: asked for its logits on the test data; without one, no agreement there.
        test: real labelled images, or None.
        dataset: the dataset the student was trained on; only its held-out shards are read, with their stored logits.
        cell: which student this is; its card must say the same.
        params: images per forward pass, and how belief match is measured.
        compute: the device to use.
        rng: chooses the images of belief match.

    Raises:
        DataError: nothing to measure on, the data does not fit the student, or student, teacher and dataset are not of
            one another.
        TrainingError: the student's logits are not finite.
        ParamsError: the steps of belief match are too large.
    """
    _check_origins(student, teacher, dataset, cell)
    with mode(student, training=False), torch.no_grad():
        on_test = _on_test(student, teacher, test, params.batch, compute)
        on_holdout = _on_holdout(student, dataset, params.batch, compute)
    if not on_test.images and not on_holdout.images:
        raise DataError(
            f"{cell.name}: nothing to evaluate on: no real test data (`data`) and no held-out images (`shards.holdout`)"
        )
    beliefs, belief = None, None
    if params.belief is not None and test is not None and teacher is not None:
        beliefs = match_beliefs(student, teacher, test.images, params.belief, rng, compute)
        belief = _summary(beliefs, params.belief)
    return Evaluation(_metrics(student, cell, on_test, on_holdout, belief), beliefs)


def _on_test(
    student: Student, teacher: Teacher | None, test: Labelled | None, batch: int, compute: Compute
) -> "_Tally":
    tally, device = _Tally(len(student.card.classes)), compute.torch_device()
    student_net, teacher_net = compute.place(student), None if teacher is None else compute.place(teacher)
    if test is not None:
        _check_shape(student, tuple(test.images.shape[1:]), len(test.classes), "the test data")
        for images, labels in zip(test.images.split(batch), test.labels.split(batch), strict=True):
            pixels = to_unit(images.to(device))
            tally.add(student_net(pixels), None if teacher_net is None else teacher_net(pixels), labels)
    return tally


def _on_holdout(student: Student, dataset: Dataset | None, batch: int, compute: Compute) -> "_Tally":
    tally, device, student_net = _Tally(len(student.card.classes)), compute.torch_device(), compute.place(student)
    for samples in () if dataset is None else dataset.shards("holdout"):
        _check_shape(student, tuple(samples.images.shape[1:]), samples.logits.shape[1], "the synthetic dataset")
        for images, logits in zip(samples.images.split(batch), samples.logits.split(batch), strict=True):
            tally.add(student_net(to_unit(images.to(device))), logits.to(device), None)
    return tally


class _Tally:
    """Sums over the images seen so far; labels and teacher logits are each given always or never."""

    def __init__(self, classes: int) -> None:
        self.images = self.agreed = 0
        self.labelled = self.top5_hits = self.teacher_hits = 0
        self.kl_sum: float | None = None
        self.class_images = torch.zeros(classes, dtype=torch.int64)
        self.class_hits = torch.zeros(classes, dtype=torch.int64)

    def add(self, logits: Tensor, teacher_logits: Tensor | None, labels: Tensor | None) -> None:
        """Add a batch: student logits [N, K], teacher logits [N, K] and true classes [N]."""
        if not bool(torch.isfinite(logits).all()):
            raise TrainingError(
                "the student's logits are not finite: its training diverged; lower distill.learning_rate"
            )
        logits = logits.double().cpu()  # sums of many small terms: float64 keeps the last digit
        self.images += len(logits)
        if teacher_logits is not None:
            self._add_teacher(logits, teacher_logits.double().cpu())
        if labels is not None:
            self._add_labels(logits, teacher_logits, labels.cpu())

    def _add_teacher(self, logits: Tensor, teacher_logits: Tensor) -> None:
        self.agreed += int((logits.argmax(1) == teacher_logits.argmax(1)).sum())
        belief, log_belief = teacher_logits.softmax(1), teacher_logits.log_softmax(1)
        self.kl_sum = (self.kl_sum or 0.0) + float((belief * (log_belief - logits.log_softmax(1))).sum())

    def _add_labels(self, logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> None:
        classes = len(self.class_images)
        hits = logits.argmax(1) == labels
        self.labelled += len(labels)
        self.class_images += torch.bincount(labels, minlength=classes)
        self.class_hits += torch.bincount(labels[hits], minlength=classes)
        self.top5_hits += int((logits.topk(min(5, classes), 1).indices == labels[:, None]).sum())
        if teacher_logits is not None:
            self.teacher_hits += int((teacher_logits.argmax(1).cpu() == labels).sum())

    @property
    def agreement(self) -> float | None:
        return None if self.kl_sum is None else self.agreed / self.images

    @property
    def kl(self) -> float | None:
        return None if self.kl_sum is None else max(0.0, self.kl_sum / self.images)  # rounding may dip below 0

    def share(self, hits: int) -> float | None:
        return hits / self.labelled if self.labelled else None

    def per_class(self, classes: tuple[str, ...]) -> dict[str, float | None] | None:
        if not self.labelled:
            return None
        hits, images = cast(list[int], self.class_hits.tolist()), cast(list[int], self.class_images.tolist())
        shares = (hit / count if count else None for hit, count in zip(hits, images, strict=True))
        return dict(zip(class_labels(classes), shares, strict=True))


def _summary(found: BeliefMatch | None, params: BeliefParams) -> Belief | None:
    if found is None:
        return None
    return Belief(mte=found.mte, images=found.images, **params.model_dump(include={"steps", "step_size", "stepped"}))


def _metrics(student: Student, cell: Cell, on_test: _Tally, on_holdout: _Tally, belief: Belief | None) -> Metrics:
    card = student.card
    main, place = (on_test, "test") if on_test.agreement is not None else (on_holdout, "holdout")
    note = _NO_ACCURACY if not on_test.labelled else None if place == "test" else _NO_TEACHER
    return Metrics(
        cell=cell.name,
        method=cell.row.name,
        student=cell.student,
        arch=card.arch,
        seed=cell.seed,
        data_free=card.data_free,
        online=cell.online,
        labels=card.labels,
        samples=on_test.images or on_holdout.images,
        accuracy=on_test.share(int(on_test.class_hits.sum())),
        top5=on_test.share(on_test.top5_hits) if len(card.classes) >= _TOP5_FROM else None,
        per_class=on_test.per_class(card.classes),
        agreement=main.agreement,
        kl_to_teacher=main.kl,
        agreement_on=None if main.agreement is None else place,
        holdout_agreement=on_holdout.agreement,
        holdout_kl=on_holdout.kl,
        teacher_accuracy=None if on_test.agreement is None else on_test.share(on_test.teacher_hits),
        belief=belief,
        parameters=sum(weights.numel() for weights in student.parameters()),
        note=note,
    )


def _check_origins(student: Student, teacher: Teacher | None, dataset: Dataset | None, cell: Cell) -> None:
    """Hashes protect bytes; this finds the right file in the wrong place: another teacher's, row's or seed's."""
    card, row = student.card, cell.row
    claims: list[tuple[str, object, object]] = [
        ("the student is", card.cell or cell.name, cell.name),
        ("the student learned from dataset", card.method, row.dataset),
        ("the student's seed is", card.seed, cell.seed),
        ("the student was finished on a few real images:", card.few_shot is not None, row.few_shot),
    ]
    if row.true_labels:
        claims.append(("the student learned true labels:", card.labels in _TRUE, True))
    if dataset is not None:
        claims.append((f"the dataset {dataset.folder} is of", dataset.manifest.method, row.dataset))
        claims.append(("the sha256 of the manifest that the student learned from is", card.dataset, dataset.sha256))
    if teacher is not None:
        claims.append(("the sha256 of the teacher that the student learned from is", card.teacher, teacher.card.sha256))
        claims.append(("the number of classes of student and teacher:", len(card.classes), len(teacher.card.classes)))
    for what, found, wanted in claims:
        if found != wanted:
            raise DataError(
                f"{cell.name}: {what} {found!r}, expected {wanted!r}; run `dvc repro`, or put the right files there"
            )


def _check_shape(student: Student, shape: tuple[int, ...], classes: int, what: str) -> None:
    card = student.card
    wanted = (card.channels, card.size, card.size)
    if shape != wanted:
        raise DataError(
            f"{what} has images of shape {shape}, the student takes {wanted}; set data.size and data.channels to fit"
        )
    if classes != len(card.classes):
        raise DataError(f"{what} has {classes} classes, the student knows {len(card.classes)}")
