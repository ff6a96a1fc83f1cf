"""One run from its config to its record: joins the rooms below."""

import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import ceil, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lenetexp import checkpoint, data, device, models, optim, provenance, resume, tracking
from lenetexp.cli import must_be_empty
from lenetexp.config import (
    HOW_IT_IS_GIVEN,
    Dataset,
    RunConfig,
    UserError,
    asked_for,
    config_hash,
    leaves,
    one_line,
    swept_name,
    trust_for,
    without_password,
)
from lenetexp.data import Data
from lenetexp.evaluate import Scores, evaluate
from lenetexp.interrupt import Interrupted, noted
from lenetexp.journal import Journal, asked_to_stop
from lenetexp.outbox import LITTLE_PATIENCE, Outbox, open_outbox
from lenetexp.report import Progress, drawn, lines, parameters, shown
from lenetexp.train import Batches, Diverged, Epoch, Training, fit

BEST = "checkpoints/best.pt"


@dataclass(frozen=True)
class Ready:
    """One run with all that it needs, before it begins."""

    settings: RunConfig
    config: dict[str, Any]  # as it is recorded
    folder: Path
    where: torch.device
    images: Data
    training: Training
    forward: Callable[[Tensor], Tensor]
    found: resume.Found | None  # what it goes on with


@dataclass
class Outcome:
    """What training came to."""

    diverged: Diverged | None = None
    seconds: float = 0.0


def run(settings: RunConfig, config: dict[str, Any], folder: Path) -> float:
    """Trains one net as `settings` say and files everything in `folder` and in MLflow.

    Args:
        settings: the checked config.
        config: the same as it was composed, for the record.
        folder: the run's own folder, empty. One that is gone on with keeps its own, if that is here.

    Returns:
        The best validation accuracy, in [0, 1]; NaN where no epoch was finished.

    Raises:
        UserError: something the user can put right, mostly before the MLflow run is created.
        Interrupted: SIGINT or SIGTERM came; what was done is filed.
    """
    began = time.perf_counter()
    found = resume.find(settings, config, folder) if settings.resume else None
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        must_be_empty(folder)
    else:
        settings, config = found.settings, found.config
        if not found.former.interrupted and not found.longer:
            return _finished(found.former)
    where = device.pick(settings.device)
    images = _images(settings.dataset, where)
    training = _build(settings, images, where)
    forward = _forward(training.model, settings, where)
    store = None if settings.tracking.offline else tracking.open_store(settings.tracking)
    if found is not None:
        folder = resume.place(found, folder)
    ready = Ready(settings, _for_the_record(config), folder, where, images, training, forward, found)
    with noted() as stop_if_asked, closing(Journal(folder)) as events:
        if found is not None:
            _take_up(ready, found)
        outbox = _open(ready, events, store)
        with _recorded(outbox, ready, stop_if_asked):
            outbox.write("draft")
            for record in training.history:  # of the earlier command, should the journal lack any
                outbox.epoch(record.epoch, _metrics(record))
            outcome = _train(ready, outbox, stop_if_asked)
            if outcome.diverged is None:  # else it has come to its end, whatever is asked meanwhile
                stop_if_asked()
            test = _judge(ready, outbox)
            if outcome.diverged is None:
                stop_if_asked()
    print(_end(ready, test, outcome, outbox, time.perf_counter() - began))
    return training.best.val_accuracy if training.best else nan


def _for_the_record(config: dict[str, Any]) -> dict[str, Any]:
    """What was composed, but for a password in the store's address and for how the run was given."""
    kept = {key: value for key, value in config.items() if key not in HOW_IT_IS_GIVEN}
    return {**kept, "tracking": {**kept["tracking"], "uri": without_password(kept["tracking"]["uri"])}}


def _finished(former: resume.Former) -> float:
    """What is said of a run that has nothing left to do; its best validation accuracy."""
    best, test = former.results.get("best/val_accuracy", nan), former.results.get("test/accuracy", nan)
    print(
        f"Run {former.name} of this config is finished already: validation {best:.2%}, test {test:.2%}. "
        "It is not trained again; without resume a new run begins."
    )
    return best


def _take_up(ready: Ready, found: resume.Found) -> None:
    """Puts the interrupted run's state into the net that is ready.

    Raises:
        UserError: the state or the images are not those of this run.
    """
    training, folder = ready.training, ready.folder
    then, now = resume.recorded_digest(found, folder), ready.images.digest
    if then is not None and then != now:
        raise UserError(
            f"resume: these are not the images that run {found.former.name} was trained on "
            f"(digest {now[:12]}, not {then[:12]}); give it those"
        )
    state = resume.last_state(found, folder)
    if state is None:
        return
    try:
        training.load_state_dict(state)
        if training.best_weights is not None:
            training.model.load_state_dict(training.best_weights)  # that they fit
            training.model.load_state_dict(state["model"])
    except Exception as error:  # torch raises many kinds, and a stranger's file may hold anything
        raise UserError(
            f"resume: the checkpoint of run {found.former.name} is not of this net and recipe "
            f"({type(error).__name__}: {one_line(error)[:120]})"
        ) from None
    if training.best_weights is not None:
        checkpoint.save(folder / BEST, training.best_weights)


def _open(ready: Ready, events: Journal, store: tracking.Store | None) -> Outbox:
    """Says what is about to run, and opens the way to its record.

    Raises:
        UserError: the store does not take it.
    """
    settings, images, folder = ready.settings, ready.images, ready.folder
    head = _head(ready)
    print(head, flush=True)
    whose = {
        **tracking.who_records(),
        "lenetexp.folder": str(folder.resolve()),
        "lenetexp.device": device.describe(ready.where),
    }
    facts = {**images.facts(), "root": _root(settings)}
    if events.events:
        if provenance.dataset_of(folder) is None:  # it was killed before it wrote anything of that
            provenance.write(folder, ready.config, facts)
        provenance.note_command(folder)
        events.write("resumed", tags=whose, epochs=settings.epochs)
        return open_outbox(store, events)
    commit = provenance.write(folder, ready.config, facts)
    # A swept group, as optimizer=sgd,adam, is no leaf of the config; the runs' table shows it, too.
    swept = settings.job.values if settings.job else {}
    tags = {
        **whose,
        **({tracking.PARENT: settings.job.parent} if settings.job else {}),
        **{f"swept.{key}": value for key, value in swept.items()},
        **({"lenetexp.continues": ready.found.former.name} if ready.found is not None else {}),
        "lenetexp.journal": secrets.token_hex(16),
        "lenetexp.config_hash": config_hash(ready.config),
        "mlflow.note.content": f"```\n{head}\n```",  # the UI's description
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }
    dataset = {
        "name": images.name,
        "digest": images.digest,
        "source": json.dumps({"root": settings.dataset.root or settings.dataset.target}),
        "profile": json.dumps(facts["images"]),
    }
    events.write(
        "start",
        name=swept_name(swept) or asked_for(settings.given) or folder.name,
        tags=tags,
        params={**swept, **dict(leaves(ready.config))},
        dataset=dataset,
        epochs=settings.epochs,
        swept=swept,
    )
    return open_outbox(store, events)


@contextmanager
def _recorded(outbox: Outbox, ready: Ready, stop_if_asked: Callable[[], None]) -> Iterator[None]:
    """Files the folder and closes the record, however the body ends."""
    settings, folder = ready.settings, ready.folder
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        # A second signal leaves at once.
        outbox.end("KILLED", patience=LITTLE_PATIENCE if isinstance(stop, Interrupted) else 0.0)
        print(f"Stopped; {shown(folder)} keeps {ready.training.epoch} of {settings.epochs} epochs.")
        if settings.job is None:
            print(f"To go on: {provenance.command_to_resume(outbox.journal.run_id)}", flush=True)
        raise
    except Exception as error:
        outbox.end("FAILED", f"{type(error).__name__}: {one_line(error)[:300]}")
        raise
    # Only now: a finished run is one whose record is whole.
    command = f"python scripts/sync.py folder={shown(folder)}"
    later = f"note: MLflow has not everything yet; when it answers: {command}"
    try:
        sent = outbox.end("FINISHED", stop_if_asked=stop_if_asked)
    except Interrupted:
        print(later, flush=True)
        raise
    except UserError as error:  # a disk that is full just now
        outbox.end("FAILED", str(error))
        raise
    if not sent and not settings.tracking.offline:
        print(later)
    if outbox.refused:
        raise UserError(outbox.refused)


_loaded: dict[str, Data] = {}  # one, by what it was loaded with


def _images(dataset: Dataset, where: torch.device) -> Data:
    """The data that settings name; a process that runs jobs of one sweep loads them once."""
    key = repr((dataset.model_dump(exclude_unset=True), where))
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = data.load(dataset, where)
    return _loaded[key]


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


def _train(ready: Ready, outbox: Outbox, stop_if_asked: Callable[[], None]) -> Outcome:
    """Runs the loop; logs, saves and shows every epoch."""
    settings, images, training, folder = ready.settings, ready.images, ready.training, ready.folder
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
            ready.forward,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=settings.seed,
            augment=settings.dataset.augment,
            clip_norm=settings.clip_norm,
            patience=settings.patience,
            watch=watch,
        ):
            outbox.epoch(record.epoch, _metrics(record))
            if record.improved and training.best_weights is not None:
                checkpoint.save(folder / BEST, training.best_weights)
            checkpoint.save(folder / resume.LAST, training.state_dict())
            progress.line(record)
            if asked_to_stop(folder):
                outbox.tag("lenetexp.ending", "pruned")
                outbox.tag("lenetexp.reason", f"pruned after epoch {record.epoch}")
                break
    except Diverged as diverged:
        outcome.diverged = diverged
        outbox.tag("lenetexp.ending", "diverged")
        outbox.tag("lenetexp.reason", str(diverged))
    finally:
        progress.close()
    outcome.seconds = time.perf_counter() - began
    return outcome


def _metrics(record: Epoch) -> dict[str, float]:
    return {
        "train/loss": record.train_loss,
        "train/accuracy": record.train_accuracy,
        "val/loss": record.val_loss,
        "val/accuracy": record.val_accuracy,
        "lr": record.lr,
        "images_per_second": record.images_per_second,
    }


def _judge(ready: Ready, outbox: Outbox) -> Scores | None:
    """Scores the best weights on the test images, draws the pictures, files the net."""
    images, training, folder = ready.images, ready.training, ready.folder
    best = training.best
    if best is None or training.best_weights is None:
        return None
    model = training.model
    model.load_state_dict(training.best_weights)
    test = evaluate(model, images.test)
    outbox.result(
        {
            "best/epoch": best.epoch,
            "best/val_accuracy": best.val_accuracy,
            "best/val_loss": best.val_loss,
            "test/loss": test.loss,
            "test/accuracy": test.accuracy,
        }
    )
    drawn(lambda: _draw(model, images, test, training.history, best, folder / "figures"))
    example = np.zeros((2, *images.image_shape), dtype=np.float32)
    try:
        model.cpu().to(memory_format=torch.contiguous_format).eval()
        shutil.rmtree(folder / tracking.MODEL, ignore_errors=True)  # of an interrupted command
        tracking.save_model(model, example, folder / tracking.MODEL)
        outbox.write("model")
    except UserError:
        raise
    except Exception as error:  # a net of one's own may do what torch.export cannot trace
        reason = one_line(error)[:200]
        outbox.tag("lenetexp.model_not_logged", reason)
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
    pictures = {
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
        pictures["filters"] = figures.filters(
            first.weight.detach().cpu().numpy(),
            image[0].cpu().numpy(),
            maps.cpu().numpy(),
            title=f"The filters of {name} and what they make of one {images.name} image",
        )
    figures.save(pictures, folder)


def _images_per_second(history: list[Epoch]) -> float:
    """Mean over the epochs, of training alone."""
    return len(history) / sum(1 / record.images_per_second for record in history)


def _head(ready: Ready) -> str:
    """What is about to run, in a few lines."""
    settings, images, training, found = ready.settings, ready.images, ready.training, ready.found
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
            ("device", f"{device.describe(ready.where)}, {precision}"),
            ("folder", shown(ready.folder)),
            *([("goes on", f"after epoch {training.epoch} of run {found.former.name}")] if found else []),
        ]
    )


def _end(ready: Ready, test: Scores | None, outcome: Outcome, outbox: Outbox, seconds: float) -> str:
    """How it went, where everything is, and what to do next."""
    training, folder = ready.training, ready.folder
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
            ("speed", f"{_images_per_second(training.history):,.0f} images/s"),
            ("weights", shown(folder / BEST)),
            ("pictures", shown(folder / "figures")),
        ]
    if outbox.recorder is None:
        rows.append(("MLflow", f"not told yet; to send it: python scripts/sync.py folder={shown(folder)}"))
    else:
        if best is not None:
            needed = trust_for([ready.settings.model.target, ready.settings.dataset.target])
            rows.append(("predict", f"python scripts/predict.py run={outbox.recorder.run_id}{needed}"))
        rows += tracking.ways_to_look(outbox.recorder)
    title = f"Finished in {seconds:.1f} s, of which training {outcome.seconds:.1f} s"
    return f"{title}\n{lines(rows)}"
