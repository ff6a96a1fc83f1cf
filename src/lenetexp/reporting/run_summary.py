"""The start and the end of a run in words."""

from pathlib import Path
from typing import TYPE_CHECKING

from lenetexp.config.identity import format_trust
from lenetexp.config.schema import RunConfig
from lenetexp.reporting.terminal import format_loss, format_path, format_rows
from lenetexp.tracking.names import File
from lenetexp.tracking.recorder import Recorder
from lenetexp.tracking.store import Store
from lenetexp.tracking.view import ALL, format_page

if TYPE_CHECKING:
    from lenetexp.datasets.splits import Data
    from lenetexp.training.evaluate import Scores
    from lenetexp.training.state import EpochRecord, Training
    from lenetexp.training.verdict import Verdict


def describe_start(
    settings: RunConfig, data: "Data", training: "Training", device: str, folder: Path, resumes: str | None
) -> str:
    """Describe what the settings' own summary does not say.

    Args:
        settings: The run's settings.
        data: The three splits.
        training: What learns.
        device: The device.
        folder: The run's folder.
        resumes: The id of the run whose epochs it begins with, or None.
    """
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    if settings.dataset.validation == "test":
        others, chosen_on = f"{len(data.test):,} test images (validation uses the same)", "the test images"
    else:
        others, chosen_on = f"{len(data.val):,} validation, {len(data.test):,} test images", "validation images"
    counts = f"{len(data.train):,} training, {others}"
    pairs = [
        ("net", f"{parameters:,} parameters" if parameters else "no weights that steps would train"),
        ("data", f"{data.name}: {counts}, {'×'.join(map(str, data.image_shape))}, {len(data.classes)} classes"),
        ("best", f"weights chosen by accuracy on {chosen_on}"),
        ("device", f"{device}, {settings.device.precision}"),
        ("folder", format_path(folder)),
    ]
    if resumes is not None:
        pairs.append(("resumes", f"after epoch {training.epochs_done} of run {resumes}"))
    return format_rows(pairs)


def describe_end(
    settings: RunConfig,
    history: "list[EpochRecord]",
    best: "EpochRecord | None",
    test: "Scores | None",
    verdict: "Verdict | None",
    folder: Path,
    recorder: Recorder | None,
) -> str:
    """Describe how the run went, where everything is, and what to do next."""
    pairs = [("verdict", verdict.sentence)] if verdict and verdict.ending != "learned" else []
    if best is not None and test is not None:
        throughput = len(history) / sum(1 / record.images_per_second for record in history)
        published = "" if settings.published is None else f"; published {settings.published:.2%}"
        correct = f"{test.correct:,} of {len(test.labels):,} correct"
        pairs += [
            ("best epoch", f"{best.epoch} of {len(history)}"),
            ("validation", f"accuracy {best.val_accuracy:.2%}, loss {format_loss(best.val_loss)}"),
            ("test", f"accuracy {test.accuracy:.2%} ({correct}), loss {format_loss(test.loss)}{published}"),
            ("throughput", f"{throughput:,.0f} images/s"),
            ("weights", format_path(folder / File.BEST)),
            ("pictures", format_path(folder / File.FIGURES)),
        ]
    if recorder is None:
        pairs.append(("MLflow", f"not sent yet; to send it: python scripts/sync.py folder={format_path(folder)}"))
    else:
        if best is not None:
            needed = format_trust([settings.model.target, settings.dataset.target])
            pairs.append(("predict", f"python scripts/predict.py run={recorder.run_id}{needed}"))
        pairs += format_look_command(recorder.store, ALL)
    return format_rows(pairs)


def format_look_command(store: Store, view: str) -> list[tuple[str, str]]:
    """Format how to see a view of runs in MLflow's UI, as labels and texts."""
    where = format_page(store.experiment_id, view)
    if store.uri.startswith("http"):
        return [("MLflow", f"{store.label.rstrip('/')}/{where}")]
    return [
        ("MLflow", f"mlflow ui --backend-store-uri {store.label}"),
        ("", f"then open http://127.0.0.1:5000/{where}"),
    ]
