"""One student from one dataset."""

from pathlib import Path

from pipeline import nets
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import TrainingError
from pipeline.core.files import canonical_json, sha256_bytes
from pipeline.core.rng import generator
from pipeline.distill.feed import feed_of
from pipeline.distill.holdout import holdout_of
from pipeline.distill.objective import Pupil, live_labels, objective_of
from pipeline.distill.params import DistillParams
from pipeline.distill.student import Student, StudentInfo, info_of
from pipeline.shards.reader import Dataset
from pipeline.teacher.model import Teacher
from pipeline.training import Feed, Row, fit

__all__ = ["learn", "teacher_of", "train"]


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
        params: the recipe, the labels and the terms beside the loss on logits.
        seed: of initial weights, order, views and mixing.
        compute: where, in which precision. Under bfloat16, live labels are computed in bfloat16 too.
        work: an existing folder for the checkpoint; the caller keeps different code apart, and removes it when the
            student is saved.
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
        WorkError: the checkpoint cannot be read or written.
    """
    taught = teacher_of(dataset, params, teacher)
    card, info = dataset.manifest.teacher, info_of(dataset, arch, params.labels, seed)
    rng = generator(seed, "student/weights")
    student = Student(nets.build(arch, len(card.classes), card.channels, card.size, trust=trust, rng=rng), info)
    feed = feed_of(dataset, params.labels, params.memory_mb, compute.torch_device())
    return learn(student, feed, dataset, params, compute, work, taught)


def learn(
    student: Student,
    feed: Feed,
    dataset: Dataset,
    params: DistillParams,
    compute: Compute,
    work: Path,
    teacher: Teacher | None,
) -> tuple[Student, list[Row]]:
    """Train a student in place, from the weights it has; arguments and errors as in `train`.

    Args:
        student: with the card it will be saved with.
        feed: batches of images whose rows hold what the labels need.
        dataset: gives the holdout split.
        params: the recipe, the labels and the terms.
        compute: where, in which precision.
        work: for the checkpoint.
        teacher: as `teacher_of` gives it.
    """
    # The pupil's connectors want both networks where they are made: before the student goes to the device.
    pupil = Pupil(student, teacher, params)
    net = student if pupil.terms is None else pupil
    live = None
    if teacher is not None:
        placed = compute.compiled(compute.place(teacher), calls=params.steps, flops=0)
        live = live_labels(placed, looks_inside=params.looks_inside)
    with pupil.watching():
        history = fit(
            net,
            feed,
            objective_of(pupil, compute.compiled(net, calls=params.steps, flops=0), params, live),
            params,
            compute,
            student.info.seed,
            Checkpoint(work / f"student-{_key(student.info, params, compute)}.safetensors"),
            holdout_of(dataset, params.memory_mb, compute),
            what=f"training {student.info.arch} on {dataset.manifest.method}",
        )
    return student.eval().cpu(), history


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
    if teacher.info.sha256 != card.sha256:
        raise TrainingError(
            f"labels: live: this teacher's sha256 is {teacher.info.sha256}, {dataset.folder} was labelled by "
            f"{card.sha256}; use that one, make the dataset anew with this one, or train with labels: stored"
        )
    return teacher


def _key(info: StudentInfo, params: DistillParams, compute: Compute) -> str:
    """Sixteen hex digits of everything but the code that the training depends on."""
    content = [info.model_dump(), params.model_dump(), compute.model_dump()]
    return sha256_bytes(canonical_json(content))[:16]
