"""What predict.py makes of test images and of the user's own pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import InProcess, composed, make_pictures, run_script
from lenetexp import predict
from lenetexp.config.commands import PredictConfig
from lenetexp.config.schema import check
from lenetexp.datasets.local import digits


def predicted(store: InProcess, *words: str) -> None:
    """What the command does, within this process."""
    values = composed("device=cpu", f"tracking.uri={store.uri}", *words, name="predict")
    predict.run(check(PredictConfig, values), values, Path("predicted"))


def test_it_prints_the_tutorials_lines_and_draws_them(trained: InProcess) -> None:
    done = run_script("predict", "run=latest", "count=7", cwd=trained.cwd)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("predicted:")]
    labels = digits().test.labels[:7].tolist()
    for line, label in zip(lines, labels, strict=True):
        assert f'", actual: "{label}", confidence: ' in line
    picture = trained.cwd / done.stdout.rsplit("picture: ", 1)[1].strip()
    assert picture.stat().st_size > 10_000


def test_it_reads_photos(
    trained: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dark on light, large and off-centre: digits that the net reads in the test set, it reads here."""
    monkeypatch.chdir(tmp_path)
    test = digits().test
    for i in range(10):
        sheet = Image.new("L", (400, 300), 230)
        ink = Image.fromarray(test.images[i, 0].numpy()).resize((140, 140))
        sheet.paste(Image.fromarray((230 - np.array(ink) * 0.8).astype(np.uint8)), (40 + 10 * i, 90))
        sheet.save(f"{i}.png")
    predicted(trained, f"images={tmp_path}")
    out = capsys.readouterr().out
    assert sum(f'{i}.png: predicted: "{test.labels[i]}"' in out for i in range(10)) >= 8
    Path("broken.png").write_text("no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200)).astype(np.uint8)).save("noise.png")
    predicted(trained, "images=[broken.png,7.png]", "probabilities=true")
    out = capsys.readouterr().out
    assert "skipped: broken.png cannot be read" in out and out.count("predicted:") == 1
    assert out.count("%  ") >= 9, "all classes"
    predicted(trained, "images=[noise.png]")
    assert "not to be trusted" in capsys.readouterr().out


def test_it_finds_a_runs_images_from_another_folder(
    here: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """dataset.root was relative to the folder where the run was started."""
    make_pictures(tmp_path / "pictures")
    here.train("dataset=image_folder", "dataset.root=pictures", "epochs=1", recipe=())
    assert here.runs[0].data.params["dataset.root"] == "pictures"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    predicted(here)
    out = capsys.readouterr().out
    assert (out.count('actual: "dark"'), out.count('actual: "light"')) == (1, 1)
    assert "another digest" not in out
    assert Path("predicted/predictions.png").exists()
