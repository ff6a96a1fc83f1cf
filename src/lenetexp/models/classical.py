"""Classifiers that are fitted in closed form, from the 1998 table: linear, quadratic, nearest neighbours.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition, Proceedings of the
IEEE 86(11), 1998, section III C and figure 9.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lenetexp.models.deslant import deslant_images
from lenetexp.models.layers import ACTIVATIONS

CHUNK = 1000  # images at once: bounds the memory that forward and learn take
# Added to the diagonal of the normal equations: next to nothing beside the ink of a pixel in thousands of images, yet a
# pixel that is always empty, which any weight would suit, gets the weight 0.
RIDGE = 1e-3


class Classical(nn.Module):
    """A classifier that `learn` fits in closed form. Its buffers are the whole classifier.

    Before `learn` the buffers are empty and every score is 0. `load_state_dict` adopts the sizes that it reads, and
    raises RuntimeError if they do not belong together.

    Args:
        classes: Number of classes.
        channels: Number of channels of an image.
        deslant: Whether every image is first sheared upright.
    """

    def __init__(self, classes: int, channels: int, deslant: bool) -> None:
        super().__init__()
        self.classes, self.channels, self.deslant = classes, channels, deslant

    @abstractmethod
    def learn(self, images: Tensor, labels: Tensor) -> None:
        """Fit the classifier. The same data give the same buffers.

        Args:
            images: N×C×H×W floats in [0, 1].
            labels: N int64 class numbers.
        """

    @abstractmethod
    def compute_scores(self, images: Tensor) -> Tensor:
        """Map N×C×H×W floats in [0, 1] to N×classes scores, after `learn`."""

    @abstractmethod
    def list_shapes(self, stored: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Return the shape that each buffer must have for all of them to fit together."""

    def forward(self, images: Tensor) -> Tensor:
        """Map N×C×H×W floats in [0, 1] to N×classes scores, of which the largest wins."""
        if not next(self.buffers()).numel():  # in every kind, the first has a column a pixel
            return images.new_zeros(len(images), self.classes)
        if torch.compiler.is_exporting():  # parts would fix the largest batch
            return self.compute_scores(images)
        return torch.cat([self.compute_scores(part) for part in images.split(CHUNK)])

    def flatten_pixels(self, images: Tensor) -> Tensor:
        """Flatten N×C×H×W floats in [0, 1] to N×CHW, deslanted if the classifier says so, in whole grey levels."""
        if not self.deslant:
            return images.flatten(1)
        return deslant_images(images).mul(255).round().div(255).flatten(1)

    def store_buffers(self, **buffers: Tensor) -> None:
        """Copy what was learnt into the buffers, in their types and on their device."""
        for name, values in buffers.items():
            setattr(self, name, values.to(self.get_buffer(name), copy=True).contiguous())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        own = dict(self.named_buffers(recurse=False))
        stored = {name: state_dict[prefix + name] for name in own if prefix + name in state_dict}
        if stored.keys() == own.keys():  # if not, torch itself says what is missing
            if mistake := self._find_mistake(stored):
                error_messages: list[str] = rest[-1]
                error_messages.append(mistake)
                return
            for name, values in stored.items():
                setattr(self, name, torch.empty_like(values, device=own[name].device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _find_mistake(self, stored: dict[str, Any]) -> str | None:
        """Return why these buffers are not those of a classifier of this kind, or None. A file may hold anything."""
        for name, own in self.named_buffers(recurse=False):
            values = stored[name]
            if not isinstance(values, Tensor) or values.layout != torch.strided or not values.is_contiguous():
                return f"{name} must be a plain contiguous tensor"  # an expanded one may be larger than any memory
            if values.dtype != own.dtype or values.ndim != own.ndim:
                kind = f"{values.dtype} of {values.ndim} dimensions"
                return f"{name} must be {own.dtype} of {own.ndim} dimensions, not {kind}"
        for name, shape in self.list_shapes(stored).items():
            if stored[name].shape != shape:
                return f"{name} must be of the shape {shape}, not {tuple(stored[name].shape)}"
        return None


def build_normal_equations(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute AᵀA and AᵀB in double precision.

    Args:
        inputs: N×F; A is this with a column of ones at its end.
        targets: N×K, B.
    """
    size = inputs.shape[1] + 1
    gram = torch.zeros(size, size, dtype=torch.double)
    moments = torch.zeros(size, targets.shape[1], dtype=torch.double)
    for rows, target_rows in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
        with_bias = torch.cat([rows, rows.new_ones(len(rows), 1)], 1).double()
        gram += with_bias.T @ with_bias
        moments += with_bias.T @ target_rows.double()
    return gram, moments


def solve_least_squares(gram: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return the K×F weights and K biases with the least squared error, from `build_normal_equations`."""
    solution = torch.linalg.solve(gram + RIDGE * torch.eye(len(gram), dtype=gram.dtype), moments)
    return solution[:-1].T, solution[-1]


def encode_one_against_all(labels: Tensor, classes: int) -> Tensor:
    """Return N×classes targets: 1 for an image's class, −1 for all others."""
    return nn.functional.one_hot(labels, classes) * 2.0 - 1


def build_pair_signs(classes: int) -> Tensor:
    """Build the P×classes matrix that turns outputs for pairs of classes into scores; P = classes(classes−1)/2.

    Row i/j, in the order 0/1, 0/2, …, has 1 in column i and −1 in column j.
    """
    units = torch.eye(classes)
    first, second = torch.triu_indices(classes, classes, 1)
    return units[first] - units[second]


class LinearClassifier(Classical):
    """One linear unit per class, y = Wx + b, with the least squared error to targets ±1: 12.0 %, deslanted 8.4 %.

    The paper's units are trained step by step; here the normal equations give the least error itself.
    """

    weight: Tensor  # classes×CHW
    bias: Tensor  # classes

    def __init__(self, classes: int = 10, channels: int = 1, deslant: bool = False) -> None:
        super().__init__(classes, channels, deslant)
        self.register_buffer("weight", torch.zeros(classes, 0))
        self.register_buffer("bias", torch.zeros(classes))

    def learn(self, images: Tensor, labels: Tensor) -> None:
        inputs = torch.cat([self.flatten_pixels(part) for part in images.cpu().split(CHUNK)])
        weight, bias = solve_least_squares(
            *build_normal_equations(inputs, encode_one_against_all(labels.cpu(), self.classes))
        )
        self.store_buffers(weight=weight, bias=bias)

    def compute_scores(self, images: Tensor) -> Tensor:
        return nn.functional.linear(self.flatten_pixels(images), self.weight, self.bias)

    def list_shapes(self, stored: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.classes, stored["weight"].shape[1]), "bias": (self.classes,)}


class PairwiseLinear(Classical):
    """One linear unit for each pair of classes, 45 for ten, fitted to images of the two alone: 7.6 %.

    Unit i/j has the least squared error to 1 for class i and −1 for class j. The score of class i is the sum of the
    outputs of all units i/x minus the sum of all units y/i. With `squash`, an output is LeCun's 1.7159·tanh(2a/3) of
    the unit's sum a. Without, the score is a sum of linear functions, so linear itself, with two thirds more errors.
    That the paper squashes here is our reading of its 7.6 %.
    """

    weight: Tensor  # P×CHW
    bias: Tensor  # P

    def __init__(self, classes: int = 10, channels: int = 1, squash: bool = True, deslant: bool = True) -> None:
        super().__init__(classes, channels, deslant)
        self.output = ACTIVATIONS["scaled_tanh"]() if squash else nn.Identity()
        pairs = classes * (classes - 1) // 2
        self.register_buffer("weight", torch.zeros(pairs, 0))
        self.register_buffer("bias", torch.zeros(pairs))

    def learn(self, images: Tensor, labels: Tensor) -> None:
        """Solve the least squares of each pair of classes, from one pass over the images of each class."""
        images, labels = images.cpu(), labels.cpu()
        inputs = torch.cat([self.flatten_pixels(part) for part in images.split(CHUNK)])
        sums = []  # of each class's images, from which those of any two classes add up
        for number in range(self.classes):
            rows = inputs[labels == number]
            sums.append(build_normal_equations(rows, rows.new_ones(len(rows), 1)))
        units = [
            solve_least_squares(sums[i][0] + sums[j][0], sums[i][1] - sums[j][1])
            for i in range(self.classes)
            for j in range(i + 1, self.classes)
        ]
        self.store_buffers(
            weight=torch.cat([weight for weight, _ in units]), bias=torch.cat([bias for _, bias in units])
        )

    def compute_scores(self, images: Tensor) -> Tensor:
        outputs = self.output(nn.functional.linear(self.flatten_pixels(images), self.weight, self.bias))
        return outputs @ build_pair_signs(self.classes).to(outputs)

    def list_shapes(self, stored: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        pairs = self.classes * (self.classes - 1) // 2
        return {"weight": (pairs, stored["weight"].shape[1]), "bias": (pairs,)}


class QuadraticClassifier(Classical):
    """A linear classifier of the first principal components, their squares and products: 3.3 %.

    40 components p make 40 + 820 inputs: p_i and p_i·p_j for i ≤ j. Targets are ±1, the error is squared.
    """

    mean: Tensor  # CHW
    components: Tensor  # K×CHW
    weight: Tensor  # classes×(K + K(K+1)/2)
    bias: Tensor  # classes

    def __init__(self, classes: int = 10, channels: int = 1, components: int = 40, deslant: bool = False) -> None:
        super().__init__(classes, channels, deslant)
        self.count = components
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("components", torch.zeros(0, 0))
        self.register_buffer("weight", torch.zeros(classes, 0))
        self.register_buffer("bias", torch.zeros(classes))

    def learn(self, images: Tensor, labels: Tensor) -> None:
        """Compute the components of all images, then the least squares over their products."""
        inputs = torch.cat([self.flatten_pixels(part) for part in images.cpu().split(CHUNK)])
        gram, sums = build_normal_equations(inputs, torch.ones(len(inputs), 1))
        mean = sums[:-1, 0] / len(inputs)
        covariance = gram[:-1, :-1] / len(inputs) - torch.outer(mean, mean)
        directions = torch.linalg.eigh(covariance).eigenvectors  # columns, the largest variance last
        self.store_buffers(mean=mean, components=directions[:, -self.count :].flip(1).T)
        features = torch.cat([self.compute_features(part) for part in images.split(CHUNK)]).cpu()
        weight, bias = solve_least_squares(
            *build_normal_equations(features, encode_one_against_all(labels.cpu(), self.classes))
        )
        self.store_buffers(weight=weight, bias=bias)

    def compute_features(self, images: Tensor) -> Tensor:
        """Map N×C×H×W images to N×(K + K(K+1)/2) features: the components, then their products row by row."""
        parts = (self.flatten_pixels(images) - self.mean) @ self.components.T  # N×K
        first, second = torch.triu_indices(parts.shape[1], parts.shape[1], device=parts.device)
        return torch.cat([parts, parts[:, first] * parts[:, second]], 1)

    def compute_scores(self, images: Tensor) -> Tensor:
        return nn.functional.linear(self.compute_features(images), self.weight, self.bias)

    def list_shapes(self, stored: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        count, pixels = stored["components"].shape
        inputs = count + count * (count + 1) // 2
        return {
            "mean": (pixels,), "components": (count, pixels), "weight": (self.classes, inputs), "bias": (self.classes,),
        }  # fmt: skip
