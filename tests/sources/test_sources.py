import json
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from pipeline import nets, real, sources
from pipeline.classifier import Classifier, TeacherCard
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.core.files import sha256_bytes, sha256_file
from pipeline.optimise import network
from tests.support import CPU
from tests.support import make_teacher as make

DIGITS = real.parse({"source": "digits", "size": 12, "channels": 1})
CODE = b"""
import pathlib
from torch import nn
pathlib.Path("CANARY").touch()
def tiny(classes, channels, size):
    body = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(4, classes))
"""
RECIPE = {
    "batch": 32,
    "epochs": 2,
    "steps_per_epoch": 15,
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "schedule": "cosine", "clip_norm": 1.0},
    "augment": {"crop": 1},
}


def checkpoint_block(path, **changes):
    return {
        "source": "checkpoint",
        "path": str(path),
        "key": None,
        "arch": "resnet8",
        "classes": 10,
        "channels": 1,
        "size": 12,
        "mean": [0.3],
        "std": [0.4],
    } | changes


def train_block(**changes):
    return {"source": "train", "arch": "resnet8", "mean": [0.3], "std": [0.3], "recipe": RECIPE} | changes


@pytest.fixture
def weights(tmp_path):
    net = nets.build("resnet8", 10, 1, 12, rng=torch.Generator().manual_seed(0))
    path = tmp_path / "weights.safetensors"
    save_file(net.state_dict(), path)
    return path


def test_a_checkpoint_becomes_a_teacher_without_any_data(weights, tmp_path):
    teacher = make(checkpoint_block(weights), tmp_path)
    assert teacher.card.classes == tuple("0123456789")
    assert teacher.card.accuracy is None
    assert teacher.card.batch_norm
    assert teacher.card.source == f"weights.safetensors (sha256 {sha256_file(weights)})"
    images = torch.rand(3, 1, 12, 12)
    net = nets.build("resnet8", 10, 1, 12)
    net.load_state_dict(teacher.net.state_dict())
    assert torch.allclose(teacher(images), net.eval()((images - 0.3) / 0.4))


def test_accuracy_is_that_of_a_plain_loop_over_the_real_test_set(weights, tmp_path):
    teacher = make(checkpoint_block(weights, classes=None), tmp_path, DIGITS)
    test = real.load(DIGITS, "test")
    right = 0
    for image, label in zip(test.images, test.labels, strict=True):
        right += int(teacher(image[None].float() / 255).argmax() == label)
    assert teacher.card.accuracy == right / 360
    assert next(teacher.parameters()).device.type == "cpu"


def test_class_names_come_from_the_data_unless_they_are_given(weights, tmp_path):
    names = [f"digit {i}" for i in range(10)]
    assert make(checkpoint_block(weights, classes=names), tmp_path, DIGITS).card.classes == tuple(names)
    assert make(checkpoint_block(weights, classes=None), tmp_path, DIGITS).card.classes == tuple("0123456789")


def test_no_class_names_anywhere_is_an_error_with_the_cure(weights, tmp_path):
    with pytest.raises(ParamsError, match=r"teacher.classes: null.*give the number"):
        make(checkpoint_block(weights, classes=None), tmp_path)


def test_a_teacher_that_does_not_fit_the_data_is_refused(weights, tmp_path):
    with pytest.raises(TeacherError, match=r"the teacher's size: 16, but the real data has 12"):
        make(checkpoint_block(weights, size=16), tmp_path, DIGITS)


def test_weights_of_another_architecture_name_the_file_and_the_keys(weights, tmp_path):
    with pytest.raises(TeacherError, match=r"weights.safetensors as resnet14: .*missing layer1.1.bn1.bias"):
        make(checkpoint_block(weights, arch="resnet14"), tmp_path)


def user_block(tmp_path, **changes):
    path = tmp_path / "mine.py"
    path.write_bytes(CODE.replace(b"CANARY", str(tmp_path / "ran").encode()))
    block = checkpoint_block(path, source="python", callable="tiny", checkpoint=None) | changes
    del block["arch"]
    return block, sha256_bytes(path.read_bytes())


@pytest.mark.parametrize("trust", [(), ("ab" * 32,)])
def test_user_code_needs_consent_and_the_error_shows_what_to_add(tmp_path, trust):
    block, digest = user_block(tmp_path)
    with pytest.raises(TeacherError, match=rf"mine.py.*{digest}"):
        make(block, tmp_path, trust=trust)
    assert not (tmp_path / "ran").exists()


def test_user_code_with_consent_becomes_a_teacher_that_needs_the_file_no_more(tmp_path):
    block, digest = user_block(tmp_path)
    teacher = make(block, tmp_path, trust=(digest,))
    assert (tmp_path / "ran").exists()
    assert teacher.card.arch == "python:net.py:tiny"
    teacher.save(tmp_path / "teacher")
    (tmp_path / "mine.py").unlink()
    images = torch.rand(2, 1, 12, 12)
    assert torch.equal(Classifier.load(tmp_path / "teacher", TeacherCard, (digest,))(images), teacher(images))


def test_a_users_network_takes_its_weights_from_a_checkpoint(tmp_path):
    block, digest = user_block(tmp_path)
    donor = make(block, tmp_path, trust=(digest,), seed=3)
    torch.save(
        {"model": {f"module.{name}": value for name, value in donor.net.state_dict().items()}}, tmp_path / "w.pth"
    )
    teacher = make(block | {"checkpoint": str(tmp_path / "w.pth")}, tmp_path, trust=(digest,))
    images = torch.rand(2, 1, 12, 12)
    assert torch.equal(teacher(images), donor(images))
    assert teacher.card.source.startswith("w.pth (sha256 ")


def test_a_file_swapped_after_consent_was_checked_does_not_run(tmp_path, monkeypatch):
    """Between reading and building, the file is replaced by another one, trusted for another purpose."""
    block, digest = user_block(tmp_path)
    other = b"raise SystemExit('ran')\n"
    build = nets.build

    def swap(*arguments, **options):
        (tmp_path / "mine.py").write_bytes(other)
        return build(*arguments, **options)

    monkeypatch.setattr(nets, "build", swap)
    with pytest.raises(TeacherError, match=sha256_bytes(other)):
        make(block, tmp_path, trust=(digest, sha256_bytes(other)))


def test_training_needs_data(tmp_path):
    with pytest.raises(ParamsError, match=r"teacher.source: 'train' needs real data"):
        make(train_block(), tmp_path)


def test_mean_and_std_must_be_one_per_channel(tmp_path):
    with pytest.raises(ParamsError, match=r"teacher.std: \[0.3, 0.3\]: 2 values, but data.channels is 1"):
        make(train_block(std=[0.3, 0.3]), tmp_path, DIGITS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    return make(train_block(), work, DIGITS), work


def test_a_trained_teacher_beats_chance_by_far(trained):
    teacher, _ = trained
    assert teacher.card.accuracy > 0.5
    assert teacher.card.source == "resnet8 trained here"


def test_a_training_that_was_finished_but_not_saved_is_not_repeated(trained, monkeypatch):
    teacher, work = trained
    monkeypatch.setattr(network, "_epoch", None)
    again = make(train_block(), work, DIGITS)
    first = teacher.net.state_dict()
    assert all(torch.equal(first[name], value) for name, value in again.net.state_dict().items())


def test_the_digest_of_the_data_changes_with_every_part_of_what_is_trained_on():
    params = sources.parse(train_block())
    data = sources.Data.read(params, DIGITS)
    assert data.digest() == sources.Data.read(params, DIGITS).digest()
    others = [
        data.train._replace(images=data.train.images ^ 1),
        data.train._replace(labels=data.train.labels.flip(0)),
        data.train._replace(classes=(*"012345678", "nine")),
    ]
    assert len({data.digest(), *(other.digest() for other in others)}) == 4
    given = sources.Data.read(sources.parse(checkpoint_block("x")), DIGITS)
    assert (given.train, given.digest()) == (None, None)
    assert given.test is not None


def test_training_is_a_function_of_the_seed_and_touches_no_global_generator(trained, tmp_path):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = make(train_block(), tmp_path, DIGITS)
    assert torch.equal(torch.get_rng_state(), state)
    first = trained[0].net.state_dict()
    assert all(torch.equal(first[name], value) for name, value in again.net.state_dict().items())


def test_a_training_that_was_interrupted_ends_with_the_same_weights(trained, tmp_path, monkeypatch):
    calls = []

    def interrupt(point):
        calls.append(point)
        if calls.count("training:epoch") == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(network, "crash_point", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(train_block(), tmp_path, DIGITS)
    assert len(list(tmp_path.iterdir())) == 1, "the state after the first epoch"
    resumed = make(train_block(), tmp_path, DIGITS)
    first = trained[0].net.state_dict()
    assert all(torch.equal(first[name], value) for name, value in resumed.net.state_dict().items())


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"source": "web"}, r"teacher.source: 'web': must be one of train, checkpoint, torchvision, timm, python"),
        (None, r"teacher.source: None"),
        (checkpoint_block("x", std=[0.0]), r"teacher.std.0: 0.0"),
        (checkpoint_block("x", std=[0.1, 0.2]), r"teacher.std: \[0.1, 0.2\]: .*2 values for 1 channels"),
        (checkpoint_block("x", channels=0), r"teacher.channels: 0"),
        (checkpoint_block("x", classes=["one"]), r"teacher.classes"),
        (checkpoint_block("x", classes=1), r"teacher.classes"),
        (train_block(recipe=RECIPE | {"batch": 0}), r"teacher.recipe.batch: 0"),
        (train_block(size=3), r"teacher.size: 3: unknown key"),
    ],
)
def test_a_wrong_teacher_block_names_key_and_value(block, named):
    with pytest.raises(ParamsError, match=named):
        sources.parse(block)


def test_a_network_with_other_logits_than_classes_is_refused(weights, tmp_path):
    with pytest.raises(TeacherError, match=r"linear.weight: shape \[10, 64\], expected \[4, 64\]"):
        make(checkpoint_block(weights, classes=4), tmp_path)


def test_a_damaged_idx_header_in_place_of_weights_is_one_line(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack(">II", 0x801, 10) + bytes(10))
    with pytest.raises(TeacherError, match=r"w.safetensors: not a safetensors file, or cut") as caught:
        make(checkpoint_block(path), tmp_path)
    assert "\n" not in str(caught.value)


# -- names, units and networks that make no teacher ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tab\t", "two\nlines", "a\xa0b", "soft\xadhyphen", "a\u200db", "\u202ea", "x" * 301])
def test_a_class_name_that_no_card_can_hold_is_an_error_before_anything_is_trained(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sources, "train", None)
    with pytest.raises(ParamsError, match=r"teacher\.classes\.3: "):
        make(checkpoint_block("nowhere.pt", classes=[*"abc", name]), tmp_path)
    data = sources.Data.read(sources.parse(train_block()), DIGITS)
    odd = sources.Data(data.train._replace(classes=(*"012", name, *"456789")), data.test)
    with pytest.raises(ParamsError, match=r"teacher\.classes\.3: "):
        sources.make_teacher(sources.parse(train_block()), odd, (), CPU, 0, Checkpoint(tmp_path / "state"))


def test_equal_class_names_are_numbered(weights, tmp_path):
    teacher = make(checkpoint_block(weights, classes=["a"] * 9 + ["b"]), tmp_path)
    assert teacher.card.classes == (*(f"a ({label})" for label in range(9)), "b")


def test_names_that_are_equal_once_numbered_are_refused(weights, tmp_path):
    with pytest.raises(ParamsError, match=r"teacher\.classes: 'a \(1\)' stands for 2 classes"):
        make(checkpoint_block(weights, classes=["a", "a", "a (1)", *"cdefghi"]), tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: value.zero_(), "gives two different images exactly the same logits; check its weights"),
        (lambda value: value.fill_(1e38), "logits that are not finite for an image of noise|a blank image"),
    ],
)
def test_weights_that_make_no_classifier_are_refused(tmp_path, change, reason):
    net = nets.build("resnet8", 10, 1, 12, rng=torch.Generator().manual_seed(0))
    for parameter in net.parameters():
        change(parameter.data)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(TeacherError, match=reason):
        make(checkpoint_block(tmp_path / "w.safetensors"), tmp_path)


def test_an_absurd_normalisation_is_refused_and_a_doubtful_one_is_doubted(weights, tmp_path, capsys):
    with pytest.raises(TeacherError, match=r"exactly the same logits; .* teacher.std are in \[0, 1\] units"):
        make(checkpoint_block(weights, std=[1e300]), tmp_path)
    capsys.readouterr()
    make(checkpoint_block(weights), tmp_path)
    assert capsys.readouterr().err == ""
    make(checkpoint_block(weights, mean=[123.0], std=[58.0]), tmp_path)
    assert capsys.readouterr().err.startswith("warning: teacher.mean [123.0] and std [58.0]")


def test_a_sparse_checkpoint_of_six_gigabytes_is_refused_by_its_header(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [3 << 29], "data_offsets": [0, 6 << 30]}}).encode()
    with (tmp_path / "w.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (6 << 30))
    start = time.process_time()
    with pytest.raises(TeacherError, match=r"w.safetensors as resnet8: the weights do not fit: .*unexpected a"):
        make(checkpoint_block(tmp_path / "w.safetensors"), tmp_path)
    assert time.process_time() - start < 2
