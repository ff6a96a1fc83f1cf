"""One run, whole, through the command line: what a user sees, what MLflow holds, what predict makes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from torch import Tensor, nn

from conftest import PROJECT, Server, run_script
from lenetexp import config, data, evaluate, experiment, outbox, predict, tracking
from lenetexp.config import PredictConfig, RunConfig, SyncConfig, UserError
from lenetexp.datasets import digits
from test_config import composed
from test_models import PlainLeNet

PARTS = ["checkpoints", "config.yaml", "dataset.json", "figures", "reproduce"]
FIGURES = ["confusion_matrix.png", "filters.png", "learning_curves.png", "mistakes.png"]


@dataclass
class Finished:
    """A command that ran, where it ran, and its store."""

    done: subprocess.CompletedProcess[str]
    cwd: Path
    uri: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name("lenetexp")
        return list(self.client.search_runs([experiment.experiment_id]))


def finish(cwd: Path, *arguments: str, uri: str = "") -> Finished:
    done = run_script("run", *arguments, cwd=cwd, timeout=240)
    assert done.returncode == 0, done.stderr
    return Finished(done, cwd, uri or f"sqlite:///{cwd}/outputs/mlflow.db")


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """What a newcomer types first."""
    return finish(tmp_path_factory.mktemp("default"))


def test_the_first_command_trains_a_net_that_knows_digits(default: Finished) -> None:
    assert default.runs[0].data.metrics["test/accuracy"] >= 0.95


def test_what_a_person_sees(default: Finished) -> None:
    out = default.done.stdout
    assert default.done.stderr == "", "no stray warnings or chatter"
    assert "\r" not in out and "\x1b" not in out, "plain lines where the output is no terminal"
    head, _, rest = out.partition("\n  epoch ")
    for fact in (
        "61,706 parameters",
        "digits: 1,295 training, 143 validation, 359 test",
        "28 epochs",
        "CPU",
    ):
        assert fact in head
    run = default.runs[0]
    assert len([line for line in rest.splitlines() if line.strip().split()[0].isdigit()]) == 28
    end = rest[rest.index("Finished in") :]
    for fact in (
        f"{run.data.metrics['test/accuracy']:.2%}",
        f"{run.data.metrics['best/val_accuracy']:.2%}",
        "checkpoints/best.pt",
        f"predict.py run={run.info.run_id}",
        "mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db",
    ):
        assert fact in end


def check_record(finished: Finished, epochs: int) -> None:
    """The contract of an MLflow record, entire."""
    client, (run,) = finished.client, finished.runs
    assert run.info.status == "FINISHED"
    names = [entry.path for entry in client.list_artifacts(run.info.run_id)]
    assert names == PARTS
    recorded = yaml.safe_load(Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text())
    assert run.data.params == {key: str(value) for key, value in config.leaves(recorded)}
    assert {"optimizer.lr", "model.activation", "dataset.validation", "seed"} <= set(run.data.params)
    series = ["train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "images_per_second"]
    for name in series:
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert steps == list(range(1, epochs + 1)), name
    once = ["best/epoch", "best/val_accuracy", "best/val_loss", "test/loss", "test/accuracy"]
    assert set(run.data.metrics) == {*series, *once}
    history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "val/accuracy")}
    assert run.data.metrics["best/val_accuracy"] == max(history.values())
    assert history[int(run.data.metrics["best/epoch"])] == max(history.values())
    listed = {name: client.list_artifacts(run.info.run_id, name) for name in ("figures", "checkpoints")}
    assert [Path(entry.path).name for entry in listed["figures"]] == FIGURES
    assert [Path(entry.path).name for entry in listed["checkpoints"]] == ["best.pt", "last.pt"]
    packages = Path(client.download_artifacts(run.info.run_id, "reproduce/packages.txt")).read_text()
    assert f"torch=={torch.__version__.split('+')[0]}" in packages
    command = Path(client.download_artifacts(run.info.run_id, "reproduce/command.txt")).read_text()
    assert "run.py" in command
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.name == "digits" and len(dataset.digest) == 36
    assert len(run.data.tags["lenetexp.config_hash"]) == 12
    if (PROJECT / ".git").exists():
        assert len(run.data.tags["mlflow.source.git.commit"]) == 40


def test_the_record_on_the_embedded_store(default: Finished) -> None:
    check_record(default, epochs=28)


def test_the_weights_score_the_same_in_a_plain_module(default: Finished) -> None:
    """To the image, by someone else's seven layers."""
    folder = Path(default.runs[0].data.tags["lenetexp.folder"])
    plain = PlainLeNet().eval()
    plain.load_state_dict(torch.load(folder / "checkpoints/best.pt", weights_only=True))
    test = digits().test
    with torch.no_grad():
        right = int((plain(test.images.float() / 255).argmax(1) == test.labels).sum())
    assert default.runs[0].data.metrics["test/accuracy"] == right / len(test)


def test_the_logged_model_predicts_any_number_of_images(default: Finished) -> None:
    import mlflow

    mlflow.set_tracking_uri(default.uri)
    run = default.runs[0]
    logged = mlflow.pytorch.load_model(f"runs:/{run.info.run_id}/model")
    images = data.as_floats(digits().test.images)
    plain = PlainLeNet().eval()
    folder = Path(run.data.tags["lenetexp.folder"])
    plain.load_state_dict(torch.load(folder / "checkpoints/best.pt", weights_only=True))
    for count in (1, 3, 359):
        torch.testing.assert_close(logged(images[:count]), plain(images[:count]), rtol=1e-3, atol=1e-3)


def test_predict_prints_the_tutorials_lines_and_draws_them(default: Finished) -> None:
    done = run_script("predict", "run=latest", "count=7", cwd=default.cwd)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("predicted:")]
    labels = digits().test.labels[:7].tolist()
    assert len(lines) == 7
    for line, label in zip(lines, labels, strict=True):
        assert f'", actual: "{label}", confidence: ' in line
    picture = default.cwd / done.stdout.rsplit("picture: ", 1)[1].strip()
    assert picture.stat().st_size > 10_000


def test_predict_on_pictures_of_ones_own(default: Finished, tmp_path: Path) -> None:
    """Dark on light, large and off-centre: a net reads the test images that it reads as they are."""
    import numpy as np
    from PIL import Image

    test, right = digits().test, 0
    for i in range(10):
        sheet = Image.new("L", (400, 300), 230)
        ink = Image.fromarray(test.images[i, 0].numpy()).resize((140, 140))
        sheet.paste(Image.fromarray((230 - np.array(ink) * 0.8).astype(np.uint8)), (40 + 10 * i, 90))
        sheet.save(tmp_path / f"{i}.png")
    done = run_script("predict", f"images={tmp_path}", cwd=default.cwd)
    assert done.returncode == 0, done.stderr
    for i in range(10):
        right += f'{i}.png: predicted: "{test.labels[i]}"' in done.stdout
    assert right >= 8
    (tmp_path / "broken.png").write_text("no picture")
    done = run_script("predict", f"images=[{tmp_path}/broken.png,{tmp_path}/7.png]", cwd=default.cwd)
    assert done.returncode == 0, done.stderr
    assert "left out: " in done.stdout and done.stdout.count("predicted:") == 1


def test_two_runs_at_once_on_a_fresh_folder_are_both_whole(tmp_path: Path) -> None:
    """The store does not exist yet: both would make it."""
    command = [sys.executable, str(PROJECT / "scripts/run.py"), "experiment=smoke"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, b"")
    runs = Finished(
        subprocess.CompletedProcess([], 0), tmp_path, f"sqlite:///{tmp_path}/outputs/mlflow.db"
    ).runs
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    folders = [Path(run.data.tags["lenetexp.folder"]) for run in runs]
    assert len(set(folders)) == 2
    weights = [torch.load(folder / "checkpoints/best.pt", weights_only=True) for folder in folders]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), "the same seed gives the same weights, bit for bit"


@pytest.mark.slow
def test_the_record_on_a_real_server(server: Server, tmp_path: Path) -> None:
    finished = finish(tmp_path, "experiment=smoke", f"tracking.uri={server.uri}", uri=server.uri)
    check_record(finished, epochs=2)
    assert not (tmp_path / "outputs/mlflow.db").exists()
    done = run_script("predict", f"tracking.uri={server.uri}", "count=2", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("predicted:") == 2


def test_a_run_that_diverges_is_a_result(tmp_path: Path) -> None:
    options = ["optimizer=sgd", "optimizer.lr=1e9", "scheduler=constant", "epochs=3"]
    finished = finish(tmp_path, "experiment=smoke", *options)
    (run,) = finished.runs
    assert run.info.status == "FINISHED"
    assert "epoch 1" in run.data.tags["lenetexp.reason"]
    assert "diverged" in finished.done.stdout and "optimizer.lr" in finished.done.stdout


OWN = '''
import torch
from torch import nn
from lenetexp.datasets import Source, digits

class TwoLayers(nn.Module):
    def __init__(self, classes, channels, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(channels * 28 * 28, hidden), nn.ReLU(),
                                 nn.Linear(hidden, classes))
    def forward(self, x):
        return self.net(x)

class SignSGD(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.sign_()
        return super().step(closure)

def odd_and_even(upside_down):
    source = digits()
    for split in (source.train, source.test):
        split.labels.remainder_(2)
        if upside_down:
            split.images.copy_(split.images.flip(2))
    return Source("odd_and_even", source.train, source.test, ("even", "odd"))
'''  # fmt: skip


def test_a_users_own_classes_are_chosen_by_yaml_alone(tmp_path: Path) -> None:
    """docs/extending.md: a file of one's own, a YAML file for each class, no change to lenetexp."""
    (tmp_path / "mine.py").write_text(OWN)
    files = {
        "model/two_layers": "_target_: mine.TwoLayers\nhidden: 40\n",
        "optimizer/sign": "_target_: mine.SignSGD\nlr: 1e-3\n",
        "dataset/parity": "_target_: mine.odd_and_even\nupside_down: true\nvalidation: 0.2\n",
    }
    for name, text in files.items():
        path = tmp_path / "myconf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    options = ["--config-dir", "myconf", "model=two_layers", "optimizer=sign", "dataset=parity", "epochs=4"]
    finished = finish(tmp_path, *options, "model.hidden=50")
    (run,) = finished.runs
    assert run.data.params["model._target_"] == "mine.TwoLayers"
    assert run.data.params["model.hidden"] == "50"
    assert run.data.metrics["test/accuracy"] > 0.7
    assert "even" in (Path(run.data.tags["lenetexp.folder"]) / "dataset.json").read_text()
    assert finished.done.stdout.count("'trust=[mine]'") == 1, "the command that it prints can be given"
    # conf/ changes after the run: predict needs the record alone, and leave to load a stranger's class.
    for name in files:
        (tmp_path / "myconf" / f"{name}.yaml").unlink()
    refused = run_script("predict", cwd=tmp_path)
    assert refused.returncode == 1 and "trust=[mine]" in refused.stderr
    allowed = run_script("predict", "trust=[mine]", cwd=tmp_path)
    assert allowed.returncode == 0, allowed.stderr
    assert 'actual: "odd"' in allowed.stdout


# ---- runs within this process, of a second, in one store ----


@dataclass
class Bench:
    """An experiment of its own in the store; the two commands, in the working folder."""

    uri: str
    experiment: str

    def train(self, *overrides: str) -> Run:
        """One epoch on pictures/, and what the store says of it, however it ended."""
        chosen = ["dataset=image_folder", "dataset.root=pictures", "epochs=1", *self.options(), *overrides]
        values = composed(*chosen)
        experiment.run(config.check(RunConfig, values), values, Path("outputs/one"))
        return self.record()

    def predict(self, *overrides: str) -> None:
        values = composed(*self.options(), *overrides, name="predict")
        predict.run(config.check(PredictConfig, values), values, Path("predicted"))

    def sync(self) -> None:
        values = composed(*self.options()[1:], name="sync")
        outbox.sync(config.check(SyncConfig, values), values, Path("synced"))

    def options(self) -> list[str]:
        return ["device=cpu", f"tracking.uri={self.uri}", f"tracking.experiment={self.experiment}"]

    def record(self) -> Run:
        client = MlflowClient(self.uri)
        experiment_id = client.get_experiment_by_name(self.experiment).experiment_id
        (run,) = client.search_runs([experiment_id])
        return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def bench(
    store: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """In a folder with four dark and four light pictures."""
    for i in range(8):
        file = tmp_path / "pictures" / ("dark", "light")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), (20, 220)[i % 2] + i).save(file)
    monkeypatch.chdir(tmp_path)
    return Bench(store, request.node.name)


def test_predict_finds_a_runs_images_from_another_folder(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """dataset.root was relative to where the run was started."""
    run = bench.train()
    assert run.data.params["dataset.root"] == "pictures"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    bench.predict()
    out = capsys.readouterr().out
    assert (out.count('actual: "dark"'), out.count('actual: "light"')) == (1, 1)
    assert "another digest" not in out
    assert Path("predicted/predictions.png").exists()


class Undecided(nn.Module):
    """What it does depends on the values it sees: torch.export cannot follow."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.last = nn.Linear(channels * 28 * 28, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1) if x.sum() > 0 else -x.flatten(1))


def test_a_net_that_cannot_be_traced_is_finished_all_the_same(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    own_net = "model={_target_:test_run.Undecided}"
    run = bench.train("~model", f"+{own_net}")
    assert run.info.status == "FINISHED"
    assert run.data.tags["lenetexp.model_not_logged"]
    assert "note: MLflow's own copy of the net could not be made" in capsys.readouterr().out
    bench.predict("trust=[test_run]")
    assert capsys.readouterr().out.count("predicted:") == 2


def test_a_run_whose_files_cannot_be_filed_is_finished_when_they_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outbox, "LAST_TRIES", 1)
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_artifacts", full_disk)
        run = bench.train()
    assert "python scripts/sync.py folder=outputs/one" in capsys.readouterr().out
    assert run.info.status == "FAILED" and run.data.metrics["test/accuracy"] >= 0
    assert "No space left on device" in run.data.tags["lenetexp.unsent"]
    assert Path("outputs/one/checkpoints/best.pt").exists()
    bench.sync()
    assert bench.record().info.status == "FINISHED"
    assert "lenetexp.unsent" not in bench.record().data.tags


def test_a_signal_after_the_training_ends_the_run_as_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(experiment, "_draw", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        bench.train()
    assert end.value.code == 143
    run = bench.record()
    assert run.info.status == "KILLED" and run.data.metrics["test/accuracy"] >= 0
    artifacts = MlflowClient(bench.uri).list_artifacts(run.info.run_id, "checkpoints")
    assert [Path(entry.path).name for entry in artifacts] == ["best.pt", "last.pt"]
    assert signal.getsignal(signal.SIGTERM) == before


MINE = """
import pathlib
import subprocess
import torch
from lenetexp import datasets
from torchvision.datasets.utils import download_url
"""
NO_NETS = [
    "mine.torch.hub.load",
    "mine.torch.load",
    "mine.torch.optim.SGD",
    "mine.subprocess.run",
    "mine.pathlib.Path",
    "mine.download_url",
    "lenetexp.models.torch.hub.load",
]
NO_SOURCES = [
    *NO_NETS,
    "mine.torch.nn.Linear",
    "mine.datasets._download",
    "lenetexp.datasets._download",
    "lenetexp.datasets._open",
    "lenetexp.datasets.read_image",
]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "mine"
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    ("group", "target"),
    [*(("model", target) for target in NO_NETS), *(("dataset", target) for target in NO_SOURCES)],
)
def test_trust_in_a_module_is_not_trust_in_what_it_imports(
    store: str, mine: str, group: str, target: str
) -> None:
    """Nor in lenetexp's private functions: the config may be a stranger's."""
    named = {"model": {"_target_": "torch.nn.Flatten"}, "dataset": {"_target_": "lenetexp.datasets.digits"}}
    named[group]["_target_"] = target
    place = tracking.open_store(config.Tracking(uri=store, experiment="strangers"))
    run = place.client.create_run(place.experiment_id)
    facts = {"classes": ["0", "1"], "image_shape": [1, 28, 28]}
    for name, content in {"config.yaml": named, "dataset.json": facts, "checkpoints/best.pt": {}}.items():
        place.client.log_dict(run.info.run_id, content, name)
    with pytest.raises(UserError, match=rf"^{group}\._target_={target}: .*names what is not trusted"):
        predict.load(tracking.Stored(place, run), trust=[mine])


@pytest.mark.slow
def test_the_tutorials_recipe_gives_what_the_tutorial_gives(mnist_root: Path, tmp_path: Path) -> None:
    """Chance after epoch 1, 95 % ± 1.5 after epoch 10 (an independent script: 94.4, 95.0, 95.9)."""
    finished = finish(tmp_path, "experiment=tutorial", f"dataset.root={mnist_root}")
    (run,) = finished.runs
    history = {m.step: m.value for m in finished.client.get_metric_history(run.info.run_id, "val/accuracy")}
    assert history[1] < 0.2
    assert 0.935 <= history[10] <= 0.965
    settings = {
        "_target_": "lenetexp.datasets.torchvision_dataset",
        "name": "MNIST",
        "root": str(mnist_root),
    }
    test = data.load(config.Dataset.model_validate(settings), torch.device("cpu")).test
    plain = PlainLeNet()
    folder = Path(run.data.tags["lenetexp.folder"])
    plain.load_state_dict(torch.load(folder / "checkpoints/best.pt", weights_only=True))
    assert evaluate.evaluate(plain, test).accuracy == run.data.metrics["test/accuracy"]
