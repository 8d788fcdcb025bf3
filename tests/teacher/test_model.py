import json

import pytest
import torch
from torch import nn

from pipeline import nets
from pipeline.core.errors import TeacherError
from pipeline.core.files import sha256_bytes, sha256_file
from pipeline.teacher.model import Teacher, TeacherInfo

ARCH = "resnet8"


def info(**changes):
    values = {
        "arch": ARCH,
        "classes": ("a", "b", "c"),
        "channels": 1,
        "size": 16,
        "mean": (0.25,),
        "std": (0.5,),
        "batch_norm": True,
        "sha256": "",
        "accuracy": None,
        "source": "a test",
    }
    return TeacherInfo(**(values | changes))


@pytest.fixture
def teacher():
    net = nets.build(ARCH, 3, 1, 16, rng=torch.Generator().manual_seed(1))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
    return Teacher(net, info())


IMAGES = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(2))


def test_a_saved_teacher_comes_back_with_the_same_answers(teacher, tmp_path):
    teacher.save(tmp_path)
    loaded = Teacher.load(tmp_path)
    assert torch.equal(loaded(IMAGES), teacher(IMAGES))
    assert loaded.info == teacher.info
    assert loaded.info.sha256 == sha256_file(tmp_path / "model.safetensors")


def test_the_same_teacher_is_saved_as_the_same_bytes(teacher, tmp_path):
    for name in ("one", "two"):
        teacher.save(tmp_path / name)
    for name in ("model.safetensors", "teacher.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_normalisation_is_the_teachers_own(teacher):
    assert torch.allclose(teacher(IMAGES), teacher.net((IMAGES - 0.25) / 0.5))


def test_a_teacher_is_frozen_and_its_statistics_stand_still(teacher):
    before = {name: value.clone() for name, value in teacher.net.state_dict().items()}
    images = IMAGES.clone().requires_grad_()
    teacher(images).sum().backward()
    assert images.grad is not None
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    assert all(not module.training for module in teacher.modules())
    assert all(torch.equal(before[name], value) for name, value in teacher.net.state_dict().items())


def test_a_teacher_refuses_to_be_put_into_training_mode(teacher):
    with pytest.raises(TeacherError, match="frozen"):
        teacher.train()
    assert not teacher.eval().net.training


@pytest.mark.parametrize(
    "changes", [{"arch": "resnet14"}, {"mean": (0.3,)}, {"std": (0.4,)}, {"size": 20}, {"channels": 3}]
)
def test_whatever_changes_the_function_changes_the_recorded_sha256(teacher, tmp_path, changes):
    teacher.save(tmp_path / "one")
    other = Teacher(teacher.net, info(**changes))
    other.save(tmp_path / "two")
    assert teacher.info.sha256 != other.info.sha256


@pytest.mark.parametrize(("key", "value"), [("mean", [0.3]), ("arch", "resnet14"), ("std", [1.0]), ("size", 20)])
def test_an_edited_card_is_refused(teacher, tmp_path, key, value):
    teacher.save(tmp_path)
    card = json.loads((tmp_path / "teacher.json").read_text())
    (tmp_path / "teacher.json").write_text(json.dumps(card | {key: value}))
    with pytest.raises(TeacherError, match="not of one run"):
        Teacher.load(tmp_path)


def test_a_flipped_bit_in_the_weights_is_refused(teacher, tmp_path):
    teacher.save(tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(TeacherError, match=r"model.safetensors: sha256 differs.*dvc repro teacher"):
        Teacher.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"arch": "resnet8"}', b'{"size": NaN}']
)
def test_a_damaged_card_is_one_line_with_the_cure(teacher, tmp_path, content):
    teacher.save(tmp_path)
    (tmp_path / "teacher.json").write_bytes(content)
    with pytest.raises(TeacherError, match=r"teacher.json: damaged .*dvc repro teacher") as caught:
        Teacher.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_teacher_is_an_error_with_the_cure(tmp_path):
    with pytest.raises(TeacherError, match=r"no teacher there; run `dvc repro teacher`"):
        Teacher.load(tmp_path)


def test_a_card_of_a_weights_file_that_does_not_fit_names_the_keys(teacher, tmp_path):
    Teacher(teacher.net, info(classes=("a", "b"))).save(tmp_path)
    with pytest.raises(TeacherError, match=r"linear.weight: shape \[3, 64\], expected \[2, 64\]"):
        Teacher.load(tmp_path)


def test_tied_parameters_are_saved(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    net[2].weight = net[1].weight
    Teacher(net, info()).save(tmp_path)
    assert (tmp_path / "teacher.json").is_file()


CODE = b"""
from torch import nn
def tiny(classes, channels, size):
    return nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, classes))
"""


@pytest.fixture
def user_teacher(tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(CODE)
    net = nets.build(f"python:{path}:tiny", 3, 1, 16, trust=(sha256_bytes(CODE),))
    return Teacher(net, info(arch="python:net.py:tiny", batch_norm=False), CODE)


def test_a_teacher_from_user_code_moves_with_its_folder_and_runs_with_consent(user_teacher, tmp_path):
    user_teacher.save(tmp_path / "teacher")
    (tmp_path / "mine.py").unlink()
    moved = (tmp_path / "teacher").rename(tmp_path / "elsewhere")
    loaded = Teacher.load(moved, trust=(sha256_bytes(CODE),))
    assert torch.equal(loaded(IMAGES), user_teacher(IMAGES))
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "net.py").read_bytes() == CODE


@pytest.mark.parametrize("trust", [(), ("0" * 64,)])
def test_without_consent_no_user_code_runs_and_the_hash_is_shown(user_teacher, tmp_path, trust):
    user_teacher.save(tmp_path / "teacher")
    with pytest.raises(TeacherError, match=sha256_bytes(CODE)):
        Teacher.load(tmp_path / "teacher", trust=trust)


def test_other_trusted_code_in_its_place_is_refused(user_teacher, tmp_path):
    user_teacher.save(tmp_path)
    other = CODE + b"# another\n"
    (tmp_path / "net.py").write_bytes(other)
    with pytest.raises(TeacherError, match="not of one run"):
        Teacher.load(tmp_path, trust=(sha256_bytes(CODE), sha256_bytes(other)))


def test_a_changed_code_changes_the_recorded_sha256_though_the_weights_are_the_same(user_teacher, tmp_path):
    user_teacher.save(tmp_path)
    first = user_teacher.info.sha256
    other = Teacher(user_teacher.net, user_teacher.info, CODE + b"# another\n")
    other.save(tmp_path)
    assert other.info.sha256 != first


def test_saving_another_teacher_removes_the_user_code_of_the_last(user_teacher, teacher, tmp_path):
    user_teacher.save(tmp_path)
    teacher.save(tmp_path)
    assert not (tmp_path / "net.py").exists()
