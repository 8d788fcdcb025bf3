# shim: params.yaml as it was, until it has the new keys; to be deleted with its call in source.py
"""Old keys of methods' blocks."""

from typing import Any

_NEUTRAL: dict[str, Any] = {
    "crop": 0,
    "flip": False,
    "rotate": 0,
    "translate": 0,
    "scale": [1, 1],
    "shear": 0,
    "cutout": 0,
}


def renamed(block: dict[str, Any]) -> dict[str, Any]:  # noqa: C901
    """A block with the new keys."""
    block = dict(block)
    for old, new in (("views", "augment"), ("start", "init"), ("concentrations", "beta"), ("rival", "competition")):
        if old in block:
            block[new] = block.pop(old)
    if "augment" in block:
        block["augment"] = _augment(block["augment"])
    if isinstance(block.get("init"), dict) and "level" in block["init"]:
        init = dict(block["init"])
        spread = init.pop("spread")
        std = spread / 3**0.5 if init["distribution"] == "uniform" else spread
        mean = init.pop("level")
        block["init"] = {**init, "mean": mean, "std": std}
    if "statistics" in block:
        value = block.pop("statistics")
        block["bn_mode" if isinstance(value, str) else "bn"] = value
    if "updates" in block:
        block["optimizer"] = _optimizer(block.pop("updates"))
    if isinstance(block.get("generator"), dict) and "noise" in block["generator"]:
        block["generator"] = {
            "latent_dim" if key == "noise" else key: value for key, value in block["generator"].items()
        }
    if "one_hot" in block:
        block.setdefault("features", "head")
    return _proxy(block)


def _proxy(block: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(block.get("proxy"), dict):
        return block
    proxy = dict(block["proxy"])
    terms: dict[str, Any] = {}
    if "recipe" in proxy:
        recipe = dict(proxy.pop("recipe"))
        proxy |= {key: recipe.pop(key) for key in ("batch", "epochs", "steps_per_epoch", "warmup_epochs", "mixup")}
        proxy["augment"] = _augment(recipe.pop("augment"))
        proxy["optimizer"] = _optimizer(recipe)
        proxy["loss"] = {"kl": {"temperature": proxy.pop("temperature")}}
    if "updates" in proxy:
        proxy["optimizer"] = _optimizer(proxy.pop("updates"))
    if "fresh" in block and "temperature" in block:
        proxy["loss"] = {"kl": {"temperature": block.pop("temperature")}}
    if "attention" in block:
        terms["attention"] = block.pop("attention")
    if "regularisation" in block:
        regular = block.pop("regularisation") or {}
        proxy["loss"] = {"l1": {}}
        terms |= {"attention": regular.get("attention"), "activation_boundary": regular.get("boundary")}
        block["terms_reach_generator"] = regular.get("generator", False)
        terms["interpolation"] = block.pop("interpolation")
    terms = {name: term for name, term in terms.items() if term is not None}
    return {**block, "proxy": {**proxy, **({"terms": terms} if terms else {})}}


def _augment(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    kept = {key: value for key, value in block.items() if key not in _NEUTRAL or value != _NEUTRAL[key]}
    return None if set(kept) <= {"fill"} else kept


def _optimizer(updates: dict[str, Any]) -> dict[str, Any]:
    if "optimiser" not in updates:
        return updates
    block = {"name" if key == "optimiser" else key: value for key, value in updates.items()}
    milestones, decay = block.pop("milestones"), block.pop("decay")
    if block["schedule"] == "step":
        block["schedule"] = {"milestones": milestones, "decay": decay}
    return block
