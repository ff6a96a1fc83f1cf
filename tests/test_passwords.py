"""A password in the store's address is in no message and in no file."""

import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import make_url

from helpers import Command, composed
from lenetexp.errors import mask_password
from lenetexp.runs import provenance
from lenetexp.tracking.store import explain_failure


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
    masked = mask_password(text)
    assert "secret" not in masked and "word" not in masked.replace("password", "")
    assert masked.count("***") == text.count("secret")
    assert "host" in masked and masked.startswith(sentence.partition("{}")[0])


@pytest.mark.parametrize("around", ["('{}')", "'tracking.uri={}' seed=3"])
def test_only_the_password_is_masked(around: str) -> None:
    """A recorded command line remains one that a shell can read."""
    text = around.replace("{}", "http://host?password=secret")
    assert mask_password(text) == text.replace("secret", "***")


def test_an_address_without_a_password_is_unchanged() -> None:
    text = "http://host:5000/a@b, sqlite:///outputs/mlflow.db and postgresql://me@host:5432/mlflow"
    assert mask_password(text) == text


@given(st.text(min_size=1), st.sampled_from(["", "tracking.uri="]))
def test_any_password_that_sqlalchemy_takes_is_masked(password: str, key: str) -> None:
    address = f"postgresql://me:{password}@127.0.0.1:9/db"
    assume(make_url(address).password)  # "@" alone is none
    assert mask_password(f"{key}{address}", whole=True) == f"{key}postgresql://***@127.0.0.1:9/db"
    if not re.search(r"\s", password):
        assert mask_password(f"no answer from {address} yet") == "no answer from postgresql://***@127.0.0.1:9/db yet"


@given(st.text(min_size=1).filter(lambda text: not re.search(r"[/?#\\\s\x00-\x20\x7f]", text)))
def test_any_password_that_urllib_takes_is_masked(password: str) -> None:
    for user in (f"me:{password}", password.replace(":", "")):  # a token may stand alone
        address = f"http://{user}@127.0.0.1:9/path"
        assert mask_password(address, whole=True) == mask_password(address) == "http://***@127.0.0.1:9/path"


@given(
    st.text(min_size=1).filter(lambda text: not {*"&@"} & {*text}), st.sampled_from(["password", "sslpassword", "PWD"])
)
def test_any_password_of_a_query_is_masked(password: str, key: str) -> None:
    masked = mask_password(f"postgresql://127.0.0.1:9/db?{key}={password}&user=me", whole=True)
    assert masked in (f"postgresql://127.0.0.1:9/db?{key}=***{end}&user=me" for end in closing(password))


def closing(text: str) -> Iterator[str]:
    """The quotes and brackets that a text ends with, which may be those around it."""
    return (text[i:] for i in range(len(text) + 1) if not text[i:].strip("'\")]"))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("postgresql://me:pa@ss/word@host/db", 'could not translate host name "ss/word@host"'),
        ("http://me:pass/word@host:5000", "nonnumeric port: 'pass'"),
        ("postgresql://me:p%40ssword@host/db", "authentication failed with p@ssword"),
        ("postgresql://me:password@host/db", "x" * 120 + " postgresql://me:password@host/db does not answer"),
        ("postgresql://host/db?sslpassword=password", "bad decrypt: password"),
    ],
)
def test_a_driver_that_repeats_a_password_or_a_part_of_it(address: str, reason: str) -> None:
    said = explain_failure(ValueError(reason), address)
    for part in ("pass", "ss/word", "p@ss", "word"):
        assert part not in said.replace("sslpassword=", ""), said


@pytest.mark.parametrize(
    "word",
    [
        "tracking.uri=postgresql://me:2024/secret@127.0.0.1:9/db", "tracking.urii=postgresql://me:2024/secret@host/db",
        "tracking.uri=postgresql//me:p@2024/secret@host", "tracking.uri='postgresql://me:2024/a secret@127.0.0.1:9/db'",
        "tracking.uri=http://me:2024secret@127.0.0.1:9", "data_dir=[http://me:secret@127.0.0.1:9]",
    ],
)  # fmt: skip
def test_no_password_is_printed_by_a_command_that_cannot_start(word: str, typed: Command) -> None:
    done = typed("run", "experiment=smoke", "epochs=1", word)
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert "secret" not in done.stdout + done.stderr, done.stderr


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
    provenance._read_git_state.cache_clear()
    monkeypatch.setattr(provenance, "PROJECT", project)
    monkeypatch.setattr(sys, "argv", ["scripts/run.py", f"tracking.uri={uri}", "seed=3"])
    folder = tmp_path / "run"
    assert provenance.write_provenance(folder, composed(f"tracking.uri='{mask_password(uri)}'"), {})
    provenance._read_git_state.cache_clear()
    written = {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert "seed=3" in written["command.txt"] and "+uri: http://" in written["uncommitted.diff"]
    assert "host:5000" in written["config.yaml"]
    assert not [name for name, text in written.items() if password in text]
