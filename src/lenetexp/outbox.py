"""Sends what a run's journal holds to MLflow, each thing once; a store that is gone stops nothing."""

import queue
import socket
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from lenetexp import journal, process, tracking
from lenetexp.config import SyncConfig, UserError, one_line
from lenetexp.journal import Event, Journal
from lenetexp.report import Progress, shown
from lenetexp.tracking import Recorder, Refused, Store

# Seconds between two tries of a store that does not answer: the first and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
# Tries once nothing more will come, about a second apart: then the rest is left to scripts/sync.py.
LAST_TRIES = 5
# Seconds that the end of a run waits for what is being sent; one that was asked to stop waits less.
PATIENCE, LITTLE_PATIENCE = 30.0, 3.0
# Seconds between two uploads of the newest checkpoint, from which another machine could go on.
CHECKPOINT_EVERY = 10.0

UNSENT = "lenetexp.unsent"  # a tag: why a run's record is not whole
# Of a run's folder: what has another place in MLflow.
NOT_FILES = (journal.NAME, journal.STOP, tracking.MODEL)
DRAFT = ("config.yaml", "dataset.json", "reproduce")
NOT_METRICS = ("event", "time", "epoch")


class Outbox:
    """Writes a run's events into its journal and sends them from a thread of its own, in order.

    What a store already has and gets again, with the same time and step, it does not have twice: so
    everything that may have been missed can be sent again.

    Args:
        events: the run's journal.
        recorder: the run in MLflow, or None where it is recorded offline.
    """

    def __init__(self, events: Journal, recorder: Recorder | None) -> None:
        self.journal, self.recorder = events, recorder
        self.refused = ""  # why the server would not take something
        self._todo: queue.Queue[Event | None] = queue.Queue()
        self._closing = threading.Event()
        self._sent = 0
        self._all_sent = False
        self._told = self._draft_is_due = False
        self._uploaded = 0.0
        for event in events.unsent:
            self._todo.put(event)
        tracking.ask_once()
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        if recorder is not None:
            self._thread.start()

    def write(self, event: str, **values: Any) -> None:
        """Into the journal, and on its way.

        Raises:
            UserError: the journal cannot be written.
        """
        self._todo.put(self.journal.write(event, **values))

    def tag(self, key: str, value: str) -> None:
        """A tag, on its way."""
        self.write("tag", key=key, value=value)

    def epoch(self, number: int, metrics: dict[str, float]) -> None:
        """An epoch's metrics; not again, where an interrupted run wrote them before."""
        if not any(event["epoch"] == number for event in self.journal.of("epoch")):
            self.write("epoch", epoch=number, **metrics)

    def result(self, values: dict[str, float]) -> None:
        """What is logged once at the end; not again, where an interrupted run wrote it before."""
        if not self.journal.of("result"):
            self.write("result", values=values)

    def end(
        self,
        status: str,
        reason: str = "",
        patience: float = PATIENCE,
        stop_if_asked: Callable[[], None] = lambda: None,
    ) -> bool:
        """Files the folder, closes the run, and waits for all to be sent.

        Args:
            status: FINISHED, FAILED or KILLED.
            reason: why, in one line.
            patience: seconds to wait while nothing moves.
            stop_if_asked: raises where the waiting has to end.

        Returns:
            whether MLflow has everything.

        Raises:
            UserError: a finished run's journal cannot be written.
            Interrupted: by `stop_if_asked`.
        """
        last = [("files", {}), ("end", {"status": status})]
        if self.journal.of("resumed"):  # MLflow's own span counts the time between the commands, too
            worked = f"{journal.seconds_worked(self.journal.events):.1f}"
            last.insert(0, ("tag", {"key": "lenetexp.seconds", "value": worked}))
        if reason:
            last.insert(0, ("tag", {"key": "lenetexp.reason", "value": reason}))
        for event, values in last:
            try:
                self.write(event, **values)
            except UserError:
                if status == "FINISHED":
                    raise
                # A full disk may be why it ended: a store elsewhere is told all the same.
                self._todo.put({"event": event, "time": int(time.time() * 1000), **values})
        return self.close(patience, stop_if_asked)

    def close(self, patience: float = PATIENCE, stop_if_asked: Callable[[], None] = lambda: None) -> bool:
        """Waits for what is on its way, as long as something moves within `patience` seconds."""
        self._closing.set()
        self._todo.put(None)
        if self.recorder is not None:
            moved, seen = time.monotonic(), self._sent
            while self._thread.is_alive() and time.monotonic() - moved < patience:
                self._thread.join(0.1)
                stop_if_asked()
                if self._sent != seen and patience > LITTLE_PATIENCE:
                    moved, seen = time.monotonic(), self._sent
        if self._all_sent and not self.refused:
            with suppress(UserError):
                self.journal.write("sent", store=self.recorder.store.shown if self.recorder else None)
        self.journal.close()
        return self._all_sent

    def _send_all(self) -> None:
        while (event := self._todo.get()) is not None:
            if not self._send_until_done(event):
                return
        self._all_sent = True

    def _send_until_done(self, event: Event) -> bool:
        """Whether it was sent, or refused for good, before patience ended."""
        assert self.recorder is not None
        pause, tries = FIRST_PAUSE, 0
        while True:
            try:
                self._send(self.recorder, event)
                self._sent += 1
                return True
            except Refused as refusal:
                if not self.refused:
                    Progress.write(f"note: {refusal}")
                self.refused = str(refusal)
                return True
            except Exception as error:  # a folder that someone took away, for one
                reason = str(error) if isinstance(error, UserError) else one_line(error)
                if not self._told:
                    self._told = True
                    Progress.write(f"note: {reason}; what is missing there is kept and sent later")
            if self._closing.is_set():
                tries += 1
                if tries == LAST_TRIES:
                    self._leave(self.recorder, reason)
                    return False
                time.sleep(1)
            else:
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _leave(self, recorder: Recorder, reason: str) -> None:
        """A store that takes some things at least must not show a run that no one runs."""
        with suppress(UserError):
            recorder.tag(UNSENT, reason)
            recorder.end("FAILED")

    def _send_draft(self, recorder: Recorder, folder: Path) -> None:
        """What another machine needs to go on: tried again with every epoch; all comes at the end."""
        if self._draft_is_due:
            with suppress(UserError):
                self._upload(recorder, folder, DRAFT)
                self._draft_is_due = False

    def _upload(self, recorder: Recorder, folder: Path, only: Collection[str] = ()) -> None:
        for place in sorted(folder.iterdir()):
            if only and place.name not in only:
                continue
            if place.name not in NOT_FILES and not place.name.startswith("."):
                recorder.artifacts(place, place.name if place.is_dir() else None)

    def _send(self, recorder: Recorder, event: Event) -> None:
        folder = self.journal.path.parent
        match event["event"]:
            case "start":
                tracking.describe(recorder, event)
            case "resumed":
                recorder.reopen(event["tags"])
            case "epoch":
                metrics = {key: value for key, value in event.items() if key not in NOT_METRICS}
                recorder.metrics(metrics, event["epoch"], event["time"])
                self._send_draft(recorder, folder)
                last = folder / "checkpoints/last.pt"
                if time.monotonic() - self._uploaded > CHECKPOINT_EVERY and last.exists():
                    self._uploaded = time.monotonic()
                    with suppress(UserError):  # there will be another
                        recorder.artifacts(last, "checkpoints")
            case "result":
                recorder.metrics(event["values"], 0, event["time"])
            case "tag":
                recorder.tag(event["key"], event["value"])
            case "model":
                recorder.model(folder / tracking.MODEL)
            case "draft":
                self._draft_is_due = True
                self._send_draft(recorder, folder)
            case "files":
                self._upload(recorder, folder)
            case "end" if self.refused:  # a finished run is one whose record is whole
                recorder.tag("lenetexp.reason", self.refused)
                recorder.end("FAILED", event["time"])
            case "end":
                recorder.end(event["status"], event["time"])


def open_outbox(store: Store | None, events: Journal) -> Outbox:
    """The outbox of a run whose start stands in its journal; it is created in the store if need be.

    Raises:
        UserError: the store does not have the run, or does not answer.
    """
    if store is None:
        return Outbox(events, None)
    if events.run_id is not None:
        return Outbox(events, Recorder(store, tracking.find_run(store, events.run_id).run_id))
    (start, *_) = events.of("start")
    key = start["tags"]["lenetexp.journal"]
    before = tracking.search(store, f"tags.`lenetexp.journal` = '{key}'", at_most=1)
    recorder = Recorder(store, before[0].run_id) if before else tracking.start_run(store, start)
    try:
        events.write("created", run_id=recorder.run_id)
    except UserError:  # a full disk
        recorder.end("FAILED")
        raise
    if not before and len(events.events) == 2:  # with what it was created, all is said
        events.write("sent", store=store.shown)
    return Outbox(events, recorder)


def sync(settings: SyncConfig, config: dict[str, Any], folder: Path) -> None:
    """Sends what MLflow has missed of all runs below a folder.

    Raises:
        UserError: the store is not there, or something could not be sent.
    """
    place = Path(settings.folder)
    if not place.is_dir():
        raise UserError(f"folder={place}: there is no such folder; must hold run folders")
    store = tracking.open_store(settings.tracking)
    paths = sorted(place.rglob(journal.NAME))
    sent, failed = 0, 0
    for path in paths:
        try:
            said = _sync(store, path.parent)
        except UserError as error:
            failed += 1
            said = f"not sent: {error}"
        except KeyError as error:  # of another program's, or another version's
            failed += 1
            said = f"not sent: its journal lacks {error}"
        sent += said.startswith("sent")
        if said:
            print(f"  {shown(path.parent)}  {said}", flush=True)
    print(f"{len(paths)} runs, {sent} sent to {store.shown} now, {failed} not sent")
    if failed:
        raise UserError(f"{failed} of {len(paths)} runs could not be sent")


def _sync(store: Store, folder: Path) -> str:
    """What was done about one run; empty where nothing was to do.

    Raises:
        UserError: it could not be sent.
    """
    written = journal.read(folder / journal.NAME)
    starts = [event for event in written if event["event"] in ("start", "resumed")]
    if not starts:
        return ""
    if written[-1]["event"] == "sent":
        where = written[-1].get("store")
        return f"is in {where}" if where not in (None, store.shown) else ""
    host = starts[-1]["tags"]["lenetexp.host"]
    here = host == socket.gethostname()
    if journal.end_of(written) is None and not here:
        return f"is of {host}, which may be running it"
    if journal.end_of(written) is None and process.alive(starts[-1]["tags"]["lenetexp.process"]):
        return "is running"
    events = Journal(folder)
    try:
        count = len(events.unsent)
        outbox = open_outbox(store, events)
        if journal.end_of(written) is None:
            done = outbox.end("KILLED", "its process was gone")
        else:
            done = outbox.close()
    finally:
        events.close()
    if outbox.refused:
        raise UserError(outbox.refused)
    if done and outbox.recorder is not None:
        outbox.recorder.untag(UNSENT)
    if not done:
        raise UserError(f"{store.shown} stopped answering; the rest is kept")
    return f"sent: {count} records, run {events.run_id}"
