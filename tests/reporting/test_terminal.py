"""What the terminal shows fits it, and what one copies from it stays whole."""

import pytest

from helpers import InProcess
from lenetexp.reporting.terminal import Progress, rows, table
from lenetexp.tracking.view import ALL, page
from lenetexp.training.state import EpochRecord

RUN = "f8066fdb598a4b5f883e09d529ecedfd"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")


def test_a_run_prints_no_line_wider_than_the_terminal(here: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    here.train("epochs=1")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 15
    address = page(here.runs[0].info.experiment_id, ALL)
    for line in lines:
        assert len(line) <= 72 or line.endswith((address, here.uri)), line


def test_the_line_of_an_epoch_fits_whatever_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(epochs=9999, steps=1)
    progress.epoch(EpochRecord(9999, 1234.5678, 1.0, 1234.5678, 1.0, 1.23e-10, 123456.0, improved=True))
    group, head, line = capsys.readouterr().out.splitlines()
    assert max(map(len, (group, head, line))) <= 72
    assert line.split() == ["9999", "1234.5678", "100.00%", "1234.5678", "100.00%", "1.23e-10", "123,456", "best"]


def test_a_text_is_folded_after_punctuation_and_a_command_is_not() -> None:
    command = f"python scripts/predict.py run={RUN}"
    lines = rows([("net", ", ".join(["wide"] * 20)), ("predict", f"{command} 'trust=[mine]'")]).splitlines()
    assert all(len(line) <= 72 for line in lines[:2]) and lines[1].startswith("           wide")
    assert lines[2:] == ["  predict", f"    {command} 'trust=[mine]'"]


def test_a_table_without_room_loses_its_spare_columns() -> None:
    columns = {"lr": ["0.1"], "seconds": ["1.5"], "epoch": ["3"], "status": ["finished"]}
    assert table(columns, spare=("seconds", "epoch")).splitlines()[0].split() == [*columns]
    columns["status"] = ["x" * 52]
    assert table(columns, spare=("seconds", "epoch")).splitlines()[0].split() == ["lr", "epoch", "status"]
