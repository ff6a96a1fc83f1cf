"""Pictures to predict on: which are found, and that a net sees them as it saw its training images."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lenetexp.datasets.local import digits
from lenetexp.datasets.mnist_form import compute_mnist_steps, convert_to_mnist
from lenetexp.datasets.pictures import FamiliarImages, PictureFile, find_images, read_image
from lenetexp.errors import UserError
from sample_images import centres_of_mass

Pixels = NDArray[np.uint8]
PAPER_SHADE, INK_SHADE = 235, 30
MIDDLE = 14  # where MNIST's digits have their centre of mass, each within half a pixel


def sheet(sign: Pixels, top: int = 230, left: int = 25) -> Pixels:
    """A light sheet, 400 high and 300 wide, with `sign` (255 is full ink) on it in dark, 140×140."""
    ink = np.array(Image.fromarray(sign).resize((140, 140), Image.Resampling.BICUBIC)) / 255
    paper = np.full((400, 300), PAPER_SHADE, np.uint8)
    paper[top : top + 140, left : left + 140] = PAPER_SHADE - ink * (PAPER_SHADE - INK_SHADE)
    return paper


def boxes(*places: tuple[int, int, int, int]) -> Pixels:
    """A sign on 28×28 made of filled boxes: top, left, bottom, right."""
    sign = np.zeros((28, 28), np.uint8)
    for top, left, bottom, right in places:
        sign[top:bottom, left:right] = 255
    return sign


SEVEN = boxes((4, 8, 8, 22), (8, 17, 26, 22))
SIGNS = {"seven": SEVEN, "bar": boxes((2, 3, 25, 6)), "dash": boxes((20, 2, 24, 27)), "dot": boxes((1, 1, 4, 4))}


def size(image: Pixels) -> tuple[int, int]:
    """Height and width of what is not black."""
    rows, columns = np.flatnonzero(image.any((0, 2))), np.flatnonzero(image.any((0, 1)))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def difference(one: Pixels, other: Pixels) -> float:
    """The mean over all pixels, of 255."""
    return float(np.abs(one.astype(float) - other).mean())


def test_mnists_digits_on_a_sheet_of_paper_come_back_as_they_were(mnist_root: Path) -> None:
    content = (mnist_root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()
    digits = np.frombuffer(content, np.uint8, offset=16)[: 200 * 784].reshape(200, 28, 28)
    back = np.stack([convert_to_mnist(sheet(digit), "auto", "digit") for digit in digits])
    assert difference(back[:, 0], digits) < 9  # measured: 7.3; one pixel off 14 to 23, centred by its box 23
    assert (centres_of_mass(torch.from_numpy(back)) - MIDDLE).abs().max() < 0.6
    assert {max(size(image)) for image in back} == {20}


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_is_scaled_into_20_pixels_and_centred_by_its_mass(name: str) -> None:
    image = convert_to_mnist(sheet(SIGNS[name]), "auto", name)
    assert image.shape == (1, 28, 28) and image.dtype == np.uint8
    assert image.max() == 255
    assert max(size(image)) == 20
    assert (centres_of_mass(torch.from_numpy(image[None])) - MIDDLE).abs().max() < 0.6
    before = size(SIGNS[name][None])
    proportions = [20 * side / max(before) for side in before]
    assert size(image) == pytest.approx(proportions, abs=1.5)


def test_a_sign_may_be_anywhere_on_the_sheet() -> None:
    here, there = (convert_to_mnist(sheet(SEVEN, *place), "auto", "7") for place in ((3, 150), (250, 10)))
    np.testing.assert_array_equal(here, there)


def test_an_unevenly_lit_sheet_leaves_no_shade_behind() -> None:
    lit = sheet(SEVEN) - np.linspace(0, 30, 300).astype(np.uint8)
    image, plain = (convert_to_mnist(picture, "auto", "7") for picture in (lit, sheet(SEVEN)))
    assert difference(image, plain) < 8
    assert size(image) == size(plain)


@pytest.mark.parametrize("side", [1, 4])
@pytest.mark.parametrize(
    ("paper", "ink", "speck"),
    [
        (235, 30, 0),
        (235, 180, 0),  # a pencil, and dust that is darker
        (150, 70, 255),  # a photo in dim light, and a glint
    ],
)
def test_a_speck_far_from_the_sign_changes_nothing(side: int, paper: int, ink: int, speck: int) -> None:
    shades = (sheet(SEVEN).astype(float) - INK_SHADE) / (PAPER_SHADE - INK_SHADE)
    clean = (ink + shades * (paper - ink)).astype(np.uint8)
    dusty = clean.copy()
    dusty[30 : 30 + side, 250 : 250 + side] = speck
    # 20 and more if the speck counts as part of the sign.
    assert difference(convert_to_mnist(dusty, "auto", "7"), convert_to_mnist(clean, "auto", "7")) < 2


def test_a_speck_that_is_much_darker_than_the_sign_leaves_something() -> None:
    faint = np.where(sheet(SEVEN) < 128, 180, 235).astype(np.uint8)
    faint[30:36, 250:256] = 0
    assert convert_to_mnist(faint, "auto", "7").max() == 255


def test_auto_tells_dark_on_light_from_light_on_dark() -> None:
    dark_on_light = sheet(SEVEN)
    expected = convert_to_mnist(dark_on_light, True, "7")
    np.testing.assert_array_equal(convert_to_mnist(dark_on_light, "auto", "7"), expected)
    for invert in ("auto", False):
        np.testing.assert_array_equal(convert_to_mnist(255 - dark_on_light, invert, "7"), expected)


def test_invert_overrules_what_the_shades_suggest() -> None:
    picture = np.full((100, 100), 128, np.uint8)
    picture[10:70, 20:30] = 60  # the stroke: 60 high, 10 wide
    picture[80:90, 60:90] = 255  # a reflection, stronger than the stroke: 10 high, 30 wide
    stroke, reflection = (20, 3), (7, 20)
    for invert, expected in ((True, stroke), (False, reflection), ("auto", reflection)):
        assert size(convert_to_mnist(picture, invert, "photo")) == expected


@pytest.mark.parametrize("spread", [0, 5])
@pytest.mark.parametrize("invert", ["auto", True, False])
def test_a_picture_without_a_sign_is_refused_by_name(spread: int, invert: bool | str) -> None:
    flat = np.random.default_rng(0).integers(200 - spread, 201 + spread, (120, 90)).astype(np.uint8)
    with pytest.raises(UserError, match=r"^scan-3.png: must show a sign"):
        convert_to_mnist(flat, invert, "scan-3.png")


# ---- small pictures ----


def cropped(image: Pixels) -> Pixels:
    picture = Image.fromarray(image)
    return np.array(picture.crop(picture.getbbox()))


FORMS = {  # how a 28×28 digit, white on black, may be saved
    "as it is": lambda image: image,
    "inverted": lambda image: 255 - image,
    "with a margin": lambda image: np.pad(image, 14),
    "on a larger sheet": lambda image: np.pad(image, 42),
    "four times larger": lambda image: np.array(Image.fromarray(image).resize((112, 112))),
    "cut out": cropped,
}


def send_back(images: Pixels, form: str) -> Pixels:
    return np.stack([convert_to_mnist(FORMS[form](image), "auto", f"{i}.png")[0] for i, image in enumerate(images)])


@pytest.mark.parametrize("form", FORMS)
def test_small_pictures_of_mnists_digits_come_back_as_they_were(form: str, mnist_root: Path) -> None:
    content = (mnist_root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()
    images = np.frombuffer(content, np.uint8, offset=16)[: 200 * 784].reshape(-1, 28, 28)
    assert difference(send_back(images, form), images) < 12  # one pixel off 14 to 23, a blank image 33


@pytest.mark.parametrize("form", FORMS)
def test_small_pictures_of_digits_are_recognised(form: str) -> None:
    train, test = digits().train, digits().test
    back = torch.from_numpy(send_back(test.images[:100, 0].numpy(), form))
    nearest = torch.cdist(*(some.flatten(1).float() for some in (back, train.images))).argmin(1)
    assert (train.labels[nearest] == test.labels[:100]).sum() >= 80


def test_a_thin_light_line_is_seen() -> None:
    dark = np.zeros((300, 300), np.uint8)
    dark[40:240, 150:152] = 255
    assert size(convert_to_mnist(dark, "auto", "1"))[0] == 20


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("ink", ["black", "white"])
def test_ink_on_transparency_is_seen(ink: str, mode: str, tmp_path: Path) -> None:
    picture = Image.new("RGBA", (100, 100), (255, 255, 255, 0))
    picture.paste(ink, (20, 10, 30, 90))
    picture.save(tmp_path / "ink.png")
    pixels = np.array(read_image(tmp_path / "ink.png", mode))
    assert {int(pixels[50, 25].max()), int(pixels[0, 0].max())} == {0, 255}


BLOCK = np.pad(np.full((180, 180), 100, np.uint8), 60, constant_values=200)  # wider than any stroke


@pytest.mark.parametrize(
    ("picture", "invert", "reason"),
    [
        (np.full((40, 30), 200, np.uint8), "auto", "it is one flat shade"),
        (BLOCK, "auto", "nothing in it stands out from its paper"),
        (np.pad(np.full((9, 9), 255, np.uint8), 9), True, "nothing in it is darker than its paper"),
        (255 - np.pad(np.full((9, 9), 255, np.uint8), 9), False, "nothing in it is lighter than its paper"),
    ],
)
def test_what_is_not_flat_is_not_called_flat(picture: Pixels, invert: bool | str, reason: str) -> None:
    with pytest.raises(UserError, match=f"^7.png: must show a sign; {reason}"):
        convert_to_mnist(picture, invert, "7.png")


def test_signs_side_by_side_are_counted() -> None:
    alone = [
        compute_mnist_steps(255 - image, "auto", "one").count_signs() for image in digits().test.images[:100, 0].numpy()
    ]
    assert {*alone} == {1}
    dotted = boxes((2, 12, 5, 16), (9, 12, 26, 16))  # an i
    one, two = sheet(SEVEN, 100, 10), sheet(SEVEN, 110, 150)
    for picture, count in ((one, 1), (np.minimum(one, two), 2), (sheet(dotted), 1)):
        assert compute_mnist_steps(picture, "auto", "signs").count_signs() == count


# ---- which pictures ----


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """b.PNG, a.jpg, a note, and sub/c.png in the working folder, which is the home folder, too."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("b.PNG", "a.jpg", "note.txt", "sub/c.png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.jpg", ["a.jpg"]),
        ("note.txt", ["note.txt"]),  # a file named in full is taken, whatever its suffix
        (".", ["a.jpg", "b.PNG"]),
        ("*", ["a.jpg", "b.PNG"]),
        ("*.PNG", ["b.PNG"]),
        ("**/*", ["a.jpg", "b.PNG", "sub/c.png"]),
        ("~/*.jpg", ["a.jpg"]),
    ],
)
def test_a_file_a_folder_or_a_glob_names_pictures(pattern: str, names: list[str], scans: Path) -> None:
    found, _ = find_images([str(scans / "sub"), pattern])
    assert [file.path.absolute() for file in found] == [scans / name for name in ("sub/c.png", *names)]


def test_other_files_are_counted_and_hidden_ones_are_not(scans: Path) -> None:
    for name in ("IMG_1.HEIC", "IMG_2.heic", "scan.pdf", ".hidden"):
        (scans / name).touch()
    assert find_images([".", "b.PNG", "*.P*"])[1] == {".heic": 2, ".pdf": 1, ".txt": 1}
    with pytest.raises(UserError, match=r"^images=\*\.\[Hh\]\*: no pictures there, but 2 \.heic; must be"):
        find_images(["*.[Hh]*"])


def test_a_folder_without_pictures_is_searched_in_its_folders(scans: Path) -> None:
    for name in ("kept/7/1.png", "kept/3/2.png", "kept/3/note.txt", "kept/.git/x.png", "kept/3/deep/y.png"):
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        (scans / name).touch()
    kept = Path("kept")
    files = [PictureFile(kept / "3/2.png", "3"), PictureFile(kept / "7/1.png", "7")]
    assert find_images(["kept"]) == (files, {".txt": 1})
    (kept / "0.png").touch()
    assert find_images(["kept"])[0] == [PictureFile(kept / "0.png")]


@pytest.mark.parametrize("pattern", ["missing.png", "*.gif", "empty"])
def test_a_pattern_without_pictures_is_named(pattern: str, scans: Path) -> None:
    with pytest.raises(UserError, match=f"^images={re.escape(pattern)}: no pictures there"):
        find_images(["a.jpg", pattern])


# ---- photos ----

SHADES = {  # light that falls on the sheet, and lines that are ruled on it, as factors
    "gradient": np.linspace(0.5, 1, 300) * np.ones((400, 1)),
    "hard shadow": np.where(np.arange(300) < 160, 0.5, np.ones((400, 1))),
    "lines": np.where(np.arange(400)[:, None] % 30 < 2, 0.7, np.ones(300)),
}


@pytest.mark.parametrize("name", SHADES)
def test_shadows_and_lines_are_not_taken_for_ink(name: str) -> None:
    photo = np.minimum(sheet(SEVEN, 120, 90) / PAPER_SHADE, 1) * SHADES[name] * PAPER_SHADE
    image = convert_to_mnist(photo.astype(np.uint8), "auto", "7")
    clean = convert_to_mnist(sheet(SEVEN), "auto", "7")
    moves = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]  # the centre may be rounded otherwise
    # 40 and more if the shadow counts as ink.
    assert min(difference(np.roll(image, move, (1, 2)), clean) for move in moves) < 8


def test_an_image_unlike_all_training_images_is_found() -> None:
    rng = np.random.default_rng(0)
    places = torch.from_numpy(rng.integers(0, 3, (600, 2)))
    signs = torch.stack([torch.from_numpy(SEVEN).roll(place.tolist(), (0, 1)) for place in places])[:, None]
    noise = torch.from_numpy(rng.integers(0, 256, (1, 1, 28, 28)).astype(np.uint8))
    faint = noise // 20
    familiar = FamiliarImages(signs[:500], signs[500:])
    assert familiar.find_strangers(torch.cat([signs[:1], noise, faint])) == [False, True, True]
