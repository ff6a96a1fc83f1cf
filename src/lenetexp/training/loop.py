"""The training loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from lenetexp.config.targets import Augment
from lenetexp.datasets.splits import Data, Split
from lenetexp.models.classical import Classical
from lenetexp.training.batches import convert_to_floats, derive_seed, iterate_batches
from lenetexp.training.curvature import measure_curvature
from lenetexp.training.diagnostics import measure_diagnostics
from lenetexp.training.evaluate import Totals, evaluate
from lenetexp.training.state import EpochRecord, Training

# Training images that a classifier that is fitted at once is scored on: of all, some would take minutes.
SAMPLE = 5000


@dataclass(frozen=True)
class Recipe:
    """How long and on what a net is trained."""

    epochs: int  # in all, those of an interrupted run included
    batch_size: int  # images an optimizer step
    seed: int  # decides the order of images and their augmentation in every epoch
    augment: Augment | None = None
    clip_norm: float | None = None  # largest norm of the whole gradient
    patience: int | None = None  # epochs without improvement before training stops
    diagnostics: bool = False  # whether each epoch's record says what happens inside the net


def fit(
    training: Training, data: Data, recipe: Recipe, on_batch: Callable[[Totals], None] = lambda totals: None
) -> Iterator[EpochRecord]:
    """Train, and yield the record of each epoch.

    Args:
        training: What changes while the net learns.
        data: The three splits.
        recipe: How long and on what to train.
        on_batch: Called after every batch with the epoch's totals so far.

    Raises:
        Diverged: The loss is no longer finite; `training.best` is of the epochs before.
    """
    at_once = isinstance(training.model, Classical)
    one_pass = learn_at_once if at_once else train_epoch
    for epoch in range(training.epochs_done + 1, (1 if at_once else recipe.epochs) + 1):
        if recipe.patience is not None and training.epochs_without_improvement >= recipe.patience:
            return
        started = time.perf_counter()
        train = one_pass(training, data.train, recipe, epoch, on_batch)
        seconds = time.perf_counter() - started
        inside = measure_diagnostics(training, data.train, recipe.clip_norm) if recipe.diagnostics else {}
        val = evaluate(training.evaluated_model, data.val, training.loss)
        training.schedule.step_epoch(val.loss)
        yield training.record(epoch, train, val, len(data.train) / seconds, inside)


def train_epoch(
    training: Training, split: Split, recipe: Recipe, epoch: int, on_batch: Callable[[Totals], None]
) -> Totals:
    """Train for one epoch.

    Returns:
        The summed loss and correct predictions, counted while the weights changed.
    """
    model, optimizer, scaler = training.model, training.optimizer, training.scaler
    measure_curvature(model, training.loss, optimizer, split, recipe.seed, epoch)  # if the optimizer wants to know it
    totals = Totals(epoch, split.labels.device)
    torch.manual_seed(derive_seed("layers", recipe.seed, epoch))  # for dropout and the like in a custom net
    model.train()
    training.loss.train()
    for images, labels in iterate_batches(split, recipe.batch_size, recipe.seed, epoch, recipe.augment):
        logits = training.forward(images)
        loss = training.loss(logits, labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # the scaler does nothing unless the precision is fp16
        if recipe.clip_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        training.update_mean()
        totals.add(loss, logits, labels)
        on_batch(totals)
    return totals


def learn_at_once(
    training: Training, split: Split, recipe: Recipe, epoch: int, on_batch: Callable[[Totals], None]
) -> Totals:
    """Fit a classifier in closed form and score it on a sample of its training images."""
    assert isinstance(training.model, Classical)
    training.model.learn(convert_to_floats(split.images), split.labels)
    training.optimizer.step()  # of nothing: for the schedule
    training.update_mean()
    # Spread evenly: the images may be in the order of their classes.
    rows = torch.linspace(0, len(split) - 1, min(SAMPLE, len(split)), device=split.labels.device).long()
    scores = evaluate(training.model, split[rows], training.loss)
    totals = Totals(epoch, torch.device("cpu"))
    totals.add(torch.tensor(scores.loss), scores.logits, scores.labels)
    on_batch(totals)
    return totals
