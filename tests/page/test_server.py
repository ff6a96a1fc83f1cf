"""The page's program: its answers are predict.py's, and whatever is sent to it, it stays."""

import asyncio
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from starlette.exceptions import HTTPException

from colours import contrast
from helpers import InProcess, composed, in_process, run_script
from lenetexp import predict
from lenetexp.config.commands import PredictConfig
from lenetexp.config.schema import check
from lenetexp.datasets.local import digits, image_folder
from lenetexp.errors import UserError
from lenetexp.page import guard
from lenetexp.page.keep import Keeper
from lenetexp.page.server import PAGE
from page_server import PageServer, a_digit, png_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> InProcess:
    """A folder with two finished runs that know digits."""
    with pytest.MonkeyPatch.context() as patch:
        store = in_process(tmp_path_factory.mktemp("trained"), patch, empty_store)
        store.train("epochs=8")
        store.train("epochs=3", "model=mlp", recipe=())
        return store


@pytest.fixture(scope="module")
def page(trained: InProcess) -> Iterator[PageServer]:
    """Of both runs, the LeNet first."""
    ids = ",".join(run.info.run_id for run in reversed(trained.runs))
    server = PageServer(trained.cwd, f"run=[{ids}]", "keep=kept")
    yield server
    code, errors = server.stop()
    assert (code, errors) == (0, ""), "nothing went wrong in all the tests, and Ctrl-C ends it in order"


def test_the_answer_is_predicts_for_the_same_pixels(
    page: PageServer, trained: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        Path(f"{number}.png").write_bytes(a_digit(number))
    for net, run in enumerate(reversed(trained.runs)):
        words = [f"run={run.info.run_id}", f"images={tmp_path}", "probabilities=true", f"tracking.uri={trained.uri}"]
        values = composed("device=cpu", *words, name="predict")
        predict.run(check(PredictConfig, values), values, Path("predicted"))
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
    lenet, mlp = said["nets"]
    assert [(one["name"], one["count"], one["width"]) for one in lenet["layers"]] == [
        ("c1", 6, 28), ("s2", 6, 14), ("c3", 16, 10), ("s4", 16, 5), ("c5", 120, 1), ("f6", 84, 1)
    ]  # fmt: skip
    assert all(one["low"] >= 0 for one in lenet["layers"][:4]), "c1 to s4 are after the relu"
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


# ---- attacks ----


def raw(page: PageServer, request: bytes, wait: float = 20) -> bytes:
    """The answer to bytes as they are."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=wait) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
            if b'"}' in answer or answer.endswith(b"received."):
                break
        return answer


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", "127.0.0.1", ""]
)
def test_a_name_that_leads_here_is_refused(page: PageServer, host: str) -> None:
    """DNS rebinding: a stranger's page reaches this address under its own name."""
    request = f"GET /api/about HTTP/1.1\r\nHost: {host.format(port=page.port)}\r\n\r\n"
    answer = raw(page, request.encode())
    assert answer.startswith(b"HTTP/1.1 403") and b"this page answers only at http://127.0.0.1" in answer
    twice = f"GET / HTTP/1.1\r\nHost: {page.address[7:]}\r\nHost: evil.example\r\n\r\n"
    assert raw(page, twice.encode()).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_its_own_names_are_not(page: PageServer, name: str) -> None:
    assert page.ask("/api/about", headers={"Host": f"{name}:{page.port}"})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_pages_are_refused(page: PageServer, headers: dict[str, str]) -> None:
    headers = {key: value.format(port=page.port) for key, value in headers.items()}
    for path, body in (("/api/about", None), ("/api/answer", a_digit()), ("/api/keep?label=1", a_digit())):
        assert page.ask(path, body, headers=headers) == (403, {"error": "requests from other pages are refused"})
    assert page.ask("/api/answer", method="OPTIONS", headers=headers)[0] == 403
    assert page.ask("/api/kept")[1]["of"] == 0


def test_a_link_to_the_page_may_be_followed(page: PageServer) -> None:
    head = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: {}\r\nConnection: close\r\n\r\n"
    for kind, status in (("document", b"200"), ("iframe", b"403")):
        request = f"GET / HTTP/1.1\r\nHost: {page.address[7:]}\r\n{head.format(kind)}"
        assert raw(page, request.encode()).split()[1] == status


def test_a_gigabyte_is_refused_unread(page: PageServer) -> None:
    head = f"POST /api/answer HTTP/1.1\r\nHost: {page.address[7:]}\r\n"
    for length in ("1000000000", "20000001", "99999999999999999999"):
        answer = raw(page, f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 4") and (b"at most 20 MB" in answer or length.startswith("999"))


def test_a_gigabyte_without_a_length_is_refused_before_it_is_read(page: PageServer) -> None:
    before = memory(page)
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
        head = f"POST /api/answer HTTP/1.1\r\nHost: {page.address[7:]}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        sent = 0
        with suppress(OSError):  # the answer may be lost with the connection, which has more to read
            while sent < 1_000:
                connection.sendall(chunk)
                sent += 1
            assert b"413" in connection.recv(65_536)
        assert sent < 60, "MB"
    assert page.ask("/api/about")[0] == 200 and memory(page) - before < 200_000_000


def memory(page: PageServer) -> int:
    return int(psutil.Process(page.process.pid).memory_info().rss)


def test_a_slow_picture_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.05)

    async def never() -> guard.Message:
        await asyncio.sleep(60)
        return {}

    async def receive() -> None:
        await guard._counted(never)()

    with pytest.raises(HTTPException) as refused:
        asyncio.run(receive())
    assert refused.value.status_code == 408


def bomb(side: int) -> bytes:
    """Up to 900 million pixels in less than a megabyte."""
    file = BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/owned) (w) file\n%%EOF\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "cannot be read"),
        (b"garbage", "cannot be read"),
        (a_digit()[:200], "cannot be read"),
        (POSTSCRIPT, "cannot be read"),
        (png_of(Image.new("L", (140, 140), 255)), "one flat shade"),
        (bomb(8_000), "at most 50,000,000"),
        (bomb(30_000), "could be decompression bomb"),
        (np.random.default_rng(0).bytes(100_000), "cannot be read"),
    ],
    ids=["nothing", "garbage", "cut off", "PostScript", "blank", "small bomb", "bomb", "noise"],
)
def test_what_is_no_picture_is_one_sentence(page: PageServer, body: bytes, said: str) -> None:
    started, before = time.monotonic(), memory(page)
    for path in ("/api/answer", "/api/keep?label=1"):
        status, answer = page.ask(path, body)
        assert status == 422 and answer["error"].startswith("the picture") and said in answer["error"]
        assert "\n" not in answer["error"]
    assert time.monotonic() - started < 20 and memory(page) - before < 100_000_000


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/api/test/../../../etc/passwd", "//etc/passwd", "/page.html",
        "/api/test/1%2f..%2f2", "/docs", "/openapi.json", "/static/../server.py", "/api/test/1.5", "/api/test/-1",
        "/api/test/99999999999999999999999", "/api/test/NaN", "/api/test/", "/api/test/1%00",
    ],
)  # fmt: skip
def test_paths_lead_nowhere(page: PageServer, path: str) -> None:
    status, answer = page.ask(path)
    assert status in (404, 422) and [*answer] == ["error"] and "root:" not in answer["error"]


@pytest.mark.parametrize("request_", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"x" * 100_000 + b"\r\n\r\n"])
def test_garbage_is_answered_or_dropped(page: PageServer, request_: bytes) -> None:
    try:
        answer = raw(page, request_)
    except ConnectionError:
        answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert page.ask("/api/about")[0] == 200


def test_a_hundred_clients_are_all_answered(page: PageServer) -> None:
    threads, body = threading.active_count(), a_digit(1)
    with ThreadPoolExecutor(100) as clients:
        said = [*clients.map(lambda _: page.ask("/api/answer", body), range(200))]
    assert {status for status, _ in said} == {200} and len({str(answer) for _, answer in said}) == 1
    assert threading.active_count() <= threads + 1 and psutil.Process(page.process.pid).num_threads() < 40


def test_the_page_runs_its_own_script_alone_and_holds_no_name(page: PageServer) -> None:
    request = f"GET / HTTP/1.1\r\nHost: {page.address[7:]}\r\nConnection: close\r\n\r\n"
    head, _, text = raw(page, request.encode()).partition(b"\r\n\r\n")
    for part in (b"default-src 'none'", b"frame-ancestors 'none'", b"connect-src 'self'", b"nosniff", b"no-referrer"):
        assert part in head
    assert b"unsafe-inline" not in head and b"server: " not in head.lower()
    assert not re.search(rb"https?://|\son\w+=|innerHTML|insertAdjacent|document\.write|eval\(", text)


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
    assert (tmp_path / "a/0007.png").read_text() == "mine" and keeper.counts() == {"a": 3, "b": 0}


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a\\b"])
def test_a_class_that_is_no_folders_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        Keeper(tmp_path / "kept", ("0", name))
    assert not (tmp_path / "kept").exists()


# ---- the command ----


def test_mistakes_in_the_command_are_one_sentence(trained: InProcess, page: PageServer) -> None:
    mistakes = {
        f"port={page.port}": f"port={page.port}: cannot be had at 127.0.0.1",
        "run=[a,b,c,d]": "run=['a', 'b', 'c', 'd']: must be best, latest, the MLflow id of a run, or up to three",
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
