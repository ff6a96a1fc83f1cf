"""What the terminal shows fits it, and what one copies from it stays whole."""

import os
import pty
import re
import select
import termios
import threading
from contextlib import closing
from pathlib import Path

import pytest

from helpers import InProcess
from lenetexp.reporting.terminal import (
    Progress,
    SweepProgress,
    fit_columns,
    format_curves,
    format_rows,
    format_sparkline,
)
from lenetexp.tracking.journal import End, Epoch, Journal, Start
from lenetexp.tracking.view import ALL, format_page
from lenetexp.training.state import EpochRecord

RUN = "f8066fdb598a4b5f883e09d529ecedfd"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")


def test_a_run_prints_no_line_wider_than_the_terminal(here: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    here.train("epochs=1", pictures=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 15
    address = format_page(here.runs[0].info.experiment_id, ALL)
    for line in lines:
        assert len(line) <= 72 or line.endswith((address, here.uri)), line


def test_images_that_validate_and_test_are_not_counted_as_two_sets(
    here: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    here.train("dataset.validation=test", recipe=("epochs=1",))
    assert "1,438 training, 359 test images (validation uses the same)" in " ".join(capsys.readouterr().out.split())


def test_the_line_of_an_epoch_fits_whatever_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(epochs=9999, steps=1)
    progress.print_epoch(EpochRecord(9999, 1234.5678, 1.0, 1234.5678, 1.0, 1.23e-10, 123456.0, improved=True))
    group, head, line = capsys.readouterr().out.splitlines()
    assert max(map(len, (group, head, line))) <= 72
    assert line.split() == ["9999", "1234.6", "100.00%", "1234.6", "100.00%", "1.23e-10", "123,456", "best"]


def test_the_columns_of_the_epochs_stand_below_each_other_even_if_the_loss_explodes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = Progress(epochs=4, steps=1)
    for epoch, loss in enumerate((0.1234, 999.99999, 99999.9, 5.6e29), start=1):
        progress.print_epoch(EpochRecord(epoch, loss, 0.1, loss, 0.1, 55100.0, 900.0, improved=False))
    lines = capsys.readouterr().out.splitlines()[2:]
    assert {tuple(match.start() for match in re.finditer("%", line)) for line in lines} == {(25, 45)}
    assert len({*map(len, lines)}) == 1


def test_a_text_is_folded_after_punctuation_and_a_command_is_not() -> None:
    command = f"python scripts/predict.py run={RUN}"
    lines = format_rows([("net", ", ".join(["wide"] * 20)), ("predict", f"{command} 'trust=[mine]'")]).splitlines()
    assert all(len(line) <= 72 for line in lines[:2]) and lines[1].startswith("           wide")
    assert lines[2:] == ["  predict", f"    {command} 'trust=[mine]'"]


def test_a_table_without_room_loses_its_spare_columns() -> None:
    columns = {"lr": ["0.1"], "seconds": ["1.5"], "epoch": ["3"], "status": ["finished"]}
    assert fit_columns(columns, ["seconds", "epoch"]) == columns
    columns["status"] = ["x" * 52]
    assert [*fit_columns(columns, ["seconds", "epoch"])] == ["lr", "epoch", "status"]


def begin(folder: Path, swept: dict[str, str], *accuracies: float) -> Journal:
    """The journal of a job of 20 epochs with these validation accuracies so far."""
    folder.mkdir()
    events = Journal(folder)
    events.add(Start(tags={}, epochs=20, swept=swept))
    for epoch, accuracy in enumerate(accuracies, start=1):
        events.add(Epoch(epoch=epoch, **{"val/accuracy": accuracy}))
    return events


def test_a_sparkline_goes_from_zero_to_one_whatever_the_accuracies() -> None:
    assert format_sparkline([]) == ""
    assert format_sparkline([0, 0.124, 0.126, 0.26, 0.4, 0.51, 0.7, 0.8, 0.9, 1]) == "▁▁▂▃▄▅▆▇██"
    assert format_sparkline([0.5] * 5) == "▅" * 5
    collapsed = [0.1] * 6 + [0.9] * 29 + [0.1]
    assert format_sparkline(collapsed) == "▁▁█████████▁", "the newest epoch is always there"


def test_the_curves_of_running_jobs_fit_the_terminal_and_stand_below_each_other(tmp_path: Path) -> None:
    long = {f"a_key_of_its_own_{i}": "a_value" for i in range(4)}
    with (
        closing(begin(tmp_path / "0", {"optimizer.lr": "0.1"}, 0.1, 0.5, 0.9731)) as one,
        closing(begin(tmp_path / "1", {"optimizer.lr": "0.01"})) as new,
        closing(begin(tmp_path / "2", long, *[1] * 20)) as wide,
    ):
        assert format_curves([one, new]) == [
            "  lr=0.1   ▁▅█           97.31%  epoch 3/20",
            "  lr=0.01                        epoch 0/20",
        ]
        lines = format_curves([one, wide])
        assert len(lines[1]) <= 71 and lines[1].startswith("  a_key") and "_3=a_value  ████████████" in lines[1]
        assert lines[0].index("97.31%") == lines[1].index("100.00%") + 1
        assert format_curves([]) == []


def drawn_by_a_sweep(folder: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> tuple[str, list[int]]:
    """What a terminal gets while a job goes from epoch 1 to 2, and the epochs that the view has read."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 72))
    drawn, epochs, both = b"", list[int](), threading.Event()

    def on_epoch(_: Path, epoch: Epoch) -> None:
        epochs.append(epoch.epoch)
        both.set() if epochs == [1, 2] else None

    with (
        open(theirs, "w", encoding=encoding) as terminal,  # noqa: PTH123
        closing(begin(folder / "0", {"optimizer.lr": "0.1"}, 0.1)) as events,
    ):
        monkeypatch.setattr("sys.stderr", terminal)
        events.path.rename(folder / "kept")  # what is there before the command is not its own
        with SweepProgress(folder, 2, 40, on_epoch, lambda has_begun: "" if has_begun else "starting: 0 of 2"):
            while "starting" not in drawn.decode():
                drawn += os.read(ours, 100_000)
            (folder / "kept").rename(events.path)
            events.add(Epoch(epoch=2, **{"val/accuracy": 0.6}))
            assert both.wait(20)
        while select.select([ours], [], [], 0)[0]:
            drawn += os.read(ours, 100_000)
    os.close(ours)
    return drawn.decode(), epochs


def test_a_sweep_shows_the_curve_of_each_running_job_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, _ = drawn_by_a_sweep(tmp_path, monkeypatch, "utf-8")
    lines = re.split(r"[\r\n]+|\x1b\[\w", drawn)
    assert any(line.startswith("starting: 0 of 2") for line in lines) and "best 0.00%" not in drawn
    assert any(line.startswith("0 done, 1 running, 1 left, best 60.00%") for line in lines)
    assert any(line.startswith("  lr=0.1  ▁▅            60.00%  epoch 2/20") for line in lines)
    assert all(len(line) <= 72 for line in lines)
    assert not lines[-1].strip() and lines[-2].strip() == "", "it disappears at the end"


def test_what_a_signal_ends_is_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SweepProgress(tmp_path, 3, 60, lambda *_: None, lambda _: "") as view:
        for number, status in enumerate(("FINISHED", "KILLED", "FAILED")):
            with closing(begin(tmp_path / str(number), {"seed": str(number)})) as events:
                events.add(End(status=status))
    said = [line.split(",")[0].split("] ")[1] for line in capsys.readouterr().out.splitlines()]
    assert said == ["seed=0: finished", "seed=1: interrupted", "seed=2: failed"]
    assert view._describe() == "1 done, 1 interrupted, 1 failed, 0 running, 0 left"


def test_a_terminal_that_has_no_such_letters_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, epochs = drawn_by_a_sweep(tmp_path, monkeypatch, "ascii")
    assert "1 running" in drawn and "epoch 2/20" not in drawn and epochs == [1, 2]
