"""What Tab offers, for every script and however it is called."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from helpers import PROJECT, Command, composed
from lenetexp.config.completion import list_choices
from lenetexp.config.fields import Activation


def test_every_word_that_a_setting_may_be_is_known() -> None:
    values = composed("optimizer=sgd")
    assert list_choices("model.activation", values) == [*get_args(Activation)]
    assert list_choices("device.precision", values) == ["fp32", "bf16", "fp16"]
    assert list_choices("optimizer.nesterov", values) == ["true", "false"]
    assert list_choices("invert", composed(name="predict")) == ["auto", "true", "false"]
    for other in ("optimizer.lr", "optimizer", "no.such", "nosuch", "dataset.augment.shift"):
        assert list_choices(other, values) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python scripts/run.py ep", "epochs="),
        ("python3 some-where/run.py model.act", "model.activation="),
        ("run.py model=mlp model.hidd", "model.hidden="),
        ("run.py model=nosuch ep", "epochs="),
        ("run.py model.", "model.activation= model.head_activation= model.init= model.pooling="),
        ("run.py sch", "scheduler. scheduler="),
        ("run.py scheduler=co", "scheduler=constant scheduler=cosine"),
        ("run.py experiment=lecu", "experiment=lecun_1998/"),
        ("run.py experiment=lecun_1998/hidden_1", "experiment=lecun_1998/hidden_1000"),
        ("run.py -m model.activation=relu,ta", "model.activation=relu,tanh"),
        ("run.py optimizer.lr=", "optimizer.lr=0.05"),
        ("run.py hydra/l", "hydra/launcher="),
        ("run.py sweep=lr", "sweep=lr sweep=lr_activation"),
        ("run.py data_dir=", "data_dir=data data_dir=pictures/"),
        ("run.py --vers", "--version"),
        ("run.py nosuch=", ""),
        ("compare.py ", "runs= sweep= tracking. tracking="),
        ("compare.py sweep=", "sweep=latest"),
        ("report.py run=", "run=best run=latest"),
        ("export.py format=", "format=onnx format=pt2 format=torchscript"),
        ("draw.py host=", "host=0.0.0.0 host=127.0.0.1"),
        ("predict.py images=pictures/", "images=pictures/a.png images=pictures/inner/"),
    ],
)
def test_tab_offers(typed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: str) -> None:
    (tmp_path / "pictures/inner").mkdir(parents=True)
    (tmp_path / "pictures/a.png").touch()
    (tmp_path / "pictures/b c.png").touch()  # would need quotes
    monkeypatch.setenv("COMP_LINE", line)
    script = line.partition(".py")[0].rpartition("/")[2]
    matches = typed(script.split()[-1], "-sc", "query=bash").stdout.split()
    assert matches == expected.split()


def test_one_eval_in_bash_serves_every_script_however_it_is_called(tmp_path: Path) -> None:
    """With the word breaks of a new shell, after which bash replaces only what follows the last =."""
    (tmp_path / "scripts").symlink_to(PROJECT / "scripts")
    lines = ["./scripts/run.py model.activation=scal", "python scripts/export.py form", "python other.py format=o"]
    bash = f"""
        cd {tmp_path}; touch other.py; python() {{ {sys.executable} "$@"; }}
        eval "$(python scripts/run.py -sc install=bash)"
        COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
        complete -p run.py python export.py > registered
        for line in "$@"; do
            COMP_LINE=$line COMP_POINT=${{#line}}; _lenetexp; echo "<${{COMPREPLY[*]}}>"
        done
        eval "$(python scripts/run.py -sc uninstall=bash)"
        complete -p run.py || echo off"""
    done = subprocess.run(["bash", "-c", bash, "bash", *lines], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["<scaled_tanh>", "<format=>", "<>", "off"], done.stderr
    assert (tmp_path / "registered").read_text().count("-F _lenetexp") == 3
