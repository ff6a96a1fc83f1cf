"""What a person sees in the terminal: the head of a run, its progress, its end."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lenetexp import journal, process
from lenetexp.config import UserError, one_line, swept_name

if TYPE_CHECKING:  # a sweep's parent has no need of torch
    from torch import Tensor, nn

    from lenetexp.train import Batches, Epoch


def lines(rows: Sequence[tuple[str, str]]) -> str:
    """Labels and what belongs to them, aligned."""
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"  {label:<{width}}  {text}" for label, text in rows)


def shown(path: Path) -> str:
    """A path as one would type it here: relative where it lies below the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class Progress:
    """A bar over all batches of a run and a line an epoch; the lines alone where no one watches.

    Args:
        epochs: epochs in all.
        steps: batches an epoch.
        done: epochs done before.
    """

    def __init__(self, epochs: int, steps: int, done: int = 0) -> None:
        self.epochs, self.epoch, self.headed = epochs, done, False
        self.bar = tqdm(
            total=epochs * steps,
            initial=done * steps,
            unit="batch",
            disable=None,  # where the output is not a terminal
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {percentage:3.0f} %, {remaining} left",
        )

    def watch(self, batches: "Batches", sums: "Tensor") -> "Batches":
        """Passes the batches of an epoch on and moves the bar.

        The sums of nats and right answers lie on the device: they are fetched a few times a second.
        """
        self.epoch += 1
        if self.bar.disable:
            yield from batches
            return
        seen, looked = 0, 0.0
        for images, labels in batches:
            yield images, labels
            seen += len(labels)
            now = time.perf_counter()
            if now - looked > 0.2:
                looked = now
                loss, accuracy = (sums / seen).tolist()
                self.bar.set_description_str(
                    f"epoch {self.epoch}/{self.epochs}  loss {loss:.3f}  accuracy {accuracy:.1%}",
                    refresh=False,
                )
            self.bar.update()

    def line(self, record: "Epoch") -> None:
        """One line on an epoch that is done."""
        if not self.headed:
            self.headed = True
            self.write("  epoch   training loss, accuracy   validation loss, accuracy        lr   images/s")
        self.write(
            f"  {record.epoch:>5} {record.train_loss:>15.4f} {record.train_accuracy:>8.2%}"
            f" {record.val_loss:>17.4f} {record.val_accuracy:>8.2%}"
            f" {record.lr:>12.3g} {record.images_per_second:>9,.0f}"
            f"{'  best' if record.improved else ''}"
        )

    def close(self) -> None:
        """Takes the bar away."""
        self.bar.close()

    @staticmethod
    def write(text: str) -> None:
        """A line above the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def drawn(draw: Callable[[], None]) -> bool:
    """Draws pictures; whether they could be: no picture is worth the record of a run or a sweep.

    Raises:
        UserError, OSError: they cannot be written.
    """
    try:
        draw()
    except (UserError, OSError):
        raise
    except Exception as error:  # matplotlib, on names and numbers that no one foresaw
        print(f"note: the pictures could not be drawn ({type(error).__name__}: {one_line(error)[:200]})")
        return False
    return True


def parameters(model: "nn.Module") -> str:
    """How many there are, in words."""
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their names; numbers to the right, words to the left."""
    columns = list(zip(head, *rows, strict=True))
    aligned = []
    for column in columns:
        width = max(len(cell) for cell in column)
        numbers = all(cell[:1] in "-0123456789" for cell in column[1:] if cell)
        aligned.append([cell.rjust(width) if numbers else cell.ljust(width) for cell in column])
    return "\n".join("  " + "   ".join(line).rstrip() for line in zip(*aligned, strict=True))


class SweepProgress:
    """One view of a whole sweep while it runs: a bar and a line for every job that ends; lines alone
    where no one watches. It reads the journals that jobs write below the sweep's folder.

    Args:
        folder: the sweep's.
        jobs: how many there will be.
        epochs: of all of them together.
    """

    def __init__(self, folder: Path, jobs: int, epochs: int) -> None:
        self.folder, self.jobs, self.epochs = folder, jobs, epochs
        self.told: dict[Path, int] = {}  # journals of jobs that have ended, with their epochs
        self.best, self.failed = 0.0, 0

    def __enter__(self) -> "SweepProgress":
        self.before = {path: path.stat().st_size for path in self.folder.glob(f"*/{journal.NAME}")}
        self.bar = tqdm(
            total=self.epochs,
            unit="epoch",
            disable=None,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt} epochs, {remaining} left",
        )
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.bar.close()

    def _watch(self) -> None:
        while not self.over.wait(0.3):
            self._look()
        self._look()

    def _look(self) -> None:
        """Reads every journal that has changed; tells of jobs that have ended since the last look."""
        epochs = running = 0
        for path in sorted(self.folder.glob(f"*/{journal.NAME}")):
            if path in self.told:
                epochs += self.told[path]
                continue
            if self.before.get(path) == path.stat().st_size:
                continue  # of an earlier command
            try:
                events = journal.read(path)
            except UserError:  # damaged: the view must not end for it
                continue
            starts = [event for event in events if event["event"] in ("start", "resumed")]
            if not starts:
                continue
            done = [event for event in events if event["event"] == "epoch"]
            best = max((event["val/accuracy"] for event in done), default=0.0)
            self.best = max(self.best, best)
            end, whose = journal.end_of(events), starts[-1]["tags"]
            here = whose["lenetexp.host"] == socket.gethostname()
            if end is None and here and not process.alive(whose["lenetexp.process"]):
                end = {"status": "died", "time": events[-1]["time"]}
            # A job that ended early has no epochs left to wait for.
            epochs += len(done) if end is None else starts[-1]["epochs"]
            running += end is None
            if end is not None:
                self.told[path] = starts[-1]["epochs"]
                self.failed += end["status"] != "FINISHED"
                named = swept_name(starts[0]["swept"])
                status = journal.ending_of(events) or end["status"].lower()
                seconds = (end["time"] - starts[-1]["time"]) / 1000
                reached = f"validation {best:.2%}, " if done else ""
                Progress.write(
                    f"  [{len(self.told)}/{self.jobs}] {named}: {status}, {reached}{seconds:.1f} s"
                )
        left = self.jobs - len(self.told) - running
        self.bar.set_description_str(
            f"{len(self.told) - self.failed} done, {self.failed} failed, {running} running, {left} left, "
            f"best {self.best:.2%}",
            refresh=False,
        )
        self.bar.n = epochs
        self.bar.refresh()
