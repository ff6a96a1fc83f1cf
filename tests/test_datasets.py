"""Every source on small files in its real format, MNIST on the real one; splits and batches."""

import bz2
import gzip
import hashlib
import pickle
import socket
import string
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lenetexp import data
from lenetexp.config import Augment, Dataset, UserError, check
from lenetexp.datasets import Split, digits, hold_out, image_folder, torchvision_dataset

CPU = torch.device("cpu")
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array: NDArray[Any]) -> bytes:
    """An array as an IDX file has it: 0, 0, type, number of sizes, sizes and values big-endian."""
    kind = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, kind, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def pixels(*shape: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def small_set(classes: int = 10) -> dict[str, NDArray[np.uint8]]:
    """Two training images a class and a test image a class, in the order of MNIST_FILES."""
    labels = np.arange(classes, dtype=np.uint8)
    train, test = pixels(2 * classes, 28, 28, seed=0), pixels(classes, 28, 28, seed=1)
    return dict(zip(MNIST_FILES, (train, np.tile(labels, 2), test, labels[::-1]), strict=True))


def write(folder: Path, files: dict[str, NDArray[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in files.items():
        (folder / name).write_bytes(idx(array))


def assert_is(split: Split, images: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    """That `split` holds exactly these grey N×H×W images and their labels."""
    assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
    np.testing.assert_array_equal(split.images.numpy(), images[:, None])
    np.testing.assert_array_equal(split.labels.numpy(), labels)


def listing(folder: Path) -> dict[Path, tuple[int, int]]:
    """Everything below a folder with its size and when it was last changed."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)


# ---- torchvision's datasets ----


@pytest.mark.parametrize(
    ("name", "first_class", "like_mnist"),
    [("MNIST", "0", True), ("FashionMNIST", "T-shirt/top", False), ("KMNIST", "o", False)],
)
def test_mnist_and_its_replacements_come_as_their_files_hold_them(
    name: str, first_class: str, like_mnist: bool, tmp_path: Path
) -> None:
    files = small_set()
    write(tmp_path / name / "raw", files)
    source = torchvision_dataset(name, str(tmp_path))
    train_images, train_labels, test_images, test_labels = files.values()
    assert_is(source.train, train_images, train_labels)
    assert_is(source.test, test_images, test_labels)
    assert (source.name, source.classes[0], len(source.classes)) == (name, first_class, 10)
    assert source.like_mnist == like_mnist


def test_qmnist_takes_the_digit_out_of_its_eight_columns(tmp_path: Path) -> None:
    columns = np.arange(24, dtype=np.int32).reshape(3, 8) * 100_000  # more than a byte: the order matters
    columns[:, 0] = [7, 0, 9]
    images = pixels(3, 28, 28, seed=0)
    files = {f"qmnist-{part}-images-idx3-ubyte": images for part in ("train", "test")}
    files |= {f"qmnist-{part}-labels-idx2-int": columns for part in ("train", "test")}
    write(tmp_path / "QMNIST" / "raw", files)
    source = torchvision_dataset("QMNIST", str(tmp_path))
    assert_is(source.train, images, np.array([7, 0, 9]))
    assert_is(source.test, images, np.array([7, 0, 9]))
    assert source.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("split", "first_label", "classes"),
    [
        ("letters", 1, string.ascii_lowercase),
        ("balanced", 0, string.digits + string.ascii_uppercase + "abdefghnqrt"),
    ],
)
def test_emnist_comes_upright_with_classes_from_0(
    split: str, first_label: int, classes: str, tmp_path: Path
) -> None:
    upright = pixels(len(classes), 28, 28, seed=0)
    labels = np.arange(len(classes), dtype=np.uint8)
    files = {}
    for part in ("train", "test"):
        files[f"emnist-{split}-{part}-images-idx3-ubyte"] = upright.transpose(0, 2, 1)
        files[f"emnist-{split}-{part}-labels-idx1-ubyte"] = labels + np.uint8(first_label)
    write(tmp_path / "EMNIST" / "raw", files)
    source = torchvision_dataset("EMNIST", str(tmp_path), split)
    assert_is(source.train, upright, labels)
    assert_is(source.test, upright, labels)
    assert source.classes == tuple(classes)


def test_usps_is_brought_into_mnists_frame(tmp_path: Path) -> None:
    def line(digit: int, values: NDArray[Any]) -> str:
        return " ".join([str(digit + 1), *(f"{i}:{x:.4f}" for i, x in enumerate(values.flat, start=1))])

    white = np.ones((16, 16))
    corner = np.full((16, 16), -1.0)  # -1 is black
    corner[:13, :9] = 1
    train = "\n".join([line(0, white), line(9, corner)]) + "\n"
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(train.encode()))
    (tmp_path / "usps.t.bz2").write_bytes(bz2.compress(line(3, white).encode()))
    source = torchvision_dataset("USPS", str(tmp_path))
    assert source.train.labels.tolist() == [0, 9]
    assert source.test.labels.tolist() == [3]
    assert source.train.images.shape == (2, 1, 28, 28) and source.train.images.dtype == torch.uint8
    whole, moved = source.train.images[:, 0]
    assert (whole == 255).sum() == (whole > 0).sum() == 20 * 20
    # 16.25×11.25 pixels whose mass has come to the middle: down by 2, and right by 4, the most there is.
    assert (moved[6:21, 8:18] == 255).all()
    moved[6:23, 8:21] = 0
    assert (moved == 0).all()


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five batches of two images and a test batch: a red half over a blue one, then one all green."""
    from torchvision.datasets import CIFAR10

    red_over_blue = np.zeros((3, 32, 32), np.uint8)
    red_over_blue[0, :16] = red_over_blue[2, 16:] = 255
    green = np.zeros((3, 32, 32), np.uint8)
    green[1] = 255
    batch = {"data": np.stack([red_over_blue, green]).reshape(2, -1), "labels": [3, 8]}
    names = [f"class {i}" for i in range(10)]
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    folder.mkdir()
    md5 = {}
    for name, content in [*((name, batch) for name in batches), ("batches.meta", {"label_names": names})]:
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        md5[name] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in batches[:-1]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})


def test_cifar10_comes_in_colour_and_28_pixels_wide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", monkeypatch)
    source = torchvision_dataset("CIFAR10", str(tmp_path))
    assert source.train.images.shape == (10, 3, 28, 28) and source.train.images.dtype == torch.uint8
    assert source.train.labels.tolist() == [3, 8] * 5
    assert source.test.labels.tolist() == [3, 8]
    assert source.classes[3] == "class 3"
    red_over_blue, green = source.test.images
    assert (red_over_blue[0, :13] == 255).all() and (red_over_blue[0, 15:] == 0).all()
    assert (red_over_blue[2, :13] == 0).all() and (red_over_blue[2, 15:] == 255).all()
    assert (green[1] == 255).all() and (green[[0, 2]] == 0).all()


def test_a_damaged_cifar10_batch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(folder, monkeypatch)
    with (folder / "data_batch_4").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"CIFAR10's files in .* cannot be read"):
        torchvision_dataset("CIFAR10", str(tmp_path))


def test_the_real_mnist(mnist_root: Path) -> None:
    before = listing(mnist_root)
    source = torchvision_dataset("MNIST", str(mnist_root))
    assert source.train.images.shape == (60_000, 1, 28, 28)
    assert source.test.images.shape == (10_000, 1, 28, 28)
    assert source.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert source.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    mean = source.train.images.float().mean().item() / 255
    assert mean == pytest.approx(0.1307, abs=5e-5)  # as in PyTorch's own MNIST example
    assert listing(mnist_root) == before


# ---- what goes wrong with files ----


def test_a_file_cut_short_is_named_with_both_lengths(tmp_path: Path) -> None:
    write(tmp_path / "MNIST/raw", small_set())
    file = tmp_path / "MNIST/raw/t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte is cut short: it has 7,855 .* 7,856"):
        torchvision_dataset("MNIST", str(tmp_path))


def test_a_file_with_bytes_too_many_is_named(tmp_path: Path) -> None:
    write(tmp_path / "MNIST/raw", small_set())
    with (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="train-labels-idx1-ubyte is too long"):
        torchvision_dataset("MNIST", str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x08 still gzipped", b"<html>Not found</html>"])
def test_a_file_that_is_not_idx_is_named(content: bytes, tmp_path: Path) -> None:
    write(tmp_path / "MNIST/raw", small_set())
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match="train-images-idx3-ubyte is not an IDX file"):
        torchvision_dataset("MNIST", str(tmp_path))


def test_images_and_labels_must_agree_in_number(tmp_path: Path) -> None:
    files = small_set()
    files["train-labels-idx1-ubyte"] = files["train-labels-idx1-ubyte"][:-1]
    write(tmp_path / "MNIST/raw", files)
    with pytest.raises(UserError, match="20 images, but train-labels-idx1-ubyte 19 labels"):
        torchvision_dataset("MNIST", str(tmp_path))


def test_labels_where_images_should_be_are_refused(tmp_path: Path) -> None:
    files = small_set()
    files["train-images-idx3-ubyte"] = files["train-labels-idx1-ubyte"]
    write(tmp_path / "MNIST/raw", files)
    with pytest.raises(UserError, match="MNIST/raw cannot be read"):
        torchvision_dataset("MNIST", str(tmp_path))


@pytest.mark.parametrize("root", ["data", "there/is/no/such/folder"])
def test_missing_files_without_network_are_told_and_no_folder_is_left(
    root: str, tmp_path: Path, no_network: None
) -> None:
    with pytest.raises(UserError) as error:
        torchvision_dataset("MNIST", str(tmp_path / root))
    message = str(error.value)
    for wanted in (str(tmp_path / root / "MNIST" / "raw"), "dataset=digits", *MNIST_FILES):
        assert wanted in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_only_the_missing_file_is_asked_for_and_the_others_stay(tmp_path: Path, no_network: None) -> None:
    files = small_set()
    del files["t10k-labels-idx1-ubyte"]
    write(tmp_path / "MNIST/raw", files)
    before = listing(tmp_path)
    with pytest.raises(UserError, match="put the file t10k-labels-idx1-ubyte into") as error:
        torchvision_dataset("MNIST", str(tmp_path))
    assert "train-images" not in str(error.value)
    assert listing(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("name", ["USPS", "CIFAR10"])
def test_other_missing_datasets_name_what_they_want_too(
    name: str, tmp_path: Path, no_network: None
) -> None:
    wanted = {"USPS": "usps.bz2, usps.t.bz2", "CIFAR10": "cifar-10-batches-py"}[name]
    with pytest.raises(UserError, match=f"{wanted} into {tmp_path}/data by hand, or use dataset=digits"):
        torchvision_dataset(name, str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_or_split_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.name=MNISTT: must be one of MNIST, FashionMNIST"):
        torchvision_dataset("MNISTT", str(tmp_path))
    with pytest.raises(UserError, match=r"dataset.split=None: must be one of byclass, bymerge"):
        torchvision_dataset("EMNIST", str(tmp_path))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that torchvision takes for MNIST's server, holding a small set with its checksums."""
    from torchvision.datasets import MNIST

    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, array in small_set().items():
        packed = gzip.compress(idx(array))
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(MNIST, "resources", resources)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield folder
        server.shutdown()


def test_missing_files_are_downloaded_once_and_then_local(tmp_path: Path, mirror: Path) -> None:
    files = small_set()
    source = torchvision_dataset("MNIST", str(tmp_path / "data"))
    assert_is(source.train, files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"])
    for packed in mirror.iterdir():
        packed.unlink()
    again = torchvision_dataset("MNIST", str(tmp_path / "data"))
    assert torch.equal(again.test.images, source.test.images)


def test_a_download_with_another_checksum_is_not_trained_on(tmp_path: Path, mirror: Path) -> None:
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(20, 28, 28, seed=5))))
    with pytest.raises(UserError, match="could not be downloaded"):
        torchvision_dataset("MNIST", str(tmp_path / "data"))
    assert not (tmp_path / "data/MNIST/raw/train-images-idx3-ubyte").exists()


# ---- digits ----


def test_digits_are_the_1797_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    source = digits()
    images = torch.cat([source.train.images, source.test.images])
    assert images.shape == (1797, 1, 28, 28) and images.dtype == torch.uint8
    labels = torch.cat([source.train.labels, source.test.labels])
    np.testing.assert_array_equal(labels.bincount(), np.bincount(load_digits().target))
    assert source.classes == tuple("0123456789")


def test_digits_lie_in_their_frame_as_mnists_do() -> None:
    images = digits().train.images
    for along in (2, 3):
        inked = (images > 0).any(along)[:, 0].int()  # N×28
        last = 27 - inked.flip(1).argmax(1)
        assert (last - inked.argmax(1) < 20).all()
    assert images.amax((1, 2, 3)).min() > 200
    # MNIST's 60,000 have their mass at 14.00, 14.01, none further off than 0.52.
    assert (places(images.float()) - 14).abs().max() < 0.6


def test_digits_labels_belong_to_their_images() -> None:
    source = digits()
    train, test = source.train.images.flatten(1).float(), source.test.images.flatten(1).float()
    means = torch.stack([train[source.train.labels == digit].mean(0) for digit in range(10)])
    nearest_mean = torch.cdist(test, means).argmin(1)
    assert (nearest_mean == source.test.labels).float().mean() > 0.85


def test_a_fifth_of_each_digit_is_for_the_test() -> None:
    source = digits()
    train, test = source.train.labels.bincount(), source.test.labels.bincount()
    assert ((test - 0.2 * (train + test)).abs() <= 0.5).all()


# ---- a folder of pictures ----


def save(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def left_half_white(mode: str = "L") -> Image.Image:
    picture = Image.new(mode, (56, 40), "black")
    picture.paste("white", (0, 0, 28, 40))
    return picture


def test_a_folder_of_pictures_one_folder_a_class(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"dog/{i}.png", Image.new("L", (9, 30), 200))
        save(tmp_path / f"cat/deeper/{i}.BMP", left_half_white("RGB"))
    (tmp_path / "cat/notes.txt").write_text("no picture")
    source = image_folder(str(tmp_path), image_size=28, channels=1, test=0.2)
    assert (source.name, source.classes) == (tmp_path.name, ("cat", "dog"))
    assert source.train.labels.bincount().tolist() == [8, 8]
    assert source.test.labels.bincount().tolist() == [2, 2]
    assert source.train.images.dtype == torch.uint8
    for split in (source.train, source.test):
        cats, dogs = (split.images[split.labels == label] for label in (0, 1))
        assert cats.shape[1:] == (1, 28, 28)
        assert (cats[..., :13] == 255).all() and (cats[..., 15:] == 0).all()
        assert (dogs == 200).all()


def test_a_folder_of_pictures_in_colour_and_another_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"colour/{name}.png", Image.new("RGB", (50, 20), (255, 128, 0)))
    source = image_folder(str(tmp_path), image_size=12, channels=3, test=0.5)
    assert source.train.images.shape == (1, 3, 12, 12)
    assert [channel.unique().tolist() for channel in source.train.images[0]] == [[255], [128], [0]]


def test_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    for part, shade in (("train", 10), ("test", 90)):
        for label, name in enumerate(("0", "1", "2")):
            save(tmp_path / part / name / "only.png", Image.new("L", (28, 28), shade + label))
    source = image_folder(str(tmp_path), image_size=28, channels=1, test=0.2)
    assert source.classes == ("0", "1", "2")
    assert source.train.labels.tolist() == source.test.labels.tolist() == [0, 1, 2]
    assert source.train.images[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert source.test.images[:, 0, 0, 0].tolist() == [90, 91, 92]


def test_a_train_folder_without_a_test_folder_is_refused(tmp_path: Path) -> None:
    """It would be a class of its own, "train"."""
    for name in ("train/cat/a.png", "train/dog/a.png", "more/cat/a.png"):
        save(tmp_path / name, Image.new("L", (28, 28)))
        save(tmp_path / name.replace("a.", "b."), Image.new("L", (28, 28)))
    with pytest.raises(UserError, match=f"^dataset.root={tmp_path}: has a folder train but no folder test"):
        image_folder(str(tmp_path), image_size=28, channels=1, test=0.2)


def test_a_class_that_only_the_test_folder_has_is_named(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/owl"):
        save(tmp_path / name / "a.png", Image.new("L", (28, 28)))
    with pytest.raises(UserError, match=r"test has classes that .*train has not: owl$"):
        image_folder(str(tmp_path), image_size=28, channels=1, test=0.2)


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 28, 14))
    for name in ("a", "b"):
        save(tmp_path / f"ink/{name}.png", picture)
    image = image_folder(str(tmp_path), image_size=28, channels=1, test=0.5).train.images[0, 0]
    assert (image[:14] == 0).all() and (image[14:] == 255).all()


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    save(tmp_path / "cat/good.png", Image.new("L", (28, 28)))
    whole = (tmp_path / "cat/good.png").read_bytes()
    (tmp_path / "cat/half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cat/half.png cannot be read as a picture"):
        image_folder(str(tmp_path), image_size=28, channels=1, test=0.2)


def png_head(width: int, height: int) -> bytes:
    """A PNG that promises so many grey pixels and holds none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "reason"), [(5_001, "50,000,000"), (100_000, "bomb")])
def test_a_huge_picture_is_refused_before_it_is_decoded(width: int, reason: str, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/huge.png").write_bytes(png_head(width, 10_000))
    with pytest.raises(UserError, match=rf"cat/huge.png .*{reason}"):
        image_folder(str(tmp_path), image_size=28, channels=1, test=0.2)


def test_a_folder_without_pictures_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=f"dataset.root={tmp_path}: there are no pictures"):
        image_folder(str(tmp_path), image_size=28, channels=1, test=0.2)
    with pytest.raises(UserError, match=r"dataset.root=.*/nowhere: must be a folder"):
        image_folder(str(tmp_path / "nowhere"), image_size=28, channels=1, test=0.2)


# ---- splits ----


def numbered(*per_class: int) -> Split:
    """So many 1×1×1 images of each class, each with a value of its own."""
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    return Split(torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1), labels)


def numbers(split: Split) -> list[int]:
    return split.images.flatten().tolist()


def test_held_out_images_are_a_share_of_each_class_and_no_others() -> None:
    everything = numbered(60, 30, 10, 2)
    rest, part = hold_out(everything, fraction=0.1, seed=3)
    assert part.labels.bincount().tolist() == [6, 3, 1, 1]  # at least one
    assert sorted(numbers(rest) + numbers(part)) == numbers(everything)
    for split in (rest, part):
        assert torch.equal(split.labels, everything.labels[split.images.flatten().long()])


def test_held_out_images_depend_on_the_seed_alone() -> None:
    everything = numbered(60, 30)
    parts = [numbers(hold_out(everything, 0.1, seed)[1]) for seed in (0, 0, 1)]
    assert parts[0] == parts[1]
    assert parts[0] != parts[2]


def test_a_class_with_one_image_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"class number 1 .* has one image"):
        hold_out(numbered(5, 1), fraction=0.1, seed=0)


def test_validation_on_the_test_images_trains_on_all_others() -> None:
    source = digits()
    loaded = data.load(dataset("lenetexp.datasets.digits", validation="test"), CPU)
    assert torch.equal(loaded.val.images, source.test.images)
    assert torch.equal(loaded.val.labels, source.test.labels)
    assert torch.equal(loaded.train.images, source.train.images)


def test_validation_images_are_held_out_of_the_training_images() -> None:
    source = digits()
    loaded = data.load(dataset("lenetexp.datasets.digits", validation=0.25, split_seed=4), CPU)
    rest, part = hold_out(source.train, 0.25, seed=4)
    assert torch.equal(loaded.train.images, rest.images)
    assert torch.equal(loaded.val.images, part.images)
    assert torch.equal(loaded.test.images, source.test.images)


# ---- a source of one's own ----

OWN = """
import torch
from lenetexp.datasets import Source, Split


def six(pixel=0, label=0, image_type="uint8", label_type="int64", count=6, labels=6, shape=(1, 5, 7)):
    images = torch.zeros(count, *shape, dtype=getattr(torch, image_type))
    if count:
        images.view(-1)[-1] = pixel
    numbers = torch.tensor([label, 1, 0, 1, 0, 1])[:labels].to(getattr(torch, label_type))
    return Split(images, numbers)


def source(part="train", **changes):
    splits = {"train": six(), "test": six(), part: six(**changes)}
    return Source("mine", splits["train"], splits["test"], ("no", "yes"))


def nothing():
    return [1, 2]


def broken():
    raise OSError("the disk\\nis on fire")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "own_pictures.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_pictures"
    sys.modules.pop("own_pictures", None)


def dataset(target: str, **settings: Any) -> Dataset:
    return check(Dataset, {"_target_": target, **settings})


def test_a_source_of_ones_own_is_called_with_its_settings(own: str) -> None:
    loaded = data.load(dataset(f"{own}.source", pixel=9, validation="test", split_seed=1), CPU)
    assert (loaded.name, loaded.classes, loaded.image_shape) == ("mine", ("no", "yes"), (1, 5, 7))
    assert loaded.train.images.flatten()[-1] == 9
    assert loaded.facts()["images"] == {"train": 6, "val": 6, "test": 6}


def test_the_digest_tells_every_pixel_and_label(own: str) -> None:
    changes = [{"pixel": 1}, {"label": 1}]
    settings = [{}, {}, *({"part": part, **change} for part in ("train", "test") for change in changes)]
    digests = [data.load(dataset(f"{own}.source", **chosen), CPU).digest for chosen in settings]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5
    assert all(len(digest) == 36 and set(digest) <= set("0123456789abcdef") for digest in digests)


def test_the_digest_is_of_the_data_and_not_of_how_they_are_split(own: str) -> None:
    chosen = [dataset(f"{own}.source", validation=v) for v in (0.3, "test")]
    assert len({data.load(settings, CPU).digest for settings in chosen}) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_type": "float32"}, "train images must be N×C×H×W uint8"),
        ({"shape": [5, 7]}, r"train images must be N×C×H×W uint8 with N above 0, not \(6, 5, 7\)"),
        ({"count": 0}, "with N above 0"),
        ({"label_type": "int32"}, "train labels must be 6 int64 numbers, not .* torch.int32"),
        ({"labels": 5}, r"train labels must be 6 int64 numbers, not \(5,\)"),
        ({"label": 2}, "train labels must lie from 0 to 1, not 0 to 2"),
        ({"label": -1}, "train labels must lie from 0 to 1, not -1 to 1"),
        ({"label": 2, "part": "test"}, "test labels must lie from 0 to 1, not 0 to 2"),
        ({"shape": [1, 7, 5], "part": "test"}, "training and test images must have one shape"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ],
)
def test_what_ones_own_source_gets_wrong_is_told_in_a_sentence(
    own: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        data.load(dataset(f"{own}.source", **settings), CPU)
    assert "\n" not in str(error.value) and f"{own}.source" in str(error.value)


def test_images_that_are_not_square_cannot_be_turned(own: str) -> None:
    with pytest.raises(UserError, match=r"^dataset\.augment: must be null .*not square \(5×7\)"):
        data.load(dataset(f"{own}.source", augment={"rotate": 10}), CPU)
    square = dataset("lenetexp.datasets.digits", augment={"rotate": 10})
    assert data.load(square, CPU).image_shape == (1, 28, 28)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "must return a lenetexp.datasets.Source, not a list"),
        ("broken", "the disk is on fire"),
        ("absent", "absent"),
    ],
)
def test_a_target_that_gives_no_source_is_told_in_a_sentence(own: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        data.load(dataset(f"{own}.{name}"), CPU)
    assert "\n" not in str(error.value) and f"_target_={own}.{name}" in str(error.value)


def test_a_user_error_of_a_source_is_passed_on_as_it_is(tmp_path: Path) -> None:
    settings = dataset(
        "lenetexp.datasets.image_folder", root=str(tmp_path), image_size=28, channels=1, test=0.2
    )
    with pytest.raises(UserError, match=f"^dataset.root={tmp_path}: there are no pictures"):
        data.load(settings, CPU)


# ---- batches ----

COUNT = 2 * data.BLOCK + 11  # more than one block, and a short last batch


@pytest.fixture(scope="module")
def many() -> Split:
    """Random images, each labelled with its own number, so that an order can be read off."""
    return Split(torch.from_numpy(pixels(COUNT, 1, 6, 6, seed=0)), torch.arange(COUNT))


def epoch_of(
    split: Split, batch_size: int = 64, seed: int = 0, epoch: int = 1, augment: Augment | None = None
) -> tuple[Tensor, Tensor]:
    """All images and labels of an epoch in their order."""
    images, labels = zip(*data.batches(split, batch_size, seed, epoch, augment), strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("batch_size", [64, 1000])
def test_all_batches_are_full_but_the_last(many: Split, batch_size: int) -> None:
    sizes = [len(labels) for _, labels in data.batches(many, batch_size, seed=0, epoch=1)]
    assert sizes == [batch_size] * (COUNT // batch_size) + [COUNT % batch_size]


def test_an_epoch_shows_every_image_once(many: Split) -> None:
    images, labels = epoch_of(many)
    assert not torch.equal(labels, many.labels)
    assert torch.equal(labels.sort().values, many.labels)
    assert torch.equal(images, many.images[labels].float() / 255)


def test_images_are_floats_from_0_to_1(many: Split) -> None:
    images, _ = epoch_of(many)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)


@pytest.mark.parametrize("augment", [None, Augment(shift=2, rotate=10, scale=0.1)])
def test_an_epoch_is_a_function_of_seed_and_epoch_alone(many: Split, augment: Augment | None) -> None:
    unlived = epoch_of(many, seed=3, epoch=4, augment=augment)
    for epoch in (1, 2, 3):
        epoch_of(many, seed=3, epoch=epoch, augment=augment)
    torch.rand(5)  # nor does it draw from the generator that all share
    lived = epoch_of(many, seed=3, epoch=4, augment=augment)
    assert all(map(torch.equal, unlived, lived))


def test_orders_differ_between_epochs_and_seeds(many: Split) -> None:
    orders = {tuple(epoch_of(many, seed=s, epoch=e)[1].tolist()) for s in (0, 1) for e in (1, 2)}
    assert len(orders) == 4


@pytest.mark.parametrize("batch_size", [1, 1000, data.BLOCK + 1, 10 * data.BLOCK])
@pytest.mark.parametrize("augment", [None, Augment(shift=2, rotate=10, scale=0.1)])
def test_batch_size_changes_neither_order_nor_images(
    many: Split, batch_size: int, augment: Augment | None
) -> None:
    images, labels = epoch_of(many, batch_size=64, augment=augment)
    other_images, other_labels = epoch_of(many, batch_size=batch_size, augment=augment)
    assert torch.equal(labels, other_labels)
    torch.testing.assert_close(images, other_images, rtol=0, atol=1e-6)


def test_an_augmentation_by_nothing_changes_nothing(many: Split) -> None:
    images, labels = epoch_of(many, augment=Augment())
    plain, plain_labels = epoch_of(many)
    assert torch.equal(labels, plain_labels)
    torch.testing.assert_close(images, plain, rtol=0, atol=1e-6)


def places(images: Tensor) -> Tensor:
    """N×2: the centre of mass of each N×1×H×W image, row and column."""
    weights = images[:, 0] / images.sum((1, 2, 3)).view(-1, 1, 1)
    axis = torch.arange(images.shape[-1], dtype=torch.float32)
    return torch.stack([weights.sum(2) @ axis, weights.sum(1) @ axis], 1)


@pytest.fixture(scope="module")
def spots() -> Split:
    """500 images 28×28 with one bright pixel at row 13, column 18."""
    images = torch.zeros(500, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 13, 18] = 255
    return Split(images, torch.arange(500))


def test_a_shift_moves_by_at_most_the_given_pixels_every_way(spots: Split) -> None:
    images, _ = epoch_of(spots, augment=Augment(shift=3))
    moves = places(images) - torch.tensor([13.0, 18.0])
    assert moves.abs().max() <= 3 + 1e-3
    assert (moves.amin(0) < -2.8).all() and (moves.amax(0) > 2.8).all()


def test_a_turn_keeps_the_distance_to_the_middle(spots: Split) -> None:
    images, _ = epoch_of(spots, augment=Augment(rotate=90))
    before, after = torch.tensor([13.0, 18.0]) - 13.5, places(images) - 13.5
    torch.testing.assert_close(after.norm(dim=1), before.norm().expand(500), rtol=0, atol=0.25)
    turns = torch.atan2(after[:, 0], after[:, 1]) - torch.atan2(before[0], before[1])
    assert turns.abs().max() < np.deg2rad(95) and turns.min() < -1.4 and turns.max() > 1.4


def test_augmentations_differ_between_images_epochs_and_seeds(spots: Split) -> None:
    def of_each_image(seed: int, epoch: int) -> Tensor:
        images, labels = epoch_of(spots, seed=seed, epoch=epoch, augment=Augment(shift=3))
        return places(images)[labels.argsort()]

    drawn = of_each_image(0, 1)
    assert len(drawn.unique(dim=0)) > 450
    for other in (of_each_image(0, 2), of_each_image(1, 1)):
        assert ((drawn - other).abs().amax(1) > 0.1).float().mean() > 0.9


def test_a_moved_image_keeps_its_label() -> None:
    images = torch.zeros(250, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 7:21, 7:21] = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1)
    moved, labels = epoch_of(
        Split(images, torch.arange(250)), augment=Augment(shift=2, rotate=10, scale=0.1)
    )
    torch.testing.assert_close(moved[:, 0, 14, 14] * 255, labels.float(), rtol=0, atol=1e-3)


def test_altered_and_swapped_mnist_is_recognised(mnist_root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in MNIST_FILES:
        (raw / name).symlink_to(mnist_root / "MNIST/raw" / name)
    torchvision_dataset("MNIST", str(tmp_path))
    train, test = raw / MNIST_FILES[0], raw / MNIST_FILES[2]
    pixels = bytearray(train.read_bytes())
    pixels[20_000_000] ^= 1
    train.unlink()
    train.write_bytes(pixels)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is altered: its MD5 is [0-9a-f]{32}"):
        torchvision_dataset("MNIST", str(tmp_path))
    # Both files of the training set put where the test set's should be, and the other way round.
    train.unlink()
    for one, other in ((MNIST_FILES[0], MNIST_FILES[2]), (MNIST_FILES[1], MNIST_FILES[3])):
        for name in (one, other):
            (raw / name).unlink(missing_ok=True)
        (raw / one).symlink_to(mnist_root / "MNIST/raw" / other)
        (raw / other).symlink_to(mnist_root / "MNIST/raw" / one)
    with pytest.raises(UserError, match=f"{train.name} is {test.name} under another name"):
        torchvision_dataset("MNIST", str(tmp_path))
