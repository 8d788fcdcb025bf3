"""Stage `code`: one small file per consumer of code, which changes when, and only when, code that it imports changes.

DVC tracks files, not imports. Every other stage depends on its own file below `data/code` and on no source file, so a
new architecture or a new method reruns nothing but its own stages. A file lists one hash over all, then each module
with the hash of its syntax; comments, formatting and docstrings do not count.

It is also the stage before all others, and so the one that refuses a `matrix` of anything but plain names: they become
paths of outputs, which DVC removes before a stage runs.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.code import SourceTree, fingerprint
from pipeline.core.errors import run_or_exit
from pipeline.core.files import canonical_json, sha256_bytes, write_atomic
from stages.settings import CODE, Settings, architectures, terms

__all__ = ["consumers", "content", "main", "write"]

_REAL = "pipeline.real"
_MATRIX = "matrix"  # a file that all stages with names in their paths depend on; it never changes


def consumers(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Every consumer's file name below `data/code`, and the modules it starts from, registries resolved.

    Raises:
        ParamsError: a name in `matrix` is no plain word or has no block, or a block without its architecture.
    """
    matrix = settings.matrix
    from pipeline import nets  # torch: after the names have been refused

    teacher = _networks(settings.mapping("teacher"))
    found = {"teacher": ("stages.teacher", *teacher), "report": ("stages.report", *teacher)}
    for name in (*matrix.methods, *matrix.references):
        proxies = _networks(settings.mapping(f"methods.{name}"))
        losses = sorted(set(terms(settings.mapping(f"methods.{name}"))))
        found[f"methods/{name}"] = ("stages.synthesize", f"pipeline.methods.{name}", *proxies, *losses, *teacher)
    for name in matrix.students:
        student = nets.module_of(settings.slice(f"students.{name}.arch"))
        block = {**settings.mapping("distill"), **settings.mapping(f"students.{name}")}
        taught = {"students": block}
        if matrix.references:
            taught["references"] = {**block, **settings.mapping("reference")}
        if matrix.few_shot:
            taught["few_shot"] = {**block, **settings.mapping("few_shot")}
        for kind, each in taught.items():
            asked = teacher if each.get("labels") == "live" else ()
            found[f"{kind}/{name}"] = ("stages.distill", student, *sorted(set(terms(each))), *asked)
        found[f"evaluate/{name}"] = ("stages.evaluate", student, *teacher)
    for name in matrix.proxies:
        proxy = nets.module_of(settings.slice(f"methods.{name}.proxy.arch"))
        found[f"evaluate_proxy/{name}"] = ("stages.evaluate", proxy, *teacher)
    return found


def content(tree: SourceTree, roots: tuple[str, ...], settings: Settings) -> str:
    """What a consumer's file says: one hash over all, then a line for each part.

    A method that reads real data depends on which data; dvc.yaml cannot say so for one method alone, so the `data`
    block counts as a part of such a method. The other consumers of real data have it in their `params`.
    """
    modules = tree.closure(roots)
    source = settings.mapping("data").get("source") if _REAL in modules else None
    if f"{_REAL}.{source}" in tree.modules:
        modules = tree.closure((*roots, f"{_REAL}.{source}"))
    hashes = tree.hashes(modules)
    if roots[0] == "stages.synthesize" and _REAL in modules:
        hashes["params.yaml: data"] = sha256_bytes(canonical_json(settings.mapping("data")))
    lines = [f"{value}  {name}\n" for name, value in sorted(hashes.items())]
    return "".join([f"{fingerprint(hashes)}\n", *lines])


def write(tree: SourceTree, settings: Settings, folder: Path) -> None:
    """Write every consumer's file; files of consumers that are gone disappear.

    Raises:
        PipelineError: a name in `matrix` that does not exist, or source code that does not parse.
    """
    texts = {name: content(tree, roots, settings) for name, roots in consumers(settings).items()}
    texts[_MATRIX] = "plain names\n"
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())


def main() -> None:
    """`python -m stages.code`."""
    write(SourceTree(Path()), Settings.read(), CODE)


def _networks(block: dict[str, Any]) -> tuple[str, ...]:
    """The modules of every architecture that a teacher's or method's block names."""
    from pipeline import nets

    return tuple(sorted({nets.module_of(arch) for arch in (*architectures(block), *_elsewhere(block))}))


def _elsewhere(block: dict[str, Any]) -> Iterator[str]:
    """The architecture of a teacher whose block names it in other keys."""
    match block:
        case {"source": "torchvision" | "timm" as source, "name": str(name)}:
            yield f"{source}:{name}"
        case {"source": "python", "path": str(path), "callable": str(function)}:
            yield f"python:{path}:{function}"
        case _:
            pass


if __name__ == "__main__":
    run_or_exit(main)
