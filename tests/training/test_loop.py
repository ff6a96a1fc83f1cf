"""The loop: it computes what a plain loop computes, and every run can be repeated."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from helpers import assert_same_weights, make_data
from lenetexp.config.targets import Augment
from lenetexp.models.classical import LinearClassifier
from lenetexp.models.lenet import LeNet
from lenetexp.models.losses import CrossEntropy, MaximumAPosteriori, SquaredError
from lenetexp.training import loop
from lenetexp.training.batches import iterate_batches
from lenetexp.training.evaluate import SYNC_EVERY, Diverged, Totals
from lenetexp.training.loop import Recipe, fit
from lenetexp.training.optimizers import make_mean_update
from lenetexp.training.schedules import Schedule
from sample_training import make_training, train, weights


def test_losses_and_weights_equal_a_plain_loops() -> None:
    """An independent loop over the same batches: same means, the short last batch weighed as it is."""
    data, training = make_data(), make_training()
    plain = LeNet(activation="relu")
    plain.load_state_dict(training.model.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    expected = []
    for epoch in (1, 2, 3):
        loss_sum, correct = 0.0, 0
        for x, y in iterate_batches(data.train, 16, 0, epoch):
            logits = plain(x)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(y)
            correct += int((logits.argmax(1) == y).sum())
        scheduler.step()
        expected.append((loss_sum / 150, correct / 150))
    records = train(training, data)
    for record, (loss_mean, accuracy) in zip(records, expected, strict=True):
        assert record.train_loss == pytest.approx(loss_mean, rel=1e-4)
        assert record.train_accuracy == pytest.approx(accuracy)
    for ours, theirs in zip(training.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert [record.lr for record in records] == pytest.approx([0.05, 0.05, 0.025])


def test_an_epochs_learning_rate_is_that_of_its_last_step() -> None:
    """Of a warm-up's first step it would be near zero."""
    training = make_training()
    training.schedule = Schedule(torch.optim.lr_scheduler.StepLR(training.optimizer, 1, 0.9), "batch")
    (first, second) = train(training, make_data(32), epochs=2)
    assert (first.lr, second.lr) == pytest.approx((0.05 * 0.9, 0.05 * 0.9**3))


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    augment = Augment(shift=2, rotate=10, scale=0.1)
    one, same, other = make_training(), make_training(), make_training()
    for training, seed in ((one, 0), (same, 0), (other, 1)):
        train(training, make_data(), augment=augment, seed=seed)
    assert_same_weights(weights(one), weights(same))
    assert not torch.equal(weights(other)["c1.weight"], weights(one)["c1.weight"])


def test_dropout_in_a_custom_net_depends_on_seed_and_epoch_alone() -> None:
    """What a custom net draws is drawn again after a resume."""

    def with_dropout() -> LeNet:
        model = LeNet(activation="relu")
        model.head_activation = nn.Dropout(0.5)
        return model

    whole, resumed = make_training(with_dropout()), make_training(with_dropout())
    resumed.model.load_state_dict(whole.model.state_dict())
    train(whole, make_data(), epochs=2)
    train(resumed, make_data(), epochs=1)
    torch.rand(17)  # other use of the global generator between the epochs
    train(resumed, make_data(), epochs=2)
    assert_same_weights(weights(whole), weights(resumed))


def test_the_net_is_in_training_mode_again_after_a_validation() -> None:
    modes: list[bool] = []

    class Spy(LeNet):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(x)

    train(make_training(Spy()), make_data(32), epochs=2)
    assert modes == [True, True, False, True, True, False]


def test_training_calls_the_given_forward_and_validation_the_net_itself() -> None:
    """A compiled net, or one in lower precision, is validated in full precision."""
    training, calls = make_training(), 0

    def forward(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return training.model(images)

    training.forward = forward
    train(training, make_data(32), epochs=2)
    assert calls == 4


def validation_gives(monkeypatch: pytest.MonkeyPatch, *scores: tuple[float, float]) -> None:
    """These accuracies and losses, one pair after each epoch."""
    stream = iter(scores)

    def evaluate(*_: object) -> SimpleNamespace:
        accuracy, loss = next(stream)
        return SimpleNamespace(accuracy=accuracy, loss=loss)

    monkeypatch.setattr(loop, "evaluate", evaluate)


def test_best_is_the_highest_accuracy_and_of_equal_ones_the_lower_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    validation_gives(monkeypatch, (0.5, 1.0), (0.5, 0.9), (0.5, 0.95), (0.7, 2.0), (0.6, 0.1))
    training = make_training()
    after_each_epoch = [(record, weights(training)) for record in fit(training, make_data(32), Recipe(5, 16, 0))]
    assert [record.improved for record, _ in after_each_epoch] == [True, True, False, True, False]
    best, weights_then = after_each_epoch[3]
    assert training.best is best and training.best_weights is not None
    assert_same_weights(training.best_weights, weights_then)


def test_patience_counts_the_epochs_since_the_best_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same sense of best: a lower loss at the same accuracy counts, a lower loss alone does not."""
    validation_gives(
        monkeypatch, (0.1, 1.0), (0.3, 1.0), (0.2, 1.0), (0.3, 0.9), (0.3, 0.9), (0.2, 0.1), (0.9, 0.1)
    )  # fmt: skip
    training = make_training()
    records = train(training, make_data(32), epochs=20, patience=2)
    assert [record.improved for record in records] == [True, True, False, True, False, False]
    assert train(training, make_data(32), epochs=20, patience=2) == [], "nor does it go on when it is resumed"


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_best() -> None:
    training, data = make_training(), make_data()
    train(training, data, epochs=1)
    best = training.best
    training.optimizer.param_groups[0]["lr"] = 1e12
    with pytest.raises(Diverged, match="epoch 2"):
        train(training, data, epochs=9)
    assert training.best is best and training.epochs_done == 1


def test_divergence_is_seen_within_the_epoch() -> None:
    """Long before an epoch of 500 steps is over."""
    seen: list[Totals] = []
    with pytest.raises(Diverged):
        for _ in fit(make_training(lr=1e12), make_data(1000), Recipe(epochs=3, batch_size=2, seed=0), seen.append):
            pass
    assert 0 < len(seen) <= 2 * SYNC_EVERY


def test_clipping_bounds_the_step() -> None:
    moved = []
    for clip in (None, 1e-3):
        training = make_training(lr=1.0, momentum=0.0)
        before = weights(training)
        train(training, make_data(16), epochs=1, clip_norm=clip)
        moved.append(torch.cat([(new - before[name]).flatten() for name, new in weights(training).items()]).norm())
    assert moved[1].item() == pytest.approx(1e-3, rel=1e-3)
    assert moved[0] > 10 * moved[1]


def test_the_loss_of_an_epoch_is_that_of_the_run() -> None:
    """In training and in validation."""
    training, data = make_training(lr=1e-9), make_data(32)
    training.loss = SquaredError()
    (record,) = train(training, data, epochs=1)
    logits = training.model(data.train.images.float() / 255)
    targets = F.one_hot(data.train.labels, 10) * 2 - 1
    expected = ((logits - targets) ** 2).sum(1).mean().item() / 2
    assert (record.train_loss, record.val_loss) == pytest.approx((expected, expected), rel=1e-4)


def test_smoothing_is_for_training_alone() -> None:
    """Mixed with the loss of guessing: ln 10 for a net whose outputs are all the same."""
    outputs, labels = torch.tensor([[4.0, 0, 0]]), torch.tensor([0])
    loss, plain = CrossEntropy(label_smoothing=0.3), CrossEntropy()
    assert loss.eval()(outputs, labels) == plain(outputs, labels)
    spread = -torch.log_softmax(outputs, 1).mean()
    torch.testing.assert_close(loss.train()(outputs, labels), 0.7 * plain(outputs, labels) + 0.3 * spread)


def test_the_criterion_of_lenet_5_is_equation_9() -> None:
    """y_D + log(e^−j + Σ e^−y_i), of penalties y."""
    penalties, labels = torch.rand(5, 10) * 9, torch.arange(5)
    expected = penalties[range(5), labels] + torch.log(torch.exp(-penalties).sum(1) + math.exp(-0.7))
    torch.testing.assert_close(MaximumAPosteriori(j=0.7)(-penalties, labels), expected.mean())


def test_the_mean_of_the_weights_is_validated_and_kept() -> None:
    """After every step a share of the way to the new weights; at first a larger one."""
    training, data, seen = make_training(), make_data(64), []
    training.average = AveragedModel(training.model, multi_avg_fn=make_mean_update(0.9))
    expected = [weight.detach().clone() for weight in training.model.parameters()]
    step = training.schedule.step_batch

    def after_batch() -> None:
        for mean, weight in zip(expected, training.model.parameters(), strict=True):
            decay = min(0.9, (1 + len(seen)) / (10 + len(seen))) if seen else 0.0
            mean.mul_(decay).add_(weight.detach(), alpha=1 - decay)
        seen.append(1)
        step()

    training.schedule.step_batch = after_batch  # type: ignore[method-assign]
    train(training, data, epochs=1)
    assert training.best_weights is not None
    for mean, kept, weight in zip(expected, training.best_weights.values(), training.model.parameters(), strict=True):
        torch.testing.assert_close(kept, mean, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(kept, weight)


def test_a_classifier_that_is_fitted_at_once_has_one_epoch() -> None:
    data = make_data(64)
    training = make_training(LinearClassifier(classes=10, channels=1))
    (record,) = train(training, data, epochs=5)
    assert record.train_accuracy == record.val_accuracy > 0.9
    assert record.inside == {}
