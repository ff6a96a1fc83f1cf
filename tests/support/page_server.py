"""A page that is served as a user starts it, with a net that knows digits; and what tests send to it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from helpers import ENVIRONMENT, PROJECT
from lenetexp.datasets.local import digits

HOSTILE = """<script>document.title = "owned"</script><img src=x onerror="document.title = 'owned'">"""


class PageServer:
    """`python scripts/draw.py …` on a free port."""

    def __init__(self, cwd: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROJECT / "scripts/draw.py"), "port=0", *words],
            cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r"^draw at (http://[\d.]+:(\d+)) ", line):
                self.address, self.port = found[1], int(found[2])
                return
        raise AssertionError(self.process.communicate())

    def ask(
        self, path: str, body: bytes | None = None, method: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """The status, and what the JSON of the answer says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def stop(self) -> tuple[int, str]:
        """As Ctrl-C does; the exit status, and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            _, errors = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, errors


def as_ink(image: NDArray[np.uint8], side: int = 140) -> bytes:
    """A 28×28 digit, light on dark, scaled up as ink on a sheet of paper: a PNG."""
    sheet = Image.fromarray(255 - image).resize((side, side), Image.Resampling.BICUBIC)
    return png_of(sheet)


def png_of(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def a_digit(number: int = 0) -> bytes:
    """One of the test set's, as ink on paper."""
    return as_ink(digits().test.images[number, 0].numpy())
