"""Losses: means over a batch's examples, of N×classes outputs of which the largest wins."""

import torch.nn.functional as F
from torch import Tensor, nn


def choose_loss(model: nn.Module, loss: nn.Module) -> nn.Module:
    """Return the loss to train `model` with: what its `own_loss` makes of `loss` if it has one, else `loss`."""
    own_loss = getattr(model, "own_loss", None)
    return loss if own_loss is None else own_loss(loss)


class CrossEntropy(nn.Module):
    """The negative log-likelihood of the true class under softmax, in nats.

    While training, `label_smoothing` spreads that share of the truth evenly over all classes (Szegedy et al. 2016).
    Validation and test are measured without it.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Map N×classes logits and N class numbers to a number."""
        return F.cross_entropy(outputs, labels, label_smoothing=self.label_smoothing if self.training else 0.0)


class SquaredError(nn.Module):
    """Half the squared distance of the outputs from 1 for the true class and −1 for the others, as in 1989.

    A mean over examples of a sum over classes.
    """

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Map N×classes outputs and N class numbers to a number."""
        targets = F.one_hot(labels, outputs.shape[1]).to(outputs.dtype) * 2 - 1
        return (outputs - targets).square().sum() / (2 * len(labels))


class MaximumAPosteriori(nn.Module):
    """The discriminative criterion of LeNet-5, in nats (LeCun et al. 1998, equation 9).

    With the penalties y = −outputs and the true class D it is y_D + log(e^−j + Σ_i e^−y_i): the cross-entropy with one
    class more, "none of these", whose penalty is `j` for every image. The paper says only that j is positive.
    """

    def __init__(self, j: float = 5.0) -> None:
        super().__init__()
        self.j = j

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Map N×classes negative penalties and N class numbers to a number."""
        return F.cross_entropy(F.pad(outputs, (0, 1), value=-self.j), labels)
