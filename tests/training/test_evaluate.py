"""Evaluation: every example once, and scores as plain torch computes them."""

import pytest
import torch
import torch.nn.functional as F

from helpers import make_data
from lenetexp.datasets.splits import Split
from lenetexp.models.lenet import LeNet
from lenetexp.training import evaluate as module
from lenetexp.training.batches import convert_to_floats
from lenetexp.training.evaluate import evaluate, is_better_than_chance


def test_every_example_is_scored_once_in_any_batching(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = LeNet(), make_data(137).train
    whole = evaluate(model, split)
    monkeypatch.setattr(module, "BATCH", 10)
    parts = evaluate(model, split)
    assert len(parts.labels) == 137 and not model.training
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    logits = model(convert_to_floats(split.images))
    assert whole.loss == pytest.approx(F.cross_entropy(logits, split.labels).item(), rel=1e-5)
    assert whole.accuracy == pytest.approx((logits.argmax(1) == split.labels).double().mean().item())


def test_images_that_are_floats_already_stay_as_they_are() -> None:
    data = make_data(20).train
    split = Split(data.images.float(), data.labels)
    model = LeNet()
    assert evaluate(model, split).loss == evaluate(model, split).loss == evaluate(model, data).loss
    assert torch.equal(split.images, data.images.float())


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    scores = evaluate(LeNet(), make_data(137).train)
    confusion = scores.count_confusion()
    assert confusion.sum() == 137 and confusion.diagonal().sum() == scores.correct
    assert confusion.sum(1).tolist() == scores.labels.bincount(minlength=10).tolist()
    assert confusion.sum(0).tolist() == scores.predicted.bincount(minlength=10).tolist()


def test_chance_is_what_guessing_could_reach() -> None:
    assert not is_better_than_chance(0.1049, 10, 143) and not is_better_than_chance(0.5, 2, 10_000)
    assert is_better_than_chance(0.16, 10, 143) and is_better_than_chance(0.52, 2, 10_000)
