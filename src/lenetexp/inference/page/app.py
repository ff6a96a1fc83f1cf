"""The page's requests, as a FastAPI application. One thread answers; requests wait for their turn."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from lenetexp.errors import UserError, format_error
from lenetexp.inference.page.answer import Answer, ObservedNet, answer_picture, answer_to_test, prepare_picture
from lenetexp.inference.page.gallery import TestImages
from lenetexp.inference.page.guard import Guard
from lenetexp.inference.page.keep import Keeper

PAGE = Path(__file__).with_name("page.html")
SMALL = 1_000_000  # bytes: no drawing has more
AT_ONCE = 8  # larger pictures in memory; others wait before they are read
NOT_KEPT = "drawings are kept only if the command was given keep=FOLDER"


@dataclass(frozen=True)
class NetSummary:
    """What the page shows of a run. All of it is text to the page, whatever it holds."""

    run_id: str
    name: str
    about: str


class Bench:
    """The nets, the test images and the kept drawings, used by one thread."""

    def __init__(
        self, nets: list[ObservedNet], runs: list[NetSummary], images: TestImages, keeper: Keeper | None, threads: int
    ) -> None:
        self.nets, self.runs, self.images, self.keeper = nets, runs, images, keeper
        # A net of this size is done before a second thread has begun.
        self.worker = ThreadPoolExecutor(1, "answers", lambda: torch.set_num_threads(threads))
        self.turns = asyncio.Semaphore(AT_ONCE)

    def wait_for_turn(self, request: Request) -> AbstractAsyncContextManager[Any]:
        """Wait until there is room for a picture that is large, or may be because its length is not stated."""
        has_length = request.headers.get("content-length", "")  # a number: the guard has seen to it
        small = has_length and "transfer-encoding" not in request.headers and int(has_length) <= SMALL
        return nullcontext() if small else self.turns

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Response:
        """Return a function's result as JSON, computed in the one thread."""

        def as_json() -> bytes:
            return json.dumps(function(*arguments), allow_nan=False).encode()

        body = await asyncio.get_running_loop().run_in_executor(self.worker, as_json)
        return Response(body, media_type="application/json")

    def describe(self) -> dict[str, Any]:
        """Return what the page needs to begin with."""
        counts = None if self.keeper is None else str(self.keeper.folder)
        classes = self.nets[0].net.facts.classes
        as_mnist = self.nets[0].net.facts.like_mnist  # light on dark, where the sheet is dark on light
        return {"runs": [asdict(run) for run in self.runs], "classes": classes, "kept": counts, "mnist": as_mnist}

    def answer(self, picture: bytes) -> dict[str, Any]:
        """Classify a drawing or a photo."""
        return asdict(answer_picture(self.nets, picture, self.images.familiar))

    def answer_to_test(self, number: int) -> dict[str, Any]:
        """Classify a test image."""
        image = self.images[number]
        answer: Answer = answer_to_test(self.nets, image)
        return {**asdict(answer), "label": int(self.images.labels[number])}

    def keep(self, label: str, picture: bytes) -> dict[str, Any]:
        """Keep what the first net gets of a drawing, under its label."""
        if self.keeper is None:
            raise UserError(NOT_KEPT)
        path = self.keeper.keep(label, prepare_picture(self.nets[0].form, picture)[1])
        return {"path": str(path)}

    def take_back(self, path: str) -> dict[str, Any]:
        """Delete a drawing that was kept by mistake."""
        if self.keeper is None:
            raise UserError(NOT_KEPT)
        self.keeper.take_back(path)
        return {}

    def describe_kept(self) -> dict[str, Any]:
        """Count the kept drawings of each class, and how many of them each net classifies correctly.

        Nets of another form are left out.
        """
        if self.keeper is None:
            raise UserError(NOT_KEPT)
        form = self.nets[0].form
        images = self.keeper.load_images(form[1])
        right = [net.count_correct(images) if net.form == form else None for net in self.nets]
        return {"counts": self.keeper.count_pictures(), "of": len(images), "right": right}


def build_policy(page: str) -> str:
    """Build the page's Content-Security-Policy: its own script and style run, and nothing else."""
    (script,), (style,) = (re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("script", "style"))
    hashed = [b64encode(sha256(text.encode()).digest()).decode() for text in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashed[0]}'; style-src 'sha256-{hashed[1]}'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def build_app(bench: Bench) -> Guard:
    """Build the application, behind its guard."""
    page = PAGE.read_text(encoding="utf-8")
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.exception_handlers |= {
        UserError: _explain_error,
        HTTPException: _explain_error,
        RequestValidationError: _explain_error,
    }

    @app.get("/")
    async def show() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    @app.get("/api/about")
    async def describe() -> Response:
        return await bench.work(bench.describe)

    @app.get("/api/gallery")
    async def gallery() -> Response:
        return await bench.work(lambda: asdict(bench.images.gallery))

    @app.get("/api/test/{number}")
    async def test_image(number: int) -> Response:
        return await bench.work(bench.answer_to_test, number)

    @app.post("/api/answer")
    async def answer(request: Request) -> Response:
        async with bench.wait_for_turn(request):
            return await bench.work(bench.answer, await request.body())

    @app.post("/api/keep")
    async def keep(request: Request, label: str) -> Response:
        async with bench.wait_for_turn(request):
            return await bench.work(bench.keep, label, await request.body())

    @app.post("/api/take_back")
    async def take_back(path: str) -> Response:
        return await bench.work(bench.take_back, path)

    @app.get("/api/kept")
    async def describe_kept() -> Response:
        return await bench.work(bench.describe_kept)

    return Guard(app, build_policy(page))


def _explain_error(request: Request, error: Exception) -> Response:
    """Explain in one sentence what was wrong with a request."""
    status, headers, message = 422, None, "the request is not one that this page makes"
    if isinstance(error, UserError):
        message = format_error(error)
    elif isinstance(error, HTTPException):
        status, headers, message = error.status_code, error.headers, format_error(error.detail)
    return Response(json.dumps({"error": message}), status, headers, "application/json")
