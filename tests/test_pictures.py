"""A person's own pictures: which are found, and that they reach the net as its training images did."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lenetexp import pictures
from lenetexp.config import UserError
from lenetexp.datasets import image_folder

Grey = NDArray[np.uint8]
PAPER_SHADE, INK_SHADE = 235, 30
MIDDLE = 14  # MNIST's digits have their centre of mass here, each within half a pixel


def sheet(sign: Grey, top: int = 230, left: int = 25) -> Grey:
    """A light sheet, 400 high and 300 wide, with `sign` (255 is full ink) on it in dark, 140×140."""
    ink = np.array(Image.fromarray(sign).resize((140, 140), Image.Resampling.BICUBIC)) / 255
    paper = np.full((400, 300), PAPER_SHADE, np.uint8)
    paper[top : top + 140, left : left + 140] = PAPER_SHADE - ink * (PAPER_SHADE - INK_SHADE)
    return paper


def drawn(*boxes: tuple[int, int, int, int]) -> Grey:
    """A sign on 28×28 made of filled boxes: top, left, bottom, right."""
    sign = np.zeros((28, 28), np.uint8)
    for top, left, bottom, right in boxes:
        sign[top:bottom, left:right] = 255
    return sign


SEVEN = drawn((4, 8, 8, 22), (8, 17, 26, 22))
SIGNS = {
    "seven": SEVEN,
    "bar": drawn((2, 3, 25, 6)),
    "dash": drawn((20, 2, 24, 27)),
    "dot": drawn((1, 1, 4, 4)),
}


def centre_of_mass(image: NDArray[np.uint8]) -> tuple[float, float]:
    weights, axis = image[0] / image.sum(), np.arange(28)
    return float(weights.sum(1) @ axis), float(weights.sum(0) @ axis)


def box(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width of what is not black."""
    rows, columns = np.flatnonzero(image[0].any(1)), np.flatnonzero(image[0].any(0))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def test_mnists_digits_on_a_sheet_of_paper_come_back_as_they_were(mnist_root: Path) -> None:
    content = (mnist_root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()
    digits = np.frombuffer(content, np.uint8, offset=16)[: 200 * 784].reshape(200, 28, 28)
    back = np.stack([pictures.like_mnist(sheet(digit), "auto", "digit") for digit in digits])
    # Of 255. Measured: 7.3; one pixel off 14 to 23, centred by the box 23, not inverted 71.
    assert np.abs(back[:, 0].astype(float) - digits).mean() < 9
    centres = np.array([centre_of_mass(image) for image in back])
    assert np.abs(centres - MIDDLE).max() < 0.6
    assert {max(box(image)) for image in back} == {20}


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_is_scaled_into_20_pixels_and_centred_by_its_mass(name: str) -> None:
    image = pictures.like_mnist(sheet(SIGNS[name]), "auto", name)
    assert image.shape == (1, 28, 28) and image.dtype == np.uint8
    assert image.max() == 255
    assert max(box(image)) == 20
    assert centre_of_mass(image) == pytest.approx((MIDDLE, MIDDLE), abs=0.6)


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_keeps_its_proportions(name: str) -> None:
    (height, width), scaled = (
        box(SIGNS[name][None]),
        box(pictures.like_mnist(sheet(SIGNS[name]), "auto", name)),
    )
    longest = max(height, width)
    assert scaled == pytest.approx((20 * height / longest, 20 * width / longest), abs=1.5)


def test_where_on_the_sheet_the_sign_is_does_not_matter() -> None:
    here, there = (
        pictures.like_mnist(sheet(SEVEN, *place), "auto", "7") for place in ((3, 150), (250, 10))
    )
    np.testing.assert_array_equal(here, there)


def test_a_sheet_that_is_unevenly_lit_leaves_no_shade_behind() -> None:
    lit = sheet(SEVEN) - np.linspace(0, 30, 300).astype(np.uint8)
    image = pictures.like_mnist(lit, "auto", "7")
    plain = pictures.like_mnist(sheet(SEVEN), "auto", "7")
    assert np.abs(image.astype(float) - plain).mean() < 8
    assert box(image) == box(plain)


@pytest.mark.parametrize("side", [1, 4])
@pytest.mark.parametrize(
    ("paper", "ink", "speck"),
    [
        (235, 30, 0),
        (235, 180, 0),  # a pencil, and dust darker than it
        pytest.param(
            *(150, 70, 255),
        ),  # a photo in dim light, and a glint
    ],
)
def test_a_speck_far_from_the_sign_changes_nothing(side: int, paper: int, ink: int, speck: int) -> None:
    shades = (sheet(SEVEN).astype(float) - INK_SHADE) / (PAPER_SHADE - INK_SHADE)
    clean = (ink + shades * (paper - ink)).astype(np.uint8)
    dusty = clean.copy()
    dusty[30 : 30 + side, 250 : 250 + side] = speck
    with_dust = pictures.like_mnist(dusty, "auto", "7")[0].astype(float)
    without = pictures.like_mnist(clean, "auto", "7")[0]
    assert np.abs(with_dust - without).mean() < 2  # of 255; 20 and more where the box is the speck's


def test_auto_tells_dark_on_light_from_light_on_dark() -> None:
    dark_on_light = sheet(SEVEN)
    expected = pictures.like_mnist(dark_on_light, True, "7")
    np.testing.assert_array_equal(pictures.like_mnist(dark_on_light, "auto", "7"), expected)
    light_on_dark = 255 - dark_on_light
    np.testing.assert_array_equal(pictures.like_mnist(light_on_dark, "auto", "7"), expected)
    np.testing.assert_array_equal(pictures.like_mnist(light_on_dark, False, "7"), expected)


def test_invert_overrules_what_the_shades_suggest() -> None:
    picture = np.full((100, 100), 128, np.uint8)
    picture[10:70, 20:30] = 60  # the stroke: 60 high, 10 wide
    picture[80:90, 60:90] = 255  # a reflection, stronger than the stroke: 10 high, 30 wide
    stroke, reflection = (20, 3), (7, 20)
    assert box(pictures.like_mnist(picture, True, "stroke")) == stroke
    assert box(pictures.like_mnist(picture, False, "stroke")) == reflection
    assert box(pictures.like_mnist(picture, "auto", "stroke")) == reflection


@pytest.mark.parametrize("noise", [0, 5])
@pytest.mark.parametrize("invert", ["auto", True, False])
def test_a_picture_without_a_sign_is_refused_with_its_name(noise: int, invert: bool | str) -> None:
    flat = np.random.default_rng(0).integers(200 - noise, 201 + noise, (120, 90)).astype(np.uint8)
    with pytest.raises(UserError, match=r"^scan-3.png: must show a sign"):
        pictures.like_mnist(flat, invert, "scan-3.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_other_pictures_are_scaled_as_their_training_images_were(channels: int, tmp_path: Path) -> None:
    file = tmp_path / "things/thing/a.png"
    file.parent.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    Image.fromarray(noise).save(file.with_name("b.png"))
    trained = image_folder(str(tmp_path / "things"), image_size=28, channels=channels, test=0.5).train
    image = pictures.as_trained(file, (channels, 28, 28))
    np.testing.assert_array_equal(image, trained.images[0].numpy())


# ---- which pictures ----


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """b.PNG, a.jpg, a note, and sub/c.png."""
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "a.jpg", "note.txt", "sub/c.png"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.jpg", ["a.jpg"]),
        ("note.txt", ["note.txt"]),  # a file that is named is meant
        (".", ["a.jpg", "b.PNG"]),
        ("*", ["a.jpg", "b.PNG"]),
        ("*.PNG", ["b.PNG"]),
        ("**/*", ["a.jpg", "b.PNG", "sub/c.png"]),
    ],
)
def test_a_file_a_folder_or_a_glob_names_pictures(pattern: str, names: list[str], scans: Path) -> None:
    assert pictures.find([f"{scans}/{pattern}"]) == [scans / name for name in names]


def test_a_tilde_is_the_home_folder(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(scans))
    assert pictures.find(["~/*.jpg"]) == [scans / "a.jpg"]


@pytest.mark.parametrize("pattern", ["missing.png", "*.gif", "empty"])
def test_no_pictures_is_told_with_the_pattern(pattern: str, scans: Path) -> None:
    (scans / "empty").mkdir()
    with pytest.raises(UserError) as error:
        pictures.find([f"{scans}/{pattern}"])
    assert str(error.value).startswith(f"images={scans}/{pattern}: no pictures there")
