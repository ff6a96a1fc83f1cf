"""scripts/describe.py: the table of layers and the pictures, as a user gets them."""

import re
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

from helpers import Command, run_script
from lenetexp.models.counts import find_copies, list_layers


def pictures(cwd: Path) -> dict[str, tuple[int, int]]:
    """The pictures of the only net there, with their sizes; none is blank."""
    (folder,) = (cwd / "outputs/nets").iterdir()
    found = {}
    for path in folder.iterdir():
        with Image.open(path) as image:
            found[path.name] = image.size
            assert len(image.convert("L").getcolors() or range(257)) > 2
    return found


def test_lenet_5_is_counted_and_drawn(tmp_path: Path) -> None:
    done = run_script("describe", "model=lenet_5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for row in (
        "layer kind output units parameters connections",
        "input image 1@32×32 1,024 0 0",
        "c1 convolution 6@28×28 4,704 156 122,304",
        "c3 convolution 16@10×10 1,600 1,516 151,600",
        "output RBF 10 10 0 840",
        "total 9,118 60,000 340,908",
    ):
        assert re.search(rf"^ *{re.escape(row).replace(chr(92) + ' ', ' +')}$", done.stdout, re.MULTILINE), row
    assert {*pictures(tmp_path)} == {"net.png", "connections.png", "bitmaps.png"}
    assert all(name in done.stdout for name in pictures(tmp_path)), "says where they are"


def test_a_net_without_tables_has_one_picture_and_any_number_of_classes(typed: Command, tmp_path: Path) -> None:
    done = typed("describe", "model=lenet", "classes=47", "channels=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"output +full connection +47 +47 +3,995 +3,995", done.stdout)
    assert {*pictures(tmp_path)} == {"net.png"}
    width, height = pictures(tmp_path)["net.png"]
    assert width > height


def test_of_nets_side_by_side_one_is_drawn(typed: Command, tmp_path: Path) -> None:
    for model in ("lenet_4", "boosted_lenet_4"):
        done = typed("describe", f"model={model}", f"hydra.run.dir=outputs/nets/{model}")
        assert (done.returncode, done.stderr) == (0, "")
    assert "members.2.output" in done.stdout and re.search(r"total +21,526 +50,994 +774,918", done.stdout)
    for name in ("net.png", "connections.png"):
        with (
            Image.open(tmp_path / "outputs/nets/lenet_4" / name) as one,
            Image.open(tmp_path / "outputs/nets/boosted_lenet_4" / name) as three,
        ):
            assert one.size == three.size


def test_layers_that_follow_each_other_are_no_copies() -> None:
    chain = nn.Sequential(*(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()) for _ in range(3)))
    layers = list_layers(chain, (1, 28, 28))
    assert find_copies(layers) == (layers, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=lenet_5", "classes=26"], "model.output=rbf: has bitmaps for 10 classes, not 26"),
        (["model=lenet_4", "model.output=rbf"], "model.output=rbf: must be tanh or softmax"),
        (["classes=0"], "classes=0: must be a whole number, 1 or more"),
        (["model._target_=builtins.dict"], "model._target_=builtins.dict: must make a torch Module"),
    ],
)
def test_what_is_wrong_is_one_sentence(typed: Command, tmp_path: Path, words: list[str], said: str) -> None:
    done = typed("describe", *words)
    assert done.returncode and done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1
    assert not any((tmp_path / "outputs").rglob("*.png"))
