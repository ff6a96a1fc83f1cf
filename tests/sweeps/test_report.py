"""The report of a sweep and of a run, as commands write it; what a user types comes out as text."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from helpers import Command, InProcess, Store, composed, run_script
from lenetexp.config.commands import ReportConfig
from lenetexp.config.schema import check_config
from lenetexp.errors import UserError
from lenetexp.sweeps.report import add_report, describe_ending, report
from lenetexp.sweeps.results import sort_best_first
from lenetexp.sweeps.run_files import RunFiles, format_single_command
from lenetexp.tracking.names import Tag
from lenetexp.tracking.query import RecordedRun
from lenetexp.tracking.recorder import create_run
from lenetexp.tracking.store import open_store

# A custom net whose setting may be anything.
MINE = """
from lenetexp.models import LeNet

class Net(LeNet):
    def __init__(self, note, **settings):
        super().__init__(**settings)
        if note == "fails":
            raise ValueError("a <b>reason</b>")
"""
HOSTILE = "<script>alert(1)</script>"
RELATIVE = "sqlite:///outputs/mlflow.db"
EXPERIMENT = "<img src=x onerror=alert(2)>"
SWEEP = ["-m", "experiment=smoke", "model._target_=mine.Net", f"+model.note='{HOSTILE}',plain,fails"]
SWEEP += ["seed=1,2", f"tracking.experiment='{EXPERIMENT}'", "trust=[mine]"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A sweep of six runs, of which two failed, with markup in its experiment's name and in a swept value."""
    cwd = tmp_path_factory.mktemp("report")
    (cwd / "mine.py").write_text(MINE)
    done = run_script("run", *SWEEP, cwd=cwd, timeout=300)
    assert "2 of 6 runs failed" in done.stderr
    assert re.search(r"^  report +outputs/sweeps/", done.stdout, re.MULTILINE), done.stdout
    return Store(cwd, experiment=EXPERIMENT)


def reported(swept: Store, *words: str) -> str:
    """The page that scripts/report.py writes with these words, without starting a process."""
    words = (f"tracking.uri={swept.uri}", f"tracking.experiment='{EXPERIMENT}'", *words)
    values = composed(*words, name="report")
    report(check_config(ReportConfig, values), values, swept.cwd)
    return (swept.cwd / "report.html").read_text()


def text_of(page: str) -> str:
    """What a person reads."""
    body = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<.*?>", " ", body)).split())


def test_a_sweep_leaves_a_report_in_its_folder_and_in_mlflow(swept: Store) -> None:
    """And scripts/report.py writes the same again."""
    (path,) = swept.cwd.glob("outputs/sweeps/*/report.html")
    (sweep,) = swept.sweeps
    assert "report.html" in swept.artifacts(sweep)
    done = run_script("report", f"tracking.experiment='{EXPERIMENT}'", "sweep=latest", cwd=swept.cwd)
    assert re.fullmatch(r"  report  outputs/reports/\S+/report.html\n", done.stdout), done.stderr
    again = (swept.cwd / done.stdout.split()[-1]).read_text()
    assert path.read_text() == again == reported(swept, f"which={sweep.info.run_id}").replace(swept.uri, RELATIVE)


def test_it_says_what_was_asked_what_came_out_and_how_to_repeat_it(swept: Store) -> None:
    page = reported(swept)
    text = text_of(page)
    assert "How does the validation accuracy of Net on digits change with model.note (" in text
    assert ")? 6 runs over 2 seeds; everything else is as in the recipe below." in text
    for part in ("best setting", "4 finished", "2 failed", ": a <b>reason</b>", "Every setting", "Every run"):
        assert part in text, part
    assert page.count("data:image/png;base64,") == 3, "inside the best and the worst run, the mistakes of the best"
    best = get_run_of(swept).data
    assert f"only {best.tags['mlflow.runName']} python scripts/run.py experiment=smoke" in text
    assert re.search(r"digits, digest \w{36}, 1295 train, 143 val, 359 test images", text)
    facts = re.search(r'<div class="facts">(.*?)</div>\s*</header>', page, re.S)
    assert facts and "began" not in facts[1] and "began" in page
    assert re.search(r"<li>seeds needed: [^<]*:<pre tabindex=\"0\"><code>python \S*scripts/run.py -m ", page)
    for command in ("scripts/predict.py run=", "scripts/compare.py sweep=", "scripts/report.py sweep="):
        assert command in text


def get_run_of(swept: Store) -> Any:
    (sweep,) = swept.sweeps
    return swept.client.get_run(sweep.data.tags["lenetexp.best_run"])


def test_what_a_user_typed_is_text(swept: Store) -> None:
    """In the experiment's name, a swept value, a failed run's reason; and in a name that MLflow's UI gave a run."""
    best = get_run_of(swept)
    swept.client.update_run(best.info.run_id, name=f"renamed {HOSTILE}")
    for page in (reported(swept), reported(swept, f"run={best.info.run_id}")):
        assert page.count("<script") == 2 and "<b>reason" not in page and "<img src=x" not in page
        text = text_of(page)
        assert f"renamed {HOSTILE}" in text and f"experiment {EXPERIMENT}" in text
    asked = re.search(r"change with model.note \((.*?)\)\? 6 runs", text_of(reported(swept)))
    assert asked and sorted(asked[1].split(", ")) == [f"'{HOSTILE}'", "fails", "plain"]


def test_the_report_of_a_run(swept: Store) -> None:
    run = get_run_of(swept)
    page = reported(swept, f"run={run.info.run_id}")
    text = text_of(page)
    assert f"record run {run.info.run_id} in sqlite:///" in text and "ended finished" in text
    assert "One run of Net (" in text and " on digits, 2 epochs at batch size 32, Adam lr=0.002" in text
    assert "Every run" not in text and "Accuracy by setting" not in text
    assert page.count('<figure class="chart"') == 2 and "Mistakes" in text


def test_the_best_and_the_worst_run_are_beside_each_other_inside(swept: Store) -> None:
    """If they have the picture: runs with diagnostics=off have none."""
    page = reported(swept)
    captions = re.findall(r"<figcaption>(The \w+ run): ", page)
    assert captions == ["The best run", "The worst run", "The best run"], "the last has its mistakes"
    pictures = [*swept.cwd.glob("outputs/sweeps/*/*/figures/inside.png")]
    for path in pictures:
        path.rename(path.with_suffix(".away"))
    page = reported(swept)
    for path in pictures:
        path.with_suffix(".away").rename(path)
    assert pictures and "Inside the net" not in page and page.count("data:image/png") == 1


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["sweep=1", "tracking.experiment=Default"], ["sweep=1", "no such run", "latest, the id of a sweep's run"]),
        (["run=latest", "tracking.experiment=Default"], ["run=latest", "no finished run", "tracking.experiment="]),
        (["runn=latest"], ["runn=latest", "no such setting", "did you mean run?"]),
        (["run=[1]"], ["run=[1]", "latest, best, best:DATASET, a run's id"]),
        (["-m", "run=1"], ["-m: only run.py takes it"]),
    ],
)
def test_a_report_that_cannot_be_made(swept: Store, typed: Command, words: list[str], fragments: list[str]) -> None:
    done = typed("report", f"tracking.uri={swept.uri}", *words)
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert all(fragment in done.stderr for fragment in fragments), done.stderr


def test_a_sweep_is_no_run(swept: Store) -> None:
    with pytest.raises(UserError, match=r"run=\w{32}: is a sweep; its report: sweep=\w{32}"):
        reported(swept, f"run={swept.sweeps[0].info.run_id}")


def test_a_sweep_ends_well_without_its_report(
    here: InProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = check_config(ReportConfig, composed(f"tracking.uri={here.uri}", name="report"))
    recorder = create_run(open_store(settings.tracking), "s", {})
    (tmp_path / "report.html").mkdir()
    add_report(recorder, sort_best_first([], ["lr"]), ["lr"], tmp_path, [])
    out = capsys.readouterr().out
    assert re.match(rf"note: no report \(IsADirectoryError: .*\); later: .*report.py sweep={recorder.run_id}", out)
    (tmp_path / "report.html").rmdir()
    add_report(recorder, sort_best_first([], ["lr"]), ["lr"], tmp_path, [])  # of a sweep without a run
    assert "<h1>s</h1>" in (tmp_path / "report.html").read_text() and here.artifacts(here.runs[0]) == {"report.html"}


def test_a_record_that_is_damaged_is_reported_as_far_as_it_goes(here: InProcess, tmp_path: Path) -> None:
    settings = check_config(ReportConfig, composed(f"tracking.uri={here.uri}", name="report"))
    store = open_store(settings.tracking)
    recorder = create_run(store, "s", {"swept.lr": "1"})
    for name, content in (("config.yaml", "model: 3"), ("dataset.json", "[1]"), ("command.txt", "python 'run.py")):
        (tmp_path / name).write_text(content)
        recorder.log_artifacts(tmp_path / name, "reproduce" if name == "command.txt" else None)
    values = composed(f"tracking.uri={here.uri}", f"run={recorder.run_id}", name="report")
    report(check_config(ReportConfig, values), values, tmp_path)
    text = text_of((tmp_path / "report.html").read_text())
    assert "One run of s." in text and "the sweep that it is a run of python 'run.py this report" in text


@pytest.mark.parametrize(
    ("status", "verdict", "text", "kind"),
    [
        ("finished", None, "finished", "good"),
        ("finished", "learned", "finished", "good"),
        ("at chance", "did not learn", "did not learn", "bad"),
        ("finished", "collapsed after epoch 3", "collapsed after epoch 3", "bad"),
        ("failed", "learned", "failed", "bad"),
        ("killed", None, "killed", "fair"),
    ],
)
def test_a_run_that_is_a_result_is_called_by_its_verdict(
    status: str, verdict: str | None, text: str, kind: str
) -> None:
    run = RecordedRun("1", "r", "FINISHED", {}, {}, {Tag.VERDICT: verdict} if verdict else {}, 0)
    assert (describe_ending(status, run).text, describe_ending(status, run).kind) == (text, kind)
    assert describe_ending(status, None).text == status


def test_a_command_that_repeats_a_run_resumes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        RunFiles, "read_text", lambda self, path: "python /here/scripts/run.py lr=1 resume=true epochs=2"
    )
    run = RecordedRun("1", "r", "FINISHED", {}, {}, {}, 0)
    assert RunFiles(run).list_commands("") == [("the run again", "python scripts/run.py lr=1 epochs=2")]


def test_one_job_of_a_sweep_by_itself() -> None:
    command = (
        "python scripts/run.py -m optimizer.lr=0.1,1 '+model.how=a,b' epochs=4 hydra.launcher.n_jobs=2 resume=true"
    )
    assert format_single_command(command, {"optimizer.lr": "0.1", "model.how": "it's"}) == (
        "python scripts/run.py epochs=4 optimizer.lr=0.1 '+model.how=it'\"'\"'s'"
    )
    assert format_single_command("python scripts/run.py -m sweep=lr", {"optimizer.lr": "1"}) == (
        "python scripts/run.py optimizer.lr=1"
    )
