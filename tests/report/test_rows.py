"""Proxies that trained while the images were made, beside the students that were trained from them afterwards."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import methods, nets
from pipeline.classifier import Classifier, Teacher, TeacherCard
from pipeline.core.checkpoint import Checkpoint
from pipeline.core.params import build as build_block
from pipeline.core.params import read_params
from pipeline.core.rng import stream
from pipeline.report.read import images_learned
from tests.support import CPU, Page, summary_of

BLOCK = {"epochs": 3, "iterations": 7, "batch": 11, "student_steps": 5, "proxy": {"arch": "lenet5"}}


def mean(run, method: str, student: str, what: str = "accuracy") -> float:
    return float(np.mean([getattr(run.cells[f"{method}-{student}-{seed}"], what) for seed in (0, 1, 2)]))


def part_of(out, heading: str) -> str:
    return (out / "report.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]


def test_the_difference_is_that_of_mean_accuracies_offline_minus_online(run, tmp_path):
    run.add_proxy("zskd", accuracy=0.625, agreement=0.5)
    out = run.build(tmp_path / "out")
    found = summary_of(out)["zskd"]["proxy"]
    assert (found["n"], found["accuracy_mean"], found["agreement_mean"]) == (1, 0.625, 0.5)
    assert not [key for key in found if key.endswith("_std")]
    table, text = part_of(out, "Online and offline"), Page(out / "index.html").text
    for student in ("half", "tiny"):
        apart = mean(run, "zskd", student) - 0.625
        assert found["offline_minus_online"][student] == pytest.approx(apart)
        shown = f"{apart * 100:+.2f}".replace("-", "\N{MINUS SIGN}")
        assert re.search(rf"\| zskd \| {student} \| offline.* \| {re.escape(shown)} \|", table)
        assert shown in text
    assert re.search(r"\| zskd \| lenet5_half \| online \| . \| 62\.50 \| 50\.00 \|", table)


def test_students_of_the_proxys_architecture_come_first_and_others_are_named_so(run, tmp_path):
    run.add_proxy("zskd", arch="resnet8")
    for seed in run.matrix.seeds:
        run.change(f"zskd-tiny-{seed}", arch="resnet8")
    lines = part_of(run.build(tmp_path / "out"), "Online and offline").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")][1:3] for line in lines if line.startswith("| zskd")]
    assert rows == [["resnet8", "online"], ["tiny", "offline"], ["half", "offline, another architecture"]]


def test_where_there_is_no_accuracy_agreements_are_compared(make_run, tmp_path):
    run = make_run(accuracy=False)
    run.add_proxy("zskd", agreement=0.25)
    out = run.build(tmp_path / "out")
    apart = summary_of(out)["zskd"]["proxy"]["offline_minus_online"]["half"]
    assert apart == pytest.approx(mean(run, "zskd", "half", "agreement") - 0.25)
    assert "that of mean agreements" in Page(out / "index.html").text


def test_a_proxy_is_never_the_best_result_and_moves_no_row(run, tmp_path):
    before = run.build(tmp_path / "before")
    run.add_proxy("zskd", accuracy=1.0)
    out = run.build(tmp_path / "out")
    for part in ("Results", "Every seed"):
        assert part_of(out, part) == part_of(before, part)
    assert (out / "report.md").read_text().split("## ")[0] == (before / "report.md").read_text().split("## ")[0]


def test_without_proxies_the_report_has_no_such_section(run, tmp_path):
    out = run.build(tmp_path / "out")
    assert "Online and offline" not in Page(out / "index.html").text + (out / "report.md").read_text()
    assert "proxy" not in summary_of(out)["zskd"]


def test_a_proxy_alone_is_shown_and_what_is_not_there_is_named(run, tmp_path):
    run.add_proxy("zskd", accuracy=0.625)
    run.add_proxy("impressions")
    (run.data / "metrics" / "impressions-proxy.json").unlink()
    (run.data / "provenance" / "synthetic" / "zskd.json").unlink()
    for path in (run.data / "metrics").glob("zskd-*-[0-9].json"):
        path.unlink()
    out = run.build(tmp_path / "out")
    assert "| zskd | lenet5_half | online |" in part_of(out, "Online and offline")
    missing = part_of(out, "Missing")
    assert "- result of impressions-proxy" in missing
    assert "- cost of dataset zskd" in missing
    assert summary_of(out)["zskd"]["proxy"]["offline_minus_online"] == {}


def test_stored_images_and_those_that_a_proxy_learned_from_are_told_apart(run, tmp_path):
    run.add_proxy("zskd")
    run.add_proxy("impressions")
    run.attach("zskd", {}, BLOCK)
    text = Page(run.build(tmp_path / "out") / "index.html").text
    assert "zskd 8 images are stored, the proxy learned from 1,155" in text
    assert re.search(r"impressions 8 images are stored (?!, the proxy)", text)


@pytest.mark.parametrize("absent", BLOCK)
def test_nothing_is_said_of_how_much_a_proxy_of_another_kind_of_method_learned_from(absent):
    assert images_learned(BLOCK) is not None
    assert images_learned({key: value for key, value in BLOCK.items() if key != absent}) is None


@pytest.mark.parametrize(("name", "fresh"), [("zskt", False), ("zskt", True), ("dfad", None)])
def test_so_many_different_images_reach_a_proxys_own_steps(project_root, name, fresh):
    preset = read_params(project_root / "presets" / "digits.yaml")
    block = preset["methods"][name] | {"epochs": 2, "iterations": 2, "batch": 3, "student_steps": 2}
    block |= {"snapshots": {"states": 1, "since": 0.0}} | ({} if fresh is None else {"fresh": fresh})
    block["proxy"] = {**block["proxy"], "terms": {}}
    block.pop("count")
    method = build_block(methods.load(name), block, name)
    seen: set[bytes] = set()
    run = methods.Run(teacher(), stream(0, "test"), Checkpoint(Path("nowhere")), CPU)
    step = method.start(run, 0)

    def watch(_net, inputs):
        if not inputs[0].requires_grad:  # the generator's own step has a way back to it
            seen.update(image.numpy().tobytes() for image in inputs[0])

    step.proxy.net.register_forward_pre_hook(watch)
    with step.hooks():
        for number in range(method.steps):
            step(number)
    assert len(seen) == images_learned(block)


def teacher() -> Teacher:
    net = nets.build("lenet5", 10, 1, 16, rng=torch.Generator().manual_seed(0))
    info = TeacherCard(
        arch="lenet5", classes=tuple("0123456789"), channels=1, size=16, mean=(0.3,), std=(0.3,), batch_norm=False,
        sha256="", accuracy=None, source="random weights",
    )  # fmt: skip
    return Classifier(net, info).freeze()
