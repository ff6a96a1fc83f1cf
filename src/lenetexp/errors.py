"""Errors that a user can fix, and how they read: one line that names the key, the value and what is allowed."""

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can fix; the command prints it as one line, without a traceback."""


def one_line(error: BaseException | str) -> str:
    """An exception's message on one line, ready to be part of a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def nearest(word: str, options: Iterable[str]) -> str:
    """ "; did you mean …?" for a mistyped word; empty if no option is close."""
    close = difflib.get_close_matches(word, list(options), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def without_password(text: str) -> str:
    """`text` with *** in place of every password in a database or server address."""
    return re.sub(r"(://[^/\s:]*:)(?!\d+(?:/|$))\S+(?=@)|(\bpassword=)[^&\s'\")]+", r"\1\2***", text)
