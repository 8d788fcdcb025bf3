"""One student from one dataset: what it minimises, and its training."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..classifier import Classifier, Student, Teacher, build_network
from ..core.checkpoint import Checkpoint
from ..core.device import Compute
from ..core.errors import TrainingError
from ..core.files import csv_bytes, write_output
from ..core.rng import stream
from ..losses import Loss, Seen
from ..losses.logits import agreement
from ..measure.holdout import holdout_of
from ..optimise.network import Feed, Minibatch, Row, fit
from ..shards.reader import Dataset
from .feed import feed_of, fits
from .params import DistillParams
from .student import card_of

__all__ = ["learn", "teacher_of", "train", "write_history"]

Labeller = Callable[[Tensor], Tensor]


def train(
    dataset: Dataset,
    arch: str,
    params: DistillParams,
    seed: int,
    compute: Compute,
    checkpoint: Checkpoint | None = None,
    teacher: Teacher | None = None,
    trust: tuple[str, ...] = (),
) -> tuple[Student, list[Row]]:
    """Train a fresh student on a dataset's training split; the weights after the last epoch are returned.

    A run that was killed goes on from its last whole epoch and ends, on a CPU, with the weights and the history of one
    that was not.

    Args:
        dataset: the shards; every one is verified before its first sample is used.
        arch: as in `nets.build`.
        params: the recipe, the labels and what is minimised.
        seed: of initial weights, order, augmentation and mixing.
        compute: where, in which precision. Under bfloat16, live labels are computed in bfloat16 too.
        checkpoint: of this training alone; None: not resumable.
        teacher: needed by `labels: live` alone; moved to the device of `compute`.
        trust: sha256 of user Python files whose code may run, for an architecture that lives in one.

    Returns:
        The student, on the CPU in evaluation mode, and one row per epoch: epoch, loss, agreement (with the labels'
        argmax, on the batches trained on), each term of the loss where there are several, learning_rate, and
        holdout_kl and holdout_agreement where the dataset has a holdout split.

    Raises:
        TrainingError: live labels without the dataset's own teacher, or a loss that is not finite.
        ShardError: a shard is damaged.
        ParamsError: the architecture does not exist, or does not fit the images; or a term's blocks do not.
        TeacherError: a term names a block that student or teacher does not have.
        WorkError: the checkpoint is of another training, or cannot be read or written.
    """
    taught = teacher_of(dataset, params, teacher)
    facts = dataset.manifest.teacher
    built = build_network(
        arch, len(facts.classes), facts.channels, facts.size, trust, rng=stream(seed, "student/weights")
    )
    student = Classifier(built.net, card_of(dataset, built.arch, params.labels, seed), built.code)
    feed = feed_of(dataset, params.labels, params.memory_mb, compute.torch_device())
    return learn(student, feed, dataset, params, compute, checkpoint, taught)


def learn(
    student: Student,
    feed: Feed,
    dataset: Dataset,
    params: DistillParams,
    compute: Compute,
    checkpoint: Checkpoint | None,
    teacher: Teacher | None,
) -> tuple[Student, list[Row]]:
    """Train a student in place, from the weights it has; arguments and errors as in `train`.

    Args:
        student: with the card it will be saved with.
        feed: batches of images whose rows hold what the labels need.
        dataset: gives the holdout split.
        params: the recipe, the labels and what is minimised.
        compute: where, in which precision.
        checkpoint: of this training alone.
        teacher: as `teacher_of` gives it.
    """
    # Terms want both networks where they are made: before the student goes to the device.
    objective = _Objective(student, teacher, params, compute)
    measure = holdout_of(dataset, fits(dataset, params.memory_mb), compute)
    with objective.loss.hooks():
        history = fit(
            student,
            feed,
            objective,
            params,
            compute,
            student.card.seed,
            checkpoint,
            None if measure is None else lambda: measure(student),
            what=f"training {student.card.arch} on {dataset.manifest.method}",
        )
    return student.eval().cpu(), history


class _Objective(nn.Module):
    """What a student minimises: scalars of a step. Its parameters are those of the terms, and learn along."""

    def __init__(self, student: Student, teacher: Teacher | None, params: DistillParams, compute: Compute) -> None:
        super().__init__()
        card, net = student.card, None if teacher is None else teacher.net
        shape = (card.channels, card.size, card.size)
        rng = stream(card.seed, "student/connectors")
        self.loss = Loss(params.loss, params.terms, student.net, net, shape, rng)
        self.params, self.seed, self.classes = params, card.seed, len(card.classes)
        # Behind a function, so that the student is no part of this module.
        self._student: Labeller = compute.compiled(student, calls=params.steps, flops=0).__call__
        self._ask: Labeller | None = None
        if teacher is not None:
            placed = compute.compiled(compute.place(teacher), calls=params.steps, flops=0)
            self._ask = _live(placed, looks_inside=params.terms.looks_inside)

    def forward(self, logits: Tensor, batch: Minibatch) -> dict[str, Tensor]:
        """The loss, the agreement with the labels' argmax and, where there are several, each summand."""
        target = self._target(batch)
        seen = Seen(
            images=batch.images,
            student=logits,
            target=target,
            forward=self._student,
            ask=self._ask,
            rng=lambda: stream(self.seed, "distill/interpolation", batch.step),
        )
        scores = self.loss(seen)
        return {"loss": scores.pop("loss"), "agreement": agreement(logits, target), **scores}

    def _target(self, batch: Minibatch) -> Tensor:
        """A batch's labels [B, K]: logits, or probabilities where they are hard."""
        match self.params.labels:
            case "stored":
                return batch.mixed(batch.rows["logits"])
            case "hard":
                return batch.mixed(functional.one_hot(batch.rows["cls"], self.classes).float())
            case "live":
                assert self._ask is not None
                return self._ask(batch.images)


def _live(teacher: Labeller, *, looks_inside: bool) -> Labeller:
    """The teacher's logits as plain tensors, without a graph.

    Args:
        teacher: images in [0, 1] to logits [B, K].
        looks_inside: whether terms are computed from its feature maps as well. Inference mode is quicker, but nothing
            that is made under it may enter a graph.
    """

    def frozen(images: Tensor) -> Tensor:
        with torch.no_grad():
            return teacher(images)

    def quick(images: Tensor) -> Tensor:
        with torch.inference_mode():
            label = teacher(images)
        # A copy made out here is an ordinary tensor, which the loss may keep for its gradient.
        return label.clone()

    return frozen if looks_inside else quick


def teacher_of(dataset: Dataset, params: DistillParams, teacher: Teacher | None) -> Teacher | None:
    """The teacher where labels are live, None where they are not.

    Raises:
        TrainingError: it is needed and not there, or is not the one that labelled the dataset.
    """
    if params.labels != "live":
        return None
    card = dataset.manifest.teacher
    if teacher is None:
        raise TrainingError(
            f"labels: live needs the teacher {card.arch} that labelled {dataset.folder} (sha256 {card.sha256}); "
            "make it with `dvc repro teacher`, or train with labels: stored, which needs none"
        )
    if teacher.card.sha256 != card.sha256:
        raise TrainingError(
            f"labels: live: this teacher's sha256 is {teacher.card.sha256}, {dataset.folder} was labelled by "
            f"{card.sha256}; use that one, make the dataset anew with this one, or train with labels: stored"
        )
    return teacher


def write_history(rows: list[Row], path: Path) -> None:
    """Write the rows that `train` returned as CSV: one line per epoch; the same rows give the same bytes.

    Raises:
        WorkError: the disk is full.
    """
    write_output(path, csv_bytes(rows, None if rows else ["epoch"]))
