"""An image folder: `root/train/<class>/<image>` and `root/test/<class>/<image>`."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..core.errors import DataError
from ..core.progress import track
from . import DataBlock, Samples, Split

__all__ = ["Data"]

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}


class Data(DataBlock):
    """A folder of images by class; labels follow the classes' names in sorted order."""

    root: str  # relative to the current directory; ~ is expanded

    @property
    def name_shown(self) -> str:
        """As in `DataBlock`."""
        return self.root

    def read(self, split: Split) -> tuple[Samples, tuple[str, ...] | None]:
        """As in `DataBlock`."""
        return _read(self, split)


def _read(params: Data, split: Split) -> tuple[Samples, tuple[str, ...]]:
    """Every png, jpg, webp and bmp of a split, and the classes; other files are passed over.

    Raises:
        DataError: the split's folder is missing or empty, the splits have different classes, or an image is damaged.
    """
    root = Path(params.root).expanduser()
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"data.root: {folder} is not there; put images into {folder}/<class>/ or set data.source: none")
    classes = _classes(root, split)
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in _FORMATS and path.is_file()
    ]
    return _opened(files, str(folder)), classes


def _classes(root: Path, split: str) -> tuple[str, ...]:
    """The split's classes, which must be those of the other split where that is there too."""
    found = {name: _subfolders(root / name) for name in ("train", "test") if (root / name).is_dir()}
    classes = found[split]
    for other, names in found.items():
        if names != classes:
            differing = ", ".join(sorted(set(names) ^ set(classes)))
            raise DataError(
                f"data.root: {root / split} and {root / other} must have the same classes; only one has {differing}"
            )
    return classes


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _opened(files: list[tuple[Path, int]], what: str) -> Iterator[tuple[Image.Image, int]]:
    for path, label in track(files, f"reading {what}", unit="img"):
        try:
            with Image.open(path, formats=[_FORMATS[path.suffix.lower()]]) as image:
                image.load()
                yield image, label
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: not a readable image ({error}); replace or remove it") from error
