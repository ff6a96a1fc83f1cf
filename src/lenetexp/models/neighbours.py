"""Nearest neighbours of the 1998 table, fitted in closed form."""

from typing import Any

import torch
from torch import Tensor, nn

from lenetexp.models.classical import CHUNK, Classical

REFERENCES = 10_000  # stored images that are compared with a chunk at once
DOUBT = 0.01  # of a vote, that every class gets from `NearestNeighbours`: no class is impossible


class NearestNeighbours(Classical):
    """The `k` nearest training images by Euclidean distance vote for their classes: 5.0 %, deslanted 2.4 %.

    The score of a class is log(v/Σv), where v is its votes plus a hundredth of a vote times the share of the
    neighbours' summed distances that is not its own: of classes with equally many votes, the nearer one wins.
    """

    images: Tensor  # N×CHW, uint8
    labels: Tensor  # N

    def __init__(self, classes: int = 10, channels: int = 1, k: int = 3, deslant: bool = False) -> None:
        super().__init__(classes, channels, deslant)
        self.k = k
        self.register_buffer("images", torch.zeros(0, 0, dtype=torch.uint8))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def learn(self, images: Tensor, labels: Tensor) -> None:
        inputs = [self.flatten_pixels(part).mul(255).round().to(torch.uint8) for part in images.split(CHUNK)]
        self.store_buffers(images=torch.cat(inputs), labels=labels)

    def find_neighbours(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return N×k distances, in units of a pixel's full ink, and the rows of the stored images, nearest first."""
        inputs = self.flatten_pixels(images) * 255
        count = inputs.shape[0]  # len() would fix it when exported
        nearest, rows = inputs.new_zeros(count, 0), self.labels.new_zeros(count, 0)
        for start in range(0, len(self.images), REFERENCES):
            stored = self.images[start : start + REFERENCES].to(inputs)
            squares = (stored**2).sum(1) - 2 * inputs @ stored.T  # short of |inputs|², which orders nothing
            nearest = torch.cat([nearest, squares], 1)
            numbers = torch.arange(start, start + len(stored), device=rows.device).expand(count, -1)
            rows = torch.cat([rows, numbers], 1)
            nearest, places = nearest.topk(min(self.k, nearest.shape[1]), largest=False)
            rows = rows.gather(1, places)
        return (nearest + (inputs**2).sum(1, keepdim=True)).clamp(min=0).sqrt() / 255, rows

    def compute_scores(self, images: Tensor) -> Tensor:
        """Map N×C×H×W images to N×classes logarithms of shares of the vote."""
        distances, rows = self.find_neighbours(images)
        one_hot = nn.functional.one_hot(self.labels[rows], self.classes).to(distances)  # N×k×classes
        distance_sums = (one_hot * distances[..., None]).sum(1)
        nearness = 1 - distance_sums / distance_sums.sum(1, keepdim=True).clamp(min=1e-6)
        votes = one_hot.sum(1) + DOUBT * nearness
        return (votes / votes.sum(1, keepdim=True)).log()

    def list_shapes(self, stored: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        count, pixels = stored["images"].shape
        return {"images": (count, pixels), "labels": (count,)}

    def _find_mistake(self, stored: dict[str, Any]) -> str | None:
        if mistake := super()._find_mistake(stored):
            return mistake
        labels = stored["labels"]
        is_valid = bool(((labels >= 0) & (labels < self.classes)).all())
        return None if is_valid else f"labels must be from 0 to {self.classes - 1}"
