"""The student that a dataset brings along."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from pipeline import nets
from pipeline.classifier import Classifier, StudentCard
from pipeline.core.errors import ParamsError, ShardError, TeacherError, TrainingError
from pipeline.core.rng import stream
from pipeline.distill import proxy_of
from pipeline.methods import Attachment
from pipeline.shards.reader import Dataset

TEACHER = "ab" * 32  # as the datasets of these tests say


def network(seed: int, arch: str = "resnet8", classes: int = 3) -> torch.nn.Module:
    return nets.build(arch, classes, 1, 16, rng=stream(seed, "test")).eval()


def proxy(name: str, net: torch.nn.Module, **facts: Any) -> Attachment:
    return Attachment(name, "proxy", {"arch": "resnet8", **facts}, save(net.state_dict()))


@pytest.fixture
def dataset(tmp_path: Path, write: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """A dataset of a few samples with these files beside them."""

    def make(*beside: Attachment) -> Dataset:
        images = torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8, generator=stream(0, "images"))
        logits = torch.randn(6, 3, generator=stream(0, "logits"))
        return write(tmp_path / "set", images, logits, logits.argmax(1), (4,), (2,), beside)

    return make


def test_the_proxy_answers_as_the_network_whose_weights_were_left(dataset: Callable[..., Dataset]) -> None:
    net = network(1)
    found = proxy_of(dataset(proxy("proxy.safetensors", net)))
    images = torch.rand(5, 1, 16, 16, generator=stream(2, "test"))
    with torch.no_grad():
        torch.testing.assert_close(found(images), net((images - 0.3) / 0.3))
    assert not any(module.training for module in found.modules())


def test_the_last_proxy_by_name_counts_and_other_files_do_not(dataset: Callable[..., Dataset]) -> None:
    left = (
        proxy("proxy-02.safetensors", network(2), round=2),
        proxy("proxy-01.safetensors", network(1), round=1),
        Attachment("zz-generator.safetensors", "generator", {"arch": "resnet8"}, save(network(3).state_dict())),
        Attachment("zz.csv", "history", {}, b"epoch\n"),
    )
    weights = proxy_of(dataset(*left)).net.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in network(2).state_dict().items())


def test_its_card_says_where_it_comes_from(dataset: Callable[..., Dataset]) -> None:
    made = dataset(proxy("proxy.safetensors", network(1)))
    info = proxy_of(made).card
    assert (info.arch, info.labels, info.seed, info.method) == ("resnet8", "live", made.manifest.seed, "noise")
    assert (info.dataset, info.teacher) == (made.sha256, TEACHER)
    assert (info.classes, info.channels, info.size, info.mean, info.std) == (("0", "1", "2"), 1, 16, (0.3,), (0.3,))
    assert info.sha256 == made.manifest.attachments[0].sha256
    assert info.data_free


def test_it_is_saved_and_loaded_like_any_student(dataset: Callable[..., Dataset], tmp_path: Path) -> None:
    found = proxy_of(dataset(proxy("proxy.safetensors", network(1))))
    found.save(tmp_path / "student")
    again = Classifier.load(tmp_path / "student", StudentCard)
    images = torch.rand(2, 1, 16, 16, generator=stream(2, "test"))
    assert torch.equal(again(images), found(images))
    assert again.card == found.card


def without_finite_weights() -> torch.nn.Module:
    net = network(1)
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = torch.nan
    return net


def cut(attachment: Attachment) -> Attachment:
    return attachment._replace(content=attachment.content[:-1])


NAME = "proxy.safetensors"
WRONG: dict[str, tuple[Callable[[], Attachment], type[Exception], str]] = {
    "no proxy": (
        lambda: Attachment("fit.csv", "history", {}, b"epoch\n"),
        TrainingError,
        "set: no proxy student among its attachments.*noise did not",
    ),
    "no arch": (lambda: proxy(NAME, network(1), arch=None), TrainingError, "safetensors: the manifest names no arch"),
    "an arch that is none": (lambda: proxy(NAME, network(1), arch=["resnet8"]), TrainingError, "names no arch"),
    "an unknown arch": (lambda: proxy(NAME, network(1), arch="resnetty"), ParamsError, "resnetty: no such"),
    "another arch": (
        lambda: proxy(NAME, network(1), arch="resnet14"),
        TrainingError,
        r"set/proxy\.safetensors as resnet14: the weights do not fit",
    ),
    "other classes": (lambda: proxy(NAME, network(1, classes=4)), TrainingError, "as resnet8: the weights do not fit"),
    "not finite": (lambda: proxy(NAME, without_finite_weights()), TrainingError, "not finite; make the dataset again"),
    "no safetensors": (lambda: cut(proxy(NAME, network(1))), TrainingError, "damaged safetensors"),
    "nothing": (lambda: proxy(NAME, network(1))._replace(content=b""), TrainingError, "not a safetensors file"),
    "code that nobody trusts": (lambda: proxy(NAME, network(1), arch="python:{}:build"), TeacherError, "trust"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_proxy_that_is_none_is_one_clear_error(dataset: Callable[..., Dataset], tmp_path: Path, what: str) -> None:
    make, error, message = WRONG[what]
    left = make()
    if "{}" in str(left.facts.get("arch")):
        (tmp_path / "net.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef build(): ...\n")
        left = left._replace(facts={"arch": str(left.facts["arch"]).format(tmp_path / "net.py")})
    with pytest.raises(error, match=message) as caught:
        proxy_of(dataset(left))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_damage_is_found_before_a_weight_is_read(dataset: Callable[..., Dataset]) -> None:
    made = dataset(proxy(NAME, network(1)))
    path = made.folder / NAME
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"proxy\.safetensors: damaged: sha256 differs"):
        proxy_of(made)


def test_no_sample_is_read_for_it(dataset: Callable[..., Dataset]) -> None:
    made = dataset(proxy(NAME, network(1)))
    (made.folder / "train-00000.tar").write_bytes(b"damaged")
    assert isinstance(next(proxy_of(made).parameters()), Tensor)
