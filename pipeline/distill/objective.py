"""What a student minimises: a loss on its logits and, where they are asked for, terms beside it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline import transfer
from pipeline.core.rng import generator
from pipeline.distill.params import DistillParams
from pipeline.distill.student import Student
from pipeline.teacher.model import Teacher
from pipeline.training import Objective, View
from pipeline.transfer import FeatureTerms

__all__ = ["Pupil", "live_labels", "objective_of"]

Labeller = Callable[[Tensor], Tensor]


class Pupil(nn.Module):
    """A student while it learns, with the connectors that learn beside it and are thrown away afterwards.

    Without terms on features it has no parameter beyond the student's.
    """

    def __init__(self, student: Student, teacher: Teacher | None, params: DistillParams) -> None:
        """Make the connectors, from the student's seed.

        Args:
            student: what is trained.
            teacher: given where the parameters ask for terms on features.
            params: which terms.

        Raises:
            TeacherError: a network has no block of a name that is given.
            ParamsError: a block that a term cannot be computed from.
        """
        super().__init__()
        self.student = student
        self.terms: FeatureTerms | None = None
        if teacher is not None and params.looks_inside:
            info, rng = student.info, generator(student.info.seed, "student/connectors")
            shape = (info.channels, info.size, info.size)
            self.terms = FeatureTerms(
                student.net, teacher.net, shape, params.attention, params.activation_boundary, rng
            )

    def forward(self, images: Tensor) -> Tensor:
        """The student's logits."""
        return self.student(images)

    def watching(self) -> AbstractContextManager[None]:
        """While the block lasts, the terms see the passes of student and teacher."""
        return nullcontext() if self.terms is None else self.terms.watching()


def live_labels(teacher: Labeller, *, looks_inside: bool) -> Labeller:
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


def objective_of(pupil: Pupil, forward: Labeller, params: DistillParams, teacher: Labeller | None) -> Objective:
    """The scalars of a step: loss, agreement with the labels' argmax and, where there are several, each term.

    The terms bear their weights, so that the loss is their sum: kl, l1 or cross_entropy (the loss on the batch),
    attention, activation_boundary, interpolation.

    Args:
        pupil: inside its `watching`.
        forward: the pupil, perhaps compiled; it sees virtual images in passes of their own, so that BatchNorm
            normalises them by their own statistics, and keeps running ones of both kinds of batches.
        params: what to minimise.
        teacher: the live labels; None where labels are stored or hard.
    """
    seed, classes = pupil.student.info.seed, len(pupil.student.info.classes)
    name = "cross_entropy" if params.labels == "target" else params.loss
    label, loss = _labels(params, classes, teacher), _loss(params)

    def objective(logits: Tensor, view: View) -> dict[str, Tensor]:
        wanted = label(view)
        terms = {name: loss(logits, wanted)}
        if pupil.terms is not None:
            terms |= pupil.terms.terms()
        if params.interpolation is not None:  # last: its passes replace what the terms above were computed from
            rng = generator(seed, "distill/interpolation", view.step)
            share = transfer.virtual_shares(params.interpolation.alpha, len(logits), rng).to(logits.device)
            asked = teacher if params.interpolation.labels == "teacher" else None
            images, virtual = transfer.virtual(view.images, wanted, share, asked)
            terms["interpolation"] = params.interpolation.weight * loss(forward(images), virtual)
        agreement = transfer.agreement(logits, wanted)
        if len(terms) == 1:
            return {"loss": terms[name], "agreement": agreement}
        return {"loss": torch.stack(tuple(terms.values())).sum(), "agreement": agreement, **terms}

    return objective


def _labels(params: DistillParams, classes: int, teacher: Labeller | None) -> Callable[[View], Tensor]:
    """A batch's labels [B, K]: logits, or probabilities where they are hard."""
    match params.labels:
        case "stored":
            return lambda view: view.mixed(view.rows["logits"])
        case "target":
            return lambda view: view.mixed(functional.one_hot(view.rows["cls"], classes).float())
        case "live":
            assert teacher is not None
            return lambda view: teacher(view.images)


def _loss(params: DistillParams) -> Callable[[Tensor, Tensor], Tensor]:
    if params.labels == "target":
        return transfer.cross_entropy
    if params.loss == "l1":
        return transfer.l1
    return lambda student, label: transfer.kl(student, label, params.temperature)
