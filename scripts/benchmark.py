"""Measures lenetexp against the tutorial's plain DataLoader loop on the same MNIST work.

Both sides take turns, so that a busy machine slows both; medians are printed, and the ratio of them.

    python scripts/benchmark.py --root FOLDER        the folder holds MNIST/raw/…

Four measurements: the training loop alone at several batch sizes, in one process; whole commands,
from start to exit; what share of a whole run goes to MLflow; and a sweep of eight runs.
"""

import argparse
import contextlib
import io
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset

PROJECT = Path(__file__).resolve().parents[1]
PLAIN = "--plain"  # how this script calls itself for the other side of a whole-command measurement


def plain_net() -> nn.Sequential:
    """The tutorial's net, as the tutorial writes it."""
    return nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Conv2d(6, 16, kernel_size=5),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Conv2d(16, 120, kernel_size=5),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.Linear(84, 10),
    )


def plain_epoch(
    loader: DataLoader[Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: str
) -> float:
    """The tutorial's training loop, written out; returns the mean of the batches' losses in nats."""
    loss_sum, right, batches = 0.0, 0.0, 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        output = model(images)
        loss = F.cross_entropy(output, labels)
        predicted = output.argmax(dim=1)
        accuracy = (predicted == labels).sum() / output.shape[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        right += accuracy.item()
        batches += 1
    return loss_sum / batches


@torch.no_grad()
def plain_validation(loader: DataLoader[Any], model: nn.Module, device: str) -> float:
    """The tutorial's validation; returns the mean of the batches' accuracies."""
    model.eval()
    right = [
        (model(images.to(device)).argmax(1).cpu() == labels).float().mean().item()
        for images, labels in loader
    ]
    model.train()
    return statistics.mean(right)


def mnist(root: str, train: bool) -> Any:
    """torchvision's MNIST with the tutorial's transform."""
    from torchvision import datasets, transforms

    return datasets.MNIST(root, train=train, transform=transforms.ToTensor())


def plain_run(root: str, epochs: int) -> None:
    """The tutorial's whole script at batch size 16: trains, validates, saves the best weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train = DataLoader(mnist(root, train=True), batch_size=16, shuffle=True)
    test = DataLoader(mnist(root, train=False), batch_size=16)
    model = plain_net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    best = 0.0
    for epoch in range(1, epochs + 1):
        loss = plain_epoch(train, model, optimizer, device)
        accuracy = plain_validation(test, model, device)
        print(f"{epoch} {loss:.4f} {accuracy:.4f}")
        if accuracy > best:
            best = accuracy
            torch.save(model.state_dict(), "best.pt")


def loops(
    root: str, batch_size: int, images: int
) -> tuple[Callable[[], Iterator[float]], Callable[[], Iterator[float]]]:
    """Both training loops from the same weights over the same images in the same order.

    Each side, called, yields the mean training loss after every epoch. The learning rate grows with
    the batch, so that there is a curve to compare.
    """
    from lenetexp import data, models, optim, train
    from lenetexp.config import Dataset
    from lenetexp.datasets import Split

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = Dataset.model_validate(
        {
            "_target_": "lenetexp.datasets.torchvision_dataset",
            "name": "MNIST",
            "root": root,
            "validation": "test",
        }
    )
    loaded = data.load(source, device)
    first = torch.arange(images, device=device)
    few = Split(loaded.val.images[:100], loaded.val.labels[:100])
    work = data.Data(
        loaded.name, loaded.train[first], few, few, loaded.classes, loaded.like_mnist, loaded.digest
    )
    pictures = Subset(mnist(root, train=True), range(images))
    lr = 0.02 * (batch_size / 16) ** 0.5
    torch.manual_seed(0)
    start = models.LeNet().state_dict()

    def plain() -> Iterator[float]:
        model = plain_net()
        model.load_state_dict(dict(zip(model.state_dict(), start.values(), strict=True)))
        model.to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        for epoch in range(1, 1000):
            order = torch.randperm(images, generator=data.generator("order", 0, epoch)).tolist()
            loader = DataLoader(pictures, batch_size=batch_size, sampler=order)
            yield plain_epoch(loader, model, optimizer, str(device))

    def ours() -> Iterator[float]:
        model = models.LeNet()
        model.load_state_dict(start)
        model.to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, fused=True)
        constant = optim.Schedule(torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), "epoch")
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        training = train.Training(model, optimizer, constant, scaler)
        for record in train.fit(training, work, model, epochs=1000, batch_size=batch_size, seed=0):
            yield record.train_loss

    return plain, ours


def compare_loops(root: str, batch_sizes: list[int], images: int, rounds: int) -> None:
    """Prints images a second of both training loops and their ratio, for each batch size."""
    print(f"\ntraining loop, {images:,} MNIST images an epoch, {rounds} epochs each, in turn")
    print("  batch     plain images/s     lenetexp images/s   ratio   last losses, plain and lenetexp")
    for batch_size in batch_sizes:
        plain, ours = (side() for side in loops(root, batch_size, images))
        seconds: tuple[list[float], list[float]] = ([], [])
        losses: tuple[list[float], list[float]] = ([], [])
        for epoch in range(rounds + 1):
            for side, spent, curve in zip((plain, ours), seconds, losses, strict=True):
                began = time.perf_counter()
                curve.append(next(side))
                if epoch:  # the first epoch warms up
                    spent.append(time.perf_counter() - began)
        rates = [images / statistics.median(spent) for spent in seconds]
        print(
            f"  {batch_size:>5} {rates[0]:>18,.0f} {rates[1]:>21,.0f} {rates[1] / rates[0]:>7.2f}"
            f"   {losses[0][-1]:.4f} {losses[1][-1]:.4f}",
            flush=True,
        )


def compare_commands(root: str, epochs: int, rounds: int) -> None:
    """Prints the wall time of both whole commands, start to exit, and their ratio."""
    print(f"\nwhole command, the tutorial's recipe, {epochs} epochs, {rounds} times each, in turn")
    plain = [sys.executable, __file__, PLAIN, "--root", root, "--epochs", str(epochs)]
    run = str(PROJECT / "scripts" / "run.py")
    ours = [sys.executable, run, "experiment=tutorial", f"dataset.root={root}", f"epochs={epochs}"]
    seconds: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for command, spent in zip((plain, ours), seconds, strict=True):
                began = time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                spent.append(time.perf_counter() - began)
    a, b = (statistics.median(spent) for spent in seconds)
    print(f"  plain {a:.1f} s, lenetexp {b:.1f} s, ratio {a / b:.2f}", flush=True)


def compare_sweeps(root: str, jobs: int, rounds: int) -> None:
    """Prints the wall time of a sweep of one-epoch runs, and of as many plain commands in a row.

    Beside it, what a run costs in a process that has had one before: everything that is not its epochs.
    """
    print(f"\nsweep, {jobs} runs of one epoch of MNIST at batch size 16, {rounds} times each, in turn")
    plain = [sys.executable, __file__, PLAIN, "--root", root, "--epochs", "1"]
    run = str(PROJECT / "scripts" / "run.py")
    ours = [sys.executable, run, "-m", "experiment=tutorial", f"dataset.root={root}", "epochs=1"]
    ours.append(f"seed=range({jobs})")
    seconds: tuple[list[float], list[float]] = ([], [])
    beyond: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for commands, spent in (([plain] * jobs, seconds[0]), ([ours], seconds[1])):
                began = time.perf_counter()
                for command in commands:
                    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                spent.append(time.perf_counter() - began)
            beyond += beyond_training(Path(folder) / "outputs" / "sweeps")
    a, b = (statistics.median(spent) for spent in seconds)
    print(f"  plain {a:.1f} s, lenetexp {b:.1f} s, ratio {a / b:.2f}")
    print(
        f"  a run beyond its epochs, in a warm process: {statistics.median(beyond):.2f} s "
        f"({min(beyond):.2f} to {max(beyond):.2f}, {len(beyond)} runs)",
        flush=True,
    )


def beyond_training(folder: Path) -> list[float]:
    """Of each run below `folder` that had one before it in its process: seconds outside its epochs."""
    from lenetexp import journal

    by_process: dict[str, list[list[dict[str, Any]]]] = {}
    for path in folder.rglob(journal.NAME):
        events = journal.read(path)
        by_process.setdefault(events[0]["tags"]["lenetexp.process"], []).append(events)
    seconds = []
    for runs in by_process.values():
        runs.sort(key=lambda events: events[0]["time"])
        for before, events in itertools.pairwise(runs):
            whole = events[-1]["time"] - before[-1]["time"]
            epochs = max(e["time"] for e in events if e["event"] == "epoch") - events[0]["time"]
            seconds.append((whole - epochs) / 1000)
    return seconds


def tracking_share(root: str, epochs: int) -> None:
    """Prints what share of a whole run's wall time is waited for MLflow, its imports included.

    Beside it: what its sending takes in a thread of its own while the net is trained.
    """
    print(f"\ntracking, the tutorial's recipe, {epochs} epochs")
    began = time.perf_counter()
    from lenetexp import cli, config  # torch is here already: a run pays for it with or without MLflow

    imported = time.perf_counter()
    from lenetexp import tracking

    spent = {"import mlflow": time.perf_counter() - imported}
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from lenetexp import experiment, outbox

    def timed(owner: Any, name: str, spent: dict[str, float]) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        setattr(owner, name, call)

    beside = {"_send": 0.0}
    timed(tracking, "open_store", spent)
    timed(tracking, "save_model", spent)
    timed(experiment, "open_outbox", spent)
    timed(outbox.Outbox, "write", spent)
    timed(outbox.Outbox, "close", spent)
    timed(outbox.Outbox, "_send", beside)
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"),
    ):
        os.chdir(folder)
        chosen = ["experiment=tutorial", f"dataset.root={root}", f"epochs={epochs}"]
        values: Any = OmegaConf.to_container(compose("config", chosen), resolve=True)
        settings = config.check(config.RunConfig, values)
        with contextlib.redirect_stdout(io.StringIO()):
            experiment.run(settings, values, Path(folder) / "run")
        os.chdir(PROJECT)
    assert cli  # imported for the resolver that the config names
    wall = time.perf_counter() - began
    for name, seconds in spent.items():
        print(f"  {name:<14} {seconds:6.2f} s")
    print(f"  in all {sum(spent.values()):.2f} s of {wall:.1f} s: {sum(spent.values()) / wall:.1%}")
    print(f"  sent meanwhile, by a thread of its own: {beside['_send']:.2f} s")


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", default=str(PROJECT.parent / "shared/data"), help="holds MNIST/raw")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--images", type=int, default=20_000, help="images an epoch of the loops")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each loop; 0 for none")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each whole command")
    parser.add_argument("--commands", type=int, default=2, help="whole commands of each side; 0 for none")
    parser.add_argument("--sweeps", type=int, default=1, help="sweeps of each side; 0 for none")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument(PLAIN, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = str(Path(options.root).resolve())
    torch.set_num_threads(options.threads)
    if not (Path(root) / "MNIST/raw/train-images-idx3-ubyte").exists():
        sys.exit(
            f"error: --root {options.root}: must hold MNIST/raw/train-images-idx3-ubyte and its three like"
        )
    if options.plain:
        plain_run(root, options.epochs)
        return
    kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"torch {torch.__version__}, {kind}, {options.threads} threads, {os.cpu_count()} cores")
    if options.rounds:
        compare_loops(root, options.batch_sizes, options.images, options.rounds)
    if options.commands:
        compare_commands(root, options.epochs, options.commands)
        tracking_share(root, options.epochs)
    if options.sweeps:
        compare_sweeps(root, 8, options.sweeps)


if __name__ == "__main__":
    main()
