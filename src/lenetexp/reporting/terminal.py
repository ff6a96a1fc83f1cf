"""What the terminal shows: aligned rows, tables, paths, the progress of a run and of a sweep."""

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lenetexp.config.identity import swept_name
from lenetexp.errors import UserError, columns, one_line, wrapped
from lenetexp.tracking import journal
from lenetexp.tracking.journal import Epoch, JournalReader

if TYPE_CHECKING:  # a sweep's parent process needs no torch
    from lenetexp.training.evaluate import Totals
    from lenetexp.training.state import EpochRecord

SPARKS, MOST_CURVES = 12, 8  # epochs in a sparkline, running jobs with one
ENDS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}  # how a run's last line reads
PAUSE = 0.3  # seconds between two looks at what goes on


def rows(pairs: Sequence[tuple[str, str]]) -> str:
    """Labels and their texts, aligned; a text without room beside its label stands below it."""
    width = max(len(label) for label, _ in pairs)
    lines = []
    for label, text in pairs:
        start = f"  {label:<{width}}  "
        beside = _folded(text, columns() - len(start))
        if max(map(len, beside)) > columns() - len(start):
            lines += [f"  {label}"] if label else []
            start, beside = "    ", _folded(text, columns() - 4)
        lines += [start + beside[0], *(" " * len(start) + line for line in beside[1:])]
    return "\n".join(lines)


def _folded(text: str, room: int) -> list[str]:
    """Lines of at most `room` characters if punctuation allows it: a path or a command, to be copied, stays whole."""
    lines = [""]
    for piece in re.split(r"(?<=[,;:] )|(?<= )(?=https?:)", text):
        if lines[-1] and len(f"{lines[-1]}{piece}".rstrip()) > room:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def table(cells: Mapping[str, Iterable[str]]) -> str:
    """Columns under their names; numbers to the right, words to the left."""
    aligned = []
    for name, column in cells.items():
        texts = [name, *column]
        width = max(map(len, texts))
        numbers = all(text[:1] in "-–0123456789" for text in texts[1:] if text)
        aligned.append([text.rjust(width) if numbers else text.ljust(width) for text in texts])
    return "\n".join("  " + "  ".join(line).rstrip() for line in zip(*aligned, strict=True))


def fit_columns(cells: Mapping[str, Iterable[str]], spare: Sequence[str]) -> dict[str, list[str]]:
    """Columns that fit the terminal: as many of `spare`, in this order, are left out as must be."""
    fitting = {name: [*column] for name, column in cells.items()}
    for name in spare:
        if sum(2 + max(map(len, [title, *texts])) for title, texts in fitting.items()) > columns():
            fitting.pop(name, None)
    return fitting


def shown(path: Path) -> str:
    """A path as one would type it here: relative if it is below the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def say(text: str) -> None:
    """A line above any progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def progress_bar(total: int, initial: int = 0, right: str = "{percentage:3.0f} %") -> tqdm:
    """A bar that disappears when it ends, and that is not there at all if the output is no terminal."""
    form = "{desc} {bar} " + right + ", {remaining} left"
    return tqdm(
        total=total, initial=initial, bar_format=form, disable=None, leave=False, dynamic_ncols=True, mininterval=0.2
    )


@contextmanager
def status_line(compose: Callable[[], str]) -> Iterator[None]:
    """Shows in a terminal what the body is at, as `compose` says in a thread of its own; disappears with the body."""
    line = tqdm(total=0, bar_format="{desc}", disable=None, leave=False, dynamic_ncols=True)
    over = threading.Event()

    def watch() -> None:
        """Composes the line again and again."""
        while not line.disable:
            line.set_description_str(compose())
            if over.wait(PAUSE):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        line.close()


def try_draw(draw: Callable[[], None]) -> bool:
    """Draws pictures; returns whether that worked. Raises `UserError` or `OSError` if they cannot be written."""
    try:
        draw()
        return True
    except (UserError, OSError):
        raise
    except Exception as error:  # matplotlib may fail on unforeseen names; no picture is worth the record of a run
        print(f"note: the pictures could not be drawn ({type(error).__name__}: {one_line(error)[:200]})")
        return False


class Progress:
    """A bar over all batches of a run, so many an epoch, and a line for every epoch; some epochs may be done."""

    def __init__(self, epochs: int, steps: int, done: int = 0) -> None:
        self.epochs, self._has_head = epochs, False
        self.bar = progress_bar(epochs * steps, done * steps)

    def batch(self, totals: "Totals") -> None:
        """Moves the bar; whenever it is redrawn, takes in the epoch's loss and accuracy so far."""
        if self.bar.update():  # not for every batch: looking at the loss waits for the device
            loss, accuracy = totals.means()
            said = f"epoch {totals.epoch}/{self.epochs}  loss {loss:.3f}  accuracy {accuracy:.1%}"
            self.bar.set_description_str(said)

    def epoch(self, record: "EpochRecord") -> None:
        """Prints one line for a finished epoch; above the first, the names of its columns."""
        if not self._has_head:
            self._has_head = True
            say("         training           validation")
            say("  epoch      loss accuracy       loss accuracy       lr  images/s")
        say(
            f"  {record.epoch:>5}  {format_loss(record.train_loss):>8} {record.train_accuracy:>8.2%}"
            f"  {format_loss(record.val_loss):>9} {record.val_accuracy:>8.2%}"
            f" {record.lr:>8.3g} {record.images_per_second:>9,.0f}"
            f"{'  best' if record.improved else ''}"
        )


def format_loss(loss: float) -> str:
    """Format a loss in at most eight characters: one that explodes must not push its line's columns apart."""
    return f"{loss:.4f}" if loss < 999 else f"{loss:.1f}" if loss < 1e5 else f"{loss:.2e}"


def sparkline(accuracies: Sequence[float]) -> str:
    """▁▂▃▄▅▆▇█ for accuracies from 0 to 1; of more than `SPARKS`, the last in each of as many equal parts."""
    parts = min(len(accuracies), SPARKS)
    picked = (accuracies[(part + 1) * len(accuracies) // parts - 1] for part in range(parts))
    # From 0 to 1, so that the lines of all jobs can be compared.
    return "".join("▁▂▃▄▅▆▇█"[min(int(accuracy * 8), 7)] for accuracy in picked)


def curves(journals: Sequence[JournalReader]) -> list[str]:
    """A line for each run, aligned: what was swept, its validation accuracy over the epochs so far and now."""
    lines = []
    for events in journals:
        accuracies = [epoch.metrics["val/accuracy"] for epoch in events.of(Epoch)]
        now = f"{accuracies[-1]:.2%}" if accuracies else ""
        epochs = f"epoch {len(accuracies)}/{events.starts[-1].epochs}"
        lines.append((swept_name(events.starts[0].swept), f"{sparkline(accuracies):<{SPARKS}} {now:>7}  {epochs}"))
    room = columns() - 5 - max((len(numbers) for _, numbers in lines), default=0)
    names = [name if len(name) <= room else f"{name[: room // 2]}…{name[room // 2 + 1 - room :]}" for name, _ in lines]
    width = max(map(len, names), default=0)
    return [f"  {name:<{width}}  {numbers}" for name, (_, numbers) in zip(names, lines, strict=True)]


class SweepProgress:
    """A bar over the epochs of all jobs with the curves of those that run below it, and a line for every job that ends.

    All from the journals in a sweep's folder.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int,
        epochs: int,
        on_epoch: Callable[[Path, Epoch], object],
        describe_phase: Callable[[bool], str],
    ) -> None:
        self.folder, self.jobs, self.epochs = folder, jobs, epochs
        self.on_epoch = on_epoch  # called with a job's folder for every epoch that it finishes
        self.describe_phase = describe_phase  # what is waited for; asked with whether a job has begun
        self.journals: dict[Path, JournalReader] = {}
        self.done: dict[Path, int] = {}  # epochs of each job that has begun; of one that has ended, all it asked for
        self.ended: dict[Path, str] = {}  # in which words
        self.best: dict[str, float] = {}  # on each dataset, by its name
        self.curves: list[tqdm] = []  # the lines below the bar

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
        for line in (*reversed(self.curves), self.bar):
            line.close()

    def _watch(self) -> None:
        """Reads what the journals gain, and says which jobs have ended."""
        over = False
        while not over:  # and once more after the last job
            over = self.over.wait(PAUSE)
            for path in sorted(self.folder.glob(f"*/{journal.NAME}")):
                if path.parent not in self.ended and self.before.get(path) != path.stat().st_size:
                    with suppress(UserError):  # a damaged journal must not end the view
                        self._look_at(path.parent)
            self.bar.set_description_str(self._describe(), refresh=False)
            self.bar.n = sum(self.done.values())
            self.bar.refresh()
            self._show_curves()

    def _describe(self) -> str:
        """How many jobs are in which state, and the best accuracy so far, unless they have several datasets."""
        begun, running = len(self.done), f"{len(self.done) - len(self.ended)} running"
        if phase := self.describe_phase(begun > 0):
            return f"{phase}, {running}" if begun else phase
        counts = Counter(self.ended.values())
        words = [f"{counts.pop('finished', 0)} done", *(f"{number} {word}" for word, number in counts.items())]
        words += [running, f"{self.jobs - begun} left"]
        if len(self.best) == 1:
            words += [f"best {accuracy:.2%}" for accuracy in self.best.values()]
        return ", ".join(words)

    def _show_curves(self) -> None:
        if self.bar.disable or self.bar.ascii:  # no terminal, or one that has no ▁
            return
        running = [self.journals[folder] for folder in sorted(self.done.keys() - self.ended)][:MOST_CURVES]
        while len(self.curves) < len(running):
            self.curves.append(tqdm(total=0, bar_format="{desc}", disable=None, leave=False, dynamic_ncols=True))
        texts = curves(running)
        for line, text in zip(self.curves, texts + [""] * len(self.curves), strict=False):
            line.set_description_str(text)

    def _look_at(self, folder: Path) -> None:
        events = self.journals.get(folder) or self.journals.setdefault(folder, JournalReader(folder))
        events.update()
        if not (starts := events.starts):
            return
        epochs = events.of(Epoch)
        for epoch in epochs[self.done.get(folder, 0) :]:
            self.on_epoch(folder, epoch)
        self.done[folder] = len(epochs)
        accuracies = [epoch.metrics["val/accuracy"] for epoch in epochs]
        if accuracies:
            dataset = (starts[0].dataset or {}).get("name", "")
            self.best[dataset] = max(self.best.get(dataset, 0.0), *accuracies)
        if events.end is None and not events.died:
            return
        self.done[folder] = starts[-1].epochs
        self.ended[folder] = ENDS[events.end.status] if events.end else "died"
        seconds = ((events.end or events.events[-1]).time - starts[-1].time) / 1000
        reached = f"validation {max(accuracies):.2%}, " if accuracies else ""
        said = f"{swept_name(starts[0].swept)}: {events.ending or self.ended[folder]}, {reached}{seconds:.1f} s"
        say(wrapped(f"[{len(self.ended)}/{self.jobs}] {said}", first="  ", others="        "))
