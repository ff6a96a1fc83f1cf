"""Runs made to fail say why, in the terminal and in MLflow."""

import pytest

from helpers import InProcess

PLAIN = ("epochs=3", "clip_norm=null", "scheduler=constant", "model.init=torch", "model.pooling=avg")


@pytest.mark.parametrize(
    ("asked", "ending", "reasons"),
    [
        (("epochs=3", "optimizer.lr=1"), "did not learn", ["100% of c", "is dead (flat for every image)"]),
        (("epochs=2", "optimizer.lr=0.00001"), "did not learn", ["optimizer.lr is too small"]),
        (
            (*PLAIN, "model.activation=sigmoid", "optimizer.lr=0.001"),
            "did not learn",
            ["what reaches output differs by only 1e-03", "the gradient at c1 is only"],
        ),
        ((*PLAIN, "optimizer.lr=3"), "diverged", ["the loss stopped being finite in epoch 1"]),
        (("epochs=2",), "", []),
    ],
)
def test_a_run_that_failed_says_why(
    here: InProcess, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], ending: str, reasons: list[str]
) -> None:
    here.train(*asked, recipe=())
    said = " ".join(capsys.readouterr().out.split())
    (run,) = here.runs
    assert run.data.tags["lenetexp.verdict"] == (ending or "learned")
    assert run.data.tags.get("lenetexp.ending", "") == ending
    assert (f"verdict {ending}" in said) == bool(ending)
    for reason in reasons:
        assert reason in said and reason in run.data.tags["lenetexp.reason"]
    layers = {"c1", "c3", "c5", "f6", "output"}
    inside = {key.split("/")[1] for key in run.data.metrics if key.startswith("inside/")}
    assert inside == (set() if ending == "diverged" else layers)
