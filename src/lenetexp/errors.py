"""Errors that a user can fix: one line that names the key, the value and what is allowed. And how messages read."""

import difflib
import re
import shutil
import textwrap
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can fix; the command prints it as one line, without a traceback."""


def one_line(error: BaseException | str) -> str:
    """An exception's message on one line, ready to be part of a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def counted(number: int, noun: str) -> str:
    """1 epoch, 1,000 epochs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def columns() -> int:
    """How many characters a line has room for: the terminal's width."""
    return shutil.get_terminal_size((100, 24)).columns


def wrapped(text: str, first: str = "", others: str = "  ") -> str:
    """`text` in lines that fit the terminal, after these indents; a word that is too long stays whole."""
    return textwrap.fill(text, columns(), initial_indent=first, subsequent_indent=others,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def nearest(word: str, options: Iterable[str]) -> str:
    """ "; did you mean …?" for a mistyped word; empty if no option is close."""
    close = difflib.get_close_matches(word, list(options), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def without_password(text: str) -> str:
    """`text` with *** in place of every password in a database or server address."""
    return re.sub(r"(://[^/\s:]*:)(?!\d+(?:/|$))\S+(?=@)|(\bpassword=)[^&\s'\")]+", r"\1\2***", text)
