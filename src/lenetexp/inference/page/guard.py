"""Which requests are answered at all: from this page alone, to this machine's own address, and not too large."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from lenetexp.datasets.pictures import MAX_BYTES

PATIENCE = 15.0  # seconds for all of a picture to come

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

TOO_LARGE = f"a picture must have at most {MAX_BYTES // 1_000_000} MB"
TOO_SLOW = f"the picture did not come within {PATIENCE:.0f} seconds"
EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}


class Guard:
    """Stands before the app: refuses requests, limits what comes in, adds headers to what goes out."""

    def __init__(self, app: App, policy: str) -> None:
        self.app = app
        added = {"content-security-policy": policy, **EVERYWHERE}
        self.headers = [(name.encode(), value.encode()) for name, value in added.items()]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        if refused := _find_refusal(scope):
            await _refuse(*refused, with_headers)
        else:
            await self.app(scope, _limit_body(receive), with_headers)


def _find_refusal(scope: Message) -> tuple[int, str] | None:
    """Return why a request is refused before its body is read, or None."""
    headers = Headers(raw=scope["headers"])
    hosts, own = headers.getlist("host"), _list_own_hosts(scope)
    # A name that a stranger's server gives this machine's address must not open the page (DNS rebinding).
    if len(hosts) != 1 or hosts[0].lower() not in own:
        return 403, f"this page answers only at http://{own[0]}"
    if headers.get("origin", f"http://{hosts[0]}").lower() != f"http://{hosts[0].lower()}":
        return 403, "requests from other pages are refused"
    # Images and scripts of other pages come without an origin; to follow a link to this page is harmless.
    follows = (scope["path"], headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == (
        "/",
        "navigate",
        "document",
    )
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not (follows and scope["method"] == "GET"):
        return 403, "requests from other pages are refused"
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BYTES:
        return 413, TOO_LARGE
    return None


def _list_own_hosts(scope: Message) -> list[str]:
    """List what a browser on this page may call its host: the address of the connection, and this machine."""
    address, port = scope["server"]
    here = f"[{address}]" if ":" in address else address
    names = [here, "127.0.0.1", "localhost", "[::1]"] if here in ("127.0.0.1", "[::1]") else [here]
    return [f"{name}:{port}" for name in names] + ([*names] if port == 80 else [])


def _limit_body(receive: Receive) -> Receive:
    """Wrap `receive` so that a body is no larger and takes no longer than a picture may, whatever length it states."""
    got, deadline = 0, asyncio.get_running_loop().time() + PATIENCE

    async def receive_within_limits() -> Message:
        """Return the next message. Raise `HTTPException` 408 if it comes too late, 413 if it is too much."""
        nonlocal got
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, TOO_SLOW, {"connection": "close"}) from None
        got += len(message.get("body", b""))
        if got > MAX_BYTES:
            raise HTTPException(413, TOO_LARGE, {"connection": "close"})
        return message

    return receive_within_limits


async def _refuse(status: int, sentence: str, send: Send) -> None:
    """Answer with one sentence and close the connection. The body is never read."""
    body = json.dumps({"error": sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
