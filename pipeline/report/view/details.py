"""How each dataset was made, and the networks that are kept with it."""

from typing import Any

from pipeline.report.dataset import DatasetFacts, flat
from pipeline.report.material import Material
from pipeline.report.numbers import bytes_text
from pipeline.shards.schema import AttachmentEntry

__all__ = ["datasets"]

_KINDS = {
    "generator": "a network that makes images",
    "proxy": "a student that was trained while the images were made",
    "history": "how the training went, epoch by epoch",
}


def datasets(material: Material) -> list[dict[str, Any]]:
    """Each dataset with its parameters and attachments."""
    return [{"name": name, "facts": facts, "kept": _kept(facts)} for name, facts in material.datasets.items()]


def _kept(facts: DatasetFacts) -> list[dict[str, str]]:
    return [
        {"name": entry.name, "kind": _KINDS[entry.kind], "facts": _facts(entry), "bytes": bytes_text(entry.bytes)}
        for entry in facts.attachments
    ]


def _facts(entry: AttachmentEntry) -> str:
    return ", ".join(f"{name} {value}" for name, value in flat(entry.facts).items())
