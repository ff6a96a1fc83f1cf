"""The page's program: its answers are predict.py's, what is kept is a dataset, and mistakes are one sentence."""

import errno
import http.client
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from colours import contrast
from helpers import InProcess, composed, run_script
from lenetexp import predict
from lenetexp.config.commands import PredictConfig
from lenetexp.config.schema import check_config
from lenetexp.datasets.local import digits, image_folder
from lenetexp.errors import UserError
from lenetexp.inference.page.app import PAGE
from lenetexp.inference.page.keep import Keeper
from page_server import PageServer, a_digit


def test_the_answer_is_predicts_for_the_same_pixels(
    page: PageServer, trained: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        Path(f"{number}.png").write_bytes(a_digit(number))
    for net, run in enumerate(reversed(trained.runs)):
        words = [f"run={run.info.run_id}", f"images={tmp_path}", "probabilities=true", f"tracking.uri={trained.uri}"]
        values = composed("device=cpu", *words, name="predict")
        predict.run(check_config(PredictConfig, values), values, Path("predicted"))
        out = re.sub(r"\n    ", "  ", capsys.readouterr().out)
        lines = [line for line in out.splitlines() if re.match("  0: ", line)]
        for number, line in enumerate(lines):
            status, said = page.ask("/api/answer", a_digit(number))
            shares = enumerate(said["nets"][net]["shares"])
            assert status == 200 and "  " + "  ".join(f"{name}: {share:.1%}" for name, share in shares) == line
        assert len(lines) == 4


def test_every_step_and_every_layer_is_there(page: PageServer) -> None:
    _, said = page.ask("/api/answer", a_digit())
    (steps,) = said["preparations"]
    assert [step["caption"].split(":")[0] for step in steps] == ["Ink", "Crop", "Scale", "Centre by mass"]
    assert [(step["pixels"]["width"], step["pixels"]["height"]) for step in steps[2:]] == [(28, 28)] * 2
    assert all(abs(place - 14) < 1 for place in steps[3]["mass"])
    lenet, _, mlp = said["nets"]
    assert [(one["name"], one["count"], one["width"]) for one in lenet["layers"]] == [
        ("c1", 6, 28), ("s2", 6, 14), ("c3", 16, 10), ("s4", 16, 5), ("c5", 120, 1), ("f6", 84, 1)
    ]  # fmt: skip
    assert all(-1 <= one["low"] < one["high"] <= 1 for one in lenet["layers"][:4]), "c1 to s4 are after the tanh"
    assert [one["count"] for one in mlp["layers"]] == [300]


def test_test_images_and_mistakes_are_offered_and_not_prepared(page: PageServer) -> None:
    _, gallery = page.ask("/api/gallery")
    test = digits().test
    assert len(gallery["samples"]) == 30 and gallery["note"] == ""
    for number in gallery["samples"][:3]:
        _, said = page.ask(f"/api/test/{number}")
        assert said["label"] == test.labels[number] and len(said["preparations"][0]) == 1
    for net, mistakes in enumerate(gallery["mistakes"]):
        assert mistakes
        for number, guess in mistakes[:3]:
            _, said = page.ask(f"/api/test/{number}")
            assert said["nets"][net]["winner"] == guess != said["label"]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_bars_can_be_told_from_the_page(scheme: int) -> None:
    """WCAG's 4.5 for text and 3 for bars and units."""
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{(.*?)\}", PAGE.read_text(), re.S)[scheme]))
    for text in ("ink", "quiet", "link"):
        assert min(contrast(colours[text], colours[back]) for back in ("page", "panel")) >= 4.5, text
    for kind in ("good", "bad"):
        assert contrast(colours[kind], colours[f"{kind}-back"]) >= 4.5, kind
    for bar in ("c0", "c1", "c2"):
        assert contrast(colours[bar], colours["page"]) >= 3, bar
    assert min(contrast(colours[unit], colours["zero"]) for unit in ("above", "below")) >= 3


# ---- keeping ----


def test_kept_drawings_are_a_dataset(page: PageServer, trained: InProcess) -> None:
    folder = trained.cwd / "kept"
    labels = [0, 0, 3, 3, 3, 7, 7]
    with ThreadPoolExecutor(7) as clients:
        said = [*clients.map(lambda i: page.ask(f"/api/keep?label={labels[i]}", a_digit(i)), range(7))]
    assert {status for status, _ in said} == {200}
    _, kept = page.ask("/api/kept")
    assert kept["counts"] == {**dict.fromkeys("0123456789", 0), "0": 2, "3": 3, "7": 2} and kept["of"] == 7
    guesses = [[net["winner"] for net in page.ask("/api/answer", a_digit(i))[1]["nets"]] for i in range(7)]
    assert kept["right"] == [
        sum(label == said for label, said in zip(labels, each, strict=False)) for each in zip(*guesses, strict=False)
    ]
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["0/0001.png", "0/0002.png", "3/0001.png", "3/0002.png", "3/0003.png", "7/0001.png", "7/0002.png"]
    source = image_folder(str(folder), image_size=28, channels=1, test=0.3)
    assert source.classes == ("0", "3", "7") and len(source.train) + len(source.test) == 7
    for label in ("../1", "..", ".", "", "10", "1/../../2", "1%00", "%2e%2e"):
        status, answer = page.ask(f"/api/keep?label={label}", a_digit())
        assert status == 422 and "must be one of 0, 1, 2" in answer["error"]
    assert page.ask("/api/keep", a_digit())[0] == 422
    assert sorted(path.name for path in folder.iterdir()) == ["0", "3", "7"]


def test_what_is_kept_is_never_overwritten(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, ("a", "b"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0007.png").write_text("mine")
    image = np.zeros((1, 28, 28), np.uint8)
    assert [keeper.keep("a", image).name for _ in range(2)] == ["0008.png", "0009.png"]
    assert (tmp_path / "a/0007.png").read_text() == "mine" and keeper.count_pictures() == {"a": 3, "b": 0}


def test_where_there_are_no_links_nothing_is_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a FAT stick."""

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    keeper = Keeper(tmp_path, ("a",))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0001.png").write_text("mine")
    # Another page takes the next number meanwhile.
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    image = np.full((1, 28, 28), 7, np.uint8)
    path = keeper.keep("a", image)
    assert path.name == "0002.png" and (tmp_path / "a/0001.png").read_text() == "mine"
    assert np.array_equal(np.array(Image.open(path)), image[0])
    assert [*tmp_path.iterdir()] == [tmp_path / "a"] and sorted(tmp_path.joinpath("a").iterdir())[1:] == [path]


def test_only_what_was_kept_here_is_taken_back(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, ("a",))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0001.png").write_text("mine")
    path = keeper.keep("a", np.zeros((1, 28, 28), np.uint8))
    keeper.take_back(str(path))
    assert not path.exists()
    for other in (path, tmp_path / "a/0001.png", tmp_path / "b", Path("..")):
        with pytest.raises(UserError, match="only what was kept since"):
            keeper.take_back(str(other))
    assert (tmp_path / "a/0001.png").read_text() == "mine"


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a\\b"])
def test_a_class_that_is_no_folders_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        Keeper(tmp_path / "kept", ("0", name))
    assert not (tmp_path / "kept").exists()


# ---- the command ----


def test_mistakes_in_the_command_are_one_sentence(trained: InProcess, page: PageServer) -> None:
    mistakes = {
        f"port={page.port}": f"port={page.port}: cannot be had at 127.0.0.1",
        "run=[a,b,c,d]": "run=['a', 'b', 'c', 'd']: must be best, best:DATASET, latest, a run's id or folder",
        "host=example.org": "host=example.org: must be 127.0.0.1 or 0.0.0.0",
        "port=70000": "port=70000: must be a whole number from 0 to 65535",
    }
    for word, said in mistakes.items():
        done = run_script("draw", word, cwd=trained.cwd)
        assert done.returncode and done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1, done


def test_the_network_may_come_in_only_if_asked(trained: InProcess, page: PageServer) -> None:
    """Under the address at which it comes, and no name."""
    assert psutil.Process(page.process.pid).net_connections()[0].laddr.ip == "127.0.0.1"
    open_to_all = PageServer(trained.cwd, "run=latest", "host=0.0.0.0")
    try:
        assert "warning: everyone in this network can open the page" in open_to_all.said
        own = open_to_all.address.removeprefix("http://").partition(":")[0]
        for address in {"127.0.0.1", own}:
            for host, status in ((f"{address}:{open_to_all.port}", 200), (f"evil.example:{open_to_all.port}", 403)):
                connection = http.client.HTTPConnection(address, open_to_all.port, timeout=20)
                connection.request("GET", "/api/about", headers={"Host": host})
                assert connection.getresponse().status == status
                connection.close()
    finally:
        assert open_to_all.stop() == (0, "")
