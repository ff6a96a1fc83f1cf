#!/usr/bin/env python
"""Measure lenetexp against the tutorial's plain DataLoader loop on the same MNIST images.

Both sides take turns, so that a busy machine slows both. Medians and their ratio are printed.

    python scripts/benchmark.py --root FOLDER        the folder holds MNIST/raw/…
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
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from plain import mnist, plain_epoch, plain_net
from torch.utils.data import DataLoader, Subset

PROJECT = Path(__file__).resolve().parents[1]
RUN = str(PROJECT / "scripts" / "run.py")
DIGITS = 1295  # images that a default run trains on
PLAIN = str(PROJECT / "scripts" / "plain.py")


def loops(root: str, batch_size: int, images: int) -> tuple[Iterator[float], Iterator[float]]:
    """Make both training loops, from the same weights over the same images in the same order.

    Each yields the mean training loss after every epoch. The learning rate grows with the batch, to show a curve.
    """
    from lenetexp.config.targets import Dataset, Optimizer
    from lenetexp.datasets.splits import Data, Split, load_data
    from lenetexp.models.lenet import LeNet
    from lenetexp.models.losses import CrossEntropy
    from lenetexp.training.batches import make_generator
    from lenetexp.training.loop import Recipe, fit
    from lenetexp.training.optimizers import build_optimizer
    from lenetexp.training.schedules import Schedule
    from lenetexp.training.state import Training

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    modules = {"_target_": "lenetexp.datasets.torchvision_dataset", "name": "MNIST"}
    source = Dataset.model_validate({**modules, "root": root, "validation": "test"})
    whole = load_data(source, device)
    few = Split(whole.val.images[:100], whole.val.labels[:100])
    train = whole.train[torch.arange(images, device=device)]
    data = Data(whole.name, train, few, few, whole.classes, whole.like_mnist, whole.digest)
    lr = 0.02 * (batch_size / 16) ** 0.5
    torch.manual_seed(0)
    start = LeNet().state_dict()

    def plain() -> Iterator[float]:
        model = plain_net()
        model.load_state_dict(dict(zip(model.state_dict(), start.values(), strict=True)))
        optimizer = torch.optim.SGD(model.to(device).parameters(), lr=lr, momentum=0.9)
        pictures = Subset(mnist(root, train=True), range(images))
        for epoch in itertools.count(1):
            order = torch.randperm(images, generator=make_generator("order", 0, epoch)).tolist()
            loader = DataLoader(pictures, batch_size=batch_size, sampler=order)
            yield plain_epoch(loader, model, optimizer, str(device))

    def ours() -> Iterator[float]:
        model = LeNet()
        model.load_state_dict(start)
        model.to(device).to(memory_format=torch.channels_last)
        sgd = {"_target_": "torch.optim.SGD", "lr": lr, "momentum": 0.9, "fused": True}
        optimizer = build_optimizer(Optimizer.model_validate(sgd), model.parameters())
        constant = Schedule(torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), "epoch")
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        training = Training(model, CrossEntropy(), optimizer, constant, scaler, model)
        for record in fit(training, data, Recipe(epochs=1000, batch_size=batch_size, seed=0)):
            yield record.train_loss

    return plain(), ours()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of wall time that `work` takes, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def compare_loops(root: str, batch_sizes: list[int], images: int, rounds: int) -> None:
    """Print images per second of both training loops and their ratio, for each batch size."""
    print(f"\ntraining loop, {images:,} MNIST images an epoch, {rounds} epochs each, in turn")
    print("  batch     plain images/s     lenetexp images/s   ratio   last losses, plain and lenetexp")
    for batch_size in batch_sizes:
        sides = loops(root, batch_size, images)
        turns = [[timed(lambda side=side: next(side)) for side in sides] for _ in range(rounds + 1)]  # type: ignore[misc]
        # The first epoch warms up.
        rates = [images / statistics.median(seconds for seconds, _ in side) for side in zip(*turns[1:], strict=True)]
        losses = [loss for _, loss in turns[-1]]
        print(
            f"  {batch_size:>5} {rates[0]:>18,.0f} {rates[1]:>21,.0f} {rates[1] / rates[0]:>7.2f}"
            f"   {losses[0]:.4f} {losses[1]:.4f}",
            flush=True,
        )


def diagnostics_cost(rounds: int) -> None:
    """Print the throughput of the default run with and without diagnostics, in turn, and their ratio."""
    import lenetexp.cli  # noqa: F401  (its resolver is part of the config)
    from lenetexp.datasets.splits import load_data
    from lenetexp.training.loop import Recipe, fit
    from lenetexp.training.setup import set_up

    settings, _ = composed(f"epochs={rounds + 1}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_data(settings.dataset, device)

    def side(looks: bool) -> Iterator[Any]:
        recipe = Recipe(rounds + 1, settings.batch_size, 0, clip_norm=settings.clip_norm, diagnostics=looks)
        return fit(set_up(settings, data, device), data, recipe)

    sides = (side(False), side(True))
    turns = [[timed(lambda one=one: next(one))[0] for one in sides] for _ in range(rounds + 1)]  # type: ignore[misc]
    without, looking = (statistics.median(seconds) for seconds in zip(*turns[1:], strict=True))
    print(f"\ndiagnostics=epoch, the default run on digits, {rounds} epochs each, in turn")
    print(f"  an epoch without {without * 1000:.0f} ms, with {looking * 1000:.0f} ms, ratio {without / looking:.3f}")


def composed(*words: str) -> tuple[Any, Any]:
    """Return the settings of a run, and the config that they come from."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from lenetexp.config.schema import RunConfig, check_config

    warnings.filterwarnings("ignore", message=r"\s*'hydra/\w+/\w+' is validated against")
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        values = OmegaConf.to_container(compose("config", [*words]), resolve=True)
    return check_config(RunConfig, values), values  # type: ignore[arg-type]


def compare_commands(root: str, plain_runs: int, epochs: int, rounds: int, *ours: str) -> None:
    """Print the wall time of several plain commands in a row and of one of lenetexp's, and their ratio."""
    plain = [sys.executable, PLAIN, root, str(epochs)]
    command = [sys.executable, RUN, "experiment=tutorial", f"dataset.root={root}", f"epochs={epochs}", *ours]
    spent: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for commands, seconds in (([plain] * plain_runs, spent[0]), ([command], spent[1])):
                began = time.perf_counter()
                for words in commands:
                    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                seconds.append(time.perf_counter() - began)
    a, b = map(statistics.median, spent)
    print(f"  plain {a:.1f} s, lenetexp {b:.1f} s, ratio {a / b:.2f}", flush=True)


def overhead_of_jobs(jobs: int) -> None:
    """Print what a run costs beside its epochs, in a process that has had one before."""
    from lenetexp.tracking.journal import NAME, Epoch, JournalReader

    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "experiment=smoke", "hydra.launcher.n_jobs=1", f"seed=range({jobs})"]
        subprocess.run([sys.executable, RUN, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        runs = [JournalReader(path.parent) for path in Path(folder).rglob(NAME)]
    runs.sort(key=lambda run: run.events[0].time)
    pairs = itertools.pairwise(runs)  # each run, and the one before it
    spent = [b.events[-1].time - a.events[-1].time - b.select(Epoch)[-1].time + b.events[0].time for a, b in pairs]
    message = f"{statistics.median(spent):.0f} ms ({min(spent)} to {max(spent)})"
    print(f"  a run beside its epochs, in a warm process: {message}")


def startup(rounds: int) -> None:
    """Print what a default run takes before its first step and after its last epoch, beside a bare import of torch."""
    from lenetexp.tracking.journal import Epoch, JournalReader

    spent: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            bare, _ = timed(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True))
            words, began = [sys.executable, RUN, "epochs=2", f"hydra.run.dir={number}"], time.time()
            subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            ended, (first, last) = time.time(), JournalReader(Path(folder, str(number))).select(Epoch)
            first_step = first.time / 1000 - DIGITS / first.metrics["images_per_second"]
            spent.append((bare, first_step - began, ended - last.time / 1000))
    print(f"\nstart-up and end of a default run, medians of {rounds}, in turn")
    names = ("import torch", "to first step", "last epoch to exit")
    # The first run creates the store and is not counted.
    for name, seconds in zip(names, zip(*spent[1:], strict=True), strict=True):
        print(f"  {name:<18} {statistics.median(seconds):5.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


def tracking_share(root: str, epochs: int) -> None:
    """Print how long a whole run waits for MLflow, whose process starts with it."""
    print(f"\ntracking, the tutorial's recipe, {epochs} epochs", flush=True)
    from lenetexp.tracking import process

    began, waited = time.perf_counter(), dict[str, float]()
    process.start([])
    import lenetexp.cli  # noqa: F401  (its resolver is part of the config)
    from lenetexp.runs import experiment
    from lenetexp.tracking import outbox

    def time_calls(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            seconds, result = timed(lambda: function(*args, **kwargs))
            waited[name] = waited.get(name, 0.0) + seconds
            return result

        setattr(owner, name, call)

    for name in ("call", "open_outbox"):
        time_calls(experiment, name)
    for name in ("add", "close"):
        time_calls(outbox.Outbox, name)
    chosen = composed("experiment=tutorial", f"dataset.root={root}", f"epochs={epochs}")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        experiment.run(*chosen, Path(folder) / "run")
    wall, total = time.perf_counter() - began, sum(waited.values())
    print(*(f"  {name:<14} {seconds:6.2f} s\n" for name, seconds in waited.items()), sep="", end="")
    print(f"  in all {total:.2f} s of {wall:.1f} s: {total / wall:.1%}")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", default=str(PROJECT.parent / "shared/data"), help="holds MNIST/raw")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--images", type=int, default=20_000, help="images an epoch of the loops")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each loop; 0 for none")
    parser.add_argument("--starts", type=int, default=5, help="default runs whose start-up is measured; 0 for none")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each whole command")
    parser.add_argument("--commands", type=int, default=2, help="whole commands of each side; 0 for none")
    parser.add_argument("--sweeps", type=int, default=1, help="sweeps of each side; 0 for none")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    options = parser.parse_args()
    root = str(Path(options.root).resolve())
    torch.set_num_threads(options.threads)
    if not (Path(root) / "MNIST/raw/train-images-idx3-ubyte").exists():
        sys.exit(f"error: --root {options.root}: must hold MNIST/raw with MNIST's four files")
    kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"torch {torch.__version__}, {kind}, {options.threads} threads, {os.cpu_count()} cores")
    if options.starts:
        startup(options.starts)
    if options.rounds:
        compare_loops(root, options.batch_sizes, options.images, options.rounds)
        diagnostics_cost(3 * options.rounds)
    if options.commands:
        print(f"\nwhole command, the tutorial's recipe, {options.epochs} epochs, {options.commands} each, in turn")
        compare_commands(root, 1, options.epochs, options.commands, f"device.threads={options.threads}")
        tracking_share(root, options.epochs)
    if options.sweeps:
        print(f"\nsweep, 8 runs of one epoch of MNIST at batch size 16, {options.sweeps} times each, in turn")
        compare_commands(root, 8, 1, options.sweeps, "-m", "seed=range(8)")
        overhead_of_jobs(8)


if __name__ == "__main__":
    main()
