"""The settings of the commands other than run.py."""

from typing import Literal

from pydantic import ConfigDict

from lenetexp.config import fields as f
from lenetexp.config.schema import Device, RunConfig, Tracking, format_arguments
from lenetexp.config.targets import Model, Settings


class FindLrConfig(RunConfig):
    """The settings of scripts/find_lr.py."""

    from_lr: f.AboveZero
    to_lr: f.AboveZero
    steps: f.Count

    @property
    def headline(self) -> str:
        batches = f"{self.steps:,} steps of {self.batch_size} images"
        rates = f"optimizer.lr from {self.from_lr:g} to {self.to_lr:g}"
        model = f"{self.model.name} ({', '.join(format_arguments(self.model.build_call()))})"
        return f"{model}, {self.optimizer.name}, {batches}, {rates}"


class DescribeConfig(Settings):
    """The settings of scripts/describe.py. Unknown keys are ignored: conf/local/ may hold settings of runs."""

    model_config = ConfigDict(extra="ignore")

    model: Model
    classes: f.Count
    channels: f.Count


class OtherCommand(Settings):
    """The settings of a command other than run.py. Unknown keys are ignored: conf/local/ may hold settings of runs."""

    model_config = ConfigDict(extra="ignore")

    tracking: Tracking


class PredictConfig(OtherCommand):
    """The settings of scripts/predict.py."""

    run: f.RunId
    count: f.Count
    images: f.Paths
    invert: Literal["auto", True, False]
    probabilities: bool
    root: f.Text | None
    trust: list[f.Text]
    device: Device


class RegisterConfig(OtherCommand):
    """The settings of scripts/register.py."""

    run: f.RunId
    name: f.Name
    alias: f.Name | None
    trust: list[f.Text]


class ExportConfig(OtherCommand):
    """The settings of scripts/export.py."""

    run: f.RunId
    format: Literal["onnx", "torchscript", "pt2"]
    to: f.Text | None
    root: f.Text | None
    trust: list[f.Text]


class DrawConfig(OtherCommand):
    """The settings of scripts/draw.py."""

    run: f.OneToThreeRuns
    port: f.Port
    host: Literal["127.0.0.1", "0.0.0.0"]
    open: bool
    keep: f.Text | None
    root: f.Text | None
    trust: list[f.Text]
    device: Device


class SyncConfig(OtherCommand):
    """The settings of scripts/sync.py."""

    folder: f.Text


class CompareConfig(OtherCommand):
    """The settings of scripts/compare.py."""

    which: f.SweepId
    runs: f.Runs


class RunsConfig(OtherCommand):
    """The settings of scripts/runs.py."""

    count: f.Count
    runs: f.Runs


class ReportConfig(OtherCommand):
    """The settings of scripts/report.py."""

    which: f.SweepId
    run: f.RunId | None
