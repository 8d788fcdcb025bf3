"""One class for teacher, student and proxy: its folder, its card, and files that are damaged or hostile."""

import json
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save
from torch import nn

from pipeline import nets
from pipeline.classifier import (
    Card,
    Classifier,
    LastStep,
    Normalise,
    StudentCard,
    TeacherCard,
    build_network,
    load_into,
    read_safetensors,
)
from pipeline.core.errors import ParamsError, TeacherError, TrainingError
from pipeline.core.files import sha256_bytes, sha256_file
from tests.support import ROOT

PLAIN: dict[str, Any] = {
    "arch": "resnet8", "classes": ("a", "b", "c"), "channels": 1, "size": 16, "mean": (0.25,), "std": (0.5,),
    "sha256": "",
}  # fmt: skip
ROLES: dict[type[Card], dict[str, Any]] = {
    TeacherCard: {"batch_norm": True, "accuracy": None, "source": "a test"},
    StudentCard: {
        "cell": "zskd-small-3",
        "method": "zskd", "data_free": True, "labels": "stored", "seed": 3, "dataset": "0" * 64, "teacher": "1" * 64,
        "few_shot": LastStep(start="2" * 64, dataset="3" * 64, per_class=5, labels="hard"),
    },
}  # fmt: skip
ERRORS = {TeacherCard: (TeacherError, "run `dvc repro teacher`"), StudentCard: (TrainingError, "run `dvc repro -f dis")}
IMAGES = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(2))
CODE = b"""
from torch import nn
def tiny(classes, channels, size):
    return nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, classes))
"""


def card(kind: type[Any] = TeacherCard, **changes: Any) -> Any:
    return kind(**{**PLAIN, **ROLES[kind], **changes})


def made(kind: type[Any] = TeacherCard, **changes: Any) -> Classifier[Any]:
    found = card(kind, **changes)
    rng = torch.Generator().manual_seed(1)
    net = nets.build(found.arch, len(found.classes), found.channels, found.size, rng=rng)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-0.1, 0.1, generator=rng)
    return Classifier(net, found).eval()


@pytest.fixture(params=[TeacherCard, StudentCard], ids=["teacher", "student"])
def kind(request: pytest.FixtureRequest) -> type[Any]:
    return request.param


# -- what it computes ------------------------------------------------------------------------------------------------


def test_images_are_normalised_inside_channel_by_channel() -> None:
    found = made(channels=3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([(images[:, i] - (0.1, 0.2, 0.3)[i]) / (0.4, 0.5, 0.6)[i] for i in range(3)], 1)
    torch.testing.assert_close(found(images), found.net(by_hand))
    assert not Normalise((0.5,), (0.5,)).state_dict(), "normalisation is no weight"


def test_a_frozen_one_passes_gradients_to_images_and_stands_still() -> None:
    teacher = made().freeze()
    before = {name: value.clone() for name, value in teacher.net.state_dict().items()}
    images = IMAGES.clone().requires_grad_()
    teacher(images).sum().backward()
    assert images.grad is not None
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    assert all(not module.training for module in teacher.modules())
    assert all(torch.equal(before[name], value) for name, value in teacher.net.state_dict().items())
    with pytest.raises(TeacherError, match="frozen"):
        teacher.train()
    assert not teacher.eval().net.training
    assert made().train().net.training


# -- a folder --------------------------------------------------------------------------------------------------------


def test_what_was_saved_comes_back(kind: type[Any], tmp_path: Path) -> None:
    first = made(kind)
    first.save(tmp_path)
    again = Classifier.load(tmp_path, kind, frozen=kind is TeacherCard)
    assert torch.equal(again(IMAGES), first(IMAGES))
    assert again.card == first.card
    assert type(again.card) is kind
    assert again.card.sha256 == sha256_file(tmp_path / "model.safetensors")
    assert not any(module.training for module in again.modules())
    assert all(parameter.requires_grad == (kind is StudentCard) for parameter in again.parameters())


@pytest.mark.parametrize(
    ("kind", "sha256"),
    [
        (TeacherCard, "19215ce2bacf0a663360e4e50db92d7d48a54659baa168e5c79770d24f2386ca"),
        (StudentCard, "eb7edec87b08d3ebba69b6983c1caa2daa0d7d70a2e9c1be1e0249688bc0492d"),
    ],
)
def test_the_bytes_of_the_weights_are_what_they_have_always_been(kind: type[Any], sha256: str, tmp_path: Path) -> None:
    found = made(kind)
    for value in found.net.state_dict().values():
        value.fill_(1)
    found.save(tmp_path)
    assert found.card.sha256 == sha256


def test_the_same_one_is_saved_as_the_same_bytes(kind: type[Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        made(kind).save(tmp_path / name)
    for name in ("model.safetensors", "card.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("changes", [{"arch": "resnet14"}, {"mean": (0.3,)}, {"std": (0.4,)}, {"size": 20}])
def test_whatever_changes_a_teachers_function_changes_its_sha256(tmp_path: Path, changes: dict[str, Any]) -> None:
    teacher = made()
    other = Classifier(teacher.net, card(**changes))
    teacher.save(tmp_path / "one")
    other.save(tmp_path / "two")
    assert teacher.card.sha256 != other.card.sha256


def test_tied_parameters_are_saved(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    net[2].weight = net[1].weight
    Classifier(net, card()).save(tmp_path)
    assert (tmp_path / "card.json").is_file()


def test_loading_brings_no_code_that_opens_pickles(tmp_path: Path) -> None:
    made().save(tmp_path)
    script = (
        "import sys, pathlib, pipeline.classifier as c\n"
        "c.Classifier.load(pathlib.Path(sys.argv[1]), c.TeacherCard)\n"
        "own = [name for name in sys.modules if name.startswith(('pipeline.sources', 'pipeline.teacher'))]\n"
        "sys.exit(str(own) if own else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_any_flipped_bit_of_any_file_is_an_error(kind: type[Any], tmp_path: Path, name: str) -> None:
    made(kind, classes=("a", "b", "zebra")).save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    places = torch.randint(0, len(content) * 8, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    for place in [*places, *range(0, min(len(content) * 8, 4000), 97)]:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ERRORS[kind][0], match=name) as caught:
            Classifier.load(tmp_path, kind)
        assert "\n" not in str(caught.value)
        assert ERRORS[kind][1] in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"arch": 1}', b'{"size": NaN}']
)
def test_a_card_that_is_none_is_one_line_with_the_cure(kind: type[Any], tmp_path: Path, content: bytes) -> None:
    made(kind).save(tmp_path)
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(ERRORS[kind][0], match=rf"card.json: damaged .*{ERRORS[kind][1]}") as caught:
        Classifier.load(tmp_path, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("mean", [0.3]), ("arch", "resnet14"), ("classes", ["a", "b", "d"])])
def test_an_edited_card_is_refused(kind: type[Any], tmp_path: Path, key: str, value: Any) -> None:
    made(kind).save(tmp_path)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}, sort_keys=True, indent=2) + "\n")
    with pytest.raises(ERRORS[kind][0], match=r"card.json: edited or damaged"):
        Classifier.load(tmp_path, kind)


def test_what_is_missing_is_named_with_the_cure(kind: type[Any], tmp_path: Path) -> None:
    error, cure = ERRORS[kind]
    with pytest.raises(error, match=rf"no {kind.__name__[:-4].lower()} there; {cure}"):
        Classifier.load(tmp_path, kind)
    made(kind).save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(error, match=rf"model\.safetensors: no such file; {cure}"):
        Classifier.load(tmp_path, kind)


def test_the_weights_of_another_in_its_place_are_refused(kind: type[Any], tmp_path: Path) -> None:
    made(kind).save(tmp_path)
    other = made(kind)
    other.net.state_dict()["linear.bias"].add_(1)
    other.save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ERRORS[kind][0], match=r"model.safetensors: sha256 differs"):
        Classifier.load(tmp_path, kind)


def test_a_card_whose_weights_do_not_fit_names_them(kind: type[Any], tmp_path: Path) -> None:
    Classifier(made(kind).net, card(kind, classes=("a", "b"))).save(tmp_path)
    with pytest.raises(ERRORS[kind][0], match=r"linear.weight: shape \[3, 64\], expected \[2, 64\]"):
        Classifier.load(tmp_path, kind)


def test_weights_that_are_not_finite_are_refused(kind: type[Any], tmp_path: Path) -> None:
    found = made(kind)
    found.net.state_dict()["linear.bias"][1] = torch.nan
    found.save(tmp_path)
    with pytest.raises(ERRORS[kind][0], match=r"linear\.bias: 1 of 3 values are not finite"):
        Classifier.load(tmp_path, kind)


# -- a user's code ---------------------------------------------------------------------------------------------------


@pytest.fixture
def user_made(kind: type[Any], tmp_path: Path) -> Classifier[Any]:
    path = tmp_path / "mine.py"
    path.write_bytes(CODE)
    built = build_network(f"python:{path}:tiny", 3, 1, 16, (sha256_bytes(CODE),))
    assert (built.arch, built.code) == ("python:net.py:tiny", CODE)
    return Classifier(built.net, card(kind, arch=built.arch), built.code).eval()


def test_user_code_moves_with_the_folder_and_runs_with_consent(
    kind: type[Any], user_made: Classifier[Any], tmp_path: Path
) -> None:
    user_made.save(tmp_path / "here")
    (tmp_path / "mine.py").unlink()
    moved = (tmp_path / "here").rename(tmp_path / "elsewhere")
    loaded = Classifier.load(moved, kind, (sha256_bytes(CODE),))
    assert torch.equal(loaded(IMAGES), user_made(IMAGES))
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "net.py").read_bytes() == CODE


@pytest.mark.parametrize("trust", [(), ("0" * 64,)])
def test_without_consent_no_user_code_runs_and_the_hash_is_shown(
    kind: type[Any], user_made: Classifier[Any], tmp_path: Path, trust: tuple[str, ...]
) -> None:
    user_made.save(tmp_path)
    with pytest.raises(TeacherError, match=sha256_bytes(CODE)):
        Classifier.load(tmp_path, kind, trust)


def test_other_trusted_code_in_its_place_is_refused(
    kind: type[Any], user_made: Classifier[Any], tmp_path: Path
) -> None:
    user_made.save(tmp_path)
    other = CODE + b"# another\n"
    (tmp_path / "net.py").write_bytes(other)
    with pytest.raises(ERRORS[kind][0], match="not of one run"):
        Classifier.load(tmp_path, kind, (sha256_bytes(CODE), sha256_bytes(other)))


def test_a_changed_code_changes_the_recorded_sha256_though_the_weights_are_the_same(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    digests = set[str]()
    for code in (CODE, CODE + b"# another\n"):
        teacher = Classifier(net, card(arch="python:net.py:tiny"), code)
        teacher.save(tmp_path)
        digests.add(teacher.card.sha256)
    assert len(digests) == 2


def test_saving_another_removes_the_user_code_of_the_last(user_made: Classifier[Any], tmp_path: Path) -> None:
    user_made.save(tmp_path / "folder")
    made().save(tmp_path / "folder")
    assert not (tmp_path / "folder" / "net.py").exists()


# -- cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "tab\t", "line\n", "a\xa0b", "soft\xadhyphen", "a\u200db", "\u202ea", "x" * 301, 0]
)
def test_a_class_name_that_is_no_printable_text_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError, match=r"classes\.1"):
        card(classes=("a", name))


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ("a",)}, {"channels": 0}, {"channels": 65}, {"size": 0}, {"size": 8193}, {"std": (0.0,)},
        {"std": (0.1, 0.1)}, {"mean": (float("nan"),)}, {"sha256": "x"}, {"arch": "a\nb"}, {"accuracy": 1.1},
    ],
)  # fmt: skip
def test_a_card_that_describes_no_classifier_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        card(**changes)


def test_every_kind_of_card_has_a_plain_one(kind: type[Any]) -> None:
    plain = card(kind).plain()
    assert type(plain) is Card
    assert plain.model_dump() == PLAIN


# -- weights from elsewhere ------------------------------------------------------------------------------------------


def proxy(content: bytes, **changes: Any) -> Classifier[Any]:
    described = card(StudentCard, sha256=sha256_bytes(content), **changes)
    return Classifier.from_weights(described, content, (), "set/proxy.safetensors")


def state(**changes: torch.Tensor) -> bytes:
    return save({**made().net.state_dict(), **changes})


def test_weights_kept_with_a_dataset_answer_as_the_network_they_were_of() -> None:
    found = proxy(state())
    assert torch.equal(found(IMAGES), made()(IMAGES))
    assert not found.training


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (b"", {}, "not a safetensors file"),
        (state()[:-1], {}, "damaged safetensors file"),
        (state(), {"arch": "resnet14"}, r"as resnet14: .*missing layer1.1.bn1.bias, .* more"),
        (state(**{"linear.bias": torch.tensor([0.0, torch.inf, 0])}), {}, "1 of 3 values are not finite"),
        (state(**{"linear.bias": torch.zeros(3, dtype=torch.bool)}), {}, "bool, expected float32"),
        (state(**{"linear.bias": torch.zeros(3, dtype=torch.int64)}), {}, "int64, expected float32"),
        (state(**{"linear.bias": torch.zeros(3, dtype=torch.complex64)}), {}, "complex64, expected float32"),
        (state(**{"bn1.num_batches_tracked": torch.zeros((), dtype=torch.bool)}), {}, "bool, expected int64"),
    ],
)
def test_weights_that_are_no_good_are_one_line_with_the_cure(
    content: bytes, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=rf"set/proxy.safetensors.*{message}.*; make the dataset again") as caught:
        proxy(content, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arch", ["wrn_40_999", "wrn_9994_999", "resnet9998", "torchvision:regnet_y_128gf"])
def test_an_architecture_far_larger_than_the_file_is_never_built(arch: str) -> None:
    content = save({"weight": torch.zeros(60_000)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(TrainingError, match="do not fit: the architecture is far larger than the file"):
        proxy(content, arch=arch, channels=3, size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    made()(IMAGES)  # nothing is left behind that counts


def test_of_many_wrong_names_a_few_are_shown() -> None:
    content = save({f"name{number}": torch.zeros(0) for number in range(10_000)} | {"weight": torch.zeros(80_000)})
    with pytest.raises(TrainingError, match="more") as caught:
        proxy(content)
    assert len(str(caught.value)) < 1000


def test_an_unknown_architecture_and_one_in_an_untrusted_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="resnetty: no such"):
        proxy(state(), arch="resnetty")
    (tmp_path / "net.py").write_bytes(CODE)
    with pytest.raises(TeacherError, match="trust"):
        proxy(state(), arch=f"python:{tmp_path}/net.py:tiny")


# -- safetensors -----------------------------------------------------------------------------------------------------


def test_a_sparse_file_of_six_gigabytes_is_refused_by_its_header(tmp_path: Path) -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": [3 << 29], "data_offsets": [0, 6 << 30]}}).encode()
    contents = {"nothing": b"", "one tensor": struct.pack("<Q", len(text)) + text}
    made().save(tmp_path)
    for head in contents.values():
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.write(head)
            file.truncate(len(head) + (6 << 30))
        start = time.process_time()
        with pytest.raises(TeacherError, match=r"model.safetensors"):
            Classifier.load(tmp_path, TeacherCard)
        assert time.process_time() - start < 1


def test_every_cut_is_refused_and_no_flipped_bit_of_the_header_raises_anything_else() -> None:
    content = save({"a": torch.zeros(2), "b.num_batches_tracked": torch.zeros((), dtype=torch.int64)})
    assert read_safetensors(content, "whole")[0]["a"].shape == (2,)
    for length in range(len(content)):
        with pytest.raises(TeacherError, match=r"^cut: "):
            read_safetensors(content[:length], "cut")
    for place in range(8 * (8 + int.from_bytes(content[:8], "little"))):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        try:  # it may still be a valid file: with a name changed, say
            weights, _ = read_safetensors(bytes(damaged), "flipped")
        except TeacherError:
            continue
        assert sum(value.numel() for value in weights.values()) <= len(content)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    with pytest.raises(TeacherError):
        read_safetensors(content, "file")
    with pytest.raises(TeacherError):
        read_safetensors(struct.pack("<Q", len(content)) + content, "file")


# -- load_into -------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Convolution, BatchNorm, linear: every kind of state there is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2, 3)


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small()


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def refused(net: nn.Module, weights: dict[str, torch.Tensor]) -> str:
    before = state_of(net)
    with pytest.raises(TeacherError) as caught:
        load_into(net, weights, "file.pt as small")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items()), "changed on refusal"
    message = str(caught.value)
    assert message.startswith("file.pt as small: the weights do not fit: ")
    assert "\n" not in message
    return message


def test_weights_that_fit_are_loaded_exactly(small: Small) -> None:
    weights = {name: torch.rand_like(value.float()).to(value.dtype) for name, value in small.state_dict().items()}
    load_into(small, weights, "file")
    assert all(torch.equal(weights[name], value) for name, value in small.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_cast_to_float32(small: Small, dtype: torch.dtype) -> None:
    weights = {name: v.to(dtype) if v.is_floating_point() else v.int() for name, v in state_of(small).items()}
    load_into(small, weights, "file")
    assert small.conv1.weight.dtype == torch.float32
    assert small.state_dict()["bn1.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(small.conv1.weight, weights["conv1.weight"].float())


def test_every_problem_is_named_at_once(small: Small) -> None:
    weights = state_of(small)
    del weights["linear.bias"], weights["bn1.weight"]
    weights |= {"extra.a": torch.zeros(1), "extra.b": torch.zeros(1)}
    weights["conv1.weight"] = torch.zeros(3, 1, 3, 3)
    weights["linear.weight"][1, 1] = torch.nan
    weights["bn1.running_var"][0] = -1e-6
    weights["bn1.running_mean"] = torch.zeros(2, dtype=torch.int64)
    message = refused(small, weights)
    assert "missing bn1.weight, linear.bias;" in message
    assert "unexpected extra.a, extra.b;" in message
    assert "conv1.weight: shape [3, 1, 3, 3], expected [2, 1, 3, 3]" in message
    assert "linear.weight: 1 of 6 values are not finite" in message
    assert "bn1.running_var: a variance is negative" in message
    assert "bn1.running_mean: int64, expected float32" in message


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e300])
def test_one_value_that_is_not_finite_in_float32_is_found(small: Small, value: float) -> None:
    weights = state_of(small)
    weights["conv1.weight"] = weights["conv1.weight"].double()
    weights["conv1.weight"][1, 0, 2, 2] = value
    assert "conv1.weight: 1 of 18 values are not finite" in refused(small, weights)


def test_complex_weights_are_refused(small: Small) -> None:
    weights = state_of(small) | {"linear.bias": torch.zeros(3, dtype=torch.complex64)}
    assert "linear.bias: complex64, expected float32" in refused(small, weights)


def test_checkpoints_from_before_num_batches_tracked_load(small: Small) -> None:
    weights = {name: value for name, value in state_of(small).items() if not name.endswith("num_batches_tracked")}
    load_into(small, weights, "file")


WITHOUT_COMPILER = """
import sys
import torch
from pathlib import Path
from pipeline import nets
from pipeline.classifier import Classifier, TeacherCard
for folder in sys.argv[1:]:
    teacher = Classifier.load(Path(folder), TeacherCard)
    card = teacher.card
    teacher(torch.zeros(2, card.channels, card.size, card.size))
sys.stdout.write(str("torch._dynamo" in sys.modules))
"""


def test_loading_one_does_not_load_the_compiler(tmp_path: Path) -> None:
    """torch imports it, which takes seconds, where normal numbers are asked for on the device `meta`."""
    arches = [
        ("lenet5_bn", 1, 16),
        ("resnet8", 3, 16),
        ("wrn_10_1", 3, 16),
        ("vgg11_bn", 3, 32),
        ("mobilenet_v2", 3, 32),
    ]
    for arch, channels, size in arches:
        changes = {"channels": channels, "size": size, "mean": (0.5,) * channels, "std": (0.5,) * channels}
        made(arch=arch, **changes).save(tmp_path / arch)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER, *(str(tmp_path / arch) for arch, _, _ in arches)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("False", 0), done.stderr
