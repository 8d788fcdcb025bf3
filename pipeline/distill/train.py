"""One student from one dataset."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pipeline import nets, transfer
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import TrainingError
from pipeline.core.files import canonical_json, sha256_bytes
from pipeline.core.rng import generator
from pipeline.distill.feed import feed_of
from pipeline.distill.holdout import holdout_of
from pipeline.distill.params import DistillParams
from pipeline.distill.student import Student, StudentInfo, info_of
from pipeline.shards.reader import Dataset
from pipeline.teacher.model import Teacher
from pipeline.training import Objective, Row, View, fit

__all__ = ["train"]


def train(
    dataset: Dataset,
    arch: str,
    params: DistillParams,
    seed: int,
    compute: Compute,
    work: Path,
    teacher: Teacher | None = None,
    trust: tuple[str, ...] = (),
) -> tuple[Student, list[Row]]:
    """Train a fresh student on a dataset's training split; the weights after the last epoch are returned.

    A run that was killed goes on from its last whole epoch and ends, on a CPU, with the weights and the history of one
    that was not.

    Args:
        dataset: the shards; every one is verified before its first sample is used.
        arch: as in `nets.build`.
        params: the recipe and the labels.
        seed: of initial weights, order, views and mixing.
        compute: where, in which precision. Under bfloat16, live labels are computed in bfloat16 too.
        work: an existing folder for the checkpoint; the caller keeps different code apart, and removes it when the
            student is saved.
        teacher: needed by `labels: live` alone; moved to the device of `compute`.
        trust: sha256 of user Python files whose code may run, for an architecture that lives in one.

    Returns:
        The student, on the CPU in evaluation mode, and one row per epoch: epoch, loss, agreement (with the labels'
        argmax, on the batches trained on), learning_rate, and holdout_kl and holdout_agreement where the dataset has a
        holdout split.

    Raises:
        TrainingError: live labels without the dataset's own teacher, or a loss that is not finite.
        ShardError: a shard is damaged.
        ParamsError: the architecture does not exist, or does not fit the images.
        WorkError: the checkpoint cannot be read or written.
    """
    labeller = _labeller(dataset, params, compute, teacher)
    card, info = dataset.manifest.teacher, info_of(dataset, arch, params.labels, seed)
    rng = generator(seed, "student/weights")
    student = Student(nets.build(arch, len(card.classes), card.channels, card.size, trust=trust, rng=rng), info)
    history = fit(
        student,
        feed_of(dataset, params.labels, params.memory_mb, compute.torch_device()),
        _objective(params, len(card.classes), labeller),
        params,
        compute,
        seed,
        Checkpoint(work / f"student-{_key(info, params, compute)}.safetensors"),
        holdout_of(dataset, params.memory_mb, compute),
        what=f"training {arch} on {info.method}",
    )
    return student.eval().cpu(), history


def _labeller(
    dataset: Dataset, params: DistillParams, compute: Compute, teacher: Teacher | None
) -> Callable[[Tensor], Tensor] | None:
    """The teacher where labels are live, placed and compiled as the student is."""
    if params.labels != "live":
        return None
    card = dataset.manifest.teacher
    if teacher is None:
        raise TrainingError(
            f"labels: live needs the teacher {card.arch} that labelled {dataset.folder} (sha256 {card.sha256}); "
            "make it with `dvc repro teacher`, or train with labels: stored, which needs none"
        )
    if teacher.info.sha256 != card.sha256:
        raise TrainingError(
            f"labels: live: this teacher's sha256 is {teacher.info.sha256}, {dataset.folder} was labelled by "
            f"{card.sha256}; use that one, make the dataset anew with this one, or train with labels: stored"
        )
    placed = compute.place(teacher)
    return compute.compiled(placed, calls=params.steps, flops=0)


def _objective(params: DistillParams, classes: int, teacher: Callable[[Tensor], Tensor] | None) -> Objective:
    def stored(logits: Tensor, view: View) -> dict[str, Tensor]:
        return transfer.distillation(logits, view.mixed(view.rows["logits"]), params.temperature)

    def live(logits: Tensor, view: View) -> dict[str, Tensor]:
        assert teacher is not None
        with torch.inference_mode():
            label = teacher(view.images)
        # A copy made out here is an ordinary tensor, which the loss may keep for its gradient.
        return transfer.distillation(logits, label.clone(), params.temperature)

    def target(logits: Tensor, view: View) -> dict[str, Tensor]:
        label = view.mixed(functional.one_hot(view.rows["cls"], classes).float())
        return {
            "loss": transfer.cross_entropy(logits, label),
            "agreement": transfer.agreement(logits, label),
        }

    return {"stored": stored, "live": live, "target": target}[params.labels]


def _key(info: StudentInfo, params: DistillParams, compute: Compute) -> str:
    """Sixteen hex digits of everything but the code that the training depends on."""
    content = [info.model_dump(), params.model_dump(), compute.model_dump()]
    return sha256_bytes(canonical_json(content))[:16]
