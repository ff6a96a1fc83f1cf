"""One run from its config to its record: joins the rooms below."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lenetexp import checkpoint, data, device, models, optim, process, provenance, tracking
from lenetexp.config import (
    HOW_IT_IS_GIVEN,
    Dataset,
    RunConfig,
    UserError,
    config_hash,
    leaves,
    one_line,
    swept_name,
)
from lenetexp.data import Data
from lenetexp.evaluate import Scores, evaluate
from lenetexp.interrupt import Interrupted, noted
from lenetexp.journal import Journal, asked_to_stop
from lenetexp.report import Progress, lines, parameters, shown
from lenetexp.train import Batches, Diverged, Epoch, Training, fit


@dataclass
class Outcome:
    """What training came to."""

    history: list[Epoch] = field(default_factory=list)
    diverged: Diverged | None = None
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Mean over the epochs, of training alone."""
        if not self.history:
            return nan
        return len(self.history) / sum(1 / record.images_per_second for record in self.history)


def run(settings: RunConfig, config: dict[str, Any], folder: Path) -> float:
    """Trains one net as `settings` say and files everything in `folder` and in MLflow.

    Args:
        settings: the checked config.
        config: the same as it was composed, for the record.
        folder: the run's own folder, empty.

    Returns:
        The best validation accuracy, in [0, 1]; NaN where no epoch was finished.

    Raises:
        UserError: something the user can put right, mostly before the MLflow run is created.
        Interrupted: SIGINT or SIGTERM came; what was done is filed.
    """
    began = time.perf_counter()
    if settings.resume and settings.job is None:
        raise UserError("resume=true: must be false for a single run; a sweep (-m) can be gone on with")
    where = device.pick(settings.device)
    images = _images(settings.dataset.model_dump_json(exclude_unset=True), where)
    training = _build(settings, images, where)
    forward = _forward(training.model, settings, where)
    store = tracking.open_store(settings.tracking)
    # What is recorded is what was composed, but for a password in the store's address.
    config = {key: value for key, value in config.items() if key not in HOW_IT_IS_GIVEN}
    config = {**config, "tracking": {**config["tracking"], "uri": store.shown}}
    swept: dict[str, str] = json.loads(settings.job.swept) if settings.job else {}
    facts = {**images.facts(), "root": _root(settings)}
    commit = provenance.write(folder, config, facts)
    head = _head(settings, images, training, where, folder)
    print(head, flush=True)
    with noted() as stop_if_asked:
        recorder = tracking.start_run(
            store,
            name=swept_name(swept) or folder.name,
            # A swept group, as optimizer=sgd,adam, is no leaf of the config; the runs' table shows it, too.
            params={**swept, **dict(leaves(config))},
            tags={
                **({tracking.PARENT: settings.job.parent} if settings.job else {}),
                **{f"swept.{key}": value for key, value in swept.items()},
                "lenetexp.config_hash": config_hash(config),
                "lenetexp.folder": str(folder.resolve()),
                "lenetexp.device": device.describe(where),
                "mlflow.note.content": f"```\n{head}\n```",  # the UI's description
                **({"mlflow.source.git.commit": commit} if commit else {}),
            },
            dataset={
                "name": images.name,
                "digest": images.digest,
                "source": json.dumps({"root": settings.dataset.root or settings.dataset.target}),
                "profile": json.dumps(images.facts()["images"]),
            },
        )
        with _recorded(recorder, folder) as journal:
            journal.write(
                "start",
                run_id=recorder.run_id,
                process=process.name(),
                epochs=settings.epochs,
                swept=swept,
            )
            outcome = _train(training, forward, images, settings, recorder, journal, folder, stop_if_asked)
            stop_if_asked()
            test = _judge(training, images, recorder, folder, outcome)
            stop_if_asked()
    print(_end(training, test, outcome, recorder, folder, time.perf_counter() - began))
    return training.best.val_accuracy if training.best else nan


@contextmanager
def _recorded(recorder: tracking.Recorder, folder: Path) -> Iterator[Journal]:
    """Gives the run's journal; files the folder and closes the MLflow run, however the body ends."""
    journal, status = Journal(folder), "FAILED"
    try:
        try:
            yield journal
        except (Interrupted, KeyboardInterrupt):
            status = "KILLED"
            print(f"Stopped; {shown(folder)} and MLflow keep what was done.", flush=True)
            raise
        except Exception as error:
            recorder.tag("lenetexp.reason", f"{type(error).__name__}: {one_line(error)[:300]}")
            raise
        finally:
            recorder.artifacts(folder)
        status = "FINISHED"  # only now: a finished run is one whose weights can be had from the record
    finally:
        journal.write("end", status=status)
        recorder.end(status)


@lru_cache(maxsize=1)
def _images(dataset: str, where: torch.device) -> Data:
    """The data that settings, as JSON, name; a process that runs jobs of one sweep loads them once."""
    return data.load(Dataset.model_validate_json(dataset), where)


def _root(settings: RunConfig) -> str | None:
    """Where the images lie, wherever a later command is given."""
    root = settings.dataset.root
    return None if root is None else str(Path(root).expanduser().resolve())


def _build(settings: RunConfig, images: Data, where: torch.device) -> Training:
    """Everything that learns, on the device; the seed alone decides the first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed_of("weights", settings.seed, 0))
        model = models.build(settings.model, len(images.classes), images.image_shape)
    # Channels last is the order that both oneDNN and cuDNN compute in: no reordering at every layer.
    model.to(where).to(memory_format=torch.channels_last)
    steps = ceil(len(images.train) / settings.batch_size)
    optimizer = optim.build_optimizer(settings.optimizer, model.parameters())
    return Training(
        model=model,
        optimizer=optimizer,
        schedule=optim.build_schedule(settings.scheduler, optimizer, steps, settings.epochs),
        # Half precision's gradients would vanish without a scale; the other precisions need none.
        scaler=torch.amp.GradScaler(where.type, enabled=settings.device.precision == "fp16"),
    )


def _forward(model: nn.Module, settings: RunConfig, where: torch.device) -> Callable[[Tensor], Tensor]:
    """The model as training calls it: itself, compiled, under lower precision; float logits."""
    forward: Callable[[Tensor], Tensor] = torch.compile(model) if settings.device.compile else model
    if settings.device.precision == "fp32":
        return forward
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[settings.device.precision]

    def lower_precision(images: Tensor) -> Tensor:
        with torch.autocast(where.type, dtype):
            return forward(images).float()

    return lower_precision


def _train(
    training: Training,
    forward: Callable[[Tensor], Tensor],
    images: Data,
    settings: RunConfig,
    recorder: tracking.Recorder,
    journal: Journal,
    folder: Path,
    stop_if_asked: Callable[[], None],
) -> Outcome:
    """Runs the loop; logs, saves and shows every epoch."""
    outcome = Outcome()
    began = time.perf_counter()
    steps = ceil(len(images.train) / settings.batch_size)
    progress = Progress(settings.epochs, steps, done=training.epoch)

    def watch(batches: Batches, sums: Tensor) -> Batches:
        for batch in progress.watch(batches, sums):
            yield batch
            stop_if_asked()

    try:
        for record in fit(
            training,
            images,
            forward,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=settings.seed,
            augment=settings.dataset.augment,
            clip_norm=settings.clip_norm,
            patience=settings.patience,
            watch=watch,
        ):
            outcome.history.append(record)
            if record.improved:
                checkpoint.save(folder / "checkpoints/best.pt", _plain(training.model))
            checkpoint.save(folder / "checkpoints/last.pt", training.state_dict())
            recorder.metrics(_metrics(record), step=record.epoch)
            journal.write("epoch", epoch=record.epoch, **_metrics(record))
            progress.line(record)
            if asked_to_stop(folder):
                recorder.tag("lenetexp.ending", "pruned")
                recorder.tag("lenetexp.reason", f"pruned after epoch {record.epoch}")
                break
    except Diverged as diverged:
        outcome.diverged = diverged
        recorder.tag("lenetexp.ending", "diverged")
        recorder.tag("lenetexp.reason", str(diverged))
    finally:
        progress.close()
    outcome.seconds = time.perf_counter() - began
    return outcome


def _plain(model: nn.Module) -> dict[str, Tensor]:
    """The weights alone, as any module with these names and shapes takes them."""
    return {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}


def _metrics(record: Epoch) -> dict[str, float]:
    return {
        "train/loss": record.train_loss,
        "train/accuracy": record.train_accuracy,
        "val/loss": record.val_loss,
        "val/accuracy": record.val_accuracy,
        "lr": record.lr,
        "images_per_second": record.images_per_second,
    }


def _judge(
    training: Training, images: Data, recorder: tracking.Recorder, folder: Path, outcome: Outcome
) -> Scores | None:
    """Scores the best weights on the test images, draws the pictures, files the net."""
    best = training.best
    if best is None:
        return None
    model = training.model
    model.load_state_dict(checkpoint.load(folder / "checkpoints/best.pt"))
    test = evaluate(model, images.test)
    recorder.metrics(
        {
            "best/epoch": best.epoch,
            "best/val_accuracy": best.val_accuracy,
            "best/val_loss": best.val_loss,
            "test/loss": test.loss,
            "test/accuracy": test.accuracy,
        }
    )
    _draw(model, images, test, outcome.history, best, folder / "figures")
    example = np.zeros((2, *images.image_shape), dtype=np.float32)
    try:
        recorder.model(model.cpu().to(memory_format=torch.contiguous_format).eval(), example)
    except Exception as error:  # a net of one's own may do what torch.export cannot trace
        reason = one_line(error)[:200]
        recorder.tag("lenetexp.model_not_logged", reason)
        print(f"note: MLflow's own copy of the net could not be made ({reason}); best.pt is whole")
    return test


def _draw(
    model: nn.Module, images: Data, test: Scores, history: list[Epoch], best: Epoch, folder: Path
) -> None:
    """The run's pictures, into `folder`."""
    from lenetexp import figures  # half a second of importing that training need not wait for

    classes, predicted = images.classes, test.predicted
    wrong = torch.nonzero(predicted != test.labels).flatten()
    worst = wrong[test.confidence[wrong].argsort(descending=True)][:25]
    where = images.test.images.device
    drawn = {
        "learning_curves": figures.learning_curves(
            [record.train_loss for record in history],
            [record.val_loss for record in history],
            [record.train_accuracy for record in history],
            [record.val_accuracy for record in history],
            best.epoch,
            title=f"{type(model).__name__} on {images.name}",
        ),
        "confusion_matrix": figures.confusion_matrix(
            test.confusion().numpy(),
            classes,
            title=f"{images.name}, {len(test.labels):,} test images: {test.accuracy:.2%} right",
        ),
        "mistakes": figures.mistakes(
            images.test.images[worst.to(where)].cpu().numpy(),
            [classes[i] for i in predicted[worst]],
            [classes[i] for i in test.labels[worst]],
            test.confidence[worst].tolist(),
            title=f"The most confident of {len(wrong):,} mistakes on {len(test.labels):,} test images",
        ),
    }
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is not None and first.in_channels == images.image_shape[0]:
        image = images.test.images[:1]
        with torch.inference_mode():
            maps = first(data.as_floats(image))[0]
        name = next(name for name, layer in model.named_modules() if layer is first)
        drawn["filters"] = figures.filters(
            first.weight.detach().cpu().numpy(),
            image[0].cpu().numpy(),
            maps.cpu().numpy(),
            title=f"The filters of {name} and what they make of one {images.name} image",
        )
    figures.save(drawn, folder)


def _head(settings: RunConfig, images: Data, training: Training, where: torch.device, folder: Path) -> str:
    """What is about to run, in a few lines."""
    channels, height, width = images.image_shape
    net = ", ".join(f"{k}={v}" for k, v in settings.model.call().items() if k != "_target_")
    chosen_on = "the test images" if settings.dataset.validation == "test" else "validation images"
    extras = {
        "clip_norm": settings.clip_norm,
        "patience": settings.patience,
        "augment": settings.dataset.augment,
    }
    recipe = [
        f"{settings.epochs} epochs at batch size {settings.batch_size}",
        f"{settings.optimizer.name} lr={settings.optimizer.lr:g}"
        if settings.optimizer.lr is not None
        else settings.optimizer.name,
        settings.scheduler.name,
        f"seed {settings.seed}",
        *(f"{key} {value}" for key, value in extras.items() if value is not None),
    ]
    precision = settings.device.precision
    return lines(
        [
            ("net", f"{settings.model.name} ({net}), {parameters(training.model)}"),
            (
                "data",
                f"{images.name}: {len(images.train):,} training, {len(images.val):,} validation, "
                f"{len(images.test):,} test images, {channels}×{height}×{width}, "
                f"{len(images.classes)} classes",
            ),
            ("recipe", ", ".join(recipe)),
            ("best", f"weights chosen by accuracy on {chosen_on}"),
            ("device", f"{device.describe(where)}, {precision}"),
            ("folder", shown(folder)),
        ]
    )


def _end(
    training: Training,
    test: Scores | None,
    outcome: Outcome,
    recorder: tracking.Recorder,
    folder: Path,
    seconds: float,
) -> str:
    """How it went, where everything is, and what to do next."""
    best = training.best
    rows = []
    if outcome.diverged:
        rows.append(("diverged", f"{outcome.diverged}; try a smaller optimizer.lr"))
    if best is not None and test is not None:
        right = int((test.predicted == test.labels).sum())
        rows += [
            ("best epoch", f"{best.epoch} of {training.epoch}"),
            ("validation", f"{best.val_accuracy:.2%} right, loss {best.val_loss:.4f}"),
            (
                "test",
                f"{test.accuracy:.2%} right ({right:,} of {len(test.labels):,}), loss {test.loss:.4f}",
            ),
            ("speed", f"{outcome.images_per_second:,.0f} images/s"),
            ("weights", shown(folder / "checkpoints/best.pt")),
            ("pictures", shown(folder / "figures")),
            ("predict", f"python scripts/predict.py run={recorder.run_id}"),
        ]
    rows += tracking.ways_to_look(recorder)
    title = f"Finished in {seconds:.1f} s, of which training {outcome.seconds:.1f} s"
    return f"{title}\n{lines(rows)}"
