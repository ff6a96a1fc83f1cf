"""A run's journal: its events, one JSON line each, in the run's own folder.

A line is flushed to the disk before anything is sent to MLflow, so that what a store missed can be sent later. A killed
process may leave a torn last line: readers skip it, and the next writer removes it.
"""

import os
from pathlib import Path
from time import time_ns
from typing import Annotated, Any, Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lenetexp.errors import UserError, format_error
from lenetexp.tracking.names import HOST, Tag

NAME = "journal.jsonl"
LOCK = ".journal.lock"
STOP = "stop"  # a file of this name asks the run to end after the current epoch


class Event(BaseModel):
    """An event in a run."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants")

    time: int = Field(default_factory=lambda: time_ns() // 1_000_000)  # milliseconds since 1970
    run_id: str | None = None  # MLflow's, where the event tells it


class Start(Event):
    """Everything that is known of a run before it starts, or before a later command resumes it."""

    event: Literal["start", "resumed"] = "start"
    name: str = ""
    tags: dict[str, str]
    params: dict[str, Any] = {}
    dataset: dict[str, str] | None = None
    epochs: int
    swept: dict[str, str] = {}


class Epoch(Event):
    """An epoch. Its metrics are extra keys, by their names in MLflow."""

    event: Literal["epoch"] = "epoch"
    epoch: int

    @property
    def metrics(self) -> dict[str, float]:
        return self.model_extra or {}


class Result(Event):
    """The metrics of the finished run."""

    event: Literal["result"] = "result"
    values: dict[str, float]


class TagSet(Event):
    """A tag and its value."""

    event: Literal["tag"] = "tag"
    key: str
    value: str


class Mark(Event):
    """A step of the record: the run exists in MLflow, files are ready to be sent, MLflow has all above this line."""

    event: Literal["created", "model", "files", "sent", "draft"]  # only old journals have "draft"
    store: str | None = None  # which has everything


class End(Event):
    """The end of the run as FINISHED, FAILED or KILLED."""

    event: Literal["end"] = "end"
    status: str


AnyEvent = Start | Epoch | Result | TagSet | Mark | End
_PARSER: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])
E = TypeVar("E", bound=Event)


def is_in_use(folder: Path | str) -> bool:
    """Return whether a process on this machine writes in `folder`. Its lock dies with it, however it ends."""
    try:
        if Path(folder, LOCK).exists():
            lock_folder(Path(folder), timeout=0).release()
    except UserError:
        return True
    return False


def lock_folder(folder: Path, timeout: float = 1.0) -> FileLock:
    """Make this process the only one that writes in `folder`.

    Raises:
        UserError: Another process does.
    """
    # The default waits, because a reader that asks `in_use` holds the lock for an instant.
    lock = FileLock(folder / LOCK, timeout=timeout, is_singleton=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder}: another process is running this; end it first") from None
    except OSError as error:
        raise _make_write_error(folder / LOCK, error) from error
    return lock


class JournalReader:
    """A journal that may still grow. A missing file counts as an empty one.

    Raises:
        UserError: The journal is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self.events: list[AnyEvent] = []
        self.size = 0  # bytes read, all whole lines
        self.update()

    def update(self) -> list[AnyEvent]:
        """Read the lines that were added since the last call, and return their events."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.size)
                lines = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return []
        lines = lines[: lines.rfind(b"\n") + 1]
        try:
            new_events = [_PARSER.validate_json(line) for line in lines.splitlines()]
        except ValidationError as error:
            raise self._make_damage_error(format_error(error.errors(include_url=False)[0]["msg"])[:80]) from None
        if new_events and not self.events and not isinstance(new_events[0], Start):
            raise self._make_damage_error("the run's start, its first line, is lost")
        for event in new_events:
            if isinstance(event, Start) and Tag.FOLDER in event.tags:  # it may have been moved since
                event.tags[Tag.FOLDER] = str(self.folder.resolve())
        self.size += len(lines)
        self.events += new_events
        return new_events

    def _make_damage_error(self, reason: str) -> UserError:
        return UserError(f"{self.path} is damaged ({reason}); it cannot be resumed")

    def select(self, kind: type[E]) -> list[E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def starts(self) -> list[Start]:
        """The start of each command that worked on this run; the first is the run's start."""
        return self.select(Start)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None if it was recorded offline and is not sent yet."""
        return next((event.run_id for event in reversed(self.events) if event.run_id), None)

    @property
    def end(self) -> End | None:
        """The end of the run; None if it has not ended, or was resumed."""
        last = next((event for event in reversed(self.events) if isinstance(event, Start | End)), None)
        return last if isinstance(last, End) else None

    @property
    def ending(self) -> str:
        """How training ended if it did not go well (did not learn, collapsed, diverged, pruned); else ""."""
        return next((tag.value for tag in reversed(self.select(TagSet)) if tag.key == Tag.ENDING), "")

    @property
    def has_died(self) -> bool:
        """Whether the run's process was on this machine and ended without writing an end."""
        return self.end is None and self.starts[-1].tags.get(Tag.HOST) == HOST and not is_in_use(self.folder)

    @property
    def seconds_worked(self) -> float:
        """The seconds that the run's commands took, each from its first event to its last."""
        commands: list[list[int]] = []
        for event in self.events:
            if isinstance(event, Start):
                commands.append([])
            if event.event not in ("created", "sent"):  # which may be much later
                commands[-1].append(event.time)
        return sum(times[-1] - times[0] for times in commands) / 1000

    @property
    def unsent_events(self) -> list[AnyEvent]:
        """The events that MLflow may not have."""
        sent_count = max((i for i, event in enumerate(self.events, start=1) if event.event == "sent"), default=0)
        return self.events[sent_count:]


class Journal(JournalReader):
    """A journal that only this process writes.

    Raises:
        UserError: Another process writes it, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = lock_folder(folder)
        try:
            super().__init__(folder)
            if self.path.exists():
                os.truncate(self.path, self.size)
        except OSError as error:
            raise _make_write_error(self.path, error) from error

    def add(self, event: AnyEvent) -> None:
        """Append one event and flush it to the disk.

        Raises:
            UserError: It cannot be written.
        """
        line = f"{event.model_dump_json(exclude_none=True)}\n".encode()
        try:
            with self.path.open("ab") as file:
                file.truncate(self.size)  # a full disk may have cut the line before
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _make_write_error(self.path, error) from error
        self.size += len(line)
        self.events.append(event)

    def close(self) -> None:
        self._lock.release()


def _make_write_error(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({error.strerror}); what it holds is intact")


def ask_to_stop(folder: Path) -> None:
    """Ask the run in `folder` to end after the current epoch."""
    (folder / STOP).touch()
