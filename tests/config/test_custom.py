"""An error in a user's own code is said with its file and line; what shows the whole traceback."""

import os
from pathlib import Path

import pytest

from helpers import Command, InProcess
from lenetexp.errors import DEBUG

MINE = """
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

class Net(nn.Module):
    def __init__(self, classes, channels, how):
        super().__init__()
        self.how, self.net = how, nn.Linear(1024 if how == "large" else 784, classes)
        if how == "init":
            self.net = nothing

    def forward(self, x):
        if self.how == "forward":
            self.nett(x)
        if self.how == "reset" and self.training:
            raise ConnectionResetError(104, "Connection reset by peer")
        if self.how == "file" and self.training:
            open("gone.txt")
        return self.net(x.flatten(1))

def optimizer(parameters, **settings):
    return optim.SGD(parameter, **settings)

class Loss(nn.Module):
    def forward(self, outputs, labels):
        return outputs.meann()
"""
NET = [f"~model.{key}" for key in ("activation", "pooling", "head_activation", "init")]
OFFLINE = ["epochs=1", "tracking.offline=true"]


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with a user's own classes, a new one for each test, and of two that cannot be imported."""
    name = f"mine_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text(MINE)
    (tmp_path / f"{name}_cut.py").write_text("x = (")
    (tmp_path / f"{name}_lost.py").write_text("import no_such_module")
    return name


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (
            ["model._target_=MINE.Net", "+model.how=init"],
            ["model: Net failed: NameError", "MINE.py, line 10, in __init"],
        ),
        (["model._target_=MINE.Net", "+model.how=forward"], ["two 1×28×28 images: AttributeError", "MINE.py, line 14"]),
        (["model._target_=MINE.Net", "+model.how=large"], ["mat1 and mat2", "MINE.py, line 19, in forward"]),
        (["model._target_=MINE_cut.Net"], ["model: Net failed: SyntaxError", "MINE_cut.py, line 1;"]),
        (["model._target_=MINE_lost.Net"], ["No module named 'no_such_module'", "MINE_lost.py, line 1, in <module>"]),
        (["optimizer._target_=MINE.optimizer"], ["optimizer: optimizer failed: NameError", "MINE.py, line 22"]),
        (["loss._target_=MINE.Loss", "~loss.label_smoothing"], ["loss: Loss failed on 2×10", "MINE.py, line 26"]),
    ],
    ids=" ".join,
)
def test_the_sentence_names_file_and_line(typed: Command, mine: str, words: list[str], fragments: list[str]) -> None:
    words = [word.replace("MINE", mine) for word in words]
    done = typed("run", *(NET if words[0].startswith("model") else []), *words)
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    for fragment in (*fragments, f"{DEBUG}=1 shows the whole traceback"):
        assert fragment.replace("MINE", mine) in done.stderr
    assert "image_size" not in done.stderr, "digits have none"


@pytest.mark.parametrize("variable", [DEBUG, "HYDRA_FULL_ERROR"])
def test_a_variable_shows_the_traceback_of_any_error(
    typed: Command, monkeypatch: pytest.MonkeyPatch, mine: str, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    done = typed("run", *NET, f"model._target_={mine}.Net", "+model.how=forward")
    assert "Traceback" in done.stderr and "self.nett(x)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: model: Net failed on two")
    done = typed("run", "epochs=0", "tracking.uri=postgresql://me:secret@127.0.0.1/db")
    assert "pydantic" in done.stderr, "what the sentence was made of, too"
    assert done.stderr.splitlines()[-1] == "error: epochs=0: must be a whole number, 1 or more"


def test_a_sweeps_log_has_it_as_well(
    typed: Command, here: InProcess, monkeypatch: pytest.MonkeyPatch, mine: str, tmp_path: Path
) -> None:
    monkeypatch.setenv(DEBUG, "1")
    words = [*NET, f"model._target_={mine}.Net", "+model.how=forward,init", "hydra/launcher=basic"]
    typed("run", "-m", *words, f"hydra.sweep.dir={tmp_path}/sweep")
    log = (tmp_path / "sweep/0/log.txt").read_text()
    assert "error: model: Net failed on two" in log and "Traceback" in log and "self.nett(x)" in log


def test_an_error_of_a_connection_is_none_of_a_file(typed: Command, mine: str) -> None:
    with pytest.raises(ConnectionResetError):  # a traceback
        typed("run", *NET, f"model._target_={mine}.Net", "+model.how=reset", *OFFLINE)


def test_an_error_of_a_file_names_that_file(typed: Command, mine: str) -> None:
    done = typed("run", *NET, f"model._target_={mine}.Net", "+model.how=file", *OFFLINE)
    assert done.stderr == "error: gone.txt: cannot be read or written (No such file or directory)\n"
