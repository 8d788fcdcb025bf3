import copy

import pytest

from pipeline.core.errors import ParamsError
from pipeline.distill import merge


@pytest.fixture
def block(params) -> dict:
    return params().model_dump(mode="json")


def test_a_student_s_keys_lie_over_the_common_block(block):
    before = copy.deepcopy(block)
    arch, merged = merge(block, {"arch": "resnet8", "epochs": 7, "augment": {"crop": 4}}, "students.small")
    assert arch == "resnet8"
    assert merged.model_dump(mode="json") == {**before, "epochs": 7, "augment": {**before["augment"], "crop": 4}}
    assert block == before, "the block is not changed"


def test_the_reference_block_lies_over_both_and_is_named_when_it_is_wrong(block):
    student = {"arch": "resnet8", "epochs": 7, "batch": 5}
    _, merged = merge(block, student, "students.small", {"labels": "target", "epochs": 9})
    assert (merged.labels, merged.epochs, merged.batch) == ("target", 9, 5)
    with pytest.raises(ParamsError, match=r"^reference\.epochs: 0"):
        merge(block, student, "students.small", {"epochs": 0})


def test_a_wrong_override_is_named_at_the_student(block):
    with pytest.raises(ParamsError, match=r"(?m)^students\.small\.temprature: 4: unknown key") as error:
        merge(block, {"arch": "resnet8", "temprature": 4, "augment": {"crop": -1}}, "students.small")
    assert "students.small.augment.crop: -1" in str(error.value)


def test_a_wrong_common_key_is_named_at_the_common_block(block):
    with pytest.raises(ParamsError, match=r"^distill\.temperature: 0"):
        merge({**block, "temperature": 0}, {"arch": "resnet8"}, "students.small")


def test_a_student_without_architecture_is_refused(block):
    with pytest.raises(ParamsError, match=r"students\.small\.arch: missing"):
        merge(block, {"epochs": 7}, "students.small")


@pytest.mark.parametrize("labels", ["hard", None, 1])
def test_labels_are_stored_live_or_target(block, labels):
    with pytest.raises(ParamsError, match=r"distill\.labels: .*'stored', 'live' or 'target'"):
        merge({**block, "labels": labels}, {"arch": "resnet8"}, "students.small")
