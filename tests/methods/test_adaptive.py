"""Adaptive DeepInversion. Also a command, for tests that kill it: python test_adaptive.py FOLDER"""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from scipy.spatial import distance
from scipy.special import softmax
from torch import Tensor, nn
from torch._dynamo.utils import counters

from pipeline import nets
from pipeline.classifier import Teacher
from pipeline.core import checkpoint
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.core.params import build
from pipeline.methods import adaptive_deepinversion, deepinversion
from pipeline.methods.adaptive_deepinversion import Competition, Proxy
from pipeline.methods.deepinversion import Phase
from pipeline.optimise.pixels import Init
from tests.support import CPU, ROOT, a_run, drawn, frozen

PROXY: dict[str, Any] = {
    "arch": "resnet8", "loss": {"kl": {"temperature": 3.0}}, "batch": 8, "epochs": 2, "steps_per_epoch": 4,
    "optimizer": {"name": "adam", "learning_rate": 0.01, "momentum": 0.9, "schedule": "constant"},
}  # fmt: skip
INVERSION: dict[str, Any] = {
    "group": 8, "groups": 1, "bn": 1.0, "first_layer": 1.0, "total_variation": 0.0, "l2": 0.0, "augment": None,
    "init": Init(distribution="uniform", mean=0.5, std=12**-0.5, resolution=8),
    "phases": (Phase(pool=1, steps=4, jitter=1),), "learning_rate": 0.05, "betas": (0.9, 0.999),
    "schedule": "constant", "warmup": 0, "bound": "clamp", "keep": "last", "labels": "balanced",
}  # fmt: skip


def adaptive(proxy: dict[str, Any] | None = None, **changes: Any) -> adaptive_deepinversion.Method:
    fields: dict[str, Any] = {
        **INVERSION, "competition": Competition(weight=10.0, temperature=3.0), "rounds": 2, "images": 12,
        "proxy": build(Proxy, {**PROXY, **(proxy or {})}, "proxy"),
    }  # fmt: skip
    return adaptive_deepinversion.Method(**{**fields, **changes})


def teacher(batch_norm: bool = True) -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=1) if batch_norm else nn.Identity(), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
        )  # fmt: skip
        net(nn.functional.interpolate(torch.randn(64, 1, 4, 4), 8, mode="bilinear"))
    return frozen(net, classes=4, batch_norm=batch_norm)


def fit(folder: Path, compute: Compute = CPU, **changes: Any) -> Any:
    return adaptive(**changes).fit(a_run(teacher(), folder, compute=compute))


def draw(source: Any, number: int) -> Tensor:
    return drawn(source, 16, number).images


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fit that nobody disturbed."""
    return fit(tmp_path_factory.mktemp("golden"))


def assert_same(found: Any, expected: Any) -> None:
    assert len(found.proxies) == len(expected.proxies)
    for ours, theirs in zip(found.proxies, expected.proxies, strict=True):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert all(torch.equal(draw(found, index), draw(expected, index)) for index in range(3))


def test_one_shard_in_each_turn_is_plain_deepinversion(golden: Any, tmp_path: Path) -> None:
    plain = deepinversion.Method(**INVERSION).fit(a_run(teacher(), tmp_path))
    same = {number: torch.equal(draw(golden, number), draw(plain, number)) for number in range(-3, 4)}
    assert same == {-3: True, -2: False, -1: False, 0: True, 1: False, 2: False, 3: True}


def test_each_other_turn_has_the_proxy_of_its_round(golden: Any) -> None:
    def turn(number: int) -> Tensor:
        return golden.draw_numbered(16, torch.Generator().manual_seed(3), number).images

    assert not torch.equal(turn(1), turn(2))
    assert torch.equal(turn(-2), turn(1))
    assert torch.equal(turn(-1), turn(2))


def test_competition_makes_images_on_which_proxy_and_teacher_disagree_more(tmp_path: Path) -> None:
    source = fit(tmp_path, phases=(Phase(pool=1, steps=30, jitter=0),), rounds=1)

    def divergence(images: Tensor) -> float:
        with torch.no_grad():
            p, q = (softmax(net(images).double().numpy() / 3, 1) for net in (teacher(), source.proxy))
        return float(np.mean(distance.jensenshannon(p, q, axis=1) ** 2))

    alone, against = draw(source, 0), draw(source, 1)
    source.load(source.proxies[0])
    assert divergence(against) > 1.5 * divergence(alone)


def test_the_proxy_learns_from_the_teacher(tmp_path: Path) -> None:
    phases = (Phase(pool=1, steps=15, jitter=0),)
    source = fit(tmp_path, rounds=1, images=64, phases=phases, proxy={"epochs": 20})
    images = torch.cat([draw(source, 2 * place) for place in range(4)])
    source.load(source.proxies[0])
    with torch.no_grad():
        agreement = (source.proxy(images).argmax(1) == teacher()(images).argmax(1)).float().mean()
    assert agreement > 0.6  # of four classes


def test_only_the_proxies_are_left_on_the_disk_and_the_next_fit_reads_them(golden: Any, tmp_path: Path) -> None:
    fit(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]
    written = (tmp_path / "fit.safetensors").stat().st_mtime_ns
    assert_same(fit(tmp_path), golden)
    assert (tmp_path / "fit.safetensors").stat().st_mtime_ns == written


def test_a_piece_that_is_there_is_not_made_again(golden: Any, tmp_path: Path) -> None:
    Checkpoint(tmp_path / "fit-round0-1.safetensors").save({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)})
    other, usual = (source.proxies[0] for source in (fit(tmp_path), golden))
    assert any(not torch.equal(other[name], value) for name, value in usual.items())


def test_a_later_round_learns_from_the_images_of_all_rounds(golden: Any, tmp_path: Path) -> None:
    fit(tmp_path, rounds=1)
    Checkpoint(tmp_path / "fit-round0-1.safetensors").save({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)})
    first, second = fit(tmp_path).proxies
    assert all(torch.equal(first[name], value) for name, value in golden.proxies[0].items())
    assert any(not torch.equal(second[name], value) for name, value in golden.proxies[1].items())


def test_the_proxy_of_each_round_is_left_beside_the_images_without_its_normalisation(golden: Any) -> None:
    first, second = golden.attachments()
    assert [first.name, second.name] == ["proxy-01.safetensors", "proxy-02.safetensors"]
    assert [first.facts, second.facts] == [{"arch": "resnet8", "round": number} for number in (1, 2)]
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    for number, attachment in enumerate((first, second)):
        net = nets.build("resnet8", 4, 1, 8).eval()
        net.load_state_dict(load(attachment.content))
        golden.load(golden.proxies[number])
        with torch.no_grad():
            torch.testing.assert_close(net((images - 0.4) / 0.3), golden.proxy(images))
    assert first.content != second.content


def test_names_of_many_rounds_stay_in_the_order_of_the_rounds(golden: Any) -> None:
    many = copy.copy(golden)
    many.proxies = [{"weight": torch.zeros(1)}] * 101
    rounds = [attachment.facts["round"] for attachment in sorted(many.attachments(), key=lambda one: one.name)]
    assert rounds == list(range(1, 102))


@pytest.mark.parametrize(
    "point",
    [
        "proxy:images:4",
        "proxy:round:1",
        pytest.param("proxy:images:1", marks=pytest.mark.slow),
        pytest.param("proxy:images:3", marks=pytest.mark.slow),
        pytest.param("proxy:round:2", marks=pytest.mark.slow),
        pytest.param("training:epoch:1", marks=pytest.mark.slow),
        pytest.param("training:epoch:4", marks=pytest.mark.slow),
        pytest.param("write:written:2", marks=pytest.mark.slow),
        pytest.param("write:opened:5", marks=pytest.mark.slow),
        pytest.param("write:replaced:10", marks=pytest.mark.slow),
    ],
)
def test_a_killed_fit_ends_as_if_nothing_had_happened(golden: Any, tmp_path: Path, point: str):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PHOTOGRAM_FAULT": point}
    killed = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, check=False
    )
    assert killed.returncode == 137, killed.stderr.decode()
    if point.startswith("proxy:images"):
        assert len(list(tmp_path.glob("fit-round?-?.safetensors"))) == int(point[-1])
    assert_same(fit(tmp_path), golden)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".tmp")] == ["fit.safetensors"]


def test_a_teacher_without_batch_norm_or_an_unknown_proxy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="no BatchNorm"):
        adaptive().fit(a_run(teacher(batch_norm=False), tmp_path))
    with pytest.raises(ParamsError, match=r"proxy.arch: resnetseven: no such architecture"):
        fit(tmp_path, proxy={"arch": "resnetseven"})


def test_a_batch_of_one_is_refused_where_the_proxys_batch_norm_cannot_take_it(tmp_path: Path) -> None:
    assert adaptive({"batch": 1}).check(1, 8, 4) == []
    (line,) = adaptive({"arch": "lenet5_bn", "batch": 1}).check(1, 28, 4)
    assert line == "methods.adaptive_deepinversion.proxy.batch: 1: BatchNorm in lenet5_bn needs at least 2 images"
    assert adaptive({"arch": "lenet5_bn", "batch": 2}).check(1, 28, 4) == []
    with pytest.raises(ParamsError, match="pool: 3: expected a divisor"):
        fit(tmp_path, phases=(Phase(pool=3, steps=1, jitter=0),))


def test_the_proxy_may_learn_by_terms_too(golden: Any, tmp_path: Path) -> None:
    pairs = [["0", "layer1"], ["3", "layer3"]]
    terms = {
        "attention": {"weight": 10.0, "blocks": pairs},
        "activation_boundary": {"weight": 1.0, "margin": 1.0, "blocks": pairs},
        "interpolation": {"weight": 1.0, "alpha": 1.0, "labels": "teacher"},
    }  # fmt: skip
    found = fit(tmp_path, proxy={"terms": terms}, rounds=1)
    assert found.proxies[0].keys() == golden.proxies[0].keys()
    assert not torch.equal(found.proxies[0]["conv1.weight"], golden.proxies[0]["conv1.weight"])


def test_the_time_of_a_killed_round_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pieces were made by a run that did not come to the end of the round."""

    def power_cut(point: str) -> None:
        if point == "proxy:images":
            now[0] += 100.0
        if point == "proxy:images" and now[0] == 200.0:
            raise KeyboardInterrupt

    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(adaptive_deepinversion, "crash_point", power_cut)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, rounds=1)
    now[0] = 1000.0
    fit(tmp_path, rounds=1)
    assert Checkpoint(tmp_path / "fit.safetensors").seconds() >= 100.0


@pytest.mark.slow
def test_a_compiled_fit_compiles_three_times_and_draws_nearly_the_same_images(tmp_path: Path) -> None:
    torch.compiler.reset()
    counters.clear()
    settings = {"images": 16, "rounds": 3}
    for name in ("always", "never"):
        (tmp_path / name).mkdir()
    always = CPU.model_copy(update={"compile": "always"})
    source = fit(tmp_path / "always", always, **settings)
    found = [draw(source, index) for index in range(4)]
    assert counters["stats"]["unique_graphs"] == 3  # alone, against any proxy, the proxy's training
    plain = fit(tmp_path / "never", **settings)
    for index, images in enumerate(found):
        assert (images - draw(plain, index)).abs().mean() < 0.01


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(Path(sys.argv[1]))
