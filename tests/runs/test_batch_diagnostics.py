"""diagnostics=batch keeps every batch once, however often its run was interrupted."""

import csv
from pathlib import Path

from helpers import InProcess
from lenetexp.runs.batch_diagnostics import BatchDiagnostics

SMALL = ("epochs=4", "batch_size=400", "diagnostics=batch")  # four batches an epoch


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "diagnostics.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def test_a_run_that_was_interrupted_twice_has_the_rows_of_one_that_was_not(here: InProcess) -> None:
    here.train(*SMALL)
    for stop_after in (1, 2, None):
        resume = "resume=true" if stop_after != 1 else "resume=false"
        here.train(*SMALL, "seed=0", resume, stop_after=stop_after, pictures=True)  # the last one draws them
    whole, resumed = (Path(f"outputs/runs/{number}") for number in (0, 1))
    expected = [(epoch, batch) for epoch in range(1, 5) for batch in range(1, 5)]
    for folder in (whole, resumed):
        assert [(float(row["epoch"]), float(row["batch"])) for row in rows(folder)] == expected
    assert (resumed / "figures/inside.png").exists()
    assert [row["c1/gradient_norm"] for row in rows(whole)] == [row["c1/gradient_norm"] for row in rows(resumed)]


def test_the_rows_of_an_epoch_that_is_trained_again_are_dropped(tmp_path: Path) -> None:
    first = BatchDiagnostics(tmp_path, 0)
    for epoch in (1, 2):
        first.add(epoch, 1, {"c1/dead": 0.5})
    first.write()
    assert [row["epoch"] for row in BatchDiagnostics(tmp_path, 1).rows] == [1]
    BatchDiagnostics(tmp_path, 2).write()
    assert len(BatchDiagnostics(tmp_path, 2).rows) == 2, "what was read back can be read again"
