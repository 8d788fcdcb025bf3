"""The `distill` block, and what a student overrides in it."""

from typing import Annotated, Any, Literal, cast

from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.core.params import Block, build
from pipeline.training import Recipe

__all__ = ["DistillParams", "Labels", "merge"]

Labels = Literal["stored", "live", "target"]


class DistillParams(Recipe):
    """A training recipe, and where the labels come from.

    `stored`: the teacher's logits in the shards; no teacher is needed. They belong to the stored image, so with
    `augment` they are approximate labels of the view; small crops, flips and turns that keep the class are what they
    bear. With `mixup`, the label of a mixed image is its two stored logits, interpolated.
    `live`: the teacher labels every augmented and mixed view, at the price of one teacher forward pass a step.
    `target`: cross-entropy with the hard labels `cls`, without the teacher's help: ordinary training, which over real
    data is the reference that distillation is compared with.
    """

    labels: Labels
    temperature: PositiveFloat  # tau; unused by target
    memory_mb: PositiveInt  # MiB; a dataset that needs more is read shard by shard


class _Named(Block):
    arch: Annotated[str, Field(min_length=1)]


def merge(
    distill: dict[str, Any], student: dict[str, Any], key: str, reference: dict[str, Any] | None = None
) -> tuple[str, DistillParams]:
    """Lay a student's own keys over the `distill` block; blocks inside, such as `augment`, key by key.

    Args:
        distill: the `distill` block, complete by itself.
        student: `arch`, and any keys of the `distill` block.
        key: the student's full key, for messages.
        reference: the `reference` block, laid over both: what differs when the student learns true labels.

    Returns:
        The student's architecture, as in `nets.build`, and its parameters.

    Raises:
        ParamsError: wrong keys, named where they stand: under `distill`, under `key` or under `reference`.
    """
    build(DistillParams, distill, "distill")
    named = build(_Named, {name: value for name, value in student.items() if name == "arch"}, key)
    own = {name: value for name, value in student.items() if name != "arch"}
    block = _over(distill, own)
    params = build(DistillParams, block, key)
    return named.arch, params if reference is None else build(DistillParams, _over(block, reference), "reference")


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = below.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[name] = _over(cast(dict[str, Any], old), cast(dict[str, Any], value))
        else:
            merged[name] = value
    return merged
