"""Score a net on a split: sum first, divide once. Evaluation is always in fp32."""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, sqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from lenetexp.datasets.splits import Split
from lenetexp.models.losses import CrossEntropy
from lenetexp.training.batches import convert_to_floats

BATCH = 1000  # images at once: fast on a CPU, and 3 MB of floats
# Batches between two looks at whether the loss is still finite: each look waits for the device.
SYNC_EVERY = 64


class Diverged(Exception):
    """The loss is no longer finite. This is a result of the settings, not a fault."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss stopped being finite in epoch {epoch}")
        self.epoch = epoch


class Totals:
    """Summed loss and correct predictions over the batches so far, kept on the device."""

    def __init__(self, epoch: int, device: torch.device) -> None:
        self.epoch, self.batches, self.images = epoch, 0, 0
        self.sums = torch.zeros(2, device=device)
        self.loss_sum, self.correct = self.sums

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch with its mean loss.

        Raises:
            Diverged: The loss is not finite. It is noticed within `SYNC_EVERY` batches.
        """
        self.loss_sum.add_(loss.detach(), alpha=len(labels))
        self.correct.add_((logits.argmax(1) == labels).sum())
        if self.batches % SYNC_EVERY == 0 and not isfinite(self.loss_sum.item()):
            raise Diverged(self.epoch)
        self.batches += 1
        self.images += len(labels)

    def compute_means(self) -> tuple[float, float]:
        """Return the mean loss per example, and the accuracy in [0, 1]. Waits for the device."""
        loss, accuracy = (self.sums / self.images).tolist()
        return loss, accuracy


@dataclass(frozen=True)
class Scores:
    """A net's outputs for every example of a split, on the CPU."""

    logits: Tensor  # N×classes
    labels: Tensor  # N
    criterion: nn.Module = field(default_factory=CrossEntropy)

    @cached_property
    def loss(self) -> float:
        """The mean of the criterion over the examples: cross-entropy in nats unless the run has another loss."""
        exact = copy.deepcopy(self.criterion).cpu().double().eval()  # of its own: training goes on with the other
        return float(exact(self.logits.double(), self.labels))

    @cached_property
    def predicted(self) -> Tensor:
        return self.logits.argmax(1)

    @property
    def confidence(self) -> Tensor:
        """The N probabilities of the predicted classes."""
        return self.logits.softmax(1).amax(1)

    @property
    def correct(self) -> int:
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        return self.correct / len(self.labels)

    def save(self, path: Path) -> None:
        """Write a CSV file with image number, class, predicted class and its probability. Numbers are from 0."""
        lines = zip(self.labels.tolist(), self.predicted.tolist(), self.confidence.tolist(), strict=True)
        rows = [f"{image},{label},{guess},{share:.6f}\n" for image, (label, guess, share) in enumerate(lines)]
        path.write_text("".join(["image,label,predicted,confidence\n", *rows]))

    def count_confusion(self) -> Tensor:
        """Count predictions by class: classes×classes, row the true class, column the predicted one."""
        classes = self.logits.shape[1]
        pairs = self.labels * classes + self.predicted
        return pairs.bincount(minlength=classes**2).view(classes, classes)


def is_better_than_chance(accuracy: float, classes: int, images: int) -> bool:
    """Return whether an accuracy is two standard deviations above that of guessing.

    Guessing reaches it less than once in forty times.
    """
    chance = 1 / classes
    return accuracy > chance + 2 * sqrt(chance * (1 - chance) / images)


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split, criterion: nn.Module | None = None) -> Scores:
    """Score every example of `split` once. Leaves the model in evaluation mode."""
    model.eval()
    logits = [model(convert_to_floats(images)).float() for images in split.images.split(BATCH)]
    return Scores(torch.cat(logits).cpu(), split.labels.cpu(), criterion or CrossEntropy())
