"""Whose student it is: the card that a dataset's student gets, and the proxy student that a dataset brings along."""

from ..classifier import Classifier, Student, StudentCard
from ..core.errors import TrainingError
from ..shards.reader import Dataset

__all__ = ["card_of", "proxy_of"]


def card_of(dataset: Dataset, arch: str, labels: str, seed: int) -> StudentCard:
    """What is known of a dataset's student before it is saved."""
    teacher = dataset.manifest.teacher
    return StudentCard(
        **teacher.model_dump(include={"classes", "channels", "size", "mean", "std"}),
        arch=arch,
        cell="",
        method=dataset.manifest.method,
        data_free=dataset.manifest.data_free,
        labels=labels,
        seed=seed,
        dataset=dataset.sha256,
        teacher=teacher.sha256,
        few_shot=None,
        sha256="",
    )


def proxy_of(dataset: Dataset, trust: tuple[str, ...] = ()) -> Student:
    """A dataset's proxy student as the method left it in the end: on the CPU, in evaluation mode.

    It learned from the dataset's own teacher, which labelled every batch live, from the dataset's seed.

    Args:
        dataset: the last, by name, of the proxies among its attachments is taken.
        trust: sha256 of user Python files whose code may run, for an architecture that lives in one.

    Raises:
        TrainingError: the dataset has no proxy, or one whose weights do not fit its architecture or are not finite.
        ShardError: the file is damaged.
        ParamsError: the architecture is not known here.
        TeacherError: the architecture is in a user's file that is not trusted.
    """
    manifest = dataset.manifest
    proxies = [entry for entry in manifest.attachments if entry.kind == "proxy"]
    if not proxies:
        raise TrainingError(
            f"{dataset.folder}: no proxy student among its attachments; only methods that train one while they make "
            f"images leave it, {manifest.method} did not"
        )
    last = proxies[-1]
    path, arch = dataset.folder / last.name, last.facts.get("arch")
    if not isinstance(arch, str):
        raise TrainingError(f"{path}: the manifest names no arch for it; make the dataset again")
    card = card_of(dataset, arch, "live", manifest.seed).model_copy(update={"sha256": last.sha256})
    return Classifier.from_weights(card, dataset.attachment(last), trust, str(path))
