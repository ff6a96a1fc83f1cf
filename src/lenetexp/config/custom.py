"""Errors in a user's own classes and functions, which a config names by `_target_`."""

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from lenetexp.config.identity import TRUSTED
from lenetexp.errors import DEBUG, format_error

# Code that no user of lenetexp has written.
OURS = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(__file__).parents[1]), "<")
INSTALLED = {"site-packages", "dist-packages"}


def explain_failure(error: BaseException, target: str) -> str | None:
    """Describe an error and the line of the user's code that raised it.

    Args:
        error: The exception, with its causes.
        target: The dotted name of the class or function that was called.

    Returns:
        A sentence, or None if no user's code raised the error.
    """
    for cause in [*_iterate_causes(error)][::-1]:  # the first one knows best
        if isinstance(cause, SyntaxError) and cause.filename:
            place = f"{cause.filename}, line {cause.lineno}"
            return f"{type(cause).__name__}: {format_error(cause.msg)} ({place}; {DEBUG}=1 shows the whole traceback)"
        if frame := _find_custom_frame(cause, target.partition(".")[0]):
            place = f"{frame.filename}, line {frame.lineno}, in {frame.name}"
            reason = format_error(cause)[:200]
            return f"{type(cause).__name__}: {reason} ({place}; {DEBUG}=1 shows the whole traceback)"
    return None


def _iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _find_custom_frame(error: BaseException, package: str) -> traceback.FrameSummary | None:
    """Return the innermost frame in a user's code or in `package`, the one that the config names."""
    last = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        is_named = package not in TRUSTED and frame.f_globals.get("__name__", "").partition(".")[0] == package
        if is_named or not (file.startswith(OURS) or INSTALLED & {*Path(file).parts}):
            last = traceback.FrameSummary(file, line, frame.f_code.co_name, lookup_line=False)
    return last
