"""Errors that a user can fix, and helpers that format messages."""

import difflib
import os
import re
import shutil
import textwrap
from collections.abc import Iterable
from urllib.parse import unquote

SECRET = r"\b\w*(?:password|passwd|pwd|token|secret)"  # what a query calls one

DEBUG = "LENETEXP_DEBUG"  # the environment variable that shows the whole traceback of every error

# What others call our settings and their options. Of these, the first that there is to choose is meant.
OTHER_NAMES = {
    **dict.fromkeys(("learning_rate", "learningrate", "rate", "eta"), ("lr", "optimizer.lr")),
    **dict.fromkeys(("wd", "l2", "decay"), ("weight_decay", "optimizer.weight_decay")),
    **dict.fromkeys(("batch", "bs", "minibatch"), ("batch_size",)),
    **dict.fromkeys(("nonlinearity", "act"), ("activation", "model.activation")),
    **dict.fromkeys(("net", "network", "arch"), ("model",)),
    **dict.fromkeys(("gpu", "nvidia"), ("cuda", "device")),
    "swish": ("silu",),
    "localhost": ("127.0.0.1",),
    **dict.fromkeys(("none", "fixed", "off"), ("constant", "off")),
}


class UserError(Exception):
    """A mistake that the user can fix. The command prints it as one line, without a traceback."""


def format_error(error: BaseException | str) -> str:
    """Format an exception's message as one line without a final period, ready to be part of a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def pluralize(number: int, noun: str) -> str:
    """Format a count and its noun: "1 epoch", "1,000 epochs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def get_terminal_width() -> int:
    """Return the width of the terminal in characters, 100 if there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def wrap_text(text: str, first: str = "", others: str = "  ") -> str:
    """Wrap `text` at the width of the terminal.

    Args:
        text: The text; words that are longer than a line stay whole.
        first: Indent of the first line.
        others: Indent of all other lines.
    """
    return textwrap.fill(text, get_terminal_width(), initial_indent=first, subsequent_indent=others,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def suggest_word(word: str, options: Iterable[str]) -> str:
    """Suggest what a mistyped word may mean: "; did you mean …?", or "" if no option is close.

    The same letters in another case come first, then what others call an option, then a similar spelling.
    """
    option_of = {option.lower(): option for option in options}
    same = {word.lower()} & option_of.keys()
    synonyms = [name for name in OTHER_NAMES.get(word.lower(), ()) if name in option_of]
    similar = difflib.get_close_matches(word.lower(), option_of, n=1)
    matches = [*same, *synonyms, *similar]
    return f"; did you mean {option_of[matches[0]]}?" if matches else ""


def is_debugging() -> bool:
    """Return whether the user asked for the traceback of every error."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def mask_password(text: str, whole: bool = False) -> str:
    """Replace users and passwords in addresses, and passwords in settings, by `***`.

    Addresses of databases are read as SQLAlchemy reads them, those of servers as HTTP clients do: digits and a slash
    after the first colon are a password in the former and a port in the latter.

    Args:
        text: Any text. It may hold several addresses.
        whole: Whether `text` is one address or one setting. Only then may a password contain spaces and quotes.
    """
    space, rest = ("", ".*") if whole else (r"\s", r"\S*")
    value = r"[^&]+?(?=['\")\]]*(?:&|$))" if whole else r"[^&\s'\")]+"
    no_port = r"(?!\d+(?:[/?#\s]|$))"
    for pattern, masked in (
        (rf"(https?:?//)(?:[^/?#{space}]*|[^:/{space}]*:{no_port}{rest})@", r"\1***@"),
        (rf"((?<!http)(?<!https)://|(?<![/:])//)(?!/)[^:/{space}]*:{rest}@", r"\1***@"),
        (rf"({SECRET}=){value}", r"\1***"),
    ):
        text = re.sub(pattern, masked, text, flags=re.IGNORECASE | re.DOTALL)
    return text


def mask_secrets(text: str, *addresses: str) -> str:
    """Remove the passwords of some addresses from a text, even where it repeats only a part of one.

    Args:
        text: Any text, such as the message of a database driver.
        *addresses: Addresses or settings (`key=value`) whose passwords must not be shown.
    """
    for address in addresses:
        text = text.replace(address, mask_password(address, whole=True))
        for secret in _extract_secrets(address):
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return mask_password(text)


def _extract_secrets(address: str) -> list[str]:
    """List the passwords of an address, longest first.

    They come as passwords and decoded, with the parts that a driver may mistake for a host.
    """
    if mask_password(address, whole=True) == address:
        return []
    rest = address.partition("://")[2]
    user, colon, password = rest.rpartition("@")[0].partition(":")
    passwords = [password if colon else user, *re.findall(rf"{SECRET}=([^&]+)", address, re.IGNORECASE)]
    secrets = [*passwords, *map(unquote, passwords)]
    parts = {*secrets, *(part for secret in secrets for part in re.split("[@/?#]", secret))}
    return sorted((part for part in parts if len(part) > 2), key=len, reverse=True)
