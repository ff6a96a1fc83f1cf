"""From a run to MLflow's registry, and from there behind HTTP: real commands, a real server, a real client."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from PIL import Image

import postgres
from helpers import ENVIRONMENT, Command, InProcess, Server, composed, free_port, run_script
from lenetexp.config.commands import RegisterConfig
from lenetexp.config.schema import Tracking, check_config
from lenetexp.datasets.local import digits
from lenetexp.errors import UserError
from lenetexp.inference.serving import registration as register
from lenetexp.tracking.selection import find_run
from lenetexp.tracking.store import open_store

TEST = digits().test


@pytest.fixture(scope="module")
def registered(trained: InProcess) -> InProcess:
    """A folder with one finished run, which is version 1 of digits, the champion."""
    done = run_script("register", "run=best", "name=digits", "alias=champion", cwd=trained.cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "version 1 of digits" in done.stdout and "the alias champion means version 1" in done.stdout
    (trained.cwd / "said.txt").write_text(done.stdout)
    return trained


@contextmanager
def served(store: InProcess, model: str) -> Iterator[str]:
    """`mlflow models serve`; its address."""
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--port", str(port)]
    environment = {**os.environ, **ENVIRONMENT, "MLFLOW_TRACKING_URI": store.uri}
    installed = Path(mlflow.__file__).parents[4] / "bin"  # MLflow calls uvicorn by its name
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), str(installed), os.environ["PATH"]])
    with (store.cwd / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=store.cwd, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/ping", timeout=1)
                break
            assert server.poll() is None, (store.cwd / "serve.log").read_text()
            time.sleep(0.25)
        yield f"{address}/invocations"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)


def asked(address: str, content: Any, kind: str = "application/json") -> tuple[int, Any]:
    """The status and the answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": kind}), timeout=60) as reply:
            return reply.status, json.loads(reply.read())["predictions"]
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        with suppress(ValueError):
            return error.code, json.loads(text)["message"]
        return error.code, text


def photo(number: int, folder: Path) -> str:
    """A test digit dark on light, large and off-centre, as a file in base64."""
    sheet = Image.new("L", (400, 300), 230)
    ink = Image.fromarray(TEST.images[number, 0].numpy()).resize((140, 140))
    sheet.paste(Image.fromarray((230 - np.array(ink) * 0.8).astype(np.uint8)), (40 + 10 * number, 90))
    sheet.save(folder / f"{number}.jpg")
    return base64.b64encode((folder / f"{number}.jpg").read_bytes()).decode()


def bomb() -> str:
    """A small file of a large picture, in base64."""
    file = BytesIO()
    Image.new("1", (10_000, 6_000)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_mlflow_serves_it_to_a_plain_client(registered: InProcess, typed: Command, tmp_path: Path) -> None:
    """Pictures and arrays; the printed curl line; what predict.py says of the same pictures; garbage."""
    expected = [str(label) for label in TEST.labels[:10].tolist()]
    with served(registered, "models:/digits@champion") as address:
        status, answers = asked(address, {"inputs": [photo(i, tmp_path) for i in range(10)]})
        assert status == 200
        photos = [answer["predicted"] for answer in answers]
        assert sum(a == b for a, b in zip(photos, expected, strict=True)) >= 8
        flat = TEST.images[:10, 0].tolist()
        for rows in (flat, [[image] for image in flat]):
            status, arrays = asked(address, {"inputs": rows})
            found = [answer["predicted"] for answer in arrays]
            assert status == 200 and sum(a == b for a, b in zip(found, expected, strict=True)) >= 9

        done = typed("predict", "run=models:/digits@champion", f"images={tmp_path}", f"tracking.uri={registered.uri}")
        said = re.findall(r'\.jpg: predicted: "(.+?)", confidence: ([\d.]+)%', " ".join(done.stdout.split()))
        for answer, (name, confidence) in zip(answers, said, strict=True):
            assert answer["predicted"] == name and f"{answer['confidence']:.1%}" == f"{confidence}%"

        printed = (registered.cwd / "said.txt").read_text()
        curl = printed.partition("a picture:\n")[2].partition("to predict")[0]
        curl = re.sub(r"http://\S+", address, curl)
        line = subprocess.run(curl, shell=True, cwd=registered.cwd, capture_output=True, text=True, timeout=60)
        assert json.loads(line.stdout)["predictions"][0]["predicted"] in "0123456789"

        example = next((registered.cwd / "outputs/mlartifacts/models").glob("*/artifacts/serving_input_example.json"))
        assert asked(address, example.read_bytes())[0] == 200
        with ThreadPoolExecutor(4) as clients:
            replies = list(clients.map(lambda _: asked(address, {"inputs": flat}), range(8)))
        assert all(reply == (200, arrays) for reply in replies), "at once as one by one"

        for content, sentence in [
            ({"inputs": [bomb()]}, "row 0 has 10000×6000 pixels: must be at most 50,000,000"),
            ({"inputs": ["A" * 30_000_000]}, "row 0: a picture file must have at most 20,000,000 bytes"),
            ({"inputs": ["A" * 1000]}, "row 0 cannot be read"),
            ({"inputs": [[[0.5] * 28] * 28]}, "row 0 has no value above 1"),
            ({"inputs": "no list"}, "must be a list"),
            ({"messages": [1]}, "must be a list"),
            ({"instances": flat}, "must be a dictionary with 'inputs' key"),
            (b"garbage", "valid JSON"),
        ]:
            status, message = asked(address, content)
            assert status == 400 and sentence in message and "Traceback" not in message
        assert asked(address, {"inputs": flat[:1]})[0] == 200, "it still answers"


def test_the_same_run_again_is_a_new_version(registered: InProcess) -> None:
    done = run_script("register", "run=latest", "name=digits", "alias=champion", cwd=registered.cwd)
    said = " ".join(done.stdout.split())
    assert done.returncode == 0 and "version 2 of digits" in said
    assert "the alias champion means version 2; before, it meant version 1" in said
    versions = registered.client.search_model_versions("name = 'digits'")
    assert {version.run_id for version in versions} == {registered.runs[0].info.run_id}
    assert not (registered.cwd / "mlflow.db").exists(), "MLflow made a store of its own"


def register_here(store: InProcess, *words: str) -> None:
    """What the command does, within this process."""
    values = composed(f"tracking.uri={store.uri}", *words, name="register")
    register.run(check_config(RegisterConfig, values), values, store.cwd)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["name=a/b"], "name=a/b: MLflow does not take it"),
        (["name=a@b"], "name=a@b: must not contain @"),
        (["name=digits", "alias=latest"], "alias=latest: MLflow does not take it"),
        (["name=digits", "alias=v1"], "alias=v1: MLflow does not take it"),
        (["name=digits", "alias='a b'"], "alias=a b: MLflow does not take it"),
        (["name=digits", "run=4d1f"], "run=4d1f: there is no such run"),
    ],
)
def test_what_cannot_be_registered_is_one_sentence(words: list[str], sentence: str, registered: InProcess) -> None:
    before = len(registered.client.search_model_versions())
    with pytest.raises(UserError) as refused:
        register_here(registered, *words)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
    assert len(registered.client.search_model_versions()) == before


def test_an_unfinished_run_is_not_registered(here: InProcess) -> None:
    here.train("epochs=3", stop_after=1)
    run_id = here.runs[0].info.run_id
    with pytest.raises(UserError, match=r"must be a finished run of run\.py; this one is killed"):
        register_here(here, f"run={run_id}", "name=digits")
    assert here.client.search_registered_models() == []


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("models:/digits@nobody", "digits has @champion ("),
        ("models:/digits/99", "and the versions 1"),
        ("models:/letters/1", "no model is registered as letters; there are digits"),
        ("models:/digits", "must be models:/NAME@ALIAS or models:/NAME/VERSION; there are digits"),
        ("models:/digits@cham pion", "must be models:/NAME@ALIAS"),
    ],
)
def test_an_address_that_means_nothing_says_what_there_is(registered: InProcess, address: str, sentence: str) -> None:
    store = open_store(Tracking(uri=registered.uri, experiment="lenetexp"))
    with pytest.raises(UserError) as refused:
        find_run(store, address)
    assert sentence in str(refused.value)


def test_addresses_lead_to_the_run(registered: InProcess) -> None:
    store = open_store(Tracking(uri=registered.uri, experiment="lenetexp"))
    for address in ("models:/digits@champion", "models:/digits/1", "models:/digits/latest"):
        assert find_run(store, address).run_id == registered.runs[0].info.run_id


def test_an_empty_registry_says_how_to_fill_it(here: InProcess) -> None:
    store = open_store(Tracking(uri=here.uri, experiment="lenetexp"))
    with pytest.raises(UserError, match=r"nothing is registered in .*; register a run"):
        find_run(store, "models:/digits/1")


def test_a_store_that_is_gone_is_one_sentence(typed: Command) -> None:
    done = typed("register", f"tracking.uri=http://127.0.0.1:{free_port()}", "name=digits")
    assert done.returncode == 1 and "does not answer" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_registry_of_a_server(here: InProcess, server: Server, tmp_path: Path) -> None:
    """Registered on a server, predicted with and asked from another folder, with nothing but the server."""
    here.uri, here.experiment = server.uri, "registry"
    here.train("epochs=8")
    words = [f"tracking.uri={server.uri}", "tracking.experiment=registry"]
    done = run_script("register", *words, "run=best", "name=on_a_server", "alias=champion", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run_script("predict", *words, "run=models:/on_a_server@champion", "count=3", cwd=elsewhere)
    assert done.stdout.count("predicted:") == 3
    with served(InProcess(elsewhere, server.uri), "models:/on_a_server/1") as address:
        status, answers = asked(address, {"inputs": [photo(0, tmp_path)]})
        assert status == 200 and answers[0]["predicted"] in "0123456789"


@pytest.mark.slow
def test_a_registry_on_postgres(here: InProcess, tmp_path: Path) -> None:
    """Registered in the database itself, without a server; the alias moves; predicted with from another folder."""
    with postgres.running() as here.uri:
        here.train("epochs=8")
        for number in (1, 2):
            done = run_script("register", f"tracking.uri={here.uri}", "name=digits", "alias=champion", cwd=tmp_path)
            assert (done.returncode, done.stderr) == (0, "")
            assert f"the alias champion means version {number}" in " ".join(done.stdout.split())
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        words = [f"tracking.uri={here.uri}", "run=models:/digits@champion", "count=3"]
        done = run_script("predict", *words, cwd=elsewhere)
        assert done.returncode == 0 and done.stdout.count("predicted:") == 3, done.stderr
        done = run_script("predict", f"tracking.uri={here.uri}", "run=models:/digits@nobody", cwd=elsewhere)
        assert done.returncode == 1 and "digits has @champion (" in done.stderr and done.stderr.count("\n") == 1
