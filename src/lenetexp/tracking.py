"""The record of a run in MLflow, written and read: the only room that imports mlflow."""

import getpass
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from math import nan
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from lenetexp import process
from lenetexp.config import Tracking, UserError, one_line, without_password

# While nothing has been started, a server is asked once and not waited for long; later, one that is gone
# costs 13 s until a call raises, where MLflow's own default is 246 s. What the user has set wins.
_AT_FIRST = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}
_LATER = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_OURS = [key for key in _LATER if key not in os.environ]
# MLflow reads these when it is imported.
for _key, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    **_LATER,
}.items():
    os.environ.setdefault(_key, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import (  # noqa: E402
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
)
from mlflow.exceptions import MlflowException, RestException  # noqa: E402

# It would print each of a database's failures with its SQL; they are told in a sentence here.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

# MLflow's own limits for one call and one value.
PARAMS_A_CALL = 100
CHARACTERS_A_PARAM = 6000

# A run that ended with weights worth predicting with.
FINISHED = "attributes.status = 'FINISHED' and metrics.`best/val_accuracy` >= 0"
RUNS_A_CALL = 1000
MODEL = "model"  # the logged model's name
SERIES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "images_per_second")
PARENT = "mlflow.parentRunId"  # MLflow's own tag: its UI nests runs by it


def warm_up() -> None:
    """Imports what `save_model` needs, seconds before it is needed."""
    import mlflow.pytorch  # noqa: F401


@dataclass(frozen=True)
class Store:
    """An MLflow store that answered, and the experiment in it."""

    client: MlflowClient
    uri: str  # as given: it may hold a password
    experiment_id: str

    @property
    def shown(self) -> str:
        """The store's address without its password."""
        return without_password(self.uri)


def open_store(settings: Tracking, create: bool = True) -> Store:
    """Connects to the store that `settings` names; an SQLite file that is missing is made first.

    Raises:
        UserError: it does not answer, is not a store, or (without `create`) is not there.
    """
    shown = without_password(settings.uri)
    scheme = urlsplit(settings.uri).scheme
    uri, artifacts = settings.uri, None
    if scheme == "sqlite":
        path = Path(uri.removeprefix("sqlite:///")).expanduser()
        uri = f"sqlite:///{path}"
        if not create and not path.exists():
            raise UserError(f"tracking.uri={shown}: {path} is not there; no run was recorded yet")
        artifacts = (path.parent / "mlartifacts").resolve().as_uri()
    try:
        with _impatient():
            if scheme == "sqlite" and create:
                _make_sqlite(Path(uri.removeprefix("sqlite:///")))
            client = MlflowClient(uri)
            experiment_id = _experiment(client, settings.experiment, artifacts, create)
    except UserError:
        raise
    except Exception as error:  # whatever a driver or a proxy throws, nothing has been started yet
        raise UserError(
            f"tracking.uri={shown}: this MLflow store does not answer ({_reason(error)}); it must be "
            "a server that runs or an SQLite file of MLflow's"
        ) from error
    return Store(client, uri, experiment_id)


def _make_sqlite(path: Path) -> None:
    """Makes a new store aside and renames it into place.

    MLflow's own creation has no lock: of several processes that open a missing file at once, most die,
    and the file may stay broken.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if path.exists():
            return
        for left_by_a_killed_process in path.parent.glob(f".{path.name}.new*"):
            left_by_a_killed_process.unlink()
        aside = path.with_name(f".{path.name}.new")
        MlflowClient(f"sqlite:///{aside}").search_experiments(max_results=1)
        aside.replace(path)


def _experiment(client: MlflowClient, name: str, artifacts: str | None, create: bool) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None and create:
        # Another process may have been quicker; then this raises and the look below finds it.
        with suppress(MlflowException):
            return client.create_experiment(name, artifact_location=artifacts)
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        names = ", ".join(e.name for e in client.search_experiments(max_results=20))
        raise UserError(f"tracking.experiment={name}: there is no such experiment; there are {names}")
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment={name}: must not be a deleted one; choose another name, "
            f"or restore it: mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def ask_once() -> None:
    """From now on in this process a store that does not answer is told at once: the caller tries again."""
    _LATER.update({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"})
    os.environ.update({key: _LATER[key] for key in _OURS})


@contextmanager
def _impatient() -> Iterator[None]:
    os.environ.update({key: _AT_FIRST[key] for key in _OURS})
    try:
        yield
    finally:
        os.environ.update({key: _LATER[key] for key in _OURS})


def _reason(error: BaseException) -> str:
    """The innermost cause, on one line."""
    # Not what was being done about a signal.
    while isinstance(inner := error.__cause__ or error.__context__, Exception):
        error = inner
    return without_password(one_line(error)[:160])


class Refused(UserError):
    """A server that answers does not take something, and would not take it later."""


def _for_good(error: Exception) -> bool:
    """Whether MLflow itself, and no proxy before it, says that what was sent cannot be taken."""
    return isinstance(error, RestException) and error.error_code in (
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_DOES_NOT_EXIST",
    )


@contextmanager
def _answered(store: Store, when: str) -> Iterator[None]:
    """A store that fails is told in one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a driver, a proxy or an artifact store throws
        kind = Refused if store.uri.startswith("http") and _for_good(error) else UserError
        raise kind(f"tracking.uri={store.shown}: the store failed {when} ({_reason(error)})") from error


@dataclass(frozen=True)
class Recorder:
    """Writes one run into the store."""

    store: Store
    run_id: str

    @property
    def _answered(self) -> AbstractContextManager[None]:
        return _answered(self.store, f"in the middle of run {self.run_id}")

    @property
    def page(self) -> str:
        """The run's page below the UI's address."""
        # Without the last part the UI opens with its pages for language models.
        place = f"#/experiments/{self.store.experiment_id}/runs/{self.run_id}"
        return f"{place}?workflowType=machine_learning"

    def metrics(self, values: Mapping[str, float], step: int = 0, time_ms: int | None = None) -> None:
        """Logs numbers in one call. Given again with the same time, they are not there twice."""
        now = int(time.time() * 1000) if time_ms is None else time_ms
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        with self._answered:
            self.store.client.log_batch(self.run_id, metrics=metrics)

    def tag(self, key: str, value: str) -> None:
        """Sets a tag."""
        with self._answered:
            self.store.client.set_tag(self.run_id, key, value)

    def untag(self, *keys: str) -> None:
        """Takes tags away, where they are."""
        with self._answered:
            there = self.store.client.get_run(self.run_id).data.tags
            for key in {*keys} & {*there}:
                self.store.client.delete_tag(self.run_id, key)

    def artifacts(self, place: Path, path: str | None = None) -> None:
        """Uploads a file, or everything in a folder, to `path` in the run's artifacts."""
        upload = self.store.client.log_artifacts if place.is_dir() else self.store.client.log_artifact
        with self._answered:
            upload(self.run_id, str(place), path)

    def text(self, text: str, path: str) -> None:
        """Writes an artifact, over the one that was there."""
        with self._answered:
            self.store.client.log_text(self.run_id, text, path)

    def model(self, folder: Path) -> None:
        """Makes what `save_model` wrote the run's logged model, once."""
        client = self.store.client
        with self._answered:
            found = client.search_logged_models(
                [self.store.experiment_id], f"source_run_id = '{self.run_id}'", max_results=1
            )
            if found and str(found[0].status) == "READY":
                return
            params = client.get_run(self.run_id).data.params
            model = (
                found[0]
                if found
                else client.create_logged_model(
                    self.store.experiment_id, name=MODEL, source_run_id=self.run_id, params=params
                )
            )
            client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
            client.log_model_artifacts(model.model_id, str(folder))
            client.finalize_logged_model(model.model_id, "READY")

    def end(self, status: str, time_ms: int | None = None) -> None:
        """Closes the run as FINISHED, FAILED or KILLED."""
        with self._answered:
            self.store.client.set_terminated(self.run_id, status, end_time=time_ms)

    def reopen(self, tags: Mapping[str, str]) -> None:
        """Marks the run as running, by the process that `tags` name; why it ended is no longer true."""
        with self._answered:
            for key, value in tags.items():
                self.store.client.set_tag(self.run_id, key, value)
            self.untag("lenetexp.reason", "lenetexp.ending", "lenetexp.unsent")
            self.store.client.update_run(self.run_id, status="RUNNING")

    def bury(self, reason: str) -> None:
        """Closes a run whose process is gone."""
        self.tag("lenetexp.reason", reason)
        self.end("KILLED")


def save_model(model: Any, example: Any, folder: Path) -> None:
    """Writes a net in evaluation mode on the CPU for `mlflow.pytorch.load_model`, without pickle.

    Args:
        model: the net.
        example: two images, N×C×H×W floats as a numpy array; one would fix the batch size at 1.
        folder: a new one.

    Raises:
        Exception: of many kinds, where torch cannot trace the net.
    """
    import mlflow.pytorch  # seconds of importing that nothing else needs

    mlflow.pytorch.save_model(
        model,
        str(folder),
        input_example=example,
        serialization_format="pt2",
        # Named, because MLflow takes 8 to 28 s to work them out.
        pip_requirements=[f"torch=={version('torch').split('+')[0]}"],
    )


def start_run(store: Store, start: Mapping[str, Any]) -> Recorder:
    """Creates a run with all that is known before it starts.

    Args:
        store: where.
        start: the journal's event of the start: `name`, which the UI calls it; `params`, every leaf of the
            composed config under its dotted name; `tags`, what else to find it by; `dataset`, its name,
            digest, source and profile as texts; `time`, in milliseconds since 1970.

    Raises:
        UserError: the store does not take it.
    """
    with _answered(store, "at the start of the run"):
        run = store.client.create_run(
            store.experiment_id, start_time=start["time"], run_name=start["name"], tags=start["tags"]
        )
        recorder = Recorder(store, run.info.run_id)
        try:
            describe(recorder, start)
        except BaseException:
            recorder.end("FAILED")
            raise
    return recorder


def describe(recorder: Recorder, start: Mapping[str, Any]) -> None:
    """Logs a run's params and dataset. Given again, they are not there twice."""
    client = recorder.store.client
    entries = [Param(key, str(value)[:CHARACTERS_A_PARAM]) for key, value in start["params"].items()]
    dataset = start["dataset"]
    entity = Dataset(
        name=dataset["name"],
        digest=dataset["digest"],
        source_type="local",
        source=dataset["source"],
        profile=dataset["profile"],
    )
    with recorder._answered:
        for first in range(0, len(entries), PARAMS_A_CALL):
            client.log_batch(recorder.run_id, params=entries[first : first + PARAMS_A_CALL])
        _log_dataset(client, recorder.run_id, entity)


def _log_dataset(client: MlflowClient, run_id: str, dataset: Dataset, tries: int = 5) -> None:
    """Says what a run was trained on.

    MLflow looks whether it knows the dataset and adds it if not: where several runs do that at once, all
    but one fail, and find it there when they look again.
    """
    given = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
    for left in reversed(range(tries)):
        try:
            return client.log_inputs(run_id, datasets=[given])
        except MlflowException:
            if left == 0:
                raise
            time.sleep(0.1)


def start_sweep(
    store: Store, name: str, identity: str, folder: Path, resume: bool
) -> tuple[Recorder, Path]:
    """Creates the parent run of a sweep; with `resume` reopens the newest one of this identity, if any.

    Returns:
        the run, and the sweep's folder: `folder`, or that of the reopened one where it is on this machine.

    Raises:
        UserError: that one is running.
    """
    mine = {**who_records(), "lenetexp.sweep": identity, "lenetexp.folder": str(folder)}
    if resume and (before := search(store, f"tags.`lenetexp.sweep` = '{identity}'", at_most=1)):
        if before[0].runs_here:
            raise UserError(
                f"resume=true: this very sweep is running (process {before[0].process}); end it first"
            )
        recorder, tags = Recorder(store, before[0].run_id), before[0].tags
        at = Path(tags["lenetexp.folder"])
        if tags["lenetexp.host"] == socket.gethostname() and at.is_dir():
            folder = at
        recorder.reopen({**mine, "lenetexp.folder": str(folder)})
        return recorder, folder
    with _answered(store, "at the start of a sweep"):
        run = store.client.create_run(store.experiment_id, run_name=name, tags=mine)
    return Recorder(store, run.info.run_id), folder


def who_records() -> dict[str, str]:
    """Tags by which a run whose process is gone can be told from one that runs."""
    tags = {
        "lenetexp.host": socket.gethostname(),
        "lenetexp.process": process.name(),
        "mlflow.source.name": sys.argv[0],
        "mlflow.source.type": "LOCAL",
    }
    with suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


@dataclass(frozen=True)
class Stored:
    """A run as the store holds it."""

    store: Store
    run: Run

    @property
    def run_id(self) -> str:
        """MLflow's id."""
        return str(self.run.info.run_id)

    @property
    def name(self) -> str:
        """What the UI calls it."""
        return str(self.run.info.run_name)

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        return dict(self.run.data.metrics)

    @property
    def config_hash(self) -> str:
        """What it shares with runs of the same config."""
        return str(self.run.data.tags.get("lenetexp.config_hash", ""))

    @property
    def seconds(self) -> float:
        """From its start to its end, the time between its commands left out; NaN while it runs."""
        with suppress(KeyError, ValueError):
            return float(self.tags["lenetexp.seconds"])
        end = self.run.info.end_time
        return (end - self.run.info.start_time) / 1000 if end else nan

    @property
    def abandoned(self) -> bool:
        """Whether it is marked as running by a process of this machine that is gone."""
        return self._of_this_machine and not self.runs_here

    @property
    def runs_here(self) -> bool:
        """Whether a process of this machine has it in hand."""
        return self._of_this_machine and process.alive(self.process)

    @property
    def process(self) -> str:
        """Who records it, or did last."""
        return str(self.run.data.tags.get("lenetexp.process", ""))

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        return str(self.run.info.status)

    @property
    def is_result(self) -> bool:
        """Whether it was trained to its end, or until it diverged: not so, where it was pruned."""
        return bool(self.config_hash and self.status == "FINISHED" and self.ending != "pruned")

    @property
    def ending(self) -> str:
        """diverged, pruned, or nothing."""
        return str(self.run.data.tags.get("lenetexp.ending", ""))

    @property
    def tags(self) -> dict[str, str]:
        """What it can be found by."""
        return dict(self.run.data.tags)

    @property
    def _of_this_machine(self) -> bool:
        host = self.run.data.tags.get("lenetexp.host")
        return bool(self.run.info.status == "RUNNING" and host == socket.gethostname())

    def history(self, key: str) -> list[tuple[int, float]]:
        """A metric's values by step."""
        return sorted((metric.step, metric.value) for metric in self._metric(key))

    def times(self, key: str) -> dict[int, int]:
        """When each step of a metric was logged, in milliseconds since 1970."""
        return {metric.step: metric.timestamp for metric in self._metric(key)}

    def _metric(self, key: str) -> list[Metric]:
        with _answered(self.store, f"while run {self.run_id} was read"):
            return list(self.store.client.get_metric_history(self.run_id, key))

    def listed(self) -> list[str]:
        """Its artifacts' paths: those at the top, of its checkpoints, and of what it can be repeated by.

        Raises:
            UserError: the store does not say.
        """
        try:
            listed, places = self.store.client.list_artifacts, (None, "checkpoints", "reproduce")
            return [entry.path for where in places for entry in listed(self.run_id, where)]
        except Exception as error:  # each kind of artifact store has exceptions of its own
            raise UserError(
                f"run={self.run_id}: its artifacts cannot be listed ({_reason(error)})"
            ) from error

    def download(self, folder: Path, *paths: str) -> list[Path]:
        """Fetches artifacts into `folder`.

        Raises:
            UserError: the run has no such artifact.
        """
        found = []
        for path in paths:
            try:
                local = self.store.client.download_artifacts(self.run_id, path, str(folder))
            except Exception as error:  # each kind of artifact store has exceptions of its own
                raise UserError(
                    f"run={self.run_id}: has no artifact {path} ({_reason(error)}); "
                    "a run that ended before its first epoch has none"
                ) from error
            # MLflow leaves a file's folders out.
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            found.append(Path(local).replace(target))
        return found


def find_run(store: Store, which: str) -> Stored:
    """The run that `which` means: "latest" or "best" of the experiment's finished runs, or an id.

    Raises:
        UserError: there is none.
    """
    if which in ("latest", "best"):
        best_first = ["metrics.`best/val_accuracy` DESC", "metrics.`best/val_loss` ASC"]
        order = ["attributes.start_time DESC"] if which == "latest" else best_first
        with _answered(store, "while runs were looked for"):
            runs = store.client.search_runs([store.experiment_id], FINISHED, order_by=order, max_results=1)
        if not runs:
            raise UserError(
                f"run={which}: no finished run in {store.shown}, so nothing to predict with yet; "
                "train one: python scripts/run.py"
            )
        return Stored(store, runs[0])
    try:
        return Stored(store, store.client.get_run(which))
    except MlflowException as error:
        raise UserError(
            f"run={which}: there is no such run in {store.shown} ({_reason(error)}); "
            "must be latest, best or the id of a run"
        ) from error


def search(store: Store, condition: str, at_most: int | None = None) -> list[Stored]:
    """The experiment's runs for which an MLflow filter holds, the newest first.

    Raises:
        UserError: it is not a filter as MLflow reads it.
    """
    found: list[Stored] = []
    token = None
    while True:
        with _answered(store, "while runs were looked for"):
            try:
                page = store.client.search_runs(
                    [store.experiment_id],
                    condition,
                    max_results=min(at_most or RUNS_A_CALL, RUNS_A_CALL),
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                raise UserError(
                    f"runs={condition}: must be a filter as MLflow reads it ({_reason(error)})"
                ) from error
        found += [Stored(store, run) for run in page]
        token = page.token
        if not token or (at_most is not None and len(found) >= at_most):
            return found


def children(store: Store, parent: str, condition: str = "") -> list[Stored]:
    """The runs of a sweep, the newest first; those for which an MLflow filter holds."""
    return search(store, " and ".join(filter(None, [f"tags.`{PARENT}` = '{parent}'", condition])))


def find_sweep(store: Store, which: str) -> Stored:
    """The parent run of a sweep: "latest", or by its id.

    Raises:
        UserError: there is none.
    """
    if which == "latest":
        found = search(store, "tags.`lenetexp.sweep` LIKE '%'", at_most=1)
        if not found:
            raise UserError(
                f"sweep=latest: no sweep in {store.shown} yet; "
                "run one: python scripts/run.py -m optimizer.lr=0.01,0.1"
            )
        return found[0]
    try:
        stored = Stored(store, store.client.get_run(which))
    except MlflowException:
        stored = None
    if stored is None or "lenetexp.sweep" not in stored.run.data.tags:
        raise UserError(
            f"sweep={which}: there is no such sweep in {store.shown}; must be latest or a sweep's run id"
        )
    return stored


def read_text(store: Store, run_id: str, path: str) -> str:
    """A small artifact of a run.

    Raises:
        UserError: it has none.
    """
    with scratch() as folder:
        with _answered(store, f"while run {run_id} was read"):
            stored = Stored(store, store.client.get_run(run_id))
        (file,) = stored.download(folder, path)
        return file.read_text()


def ways_to_look(recorder: Recorder) -> list[tuple[str, str]]:
    """For the end of a run: how to see it in the UI."""
    store = recorder.store
    if store.uri.startswith("http"):
        return [("MLflow", f"{store.shown.rstrip('/')}/{recorder.page}")]
    return [
        ("MLflow", f"mlflow ui --backend-store-uri {store.shown}"),
        ("", f"then open http://127.0.0.1:5000/{recorder.page}"),
    ]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what is downloaded, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lenetexp-") as folder:
        yield Path(folder)
