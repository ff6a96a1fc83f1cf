"""Send a run's journal to MLflow: from a thread while the run trains, or later with scripts/sync.py."""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from lenetexp.config.commands import SyncConfig
from lenetexp.errors import UserError, format_error, pluralize
from lenetexp.tracking import journal
from lenetexp.tracking.journal import (
    AnyEvent,
    End,
    Epoch,
    Journal,
    JournalReader,
    Mark,
    Result,
    Start,
    TagSet,
    is_in_use,
)
from lenetexp.tracking.names import HOST, File, Tag
from lenetexp.tracking.process import call
from lenetexp.tracking.query import get_run, search_runs
from lenetexp.tracking.recorder import Recorder, create_run
from lenetexp.tracking.store import ONE_TRY, RefusalError, Store, open_store, set_patience

# Seconds between two tries of a store that does not answer: the first and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
# Tries once nothing more will come, a second apart; the rest is left to scripts/sync.py.
LAST_TRIES = 5
# Seconds without progress before the end of a run stops waiting; less if it was asked to stop.
PATIENCE, LITTLE_PATIENCE = 30.0, 3.0
# Seconds between two uploads of the newest checkpoint and all else that another machine needs to resume.
CHECKPOINT_EVERY = 10.0

Stop = Callable[[], None]  # raises if the run should end


class Outbox:
    """Writes a run's events into its journal, and sends them in order from a thread. Offline, there is no recorder."""

    def __init__(self, events: Journal, recorder: Recorder | None, notify: Callable[[str], None]) -> None:
        self.journal, self.recorder, self._notify = events, recorder, notify
        self.refused = ""  # why the server would not take something
        self._todo: queue.Queue[AnyEvent | None] = queue.Queue()
        self._closing = threading.Event()
        self._sent, self._all_sent, self._upload_at = 0, False, 0.0
        # MLflow keeps one copy of what it gets twice with the same time and step: all it may have missed is sent again.
        for event in events.unsent_events:
            self._todo.put(event)
        call(set_patience, *ONE_TRY)
        self._thread = threading.Thread(target=self._send_all, args=(recorder,), daemon=True)
        if recorder is not None:
            self._thread.start()

    def add(self, event: AnyEvent) -> None:
        """Write an event into the journal and queue it for MLflow.

        Raises:
            UserError: It cannot be written.
        """
        self.journal.add(event)
        self._todo.put(event)

    def set_tag(self, key: str, value: str) -> None:
        self.add(TagSet(key=key, value=value))

    def log_epoch(self, number: int, metrics: dict[str, float]) -> None:
        """Log an epoch's metrics, unless an interrupted command already did."""
        if not any(event.epoch == number for event in self.journal.select(Epoch)):
            self.add(Epoch(epoch=number, **metrics))  # type: ignore[arg-type]  # the metrics are extra keys

    def log_result(self, values: dict[str, float]) -> None:
        """Log the metrics of the finished run, unless an interrupted command already did."""
        if not self.journal.select(Result):
            self.add(Result(values=values))

    def finish(
        self, status: str, reason: str = "", patience: float = PATIENCE, stop_if_asked: Stop = lambda: None
    ) -> bool:
        """Upload the folder, end the run as `status`, and close.

        Args:
            status: FINISHED, FAILED or KILLED.
            reason: Why the run ended, if it did not finish.
            patience: Seconds to wait without progress.
            stop_if_asked: Called while waiting; raises if the run should end at once.

        Returns:
            Whether everything was sent.

        Raises:
            UserError: FINISHED cannot be written into the journal.
        """
        final_events: list[AnyEvent] = [TagSet(key=Tag.REASON, value=reason)] if reason else []
        if len(self.journal.starts) > 1:  # MLflow counts the time between the commands as well
            final_events.append(TagSet(key=Tag.SECONDS, value=f"{self.journal.seconds_worked:.1f}"))
        for event in (*final_events, Mark(event="files"), End(status=status)):
            try:
                self.add(event)
            except UserError:
                if status == "FINISHED":
                    raise
                self._todo.put(event)  # the disk may be full, but the store elsewhere can still be told
        return self.close(patience, stop_if_asked)

    def close(self, patience: float = PATIENCE, stop_if_asked: Stop = lambda: None) -> bool:
        """Wait until all events are sent.

        Args:
            patience: Seconds to wait without progress.
            stop_if_asked: Called while waiting; raises if the run should end at once.

        Returns:
            True if nothing is left to send.
        """
        self._closing.set()
        self._todo.put(None)
        if self.recorder is not None:
            since, sent = time.monotonic(), self._sent
            while self._thread.is_alive() and time.monotonic() - since < patience:
                self._thread.join(0.1)
                stop_if_asked()
                if self._sent != sent and patience > LITTLE_PATIENCE:
                    since, sent = time.monotonic(), self._sent
            if self._all_sent and not self.refused:
                with suppress(UserError):
                    self.journal.add(Mark(event="sent", store=self.recorder.store.label))
        self.journal.close()
        return self._all_sent

    def _send_all(self, recorder: Recorder) -> None:
        """Send events until None comes. Try again after a failure, until the outbox is closing and out of patience."""
        self._upload_resumable(recorder)
        is_user_told, pause, tries_left = False, FIRST_PAUSE, LAST_TRIES
        event = self._todo.get()
        while event is not None:
            try:
                self._send(recorder, event)
            except RefusalError as refusal:
                if not self.refused:
                    self._notify(f"note: {refusal}")
                self.refused = str(refusal)
            except Exception as error:  # also a file that was deleted meanwhile
                reason = str(error) if isinstance(error, UserError) else format_error(error)
                if not is_user_told:
                    is_user_told = True
                    self._notify(f"note: {reason}; what is missing there is kept and sent later")
                if not self._closing.is_set():
                    self._closing.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                elif tries_left > 1:
                    tries_left -= 1
                    time.sleep(1)
                else:
                    with suppress(UserError):  # a store that takes some calls must not show a run as running
                        call(recorder.set_tag, Tag.UNSENT, reason)
                        call(recorder.terminate, "FAILED")
                    return
                continue
            self._sent += 1
            pause, tries_left = FIRST_PAUSE, LAST_TRIES
            event = self._todo.get()
        self._all_sent = True

    def _send(self, recorder: Recorder, event: AnyEvent) -> None:
        match event:
            case Start(event="resumed"):
                call(recorder.reopen, event.tags)
            case Start():
                call(recorder.log_start, event)
            case Epoch():
                call(recorder.log_metrics, event.metrics, event.epoch, event.time)
                self._upload_resumable(recorder)
            case Result():
                call(recorder.log_metrics, event.values, 0, event.time)
            case TagSet():
                call(recorder.set_tag, event.key, event.value)
            case Mark(event="model"):
                call(recorder.log_model, self.journal.folder / File.MODEL)
            case Mark(event="files"):
                names = {place.name for place in self.journal.folder.iterdir() if not place.name.startswith(".")}
                self._upload(recorder, sorted(names - {journal.NAME, journal.STOP, File.MODEL}))
            case End():
                if self.refused:  # only a run with a complete record is FINISHED
                    call(recorder.set_tag, Tag.REASON, self.refused)
                call(recorder.terminate, "FAILED" if self.refused else event.status, event.time)

    def _upload_resumable(self, recorder: Recorder) -> None:
        """Upload what another machine needs to resume. A failure does no harm: a later epoch tries again."""
        if time.monotonic() >= self._upload_at:
            self._upload_at = time.monotonic() + CHECKPOINT_EVERY
            with suppress(UserError):
                self._upload(recorder, (File.CONFIG, File.DATASET, File.REPRODUCE, File.LAST))

    def _upload(self, recorder: Recorder, names: Iterable[str]) -> None:
        """Upload those of these files and folders that exist, to the same paths."""
        for name in names:
            place = self.journal.folder / name
            if place.exists():
                call(recorder.log_artifacts, place, name if place.is_dir() else name.rpartition("/")[0] or None)


def open_outbox(store: Store | None, events: Journal, notify: Callable[[str], None]) -> Outbox:
    """Open the outbox of a run. Create the run in the store if it has none yet.

    Args:
        store: The store; None to record offline.
        events: The run's journal.
        notify: Prints a line for the user.

    Raises:
        UserError: The store fails.
    """
    if store is None:
        return Outbox(events, None, notify)
    if events.run_id is not None:
        return Outbox(events, Recorder(store, call(get_run, store, events.run_id).run_id), notify)
    start = events.starts[0]
    # Its process may have been killed after the run was created and before that was written down.
    created = call(search_runs, store, f"tags.`{Tag.JOURNAL}` = '{start.tags.get(Tag.JOURNAL)}'", at_most=1)
    recorder = (
        Recorder(store, created[0].run_id) if created else call(create_run, store, start.name, start.tags, start.time)
    )
    try:
        call(recorder.log_start, start)
        events.add(Mark(event="created", run_id=recorder.run_id))
    except BaseException:
        with suppress(UserError):
            call(recorder.terminate, "FAILED")
        raise
    if not created and len(events.events) == 2:  # all that is in its journal was sent with these calls
        events.add(Mark(event="sent", store=store.label))
    return Outbox(events, recorder, notify)


def sync(settings: SyncConfig, config: dict[str, Any], folder: Path) -> None:
    """Send what MLflow missed of all runs below a folder.

    Raises:
        UserError: Something could not be sent.
    """
    root = Path(settings.folder)
    if not root.is_dir():
        raise UserError(f"folder={root}: there is no such folder; must hold run folders")
    store = open_store(settings.tracking)
    paths = sorted(root.rglob(journal.NAME))
    sent = failed = 0
    for path in paths:
        try:
            outcome = _sync_run(store, path.parent)
        except UserError as error:
            failed += 1
            outcome = f"not sent: {error}"
        sent += outcome.startswith("sent")
        if outcome:
            print(f"  {path.parent}  {outcome}", flush=True)
    print(f"{pluralize(len(paths), 'run')}, {sent} sent to {store.label} now, {failed} not sent")
    if failed:
        raise UserError(f"{failed} of {pluralize(len(paths), 'run')} could not be sent")


def _sync_run(store: Store, folder: Path) -> str:
    """Send what MLflow missed of one run. Return what was done, "" for nothing.

    Raises:
        UserError: It could not be sent.
    """
    reader = JournalReader(folder)
    if not reader.starts:
        return ""
    if (newest := reader.events[-1]).event == "sent":
        return f"is in {newest.store}" if newest.store not in (None, store.label) else ""
    if reader.end is None and (host := reader.starts[-1].tags.get(Tag.HOST)) != HOST:
        return f"belongs to {host}, which may be running it"
    if is_in_use(folder):
        return "is running"
    with closing(Journal(folder)) as events:
        count = len(events.unsent_events)
        outbox = open_outbox(store, events, print)
        is_done = outbox.close() if events.end else outbox.finish("KILLED", "its process was gone")
    if outbox.refused or not is_done:
        raise UserError(outbox.refused or f"{store.label} stopped answering; the rest is kept")
    assert outbox.recorder is not None
    outbox.recorder.clear_tags(Tag.UNSENT)
    return f"sent: {count} records, run {events.run_id}"
