"""One view of a whole sweep while it runs."""

import threading
from collections.abc import Callable
from pathlib import Path

from lenetexp.config.identity import swept_name
from lenetexp.errors import UserError
from lenetexp.reporting.terminal import progress_bar, say
from lenetexp.tracking import journal
from lenetexp.tracking.journal import Epoch, JournalReader

LOOK_EVERY = 0.3  # seconds


class SweepProgress:
    """A bar over the epochs of all jobs, and a line for every job that ends, from the journals in a sweep's folder.

    `on_epoch` is called with a job's folder for every epoch that it finishes.
    """

    def __init__(
        self, folder: Path, jobs: int, epochs: int, on_epoch: Callable[[Path, Epoch], None] = lambda folder, epoch: None
    ) -> None:
        self.folder, self.jobs, self.epochs, self.on_epoch = folder, jobs, epochs, on_epoch
        self.journals: dict[Path, JournalReader] = {}
        self.ended: dict[Path, int] = {}  # folders of jobs that have ended, with their epochs
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
        epochs = running = 0
        for path in sorted(self.folder.glob(f"*/{journal.NAME}")):
            if path.parent not in self.ended and self.before.get(path) != path.stat().st_size:
                done = self._look_at(path.parent)
                running += done is not None
                epochs += done or 0
        left = self.jobs - len(self.ended) - running
        said = f"{len(self.ended) - self.failed} done, {self.failed} failed, {running} running, {left} left"
        self.bar.set_description_str(f"{said}, best {self.best:.2%}", refresh=False)
        self.bar.n = epochs + sum(self.ended.values())
        self.bar.refresh()

    def _look_at(self, folder: Path) -> int | None:
        """Epochs done by a job that runs; None for one that does not."""
        try:
            if folder in self.journals:
                new = self.journals[folder].update()
            else:
                new = self.journals.setdefault(folder, JournalReader(folder)).events
        except UserError:  # a damaged journal must not end the view
            return None
        events = self.journals[folder]
        for event in list(new):
            if isinstance(event, Epoch):
                self.on_epoch(folder, event)
        if not (starts := events.starts):
            return None
        accuracies = [epoch.metrics["val/accuracy"] for epoch in events.of(Epoch)]
        best = max(accuracies, default=0.0)
        self.best = max(self.best, best)
        if events.end is None and not events.died:
            return len(accuracies)
        status = events.end.status if events.end else "DIED"
        # A job that ended early has no epochs left to wait for.
        self.ended[folder] = starts[-1].epochs
        self.failed += status != "FINISHED"
        seconds = ((events.end or events.events[-1]).time - starts[-1].time) / 1000
        reached = f"validation {best:.2%}, " if accuracies else ""
        said = f"{swept_name(starts[0].swept)}: {events.ending or status.lower()}, {reached}{seconds:.1f} s"
        say(f"  [{len(self.ended)}/{self.jobs}] {said}")
        return None
