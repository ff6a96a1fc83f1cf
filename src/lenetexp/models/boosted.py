"""Three nets, each of which learns what the ones before it get wrong."""

import torch
from torch import Tensor, nn

from lenetexp.models.lenet_1998 import LeNet4


class BoostedLeNet4(nn.Module):
    """Three LeNet-4 for N×channels×28×28 images in [0, 1]. Returns the mean of their N×classes scores.

    LeCun et al. (1998), section III C, after H. Drucker, R. Schapire, P. Simard: Boosting performance in neural
    networks, 1993. There the nets learn one after the other: the second from a mixture of which the first gets half
    wrong, the third from what the two disagree about. Here all learn at once, each from its part of the same batches:
    see `Boosting`. The arguments are `LeNet1`'s.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        activation: str = "scaled_tanh",
        output: str = "tanh",
        init: str = "xavier",
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(LeNet4(classes, channels, activation, output, init) for _ in range(3))
        self.outputs: Tensor | None = None  # of the members, for the loss of the newest batch

    def forward(self, x: Tensor) -> Tensor:
        """N×channels×28×28 images with values in [0, 1] to N×classes scores."""
        outputs = torch.stack([member(x) for member in self.members])
        self.outputs = outputs if self.training else None
        return outputs.mean(0)

    def own_loss(self, loss: nn.Module) -> nn.Module:
        """Return the loss to train these members with."""
        return Boosting(self, loss)


class Boosting(nn.Module):
    """The sum of the members' losses on their parts of a batch; in evaluation, the loss of their mean.

    The first member's part is the whole batch. Half of the second's weight is on what the first gets wrong, half on the
    rest. The third's part is what the two disagree about. An empty part counts nothing.
    """

    def __init__(self, model: BoostedLeNet4, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self._model = (model,)  # in a tuple, so that it is no part of the loss

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """N×classes scores and N class numbers to a number."""
        (model,) = self._model
        members, model.outputs = model.outputs, None
        if not self.training or members is None:
            return self.loss(outputs, labels)
        first, second, third = members.float()
        wrong, disagree = first.argmax(1) != labels, first.argmax(1) != second.argmax(1)
        mixture = (
            self._compute_member_loss(second, labels, wrong) + self._compute_member_loss(second, labels, ~wrong)
        ) / 2
        return self.loss(first, labels) + mixture + self._compute_member_loss(third, labels, disagree)

    def _compute_member_loss(self, outputs: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        return self.loss(outputs[rows], labels[rows]) if rows.any() else outputs.sum() * 0
