"""One view of a whole sweep while it runs."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lenetexp.config.identity import swept_name
from lenetexp.errors import UserError
from lenetexp.reporting.terminal import progress_bar, say
from lenetexp.tracking import journal
from lenetexp.tracking.journal import Epoch, JournalReader

LOOK_EVERY = 0.3  # seconds


class SweepProgress:
    """A bar over the epochs of all jobs, and a line for every job that ends, from the journals in a sweep's folder."""

    def __init__(
        self, folder: Path, jobs: int, epochs: int, on_epoch: Callable[[Path, Epoch], None] = lambda folder, epoch: None
    ) -> None:
        self.folder, self.jobs, self.epochs = folder, jobs, epochs
        self.on_epoch = on_epoch  # called with a job's folder for every epoch that it finishes
        self.journals: dict[Path, JournalReader] = {}
        self.done: dict[Path, int] = {}  # epochs of each job that has begun; of one that has ended, all it asked for
        self.ended: set[Path] = set()
        self.best, self.failed = 0.0, 0

    def __enter__(self) -> "SweepProgress":
        self.before = {path: path.stat().st_size for path in self.folder.glob(f"*/{journal.NAME}")}
        self.bar = progress_bar(self.epochs, right="{n_fmt}/{total_fmt} epochs")
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.bar.close()

    def _watch(self) -> None:
        while not self.over.wait(LOOK_EVERY):
            self._look()
        self._look()

    def _look(self) -> None:
        """Reads what the journals have gained, and says which jobs have ended."""
        for path in sorted(self.folder.glob(f"*/{journal.NAME}")):
            if path.parent not in self.ended and self.before.get(path) != path.stat().st_size:
                with suppress(UserError):  # a damaged journal must not end the view
                    self._look_at(path.parent)
        begun, ended = len(self.done), len(self.ended)
        said = f"{ended - self.failed} done, {self.failed} failed, {begun - ended} running, {self.jobs - begun} left"
        self.bar.set_description_str(f"{said}, best {self.best:.2%}", refresh=False)
        self.bar.n = sum(self.done.values())
        self.bar.refresh()

    def _look_at(self, folder: Path) -> None:
        events = self.journals.get(folder) or self.journals.setdefault(folder, JournalReader(folder))
        events.update()
        if not (starts := events.starts):
            return
        epochs = events.of(Epoch)
        for epoch in epochs[self.done.get(folder, 0) :]:
            self.on_epoch(folder, epoch)
        self.done[folder] = len(epochs)
        best = max((epoch.metrics["val/accuracy"] for epoch in epochs), default=0.0)
        self.best = max(self.best, best)
        if events.end is None and not events.died:
            return
        self.ended.add(folder)
        self.done[folder] = starts[-1].epochs
        status = events.end.status if events.end else "DIED"
        self.failed += status != "FINISHED"
        seconds = ((events.end or events.events[-1]).time - starts[-1].time) / 1000
        reached = f"validation {best:.2%}, " if epochs else ""
        said = f"{swept_name(starts[0].swept)}: {events.ending or status.lower()}, {reached}{seconds:.1f} s"
        say(f"  [{len(self.ended)}/{self.jobs}] {said}")
