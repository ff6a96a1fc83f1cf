"""Optimizers and schedules from conf/: torch's own, with the steps and learning rates that their papers promise."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from math import cos, pi, sqrt

import pytest
import torch
from torch.optim import Optimizer

from helpers import OPTIONS, composed
from lenetexp.config import targets
from lenetexp.config.schema import RunConfig, check_config
from lenetexp.errors import UserError
from lenetexp.training.optimizers import build_optimizer
from lenetexp.training.schedules import Schedule, build_schedule

LR = 0.1
# A recipe's first step and last checkpoint, then whether torch's compiler was imported.
ONE_STEP = """
import sys, torch
from lenetexp.config import targets
from lenetexp.training.optimizers import build_optimizer
w = torch.nn.Parameter(torch.ones(3))
for name in ("SGD", "AdamW", "RMSprop", "Adagrad"):
    settings = targets.Optimizer.model_validate({"_target_": f"torch.optim.{name}", "lr": 0.1})
    optimizer = build_optimizer(settings, [w])
    optimizer.zero_grad()
    w.sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
print(bool((w < 1).all()), "torch._dynamo" in sys.modules)
"""
OPTIMIZERS = [option.partition("=")[2] for option in OPTIONS if option.startswith("optimizer=")]
SCHEDULERS = [option.partition("=")[2] for option in OPTIONS if option.startswith("scheduler=")]


def scheduled(*overrides: str, steps: int = 5) -> tuple[Optimizer, Schedule]:
    """SGD at LR over one number, unless `overrides` say otherwise, and the schedule for epochs of `steps` batches."""
    settings = check_config(RunConfig, composed("optimizer=sgd", f"optimizer.lr={LR}", *overrides))
    optimizer = build_optimizer(settings.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    return optimizer, build_schedule(settings.scheduler, optimizer, steps, settings.epochs)


# ---- optimizers: one weight, worked out by hand ----

W, GRADIENTS = 2.0, [1.0, -2.0, 0.5, 3.0]


def sgd(lr: float = 0.1, nesterov: bool = True) -> Iterator[float]:
    w, v = W, 0.0
    for g in GRADIENTS:
        v = 0.9 * v + g
        w -= lr * (g + 0.9 * v if nesterov else v)
        yield w


def adam(decay: float = 0.0) -> Iterator[float]:
    w, m, v = W, 0.0, 0.0
    for t, g in enumerate(GRADIENTS, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w -= 0.001 * decay * w
        w -= 0.001 * (m / (1 - 0.9**t)) / (sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield w


def scaled_by_squares(lr: float, keep: float, add: float) -> Iterator[float]:
    """RMSprop's mean of the squared gradients, and Adagrad's sum."""
    w, v = W, 0.0
    for g in GRADIENTS:
        v = keep * v + add * g**2
        w -= lr * g / (sqrt(v) + 1e-9)
        yield w


def levenberg_marquardt() -> Iterator[float]:
    """Before any curvature is measured, none: a step of lr / mu times the gradient."""
    w = W
    for g in GRADIENTS:
        w -= 2e-3 / 0.02 * g
        yield w


RULES: dict[str, Callable[[], Iterator[float]]] = {
    "optimizer=sgd": lambda: sgd(lr=0.05),
    "optimizer=adam": adam,
    "optimizer=levenberg_marquardt": levenberg_marquardt,
    "optimizer=adamw": lambda: adam(decay=0.01),
    "optimizer=rmsprop": lambda: scaled_by_squares(0.001, keep=0.99, add=0.01),
    "optimizer=adagrad": lambda: scaled_by_squares(0.01, keep=1, add=1),
    "experiment=tutorial": lambda: sgd(lr=0.001, nesterov=False),
}


@pytest.mark.parametrize("option", [*(f"optimizer={name}" for name in OPTIMIZERS), "experiment=tutorial"])
def test_an_optimizer_steps_as_its_paper_says(option: str) -> None:
    """With the defaults of its file in conf/."""
    weight = torch.nn.Parameter(torch.tensor([W], dtype=torch.float64))
    optimizer = build_optimizer(check_config(RunConfig, composed(option)).optimizer, [weight])
    for gradient, expected in zip(GRADIENTS, RULES[option](), strict=True):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        assert weight.item() == pytest.approx(expected, rel=1e-8)


def test_settings_that_conf_does_not_name_reach_torch() -> None:
    optimizer, _ = scheduled("+optimizer.dampening=0.5", "optimizer.nesterov=false", "optimizer.weight_decay=0.01")
    assert optimizer.param_groups[0]["dampening"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


def test_an_optimizer_does_not_import_the_compiler() -> None:
    """It would take longer than an epoch on digits."""
    done = subprocess.run([sys.executable, "-c", ONE_STEP], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "False"]


# ---- what is refused ----


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optimizer.nesterov=true optimizer.momentum=0", r"optimizer: SGD\(.*momentum=0.0,.*Nesterov momentum"),
        ("+optimizer.lrr=3", "^optimizer: SGD does not take lrr; add ~optimizer.lrr to the command$"),
        ("optimizer._target_=torch.optim.Nope", "optimizer: Nope.*torch.optim.Nope"),
        ("scheduler=plateau scheduler.factor=1.5", "scheduler: ReduceLROnPlateau.*Factor should be"),
        ("scheduler=onecycle optimizer=adagrad", "scheduler: OneCycleLR.*cycle_momentum=True.*must support momentum"),
        ("scheduler=piecewise scheduler.starts=[2,3]", r"scheduler.starts=\[2, 3\]: must be epochs that rise from 1"),
        ("scheduler=piecewise scheduler.factors=[1]", r"scheduler.factors=\[1.0\]: must be as many .* 5"),
        ("scheduler=plateau scheduler.interval=batch", "scheduler.interval=batch: must be epoch"),
        ("scheduler=warmup_cosine scheduler.interval=epoch", "scheduler.interval=epoch: must be batch"),
        ("scheduler=onecycle scheduler.interval=epoch", "scheduler.interval=epoch: must be batch"),
        (
            "scheduler=onecycle scheduler.epochs=3 epochs=4",
            "OneCycleLR ends after 15 steps, but the run has 20; scheduler.epochs must be at least 4",
        ),
        (
            "scheduler=onecycle scheduler.steps_per_epoch=4 epochs=4",
            "OneCycleLR ends after 16 steps, but the run has 20",
        ),
    ],
)
def test_what_cannot_work_is_one_sentence_with_the_settings(overrides: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        scheduled(*overrides.split(), steps=5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("builtins.list", r"^optimizer\._target_=builtins\.list: must make a torch Optimizer"),
        ("torch.optim.LBFGS", r"^optimizer\._target_=torch\.optim\.LBFGS: .*without a closure"),
    ],
)
def test_what_is_no_optimizer_for_this_loop_is_refused(target: str, message: str) -> None:
    settings = targets.Optimizer.model_validate({"_target_": target})
    with pytest.raises(UserError, match=message):
        build_optimizer(settings, [torch.nn.Parameter(torch.zeros(1))])


# ---- schedules ----


def rates(
    *overrides: str, epochs: int = 10, steps: int = 1, val_losses: Sequence[float] = (), key: str = "lr"
) -> list[float]:
    """The learning rate of every step, in epochs of `steps` batches, as the loop would have it."""
    optimizer, schedule = scheduled(*overrides, f"epochs={epochs}", steps=steps)
    losses = itertools.chain(val_losses, itertools.repeat(1.0))
    seen = []
    for _ in range(epochs):
        for _ in range(steps):
            seen.append(optimizer.param_groups[0][key])
            optimizer.step()
            schedule.step_batch()
        schedule.step_epoch(next(losses))
    return seen


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_is_stepped_when_it_says_and_only_then(name: str) -> None:
    optimizer, schedule = scheduled(f"scheduler={name}")
    optimizer.step()
    batches = 3 if name in ("onecycle", "warmup_cosine") else 0
    for _ in range(3):
        schedule.step_batch()
    assert schedule.scheduler.last_epoch == batches
    schedule.step_epoch(1.0)
    assert schedule.scheduler.last_epoch == (batches or 1)


def test_step_is_the_tutorials_schedule() -> None:
    """1e-3 for its ten epochs; the drop would come with the eleventh."""
    seen = rates("experiment=tutorial", "optimizer.lr=1e-3", epochs=21)
    assert seen == pytest.approx([1e-3] * 10 + [1e-4] * 10 + [1e-5])


def test_piecewise_is_lenet_5s_schedule() -> None:
    """5e-4 for two epochs, 2e-4 and 1e-4 for three each, 5e-5 for four, then 1e-5 (LeCun et al. 1998)."""
    seen = rates("scheduler=piecewise", "optimizer.lr=5e-4", epochs=20)
    assert seen == pytest.approx([5e-4] * 2 + [2e-4] * 3 + [1e-4] * 3 + [5e-5] * 4 + [1e-5] * 8)


def test_multistep_drops_after_the_epochs_listed() -> None:
    expected = [LR] * 10 + [LR / 10] * 5 + [LR / 100] * 2
    assert rates("scheduler=multistep", epochs=17) == pytest.approx(expected)
    assert rates("scheduler=multistep", "scheduler.milestones=[1]", epochs=2) == pytest.approx([LR, LR / 10])


def test_exponential_shrinks_after_every_epoch() -> None:
    assert rates("scheduler=exponential") == pytest.approx([LR * 0.9**n for n in range(10)])


def test_constant_is_constant() -> None:
    assert rates("scheduler=constant", epochs=30) == [LR] * 30
    assert rates("scheduler=constant", "scheduler.factor=0.5") == pytest.approx([LR / 2] * 10)


def test_cosine_is_the_papers_formula_over_the_whole_run() -> None:
    """η_min + (η_max − η_min)(1 + cos(π t/T))/2 (Loshchilov and Hutter 2017, equation 5)."""
    seen = rates("scheduler=cosine", "scheduler.eta_min=0.02")
    assert seen == pytest.approx([0.02 + 0.08 * (1 + cos(pi * t / 10)) / 2 for t in range(10)])
    assert seen[5] == pytest.approx(0.06), "half way, half the height"


def test_warmup_cosine_rises_to_the_learning_rate_and_falls_to_its_share() -> None:
    """Of 50 steps the first tenth rises straight, 45 are half a cosine."""
    seen = rates("scheduler=warmup_cosine", "scheduler.warmup=0.1", "scheduler.final=0.2", steps=5)
    assert seen[:5] == pytest.approx([LR * n / 6 for n in range(1, 6)])
    assert seen[5:] == pytest.approx([0.02 + 0.08 * (1 + cos(pi * t / 45)) / 2 for t in range(45)])


def test_warmup_cosine_without_a_rise_begins_at_the_top() -> None:
    seen = rates("scheduler=warmup_cosine", "scheduler.warmup=0", epochs=2, steps=5)
    assert seen == pytest.approx([LR * (1 + cos(pi * t / 10)) / 2 for t in range(10)])


def test_onecycle_peaks_at_the_learning_rate_and_has_a_step_for_every_batch() -> None:
    """From a 25th up to the peak at 30 %, down to a 10,000th of the start with the last batch."""
    seen = rates("scheduler=onecycle", steps=5)  # one step more than it has would raise
    peak = seen.index(max(seen))
    assert peak == 0.3 * len(seen) - 1
    assert (seen[0], seen[peak], seen[-1]) == pytest.approx((LR / 25, LR, LR / 25 / 10_000))
    assert all(a < b for a, b in itertools.pairwise(seen[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(seen[peak:]))


def test_onecycle_moves_momentum_the_other_way() -> None:
    seen = rates("scheduler=onecycle", steps=5, key="momentum")
    assert (seen[0], seen[14], seen[-1]) == pytest.approx((0.95, 0.85, 0.95))
    assert min(seen) == seen[14]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_onecycle_works_with_every_optimizer_without_the_momentum(name: str) -> None:
    optimizer, _ = scheduled(f"optimizer={name}", "scheduler=onecycle", "scheduler.cycle_momentum=false")
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR / 25)


def test_plateau_drops_after_more_than_patience_epochs_without_a_lower_loss() -> None:
    """As torch counts: with a patience of 3 the fourth epoch without a lower validation loss drops it."""
    stuck = [0.8, 0.85, 0.8, 0.79999]  # the last is lower by less than the threshold
    seen = rates("scheduler=plateau", epochs=9, val_losses=[1.0, 0.9, 0.8, *stuck, 0.5, 0.4])
    assert seen == pytest.approx([LR] * 7 + [LR / 10] * 2)
    assert rates("scheduler=plateau", epochs=20, val_losses=[1 - n / 50 for n in range(20)]) == [LR] * 20
    options = ["scheduler.patience=0", "scheduler.min_lr=0.004"]
    assert rates("scheduler=plateau", *options, epochs=5) == pytest.approx([LR, LR, 0.01, 0.004, 0.004])


@pytest.mark.parametrize("steps", [3, 7])
def test_auto_is_the_number_of_batches(steps: int) -> None:
    _, schedule = scheduled("scheduler=onecycle", "epochs=4", steps=steps)
    assert schedule.scheduler.total_steps == 4 * steps
    seen = rates("scheduler=warmup_cosine", "scheduler.warmup=0.5", epochs=4, steps=steps)
    assert seen.index(max(seen)) == 2 * steps
    _, given = scheduled("scheduler=onecycle", "epochs=4", "scheduler.steps_per_epoch=10", steps=steps)
    assert given.scheduler.total_steps == 40, "a number that was given is kept"
