"""A search with Optuna: ask for a trial whenever a process is free, tell its result when it is done."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from filelock import FileLock
from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    RangeSweep,
)
from hydra.core.utils import JobReturn
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState

from hydra_plugins.lenetexp_sweep._sweeps import compose, identity_of, launch, settle, split, warm
from hydra_plugins.lenetexp_sweep.launcher import LocalLauncher
from lenetexp import journal
from lenetexp.config import Job, UserError, one_line
from lenetexp.report import Progress, SweepProgress, shown

if TYPE_CHECKING:
    from hydra_plugins.lenetexp_sweep.sweeper import OptunaSweeper
    from lenetexp.sweep import Sweep

optuna.logging.set_verbosity(optuna.logging.WARNING)


def search(sweeper: "OptunaSweeper", overrides: Sequence[Override], folder: Path) -> None:
    """Runs trials until the study has as many as were asked for.

    Raises:
        UserError: the space or the config is wrong, before anything starts; or, in the end, a trial failed.
    """
    _check(sweeper)
    keys, fixed = split(overrides)
    space = {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
    if not space:
        raise UserError(
            "hydra/sweeper=optuna: must be given a space to search, as optimizer.lr=interval(0.01,0.1)"
        )
    rest = [
        f"{o.get_key_element()}={o.get_value_element_as_str()}"
        for o in overrides
        if not o.is_sweep_override()
    ]
    corners = [compose(sweeper, [*rest, *_assignments(corner)], keys) for corner in _corners(space)]
    with warm(sweeper.runner, sweeper.n_trials):
        from lenetexp.sweep import recorded

        names = [key.lstrip("+") for key in keys]
        with recorded(
            corners[0].settings, folder, names, identity_of(sweeper, "search", keys, fixed)
        ) as sweep:
            settle(sweeper, sweep.folder)
            study = _study(sweeper, sweep, space)
            _Search(sweeper, sweep, study, space, rest, keys).run(corners[0].settings.epochs)


def _check(sweeper: "OptunaSweeper") -> None:
    """Raises UserError where one of the sweeper's own settings makes no sense."""
    for key, number in (("n_trials", sweeper.n_trials), ("n_jobs", sweeper.n_jobs)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise UserError(f"hydra.sweeper.{key}={number}: must be a whole number, 1 or more")
    for key, given, kind, example in (
        ("sampler", sweeper.sampler, optuna.samplers.BaseSampler, "optuna.samplers.TPESampler"),
        ("pruner", sweeper.pruner, optuna.pruners.BasePruner, "optuna.pruners.MedianPruner"),
    ):
        if given is not None and not isinstance(given, kind):
            raise UserError(
                f"hydra.sweeper.{key}={given}: must be null or a class, as {{_target_:{example}}}"
            )
    if not (isinstance(sweeper.storage, str) and "://" in sweeper.storage):
        raise UserError(f"hydra.sweeper.storage={sweeper.storage}: must be as sqlite:///outputs/optuna.db")


class _Search:
    """A search while it runs."""

    def __init__(
        self,
        sweeper: "OptunaSweeper",
        sweep: "Sweep",
        study: optuna.Study,
        space: dict[str, BaseDistribution],
        rest: Sequence[str],
        keys: Sequence[str],
    ) -> None:
        self.sweeper, self.sweep, self.study = sweeper, sweep, study
        self.space, self.rest, self.keys = space, rest, keys
        self.running: dict[int, tuple[Trial, Job]] = {}  # by the job's number
        self.exhausted = False  # whether the sampler has nothing more to try
        self.noted = False  # whether it was said that the store fails

    def run(self, epochs: int) -> None:
        """All trials that are left."""
        before = self.study.get_trials(deepcopy=False)
        ended = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in before)
        if ended:
            print(f"{ended} of {self.sweeper.n_trials} trials are done already", flush=True)
        to_do = max(self.sweeper.n_trials - ended, 0)
        if to_do:
            print(f"{to_do} trials, in {shown(self.sweep.folder)}", flush=True)
        jobs = self._jobs(before, to_do)
        runner = self.sweeper.runner
        with SweepProgress(self.sweep.folder, to_do, to_do * epochs), _Pruning(self):
            if isinstance(runner, LocalLauncher):
                runner.stream(jobs, self._take, first=0)
                return
            number = 0
            while wave := [job for _, job in zip(range(self.sweeper.n_jobs), jobs, strict=False)]:
                for result in launch(runner, wave, number):
                    self._take(number, result)
                    number += 1

    def _jobs(self, before: Sequence[FrozenTrial], to_do: int) -> Iterator[list[str]]:
        """Each trial's job, made only when a process is free for it: Optuna then knows the most."""
        number = 0
        for _, trial in zip(range(to_do), self._trials(before), strict=False):
            job = compose(self.sweeper, [*self.rest, *_assignments(trial.params)], self.keys)
            if self.sweep.skip(job):
                self._tell(trial, self.sweep.value_of(job))
                continue
            self._if_it_answers(self.sweep.keep)
            self.running[number] = (trial, job)
            number += 1
            yield self.sweep.overrides(job)

    def _trials(self, before: Sequence[FrozenTrial]) -> Iterator[Trial]:
        """First what an earlier command left unfinished, and what failed then; after that, new ones."""
        for frozen in before:
            if frozen.state == TrialState.RUNNING:
                if set(frozen.params) == set(self.space):
                    yield Trial(self.study, frozen._trial_id)
                else:  # killed before it was drawn to the end
                    self.study.tell(frozen.number, state=TrialState.FAIL)
        again = {repr(t.params): t.params for t in before if t.state == TrialState.FAIL and t.params}
        done = {repr(t.params) for t in before if t.state in (TrialState.COMPLETE, TrialState.PRUNED)}
        for key, params in again.items():
            if key not in done:
                self.study.enqueue_trial(params)
        while not self.exhausted:
            try:
                trial = self.study.ask(self.space)
            except ValueError as error:  # as a sampler raises that has a space of its own
                name = type(self.study.sampler).__name__
                raise UserError(f"hydra.sweeper.sampler={name}: {one_line(error)}") from error
            yield trial
        Progress.write("  the sampler has nothing more to try")

    def _take(self, number: int, result: JobReturn) -> None:
        from lenetexp.sweep import failure_of

        trial, job = self.running.pop(number)
        reason = failure_of(result)
        if reason:
            self.sweep.failed(job, reason)
            self._end(trial, TrialState.FAIL)
        elif journal.ending_of(journal.read(self.sweep.folder_of(job) / journal.NAME)) == "pruned":
            self._end(trial, TrialState.PRUNED)
        else:
            self._tell(trial, float(result.return_value))
        self._if_it_answers(lambda: self.sweep.done(job))

    def _tell(self, trial: Trial, value: float) -> None:
        """A run that diverged before it had any accuracy is a result, and the worst: as if pruned."""
        if isnan(value):
            self._end(trial, TrialState.PRUNED)
        else:
            self._end(trial, TrialState.COMPLETE, value)

    def _end(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        try:
            self.study.tell(trial, value, state=state)
        except RuntimeError as error:
            # How samplers that go through a list say that it is done; the trial has been told by then.
            if "Study.stop" not in str(error):
                raise
            self.exhausted = True

    def _if_it_answers(self, do: Callable[[], None]) -> None:
        """What can be done at the end, too: a store that is away for a while ends no search."""
        try:
            do()
        except UserError as error:
            if not self.noted:
                Progress.write(f"note: {error}; the search goes on")
            self.noted = True


class _Pruning:
    """Tells Optuna of running trials' epochs, and asks those to stop that its pruner gives no hope."""

    def __init__(self, search: _Search) -> None:
        self.search = search
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.reported: dict[int, int] = {}  # epochs by the trial's number

    def __enter__(self) -> None:
        if self.search.sweeper.pruner is not None:
            self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if self.thread.is_alive():
            self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.2):
            for trial, job in list(self.search.running.values()):
                # It may end, and be told, while it is looked at.
                with suppress(optuna.exceptions.OptunaError, KeyError):
                    self._look(trial, self.search.sweep.folder_of(job))

    def _look(self, trial: Trial, folder: Path) -> None:
        epochs = [e for e in journal.read(folder / journal.NAME) if e["event"] == "epoch"]
        for event in epochs[self.reported.get(trial.number, 0) :]:
            trial.report(event["val/accuracy"], event["epoch"])
            self.reported[trial.number] = event["epoch"]
            if trial.should_prune():
                journal.ask_to_stop(folder)


def distribution(override: Override) -> BaseDistribution:
    """What Optuna draws from, of Hydra's sweep syntax.

    Raises:
        UserError: an interval that Optuna does not take.
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
        raise UserError(f"{override.input_line}: {one_line(error)}") from None


def _assignments(params: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]


def _corners(space: dict[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Points that show whether a space's values are good: every limit and every choice at least once."""
    values = []
    for given in space.values():
        if isinstance(given, CategoricalDistribution):
            values.append(list(given.choices))
        else:
            assert isinstance(given, (IntDistribution, FloatDistribution))
            values.append([given.low, given.high])
    longest = max(map(len, values))
    return [
        {key: each[min(i, len(each) - 1)] for key, each in zip(space, values, strict=True)}
        for i in range(longest)
    ]


def _study(sweeper: "OptunaSweeper", sweep: "Sweep", space: Mapping[str, BaseDistribution]) -> optuna.Study:
    """The study of this sweep: the one of its earlier command where it is gone on with.

    Raises:
        UserError: its storage does not answer, or it searched another space.
    """
    path = Path(sweeper.storage.removeprefix("sqlite:///"))
    try:
        if sweeper.storage.startswith("sqlite"):
            path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock") if sweeper.storage.startswith("sqlite") else threading.Lock():
            study = optuna.create_study(
                study_name=sweep.recorder.run_id,
                storage=sweeper.storage,
                sampler=sweeper.sampler or optuna.samplers.TPESampler(),
                pruner=sweeper.pruner or optuna.pruners.NopPruner(),
                direction="maximize",
                load_if_exists=True,
            )
    except Exception as error:  # whatever a database's driver throws
        raise UserError(f"hydra.sweeper.storage={sweeper.storage}: {one_line(error)[:200]}") from error
    for trial in study.get_trials(deepcopy=False):
        for key, then in trial.distributions.items():
            try:
                optuna.distributions.check_distribution_compatibility(then, space[key])
            except (KeyError, ValueError):
                raise UserError(
                    f"resume=true: {key} was searched over {_told(then)} before, and a search goes on over "
                    "the same choices; begin a new one without resume"
                ) from None
    return study


def _told(given: BaseDistribution) -> str:
    if isinstance(given, CategoricalDistribution):
        return ", ".join(map(str, given.choices))
    assert isinstance(given, (IntDistribution, FloatDistribution))
    return f"{given.low} to {given.high}"
