"""What a checkout promises: a hang fails, no test skips where it could run, its files agree with each other."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from helpers import PROJECT
from needs import report_missing

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
CI = (PROJECT / ".ci/run").read_text()


def test_a_test_that_hangs_fails_by_its_name_and_the_others_go_on(tmp_path: Path) -> None:
    file = tmp_path / "test_sample.py"
    file.write_text("import time\n\ndef test_hangs():\n    time.sleep(100)\n\ndef test_passes():\n    pass\n")
    words = ["-c", str(PROJECT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-o", "timeout=1", str(file)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
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
