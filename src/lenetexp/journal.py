"""What happens in a run, a line of JSON each, in the run's own folder: its start, its epochs, its end.

Every line is whole or not there: it is written with one call and flushed, and a torn last line is not read.
"""

import json
import time
from pathlib import Path
from typing import Any

NAME = "journal.jsonl"


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
