"""Training a teacher on real data, with the loop that trains students."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.files import canonical_json, sha256_bytes
from pipeline.core.images import Normalise
from pipeline.core.rng import generator
from pipeline.datasets import Labelled
from pipeline.teacher import usercode
from pipeline.teacher.blocks import Train
from pipeline.training import Pool, View, fit

__all__ = ["train"]


def train(
    params: Train, data: Labelled, trust: tuple[str, ...], compute: Compute, seed: int, work: Path
) -> usercode.Built:
    """Train with cross-entropy on hard labels; the weights after the last epoch are kept, not the best ones.

    A run that was killed goes on from its last whole epoch, unless parameters, data or seed have changed since.

    Args:
        params: architecture, normalisation and recipe.
        data: the training split.
        trust: sha256 of user Python files whose code may run.
        compute: where and how to run.
        seed: of initial weights, order and augmentation.
        work: an existing folder for the checkpoint; the caller removes it once the teacher is saved.

    Returns:
        The trained network, on the CPU.

    Raises:
        TrainingError: the loss is not finite.
        WorkError: the checkpoint cannot be read or written.
    """
    channels, size = data.images.shape[1], data.images.shape[-1]
    rng = generator(seed, "teacher/weights")
    built = usercode.build(params.arch, len(data.classes), channels, size, trust, rng=rng)
    checkpoint = Checkpoint(work / f"teacher-{_key(params, data, built.code, seed)}.safetensors")
    net = nn.Sequential(Normalise(params.mean, params.std), built.net)
    pool = Pool(data.images, {"label": data.labels}, compute.torch_device())
    fit(net, pool, _cross_entropy, params.recipe, compute, seed, checkpoint, what=f"training teacher {params.arch}")
    built.net.to("cpu")
    return built


def _key(params: Train, data: Labelled, code: bytes | None, seed: int) -> str:
    """Sixteen hex digits of everything that a training depends on."""
    parts = [data.images.numpy().tobytes(), data.labels.numpy().tobytes(), code or b""]
    content = canonical_json([params.model_dump(mode="json"), seed, [sha256_bytes(part) for part in parts]])
    return sha256_bytes(content)[:16]


def _cross_entropy(logits: Tensor, view: View) -> dict[str, Tensor]:
    """Cross-entropy with the labels, mixed as the images were; in float32 under autocast too."""
    targets = functional.one_hot(view.rows["label"], logits.shape[1]).to(torch.float32)
    return {"loss": functional.cross_entropy(logits.float(), view.mixed(targets))}
