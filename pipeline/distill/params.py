"""The `distill` block, and what a student overrides in it."""

from typing import Annotated, Any, Literal, cast

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from pipeline.core.params import Block, build
from pipeline.training import Recipe
from pipeline.transfer import Attention, Boundary, Interpolation

__all__ = ["DistillParams", "Labels", "merge"]

Labels = Literal["stored", "live", "target"]
Term = Attention | Boundary | Interpolation | None


class DistillParams(Recipe):
    """A training recipe, and where the labels come from.

    `stored`: the teacher's logits in the shards; no teacher is needed. They belong to the stored image, so with
    `augment` they are approximate labels of the view; small crops, flips and turns that keep the class are what they
    bear. With `mixup`, the label of a mixed image is its two stored logits, interpolated.
    `live`: the teacher labels every augmented and mixed view, at the price of one teacher forward pass a step.
    `target`: cross-entropy with the hard labels `cls`, without the teacher's help: ordinary training, which over real
    data is the reference that distillation is compared with.

    Terms beside the loss on the logits are null where they are off. Those on features look into the teacher, and need
    live labels; so do interpolated images that the teacher is to label.
    """

    labels: Labels
    loss: Literal["kl", "l1"]  # see `transfer`; unused by target
    temperature: PositiveFloat  # tau of kl; unused by l1 and target
    attention: Attention | None
    activation_boundary: Boundary | None
    interpolation: Interpolation | None
    memory_mb: PositiveInt  # MiB; a dataset that needs more is read shard by shard

    @property
    def looks_inside(self) -> bool:
        """Whether there is a term on features."""
        return self.attention is not None or self.activation_boundary is not None

    @field_validator("attention", "activation_boundary", "interpolation")
    @classmethod
    def _taught(cls, block: Term, info: ValidationInfo) -> Term:
        asks = not isinstance(block, Interpolation) or block.labels == "teacher"
        labels = info.data.get("labels", "live")  # a wrong one is reported by itself
        if block is not None and asks and labels != "live":
            raise ValueError(f"asks the teacher, which labels: {labels} does without; set it to null, or labels: live")
        return block


class _Named(Block):
    arch: Annotated[str, Field(min_length=1)]


def merge(
    distill: dict[str, Any],
    student: dict[str, Any],
    key: str,
    last: dict[str, Any] | None = None,
    last_key: str = "reference",
) -> tuple[str, DistillParams]:
    """Lay a student's own keys over the `distill` block; blocks inside, such as `augment`, key by key.

    Args:
        distill: the `distill` block, complete by itself.
        student: `arch`, and any keys of the `distill` block.
        key: the student's full key, for messages.
        last: laid over both, what differs in a training of another kind: the `reference` block, when the student
            learns true labels, or keys of the `few_shot` block.
        last_key: that block's full key, for messages.

    Returns:
        The student's architecture, as in `nets.build`, and its parameters.

    Raises:
        ParamsError: wrong keys, named where they stand: under `distill`, under `key` or under `last_key`.
    """
    build(DistillParams, distill, "distill")
    named = build(_Named, {name: value for name, value in student.items() if name == "arch"}, key)
    own = {name: value for name, value in student.items() if name != "arch"}
    block = _over(distill, own)
    params = build(DistillParams, block, key)
    return named.arch, params if last is None else build(DistillParams, _over(block, last), last_key)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = below.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[name] = _over(cast(dict[str, Any], old), cast(dict[str, Any], value))
        else:
            merged[name] = value
    return merged
