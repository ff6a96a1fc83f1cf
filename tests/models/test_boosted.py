"""Three nets as one: what each learns from, and that the whole trains as any net."""

import copy

import pytest
import torch

from helpers import make_data
from lenetexp.models.boosted import BoostedLeNet4
from lenetexp.models.losses import SquaredError, choose_loss
from lenetexp.training.diagnostics import measure_diagnostics
from sample_training import make_training, train


def test_it_is_three_times_lenet_4_and_predicts_their_mean() -> None:
    model, images = BoostedLeNet4().eval(), torch.rand(5, 1, 28, 28)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3 * 16_998
    torch.testing.assert_close(model(images), sum(member(images) for member in model.members) / 3)


def test_each_member_learns_from_its_part_of_a_batch() -> None:
    """The first from all; the second half from what the first gets wrong; the third from what they disagree about."""
    model = BoostedLeNet4()
    loss, plain = choose_loss(model, SquaredError()), SquaredError()
    labels = torch.tensor([0, 1, 2, 3])
    scores = torch.randn(3, 4, 10, requires_grad=True)
    guesses = torch.tensor([[0, 1, 2, 9], [0, 1, 8, 9], [0, 0, 0, 0]])  # the first is wrong once, the second twice
    outputs = scores.scatter_add(2, guesses[..., None], torch.full((3, 4, 1), 20.0))
    model.outputs = outputs
    expected = plain(outputs[0], labels)
    expected = expected + (plain(outputs[1][3:], labels[3:]) + plain(outputs[1][:3], labels[:3])) / 2
    expected = expected + plain(outputs[2][2:3], labels[2:3])
    torch.testing.assert_close(loss.train()(outputs.mean(0), labels), expected)
    mean = outputs.mean(0)
    torch.testing.assert_close(loss.eval()(mean, labels), plain(mean, labels))


@pytest.mark.parametrize("right", [True, False])
def test_a_part_may_be_empty(right: bool) -> None:
    model = BoostedLeNet4()
    loss = choose_loss(model, SquaredError()).train()
    labels = torch.arange(4)
    guess = torch.nn.functional.one_hot(labels if right else 9 - labels, 10) * 2.0 - 1
    model.outputs = torch.stack([guess] * 3).requires_grad_()
    value = loss(guess, labels)
    value.backward()
    assert torch.isfinite(value)


def test_it_trains_and_is_looked_into_as_any_net() -> None:
    data = make_data(200)
    training = make_training(BoostedLeNet4(init="xavier"), lr=0.003)
    training.loss = choose_loss(training.model, SquaredError())
    records = train(training, data, epochs=6, diagnostics=True)
    assert records[-1].train_accuracy > 0.9
    assert records[-1].inside["members.2.c5/update_ratio"] > 0
    before = copy.deepcopy(training.model.state_dict())
    measure_diagnostics(training, data.train, None)
    torch.testing.assert_close(before, training.model.state_dict(), rtol=0, atol=0)
