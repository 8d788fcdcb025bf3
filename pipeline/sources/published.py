"""Pretrained weights that torchvision or timm publish under a name."""

from typing import Any, NamedTuple, cast

from torch import Tensor

from ..core.errors import TeacherError

__all__ = ["Published", "from_timm", "from_torchvision"]

_DEFAULT = "DEFAULT"
# Two old networks are published with more than they need here: auxiliary classifiers, which only training uses, and an
# option by which they undo the ImageNet normalisation and scale to [-1, 1]. `nets.build` sets neither, so the
# auxiliary weights are left out and the input is scaled to [-1, 1] in the first place.
_RESCALING = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


class Published(NamedTuple):
    """Weights, and what their publisher says about them."""

    weights: dict[str, Tensor]
    label: str  # which weights, in words
    classes: tuple[str, ...] | None
    size: int  # height and width in pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]


def from_torchvision(name: str, weights: str) -> Published:
    """Weights of a torchvision classifier, from torch's cache or downloaded; the hash in the file's name is checked.

    Raises:
        TeacherError: no such network or weights, or the download failed.
    """
    import torchvision.models as zoo

    try:
        enum = zoo.get_model_weights(name)
    except ValueError as error:
        raise TeacherError(f"teacher.name: {name!r}: torchvision publishes no weights for it") from error
    members = cast(dict[str, Any], enum.__members__)  # DEFAULT is an alias among them
    if weights not in members:
        raise TeacherError(f"teacher.weights: {weights!r}: must be one of {', '.join(members)}")
    chosen = members[weights]
    try:
        state = chosen.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise TeacherError(f"{name}: cannot get the weights from {chosen.url} ({error})") from error
    transforms = chosen.transforms()
    halves = (0.5, 0.5, 0.5)
    rescaling = name in _RESCALING
    if rescaling:
        state = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    return Published(
        weights=state,
        label=f"torchvision {name} {chosen.name}",
        classes=tuple(chosen.meta["categories"]),
        size=int(transforms.crop_size[0]),
        mean=halves if rescaling else tuple(map(float, transforms.mean)),
        std=halves if rescaling else tuple(map(float, transforms.std)),
    )


def from_timm(name: str, weights: str) -> Published:
    """Weights of a timm classifier, from its cache or downloaded.

    Raises:
        TeacherError: timm is not installed, there is no such network or weights, or the download failed.
    """
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TeacherError("teacher.source: timm is not installed; pip install 'photogram[timm]'") from error
    full = name if weights == _DEFAULT else f"{name}.{weights}"
    try:
        net = cast(Any, timm).create_model(full, pretrained=True)
    # A hub client raises its own errors for each way in which a name or a network can be wrong.
    except Exception as error:
        raise TeacherError(f"teacher.name: timm cannot make {full} ({' '.join(str(error).split())})") from error
    published: dict[str, Any] = net.pretrained_cfg
    names = published.get("label_names")
    return Published(
        weights=net.state_dict(),
        label=f"timm {full}",
        classes=tuple(map(str, names)) if names else None,
        size=int(published["input_size"][-1]),
        mean=tuple(map(float, published["mean"])),
        std=tuple(map(float, published["std"])),
    )
