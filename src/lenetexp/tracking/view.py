"""How MLflow's UI shows the runs: saved views, which are tags of the experiment."""

import json
from collections.abc import Sequence
from typing import Any

from lenetexp.tracking.names import BEST_ACCURACY, TEST_ACCURACY, Tag

ALL = "all"  # the view of all runs
KEYS = ("optimizer.lr", "model.activation")  # the columns of the view of all runs; of a sweep, what it varies
# As MLflow 3.17 writes them when a view is shared. It reads them as plain JSON, too.
VIEW = "mlflow.sharedViewState."
# Without it the UI opens an experiment on its pages for language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}


def build_store_tags() -> dict[str, str]:
    """Build the tags of an experiment: its kind, and the view of all its runs."""
    return {**KIND, f"{VIEW}{ALL}": _build_view(KEYS, {"orderByKey": "attributes.start_time"})}


def build_sweep_tags(run_id: str, keys: Sequence[str]) -> dict[str, str]:
    """Build the experiment's tag that is the view of one sweep's runs, the best first."""
    search = {"searchFilter": f"tags.`{Tag.PARENT}` = '{run_id}'", "orderByKey": f"metrics.`{BEST_ACCURACY}`"}
    charts: list[dict[str, Any]] = [
        {"type": "LINE", "metricKey": "val/accuracy", "selectedMetricKeys": ["val/accuracy"], "xAxisKey": "step"},
        {"type": "PARALLEL", "selectedParams": [*keys], "selectedMetrics": [BEST_ACCURACY], "showAllRuns": True},
        {"type": "BAR", "metricKey": BEST_ACCURACY},
    ]
    shared = {"metricSectionId": "accuracy", "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    section = {"uuid": "accuracy", "name": "accuracy", "display": True, "isReordered": True}
    layout = {
        "compareRunCharts": [{**chart, **shared, "uuid": chart["type"]} for chart in charts],
        "compareRunSections": [section],
        "isAccordionReordered": True,  # else the sections are in the order of their names
        "runsHiddenMode": "SHOW_ALL",
    }
    return {f"{VIEW}{name_view(run_id)}": _build_view(keys, {**search, **layout})}


def name_view(run_id: str) -> str:
    """Return the name of a sweep's view, short so that its address fits a line of the terminal."""
    return run_id[:8]


def format_page(experiment_id: str, view: str) -> str:
    """Return the address of a view below the UI's address."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={view}"


def _build_view(keys: Sequence[str], more: dict[str, Any]) -> str:
    """Build a view with columns for how a run ended, for `keys`, and for its accuracies."""
    widths = {f"tags.`{Tag.ENDING}`": 130, **{f"params.`{key}`": 30 + 8 * len(key) for key in keys}}
    widths |= {f"metrics.`{key}`": 125 for key in (BEST_ACCURACY, TEST_ACCURACY)}
    columns = {"selectedColumns": [*widths], "columnOrder": [*widths], "columnWidths": widths}
    return json.dumps({**columns, "orderByAsc": False, "searchFilter": "", **more})
