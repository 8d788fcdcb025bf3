"""A small finished run on disk: three datasets as real shards, and made-up measurements of the students."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.classifier import Card, TeacherCard
from pipeline.core.files import sha256_bytes
from pipeline.grid import Cell, Matrix, Row
from pipeline.measure.metrics import Metrics, class_labels, write_metrics
from pipeline.report import ReportInputs, ReportParams, build_report
from pipeline.shards.encode import encode_shard
from pipeline.shards.manifest import (
    FORMAT_VERSION,
    AttachmentEntry,
    Manifest,
    Shards,
    Split,
    Totals,
    fields_of,
    manifest_bytes,
)
from pipeline.shards.reader import Dataset

CLASSES = ("cat", "dog", "crane | bird")
MATRIX = Matrix(
    methods=("zskd", "impressions", "noise"),
    references=("real",),
    few_shot=(),
    students=("half", "tiny"),
    seeds=(0, 1, 2),
    proxies=(),
)


class Run:
    """The data folder, and what was written there."""

    def __init__(self, data: Path, classes: tuple[str, ...] = CLASSES, accuracy: bool = True) -> None:
        self.data, self.classes, self.accuracy = data, classes, accuracy
        self.matrix = MATRIX
        self.title = "A run"
        self.cells: dict[str, Metrics] = {}
        self.random = np.random.default_rng(7)
        for method in self.matrix.datasets:
            write_dataset(data / "synthetic" / method, method, classes)
            self.write(f"provenance/synthetic/{method}.json", self.cost(120, 600))
        for row in self.matrix.rows:
            for student in self.matrix.students:
                for seed in self.matrix.seeds:
                    self.add_cell(row.name, student, seed)

    def teacher(self) -> TeacherCard:
        """Not validated: the page must bear whatever a class is called."""
        return TeacherCard.model_construct(
            arch="lenet5",
            classes=self.classes,
            channels=1,
            size=8,
            mean=(0.5,),
            std=(0.5,),
            sha256="0" * 64,
            accuracy=0.975 if self.accuracy else None,
            source="trained here",
            batch_norm=False,
        )

    def cost(self, seconds: float, images: int) -> dict[str, object]:
        return {"seconds": seconds, "images": images, "device": "cpu", "versions": {"torch": "2.15"}, "workers": 2}

    def add_cell(self, method: str, student: str, seed: int) -> None:
        row = Row.parse(method)
        per_class = dict(zip(class_labels(self.classes), self.random.random(len(self.classes)).tolist(), strict=True))
        metrics = Metrics(
            cell=Cell(row, student, seed).name,
            method=method,
            student=student,
            seed=seed,
            data_free=row.dataset != "real" and not row.few_shot,
            online=False,
            arch="lenet5_half",
            labels="stored",
            samples=500,
            accuracy=float(self.random.random()) if self.accuracy else None,
            top5=None,
            per_class=per_class if self.accuracy else None,
            agreement=float(self.random.random()),
            kl_to_teacher=float(self.random.random()),
            agreement_on="test" if self.accuracy else "holdout",
            holdout_agreement=0.5,
            holdout_kl=0.5,
            teacher_accuracy=0.975 if self.accuracy else None,
            belief=None,
            parameters=1234,
            note=None if self.accuracy else "No accuracy can be given: there is no real labelled data.",
        )
        self.put(metrics)
        self.write(f"provenance/students/{metrics.cell}.json", self.cost(30, 9000))
        lines = [f"{epoch},{10 / epoch},{0.1},{1 - 1 / epoch}" for epoch in range(1, 6)]
        history = self.data / "history" / f"{metrics.cell}.csv"
        history.parent.mkdir(exist_ok=True)
        history.write_text("\n".join(["epoch,loss,learning_rate,holdout_agreement", *lines]) + "\n")

    def add_proxy(self, method: str, **measured: object) -> None:
        """The proxy student of a method's dataset, and that the matrix asks for it."""
        like = self.cells[f"{method}-half-0"].model_dump()
        cell = {"cell": f"{method}-proxy", "student": "proxy", "seed": 0, "online": True}
        self.put(Metrics.model_validate(like | cell | measured))
        self.matrix = self.matrix.model_copy(update={"proxies": (*self.matrix.proxies, method)})

    def walk(self, cell: str, mte: float, student: Sequence[float], teacher: Sequence[float]) -> None:
        """Belief match of one cell."""
        belief = {"mte": mte, "images": 40, "steps": len(student), "step_size": 0.5, "stepped": "student"}
        self.change(cell, belief=belief)
        rows = [f"{k},{ours},0.1,{theirs},0.1" for k, (ours, theirs) in enumerate(zip(student, teacher, strict=True))]
        self.write_text(f"belief/{cell}.csv", "\n".join(["step,student,student_se,teacher,teacher_se", *rows]) + "\n")

    def attach(
        self, method: str, files: Mapping[str, tuple[str, bytes]], params: Mapping[str, object] | None = None
    ) -> None:
        """Files, by name with their kind and content, beside a dataset's shards; its block may be another."""
        entries = tuple(
            AttachmentEntry(
                name=name,
                kind=kind,
                facts={"arch": "tiny <b>", "epoch": 3},
                bytes=len(content),
                sha256=sha256_bytes(content),
            )
            for name, (kind, content) in sorted(files.items())
        )
        folder = self.data / "synthetic" / method
        manifest = Dataset.open(folder).manifest
        for name, (_, content) in files.items():
            (folder / name).write_bytes(content)
        changes = {"attachments": entries, "method_params": dict(params or manifest.method_params)}
        (folder / "manifest.json").write_bytes(manifest_bytes(manifest.model_copy(update=changes)))

    def change(self, cell: str, **measured: object) -> None:
        """What was measured of a cell is something else."""
        self.put(Metrics.model_validate(self.cells[cell].model_dump() | measured))

    def put(self, metrics: Metrics) -> None:
        self.cells[metrics.cell] = metrics
        write_metrics(metrics, self.data / "metrics" / f"{metrics.cell}.json")

    def write(self, name: str, content: object) -> None:
        self.write_text(name, json.dumps(content))

    def write_text(self, name: str, content: str) -> None:
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def build(self, out: Path) -> Path:
        """The report, in `out`."""
        build_report(self.inputs(), out)
        return out

    def inputs(self) -> ReportInputs:
        rows = np.random.default_rng(1).normal(size=(len(self.classes), 5))
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        params = ReportParams(title=self.title, impressions_per_class=2)
        return ReportInputs(params, self.matrix, self.teacher(), np.clip(unit @ unit.T, -1.0, 1.0), self.data)


def numbers_of(count: int) -> torch.Tensor:
    """The class of each image."""
    return torch.arange(8) % count


def write_dataset(folder: Path, method: str, classes: tuple[str, ...]) -> None:
    """Two train shards of 4 images; image i is of grey level 10 * i and of class i % classes."""
    folder.mkdir(parents=True)
    count, entries = len(classes), list[tuple[Split, int, str]]()
    for index in range(2):
        numbers = torch.arange(4) + 4 * index
        images = (10 * numbers).to(torch.uint8).view(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous()
        cls = numbers % count
        content = encode_shard(images, torch.zeros(4, count), None, cls, "png", "train", index)
        name = f"train-{index:05d}.tar"
        (folder / name).write_bytes(content)
        entries.append(("train", 4, sha256_bytes(content)))
    # The report takes class names from the teacher; a manifest may not carry the hostile ones.
    card = Card(
        arch="lenet5",
        sha256="0" * 64,
        classes=tuple(f"c{k}" for k in range(count)),
        channels=1,
        size=8,
        mean=(0.5,),
        std=(0.5,),
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        method=method,
        method_params={"steps": 7, "schedule": {"kind": "cosine"}},
        data_free=method != "real",
        steered=method != "noise",
        teacher=card,
        seed=0,
        encoding="png",
        fields=fields_of("png", 1, 8, count, soft_targets=False),
        shards=Shards.of(entries),
        attachments=(),
        samples=Totals(train=8, holdout=0),
        class_histogram=tuple(int((numbers_of(count) == k).sum()) for k in range(count)),
        teacher_agreement=float((numbers_of(count) == 0).float().mean()),  # equal logits name class 0
    )
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    return lambda **changes: Run(tmp_path / "data", **changes)


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    return make_run()
