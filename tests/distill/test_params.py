import copy

import pytest

from pipeline.core.errors import ParamsError
from pipeline.distill import merge
from pipeline.optimise.augment import Augment


@pytest.fixture
def block(params) -> dict:
    return params().model_dump(mode="json")


def test_a_student_s_keys_lie_over_the_common_block(block):
    before = copy.deepcopy(block)
    arch, merged = merge(block, {"arch": "resnet8", "epochs": 7, "augment": {"crop": 4}}, "students.small")
    assert arch == "resnet8"
    assert merged.model_dump(mode="json") == {
        **before,
        "epochs": 7,
        "augment": {**Augment().model_dump(mode="json"), "crop": 4},
    }
    assert block == before, "the block is not changed"


def test_the_reference_block_lies_over_both_and_is_named_when_it_is_wrong(block):
    student = {"arch": "resnet8", "epochs": 7, "batch": 5}
    _, merged = merge(
        block, student, "students.small", {"labels": "hard", "loss": {"cross_entropy": {}}, "terms": {}, "epochs": 9}
    )
    assert (merged.labels, merged.epochs, merged.batch) == ("hard", 9, 5)
    with pytest.raises(ParamsError, match=r"^reference\.epochs: 0"):
        merge(block, student, "students.small", {"epochs": 0})


def test_a_wrong_override_is_named_at_the_student(block):
    with pytest.raises(ParamsError, match=r"(?m)^students\.small\.temprature: 4: unknown key") as error:
        merge(block, {"arch": "resnet8", "temprature": 4, "augment": {"crop": -1}}, "students.small")
    assert "students.small.augment.crop: -1" in str(error.value)


def test_a_wrong_common_key_is_named_at_the_common_block(block):
    with pytest.raises(ParamsError, match=r"^distill\.loss\.kl\.temperature: 0"):
        merge({**block, "loss": {"kl": {"temperature": 0}}}, {"arch": "resnet8"}, "students.small")


def test_a_student_without_architecture_is_refused(block):
    with pytest.raises(ParamsError, match=r"students\.small\.arch: missing"):
        merge(block, {"epochs": 7}, "students.small")


@pytest.mark.parametrize("labels", ["target", None, 1])
def test_labels_are_stored_live_or_hard(block, labels):
    with pytest.raises(ParamsError, match=r"distill\.labels: .*'stored', 'live' or 'hard'"):
        merge({**block, "labels": labels}, {"arch": "resnet8"}, "students.small")


def test_a_loss_terms_and_a_schedule_are_replaced_and_not_mixed(params):
    attention = {"weight": 1.0, "blocks": "auto"}
    block = params(labels="live", attention=attention).model_dump(mode="json", exclude_none=True)
    falling = {"milestones": [0.5], "decay": 0.1}
    boundary = {"activation_boundary": {"weight": 0.1, "margin": 1.0, "blocks": "auto"}}
    own = {"arch": "resnet8", "loss": {"l1": {}}, "terms": boundary, "optimizer": {"schedule": falling}}
    _, merged = merge(block, own, "students.small")
    assert merged.loss.name == "l1"
    assert list(merged.terms.given) == ["activation_boundary"]
    assert merged.optimizer.schedule.model_dump(mode="json") == falling
    assert merged.optimizer.name == "adam"


@pytest.mark.parametrize(
    ("labels", "loss"), [("hard", {"kl": {"temperature": 4.0}}), ("stored", {"cross_entropy": {}}), ("live", None)]
)
def test_hard_labels_go_with_cross_entropy_and_the_teacher_s_logits_with_the_others(block, labels, loss):
    changed = {**block, "labels": labels, "loss": loss or {"kl": {"temperature": 1.0}, "l1": {}}}
    with pytest.raises(ParamsError, match=r"distill.*(does not go with labels|expected one of)"):
        merge(changed, {"arch": "resnet8"}, "students.small")
