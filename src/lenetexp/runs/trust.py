"""What a stored config may name. It can come from a stranger, and importing a name can run code."""

from collections.abc import Sequence
from typing import Any

import yaml
from hydra.utils import get_object
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lenetexp.config.custom import explain_failure
from lenetexp.config.identity import TRUSTED
from lenetexp.datasets import digits, image_folder, torchvision_dataset
from lenetexp.errors import UserError, format_error
from lenetexp.training.schedules import piecewise, warmup_cosine

DEEPEST = 20  # levels of settings; no real config has more
# What each part of a config may name: a class of such a kind, or one of these functions.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "model": (nn.Module,),
    "loss": (nn.Module,),
    "optimizer": (Optimizer,),
    "scheduler": (LRScheduler, piecewise, warmup_cosine),
    "dataset": (digits, image_folder, torchvision_dataset),
}


def read_config(text: str, whose: str) -> dict[str, Any]:
    """Read a stored config as plain dicts, lists, strings and numbers.

    Raises:
        UserError: It is anything else.
    """
    # YAML has more types (sets, pairs, bytes, dates, a list that holds itself). None of them is a setting, and a search
    # through the settings would not look inside them.
    try:
        values = yaml.safe_load(text)
        _require_plain(values)
        if not isinstance(values, dict):
            raise ValueError("it holds no settings")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{whose}: its config is damaged ({format_error(error)[:120]})") from None
    return values


def _require_plain(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if type(value) is dict and not all(type(key) is str for key in value):
        raise ValueError("a key is not a string")
    if type(value) in (dict, list):
        for item in value.values() if type(value) is dict else value:
            _require_plain(item, depth + 1)
    elif value is not None and type(value) not in (str, int, float, bool):
        raise ValueError(f"a {type(value).__name__} is no setting")


def require_trusted(value: Any, key: str, trust: Sequence[str]) -> None:
    """Check that every `_target_` in a part of a stored config is trusted.

    The object that a name leads to decides, not the name alone: lenetexp.models.layers.torch.hub.load would be a way
    out. Trusted are `ALLOWED` objects of `TRUSTED` packages, and everything in the modules that the user names in
    `trust`. Below the outermost `_target_`, only nets may be named.

    Args:
        value: A part of a config.
        key: Its key.
        trust: Modules that the user trusts.

    Raises:
        UserError: One is not trusted.
    """
    _require_plain(value)
    if isinstance(value, str) and "${" in value:
        raise UserError(f"{key}={value}: a stored config must not hold interpolations")
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        require_trusted(item, f"{key}.{name}", trust)
    if not isinstance(value, dict) or "_target_" not in value:
        return
    target = str(value["_target_"])
    refusal = UserError(
        f"{key}._target_={target}: the run's config names what is not trusted; must be of "
        f"{', '.join(TRUSTED)}, or allowed: trust=[{target.rpartition('.')[0]}]"
    )
    if not _is_in(target, (*TRUSTED, *trust)):
        raise refusal
    try:
        target_object = get_object(target)
    except Exception as error:  # importing runs the module's own code
        reason = explain_failure(error, target) or format_error(error)[:120]
        raise UserError(f"{key}._target_={target}: {reason}") from None
    allowed = ALLOWED.get(key, (nn.Module,))
    kinds = tuple(kind for kind in allowed if isinstance(kind, type))
    is_allowed = target_object in allowed or (isinstance(target_object, type) and issubclass(target_object, kinds))
    module = str(getattr(target_object, "__module__", ""))
    if not (_is_in(module, trust) or (is_allowed and _is_in(module, TRUSTED))):
        raise refusal


def _is_in(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
