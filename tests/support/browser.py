"""A headless Chromium that a test drives: real pointer events, keys, screenshots. It needs no package."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from needs import CHROMIUM

needs_browser = pytest.mark.usefixtures("chromium")

# Chromium reads commands from file 3 and writes to file 4.
AS_3_AND_4 = """
import os, sys
one, other, *command = sys.argv[1:]
os.dup2(int(one), 3)
os.dup2(int(other), 4)
os.execv(command[0], command)
"""


class Browser:
    """One page, by Chromium's DevTools protocol over a pair of pipes: JSON messages that end with a zero byte."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 900) -> None:
        import fcntl  # not on Windows

        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", AS_3_AND_4, *map(str, ends),
             str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"],
            pass_fds=ends, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self.out, self.into = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb", 0)
        self.rest, self.number, self.session, self.events = b"", 0, "", list[dict[str, Any]]()
        (target,) = [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"][:1]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command of the protocol."""
        self.number += 1
        session = {"sessionId": self.session} if self.session else {}
        self.out.write(json.dumps({"id": self.number, "method": method, "params": params, **session}).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self.number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            chunk = self.into.read(1 << 20)
            assert chunk, "Chromium ended"
            self.rest += chunk
        one, _, self.rest = self.rest.partition(b"\0")
        return json.loads(one)

    def resize(self, width: int, height: int, dark: bool = False, scale: float = 1) -> None:
        phone = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **phone)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.body && document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression, or what it promises, is in the page."""
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Until a JavaScript condition holds."""
        deadline = time.monotonic() + seconds
        while not self.value(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
            time.sleep(0.03)

    def drag(
        self, points: Sequence[tuple[float, float]], pause: float = 0.0, pressures: Sequence[float] | None = None
    ) -> None:
        """Presses the mouse at the first point, moves through the others and lets go; a pen, if pressures are given."""
        steps = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        event = {
            "button": "left",
            "buttons": 1,
            "clickCount": 1,
            "pointerType": "mouse" if pressures is None else "pen",
        }
        forces = pressures or [0.0] * len(points)
        for kind, (x, y), force in zip(steps, [*points, points[-1]], [*forces, forces[-1]], strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, force=force, **event)
            time.sleep(pause)

    def press(self, key: str, code: str = "", text: str = "", modifiers: int = 0) -> None:
        """One key, down and up; modifiers: 2 is Control, 8 is Shift."""
        for kind in ("keyDown", "keyUp"):
            spoken = {"text": text} if text and kind == "keyDown" else {}
            codes = {"Tab": 9, "Enter": 13, " ": 32}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=code or key, modifiers=modifiers,
                windowsVirtualKeyCode=codes.get(key, 0), **spoken,
            )  # fmt: skip

    def screenshot(self, file: Path, whole: bool = False) -> None:
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(picture["data"]))

    def complaints(self) -> list[str]:
        """What the page wrote to the console, and what it threw."""
        self.call("Runtime.evaluate", expression="0")
        found = []
        for event in self.events:
            if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(event["params"])[:500])
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        self.out.close()
        self.into.close()
