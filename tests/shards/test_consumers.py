"""Our shards in the hands of others: plain webdataset, plain datasets, plain tarfile."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.shards.reader import Dataset, Samples
from tests.shards.support import Data, together, write_dataset

PLANS = [Data("npy", 3, 8, targets=True), Data("png", 3, 8, targets=True), Data("png", 1, 8)]


@pytest.fixture(params=PLANS, ids=str)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Data, Samples]:
    made = write_dataset(tmp_path / "set", request.param)
    return tmp_path / "set", request.param, together(made["train"])


def as_stored(image: object, plan: Data) -> np.ndarray:
    """What others hand over for an image, as [C, H, W]."""
    array = np.asarray(image)
    if plan.encoding == "npy":
        return array
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def test_webdataset_reads_them(written: tuple[Path, Data, Samples]) -> None:
    import webdataset

    folder, plan, expected = written
    urls = [str(path) for path in sorted(folder.glob("train-*.tar"))]
    decoding = () if plan.encoding == "npy" else ("pil",)
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode(*decoding))
    numbers = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert [sample["__key__"] for sample in found] == [f"t{shard:05d}-{number:05d}" for shard, number in numbers]
    assert [sample["cls"] for sample in found] == expected.cls.tolist()
    assert np.array_equal([sample["logits.npy"] for sample in found], expected.logits.numpy())
    images = np.stack([as_stored(sample[plan.encoding], plan) for sample in found])
    if len(images[0]) != plan.channels:  # webdataset hands grey pictures over as RGB
        images = images[:, : plan.channels]
    assert images.dtype == expected.images.numpy().dtype
    assert np.array_equal(images, expected.images.numpy())
    if expected.targets is not None:
        assert np.array_equal([sample["target.npy"] for sample in found], expected.targets.numpy())


def test_datasets_reads_them(
    written: tuple[Path, Data, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    folder, plan, expected = written
    files = {"train": str(folder / "train-*.tar"), "holdout": str(folder / "holdout-*.tar")}
    loaded = load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 5, "holdout": 2}
    train = loaded["train"]
    assert [sample["cls"] for sample in train] == expected.cls.tolist()
    assert np.array_equal(np.array([sample["logits.npy"] for sample in train], np.float32), expected.logits.numpy())
    images = np.stack([as_stored(sample[plan.encoding], plan) for sample in train])
    assert np.array_equal(images.astype(expected.images.numpy().dtype), expected.images.numpy())


def test_tarfile_lists_what_our_reader_finds(written: tuple[Path, Data, Samples]) -> None:
    folder, _, expected = written
    labels: list[int] = []
    logits: list[np.ndarray] = []
    for path in sorted(folder.glob("train-*.tar")):
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                content = tar.extractfile(info).read()  # pyright: ignore
                if info.name.endswith(".cls"):
                    labels.append(int(content))
                elif info.name.endswith(".logits.npy"):
                    logits.append(np.load(io.BytesIO(content), allow_pickle=False))
    found = Dataset.open(folder).load("train")
    assert labels == found.cls.tolist() == expected.cls.tolist()
    assert torch.equal(torch.from_numpy(np.stack(logits)), found.logits)
