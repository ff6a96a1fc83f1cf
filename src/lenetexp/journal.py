"""What happens in a run, a line of JSON each, in the run's own folder: its start, its epochs, its end.

The journal is written before anything is sent to MLflow, and flushed to the disk line by line: what a store
has missed is sent from it later. A torn last line, left by a killed process, is not read, and is cut off by
the next process that goes on with the run.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lenetexp.config import UserError, one_line

NAME = "journal.jsonl"
LOCK = ".journal.lock"
STOP = "stop"  # a file of this name asks the run to end after its epoch

Event = dict[str, Any]


class Journal:
    """The journal of the run in `folder`, in the hand of this process alone.

    Raises:
        UserError: another process has it in hand, or it cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        # The system lets go of it when the process ends, however it ends.
        self._held = FileLock(folder / LOCK, timeout=0, is_singleton=False, thread_local=False)
        self._one_at_a_time = threading.Lock()
        try:
            self._held.acquire()
            whole = _whole_lines(self.path)
            self.events = _parsed(whole, self.path)
            if self.path.exists():
                os.truncate(self.path, len(whole))
        except Timeout:
            raise UserError(f"{folder}: another process has this run in hand; end it first") from None
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write(self, event: str, **values: Any) -> Event:
        """Appends one line: the event, the time in milliseconds since 1970, and `values`.

        Raises:
            UserError: it cannot be written; a full disk, for one.
        """
        entry = {"event": event, "time": int(time.time() * 1000), **values}
        self.add(entry)
        return entry

    def add(self, entry: Event) -> None:
        """Appends one line as it is, with the time at which it happened."""
        line = f"{json.dumps(entry)}\n".encode()
        with self._one_at_a_time:
            try:
                with self.path.open("ab") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise _unwritable(self.path, error) from error
            self.events.append(entry)

    def close(self) -> None:
        """Lets another process have it."""
        self._held.release()

    def of(self, kind: str) -> list[Event]:
        """All events of one kind, in order."""
        return [event for event in list(self.events) if event["event"] == kind]

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None where it was recorded offline and not sent yet."""
        ids = [event["run_id"] for event in list(self.events) if event.get("run_id")]
        return ids[-1] if ids else None

    @property
    def unsent(self) -> list[Event]:
        """What MLflow may have missed."""
        events = list(self.events)
        sent = [i for i, event in enumerate(events) if event["event"] == "sent"]
        return events[sent[-1] + 1 :] if sent else events


def read(path: Path) -> list[Event]:
    """All whole lines of a journal; none where there is no file yet.

    Raises:
        UserError: it is damaged.
    """
    return _parsed(_whole_lines(path), path)


_NEEDS: dict[str, dict[str, type]] = {
    "start": {"tags": dict, "epochs": int},
    "resumed": {"tags": dict, "epochs": int},
    "epoch": {"epoch": int},
    "result": {"values": dict},
    "tag": {"key": str, "value": str},
    "end": {"status": str},
}


def end_of(events: list[Event]) -> Event | None:
    """How a run ended; None for one that did not, or that was taken up again."""
    last = [event for event in events if event["event"] in ("start", "resumed", "end")]
    return last[-1] if last and last[-1]["event"] == "end" else None


def ending_of(events: list[Event]) -> str:
    """ "diverged" or "pruned" for a run that ended so; else nothing."""
    tags = [event for event in events if event["event"] == "tag" and event["key"] == "lenetexp.ending"]
    return str(tags[-1]["value"]) if tags else ""


def seconds_worked(events: list[Event]) -> float:
    """What the commands of a run took, from the first thing that each noted to its last."""
    milliseconds = first = last = 0
    for event in events:
        if event["event"] in ("start", "resumed"):
            milliseconds += last - first
            first = event["time"]
        if event["event"] not in ("created", "sent"):  # which may be much later
            last = event["time"]
    return (milliseconds + last - first) / 1000


def _whole_lines(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def _parsed(lines: bytes, path: Path) -> list[Event]:
    try:
        events = [json.loads(line) for line in lines.splitlines()]
        for event in events:
            for key, kind in {"event": str, "time": int, **_NEEDS.get(event["event"], {})}.items():
                if not isinstance(event[key], kind):
                    raise ValueError(f"{key} of a line is of a wrong kind")
        return events
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)[:80]}); it cannot be gone on with") from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({error.strerror}); what stands in it is whole")


def ask_to_stop(folder: Path) -> None:
    """Asks the run in `folder` to end after the epoch that it is in: it has no hope."""
    (folder / STOP).touch()


def asked_to_stop(folder: Path) -> bool:
    """Whether that was asked."""
    return (folder / STOP).exists()
