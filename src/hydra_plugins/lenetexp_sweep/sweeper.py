"""Hydra's sweeper for every combination of the values given; hydra/sweeper=grid is lenetexp's default."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Runs every combination, as a sweep that has a record, an answer, and can be gone on with."""

    def __init__(self, params: dict[str, str]) -> None:
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called once by Hydra."""
        self.context, self.master = hydra_context, config
        self.runner: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def overrides(self, arguments: Sequence[str]) -> list[Override]:
        """The config's own params and the command line's, which win."""
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        given = parser.parse_overrides(
            [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        )
        for override in given[len(self.params) :]:
            if (key := override.get_key_element()) in self.params:
                print(f"{override.input_line} takes the place of the sweep's own {key}={self.params[key]}")
        return list({override.get_key_element(): override for override in given}.values())

    def sweep(self, arguments: list[str]) -> None:
        """Runs the sweep that the command line, or a file of conf/sweep/, asks for."""
        from hydra_plugins.lenetexp_sweep import _sweeps

        _sweeps.grid(self, self.overrides(arguments), Path(self.master.hydra.sweep.dir))


class OptunaSweeper(GridSweeper):
    """Searches a space with Optuna: so many trials, in parallel, resumable to just that number.

    A list of values is a choice, range(…) a range, interval(a, b) an interval; tag(log, interval(a, b))
    one whose logarithm is searched evenly.
    """

    def __init__(
        self,
        params: dict[str, str],
        n_trials: int,
        sampler: Any,
        pruner: Any,
        storage: str,
        n_jobs: int,
    ) -> None:
        super().__init__(params)
        self.n_trials, self.sampler, self.pruner = n_trials, sampler, pruner
        self.storage, self.n_jobs = storage, n_jobs

    def sweep(self, arguments: list[str]) -> None:
        """Runs the search that the command line, or a file of conf/sweep/, asks for."""
        from hydra_plugins.lenetexp_sweep import _search

        _search.search(self, self.overrides(arguments), Path(self.master.hydra.sweep.dir))
