"""A password in the store's address is in no message and in no file."""

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import composed
from lenetexp.errors import without_password
from lenetexp.runs import provenance


@pytest.mark.parametrize(
    "address",
    [
        "http://me:{}@host:5000",
        "postgresql://me:{}@host/mlflow",
        "postgresql://me:{}@word@host/mlflow",
        "postgresql://me:{}/more@host/mlflow",
        "http://me@corp:{}@host:5000",
        "http://host:5000?password={}",
        "postgresql://host/mlflow?user=me&password={}&sslmode=require",
    ],
)
@pytest.mark.parametrize("sentence", ["{}", "tracking.uri={}: the store (at {}) does not answer"])
def test_a_password_is_masked_wherever_it_stands(address: str, sentence: str) -> None:
    text = sentence.replace("{}", address.replace("{}", "secret"))
    masked = without_password(text)
    assert "secret" not in masked and "word" not in masked.replace("password", "")
    assert masked.count("***") == text.count("secret")
    assert "host" in masked and masked.startswith(sentence.partition("{}")[0])


@pytest.mark.parametrize("around", ["('{}')", "'tracking.uri={}' seed=3"])
def test_only_the_password_is_masked(around: str) -> None:
    """A recorded command line remains one that a shell can read."""
    text = around.replace("{}", "http://host?password=secret")
    assert without_password(text) == text.replace("secret", "***")


def test_an_address_without_a_password_is_unchanged() -> None:
    text = "http://host:5000/a@b, sqlite:///outputs/mlflow.db and postgresql://me@host:5432/mlflow"
    assert without_password(text) == text


@pytest.mark.parametrize("address", ["http://me:{}@host:5000", "http://host:5000?user=me&password={}"])
def test_no_password_is_in_the_files_that_repeat_a_run(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from the command line nor from an uncommitted change."""
    password = secrets.token_hex(8)
    uri = address.format(password)
    project = tmp_path / "project"
    project.mkdir()
    (project / "mlflow.yaml").write_text(f"uri: {uri}\n")
    committed = "-c user.name=me -c user.email=me@host commit -q --allow-empty -m first"
    for command in ("init -q", committed, "add mlflow.yaml"):
        subprocess.run(["git", *command.split()], cwd=project, check=True)
    provenance._git.cache_clear()
    monkeypatch.setattr(provenance, "PROJECT", project)
    monkeypatch.setattr(sys, "argv", ["scripts/run.py", f"tracking.uri={uri}", "seed=3"])
    folder = tmp_path / "run"
    assert provenance.write(folder, composed(f"tracking.uri='{without_password(uri)}'"), {})
    provenance._git.cache_clear()
    written = {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert "seed=3" in written["command.txt"] and "+uri: http://" in written["uncommitted.diff"]
    assert "host:5000" in written["config.yaml"]
    assert not [name for name, text in written.items() if password in text]
