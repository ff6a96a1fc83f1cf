"""Whatever is sent to the page's program, it stays, and tells strangers nothing."""

import asyncio
import re
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import psutil
import pytest
from PIL import Image
from starlette.exceptions import HTTPException

from lenetexp.inference.page import guard
from page_server import PageServer, a_digit, png_of


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
    """At the first byte beyond the limit, which is the last one sent: nothing is left unread, so no answer is lost."""
    before = memory(page)
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
        head = f"POST /api/answer HTTP/1.1\r\nHost: {page.address[7:]}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(f"{head}{10**9:x}\r\n".encode())
        for _ in range(20):
            connection.sendall(b"x" * 1_000_000)
        assert select.select([connection], [], [], 0.3)[0] == [], "20 MB are allowed"
        connection.sendall(b"x")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
    assert page.ask("/api/about")[0] == 200 and memory(page) - before < 200_000_000


def memory(page: PageServer) -> int:
    return int(psutil.Process(page.process.pid).memory_info().rss)


def test_a_slow_picture_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.05)

    async def never() -> guard.Message:
        await asyncio.sleep(60)
        return {}

    async def receive() -> None:
        await guard._limit_body(never)()

    with pytest.raises(HTTPException) as refused:
        asyncio.run(receive())
    assert refused.value.status_code == 408


def bomb(side: int) -> bytes:
    """Up to 900 million pixels in less than a megabyte."""
    file = BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(owned) (w) file\n%%EOF\n"


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
