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
from pipeline.augment import Augment
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.device import Compute
from pipeline.core.errors import ParamsError, TeacherError
from pipeline.core.rng import generator
from pipeline.methods import adaptive_deepinversion, deepinversion
from pipeline.methods.deepinversion import Phase, Rival
from pipeline.synthesis.proxy import ProxyParams
from pipeline.synthesis.start import Start
from pipeline.teacher.model import Teacher, TeacherInfo
from pipeline.training import Recipe

COMPUTE = Compute(device="cpu", precision="float32", channels_last=False, compile="never")
OFF = Augment(crop=0, flip=False, rotate=0, translate=0, scale=(1, 1), shear=0, cutout=0, fill="border")
RECIPE = Recipe(
    batch=8, epochs=2, steps_per_epoch=4, optimiser="adam", learning_rate=0.01, momentum=0.9, weight_decay=0,
    schedule="constant", milestones=(), decay=0.1, warmup_epochs=0, clip_norm=None, augment=OFF, mixup=0,
)  # fmt: skip
INVERSION: dict[str, Any] = {
    "group": 8, "groups": 1, "statistics": 1.0, "first_layer": 1.0, "total_variation": 0.0, "l2": 0.0, "views": OFF,
    "start": Start(distribution="uniform", level=0.5, spread=0.5, resolution=8),
    "phases": (Phase(pool=1, steps=4, jitter=1),), "learning_rate": 0.05, "betas": (0.9, 0.999),
    "schedule": "constant", "warmup": 0, "bound": "clamp", "keep": "last", "labels": "balanced",
}  # fmt: skip


def adaptive(**changes: Any) -> adaptive_deepinversion.Method:
    fields: dict[str, Any] = {
        **INVERSION, "rival": Rival(weight=10.0, temperature=3.0), "rounds": 2, "images": 12,
        "proxy": ProxyParams(arch="resnet8", temperature=3.0, recipe=RECIPE),
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
    info = TeacherInfo(
        arch="none", classes=tuple("abcd"), channels=1, size=8, mean=(0.4,), std=(0.3,),
        batch_norm=batch_norm, sha256="", accuracy=None, source="random weights",
    )  # fmt: skip
    return Teacher(net, info)


def fit(folder: Path, **changes: Any) -> Any:
    return adaptive(**changes).fit(teacher(), generator(0, "fit"), Checkpoint(folder / "fit"), COMPUTE)


def draw(source: Any, index: int) -> Tensor:
    return source.draw(16, generator(0, "t"), index).images


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
    plain = deepinversion.Method(**INVERSION).fit(teacher(), generator(0, "t"), Checkpoint(tmp_path / "fit"), COMPUTE)
    expected = draw(plain, 0)
    same = {index: torch.equal(draw(golden, index), expected) for index in range(-3, 4)}
    assert same == {-3: True, -2: False, -1: False, 0: True, 1: False, 2: False, 3: True}


def test_each_other_turn_has_the_proxy_of_its_round(golden: Any) -> None:
    first, second = draw(golden, 1), draw(golden, 2)
    assert not torch.equal(first, second)
    assert torch.equal(draw(golden, -2), first)
    assert torch.equal(draw(golden, -1), second)


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
    phases, long = (Phase(pool=1, steps=15, jitter=0),), RECIPE.model_copy(update={"epochs": 20})
    proxy = ProxyParams(arch="resnet8", temperature=3.0, recipe=long)
    source = fit(tmp_path, rounds=1, images=64, phases=phases, proxy=proxy)
    images = torch.cat([source.draw(16, generator(1, "t", place), 0).images for place in range(4)])
    source.load(source.proxies[0])
    with torch.no_grad():
        agreement = (source.proxy(images).argmax(1) == teacher()(images).argmax(1)).float().mean()
    assert agreement > 0.6  # of four classes


def test_only_the_proxies_are_left_on_the_disk_and_the_next_fit_reads_them(golden: Any, tmp_path: Path) -> None:
    fit(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]
    written = (tmp_path / "fit").stat().st_mtime_ns
    assert_same(fit(tmp_path), golden)
    assert (tmp_path / "fit").stat().st_mtime_ns == written


def test_a_piece_that_is_there_is_not_made_again(golden: Any, tmp_path: Path) -> None:
    Checkpoint(tmp_path / "fit-round0-1").save({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)})
    other, usual = (source.proxies[0] for source in (fit(tmp_path), golden))
    assert any(not torch.equal(other[name], value) for name, value in usual.items())


def test_a_later_round_learns_from_the_images_of_all_rounds(golden: Any, tmp_path: Path) -> None:
    fit(tmp_path, rounds=1)
    Checkpoint(tmp_path / "fit-round0-1").save({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)})
    first, second = fit(tmp_path).proxies
    assert all(torch.equal(first[name], value) for name, value in golden.proxies[0].items())
    assert any(not torch.equal(second[name], value) for name, value in golden.proxies[1].items())


def test_the_proxy_of_each_round_is_left_beside_the_images_without_its_normalisation(golden: Any) -> None:
    first, second = golden.attachments()
    assert [first.name, second.name] == ["proxy-01.safetensors", "proxy-02.safetensors"]
    assert [first.facts, second.facts] == [{"arch": "resnet8", "round": number} for number in (1, 2)]
    images = torch.rand(5, 1, 8, 8, generator=generator(3, "t"))
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
def test_a_killed_fit_ends_as_if_nothing_had_happened(golden: Any, tmp_path: Path, project_root: Path, point: str):
    environment = {**os.environ, "PYTHONPATH": str(project_root), "OMP_NUM_THREADS": "1", "AFTERIMAGE_FAULT": point}
    killed = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, check=False
    )
    assert killed.returncode == 137, killed.stderr.decode()
    if point.startswith("proxy:images"):
        assert len(list(tmp_path.glob("fit-round?-?"))) == int(point[-1])
    assert_same(fit(tmp_path), golden)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".tmp")] == ["fit"]


def test_a_teacher_without_batch_norm_or_an_unknown_proxy_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "fit")
    with pytest.raises(TeacherError, match="no BatchNorm"):
        adaptive().fit(teacher(batch_norm=False), generator(0, "fit"), checkpoint, COMPUTE)
    with pytest.raises(ParamsError, match="resnetseven: no such architecture"):
        fit(tmp_path, proxy=ProxyParams(arch="resnetseven", temperature=3.0, recipe=RECIPE))


@pytest.mark.slow
def test_a_compiled_fit_compiles_three_times_and_draws_nearly_the_same_images(tmp_path: Path) -> None:
    torch.compiler.reset()
    counters.clear()
    settings = {"images": 16, "rounds": 3}
    always = COMPUTE.model_copy(update={"compile": "always"})
    source = adaptive(**settings).fit(teacher(), generator(0, "fit"), Checkpoint(tmp_path / "fast"), always)
    found = [draw(source, index) for index in range(4)]
    assert counters["stats"]["unique_graphs"] == 3  # alone, against any proxy, the proxy's training
    plain = fit(tmp_path, **settings)
    for index, images in enumerate(found):
        assert (images - draw(plain, index)).abs().mean() < 0.01


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(Path(sys.argv[1]))
