"""Every combination of the given values: hydra/sweeper=grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Override

from lenetexp.errors import UserError
from lenetexp.reporting.terminal import progress_bar
from lenetexp.sweeps.plan import Job, plan_of, warm

if TYPE_CHECKING:
    from hydra_plugins.lenetexp_sweep.sweeper import GridSweeper


def run(sweeper: "GridSweeper", overrides: Sequence[Override], folder: Path) -> None:
    """Runs every combination as one sweep. Raises `UserError` before the first job if any is wrong; or if one fails."""
    for override in overrides:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(
                f"{override.input_line}: must list its values, as key=1,2,3 or range(…); "
                "an interval needs hydra/sweeper=optuna"
            )
    plan = plan_of(sweeper, "grid", overrides)
    if not plan.keys:
        raise UserError("-m: must be given values, as optimizer.lr=0.01,0.1, or a whole sweep by name, as sweep=lr")
    (combinations,) = sweeper.split_arguments(list(overrides), None)
    if not combinations:
        swept = ", ".join(str(o.input_line) for o in overrides if o.is_sweep_override())
        raise UserError(f"{swept}: must give a value; this gives none")
    jobs: dict[str, Job] = {}
    with progress_bar(len(combinations), right="{n_fmt}/{total_fmt} configs checked") as bar:
        for combination in combinations:
            job = plan.job(combination)
            jobs.setdefault(job.config_hash, job)
            bar.update()
    if repeated := len(combinations) - len(jobs):
        print(f"{repeated} of {len(combinations)} combinations repeat others and are not run again")
    with warm(sweeper.launcher, len(jobs)):
        from lenetexp.sweeps.sweep import recorded  # imports MLflow, while the processes start

        todo = list(jobs.values())
        with recorded(todo[0].settings, folder, plan) as sweep:
            sweep.run(todo, sweeper.launcher)
