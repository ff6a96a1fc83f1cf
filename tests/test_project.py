"""What a checkout promises: a hang fails, no test skips where it could run, its files agree with each other."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import CONF, PROJECT
from needs import report_missing

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
CI = (PROJECT / ".ci/run").read_text()


def test_a_test_that_hangs_fails_by_its_name_and_the_others_go_on(tmp_path: Path) -> None:
    file = tmp_path / "test_sample.py"
    file.write_text("import time\n\ndef test_hangs():\n    time.sleep(100)\n\ndef test_passes():\n    pass\n")
    words = ["-c", str(PROJECT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}  # .ci/run's own
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-n", "0", "-o", "timeout=1", str(file)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "FAILED test_sample.py::test_hangs" in done.stdout and "1 failed, 1 passed" in done.stdout
    assert PYPROJECT["tool"]["pytest"]["ini_options"]["timeout"] > 0


def test_what_is_missing_skips_a_test_unless_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LENETEXP_MNIST", raising=False)
    monkeypatch.setenv("LENETEXP_REQUIRE", "postgres")
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        report_missing("browser", "no browser")
    monkeypatch.setenv("LENETEXP_REQUIRE", "postgres,browser")
    with pytest.raises(pytest.fail.Exception, match="browser is required here, and no browser"):
        report_missing("browser", "no browser")
    monkeypatch.setenv("LENETEXP_MNIST", "nowhere")
    with pytest.raises(pytest.fail.Exception, match="mnist is required here"):
        report_missing("mnist", "no MNIST")
    monkeypatch.setenv("LENETEXP_REQUIRE", "postgers")
    with pytest.raises(pytest.UsageError, match="LENETEXP_REQUIRE=postgers: must be some of browser,mnist,postgres"):
        report_missing("browser", "no browser")


def test_what_was_tested_together_is_what_the_project_allows() -> None:
    """Each requirement has its pin in constraints.txt, within its bounds."""
    pins = [Requirement(line) for line in (PROJECT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    project = PYPROJECT["project"]
    for text in [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]:
        requirement = Requirement(text)
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), text


def test_hydra_is_neither_a_release_with_the_hole_nor_one_that_breaks_sweeps() -> None:
    (hydra,) = [Requirement(text) for text in PYPROJECT["project"]["dependencies"] if text.startswith("hydra-core")]
    assert [version for version in ("1.3.2", "1.3.7", "1.3.8", "1.4.0") if version in hydra.specifier] == ["1.3.8"]


def test_a_commit_is_checked_as_ci_checks_it() -> None:
    (repository,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"] for hook in repository["hooks"]]
    _, _, rest = CI.partition('begin "format, lint, types"\n')
    assert rest.split("\n\n")[0].splitlines() == hooks


def test_the_version_is_the_same_wherever_it_stands() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation["version"] == PYPROJECT["project"]["version"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


@pytest.mark.parametrize(
    "page", sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]), ids=lambda page: page.name
)
def test_a_page_leads_somewhere(page: Path) -> None:
    """Every relative link is to a file that is there."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_names_every_folder_that_a_command_leaves() -> None:
    """The runs' own, and those of the other commands that write files."""
    tree = (PROJECT / "README.md").read_text().partition("```\noutputs/\n")[2].partition("```")[0]
    text = "".join(path.read_text() for path in CONF.glob("*.yaml") if path.stem not in ("draw", "runs", "sync"))
    folders = {*re.findall(r"dir: \S*outputs/(\w+)/", text)}
    assert len(folders) > 7 and {folder for folder in folders if f"{folder}/" not in tree} == set()
