"""The `distill` block, and what a student overrides in it."""

from typing import Annotated, Any, Literal, cast

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from ..core.params import Block, build
from ..losses import Logits, Terms
from ..optimise.network import Recipe

__all__ = ["DistillParams", "Labels", "merge"]

Labels = Literal["stored", "live", "hard"]

_WHOLE = ("loss", "terms", "schedule")  # mappings in which another name means another thing: replaced, never mixed


class DistillParams(Recipe):
    """A training recipe, what is minimised, and where the labels come from.

    `stored`: the teacher's logits in the shards; no teacher is needed. They belong to the stored image, so with
    `augment` they are approximate labels of the view; small crops, flips and turns that keep the class are what they
    bear. With `mixup`, the label of a mixed image is its two stored logits, interpolated.
    `live`: the teacher labels every augmented and mixed view, at the price of one teacher forward pass a step.
    `hard`: cross-entropy with the classes `cls`, without the teacher's help: ordinary training, which over real data
    is the reference that distillation is compared with.

    Terms that compare feature maps look into the teacher, and need live labels; so do interpolated images that the
    teacher is to label.
    """

    labels: Labels
    loss: Logits  # on logits
    terms: Terms = Terms()  # beside it
    memory_mb: PositiveInt  # MiB; a dataset that needs more is read shard by shard

    @field_validator("loss")
    @classmethod
    def _labelled(cls, loss: Logits, info: ValidationInfo) -> Logits:
        labels = info.data.get("labels")  # not there: wrong, and reported by itself
        if labels is not None and (labels == "hard") != (loss.name == "cross_entropy"):
            raise ValueError(
                f"does not go with labels: {labels}; hard labels take {{cross_entropy: {{}}}}, the teacher's logits "
                "{kl: {temperature: 4}} or {l1: {}}"
            )
        return loss

    @field_validator("terms")
    @classmethod
    def _taught(cls, terms: Terms, info: ValidationInfo) -> Terms:
        labels = info.data.get("labels", "live")
        asking = [name for name, term in terms.given.items() if term.asks_teacher]
        if asking and labels != "live":
            raise ValueError(
                f"{' and '.join(asking)}: the teacher is asked, which labels: {labels} does without; take it out, or "
                "set labels: live"
            )
        return terms


class _Named(Block):
    arch: Annotated[str, Field(min_length=1)]


def merge(
    distill: dict[str, Any],
    student: dict[str, Any],
    key: str,
    last: dict[str, Any] | None = None,
    last_key: str = "reference",
) -> tuple[str, DistillParams]:
    """Lay a student's own keys over the `distill` block.

    Blocks inside, such as `augment`, are laid over key by key; `loss`, `terms` and `schedule` are replaced.

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
        if isinstance(old, dict) and isinstance(value, dict) and name not in _WHOLE:
            merged[name] = _over(cast(dict[str, Any], old), cast(dict[str, Any], value))
        else:
            merged[name] = value
    return merged
