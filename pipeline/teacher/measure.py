"""Checks that a teacher answers at all, and how well it does on real data."""

import torch

from pipeline.core.device import Compute
from pipeline.core.errors import TeacherError
from pipeline.core.images import from_uint8
from pipeline.core.progress import track
from pipeline.datasets import Labelled
from pipeline.teacher.model import Teacher

__all__ = ["accuracy", "check_answers"]

_BATCH = 500  # images at once; the result does not depend on it


def check_answers(teacher: Teacher) -> None:
    """Run two blank images through the teacher.

    Raises:
        TeacherError: the network fails on images of the declared size, or does not return [N, K] finite logits.
    """
    info = teacher.info
    images = torch.zeros(2, info.channels, info.size, info.size)
    try:
        with torch.no_grad():
            logits = teacher(images)
    # The network may be anybody's: whatever it raises, it does not take these images.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise TeacherError(f"{info.arch}: fails on images of shape {list(images.shape[1:])}: {reason}") from error
    shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != [2, len(info.classes)]:
        raise TeacherError(f"{info.arch}: returns {shape} for 2 images, expected [2, {len(info.classes)}] logits")
    if not bool(torch.isfinite(logits).all()):
        raise TeacherError(f"{info.arch}: returns logits that are not finite for a blank image")


def accuracy(teacher: Teacher, test: Labelled, compute: Compute) -> float:
    """Top-1 accuracy, 0..1, in float32; the teacher is left on the CPU."""
    device = compute.torch_device()
    compute.place(teacher)
    right = 0
    try:
        with torch.no_grad():
            for start in track(range(0, len(test.labels), _BATCH), "teacher on the test set", unit="batch"):
                images = from_uint8(test.images[start : start + _BATCH].to(device))
                labels = test.labels[start : start + _BATCH].to(device)
                right += int((teacher(images).argmax(dim=1) == labels).sum())
    finally:
        teacher.to("cpu")
    return right / len(test.labels)
