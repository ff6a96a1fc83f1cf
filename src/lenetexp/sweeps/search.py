"""hydra/sweeper=optuna: trials that Optuna proposes, each when a process is free for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import count, islice
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import optuna
from filelock import FileLock
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import Field, InstanceOf

from lenetexp.config.fields import Count, replace_message
from lenetexp.config.schema import check_config
from lenetexp.config.targets import Settings
from lenetexp.errors import UserError, format_error, mask_password, mask_secrets
from lenetexp.reporting.terminal import format_path, print_line
from lenetexp.sweeps.grid import open_sweep, require_devices
from lenetexp.sweeps.plan import Job, Plan, before_first_run, stream_jobs
from lenetexp.tracking.journal import Epoch, JournalReader, ask_to_stop
from lenetexp.tracking.names import BEST_ACCURACY

if TYPE_CHECKING:
    from hydra_plugins.lenetexp_sweep.sweeper import Sweeper
    from lenetexp.sweeps.sweep import Sweep

optuna.logging.set_verbosity(optuna.logging.WARNING)

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
A_CLASS = "null or a class, as {{_target_:optuna.{}}}"
Space = dict[str, BaseDistribution]


class _SearchSettings(Settings):
    """The sweeper's own settings."""

    n_trials: Count
    n_jobs: Count
    sampler: Annotated[InstanceOf[BaseSampler] | None, replace_message(A_CLASS.format("samplers.TPESampler"))]
    pruner: Annotated[InstanceOf[BasePruner] | None, replace_message(A_CLASS.format("pruners.MedianPruner"))]
    storage: Annotated[str, Field(pattern="://"), replace_message("as sqlite:///outputs/optuna.db")]


def run(sweeper: "Sweeper", overrides: Sequence[Override], folder: Path) -> None:
    """Run trials up to the number in the settings.

    Raises:
        UserError: Something is wrong, before the first trial; or a trial failed.
    """
    with before_first_run():
        own = check_config(_SearchSettings, sweeper.settings, prefix="hydra.sweeper.")
        plan = Plan(sweeper, "search", overrides)
        space = {override.get_key_element(): parse_distribution(override) for override in plan.swept}
        if not space:
            raise UserError("hydra/sweeper=optuna: must be given a space to search, as optimizer.lr=interval(0.01,0.1)")
        # Every limit and every choice is composed and checked before the first trial.
        corners = [plan.make_job(_parse_overrides(plan, corner)).settings for corner in _list_corners(space)]
        require_devices(plan, corners)
    settings = corners[0]
    with open_sweep(plan, settings, folder, own.n_trials) as sweep:
        study = _open_study(own, sweep.recorder.run_id, space)
        _Search(own, plan, sweep, study, space).run(settings.epochs)


def _parse_overrides(plan: Plan, params: dict[str, Any]) -> list[str]:
    return [*plan.fixed, *(f"{key}={value}" for key, value in params.items())]


class _Search:
    """A search while it runs."""

    def __init__(self, own: _SearchSettings, plan: Plan, sweep: "Sweep", study: optuna.Study, space: Space) -> None:
        self.own, self.plan, self.sweep, self.study, self.space = own, plan, sweep, study, space
        self.running: dict[int, tuple[Trial, Job]] = {}  # by the job's number
        self.reported: dict[int, set[int]] = {}  # epochs that Optuna has of an interrupted trial, by the trial's number
        self.exhausted = False  # whether the sampler has nothing more to propose
        self.is_user_told = False  # whether the user knows that the store fails

    def run(self, epochs: int) -> None:
        """Run all trials that are left, of at most `epochs` epochs each."""
        before = self.study.get_trials(deepcopy=False)
        ended_count = sum(trial.state in ENDED for trial in before)
        to_do = max(self.own.n_trials - ended_count, 0)
        if ended_count:
            print(f"{ended_count} of {self.own.n_trials} trials are done already", flush=True)
        if to_do:
            print(f"{to_do} trials, in {format_path(self.sweep.folder)}", flush=True)
        launcher: Any = self.plan.sweeper.launcher
        with self.sweep.show_progress(launcher, to_do, to_do * epochs, self._report):
            stream_jobs(launcher, self._generate_jobs(before, to_do), self._take, self.own.n_jobs)

    def _generate_jobs(self, before: Sequence[FrozenTrial], to_do: int) -> Iterator[list[str]]:
        """Yield each trial's job, made only when a process is free for it: Optuna then knows the most."""
        numbers = count()
        for trial in islice(self._generate_trials(before), to_do):
            job = self.plan.make_job(_parse_overrides(self.plan, trial.params))
            if finished := self.sweep.enter(job):
                self._tell(trial, finished.metrics.get(BEST_ACCURACY, nan))
                continue
            self._ignore_outage(self.sweep.save_index)
            self.running[next(numbers)] = (trial, job)
            yield self.sweep.build_overrides(job)

    def _generate_trials(self, before: Sequence[FrozenTrial]) -> Iterator[Trial]:
        """Yield first what an earlier command left running or failed, then new trials."""
        for frozen in before:
            if frozen.state == TrialState.RUNNING:
                if set(frozen.params) == set(self.space):
                    self.reported[frozen.number] = set(frozen.intermediate_values)
                    yield Trial(self.study, frozen._trial_id)
                else:  # killed while it was drawn
                    self.study.tell(frozen.number, state=TrialState.FAIL)
        again = {repr(t.params): t.params for t in before if t.state == TrialState.FAIL and t.params}
        finished_trials = {repr(t.params) for t in before if t.state in ENDED}
        for key in again.keys() - finished_trials:
            self.study.enqueue_trial(again[key])
        while not self.exhausted:
            try:
                trial = self.study.ask(self.space)
            except ValueError as error:  # of a sampler that has a space of its own
                name = type(self.study.sampler).__name__
                raise UserError(f"hydra.sweeper.sampler={name}: {format_error(error)}") from error
            yield trial
        print_line("  the sampler has nothing more to propose")

    def _take(self, number: int, result: JobReturn) -> None:
        trial, job = self.running.pop(number)
        if self.sweep.note_failure(job, result):
            self._tell(trial, state=TrialState.FAIL)
        else:
            pruned = JournalReader(self.sweep.get_folder(job)).ending == "pruned"
            self._tell(trial, nan if pruned else float(result.return_value))
        self._ignore_outage(lambda: self.sweep.mark_finished(job))

    def _report(self, folder: Path, epoch: Epoch) -> None:
        """Report a running trial's epoch to Optuna, and ask it to stop if the pruner gives it up."""
        for trial, job in list(self.running.values()):
            is_new = epoch.epoch not in self.reported.get(trial.number, ())
            if is_new and self.sweep.get_folder(job) == folder:
                with suppress(optuna.exceptions.OptunaError):  # the trial may have ended meanwhile
                    trial.report(epoch.metrics["val/accuracy"], epoch.epoch)
                    if trial.should_prune():
                        ask_to_stop(folder)

    def _tell(self, trial: Trial, value: float = nan, state: TrialState | None = None) -> None:
        # A run that diverged in its first epoch is a result, and the worst: Optuna has no worse than pruned.
        state = state or (TrialState.PRUNED if isnan(value) else TrialState.COMPLETE)
        try:
            self.study.tell(trial, None if isnan(value) else value, state=state)
        except RuntimeError as error:
            # How samplers that go through a list say that it is finished; the trial has been told by then.
            if "Study.stop" not in str(error):
                raise
            self.exhausted = True

    def _ignore_outage(self, do: Callable[[], None]) -> None:
        """Do what can also be done at the end: a store that is away for a while ends no search."""
        try:
            do()
        except UserError as error:
            if not self.is_user_told:
                print_line(f"note: {error}; the search goes on")
            self.is_user_told = True


def parse_distribution(override: Override) -> BaseDistribution:
    """Convert Hydra's sweep syntax into an Optuna distribution.

    Raises:
        UserError: Optuna does not accept the interval.
    """
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            assert value.start is not None and value.end is not None
            log = "log" in value.tags
            if "int" in value.tags or (isinstance(value.start, int) and isinstance(value.end, int)):
                return IntDistribution(int(value.start), int(value.end), log=log)
            return FloatDistribution(float(value.start), float(value.end), log=log)
        if isinstance(value, RangeSweep) and not value.shuffle:
            steps = list(value.range())
            if all(isinstance(step, int) for step in steps):
                low, high = int(min(steps)), int(max(steps))
                return IntDistribution(low, high, log="log" in value.tags, step=abs(int(value.step)))
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, IndexError) as error:
        raise UserError(f"{override.input_line}: {format_error(error)}") from None


def _parse_limits(distribution: Any) -> list[Any]:
    return (
        list(distribution.choices)
        if isinstance(distribution, CategoricalDistribution)
        else [distribution.low, distribution.high]
    )


def _list_corners(space: Space) -> list[dict[str, Any]]:
    """List points that together have every limit and every choice at least once."""
    limits = {key: _parse_limits(distribution) for key, distribution in space.items()}
    longest = max(map(len, limits.values()))
    return [{key: each[min(i, len(each) - 1)] for key, each in limits.items()} for i in range(longest)]


def _open_study(own: _SearchSettings, name: str, space: Space) -> optuna.Study:
    """Open the study of this sweep, new or of its earlier command.

    Raises:
        UserError: The earlier command searched another space.
    """
    sqlite = own.storage.startswith("sqlite")
    path = Path(own.storage.removeprefix("sqlite:///"))
    try:
        if sqlite:
            path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock") if sqlite else nullcontext():
            study = optuna.create_study(
                study_name=name,
                storage=own.storage,
                sampler=own.sampler or TPESampler(),
                pruner=own.pruner or NopPruner(),
                direction="maximize",
                load_if_exists=True,
            )
    except Exception as error:  # a database driver may raise anything
        reason = mask_secrets(format_error(error), own.storage)[:200]
        address = mask_password(own.storage, whole=True)
        raise UserError(f"hydra.sweeper.storage={address}: {reason}") from error
    for trial in study.get_trials(deepcopy=False):
        for key, then in trial.distributions.items():
            try:
                optuna.distributions.check_distribution_compatibility(then, space[key])
            except (KeyError, ValueError):
                pairs = ", " if isinstance(then, CategoricalDistribution) else " to "
                raise UserError(
                    f"resume=true: {key} was searched over {pairs.join(map(str, _parse_limits(then)))} before, and "
                    "a resumed search needs the same choices; start a new one without resume"
                ) from None
    return study
