"""`python -m stages.preset NAME`: put a complete parameter file in place as params.yaml."""

import argparse
import subprocess
import sys
from pathlib import Path

from pipeline.core.errors import ParamsError, run_or_exit
from pipeline.core.files import write_atomic
from stages.settings import PARAMS

__all__ = ["PRESETS", "describe", "main", "put_in_place"]

PRESETS = Path("presets")


def put_in_place(name: str, *, force: bool) -> None:
    """Copy `presets/<name>.yaml` over params.yaml.

    Raises:
        ParamsError: no such preset, or params.yaml holds edits that are neither committed nor a preset's text.
    """
    known = _presets()
    if name not in known:
        raise ParamsError(f"{name}: no such preset; there are {', '.join(sorted(known))}")
    if not force and PARAMS.exists() and not _is_safe(PARAMS.read_bytes(), known):
        raise ParamsError(
            f"{PARAMS} has edits that would be lost; commit them (git commit {PARAMS}), or overwrite them with --force"
        )
    write_atomic(PARAMS, known[name])


def describe() -> str:
    """The presets, one line each: the name and the file's first comment."""
    lines = [f"{name:12} {_headline(content)}" for name, content in sorted(_presets().items())]
    return "\n".join(["presets:", *(f"  {line}".rstrip() for line in lines)])


def main() -> None:
    """`python -m stages.preset [NAME] [--force]`."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.preset",
        description="Put a preset in place as params.yaml.",
        epilog=describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="the preset; without one, they are listed")
    parser.add_argument("--force", action="store_true", help="overwrite edits of params.yaml that are not committed")
    arguments = parser.parse_args()
    if arguments.name is None:
        sys.stdout.write(f"{describe()}\n")
        return
    put_in_place(arguments.name, force=arguments.force)
    sys.stdout.write(f"{PARAMS} is now the preset {arguments.name}; next: dvc repro\n")


def _presets() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(PRESETS.glob("*.yaml"))}


def _headline(content: bytes) -> str:
    first = content.decode("utf-8", errors="replace").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _is_safe(content: bytes, known: dict[str, bytes]) -> bool:
    """Whether this text can be had again: it is a preset, or it is what git's last commit holds."""
    return content in known.values() or content == _committed()


def _committed() -> bytes | None:
    try:
        shown = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return shown.stdout if shown.returncode == 0 else None


if __name__ == "__main__":
    run_or_exit(main)
