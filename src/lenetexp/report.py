"""What a person sees in the terminal: the head of a run, its progress, its end."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

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
        self.epochs, self.epoch = epochs, done
        self.bar = tqdm(
            total=epochs * steps,
            initial=done * steps,
            unit="batch",
            disable=None,  # where the output is not a terminal
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {percentage:3.0f} %, {remaining} left",
        )

    def watch(self, batches: Batches, sums: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
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

    def line(self, record: Epoch) -> None:
        """One line on an epoch that is done."""
        if record.epoch == 1:
            self._write(
                "  epoch   training loss, accuracy   validation loss, accuracy        lr   images/s"
            )
        self._write(
            f"  {record.epoch:>5} {record.train_loss:>15.4f} {record.train_accuracy:>8.2%}"
            f" {record.val_loss:>17.4f} {record.val_accuracy:>8.2%}"
            f" {record.lr:>12.3g} {record.images_per_second:>9,.0f}"
            f"{'  best' if record.improved else ''}"
        )

    def close(self) -> None:
        """Takes the bar away."""
        self.bar.close()

    def _write(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def parameters(model: torch.nn.Module) -> str:
    """How many there are, in words."""
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"
