"""Write one run into the store. Whatever the store raises is a `UserError`."""

import getpass
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lenetexp.errors import UserError
from lenetexp.tracking.journal import Start
from lenetexp.tracking.names import HOST, File, Tag
from lenetexp.tracking.store import Store

CHARACTERS_A_PARAM = 6000  # MLflow's own limit
# Of several runs that log the same new dataset at once all but one fail: they find it when they try again.
DATASET_TRIES = 5


@dataclass(frozen=True)
class Recorder:
    """Writes one run into the store. Its methods import MLflow when they are called, which takes a second."""

    store: Store
    run_id: str

    def log_metrics(self, values: Mapping[str, float], step: int = 0, time_ms: int | None = None) -> None:
        """Log numbers in one call. MLflow drops those that it already has with the same step and time."""
        from mlflow.entities import Metric

        now = time_ms or time.time_ns() // 1_000_000
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        self.store.client.log_batch(self.run_id, metrics=metrics)

    def set_tag(self, key: str, value: str) -> None:
        self.store.client.set_tag(self.run_id, key, value)

    def clear_tags(self, *keys: str) -> None:
        for key in {*keys} & {*self.store.client.get_run(self.run_id).data.tags}:
            self.store.client.delete_tag(self.run_id, key)

    def log_artifacts(self, place: Path, path: str | None = None) -> None:
        """Upload a file, or everything in a folder, to `path` in the run's artifacts."""
        client = self.store.client
        (client.log_artifacts if place.is_dir() else client.log_artifact)(self.run_id, str(place), path)

    def log_model(self, folder: Path) -> None:
        """Make what `save_model` wrote the run's logged model, once."""
        from mlflow.entities import LoggedModelOutput

        client, experiment = self.store.client, self.store.experiment_id
        models = client.search_logged_models([experiment], f"source_run_id = '{self.run_id}'", max_results=1)
        if models and str(models[0].status) == "READY":
            return
        params = client.get_run(self.run_id).data.params
        model = models[0] if models else client.create_logged_model(experiment, File.MODEL, self.run_id, params=params)
        client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")

    def log_start(self, start: Start) -> None:
        """Log the run's params and dataset. May be repeated."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        client = self.store.client
        params = [Param(key, str(value)[:CHARACTERS_A_PARAM]) for key, value in start.params.items()]
        client.log_batch(self.run_id, params=params)
        if start.dataset is None:
            return
        dataset = Dataset(source_type="local", **start.dataset)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        for _ in range(DATASET_TRIES - 1):
            with suppress(UserError):
                return client.log_inputs(self.run_id, datasets=inputs)
            time.sleep(0.1)
        client.log_inputs(self.run_id, datasets=inputs)

    def terminate(self, status: str, time_ms: int | None = None) -> None:
        self.store.client.set_terminated(self.run_id, status, end_time=time_ms)

    def reopen(self, tags: Mapping[str, str]) -> None:
        """Mark the run as running again, by the command that `tags` describe. Clear why it ended."""
        for key, value in tags.items():
            self.set_tag(key, value)
        self.clear_tags(Tag.REASON, Tag.ENDING, Tag.UNSENT)
        self.store.client.update_run(self.run_id, status="RUNNING")

    def mark_killed(self, reason: str) -> None:
        self.set_tag(Tag.REASON, reason)
        self.terminate("KILLED")


def create_run(store: Store, name: str, tags: Mapping[str, str], time_ms: int | None = None) -> Recorder:
    """Create a run that started at `time_ms`, in milliseconds since 1970, by default now."""
    run = store.client.create_run(store.experiment_id, start_time=time_ms, run_name=name, tags=dict(tags))
    return Recorder(store, run.info.run_id)


def build_origin_tags(folder: Path) -> dict[str, str]:
    """Build the tags that say who runs this, on which machine, in which folder, with which lenetexp."""
    tags = {Tag.HOST: HOST, Tag.FOLDER: str(folder.resolve()), Tag.VERSION: version("lenetexp")}
    tags["mlflow.source.name"] = sys.argv[0]
    with suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return {**tags, "mlflow.source.type": "LOCAL"}


def save_model(model: Any, example: Any, folder: Path) -> None:
    """Write a net in MLflow's form without pickle, for `mlflow.pytorch.load_model`.

    Args:
        model: The net in evaluation mode on the CPU.
        example: N×C×H×W floats, N > 1: one image would fix the batch size.
        folder: A new folder.

    Raises:
        Exception: torch cannot trace the net; it raises many kinds.
    """
    import mlflow.pytorch

    mlflow.pytorch.save_model(
        model,
        str(folder),
        input_example=example,
        serialization_format="pt2",
        # Without this MLflow takes 8 to 28 s to infer them.
        pip_requirements=[f"torch=={version('torch').split('+')[0]}"],
    )
