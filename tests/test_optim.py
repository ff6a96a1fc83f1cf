"""Optimizers and schedules from the menu: real torch objects, with the learning rates they promise."""

import itertools
from collections.abc import Sequence
from math import cos, pi
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import get_class
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from lenetexp import config
from lenetexp.config import RunConfig, UserError, check
from lenetexp.models import LeNet
from lenetexp.optim import Schedule, build_optimizer, build_schedule
from test_config import CONF, composed

LR = 0.1
OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
SCHEDULERS = sorted(path.stem for path in (CONF / "scheduler").glob("*.yaml"))
EVERY_BATCH = {"onecycle", "warmup_cosine"}


def optimizer_over_lenet(*overrides: str) -> tuple[LeNet, Optimizer]:
    torch.manual_seed(0)
    model = LeNet()
    return model, build_optimizer(check(RunConfig, composed(*overrides)).optimizer, model.parameters())


def scheduled(*overrides: str, steps: int = 5) -> tuple[Optimizer, Schedule]:
    """SGD at LR over one number, and the schedule over it, for epochs of `steps` batches."""
    settings = check(RunConfig, composed("optimizer=sgd", f"optimizer.lr={LR}", *overrides))
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(settings.optimizer, [parameter])
    return optimizer, build_schedule(settings.scheduler, optimizer, steps, settings.epochs)


def rates(
    *overrides: str, epochs: int = 10, steps: int = 5, val_losses: Sequence[float] = ()
) -> list[list[float]]:
    """The learning rate of every step of every epoch, as the loop would have it."""
    optimizer, schedule = scheduled(*overrides, f"epochs={epochs}", steps=steps)
    losses = itertools.chain(val_losses, itertools.repeat(1.0))
    seen = []
    for _ in range(epochs):
        seen.append([])
        for _ in range(steps):
            seen[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.after_batch()
        schedule.after_epoch(next(losses))
    return seen


def by_epoch(*overrides: str, **options: Any) -> list[float]:
    """One learning rate an epoch: that it is the same at every step is asserted."""
    seen = rates(*overrides, **options)
    assert all(len(set(epoch)) == 1 for epoch in seen)
    return [epoch[0] for epoch in seen]


def by_step(*overrides: str, **options: Any) -> list[float]:
    return list(itertools.chain(*rates(*overrides, **options)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_menu_is_torchs_own_and_moves_every_layer(name: str) -> None:
    model, optimizer = optimizer_over_lenet(f"optimizer={name}", "optimizer.lr=0.05")
    assert type(optimizer) is get_class(composed(f"optimizer={name}")["optimizer"]["_target_"])
    assert optimizer.param_groups[0]["lr"] == 0.05
    before = [parameter.detach().clone() for parameter in model.parameters()]
    F.cross_entropy(model(torch.rand(8, 1, 28, 28)), torch.arange(8)).backward()
    optimizer.step()
    for old, (layer, new) in zip(before, model.named_parameters(), strict=True):
        assert torch.isfinite(new).all() and not torch.equal(old, new), layer


def test_sgd_is_the_tutorials_rule() -> None:
    """v = 0.9 v + g, w = w − 0.001 v, worked out here step by step."""
    model, optimizer = optimizer_over_lenet("experiment=tutorial")
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    velocity = [torch.zeros_like(weight) for weight in weights]
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.rand(16, 1, 28, 28)), torch.arange(16) % 10).backward()
        for weight, v, parameter in zip(weights, velocity, model.parameters(), strict=True):
            v.mul_(0.9).add_(parameter.grad)
            weight.sub_(1e-3 * v)
        optimizer.step()
    for weight, parameter in zip(weights, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), weight)


def test_what_the_menu_does_not_name_reaches_torch_all_the_same() -> None:
    _, optimizer = optimizer_over_lenet(
        "+optimizer.dampening=0.5", "optimizer.nesterov=false", "optimizer.weight_decay=0.01"
    )
    assert optimizer.param_groups[0]["dampening"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.nesterov=true", "optimizer.momentum=0"], "optimizer: SGD.*Nesterov momentum"),
        (["+optimizer.lrr=3"], "optimizer: SGD.*unexpected keyword argument 'lrr'"),
        (["optimizer._target_=torch.optim.Nope"], "optimizer: Nope.*torch.optim.Nope"),
        (["scheduler=plateau", "scheduler.factor=1.5"], "scheduler: ReduceLROnPlateau.*Factor should be"),
    ],
)
def test_what_torch_refuses_is_told_with_the_settings(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scheduled(*overrides)


def test_a_target_that_makes_something_else_is_refused() -> None:
    settings = config.Optimizer.model_validate({"_target_": "builtins.list"})
    with pytest.raises(UserError, match=r"optimizer\._target_=builtins\.list: must make a torch Optimizer"):
        build_optimizer(settings, LeNet().parameters())


def test_an_optimizer_that_evaluates_the_loss_within_its_step_is_refused() -> None:
    settings = config.Optimizer.model_validate({"_target_": "torch.optim.LBFGS", "lr": 1.0})
    with pytest.raises(UserError, match=r"^optimizer\._target_=torch\.optim\.LBFGS: .*without a closure"):
        build_optimizer(settings, LeNet().parameters())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("scheduler=plateau scheduler.interval=batch", "scheduler.interval=batch: must be epoch"),
        ("scheduler=warmup_cosine scheduler.interval=epoch", "scheduler.interval=epoch: must be batch"),
        ("scheduler=onecycle scheduler.interval=epoch", "scheduler.interval=epoch: must be batch"),
        (
            "scheduler=onecycle scheduler.epochs=3 epochs=4",
            "OneCycleLR is over after 15 steps, but the run has 20; scheduler.epochs must be at least 4",
        ),
        (
            "scheduler=onecycle scheduler.steps_per_epoch=4 epochs=4",
            "OneCycleLR is over after 16 steps, but the run has 20",
        ),
    ],
)
def test_a_schedule_that_would_be_stepped_at_the_wrong_moments_is_refused(
    overrides: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        scheduled(*overrides.split(), steps=5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_of_the_menu_is_stepped_when_it_says_and_only_then(name: str) -> None:
    optimizer, schedule = scheduled(f"scheduler={name}")
    optimizer.step()
    assert isinstance(schedule.scheduler, LRScheduler)
    every_batch = name in EVERY_BATCH
    for _ in range(3):
        schedule.after_batch()
    assert schedule.scheduler.last_epoch == (3 if every_batch else 0)
    schedule.after_epoch(1.0)
    assert schedule.scheduler.last_epoch == (3 if every_batch else 1)


def test_step_is_the_tutorials_schedule() -> None:
    """1e-3 for its ten epochs; the drop would come with the eleventh."""
    seen = by_epoch("experiment=tutorial", "optimizer.lr=1e-3", epochs=21)
    assert seen == pytest.approx([1e-3] * 10 + [1e-4] * 10 + [1e-5])


def test_multistep_drops_after_the_epochs_listed() -> None:
    seen = by_epoch("scheduler=multistep", epochs=17)
    assert seen == pytest.approx([LR] * 10 + [LR / 10] * 5 + [LR / 100] * 2)
    assert by_epoch("scheduler=multistep", "scheduler.milestones=[1]", epochs=2) == pytest.approx(
        [LR, LR / 10]
    )


def test_exponential_shrinks_after_every_epoch() -> None:
    assert by_epoch("scheduler=exponential") == pytest.approx([LR * 0.9**n for n in range(10)])


def test_constant_is_the_optimizers_learning_rate_for_ever() -> None:
    assert by_epoch("scheduler=constant", epochs=30) == [LR] * 30


def test_constants_factor_is_for_ever_too() -> None:
    seen = by_epoch("scheduler=constant", "scheduler.factor=0.5")
    assert seen == pytest.approx([LR / 2] * 10)


def test_cosine_is_the_papers_formula_over_the_whole_run() -> None:
    """η_min + (η_max − η_min)(1 + cos(π t/T))/2 (Loshchilov and Hutter 2017, equation 5)."""
    seen = by_epoch("scheduler=cosine", "scheduler.eta_min=0.02")
    assert seen == pytest.approx([0.02 + 0.08 * (1 + cos(pi * t / 10)) / 2 for t in range(10)])
    assert seen[5] == pytest.approx(0.06), "half way, half the height"


def test_warmup_cosine_rises_to_the_learning_rate_and_falls_to_its_share() -> None:
    """Of 50 steps the first tenth rises straight, 45 are half a cosine: torch's two schedules joined."""
    seen = by_step("scheduler=warmup_cosine", "scheduler.warmup=0.1", "scheduler.final=0.2")
    peak = seen.index(max(seen))
    assert (peak, seen[peak]) == (5, pytest.approx(LR))
    assert seen[:peak] == pytest.approx([LR * n / 6 for n in range(1, 6)])
    assert all(a > b for a, b in itertools.pairwise(seen[peak:]))
    assert seen[peak:] == pytest.approx([0.02 + 0.08 * (1 + cos(pi * t / 45)) / 2 for t in range(45)])
    assert seen[-1] == pytest.approx(0.2 * LR, rel=0.01)

    optimizer = SGD([torch.zeros(1)], lr=LR)
    rise = LinearLR(optimizer, start_factor=1 / 6, total_iters=5)
    fall = CosineAnnealingLR(optimizer, T_max=45, eta_min=0.2 * LR)
    torchs = SequentialLR(optimizer, [rise, fall], milestones=[5])
    for rate in seen:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()


def test_warmup_cosine_without_a_rise_begins_at_the_top_and_ends_at_nothing() -> None:
    seen = by_step("scheduler=warmup_cosine", "scheduler.warmup=0", epochs=2)
    assert seen[0] == pytest.approx(LR)
    assert seen == pytest.approx([LR * (1 + cos(pi * t / 10)) / 2 for t in range(10)])


def test_onecycle_peaks_at_the_learning_rate_and_has_a_step_for_every_batch() -> None:
    """From a 25th up to the peak at 30 %, down to a 10,000th of the start with the last batch."""
    seen = by_step("scheduler=onecycle")  # one step more than it has would raise
    peak = seen.index(max(seen))
    assert seen[peak] == pytest.approx(LR)
    assert peak == 0.3 * len(seen) - 1
    assert seen[0] == pytest.approx(LR / 25)
    assert seen[-1] == pytest.approx(LR / 25 / 10_000)
    assert all(a < b for a, b in itertools.pairwise(seen[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(seen[peak:]))


def test_onecycle_turns_momentum_the_other_way_round() -> None:
    optimizer, schedule = scheduled("scheduler=onecycle", "epochs=10")
    momenta = []
    for _ in range(50):
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        schedule.after_batch()
    assert (momenta[0], min(momenta), momenta[-1]) == pytest.approx((0.95, 0.85, 0.95))
    assert momenta.index(min(momenta)) == 14


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_onecycle_goes_with_every_optimizer_without_the_momentum(name: str) -> None:
    settings = check(
        RunConfig, composed(f"optimizer={name}", "scheduler=onecycle", "scheduler.cycle_momentum=false")
    )
    optimizer = build_optimizer(settings.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    build_schedule(settings.scheduler, optimizer, 5, settings.epochs)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(settings.optimizer.lr / 25)


def test_plateau_drops_when_more_than_patience_epochs_brought_no_lower_loss() -> None:
    """As torch counts: with a patience of 3 the fourth epoch without a lower validation loss drops it."""
    falling = [1.0, 0.9, 0.8]
    stuck = [0.8, 0.85, 0.8, 0.79999]  # the last is lower by less than the threshold
    seen = by_epoch("scheduler=plateau", epochs=9, val_losses=[*falling, *stuck, 0.5, 0.4])
    assert seen == pytest.approx([LR] * 7 + [LR / 10] * 2)


def test_plateau_stays_while_the_loss_falls_and_ends_at_the_lowest_rate() -> None:
    assert by_epoch("scheduler=plateau", epochs=20, val_losses=[1 - n / 50 for n in range(20)]) == [LR] * 20
    options = ["scheduler.patience=0", "scheduler.min_lr=0.004"]
    assert by_epoch("scheduler=plateau", *options, epochs=5) == pytest.approx([LR, LR, 0.01, 0.004, 0.004])


def test_the_counted_number_of_batches_goes_where_the_menu_says_auto() -> None:
    for steps in (3, 7):
        _, one = scheduled("scheduler=onecycle", "epochs=4", steps=steps)
        assert one.scheduler.total_steps == 4 * steps
        seen = by_step("scheduler=warmup_cosine", "scheduler.warmup=0.5", epochs=4, steps=steps)
        assert seen.index(max(seen)) == 2 * steps
    _, given = scheduled("scheduler=onecycle", "epochs=4", "scheduler.steps_per_epoch=10", steps=3)
    assert given.scheduler.total_steps == 40, "a number that was given is kept"
