"""scikit-learn's digits, and the user's own pictures: splits, how pictures are decoded, and what is refused."""

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from lenetexp.datasets import Source, digits, image_folder
from lenetexp.datasets.mnist_form import fit_into_mnist_frame
from lenetexp.errors import UserError
from sample_images import centres_of_mass

# ---- scikit-learn's digits ----


def pairs(images: Tensor, labels: Tensor) -> list[tuple[bytes, int]]:
    return sorted((image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_digits_are_the_1797_of_scikit_learn_and_a_fifth_of_each_is_for_the_test() -> None:
    source = digits()
    pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    expected = fit_into_mnist_frame(pixels.float().view(1797, 1, 8, 8) * (255 / 16))
    images = torch.cat([source.train.images, source.test.images])
    assert pairs(images, torch.cat([source.train.labels, source.test.labels])) == pairs(expected, labels)
    assert ((source.test.labels.bincount() - 0.2 * labels.bincount()).abs() <= 0.5).all()
    assert source.classes == tuple("0123456789")


def test_digits_fill_their_frame_as_mnists_do() -> None:
    images = digits().train.images
    for along in (2, 3):
        inked = (images > 0).any(along)[:, 0].int()  # N×28
        last = 27 - inked.flip(1).argmax(1)
        assert (last - inked.argmax(1) < 20).all()
    assert images.amax((1, 2, 3)).min() > 200
    # MNIST's 60,000 have their mass at 14.00, 14.01, none more than 0.52 from there.
    assert (centres_of_mass(images) - 14).abs().max() < 0.6


# ---- a folder of pictures ----


def opened(folder: Path, image_size: int = 28, channels: int = 1, test: float = 0.2) -> Source:
    return image_folder(str(folder), image_size, channels, test)


def save(path: Path, picture: Image.Image | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or Image.new("L", (28, 28))).save(path, **options)


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    half_white = Image.new("RGB", (56, 40), "black")
    half_white.paste("white", (0, 0, 28, 40))
    for i in range(10):
        save(tmp_path / f"dog/{i}.png", Image.new("L", (9, 30), 200))
        save(tmp_path / f"cat/deeper/{i}.BMP", half_white)
    (tmp_path / "cat/notes.txt").write_text("no picture")
    source = opened(tmp_path)
    assert (source.name, source.classes) == (tmp_path.name, ("cat", "dog"))
    assert source.train.labels.bincount().tolist() == [8, 8]
    assert source.test.labels.bincount().tolist() == [2, 2]
    assert source.train.images.dtype == torch.uint8
    for split in (source.train, source.test):
        cats, dogs = (split.images[split.labels == label] for label in (0, 1))
        assert cats.shape[1:] == (1, 28, 28)
        assert (cats[..., :13] == 255).all() and (cats[..., 15:] == 0).all()
        assert (dogs == 200).all()


def test_pictures_may_have_colours_and_another_size(tmp_path: Path) -> None:
    for name in ("one/a", "one/b", "other/a", "other/b"):
        save(tmp_path / f"{name}.png", Image.new("RGB", (50, 20), (255, 128, 0)))
    source = opened(tmp_path, image_size=12, channels=3, test=0.5)
    assert source.train.images.shape == (2, 3, 12, 12)
    assert [channel.unique().tolist() for channel in source.train.images[0]] == [[255], [128], [0]]


def test_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    for part, shade in (("train", 10), ("test", 90)):
        for label, name in enumerate(("0", "1", "2")):
            save(tmp_path / part / name / "only.png", Image.new("L", (28, 28), shade + label))
    source = opened(tmp_path)
    assert source.classes == ("0", "1", "2")
    assert source.train.labels.tolist() == source.test.labels.tolist() == [0, 1, 2]
    assert source.train.images[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert source.test.images[:, 0, 0, 0].tolist() == [90, 91, 92]


def test_a_train_folder_without_a_test_folder_is_refused(tmp_path: Path) -> None:
    """It would become a class with the name "train"."""
    for name in ("train/cat/a.png", "train/dog/a.png", "more/cat/a.png", "more/cat/b.png"):
        save(tmp_path / name)
    with pytest.raises(UserError, match=f"^dataset.root={tmp_path}: has a folder train but no folder test"):
        opened(tmp_path)


def test_a_class_that_only_the_test_folder_has_is_named(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/owl"):
        save(tmp_path / name / "a.png")
    with pytest.raises(UserError, match=r"test has classes that .*train has not: owl$"):
        opened(tmp_path)


@pytest.mark.parametrize("part", [".", "train"])
def test_pictures_of_one_class_are_refused(part: str, tmp_path: Path) -> None:
    """A net would have nothing to tell apart, and be right without learning."""
    for name in (f"{part}/cat/a.png", f"{part}/cat/b.png", "test/cat/c.png"):
        save(tmp_path / name)
    (tmp_path / part / "dog").mkdir()
    if part == ".":
        shutil.rmtree(tmp_path / "test")
    with pytest.raises(UserError, match=r"all pictures are of one class, cat; must be of two or more$"):
        opened(tmp_path)


def test_an_empty_class_folder_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("two words/a", "two words/b", "7=7/a", "7=7/b"):
        save(tmp_path / f"{name}.png")
    assert opened(tmp_path).classes == ("7=7", "two words") and capsys.readouterr().err == ""
    (tmp_path / "owl").mkdir()
    assert opened(tmp_path).classes == ("7=7", "owl", "two words")
    assert "no pictures of these classes: owl" in " ".join(capsys.readouterr().err.split())


def test_a_class_with_one_picture_is_named(tmp_path: Path) -> None:
    for name in ("cat/a", "cat/b", "owl/a"):
        save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"the class owl has one image; must have at least 2"):
        opened(tmp_path)


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=f"dataset.root={tmp_path}: there are no pictures"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"dataset.root=.*/nowhere: must be a folder"):
        opened(tmp_path / "nowhere")


def half(mode: str, top: Any, bottom: Any) -> Image.Image:
    """28×28, the upper half in one colour and the lower in another."""
    picture = Image.new(mode, (28, 28), bottom)
    picture.paste(top, (0, 0, 28, 14))
    return picture


@pytest.mark.parametrize(
    ("picture", "orientation"),
    [
        (half("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)), 1),  # transparent parts lie on white
        (half("I;16", 0, 65_535), 1),  # 16 bits are scaled to 8
        (half("L", 255, 0), 3),  # taken with the camera upside down
    ],
)
def test_pictures_are_decoded_as_they_look(picture: Image.Image, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("one/a", "one/b", "other/a", "other/b"):
        save(tmp_path / f"{name}.png", picture, exif=exif)
    image = opened(tmp_path).train.images[0, 0]
    assert (image[:14] == 0).all() and (image[14:] == 255).all()


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    save(tmp_path / "cat/good.png")
    save(tmp_path / "dog/good.png")
    whole = (tmp_path / "cat/good.png").read_bytes()
    (tmp_path / "cat/half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cat/half.png cannot be read"):
        opened(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "reason"), [(5_001, "50,000,000"), (100_000, "bomb")])
def test_a_huge_picture_is_refused_before_it_is_decoded(width: int, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "cat/huge.bmp"
    save(file)
    save(tmp_path / "dog/small.png")
    content = file.read_bytes()
    file.write_bytes(content[:18] + struct.pack("<ii", width, 10_000) + content[26:])  # promises more than it holds
    with pytest.raises(UserError, match=rf"cat/huge.bmp .*{reason}"):
        opened(tmp_path)
