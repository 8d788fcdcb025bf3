import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.core.checkpoint import Checkpoint
from pipeline.core.errors import WorkError


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second) and type(first) is type(second)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "epoch": 3,
        "rate": 0.1,
        "name": "x",
        "none": None,
        "flag": True,
        "empty": torch.empty(0, 3),
        "nested": {"list": [torch.arange(3), {"half": torch.ones(2, 2, dtype=torch.float16)}], 7: "integer key"},
        "strided": torch.arange(6).view(2, 3).t(),
    }
    Checkpoint(tmp_path / "c").save(state)
    assert same(Checkpoint(tmp_path / "c").load(), state)


def test_two_names_for_one_tensor_become_two_tensors(tmp_path: Path) -> None:
    shared = torch.ones(3)
    Checkpoint(tmp_path / "c").save({"a": shared, "b": shared, "view": shared[:2]})
    loaded = Checkpoint(tmp_path / "c").load()
    assert loaded is not None
    loaded["a"].zero_()
    assert loaded["b"].tolist() == [1, 1, 1]
    assert loaded["view"].tolist() == [1, 1]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_an_optimiser_goes_on_exactly_where_it_stopped(tmp_path: Path, kind: Any) -> None:
    def train(net: nn.Module, optimiser: Any, steps: int) -> None:
        for step in range(steps):
            optimiser.zero_grad()
            net(torch.full((2, 3), 0.1 * (step + 1))).square().sum().backward()
            optimiser.step()

    def fresh() -> tuple[nn.Module, Any]:
        net = nn.Linear(3, 2)
        nn.init.constant_(net.weight, 0.3)
        nn.init.constant_(net.bias, 0.1)
        return net, kind(net.parameters(), lr=0.05)

    net, optimiser = fresh()
    train(net, optimiser, 3)
    Checkpoint(tmp_path / "c").save({"net": net.state_dict(), "optimiser": optimiser.state_dict()})
    train(net, optimiser, 3)

    other, other_optimiser = fresh()
    state = Checkpoint(tmp_path / "c").load()
    assert state is not None
    other.load_state_dict(state["net"])
    other_optimiser.load_state_dict(state["optimiser"])
    train(other, other_optimiser, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_there_is_nothing_before_the_first_save_and_after_clear(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c")
    assert checkpoint.load() is None
    checkpoint.save({"a": 1})
    checkpoint.clear()
    checkpoint.clear()
    assert checkpoint.load() is None


@pytest.mark.parametrize("keep", [0, 4, 40, 90])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "c"
    Checkpoint(path).save({"a": torch.ones(50)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WorkError, match=r"damaged checkpoint .*delete it to start this training anew"):
        Checkpoint(path).load()


def damages(content: bytes, chance: random.Random) -> Iterator[bytes]:
    """Flipped bits, cuts, zeroed ranges, appended and repeated bytes."""
    for _ in range(200):
        place, length = chance.randrange(len(content)), chance.randrange(1, 64)
        flipped = content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
        zeroed = content[:place] + bytes(length) + content[place + length :]
        yield from (
            flipped,
            content[:place],
            zeroed[: len(content)],
            content + bytes(length),
            content[:place] + content,
        )


def test_damage_anywhere_is_an_error_that_names_the_file_and_never_another_state(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    Checkpoint(path, "owner").save({"net": {"w": torch.randn(20, 5), "steps": torch.tensor(3)}, "history": [0.5, None]})
    whole = path.read_bytes()
    tried = 0
    for damaged in damages(whole, random.Random(0)):
        if damaged != whole:
            tried += 1
            path.write_bytes(damaged)
            for look in (Checkpoint(path, "owner").load, Checkpoint(path, "owner").seconds):
                with pytest.raises(WorkError, match=r"net\.safetensors: damaged checkpoint .*delete it to start"):
                    look()
    assert tried > 900


def test_another_trainings_state_is_not_taken_up(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c", "one").save({"a": 1})
    for owner in ("two", ""):
        with pytest.raises(WorkError, match="c: a checkpoint of another training; delete it to start this one anew"):
            Checkpoint(tmp_path / "c", owner).load()
    assert Checkpoint(tmp_path / "c", "one").load() == {"a": 1}


def test_a_state_may_hold_text_that_looks_like_a_seal(tmp_path: Path) -> None:
    state = {"text": '\\"seal\\": \\"' + "0" * 64, '"seal": "': "0" * 64}
    Checkpoint(tmp_path / "c", "0" * 64).save(state)
    assert Checkpoint(tmp_path / "c", "0" * 64).load() == state


def test_parts_lie_beside_the_training_they_belong_to(tmp_path: Path) -> None:
    whole = Checkpoint(tmp_path / "fit.safetensors", "owner")
    whole.part("round1").save({"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["fit-round1.safetensors"]
    assert Checkpoint(tmp_path / "fit-round1.safetensors", "owner").load() == {"a": 1}


def test_what_a_killed_run_spent_on_parts_that_it_saved_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.core.checkpoint.time.perf_counter", lambda: now[0])

    def piece(fit: Checkpoint, name: str) -> None:
        part = fit.part(name)
        if part.load() is None:
            now[0] += 10
            part.save({"images": 1})

    path = tmp_path / "fit.safetensors"
    first = Checkpoint(path)
    piece(first, "0")
    first.save({"round": 1})
    piece(first, "1")
    now[0] += 7  # killed here: the piece that was being made is lost, and so is its time
    second = Checkpoint(path)
    assert second.load() == {"round": 1}
    for name in "012":
        piece(second, name)
    second.save({"round": 2})
    assert Checkpoint(path).seconds() == 30


def test_weights_without_a_state_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "c")
    with pytest.raises(WorkError, match=r"c: damaged checkpoint"):
        Checkpoint(tmp_path / "c").load()


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold set"):
        Checkpoint(tmp_path / "c").save({"a": {1, 2}})
    assert not (tmp_path / "c").exists()


def test_seconds_are_those_of_all_runs_up_to_what_each_saved_last(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("pipeline.core.checkpoint.time.perf_counter", lambda: now[0])
    path = tmp_path / "state.safetensors"
    assert Checkpoint(path).seconds() == 0
    first = Checkpoint(path)
    for elapsed in (3, 4):
        now[0] += elapsed
        first.save({"step": 1})
    now[0] += 50  # killed here: what came after the last save is lost, and so is its time
    second = Checkpoint(path)
    now[0] += 1
    assert second.load() == {"step": 1}
    now[0] += 5
    second.save({"step": 2})
    assert Checkpoint(path).seconds() == 3 + 4 + 1 + 5


def test_another_part_of_the_same_training_is_not_resumed_from(tmp_path: Path) -> None:
    state = Checkpoint(tmp_path / "fit.safetensors", "owner")
    state.save({"epoch": 1})
    state.part("round0").save({"epoch": 2})
    for name in ("fit.safetensors", "fit-round1.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / "fit-round0.safetensors").read_bytes())
    for other in (state, state.part("round1")):
        with pytest.raises(WorkError, match=rf"{other.path.name}: the content of fit-round0\.safetensors; delete it"):
            other.load()
        with pytest.raises(WorkError, match="the content of"):
            other.seconds()
    assert state.part("round0").load() == {"epoch": 2}
