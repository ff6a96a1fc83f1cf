"""hydra/sweeper=grid: every combination of the given values. And how any sweep starts its processes."""

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override

from lenetexp import cli
from lenetexp.config.schema import RunConfig
from lenetexp.errors import UserError
from lenetexp.reporting.terminal import make_progress_bar, show_status
from lenetexp.sweeps.plan import Job, Plan, before_first_run

if TYPE_CHECKING:
    from hydra_plugins.lenetexp_sweep.sweeper import Sweeper
    from lenetexp.sweeps.sweep import Sweep


def run(sweeper: "Sweeper", overrides: Sequence[Override], folder: Path) -> None:
    """Run every combination as one sweep.

    Raises:
        UserError: A combination is wrong, before the first job; or a job failed.
    """
    with before_first_run():
        plan = Plan(sweeper, "grid", overrides)
        jobs = _check_jobs(plan, overrides)
        require_devices(plan, [job.settings for job in jobs])
    with open_sweep(plan, jobs[0].settings, folder, len(jobs)) as sweep:
        sweep.run(jobs, sweeper.launcher)


def _check_jobs(plan: Plan, overrides: Sequence[Override]) -> list[Job]:
    """Compose and validate the jobs of all combinations, each config once.

    Raises:
        UserError: One is wrong.
    """
    for override in plan.swept:
        if not override.is_discrete_sweep():
            raise UserError(
                f"{override.input_line}: must list its values, as key=1,2,3 or range(…); "
                "an interval needs hydra/sweeper=optuna"
            )
    if not plan.keys:
        raise UserError("-m: must be given values, as optimizer.lr=0.01,0.1, or a whole sweep by name, as sweep=lr")
    (combinations,) = plan.sweeper.split_arguments(list(overrides), None)
    if not combinations:
        empty = [str(override.input_line) for override in plan.swept if not any(override.sweep_string_iterator())]
        raise UserError(f"{', '.join(empty)}: must give a value; this gives none")
    jobs: dict[str, Job] = {}
    with make_progress_bar(len(combinations), right="{n_fmt}/{total_fmt} configs checked") as bar:
        for combination in combinations:
            job = plan.make_job(combination)
            jobs.setdefault(job.config_hash, job)
            bar.update()
    if repeated := len(combinations) - len(jobs):
        print(f"{repeated} of {len(combinations)} combinations repeat others and are not run again")
    return list(jobs.values())


def require_devices(plan: Plan, settings: Iterable[RunConfig]) -> None:
    """Check that the devices exist, unless the launcher takes the runs to other machines.

    Raises:
        UserError: One does not.
    """
    if hasattr(plan.sweeper.launcher, "start_workers"):
        for one in {run.device.name: run for run in settings}.values():
            cli.require_device(one)


@contextmanager
def open_sweep(plan: Plan, settings: RunConfig, folder: Path, at_most: int) -> Iterator["Sweep"]:
    """Open a sweep as `sweep.record_sweep` does, while up to `at_most` processes of the local launcher start."""
    launcher: Any = plan.sweeper.launcher

    def describe_start() -> str:
        """Describe what the user waits for."""
        waits = filter(None, [getattr(launcher, "readiness", ""), "opening the MLflow store"])
        return f"starting: {', '.join(waits)} …"

    with ExitStack() as stack:
        with show_status(describe_start):
            with before_first_run():
                if hasattr(launcher, "start_workers"):
                    stack.enter_context(launcher.start_workers(at_most))
                with cli.pause_garbage_collection():
                    from lenetexp.sweeps.sweep import record_sweep  # imports MLflow
            sweep = stack.enter_context(record_sweep(settings, folder, plan))
        yield sweep


def warm_up() -> None:
    """Prepare a new worker process of the local launcher for its runs."""
    with cli.pause_garbage_collection():
        import lenetexp.reporting.run_figures
        import lenetexp.runs.experiment
        import lenetexp.tracking.process

        lenetexp.tracking.process.import_mlflow()
    # Searching what a run makes for garbage would cost it half a second.
    gc.set_threshold(50_000, 20, 20)
