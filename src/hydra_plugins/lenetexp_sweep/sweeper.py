"""Hydra's sweeper: hydra/sweeper=grid for any application, hydra/sweeper=optuna with lenetexp's own function."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra.utils import get_method
from omegaconf import DictConfig


@dataclass
class SweeperConf:
    """The settings of hydra/sweeper=grid."""

    _target_: str = "hydra_plugins.lenetexp_sweep.sweeper.Sweeper"
    params: dict[str, str] | None = None  # as on the command line: optimizer.lr: 0.01,0.1
    run: str | None = None  # dotted name of the application's own function (sweeper, overrides, folder)


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=SweeperConf, provider="lenetexp")


class Sweeper(BasicSweeper):
    """Runs every combination of the given values in one launch, or hands them to the application's own function."""

    # Set by Hydra before the sweep. The application's function finds them here.
    config: DictConfig
    launcher: Launcher
    hydra_context: HydraContext

    def __init__(self, params: dict[str, str] | None = None, run: str | None = None, **settings: Any) -> None:
        super().__init__(max_batch_size=None, params=dict(params or {}))
        self.run, self.settings = run, settings  # further keys of the config file, which `run` checks

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep that the command line, or a config file's `params`, describes."""
        if self.run is None:
            return super().sweep(arguments)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        params = self.params or {}
        values = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *arguments])
        for override in values[len(params) :]:
            if (key := override.get_key_element()) in params:
                print(f"{override.input_line} replaces the sweep's own {key}={params[key]}")
        overrides = {override.get_key_element(): override for override in values}  # the command line's win
        return get_method(self.run)(self, list(overrides.values()), Path(self.config.hydra.sweep.dir))
