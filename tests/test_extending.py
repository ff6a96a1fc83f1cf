"""docs/extending.md, to the letter: its files are written, its commands typed; lenetexp itself needs no change."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PROJECT, Command, InProcess, run_script
from lenetexp.runs import experiment

PAGE = (PROJECT / "docs/extending.md").read_text()
FILES = re.findall(r"^`([\w./]+)`[^\n]*:\n\n```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.splitlines()]
TRAININGS = [words[2:] for words in COMMANDS if words[1] == "scripts/run.py"]
OWN = {
    "model": "TwoLayers",
    "loss": "Hinge",
    "optimizer": "SignSGD",
    "scheduler": "sawtooth",
    "dataset": "odd_and_even",
}


def write_files(folder: Path) -> None:
    """A file that the page shows in several pieces is all of them."""
    for name, text in FILES:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as there:
            there.write(text)


@pytest.fixture
def own_files(here: InProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcess]:
    """The working folder of someone who followed the page, and the store there."""
    write_files(here.cwd)
    sys.modules.pop("mine", None)
    monkeypatch.setattr(experiment, "try_draw", lambda _: True)
    yield here
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("words", TRAININGS, ids=lambda words: words[2].partition("=")[0])
def test_a_command_of_the_page_trains_with_the_readers_own_class(
    words: list[str], own_files: InProcess, typed: Command
) -> None:
    done = typed("run", *words, "epochs=1", f"tracking.uri={own_files.uri}")
    assert done.returncode == 0, done.stderr
    (run,) = own_files.runs
    group = words[2].partition("=")[0]
    groups = ["model", "optimizer", "scheduler", "dataset"] if group == "experiment" else [group]
    assert [run.data.params[f"{one}._target_"] for one in groups] == [f"mine.{OWN[one]}" for one in groups]
    for setting in words[3:]:
        key, _, value = setting.partition("=")
        assert run.data.params[key].lower() == value


def test_the_page_has_a_command_for_each_group() -> None:
    assert {words[2].partition("=")[0] for words in TRAININGS} == {*OWN, "experiment"}


def test_a_record_with_the_readers_own_classes_is_all_that_predict_needs(own_files: InProcess, typed: Command) -> None:
    """The recipe learns in a process of its own; without its config files, predict asks for trust and then predicts."""
    done = run_script("run", *TRAININGS[-1], cwd=own_files.cwd)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'trust=[mine]'") == 1, "the command that it prints can be given"
    assert own_files.runs[0].data.metrics["test/accuracy"] > 0.8
    shutil.rmtree(own_files.cwd / "myconf")
    (words,) = [words[2:] for words in COMMANDS if words[1] == "scripts/predict.py"]
    store = f"tracking.uri={own_files.uri}"
    refused = typed("predict", store, *[word for word in words if not word.startswith("trust=")])
    assert refused.returncode == 1 and "trust=[mine]" in refused.stderr
    done = typed("predict", store, *words)
    assert done.returncode == 0 and 'actual: "odd"' in done.stdout, done.stderr
