"""Stages around files that a fit leaves: kept, made again when they are gone, and the proxy among them measured."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save

from pipeline import nets, real
from pipeline.classifier import Classifier, Teacher, TeacherCard
from pipeline.core.errors import TrainingError
from pipeline.core.rng import stream
from pipeline.grid import Cell, Row
from pipeline.measure.metrics import read_metrics
from pipeline.methods import Attachment, BaseMethod, Batch, Needs, Run, Source
from pipeline.shards.reader import Dataset
from stages import evaluate, synthesize
from stages.settings import Settings
from stages.synthesize import MethodBlock

SHARD = 20
LOG = Path("log")


def note(what: str) -> None:
    with LOG.open("a") as file:
        file.write(f"{what}\n")


class Plain:
    """A source of noise that fitted nothing."""

    def draw(self, count: int, rng: torch.Generator) -> Batch:
        note("draw")
        return Batch(torch.rand(count, 1, 16, 16, generator=rng), torch.full((count, 10), 0.1))


class Trained(Plain):
    """The same, after training a network that begins with these weights."""

    def __init__(self, rng: torch.Generator) -> None:
        self.net = nets.build("lenet5_half", 10, 1, 16, rng=rng)

    def attachments(self) -> Sequence[Attachment]:
        return (
            Attachment("proxy.safetensors", "proxy", {"arch": "lenet5_half"}, save(self.net.state_dict())),
            Attachment("fit.csv", "history", {"epochs": 1}, b"epoch,loss\n1,0.5\n"),
        )


class Dream(BaseMethod):
    """A method whose fit trains a proxy."""

    needs: ClassVar[Needs] = Needs(proxy=True)

    def fit(self, run: Run) -> Source:
        note("fit")
        return Trained(run.rng)


class Nap(BaseMethod):
    """A method whose fit trains nothing."""

    def fit(self, run: Run) -> Source:
        note("fit")
        return Plain()


class Stages:
    """A project folder with a teacher, and the stages on it."""

    def __init__(self, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        params["shards"] |= {"size": SHARD, "holdout": SHARD}
        params["evaluate"]["belief"] = None
        self.settings, self.images = Settings(params), SHARD
        self.method: BaseMethod = Dream()
        reading = lambda settings, name: MethodBlock(self.images, self.method)
        monkeypatch.setattr(synthesize, "read_method", reading)
        monkeypatch.setattr(synthesize, "work_fingerprint", lambda *_: "")  # there is no such file to look at
        net = nets.build("resnet8", 10, 1, 16, rng=stream(0, "teacher"))
        card = TeacherCard(
            arch="resnet8", classes=tuple("0123456789"), channels=1, size=16, mean=(0.3,), std=(0.3,), batch_norm=True,
            sha256="", accuracy=None, source="random weights",
        )  # fmt: skip
        Classifier(net, card).save(Path("data/teacher"))

    def synthesize(self, part: str | None = None) -> list[str]:
        """Run the stage as DVC does, which deletes the output first; what was done."""
        LOG.write_text("")
        out = Path("data/synthetic/dream")
        if part is None and out.exists():
            for path in out.iterdir():
                path.unlink()
        synthesize.synthesize(self.settings, "dream", part)
        return LOG.read_text().split()

    def dataset(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Path("data/synthetic/dream").iterdir()}

    def work(self) -> Path:
        (folder,) = Path(".work/synthetic/dream").iterdir()
        return folder


@pytest.fixture
def run(digits: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHOTOGRAM_WORKERS", "1")
    return Stages(digits, monkeypatch)


def test_what_the_fit_left_is_published_beside_the_shards(run: Stages) -> None:
    assert run.synthesize() == ["fit", "draw", "draw"]
    dataset = Dataset.open(Path("data/synthetic/dream"))
    dataset.verify()
    expected = Trained(stream(run.settings.seed, "dream/fit")).attachments()
    assert {entry.name: dataset.attachment(entry) for entry in dataset.manifest.attachments} == {
        attachment.name: attachment.content for attachment in expected
    }
    assert run.synthesize() == []


def test_a_method_that_trains_nothing_leaves_nothing(run: Stages) -> None:
    run.method = Nap()
    assert run.synthesize() == ["fit", "draw", "draw"]
    assert Dataset.open(Path("data/synthetic/dream")).manifest.attachments == ()
    assert [path.name for path in run.work().glob("attachment*")] == ["attachments.json"]  # it says that there are none
    assert run.synthesize() == []


@pytest.mark.parametrize("victim", ["attachments.json", "attachment.proxy.safetensors", "attachment.fit.csv"])
@pytest.mark.parametrize("how", ["deleted", "edited"])
def test_what_is_gone_or_edited_is_made_again_and_no_shard_is(run: Stages, victim: str, how: str) -> None:
    run.synthesize()
    before = run.dataset()
    path = run.work() / victim
    content = path.read_bytes()
    path.unlink()
    if how == "edited":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert run.synthesize() == ["fit"]
    assert run.dataset() == before
    assert run.synthesize() == []


def test_growth_keeps_them(run: Stages) -> None:
    run.synthesize()
    before = run.dataset()
    path = run.work() / "attachment.proxy.safetensors"
    written = path.stat().st_mtime_ns
    run.images = 3 * SHARD
    assert run.synthesize() == ["fit", "draw", "draw"]
    assert path.stat().st_mtime_ns == written
    after = run.dataset()
    assert all(after[name] == before[name] for name in ("proxy.safetensors", "fit.csv", "train-00000.tar"))


def test_a_job_that_only_fits_leaves_them_for_the_others(run: Stages) -> None:
    assert run.synthesize("0:0") == ["fit"]
    names = {path.name for path in run.work().glob("attachment*")}
    assert names == {"attachments.json", "attachment.proxy.safetensors", "attachment.fit.csv"}
    assert run.synthesize("0:1") == ["fit", "draw"]
    assert run.synthesize("1:2") == ["fit", "draw"]
    assert run.synthesize() == []
    assert len(Dataset.open(Path("data/synthetic/dream")).manifest.attachments) == 2


def test_a_proxy_is_measured_like_any_student(run: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    run.synthesize()
    monkeypatch.setattr(sys, "argv", ["evaluate", "--proxy", "dream"])
    monkeypatch.setattr(Settings, "read", lambda: run.settings)
    evaluate.main()
    found = read_metrics(Path("data/metrics/dream-proxy.json"))
    assert (found.cell, found.method, found.student, found.arch) == ("dream-proxy", "dream", "proxy", "lenet5_half")
    assert (found.online, found.labels, found.seed) == (True, "live", run.settings.seed)
    assert (found.data_free, found.role) == (True, "result")

    test = real.load(real.parse(run.settings.slice("data")), "test")
    assert test is not None
    pixels = (test.images.float() / 255 - 0.3) / 0.3
    proxy = Trained(stream(run.settings.seed, "dream/fit")).net.eval()
    with torch.no_grad():
        teacher = Teacher.load(Path("data/teacher"), TeacherCard)
        chosen, taught = (net(pixels).argmax(1).numpy() for net in (proxy, teacher.net))
    assert found.accuracy == pytest.approx(np.mean(chosen == test.labels.numpy()), abs=2 / len(chosen))
    assert found.agreement == pytest.approx(np.mean(chosen == taught), abs=2 / len(chosen))
    assert found.holdout_agreement is not None
    assert found.parameters == sum(value.numel() for value in proxy.parameters())
    assert Path("data/belief/dream-proxy.csv").is_file()


def test_without_a_proxy_there_is_nothing_to_measure(run: Stages) -> None:
    run.method = Nap()
    run.synthesize()
    with pytest.raises(TrainingError, match="no proxy student among its attachments"):
        evaluate.measure_proxy(run.settings, "dream")
    assert not Path("data/metrics").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["zskd"], ["zskd", "half"], ["--proxy", "zskd", "half", "0"], ["--proxy"], ["--proxy", "a", "b"]]
)
def test_the_command_wants_a_cell_or_a_proxy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    for function in ("measure", "measure_proxy"):
        monkeypatch.setattr(evaluate, function, lambda *_: pytest.fail("measures"))
    with pytest.raises(SystemExit) as end:
        evaluate.main()
    assert end.value.code == 2
    assert "METHOD" in capsys.readouterr().err


def test_the_command_takes_a_cell_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(sys, "argv", ["evaluate", "zskd", "half", "0"])
    monkeypatch.setattr(Settings, "read", lambda: "settings")
    monkeypatch.setattr(evaluate, "measure", lambda *arguments: asked.extend(arguments))
    evaluate.main()
    assert asked == ["settings", Cell(Row("zskd"), "half", 0)]
