import json

import pytest
import torch

from pipeline import nets
from pipeline.core.errors import TrainingError
from pipeline.core.rng import generator
from pipeline.distill import Student, StudentInfo


@pytest.fixture
def student() -> Student:
    info = StudentInfo(
        arch="resnet8", classes=("a", "b", "c"), channels=3, size=16, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6),
        method="zskd", data_free=True, labels="stored", seed=3, dataset="0" * 64, teacher="1" * 64,
        few_shot=None, sha256="",
    )  # fmt: skip
    return Student(nets.build("resnet8", 3, 3, 16, rng=generator(0, "test")), info).eval()


def test_a_student_comes_back_as_it_was_saved(tmp_path, student):
    student.save(tmp_path / "s")
    again = Student.load(tmp_path / "s")
    images = torch.rand(4, 3, 16, 16, generator=generator(1, "test"))
    assert torch.equal(again(images), student(images))
    assert again.info == student.info
    assert len(again.info.sha256) == 64
    assert not again.training


def test_images_are_normalised_inside(student):
    images = torch.rand(2, 3, 16, 16, generator=generator(1, "test"))
    by_hand = torch.stack([(images[:, i] - (0.1, 0.2, 0.3)[i]) / (0.4, 0.5, 0.6)[i] for i in range(3)], 1)
    torch.testing.assert_close(student(images), student.net(by_hand))


def test_the_same_student_gives_the_same_bytes(tmp_path, student):
    for name in ("one", "two"):
        student.save(tmp_path / name)
    for file in ("model.safetensors", "student.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_changed_bit_of_the_weights_is_an_error(tmp_path, student):
    student.save(tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"model\.safetensors: sha256 differs"):
        Student.load(tmp_path)


def test_missing_files_are_named(tmp_path, student):
    with pytest.raises(TrainingError, match=r"student\.json: no student there"):
        Student.load(tmp_path)
    student.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"model\.safetensors: sha256"):
        Student.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"arch": 1}'])
def test_a_card_that_is_none_is_named(tmp_path, student, text):
    student.save(tmp_path)
    (tmp_path / "student.json").write_text(text)
    with pytest.raises(TrainingError, match=r"student\.json: not a student's card"):
        Student.load(tmp_path)


def test_weights_of_another_architecture_are_named(tmp_path, student):
    student.save(tmp_path)
    path = tmp_path / "student.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"arch": "resnet14"}))
    with pytest.raises(TrainingError, match="does not fit architecture resnet14"):
        Student.load(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path, student):
    with torch.no_grad():
        next(student.parameters()).view(-1)[0] = float("nan")
    student.save(tmp_path)
    with pytest.raises(TrainingError, match="not finite"):
        Student.load(tmp_path)
