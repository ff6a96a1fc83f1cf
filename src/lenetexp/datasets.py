"""Where images come from: each function here is named by a YAML file of conf/dataset/.

A source hands over whole sets as one uint8 tensor each. A class or function of your own does the
same: return a `Source`, and name it by `_target_` in a new YAML file.
"""

import contextlib
import hashlib
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from lenetexp.config import UserError, one_line

# Larger pictures are refused before they are decoded: a small file can unpack to gigabytes.
MAX_PIXELS = 50_000_000
# MNIST: the sign's box is scaled into 20×20, its centre of mass put in the middle of 28×28
# (LeCun et al. 1998, section III A).
BOX, FRAME = 20, 28
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Split:
    """Images N×C×H×W as uint8 and their classes, N int64 numbers from 0."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Source:
    """A dataset as it comes: what may be trained on, what is for the test, the names of the classes.

    `like_mnist` says that its pictures are prepared as MNIST's: light on dark, the sign scaled into
    20×20 pixels in the middle of 28×28. Pictures to predict on are then brought to that form too.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    like_mnist: bool = False


def digits() -> Source:
    """1,797 digits of the UCI optical recognition set as scikit-learn ships them; a fifth is the test set.

    The 8×8 images with values 0 to 16 fill their frame; brought into MNIST's, a net that learned them
    reads MNIST's digits and photos of one's own far better than one that saw them fill 28×28.
    """
    table = _digits_table()
    images = torch.from_numpy(table[:, :-1]).float().view(-1, 1, 8, 8) * (255 / 16)
    labels = torch.from_numpy(table[:, -1]).long()
    everything = Split(_into_mnist_frame(images), labels)
    train, test = hold_out(everything, fraction=0.2, seed=0)
    return Source("digits", train, test, tuple("0123456789"), like_mnist=True)


def _digits_table() -> np.ndarray:
    """1797×65 floats: 64 pixels, then the class."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UserError("dataset=digits: scikit-learn, which holds the images, is not installed")
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.exists():  # the same file that load_digits reads, without a second of importing
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


@dataclass(frozen=True)
class _Idx:
    """The pairs of IDX files (images, labels) that a torchvision dataset keeps in root/<class>/raw."""

    train: tuple[str, str]
    test: tuple[str, str]


def _idx_files(name: str, split: str | None) -> _Idx | None:
    if name in ("MNIST", "FashionMNIST", "KMNIST"):
        return _Idx(
            ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
            ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        )
    if name == "QMNIST":
        return _Idx(
            ("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int"),
            ("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int"),
        )
    if name == "EMNIST":
        return _Idx(
            (f"emnist-{split}-train-images-idx3-ubyte", f"emnist-{split}-train-labels-idx1-ubyte"),
            (f"emnist-{split}-test-images-idx3-ubyte", f"emnist-{split}-test-labels-idx1-ubyte"),
        )
    return None


# MD5 of the published files, unpacked: an altered one is recognised where it is as long as it should be.
_PUBLISHED = {
    ("MNIST", "train-images-idx3-ubyte"): "6bbc9ace898e44ae57da46a324031adb",
    ("MNIST", "train-labels-idx1-ubyte"): "a25bea736e30d166cdddb491f175f624",
    ("MNIST", "t10k-images-idx3-ubyte"): "2646ac647ad5339dbf082846283269ea",
    ("MNIST", "t10k-labels-idx1-ubyte"): "27ae3e4e09519cfbb04c329615203637",
}
# Images in each of them. A file of another length in the same format may be a part that someone made.
_PUBLISHED_COUNTS = {"train": 60_000, "t10k": 10_000}

# What the datasets that are not IDX files want to find in root.
_OTHER_FILES = {"USPS": ("usps.bz2", "usps.t.bz2"), "CIFAR10": ("cifar-10-batches-py",)}
EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")


def torchvision_dataset(name: str, root: str, split: str | None = None) -> Source:
    """One of torchvision's datasets, from `root`, downloaded there first where it is missing.

    Args:
        name: torchvision's class: MNIST, FashionMNIST, KMNIST, QMNIST, EMNIST, USPS or CIFAR10.
        root: the folder; MNIST's files lie in root/MNIST/raw, and so on.
        split: for EMNIST only, one of `EMNIST_SPLITS`.

    Raises:
        UserError: the files are missing and cannot be downloaded, or are damaged.
    """
    known = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "EMNIST", *_OTHER_FILES)
    if name not in known:
        raise UserError(f"dataset.name={name}: must be one of {', '.join(known)}")
    if name == "EMNIST" and split not in EMNIST_SPLITS:
        raise UserError(f"dataset.split={split}: must be one of {', '.join(EMNIST_SPLITS)}")
    folder = Path(root).expanduser()
    idx = _idx_files(name, split)
    if idx:
        folder_of_files, files = folder / name / "raw", [*idx.train, *idx.test]
    else:
        folder_of_files, files = folder, list(_OTHER_FILES[name])
    lock = folder / f".{name}.lock"
    missing = [file for file in files if not (folder_of_files / file).exists()]
    if missing or lock.exists():  # another process may be in the middle of its download
        _download(name, folder, split, lock, folder_of_files, missing)
    if idx:
        for images, labels in (idx.train, idx.test):
            _check_idx_pair(folder_of_files / images, folder_of_files / labels)
        for file in files:
            _check_published(name, folder_of_files / file)
    try:
        train, test = (_open(name, folder, train, split) for train in (True, False))
    except (RuntimeError, ValueError, TypeError, OSError, EOFError, KeyError) as error:
        raise UserError(
            f"dataset.root={root}: {name}'s files in {folder_of_files} cannot be read "
            f"({one_line(error)}); delete them to download them again"
        ) from None
    return Source(
        name=name if split is None else f"{name} {split}",
        train=_as_split(name, split, train),
        test=_as_split(name, split, test),
        classes=_class_names(name, split, train),
        like_mnist=name in ("MNIST", "QMNIST", "EMNIST", "USPS"),
    )


def _open(name: str, root: Path, train: bool, split: str | None, download: bool = False) -> Any:
    from torchvision import datasets as torchvision_datasets  # a second of importing

    options = {"split": split} if split else {}
    kind = getattr(torchvision_datasets, name)
    return kind(root=str(root), train=train, download=download, **options)


def _download(
    name: str, root: Path, split: str | None, lock: Path, folder: Path, missing: Sequence[str]
) -> None:
    """Lets torchvision fetch and check the files; one process at a time, the others find them there."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock), _patience(seconds=5):
            for train in (True, False):
                _open(name, root, train, split, download=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        urlopen = re.search(r"urlopen error (?:\[Errno -?\d+\] )?(.*?)>", str(error))
        reason = urlopen[1] if urlopen else one_line(error)[:150]
        wanted = "file" if len(missing) == 1 else f"{len(missing)} files"
        raise UserError(
            f"{name} is not in dataset.root={root} and could not be downloaded ({reason}): "
            f"put the {wanted} {', '.join(missing)} into {folder} by hand, "
            "or use dataset=digits, which needs nothing"
        ) from None
    finally:
        # A failed try leaves no empty folders behind.
        with contextlib.suppress(OSError):
            lock.unlink()
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """How long a silent server is waited for; torchvision itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _check_idx_pair(images: Path, labels: Path) -> None:
    """That both files are whole IDX files and agree in number."""
    counts = [_idx_shape(path)[0] for path in (images, labels)]
    if counts[0] != counts[1]:
        raise UserError(
            f"{images} holds {counts[0]} images, but {labels.name} {counts[1]} labels: "
            "the two must agree; one of them is from another set or damaged"
        )


def _check_published(name: str, path: Path) -> None:
    """That a file as long as the published one is that one, and none under another's name."""
    published, count = _PUBLISHED.get((name, path.name)), _idx_shape(path)[0]
    if published is None or count not in _PUBLISHED_COUNTS.values():
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    others = [file for (_, file), md5 in _PUBLISHED.items() if md5 == found != published]
    is_a_part = count != _PUBLISHED_COUNTS[path.name.partition("-")[0]]
    if found == published or (is_a_part and not others):
        return
    what = f"is {others[0]} under another name" if others else f"is altered: its MD5 is {found}"
    raise UserError(f"{path} {what}, not {published}; delete it to download it again")


def _idx_shape(path: Path) -> tuple[int, ...]:
    """The shape that an IDX file's head declares: 0, 0, type, number of sizes, then each as 4 bytes.

    Raises:
        UserError: not an IDX file of bytes or ints, or not as long as its head says.
    """
    size_of = {0x08: 1, 0x0C: 4}  # uint8, int32
    with path.open("rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in size_of or not 1 <= head[3] <= 3:
            raise UserError(f"{path} is not an IDX file: it must start with the bytes 00 00 08 or 00 00 0c")
        sizes = np.frombuffer(file.read(4 * head[3]), ">u4")
    shape = tuple(int(size) for size in sizes)
    expected = 4 + 4 * head[3] + size_of[head[2]] * int(np.prod(shape, dtype=object))
    actual = path.stat().st_size
    if actual != expected or len(shape) < head[3]:
        raise UserError(
            f"{path} is {'cut short' if actual < expected else 'too long'}: it has {actual:,} bytes, "
            f"its head promises {expected:,}; delete it to download it again"
        )
    return shape


def _as_split(name: str, split: str | None, dataset: Any) -> Split:
    """torchvision's arrays as N×C×28×28 and class numbers from 0."""
    labels = torch.as_tensor(np.asarray(dataset.targets)).long()
    if name == "QMNIST":
        labels = labels[:, 0]  # the other seven columns tell the writer
    if (name, split) == ("EMNIST", "letters"):
        labels = labels - 1  # a is 1 in the files
    images = torch.as_tensor(np.asarray(dataset.data))
    if name == "CIFAR10":
        return Split(_resized(images.permute(0, 3, 1, 2).float(), 28), labels)
    images = images.unsqueeze(1)
    if name == "EMNIST":
        images = images.transpose(2, 3).contiguous()  # the files hold them lying on their side
    if name == "USPS":
        images = _into_mnist_frame(images.float())
    return Split(images, labels)


def _class_names(name: str, split: str | None, dataset: Any) -> tuple[str, ...]:
    if name in ("MNIST", "QMNIST", "USPS"):
        return tuple("0123456789")
    if (name, split) == ("EMNIST", "letters"):
        return tuple(dataset.classes[1:])  # torchvision's first is a placeholder
    return tuple(dataset.classes)


def image_folder(root: str, image_size: int, channels: int, test: float) -> Source:
    """The user's own pictures, one folder a class; with root/train and root/test those are the splits.

    Args:
        root: the folder that holds the class folders.
        image_size: height and width that every picture is scaled to, in pixels.
        channels: 1 for grey, 3 for colour.
        test: share of each class that is the test set where root has no train and test folders.

    Raises:
        UserError: no pictures, or one that cannot be read, named.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.root={root}: must be a folder with one folder a class in it")
    train_folder, test_folder = folder / "train", folder / "test"
    split_by_hand = train_folder.is_dir() and test_folder.is_dir()
    parent = train_folder if split_by_hand else folder
    if not split_by_hand and train_folder.is_dir():
        raise UserError(
            f"dataset.root={root}: has a folder train but no folder test; it must have both, or one "
            "folder a class"
        )
    classes = _class_folders(parent)
    if split_by_hand and (strange := set(_class_folders(test_folder)) - set(classes)):
        raise UserError(
            f"{test_folder} has classes that {train_folder} has not: {', '.join(sorted(strange))}"
        )
    train = _decode(parent, classes, image_size, channels)
    if split_by_hand:
        test_split = _decode(test_folder, classes, image_size, channels)
    else:
        train, test_split = hold_out(train, test, seed=0)
    return Source(folder.resolve().name, train, test_split, classes)


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    )


def _decode(folder: Path, classes: Sequence[str], size: int, channels: int) -> Split:
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise UserError(
            f"dataset.root={folder}: there are no pictures; it must hold one folder a class "
            f"with files that end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    for i, (path, _) in enumerate(tqdm(files, desc="decoding", unit="img", disable=None)):
        picture = read_image(path, "L" if channels == 1 else "RGB")
        scaled = np.array(picture.resize((size, size), Image.Resampling.BILINEAR))
        images[i] = torch.from_numpy(scaled).view(size, size, channels).permute(2, 0, 1)
    return Split(images, torch.tensor([label for _, label in files]))


def read_image(path: Path, mode: str) -> Image.Image:
    """Decodes a picture as `mode` ("L" grey, "RGB"); transparent parts lie on white.

    Raises:
        UserError: not a picture, damaged, or above `MAX_PIXELS`.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(
                    f"{path} has {picture.width}×{picture.height} pixels: "
                    f"must be at most {MAX_PIXELS:,} in all"
                )
            return _flat(ImageOps.exif_transpose(picture), mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture ({one_line(error)})") from None


def _flat(picture: Image.Image, mode: str) -> Image.Image:
    """The picture as `mode`, whatever it was: transparent parts on white, 16 bits scaled to 8."""
    if picture.has_transparency_data:
        on_white = Image.new("RGBA", picture.size, "white")
        on_white.alpha_composite(picture.convert("RGBA"))
        return on_white.convert(mode)
    if picture.mode.startswith("I"):  # Pillow's own conversion would cut values off at 255
        picture = Image.fromarray((np.array(picture) / 257).clip(0, 255).astype(np.uint8))
    return picture.convert(mode)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Splits off `fraction` of each class, at least one image: the rest and the part held out.

    Both keep the order that the images had.

    Raises:
        UserError: a class has fewer than two images, so that it cannot be in both.
    """
    rng = np.random.default_rng(seed)
    labels = split.labels.numpy()
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise UserError(
                f"dataset: class number {label} (from 0) has one image; a class must have at least 2, "
                "one to train on and one to hold out"
            )
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held[members[:count]] = True
    rest, part = torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
    return split[rest], split[part]


def _into_mnist_frame(images: Tensor) -> Tensor:
    """N×1×h×w floats that fill their frame, as MNIST has them: 20×20 pixels in 28×28, uint8."""
    margin = (FRAME - BOX) // 2
    return centred_by_mass(F.pad(_resized(images, BOX), (margin, margin, margin, margin)))


def centred_by_mass(images: Tensor) -> Tensor:
    """N×1×28×28 images whose middle 20×20 hold a sign, moved so that its mass lies in the middle.

    The middle is pixel 14: the mean over MNIST's 60,000 training images is 14.00 down and 14.01 across.
    Moved by whole pixels, and never out of the frame.
    """
    mass = images[:, 0].double()  # N×28×28
    place = torch.arange(FRAME, dtype=torch.float64)
    total = mass.sum((1, 2)).clamp(min=1e-9)
    margin = (FRAME - BOX) // 2
    moves = [
        (FRAME / 2 - mass.sum(along) @ place / total).round().clamp(-margin, margin).long().tolist()
        for along in (2, 1)  # down, right
    ]
    rolled = [
        image.roll(move, (1, 2)) for image, move in zip(images, zip(*moves, strict=True), strict=True)
    ]
    return torch.stack(rolled)


def _resized(images: Tensor, size: int) -> Tensor:
    """N×C×h×w floats from 0 to 255 scaled to N×C×size×size uint8."""
    scaled = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


# What conf/dataset/ names, and a stored config may name.
FUNCTIONS = (digits, torchvision_dataset, image_folder)
