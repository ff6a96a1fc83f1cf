"""scripts/draw.py: find the runs, bind the address, serve until Ctrl-C."""

import socket
import threading
import webbrowser
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import uvicorn
from PIL import Image, ImageDraw

from lenetexp.config.commands import DrawConfig
from lenetexp.errors import UserError, wrap_text
from lenetexp.inference.page.answer import ObservedNet
from lenetexp.inference.page.app import Bench, NetSummary, build_app
from lenetexp.inference.page.gallery import TestImages
from lenetexp.inference.page.keep import Keeper
from lenetexp.inference.trained import TrainedNet, load_net
from lenetexp.tracking.query import RecordedRun
from lenetexp.tracking.selection import find_run
from lenetexp.tracking.store import open_store
from lenetexp.training.setup import pick_device

CONNECTIONS = 256  # more at once are told to come back later
EVERYONE = "0.0.0.0"


def run(settings: DrawConfig, config: dict[str, Any], folder: Path) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: A run cannot be loaded, or the port is taken.
    """
    device = pick_device(settings.device)
    with _bind_socket(settings.host, settings.port) as listening:
        store = open_store(settings.tracking, create=False)
        runs = [find_run(store, which) for which in settings.run]
        nets = [load_net(stored, settings.trust) for stored in runs]
        _require_same_classes(nets, runs)
        keeper = None if settings.keep is None else Keeper(Path(settings.keep).expanduser(), nets[0].facts.classes)
        images = TestImages(nets, runs, settings.root)
        summaries = [_describe_net(net, stored) for net, stored in zip(nets, runs, strict=True)]
        bench = Bench([ObservedNet(net, device) for net in nets], summaries, images, keeper, torch.get_num_threads())
        for each in summaries:
            print(wrap_text(f"run {each.run_id} ({each.name}): {each.about}"))
        if images.gallery.note:
            print(wrap_text(f"note: no test images to click on: {images.gallery.note}"))
        bench.worker.submit(bench.answer, _make_drawing()).result()  # the first answer takes a second
        address = _print_address(settings.host, listening.getsockname()[1])
        if settings.open:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with suppress(KeyboardInterrupt):  # uvicorn has ended in order by then
            _serve(bench, listening)
        bench.worker.shutdown(wait=False, cancel_futures=True)


def _serve(bench: Bench, listening: socket.socket) -> None:
    server = uvicorn.Server(uvicorn.Config(
        build_app(bench), log_level="error", access_log=False, http="h11", ws="none", lifespan="off",
        server_header=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=1, proxy_headers=False,
    ))  # fmt: skip
    server.run(sockets=[listening])


def _make_drawing() -> bytes:
    """Make a picture file of a line."""
    sheet, file = Image.new("L", (140, 140), "white"), BytesIO()
    ImageDraw.Draw(sheet).line([(50, 20), (80, 120)], "black", 10)
    sheet.save(file, "PNG")
    return file.getvalue()


def _bind_socket(host: str, port: int) -> socket.socket:
    """Make a socket that listens, before anything slow is done."""
    # Only with the protocol named does asyncio send at once what is written, and not 40 ms later (TCP_NODELAY).
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(CONNECTIONS)
    except OSError as error:
        listening.close()
        allowed = "must be a free port, or 0, which lets the system choose one"
        raise UserError(f"port={port}: cannot be had at {host} ({error.strerror}); {allowed}") from None
    return listening


def _print_address(host: str, port: int) -> str:
    """Print where the page is, and return that."""
    address = f"http://127.0.0.1:{port}"
    if host == EVERYONE:
        address = f"http://{_find_own_address()}:{port}"
        print(
            wrap_text("warning: everyone in this network can open the page, and keep drawings if keep=FOLDER is given")
        )
    print(f"draw at {address} (Ctrl-C ends it)", flush=True)
    return address


def _find_own_address() -> str:
    """Return this machine's address in its network, or 127.0.0.1 if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that is nobody's: nothing is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _require_same_classes(nets: list[TrainedNet], runs: list[RecordedRun]) -> None:
    for net, stored in zip(nets, runs, strict=True):
        if net.facts.classes != nets[0].facts.classes:
            first, other = (", ".join(each.facts.classes)[:80] for each in (nets[0], net))
            raise UserError(f"run={stored.run_id}: must know the same classes as the first net, {first}; not {other}")


def _describe_net(net: TrainedNet, stored: RecordedRun) -> NetSummary:
    return NetSummary(stored.run_id, stored.name, net.describe(stored))
