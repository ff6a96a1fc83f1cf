"""A model and a split to numbers. Always in fp32, so that a number means the same for every run."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenetexp.data import as_floats
from lenetexp.datasets import Split

BATCH = 1000  # images at once: fast on a CPU, and 3 MB of floats


@dataclass(frozen=True)
class Scores:
    """What a model makes of every example of a split; on the CPU."""

    logits: Tensor  # N×classes
    labels: Tensor  # N

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats an example: summed first, divided once."""
        return F.cross_entropy(self.logits.double(), self.labels, reduction="sum").item() / len(self.labels)

    @property
    def accuracy(self) -> float:
        """Share of the examples whose largest logit is the right one, in [0, 1]."""
        return (self.predicted == self.labels).sum().item() / len(self.labels)

    @property
    def predicted(self) -> Tensor:
        """N class numbers."""
        return self.logits.argmax(1)

    @property
    def confidence(self) -> Tensor:
        """N probabilities that the model gives to what it predicts."""
        return self.logits.softmax(1).amax(1)

    def confusion(self) -> Tensor:
        """classes×classes counts: row the true class, column the predicted one."""
        classes = self.logits.shape[1]
        pairs = self.labels * classes + self.predicted
        return pairs.bincount(minlength=classes**2).view(classes, classes)


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """N×C×H×W uint8 images to N×classes logits; leaves the model in evaluation mode."""
    model.eval()
    return torch.cat([model(as_floats(batch)).float() for batch in images.split(BATCH)])


def evaluate(model: nn.Module, split: Split) -> Scores:
    """Every example of `split` scored once."""
    return Scores(logits(model, split.images).cpu(), split.labels.cpu())
