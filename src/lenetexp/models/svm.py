"""The support vector machine of the 1998 table."""

from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lenetexp.models.classical import CHUNK, Classical, build_pair_signs

CACHE = 2000  # MB for the kernel's values while it learns: scikit-learn's own 200 are few for 60,000 images


class PolynomialSVM(Classical):
    """A support vector machine with the kernel (gamma·x·s + coef0)^degree: degree 4, deslanted, 1.1 %.

    Images x and support vectors s are scaled to unit length, so that x·s is the cosine between them and a thick digit
    is like the same digit in thin strokes; without, 1.3 % of MNIST are misclassified, not 1.0. There is one machine for
    each pair of classes: d = Σ_s a_s·(gamma·x·s + coef0)^degree + b votes for the first if it is 0 or more. The score
    of a class is its votes plus c/(3(|c|+1)), where c is the signed sum of its d: votes decide, and c decides among
    classes with equally many, as in scikit-learn's SVC with break_ties. `C` is the cost of an error.
    """

    vectors: Tensor  # S×CHW, uint8: the images that the machines need
    coefficients: Tensor  # P×S, P = classes(classes−1)/2
    intercepts: Tensor  # P

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        degree: int = 4,
        C: float = 10.0,
        gamma: float = 1.0,
        coef0: float = 0.0,
        deslant: bool = True,
    ) -> None:
        super().__init__(classes, channels, deslant)
        self.degree, self.C, self.gamma, self.coef0 = degree, C, gamma, coef0
        pairs = classes * (classes - 1) // 2
        self.register_buffer("vectors", torch.zeros(0, 0, dtype=torch.uint8))
        self.register_buffer("coefficients", torch.zeros(pairs, 0))
        self.register_buffer("intercepts", torch.zeros(pairs))

    def learn(self, images: Tensor, labels: Tensor) -> None:
        """Fit one machine for each pair of classes with scikit-learn, and keep its support vectors."""
        from sklearn.svm import SVC  # takes a second

        inputs = torch.cat([self.flatten_pixels(part) for part in images.cpu().split(CHUNK)])
        svc = SVC(kernel="poly", degree=self.degree, C=self.C, gamma=self.gamma, coef0=self.coef0, cache_size=CACHE)
        svc.fit(normalize(inputs).numpy(), labels.cpu().numpy())
        sign = -1 if len(svc.classes_) == 2 else 1  # of two classes alone, SVC favours the second
        dual, labels_present = sign * torch.from_numpy(svc.dual_coef_), svc.classes_.tolist()
        ends = svc.n_support_.cumsum().tolist()  # the support vectors are in the order of their classes
        own = [slice(end - count, end) for end, count in zip(ends, svc.n_support_.tolist(), strict=True)]
        has_images = torch.zeros(self.classes)
        has_images[labels_present] = 1
        intercepts = build_pair_signs(self.classes) @ has_images  # a class without images loses to any other
        coefficients = torch.zeros(len(intercepts), dual.shape[1])
        places = list(combinations(range(self.classes), 2))
        for (i, j), intercept in zip(combinations(range(len(labels_present)), 2), svc.intercept_.tolist(), strict=True):
            row = places.index((labels_present[i], labels_present[j]))
            intercepts[row] = sign * intercept
            # Row j-1 of SVC's coefficients holds those of class i's vectors against j, row i those of j's against i.
            coefficients[row, own[i]] = dual[j - 1, own[i]].float()
            coefficients[row, own[j]] = dual[i, own[j]].float()
        vectors = inputs[svc.support_].mul(255).round()
        self.store_buffers(vectors=vectors, coefficients=coefficients, intercepts=intercepts)

    def compute_decisions(self, images: Tensor) -> Tensor:
        """Return N×P decisions, in SVC's order: above 0 for the first of two classes, below for the second."""
        inputs = self.flatten_pixels(images)
        cosines = normalize(inputs) @ normalize(self.vectors.to(inputs)).T
        return (self.gamma * cosines + self.coef0) ** self.degree @ self.coefficients.T + self.intercepts

    def compute_scores(self, images: Tensor) -> Tensor:
        decisions = self.compute_decisions(images)
        signs = build_pair_signs(self.classes).to(decisions)
        votes = (torch.where(decisions >= 0, 1.0, -1.0) @ signs + self.classes - 1) / 2
        confidence = decisions @ signs
        return votes + confidence / (3 * (confidence.abs() + 1))

    def list_shapes(self, stored: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        pairs, (count, pixels) = len(build_pair_signs(self.classes)), stored["vectors"].shape
        return {"vectors": (count, pixels), "coefficients": (pairs, count), "intercepts": (pairs,)}
