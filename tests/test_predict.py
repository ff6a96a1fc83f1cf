"""What predict.py makes of test images and of the user's own pictures."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import InProcess, composed, make_pictures, run_script
from lenetexp import predict
from lenetexp.config.commands import PredictConfig
from lenetexp.config.schema import check_config
from lenetexp.datasets.local import digits
from lenetexp.errors import UserError


def predicted(store: InProcess, *words: str) -> None:
    """What the command does, within this process."""
    values = composed("device=cpu", f"tracking.uri={store.uri}", *words, name="predict")
    predict.run(check_config(PredictConfig, values), values, Path("predicted"))


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
    make_pictures(tmp_path / "pictures")  # sorted by class
    for i in range(8, 108):
        Image.new("L", (28, 28), 20 + i % 20).save(tmp_path / f"pictures/dark/{i}.png")
        Image.new("L", (28, 28), 220 + i % 20).save(tmp_path / f"pictures/light/{i}.png")
    here.train("dataset=image_folder", "dataset.root=pictures", "epochs=1", recipe=())
    assert here.runs[0].data.params["dataset.root"] == "pictures"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    predicted(here)
    out = capsys.readouterr().out
    assert (out.count('actual: "dark"'), out.count('actual: "light"')) == (5, 5)
    assert "another digest" not in out
    assert Path("predicted/predictions.png").exists()


def save_digits(folder: Path, count: int) -> None:
    """Test images as they are, 28×28 and white on black, in a folder for each class."""
    test = digits().test
    for number, label in enumerate(test.labels[:count].tolist()):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images[number, 0].numpy()).save(folder / f"{label}/{number:03}.png")


def test_a_folder_for_each_class_is_scored_by_its_names(
    trained: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_digits(Path("ours"), 40)
    Path("ours/7/notes.txt").touch()
    Path("ours/sketches").mkdir()
    shutil.copy(next(Path("ours/4").iterdir()), "ours/sketches/nobody.png")
    predicted(trained, "images=ours", "count=100")
    out = capsys.readouterr().out
    assert out.count(", actual: ") == 40 and "ignored: 1 .txt; pictures are .bmp" in out and "skipped" not in out
    right = 40 - out.count("   wrong")
    assert right >= 32 and f"accuracy: {right / 40:.2%} ({right} of 40 correct)" in out
    predicted(trained, "images=ours")
    out = capsys.readouterr().out
    assert "10 of 41 pictures (count=41 for all)" in out
    assert len({line[5] for line in out.splitlines() if line.startswith("ours/")}) >= 8, "of nearly every class"


def test_what_is_no_picture_is_told_to_be_converted(trained: InProcess, tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.7\n%")
    for name, kind in (("photo.heic", "HEIC"), ("scan.pdf", "PDF")):
        with pytest.raises(UserError, match=rf"{name} cannot be read: it is {kind}; convert it to JPEG or PNG$"):
            predicted(trained, f"images={tmp_path / name}")


def test_signs_side_by_side_are_doubted(
    trained: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = np.concatenate([digits().test.images[number, 0].numpy() for number in range(4)], axis=1)
    Image.fromarray(255 - row).resize((448, 112)).save("four.png")
    Image.fromarray(255 - row[:, :28]).resize((112, 112)).save("one.png")
    predicted(trained, "images=[four.png,one.png]")
    four, one = (line for line in capsys.readouterr().out.splitlines() if "predicted:" in line)
    assert re.search("holds [34] signs side by side, and a net reads one", four) and "side by side" not in one
