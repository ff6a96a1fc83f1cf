"""The views that MLflow's UI opens with."""

import json
from pathlib import Path

from lenetexp.config.schema import Tracking
from lenetexp.tracking.store import open_store
from lenetexp.tracking.view import ALL, build_sweep_tags, format_page


def test_a_new_experiment_has_the_view_of_all_runs_and_keeps_what_its_owner_changes(tmp_path: Path) -> None:
    settings = Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="e", offline=False)
    store = open_store(settings)
    key = f"mlflow.sharedViewState.{ALL}"
    view = json.loads(store.client.get_experiment(store.experiment_id).tags[key])
    shown = ["tags.`lenetexp.ending`", "params.`optimizer.lr`", "params.`model.activation`"]
    assert view["selectedColumns"][:3] == shown and "metrics.`test/accuracy`" in view["selectedColumns"]
    assert format_page(store.experiment_id, ALL).endswith(f"viewStateShareKey={ALL}")
    store.client.set_experiment_tag(store.experiment_id, key, "mine")
    open_store(settings)
    assert store.client.get_experiment(store.experiment_id).tags[key] == "mine"


def test_a_sweeps_view_has_its_runs_and_the_keys_that_it_varies() -> None:
    ((key, content),) = build_sweep_tags("7fd65517c9534d7b8f610615081675a7", ["batch_size", "seed"]).items()
    view = json.loads(content)
    assert key == "mlflow.sharedViewState.7fd65517"
    assert view["searchFilter"] == "tags.`mlflow.parentRunId` = '7fd65517c9534d7b8f610615081675a7'"
    assert len(f"    http://127.0.0.1:5000/{format_page('1', '7fd65517')}") < 80, "one line of a terminal"
    assert {"params.`batch_size`", "params.`seed`"} < set(view["selectedColumns"])
    assert len(content) < 5000, "MLflow's limit for a tag"
