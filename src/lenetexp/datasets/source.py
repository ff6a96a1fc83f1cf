"""Images with their labels, a whole dataset of them, and how a share of each class is held out."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lenetexp.errors import UserError


@dataclass(frozen=True)
class Split:
    """Images, N×C×H×W uint8, and their labels, N int64 class numbers from 0."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> "Split":
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """A dataset before validation images are held out."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    # Light on dark, scaled into 20×20 pixels in the middle of 28×28; pictures to predict on become so, too.
    like_mnist: bool = False


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """The rest and `fraction` of each class, both in order; `UserError` if a class has only one image."""
    rng = np.random.default_rng(seed)
    labels = split.labels.numpy()
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise UserError(f"dataset: class number {label} (from 0) has one image; must have at least 2")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held[members[:count]] = True
    return split[torch.from_numpy(~held)], split[torch.from_numpy(held)]
