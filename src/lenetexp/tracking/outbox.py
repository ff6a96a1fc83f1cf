"""Sends what a run's journal holds to MLflow, from a thread; no outage stops training."""

import queue
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from lenetexp.errors import UserError, one_line
from lenetexp.tracking import journal
from lenetexp.tracking.journal import AnyEvent, Created, End, Epoch, Journal, Ready, Result, Sent, Start, TagSet
from lenetexp.tracking.names import File, Tag
from lenetexp.tracking.query import get_run, search
from lenetexp.tracking.recorder import Recorder, create_run
from lenetexp.tracking.store import ONE_TRY, Refused, Store, set_patience

# Seconds between two tries of a store that does not answer: the first and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
# Tries once nothing more will come, a second apart; the rest is left to scripts/sync.py.
LAST_TRIES = 5
# Seconds without progress before the end of a run stops waiting; less if it was asked to stop.
PATIENCE, LITTLE_PATIENCE = 30.0, 3.0
# Seconds between two uploads of the newest checkpoint, from which another machine can resume.
CHECKPOINT_EVERY = 10.0

NOT_FILES = (journal.NAME, journal.STOP, File.MODEL)  # not uploaded as files of the run's folder
DRAFT = (File.CONFIG, File.DATASET, File.REPRODUCE)


class Outbox:
    """Writes a run's events into its journal and sends them in order from a thread of its own.

    MLflow keeps one copy of what it gets twice with the same time and step, so everything that it may have missed can
    be sent again. Without a recorder the run is recorded offline; `notify` shows a line to the user.
    """

    def __init__(self, events: Journal, recorder: Recorder | None, notify: Callable[[str], None]) -> None:
        self.journal, self.recorder, self._notify = events, recorder, notify
        self.refused = ""  # why the server would not take something
        self._todo: queue.Queue[AnyEvent | None] = queue.Queue()
        self._closing = threading.Event()
        self._sent = 0
        self._all_sent = self._told = self._draft_sent = False
        self._uploaded = 0.0
        for event in events.unsent:
            self._todo.put(event)
        set_patience(*ONE_TRY)
        self._thread = threading.Thread(target=self._send_all, args=(recorder,), daemon=True)
        if recorder is not None:
            self._thread.start()

    def add(self, event: AnyEvent) -> None:
        """Writes an event into the journal and queues it for MLflow.

        Raises `UserError` if the journal cannot be written.
        """
        self.journal.add(event)
        self._todo.put(event)

    def tag(self, key: str, value: str) -> None:
        """Sets a tag of the run."""
        self.add(TagSet(key=key, value=value))

    def epoch(self, number: int, metrics: dict[str, float]) -> None:
        """Logs an epoch's metrics, unless an interrupted command did."""
        if not any(event.epoch == number for event in self.journal.of(Epoch)):
            self.add(Epoch(epoch=number, **metrics))  # type: ignore[arg-type]  # the metrics are extra keys

    def result(self, values: dict[str, float]) -> None:
        """Logs the finished run's metrics, unless an interrupted command did."""
        if not self.journal.of(Result):
            self.add(Result(values=values))

    def end(
        self,
        status: str,
        reason: str = "",
        patience: float = PATIENCE,
        stop_if_asked: Callable[[], None] = lambda: None,
    ) -> bool:
        """Uploads the run's folder, closes the run as `status`, and waits until everything is sent; whether it was.

        It gives up after `patience` seconds without progress, or when `stop_if_asked` raises. Raises `UserError` if a
        finished run's journal cannot be written.
        """
        last: list[AnyEvent] = [TagSet(key=Tag.REASON, value=reason)] if reason else []
        if len(self.journal.starts) > 1:  # MLflow counts the time between the commands as well
            last.append(TagSet(key=Tag.SECONDS, value=f"{self.journal.seconds_worked:.1f}"))
        for event in (*last, Ready(event="files"), End(status=status)):
            try:
                self.add(event)
            except UserError:
                if status == "FINISHED":
                    raise
                self._todo.put(event)  # the disk may be full, but the store elsewhere can still be told
        return self.close(patience, stop_if_asked)

    def close(self, patience: float = PATIENCE, stop_if_asked: Callable[[], None] = lambda: None) -> bool:
        """Waits for what is queued, as long as something is sent every `patience` seconds."""
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
                    self.journal.add(Sent(store=self.recorder.store.shown))
        self.journal.close()
        return self._all_sent

    def _send_all(self, recorder: Recorder) -> None:
        self._send_state(recorder)
        while (event := self._todo.get()) is not None:
            if not self._send_until_done(recorder, event):
                return
        self._all_sent = True

    def _send_until_done(self, recorder: Recorder, event: AnyEvent) -> bool:
        """Whether it was sent, or refused for good, before patience ended."""
        pause, tries_left = FIRST_PAUSE, LAST_TRIES
        while True:
            try:
                self._send(recorder, event)
                self._sent += 1
                return True
            except Refused as refusal:
                if not self.refused:
                    self._notify(f"note: {refusal}")
                self.refused = str(refusal)
                return True
            except Exception as error:  # also a file that was deleted meanwhile
                reason = str(error) if isinstance(error, UserError) else one_line(error)
                if not self._told:
                    self._told = True
                    self._notify(f"note: {reason}; what is missing there is kept and sent later")
            if not self._closing.is_set():
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            elif tries_left > 1:
                tries_left -= 1
                time.sleep(1)
            else:
                with suppress(UserError):  # a store that takes some calls must not show a run as running
                    recorder.tag(Tag.UNSENT, reason)
                    recorder.end("FAILED")
                return False

    def _send(self, recorder: Recorder, event: AnyEvent) -> None:
        match event:
            case Start(event="resumed"):
                recorder.reopen(event.tags)
            case Start():
                recorder.describe(event)
            case Epoch():
                recorder.metrics(event.metrics, event.epoch, event.time)
                self._send_state(recorder)
            case Result():
                recorder.metrics(event.values, 0, event.time)
            case TagSet():
                recorder.tag(event.key, event.value)
            case Ready(event="model"):
                recorder.model(self.journal.folder / File.MODEL)
            case Ready(event="files"):
                self._upload(recorder)
            case End() if self.refused:  # only a run with a complete record is FINISHED
                recorder.tag(Tag.REASON, self.refused)
                recorder.end("FAILED", event.time)
            case End():
                recorder.end(event.status, event.time)

    def _send_state(self, recorder: Recorder) -> None:
        """What another machine needs to resume. A failure is no harm: the next epoch tries again."""
        last = self.journal.folder / File.LAST
        with suppress(UserError):
            if not self._draft_sent:
                self._upload(recorder, DRAFT)
                self._draft_sent = True
            if time.monotonic() - self._uploaded > CHECKPOINT_EVERY and last.exists():
                self._uploaded = time.monotonic()
                recorder.artifacts(last, File.CHECKPOINTS)

    def _upload(self, recorder: Recorder, only: Collection[str] = ()) -> None:
        for place in sorted(self.journal.folder.iterdir()):
            wanted = place.name in only if only else place.name not in NOT_FILES
            if wanted and not place.name.startswith("."):
                recorder.artifacts(place, place.name if place.is_dir() else None)


def open_outbox(store: Store | None, events: Journal, notify: Callable[[str], None]) -> Outbox:
    """The outbox of a run whose start is in its journal; the run is created in the store if need be.

    Raises `UserError` if the store does not have the run, or fails.
    """
    if store is None:
        return Outbox(events, None, notify)
    if events.run_id is not None:
        return Outbox(events, Recorder(store, get_run(store, events.run_id).run_id), notify)
    start = events.starts[0]
    # Its process may have been killed after the run was created and before that was written down.
    created = search(store, f"tags.`{Tag.JOURNAL}` = '{start.tags.get(Tag.JOURNAL)}'", at_most=1)
    recorder = Recorder(store, created[0].run_id) if created else create_run(store, start.name, start.tags, start.time)
    try:
        recorder.describe(start)
        events.add(Created(run_id=recorder.run_id))
    except BaseException:
        with suppress(UserError):
            recorder.end("FAILED")
        raise
    if not created and len(events.events) == 2:  # all that is in its journal was sent with these calls
        events.add(Sent(store=store.shown))
    return Outbox(events, recorder, notify)
