"""A journal loses nothing that was written, and tells whether a process is still writing it."""

import json
import subprocess
import sys
from math import inf, isnan
from pathlib import Path

import pytest

from helpers import PROJECT
from lenetexp.errors import UserError
from lenetexp.tracking.journal import NAME, End, Epoch, Journal, JournalReader, Mark, Result, Start, TagSet, is_in_use
from lenetexp.tracking.names import HOST, Tag

START = Start(tags={Tag.HOST: HOST}, epochs=2)


def written(folder: Path, *events: object) -> JournalReader:
    """A journal of these events, or of these raw lines."""
    lines = [json.dumps(event) if isinstance(event, dict) else str(event) for event in events]
    (folder / NAME).write_text("\n".join([*lines, ""]))
    return JournalReader(folder)


def kinds(reader: JournalReader) -> list[str]:
    return [event.event for event in reader.events]


def test_a_torn_last_line_is_skipped_and_removed_by_the_next_writer(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.add(START)
    first.close()
    with first.path.open("a") as file:
        file.write('{"event": "epo')
    assert kinds(JournalReader(tmp_path)) == ["start"]
    second = Journal(tmp_path)
    second.add(End(status="KILLED"))
    second.close()
    assert kinds(JournalReader(tmp_path)) == ["start", "end"]


def test_a_line_cut_by_a_full_disk_is_removed_by_the_next(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    journal = Journal(tmp_path)
    journal.add(START)
    whole = journal.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written .*; what it holds is intact"):
            journal.add(Mark(event="files"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    torn = journal.path.read_bytes()
    assert torn.startswith(whole) and len(torn) == len(whole) + 10, "the write did fail halfway"
    assert kinds(JournalReader(tmp_path)) == ["start"]
    journal.add(End(status="FAILED"))
    assert kinds(journal) == kinds(JournalReader(tmp_path)) == ["start", "end"]
    assert journal.path.read_bytes().startswith(whole)


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path / "none")
    assert (reader.events, reader.end, reader.run_id, reader.unsent_events) == ([], None, None, [])


@pytest.mark.parametrize(
    "line",
    ["{", "noise", "[]", '"start"', "{}", '{"event": "start"}', '{"event": "party", "time": 1}',
     '{"event": "epoch", "time": 1, "epoch": "x"}', '{"event": "result", "time": 1, "values": [1]}',
     '{"event": "tag", "time": 1, "key": 3, "value": "x"}', '{"event": "end", "time": "soon", "status": "KILLED"}'],
)  # fmt: skip
def test_a_damaged_line_is_one_sentence(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"journal\.jsonl is damaged") as told:
        written(tmp_path, {"event": "start", "time": 1, "tags": {}, "epochs": 2}, line, {"event": "draft", "time": 1})
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="is damaged"):
        Journal(tmp_path)
    assert not is_in_use(tmp_path), "a refused writer keeps no lock"


def test_journals_of_the_first_version_are_read(tmp_path: Path) -> None:
    """Every kind of event as commit 0d6f7e2 wrote it."""
    tags = {"lenetexp.host": HOST, "lenetexp.process": "2322 started 1795528457", "lenetexp.journal": "69d9"}
    dataset = {"name": "digits", "digest": "85f0", "source": '{"root": null}', "profile": '{"train": 1295}'}
    start = {"name": "seed=1", "tags": tags, "params": {"seed": 1, "clip_norm": None}, "dataset": dataset}
    reader = written(
        tmp_path,
        {"event": "start", "time": 1000, **start, "epochs": 2, "swept": {"seed": "1"}},
        {"event": "created", "time": 1010, "run_id": "7fd6"},
        {"event": "sent", "time": 1020, "store": "sqlite:///outputs/mlflow.db"},
        {"event": "draft", "time": 1030},
        '{"event": "epoch", "time": 2000, "epoch": 1, "train/loss": NaN, "val/accuracy": 0.5, "lr": 1}',
        {"event": "tag", "time": 2100, "key": "lenetexp.ending", "value": "pruned"},
        {"event": "resumed", "time": 9000, "tags": tags, "epochs": 3},
        {"event": "result", "time": 9100, "values": {"best/epoch": 1, "test/accuracy": 0.75}},
        {"event": "model", "time": 9200},
        {"event": "files", "time": 9300},
        {"event": "end", "time": 9400, "status": "FINISHED"},
        {"event": "sent", "time": 9900, "store": None},
    )  # fmt: skip
    types = [Start, Mark, Mark, Mark, Epoch, TagSet, Start, Result, Mark, Mark, End, Mark]
    assert [type(event) for event in reader.events] == types
    first, resumed = reader.starts
    assert (first.params, first.dataset, first.swept, resumed.epochs) == (start["params"], dataset, {"seed": "1"}, 3)
    (epoch,), (result,) = reader.select(Epoch), reader.select(Result)
    assert isnan(epoch.metrics.pop("train/loss")) and epoch.metrics == {"val/accuracy": 0.5, "lr": 1}
    assert result.values == {"best/epoch": 1, "test/accuracy": 0.75}
    assert (reader.run_id, reader.ending, reader.unsent_events) == ("7fd6", "pruned", [])
    assert reader.end is not None and (reader.end.status, reader.end.time) == ("FINISHED", 9400)


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    writer = Journal(tmp_path)
    writer.add(START)
    writer.add(Epoch.model_validate({"epoch": 1, "train/loss": float("nan"), "val/loss": -inf}))
    writer.add(Result(values={"best/val_loss": inf}))
    reader = JournalReader(tmp_path)
    (epoch,), (result,) = reader.select(Epoch), reader.select(Result)
    assert isnan(epoch.metrics["train/loss"]) and epoch.metrics["val/loss"] == -inf
    assert result.values == {"best/val_loss": inf}


def test_a_setting_that_is_null_stays_a_param(tmp_path: Path) -> None:
    Journal(tmp_path).add(Start(tags={}, epochs=1, params={"clip_norm": None, "seed": 0}))
    assert JournalReader(tmp_path).starts[0].params == {"clip_norm": None, "seed": 0}


def test_a_reader_returns_only_what_is_new(tmp_path: Path) -> None:
    reader, writer = JournalReader(tmp_path), Journal(tmp_path)
    assert reader.update() == []
    writer.add(START)
    writer.add(Mark(event="created", run_id="4d1f"))
    assert [event.event for event in reader.update()] == ["start", "created"]
    assert reader.update() == [] and reader.run_id == "4d1f"
    line = b'{"event": "end", "time": 5, "status": "FINISHED"}\n'
    for part in (line[:20], line[20:]):  # written in two pieces
        assert reader.end is None
        with writer.path.open("ab") as file:
            file.write(part)
        new = reader.update()
    assert [event.event for event in new] == ["end"] and kinds(reader) == ["start", "created", "end"]


def test_a_resumed_run_has_no_end_and_only_its_commands_count_as_work(tmp_path: Path) -> None:
    tags: dict[str, str] = {}
    reader = written(
        tmp_path,
        {"event": "start", "time": 0, "tags": tags, "epochs": 2},
        {"event": "created", "time": 10, "run_id": "4d1f"},
        {"event": "epoch", "time": 2000, "epoch": 1},
        {"event": "end", "time": 2000, "status": "KILLED"},
        {"event": "resumed", "time": 90_000, "tags": tags, "epochs": 2},
        {"event": "epoch", "time": 91_000, "epoch": 2},
        {"event": "sent", "time": 999_000},
    )
    assert reader.end is None
    assert reader.seconds_worked == 3.0, "neither the pause between the commands nor a later sync"


def test_two_writers_exclude_each_other(tmp_path: Path) -> None:
    held = Journal(tmp_path)
    assert is_in_use(tmp_path)
    with pytest.raises(UserError, match="another process is running this"):
        Journal(tmp_path)
    held.close()
    assert not is_in_use(tmp_path)
    Journal(tmp_path).close()


HOLDS_A_JOURNAL = """
import sys, time
from pathlib import Path
from lenetexp.tracking.journal import Journal, Start
journal = Journal(Path(sys.argv[1]))
journal.add(Start(tags={"lenetexp.host": sys.argv[2]}, epochs=1))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_run_is_in_use_until_its_process_dies_however_it_dies(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    command = [sys.executable, "-c", HOLDS_A_JOURNAL, str(tmp_path), HOST]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        reader = JournalReader(tmp_path)
        assert is_in_use(tmp_path) and not reader.has_died
        process.kill()
        process.wait()
        assert not is_in_use(tmp_path) and reader.has_died


def test_a_run_of_another_machine_is_not_taken_for_dead(tmp_path: Path) -> None:
    reader = written(tmp_path, {"event": "start", "time": 1, "tags": {Tag.HOST: f"not-{HOST}"}, "epochs": 1})
    assert not reader.has_died


def test_a_journal_without_its_first_line_is_damaged(tmp_path: Path) -> None:
    """Nothing can be told of its run: neither how long it took nor where it was."""
    lines = [{"event": "epoch", "time": 1, "epoch": 1}, {"event": "end", "time": 2, "status": "KILLED"}]
    (tmp_path / NAME).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for kind in (JournalReader, Journal):
        with pytest.raises(UserError, match=r"is damaged \(the run's start, its first line, is lost\); it cannot be"):
            kind(tmp_path)
    assert not is_in_use(tmp_path)
