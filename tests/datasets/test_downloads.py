"""torchvision's datasets: each from small files in its real format, MNIST from the real ones."""

import bz2
import gzip
import hashlib
import pickle
import socket
import string
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lenetexp.datasets import Split, torchvision_dataset
from lenetexp.errors import UserError
from sample_images import MNIST_FILES, idx, noise, small_mnist, write_idx


def assert_is(split: Split, images: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    """`split` holds exactly these grey N×H×W images and their labels."""
    assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
    np.testing.assert_array_equal(split.images.numpy(), images[:, None])
    np.testing.assert_array_equal(split.labels.numpy(), labels)


def listing(folder: Path) -> dict[Path, int]:
    """Everything below a folder and when it was last changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# ---- what each dataset becomes ----


@pytest.mark.parametrize(
    ("name", "first_class", "like_mnist"),
    [("MNIST", "0", True), ("FashionMNIST", "T-shirt/top", False), ("KMNIST", "o", False)],
)
def test_mnist_and_its_replacements_are_as_in_their_files(
    name: str, first_class: str, like_mnist: bool, tmp_path: Path
) -> None:
    write_idx(tmp_path / name / "raw", small_mnist())
    source = torchvision_dataset(name, str(tmp_path))
    train_images, train_labels, test_images, test_labels = small_mnist().values()
    assert_is(source.train, train_images, train_labels)
    assert_is(source.test, test_images, test_labels)
    assert (source.name, source.classes[0], len(source.classes)) == (name, first_class, 10)
    assert source.like_mnist == like_mnist


def test_qmnist_takes_the_digit_from_its_eight_columns(tmp_path: Path) -> None:
    columns = np.arange(24, dtype=np.int32).reshape(3, 8) * 100_000  # more than a byte: the byte order matters
    columns[:, 0] = [7, 0, 9]
    images = noise(3, 28, 28, seed=0)
    for part in ("train", "test"):
        files = {f"qmnist-{part}-images-idx3-ubyte": images, f"qmnist-{part}-labels-idx2-int": columns}
        write_idx(tmp_path / "QMNIST/raw", files)
    source = torchvision_dataset("QMNIST", str(tmp_path))
    for split in (source.train, source.test):
        assert_is(split, images, np.array([7, 0, 9]))
    assert source.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("split", "first_label", "classes"),
    [("letters", 1, string.ascii_lowercase), ("balanced", 0, string.digits + string.ascii_uppercase + "abdefghnqrt")],
)
def test_emnist_is_upright_with_classes_from_0(split: str, first_label: int, classes: str, tmp_path: Path) -> None:
    upright = noise(len(classes), 28, 28, seed=0)
    labels = np.arange(len(classes), dtype=np.uint8)
    contents = {"images-idx3-ubyte": upright.transpose(0, 2, 1), "labels-idx1-ubyte": labels + np.uint8(first_label)}
    for part in ("train", "test"):
        write_idx(tmp_path / "EMNIST/raw", {f"emnist-{split}-{part}-{kind}": a for kind, a in contents.items()})
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
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([0, 9], [3])
    assert source.train.images.shape == (2, 1, 28, 28) and source.train.images.dtype == torch.uint8
    whole, moved = source.train.images[:, 0]
    assert (whole == 255).sum() == (whole > 0).sum() == 20 * 20
    # 16.25×11.25 pixels with their mass moved to the middle: down by 2, and right by 4, the limit.
    assert (moved[6:21, 8:18] == 255).all()
    moved[6:23, 8:21] = 0
    assert (moved == 0).all()


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five training batches and a test batch, each of two images: red over blue, and all green."""
    from torchvision.datasets import CIFAR10

    red_over_blue, green = np.zeros((2, 3, 32, 32), np.uint8)
    red_over_blue[0, :16] = red_over_blue[2, 16:] = green[1] = 255
    batch = {"data": np.stack([red_over_blue, green]).reshape(2, -1), "labels": [3, 8]}
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    md5 = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        content = {"label_names": [f"class {i}" for i in range(10)]} if name == "batches.meta" else batch
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5(pickle.dumps(content)).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", list(md5.items())[:5])
    monkeypatch.setattr(CIFAR10, "test_list", list(md5.items())[5:6])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    return folder


def test_cifar10_is_in_colour_and_28_pixels_wide(cifar10: Path) -> None:
    source = torchvision_dataset("CIFAR10", str(cifar10.parent))
    assert source.train.images.shape == (10, 3, 28, 28) and source.train.images.dtype == torch.uint8
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([3, 8] * 5, [3, 8])
    assert source.classes[3] == "cat"
    red_over_blue, green = source.test.images
    assert (red_over_blue[0, :13] == 255).all() and (red_over_blue[0, 15:] == 0).all()
    assert (red_over_blue[2, :13] == 0).all() and (red_over_blue[2, 15:] == 255).all()
    assert (green[1] == 255).all() and (green[[0, 2]] == 0).all()


def test_the_real_mnist(mnist_root: Path) -> None:
    before = listing(mnist_root)
    source = torchvision_dataset("MNIST", str(mnist_root))
    assert (source.train.images.shape, source.test.images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert [s.labels[:5].tolist() for s in (source.train, source.test)] == [[5, 0, 4, 1, 9], [7, 2, 1, 0, 4]]
    # The mean in PyTorch's own MNIST example.
    assert source.train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert listing(mnist_root) == before


# ---- damaged files ----


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A small MNIST in tmp_path."""
    write_idx(tmp_path / "MNIST/raw", small_mnist())
    return tmp_path / "MNIST/raw"


IMAGES, LABELS = MNIST_FILES[:2]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            IMAGES,
            lambda content: content[:-1],
            f"{IMAGES} is cut short: it has 15,695 bytes, its header promises 15,696",
        ),
        (IMAGES, lambda content: content[:6], f"{IMAGES} is cut short: it has 6 bytes"),
        (LABELS, lambda content: content + b"\0", f"{LABELS} is too long"),
        (IMAGES, lambda _: b"", f"{IMAGES} is not an IDX file"),
        (IMAGES, lambda _: b"\x1f\x8b\x08\x08 still gzipped", f"{IMAGES} is not an IDX file"),
        (IMAGES, lambda _: b"<html>Not found</html>", f"{IMAGES} is not an IDX file"),
        (LABELS, lambda _: idx(noise(19, seed=0)), f"{IMAGES} holds 20 images, but {LABELS} 19 labels"),
        (IMAGES, lambda _: idx(noise(20, seed=0)), f"{IMAGES} is not an IDX file of its kind"),  # labels
    ],
)
def test_a_damaged_file_is_named(
    file: str, change: Callable[[bytes], bytes], message: str, tmp_path: Path, raw: Path
) -> None:
    """Cut short, too long, of another kind, or not in step with its partner."""
    (raw / file).write_bytes(change((raw / file).read_bytes()))
    with pytest.raises(UserError, match=message):
        torchvision_dataset("MNIST", str(tmp_path))


def test_altered_and_swapped_mnist_files_are_recognised(mnist_root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in MNIST_FILES:
        (raw / name).symlink_to(mnist_root / "MNIST/raw" / name)
    torchvision_dataset("MNIST", str(tmp_path))
    train, test = raw / MNIST_FILES[0], raw / MNIST_FILES[2]
    altered = bytearray(train.read_bytes())
    altered[20_000_000] ^= 1
    train.unlink()
    train.write_bytes(altered)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is altered: its MD5 is [0-9a-f]{32}"):
        torchvision_dataset("MNIST", str(tmp_path))
    for name, other in zip(MNIST_FILES, (*MNIST_FILES[2:], *MNIST_FILES[:2]), strict=True):
        (raw / name).unlink()
        (raw / name).symlink_to(mnist_root / "MNIST/raw" / other)
    with pytest.raises(UserError, match=f"{train.name} is {test.name} under another name"):
        torchvision_dataset("MNIST", str(tmp_path))


def test_a_damaged_cifar10_batch_is_refused(cifar10: Path) -> None:
    with (cifar10 / "data_batch_4").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"CIFAR10's files in .* cannot be read"):
        torchvision_dataset("CIFAR10", str(cifar10.parent))


def test_an_unknown_name_or_split_gets_the_list_of_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.name=MNISTT: must be one of MNIST, FashionMNIST"):
        torchvision_dataset("MNISTT", str(tmp_path))
    with pytest.raises(UserError, match=r"dataset.split=None: must be one of byclass, bymerge"):
        torchvision_dataset("EMNIST", str(tmp_path))


# ---- downloads ----


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        assert socket.getdefaulttimeout() == 5, "a silent server would block for ever"
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)


@pytest.mark.parametrize("root", ["data", "there/is/no/such/folder"])
def test_without_network_the_missing_files_are_named_and_no_folder_is_left(
    root: str, tmp_path: Path, no_network: None
) -> None:
    with pytest.raises(UserError) as error:
        torchvision_dataset("MNIST", str(tmp_path / root))
    message = str(error.value)
    for wanted in (str(tmp_path / root / "MNIST/raw"), "(Temporary", "root=FOLDER", "dataset=digits", *MNIST_FILES):
        assert wanted in message
    assert "\n" not in message and list(tmp_path.iterdir()) == [] and socket.getdefaulttimeout() is None


def test_only_the_missing_file_is_asked_for_and_the_others_stay(tmp_path: Path, raw: Path, no_network: None) -> None:
    (raw / "t10k-labels-idx1-ubyte").unlink()
    before = listing(tmp_path)
    with pytest.raises(UserError, match="put the file t10k-labels-idx1-ubyte into") as error:
        torchvision_dataset("MNIST", str(tmp_path))
    assert "train-images" not in str(error.value)
    assert listing(tmp_path).keys() == before.keys()


@pytest.mark.parametrize(
    ("name", "files"), [("USPS", "files usps.bz2, usps.t.bz2"), ("CIFAR10", "file cifar-10-batches-py")]
)
def test_other_datasets_name_their_missing_files_too(name: str, files: str, tmp_path: Path, no_network: None) -> None:
    with pytest.raises(UserError, match=f"put the {files} into {tmp_path}/data by hand, say with dataset.root=FOLDER"):
        torchvision_dataset(name, str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that torchvision takes for MNIST's server, with a small set and its checksums."""
    from torchvision.datasets import MNIST

    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, array in small_mnist().items():
        packed = gzip.compress(idx(array))
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(MNIST, "resources", resources)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield folder
        server.shutdown()


def test_missing_files_are_downloaded_once(tmp_path: Path, mirror: Path) -> None:
    images, labels, *_ = small_mnist().values()
    source = torchvision_dataset("MNIST", str(tmp_path / "data"))
    assert_is(source.train, images, labels)
    for packed in mirror.iterdir():
        packed.unlink()
    again = torchvision_dataset("MNIST", str(tmp_path / "data"))
    assert torch.equal(again.test.images, source.test.images)


def test_a_download_with_a_wrong_checksum_is_not_used(tmp_path: Path, mirror: Path) -> None:
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(noise(20, 28, 28, seed=5))))
    with pytest.raises(UserError, match="could not be downloaded"):
        torchvision_dataset("MNIST", str(tmp_path / "data"))
    assert not (tmp_path / "data/MNIST/raw/train-images-idx3-ubyte").exists()


def test_one_process_downloads_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a third comes just when the first has given up and the second has begun."""
    from torchvision import datasets

    running, most = [], []

    def fail(root: str, **_: Any) -> None:
        running.append(root)
        most.append(len(running))
        time.sleep(0.3)
        running.pop()
        raise OSError("no space left")

    def unlink_slowly(path: Path, missing_ok: bool = False) -> None:
        time.sleep(0.2)
        unlink(path, missing_ok)

    def load() -> None:
        with pytest.raises(UserError, match="no space left"):
            torchvision_dataset("MNIST", str(tmp_path / "data"))

    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", unlink_slowly)
    monkeypatch.setattr(datasets, "MNIST", fail)
    with ThreadPoolExecutor(3) as pool:
        for delay in (0.0, 0.1, 0.45):
            time.sleep(delay)
            pool.submit(load).add_done_callback(lambda done: done.result())
    assert most == [1, 1, 1] and not [*tmp_path.rglob("*.lock")]
