"""The dataset's README.md: front matter that dataset hubs read, then what a person needs to know. No time, no host."""

import json

from .manifest import AttachmentEntry, Manifest

__all__ = ["card"]

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGEST = "10M<n<100M"

_MEANINGS = {
    "png": "the image, uint8",
    "npy": "the image, channels first, in [0, 1]",
    "logits.npy": "the teacher's raw outputs for the stored image, before any softmax or temperature",
    "target.npy": "the class distribution that the image was steered towards while it was made; it sums to 1",
}
_CLS_STEERED = "a class number: the largest entry of what the image was steered towards"
_CLS_TEACHER = "a class number: the teacher's first choice"
_CLS_REAL = "a class number: the true label"
_KINDS = {
    "generator": "a network that makes images: its weights, as safetensors",
    "proxy": "a student that was trained while the images were made: its weights, as safetensors",
    "history": "how that training went, as a table",
}

_MADE = """They were made with the teacher's weights at hand and nothing else; no real image was used."""
_TAKEN = """**This dataset is a reference, not data-free: its images are real training images** that went through
the same writer, so that synthetic datasets can be compared with it."""
_PRIVACY = """Images that are inverted from a model can reveal what the model was trained on: a face, a rare sample, a
watermark. Treat this dataset with the care that the teacher's training data asks for, and respect the licences of
both. It is meant for training and studying other models, not as a picture of the world."""
_PRIVACY_REAL = """The images are the real training data itself; its licence and its privacy rules apply unchanged."""

_TEMPLATE = """---
license: other
pretty_name: {title}
task_categories:
- image-classification
size_categories:
- {size}
tags:
- webdataset
- synthetic
- knowledge-distillation
{data_free_tag}- photogram
configs:
- config_name: default
  data_files:
{splits}
---

# {heading}

{samples} images of {height}x{width} pixels for {k} classes, labelled by a teacher network. {made}

![The first images of each class](preview.png)

## How it was made

Method `{method}`, seed {seed}, with these parameters:

```json
{params}
```

| teacher | |
| --- | --- |
{teacher}

{agreement}

## What a sample holds

WebDataset tar files, {counts}. Each sample has

| member | type | shape | meaning |
| --- | --- | --- | --- |
{fields}

Images are not normalised; the teacher's mean and standard deviation above are part of the teacher. `manifest.json`
lists every file with its sha256.

| class | name | training samples |
| --- | --- | --- |
{classes}
{attachments}
## How to load it

With photogram, every byte checked against the manifest:

```python
from pathlib import Path
from photogram.shards import Dataset

samples = Dataset.open(Path(".")).load("train")
```

With webdataset:

```python
import webdataset

dataset = webdataset.WebDataset("{pattern}", shardshuffle=False)
dataset = dataset.decode({decode}).to_tuple("{image}", "logits.npy", "cls")
```

With datasets:

```python
from datasets import load_dataset

dataset = load_dataset("webdataset", data_files={{"train": "train-*.tar"}}, split="train")
```

## Privacy and licence

{privacy}

`license: other` above is a placeholder: choose a licence that the teacher and its training data allow before you
share this dataset.
"""

_ATTACHMENTS = """
## Networks beside the images

Making the images trained something that is kept with them; the images alone need none of it.

| file | what it is | facts |
| --- | --- | --- |
{rows}
"""


def card(manifest: Manifest) -> str:
    """The card of a dataset, a function of its manifest alone."""
    teacher = manifest.teacher
    counts = _counts(manifest)
    total = sum(counts.values())
    heading = f"{manifest.method} from {_code_free(teacher.arch)}"
    shards = len(manifest.entries("train"))
    image = manifest.encoding
    return _TEMPLATE.format(
        title=json.dumps(heading),
        size=next((name for bound, name in _SIZES if total < bound), _LARGEST),
        data_free_tag="- data-free\n" if manifest.data_free else "",
        splits="\n".join(f"  - split: {split}\n    path: {split}-*.tar" for split in counts),
        heading=heading,
        samples=f"{total:,}",
        height=teacher.size,
        width=teacher.size,
        k=len(teacher.classes),
        made=_MADE if manifest.data_free else _TAKEN,
        method=manifest.method,
        seed=manifest.seed,
        params=json.dumps(manifest.method_params, indent=2, sort_keys=True),
        teacher=_teacher_rows(manifest),
        agreement=_agreement(manifest),
        counts=" and ".join(f"{number:,} samples in `{split}`" for split, number in counts.items()),
        fields=_field_rows(manifest),
        classes=_class_rows(manifest),
        attachments=_ATTACHMENTS.format(rows=_attachment_rows(manifest)) if manifest.attachments else "",
        pattern=_pattern(shards),
        decode='"rgb8"' if image == "png" else "",
        image=image,
        privacy=_PRIVACY if manifest.data_free else _PRIVACY_REAL,
    )


def _pattern(shards: int) -> str:
    """What webdataset takes for all training shards. Braces fill up with zeros to the longer end: one per length."""
    ends = [("00000", min(shards, 100_000)), *([("100000", shards)] if shards > 100_000 else [])]
    return "::".join(f"train-{{{first}..{end - 1:05d}}}.tar" for first, end in ends)


def _agreement(manifest: Manifest) -> str:
    if not manifest.steered:
        return "The images were not steered towards a class; they are labelled by the teacher."
    return (
        f"The stored label is the teacher's first choice in {manifest.teacher_agreement:.2%} of the training samples."
    )


def _counts(manifest: Manifest) -> dict[str, int]:
    """Samples per split, train first; splits without shards are left out."""
    counts = {"train": manifest.samples.train, "holdout": manifest.samples.holdout}
    return {split: count for split, count in counts.items() if count}


def _teacher_rows(manifest: Manifest) -> str:
    teacher = manifest.teacher
    rows = {
        "architecture": f"`{_code_free(teacher.arch)}`",
        "input": f"{teacher.channels} x {teacher.size} x {teacher.size}",
        "classes": str(len(teacher.classes)),
        "mean": _numbers(teacher.mean),
        "standard deviation": _numbers(teacher.std),
        "sha256 of the weights": f"`{teacher.sha256}`",
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _field_rows(manifest: Manifest) -> str:
    steered = _CLS_STEERED if manifest.data_free else _CLS_REAL
    meanings = _MEANINGS | {"cls": steered if manifest.steered else _CLS_TEACHER}
    return "\n".join(
        f"| `.{name}` | {field.dtype} | {_shape(field.shape)} | {meanings[name]} |"
        for name, field in sorted(manifest.fields.items())
    )


def _class_rows(manifest: Manifest) -> str:
    rows = zip(manifest.teacher.classes, manifest.class_histogram, strict=True)
    return "\n".join(f"| {number} | {_cell(name)} | {count:,} |" for number, (name, count) in enumerate(rows))


def _attachment_rows(manifest: Manifest) -> str:
    return "\n".join(f"| `{entry.name}` | {_KINDS[entry.kind]} | {_facts(entry)} |" for entry in manifest.attachments)


def _facts(entry: AttachmentEntry) -> str:
    return ", ".join(
        f"{_cell(name)}: {_cell(value if isinstance(value, str) else json.dumps(value, sort_keys=True))}"
        for name, value in sorted(entry.facts.items())
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _cell(text: str) -> str:
    """Text that stays in its table cell and is shown as it is."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _code_free(text: str) -> str:
    return " ".join(text.replace("`", "'").split())
