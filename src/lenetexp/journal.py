"""What happens in a run, a line of JSON each, in the run's own folder: its start, its epochs, its end.

Every line is whole or not there: it is written with one call and flushed, and a torn last line is not read.
"""

import json
import time
from pathlib import Path
from typing import Any

NAME = "journal.jsonl"
STOP = "stop"  # a file of this name asks the run to end after its epoch


class Journal:
    """Appends to the journal of the run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def write(self, event: str, **values: Any) -> None:
        """Appends one line: the event, the time in milliseconds since 1970, and `values`."""
        line = json.dumps({"event": event, "time": int(time.time() * 1000), **values})
        with self.path.open("a") as file:
            file.write(f"{line}\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a journal; none where there is no file yet."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def ask_to_stop(folder: Path) -> None:
    """Asks the run in `folder` to end after the epoch that it is in: it has no hope."""
    (folder / STOP).touch()


def asked_to_stop(folder: Path) -> bool:
    """Whether that was asked."""
    return (folder / STOP).exists()
