"""Nets made to fail in one way are told so; nets that learn are told nothing."""

from dataclasses import replace

import pytest

from lenetexp.training.evaluate import Diverged
from lenetexp.training.state import EpochRecord
from lenetexp.training.verdict import judge_training


def records(*accuracies: float, inside: dict[str, float] | None = None) -> list[EpochRecord]:
    """Of epochs with these validation accuracies."""
    return [
        EpochRecord(epoch, 1.0, 0.5, 1.0, accuracy, 0.1, 1000.0, False, inside or {})
        for epoch, accuracy in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(
    ("accuracies", "ending", "text"),
    [
        ((0.1, 0.5, 0.9), "learned", "learned"),
        ((0.1, 0.11), "did not learn", "did not learn"),
        ((0.13,), "did not learn", "did not learn"),  # within two standard deviations of guessing on 143 images
        ((0.16,), "learned", "learned"),
        ((0.9, 0.95, 0.1, 0.1), "collapsed", "collapsed after epoch 2"),
        ((0.9, 0.1, 0.8, 0.3), "collapsed", "collapsed after epoch 3"),
        ((0.9, 0.95, 0.8), "learned", "learned"),
    ],
)
def test_the_ending_follows_from_the_accuracies(accuracies: tuple[float, ...], ending: str, text: str) -> None:
    verdict = judge_training(records(*accuracies), classes=10, images=143)
    assert (verdict.ending, verdict.text, verdict.reasons) == (ending, text, ())


def test_a_diverged_run_says_what_to_try() -> None:
    verdict = judge_training(records(0.9), 10, 143, Diverged(2))
    assert verdict.sentence == (
        "diverged; the loss stopped being finite in epoch 2: optimizer.lr is too large, try a tenth"
    )


def test_where_a_tenth_would_be_as_bad_the_advice_is_to_look_for_a_rate() -> None:
    at_once = judge_training([], 10, 143, Diverged(1))
    wild = judge_training(records(0.1, inside=HEALTHY | {"c3/update_ratio": 50.0}), 10, 143)
    exploded = [replace(record, train_loss=5.6e19) for record in records(0.1, inside=HEALTHY | {"c3/dead": 1.0})]
    for verdict in (at_once, wild, judge_training(exploded, 10, 143)):
        assert "optimizer.lr is far too large; python scripts/find_lr.py with the same settings" in verdict.sentence


HEALTHY = {
    f"{layer}/{key}": value
    for layer in ("c1", "c3", "output")
    for key, value in {
        "activation_deviation": 0.5, "saturated": 0.0, "gradient_norm": 0.3, "update_ratio": 2e-3
    }.items()
}  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "reasons"),
    [
        ({}, []),
        ({"c3/dead": 0.95}, ["95% of c3 is dead", "a smaller optimizer.lr or another"]),
        ({"c3/saturated": 0.95}, ["95% of what c3 passes on is saturated", "a smaller optimizer.lr or another"]),
        ({"c3/dead": 1.0, "output/update_ratio": 0.08}, ["100% of c3 is dead", "output by 8% of its weights"]),
        ({f"{layer}/update_ratio": 3e-6 for layer in ("c1", "c3", "output")}, ["no layer by more than 3e-06"]),
        ({"c3/activation_deviation": 1e-3}, ["what reaches output differs by only 1e-03"]),
        ({"c1/gradient_norm": 1e-6}, ["the gradient at c1 is only 3e-06 of that at output"]),
        ({"c1/update_ratio": 0.3}, ["one step changes c1 by 30% of its weights: optimizer.lr is too large"]),
    ],
)
def test_a_reason_is_given_where_its_rule_holds(measured: dict[str, float], reasons: list[str]) -> None:
    verdict = judge_training(records(0.1, 0.1, inside=HEALTHY | measured), 10, 143)
    assert len(verdict.reasons) == len(reasons)
    for said, expected in zip(verdict.reasons, reasons, strict=True):
        assert expected in said
    assert judge_training(records(0.1, 0.9, inside=HEALTHY | measured), 10, 143).reasons == (), (
        "a net that learned needs none"
    )


def test_only_the_epochs_after_a_collapse_count_for_its_reason() -> None:
    large = HEALTHY | {"c1/update_ratio": 0.5}
    history = records(0.9, inside=large) + [
        EpochRecord(epoch, 1.0, 0.1, 1.0, 0.1, 0.1, 1000.0, False, HEALTHY) for epoch in (2, 3)
    ]
    assert judge_training(history, 10, 143).reasons == ()


def test_one_epoch_says_nothing_of_a_rate_that_its_schedule_ends_at() -> None:
    """After the only epoch of a cosine the next step is next to nothing, whatever the rate was."""
    small = HEALTHY | {f"{layer}/update_ratio": 3e-6 for layer in ("c1", "c3", "output")}
    assert judge_training(records(0.1, inside=small), 10, 143).reasons == ()
