"""What a stored config may name: it can come from a stranger, and naming a function would run it."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra.utils import get_object
from torch import nn

from lenetexp.config import TRUSTED, UserError, one_line

# Settings that are nested deeper are no one's.
DEEPEST = 20


def read_config(text: str, whose: str) -> dict[str, Any]:
    """A stored config as plain dicts, lists, texts and numbers. An interpolation in it is a text.

    YAML knows more kinds (sets, pairs, bytes, dates, a list that holds itself): none of them is a setting,
    and what looks through the settings would not see what they hold.

    Raises:
        UserError: it is not YAML, or holds anything else.
    """
    try:
        values = yaml.safe_load(text)
        _check_plain(values)
        if not isinstance(values, dict):
            raise ValueError("there are no settings in it")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{whose}: its config is damaged ({one_line(error)[:120]})") from None
    return values


def _check_plain(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError("it is nested too deep")
    if type(value) is dict:
        if not all(type(key) is str for key in value):
            raise ValueError("a key is no text")
        for item in value.values():
            _check_plain(item, depth + 1)
    elif type(value) is list:
        for item in value:
            _check_plain(item, depth + 1)
    elif value is not None and type(value) not in (str, int, float, bool):
        raise ValueError(f"a {type(value).__name__} is no setting")


def refuse_strangers(
    value: Any,
    key: str,
    trust: Sequence[str],
    kind: type | None,
    functions: Sequence[Any] = (),
) -> None:
    """That every `_target_` in a stored config is a class or function of a trusted package.

    What the name leads to is looked at, not the name alone: lenetexp.models.torch.hub.load would be a
    way out. Below the outermost one, only nets may be named.

    Args:
        value: what is stored: settings, or a part of them.
        key: where in the config it stands.
        trust: modules, beside `TRUSTED`, whose classes it may name.
        kind: what a trusted package's class must be.
        functions: of lenetexp's own, that it may name, too.

    Raises:
        UserError: one is not.
    """
    _check_plain(value)
    if isinstance(value, str) and "${" in value:
        raise UserError(f"{key}={value}: a stored config must not hold interpolations")
    if isinstance(value, list):
        for i, item in enumerate(value):
            refuse_strangers(item, f"{key}.{i}", trust, nn.Module)
    if not isinstance(value, Mapping):
        return
    for name, item in value.items():
        refuse_strangers(item, f"{key}.{name}", trust, nn.Module)
    if "_target_" not in value:
        return
    target = str(value["_target_"])
    allowed = (*TRUSTED, *trust)
    refusal = (
        f"{key}._target_={target}: the run's config names what is not trusted; must be of "
        f"{', '.join(TRUSTED)}, or allowed: trust=[{target.rpartition('.')[0]}]"
    )
    if not _within(target, allowed):
        raise UserError(refusal)
    try:
        found = get_object(target)
    except Exception as error:
        raise UserError(f"{key}._target_={target}: {one_line(error)[:120]}") from None
    module = str(getattr(found, "__module__", ""))
    fine = _within(module, trust)
    if not fine and kind is not None:
        fine = isinstance(found, type) and issubclass(found, kind) and _within(module, TRUSTED)
    if not fine and found not in functions:
        raise UserError(refusal)


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
