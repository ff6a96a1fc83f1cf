#!/usr/bin/env python
"""Measure how fast `mlflow models serve` answers with a registered net, beside MLflow's own model of the same net.

In a folder with a finished run: python scripts/benchmark_serving.py [rounds]. Servers take turns, one at a time.
docs/serving.md has the numbers.
"""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lenetexp.config.schema import Tracking
from lenetexp.inference.serving.registration import make_example, save_classifier
from lenetexp.inference.trained import NEEDED, rebuild_net
from lenetexp.tracking.recorder import save_model
from lenetexp.tracking.registry import use_as_default
from lenetexp.tracking.selection import find_run
from lenetexp.tracking.store import open_store

URI = "sqlite:///outputs/mlflow.db"
SECONDS = 4.0  # of requests of one kind, in each turn
MANY = 64


@contextmanager
def served(folder: Path) -> Iterator[http.client.HTTPConnection]:
    """Serve the model in `folder`, and give a connection to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, *command], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            if server.poll() is not None:  # MLflow calls uvicorn by its name
                sys.exit("the server ended; is uvicorn in PATH?")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            with suppress(OSError):
                connection.request("GET", "/ping")
                connection.getresponse().read()
                break
            time.sleep(0.3)
        yield connection
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)


def milliseconds(connection: http.client.HTTPConnection, rows: list[Any]) -> float:
    """Return the median time of requests, one after the other."""
    body = json.dumps({"inputs": rows})
    taken: list[float] = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(taken) < 12:
        began = time.perf_counter()
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        answer = reply.read()
        taken.append((time.perf_counter() - began) * 1000)
        if reply.status != 200:
            sys.exit(f"refused: {answer[:300]!r}")
    return median(taken[2:])


def main(rounds: int) -> None:
    """Print the median of the rounds for each kind of request."""
    store = open_store(Tracking(uri=URI, experiment="lenetexp"), create=False)
    stored = find_run(store, "best")
    with TemporaryDirectory() as place, use_as_default(store):
        folder = Path(place)
        files = stored.download(folder, *NEEDED)
        net = rebuild_net(files, "the run")
        images = net.load_own_images(None, torch.device("cpu")).test.images[:MANY]
        save_classifier(net, files, folder / "ours", [])
        plain = net.model.eval()
        save_model(plain, images[:2].float().div(255).numpy(), folder / "theirs")
        arrays = images.tolist()
        shares = [[[[round(v / 255, 4) for v in line] for line in c] for c in image] for image in arrays]
        pictures = [base64.b64encode(make_example()).decode()]
        requests: dict[str, dict[str, list[Any]]] = {
            "ours": {"1 array": arrays[:1], f"{MANY} arrays": arrays, "1 picture": pictures,
                     f"{MANY} pictures": pictures * MANY},
            "theirs": {"1 array": shares[:1], f"{MANY} arrays": shares},
        }  # fmt: skip
        found: dict[tuple[str, str], list[float]] = {}
        for turn in range(rounds):
            for name in sorted(requests, reverse=bool(turn % 2)):
                with served(folder / name) as connection:
                    for kind, rows in requests[name].items():
                        found.setdefault((kind, name), []).append(milliseconds(connection, rows))
    print("| request | ours | MLflow's own | ratio |\n|---|---|---|---|")
    for kind, rows in requests["ours"].items():
        ours = median(found[kind, "ours"])
        theirs = median(found[kind, "theirs"]) if (kind, "theirs") in found else None
        cells = [f"{value:.1f} ms, {1000 * len(rows) / value:,.0f} images/s" for value in (ours, theirs) if value]
        ratio = [f"{ours / theirs:.2f}"] if theirs else ["", ""]
        print(f"| {' | '.join([kind, *cells, *ratio])} |")
    print({" ".join(key): [round(value, 1) for value in values] for key, values in found.items()})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
