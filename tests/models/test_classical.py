"""The classifiers that are fitted at once: they agree with scikit-learn's, and survive a file."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import Tensor

from helpers import composed
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.errors import UserError
from lenetexp.models.classical import Classical, LinearClassifier, PairwiseLinear, QuadraticClassifier, build_pair_signs
from lenetexp.models.neighbours import NearestNeighbours
from lenetexp.models.svm import PolynomialSVM
from lenetexp.training.setup import build_net

KINDS = [LinearClassifier, PairwiseLinear, QuadraticClassifier, NearestNeighbours, PolynomialSVM]
OPTIONS = ["linear", "pairwise_linear", "pca_quadratic", "knn", "svm"]
TRAIN = 1200


def digits() -> tuple[Tensor, Tensor]:
    """1,797 digits of 8×8 pixels, in 255 grey levels, and their labels."""
    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).float().mul(255 / 16).round()[:, None]
    return grey / 255, torch.from_numpy(bunch.target).long()


IMAGES, LABELS = digits()


def learnt(kind: Callable[..., Classical], **settings: object) -> Classical:
    model = kind(classes=10, channels=1, **settings)
    model.learn(IMAGES[:TRAIN], LABELS[:TRAIN])
    return model


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    file = BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Tensor] = torch.load(file, weights_only=True)
    return loaded


# ---- all of them ----


@pytest.mark.parametrize("option", OPTIONS)
def test_every_one_is_an_option_that_gives_zeros_before_it_learns(option: str) -> None:
    settings = check_config(RunConfig, composed(f"model={option}"))
    model = build_net(settings.model, classes=10, image_shape=(1, 28, 28))
    assert isinstance(model, Classical) and not [*model.parameters()]
    scores = model(torch.rand(3, 1, 28, 28))
    assert scores.shape == (3, 10) and not scores.any()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=knn model.k=0", "model.k=0: must be a whole number, 1 or more"),
        ("model=svm model.C=0", "model.C=0: must be a number above 0"),
        ("model=linear model.deslant=1", "model.deslant=1: must be true or false"),
        ("model=pca_quadratic model.components=2000", "model.components=2000: must be a whole number from 1 to 120"),
    ],
)
def test_a_wrong_setting_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        check_config(RunConfig, composed(*override.split()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_dict_is_the_whole_classifier(kind: type[Classical]) -> None:
    """Through a file of tensors into a fresh object, one that has learnt something else, and back to nothing."""
    model = learnt(kind)
    assert model.state_dict().keys() == dict(model.named_buffers(recurse=False)).keys()
    fresh, other = kind(), kind()
    other.learn(IMAGES[:300], LABELS[:300])
    for taker in (fresh, other):
        taker.load_state_dict(through_a_file(model.state_dict()))
        assert torch.equal(taker(IMAGES[TRAIN:]), model(IMAGES[TRAIN:]))
    model.load_state_dict(through_a_file(kind().state_dict()))
    assert not model(IMAGES[:2]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_learning_depends_on_the_data_alone_and_leaves_them_as_they_are(kind: type[Classical]) -> None:
    before = IMAGES.clone()
    one, other = learnt(kind).state_dict(), learnt(kind).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_an_image_do_not_depend_on_the_others(kind: type[Classical]) -> None:
    """More images than a chunk, none, and three channels."""
    model = learnt(kind)
    scores = model(IMAGES)
    assert len(scores) == len(IMAGES) and model(IMAGES[:0]).shape == (0, 10)
    torch.testing.assert_close(model(IMAGES[900:1100]), scores[900:1100], rtol=1e-3, atol=1e-3)
    coloured = kind(classes=10, channels=3)
    coloured.learn(IMAGES[:300].expand(-1, 3, -1, -1), LABELS[:300])
    assert coloured(IMAGES[:5].expand(-1, 3, -1, -1)).shape == (5, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_without_images_is_never_predicted(kind: type[Classical]) -> None:
    model = kind(classes=12)
    rows = LABELS[:TRAIN] != 4
    model.learn(IMAGES[:TRAIN][rows], LABELS[:TRAIN][rows])
    scores = model(IMAGES[TRAIN:])
    assert scores.isfinite().all()
    assert not {4, 10, 11} & {*scores.argmax(1).tolist()}


def expanded(state: dict[str, Tensor], name: str) -> Tensor:
    """A tensor that says to be far larger than it is."""
    return state[name].flatten()[:1].expand(2**40).view(*[1] * (state[name].ndim - 1), -1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_such_classifier_is_refused(kind: type[Classical]) -> None:
    """Whichever buffer is wrong in whatever way; and the classifier stays as it was."""
    good = learnt(kind)
    state, scores = good.state_dict(), good(IMAGES[:5])
    for name, values in state.items():
        wrong = [
            values[:-1], values[None], values.flatten()[0], values.double(), values.to(torch.int32),
            torch.cat([values, values]), expanded(state, name), values.to_sparse(), "text",
        ]  # fmt: skip
        for content in wrong:
            with pytest.raises(RuntimeError, match="must be"):
                good.load_state_dict({**state, name: content})
        with pytest.raises(RuntimeError, match="Missing key"):
            good.load_state_dict({key: value for key, value in state.items() if key != name})
        with pytest.raises(RuntimeError, match="Unexpected key"):
            good.load_state_dict({**state, "more": values})
    with pytest.raises(RuntimeError):
        kind(classes=9).load_state_dict(state)
    assert torch.equal(good(IMAGES[:5]), scores)
    with pytest.raises(RuntimeError):
        good(torch.rand(2, 1, 28, 28))


# ---- each of them ----


def with_ones(images: Tensor) -> NDArray[np.float64]:
    return np.column_stack([images.flatten(1).double().numpy(), np.ones(len(images))])


def test_the_linear_one_has_numpys_least_squares() -> None:
    model = learnt(LinearClassifier)
    assert isinstance(model, LinearClassifier)
    inputs = with_ones(IMAGES[:TRAIN])
    targets = np.where(LABELS[:TRAIN, None].numpy() == np.arange(10), 1.0, -1.0)
    outputs = model(IMAGES[:TRAIN]).double().numpy()
    least = ((inputs @ np.linalg.lstsq(inputs, targets, rcond=None)[0] - targets) ** 2).sum()
    assert ((outputs - targets) ** 2).sum() == pytest.approx(least, rel=1e-3)
    assert not model.weight[:, 0].any(), "the first pixel is always empty"


def test_a_pairwise_unit_is_trained_on_its_two_classes_alone() -> None:
    model = learnt(PairwiseLinear, deslant=False)
    assert isinstance(model, PairwiseLinear) and model.weight.shape == (45, 64)
    for unit, (i, j) in {0: (0, 1), 9: (1, 2), 44: (8, 9)}.items():
        rows = (LABELS[:TRAIN] == i) | (LABELS[:TRAIN] == j)
        inputs, targets = with_ones(IMAGES[:TRAIN][rows]), np.where(LABELS[:TRAIN][rows].numpy() == i, 1.0, -1.0)
        outputs = (IMAGES[:TRAIN][rows].flatten(1) @ model.weight[unit] + model.bias[unit]).double().numpy()
        least = ((inputs @ np.linalg.lstsq(inputs, targets, rcond=None)[0] - targets) ** 2).sum()
        assert ((outputs - targets) ** 2).sum() == pytest.approx(least, rel=1e-2)


def test_a_pairwise_score_adds_the_units_of_a_class_and_subtracts_those_against_it() -> None:
    """For three classes: 0/1 + 0/2, 1/2 − 0/1, −0/2 − 1/2."""
    outputs = torch.tensor([[1.0, 10.0, 100.0]])
    assert (outputs @ build_pair_signs(3)).tolist() == [[11.0, 99.0, -110.0]]


def test_the_quadratic_one_has_820_products_of_40_components() -> None:
    model = learnt(QuadraticClassifier)
    assert isinstance(model, QuadraticClassifier) and model.weight.shape == (10, 860)
    features = model.compute_features(IMAGES[:TRAIN])
    parts, products = features[:, :40], features[:, 40:]
    assert torch.allclose(parts.mean(0), torch.zeros(40), atol=1e-4)
    covariance = torch.cov(parts.T)
    assert torch.allclose(covariance, covariance.diag().diag(), atol=1e-4), "principal components are uncorrelated"
    assert (covariance.diag().diff() <= 0).all(), "the largest first"
    torch.testing.assert_close(products[:, 0], parts[:, 0] ** 2)
    torch.testing.assert_close(products[:, 41], parts[:, 1] * parts[:, 2])
    torch.testing.assert_close(products[:, -1], parts[:, 39] ** 2)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_nearest_neighbours_are_scikit_learns(k: int) -> None:
    """Where the votes decide; of as many votes, the class whose neighbours are nearer wins."""
    model = learnt(NearestNeighbours, k=k)
    theirs = KNeighborsClassifier(k).fit(IMAGES[:TRAIN].flatten(1), LABELS[:TRAIN])
    shares = torch.from_numpy(theirs.predict_proba(IMAGES[TRAIN:].flatten(1).numpy()))
    scores = model(IMAGES[TRAIN:])
    first, second = shares.topk(2, 1).values.T
    assert torch.equal(scores.argmax(1)[first > second], shares.argmax(1)[first > second])
    torch.testing.assert_close(scores.exp().double(), shares, rtol=0, atol=0.09)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(scores)))


def test_equal_votes_go_to_the_nearer_class() -> None:
    """Of points on a line: class 1 at 0.4 and 0.6, class 0 at 0.0 and 1.0."""
    model = NearestNeighbours(classes=2, k=4)
    points = torch.tensor([0.0, 0.4, 0.6, 1.0])
    model.learn(points.view(4, 1, 1, 1), torch.tensor([0, 1, 1, 0]))
    assert model(torch.full((1, 1, 1, 1), 0.5)).argmax(1).item() == 1
    lone = NearestNeighbours(classes=2, k=9)
    lone.learn(points[:1].view(1, 1, 1, 1), torch.tensor([1]))
    assert lone(points[:1].view(1, 1, 1, 1)).argmax(1).item() == 1, "k may be more than there are images"


def test_neighbours_are_found_among_all_stored_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are compared at once."""
    model = learnt(NearestNeighbours)
    scores = model(IMAGES[TRAIN:])
    monkeypatch.setattr("lenetexp.models.classical.REFERENCES", 7)
    torch.testing.assert_close(model(IMAGES[TRAIN:]), scores, rtol=1e-3, atol=1e-3)


def test_labels_in_a_file_must_be_classes() -> None:
    state = learnt(NearestNeighbours).state_dict()
    for label in (-1, 10):
        state["labels"][7] = label
        with pytest.raises(RuntimeError, match="labels must be from 0 to 9"):
            NearestNeighbours().load_state_dict(state)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("settings", [{}, {"degree": 2, "C": 0.1, "gamma": 2.0, "coef0": 1.0}])
def test_the_svm_predicts_as_scikit_learns(classes: int, settings: dict[str, float]) -> None:
    """For images of unit length."""
    rows = classes > LABELS
    images, labels = IMAGES[rows], LABELS[rows]
    model = PolynomialSVM(classes=classes, deslant=False, **settings)  # type: ignore[arg-type]
    model.learn(images[::2], labels[::2])
    theirs = SVC(kernel="poly", break_ties=classes > 2, **{"degree": 4, "C": 10, "gamma": 1, "coef0": 0, **settings})
    unit = (images.flatten(1) / images.flatten(1).norm(dim=1, keepdim=True)).numpy()
    theirs.fit(unit[::2], labels[::2])
    scores = model(images[1::2])
    assert scores.argmax(1).tolist() == theirs.predict(unit[1::2]).tolist()
    if classes > 2:
        expected = torch.from_numpy(theirs.decision_function(unit[1::2])).float()
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-3)
        theirs.decision_function_shape = "ovo"
        decisions = torch.from_numpy(theirs.decision_function(unit[1::2])).float()
        torch.testing.assert_close(model.compute_decisions(images[1::2]), decisions, rtol=0, atol=1e-3)
