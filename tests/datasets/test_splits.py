"""Loading a dataset: its validation images, its digest, and what a custom dataset gets wrong."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_method

from lenetexp import datasets
from lenetexp.config.schema import check_config
from lenetexp.config.targets import Dataset
from lenetexp.datasets import Split, digits
from lenetexp.datasets.splits import Data, hold_out, load_data
from lenetexp.errors import UserError
from lenetexp.runs.trust import ALLOWED


def loaded(target: str, **settings: Any) -> Data:
    return load_data(check_config(Dataset, {"_target_": target, **settings}), torch.device("cpu"))


def same(one: Split, other: Split) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("function", ALLOWED["dataset"], ids=lambda function: function.__name__)
def test_configs_name_functions_by_their_public_names(function: Any) -> None:
    """Stored configs do, too. The modules are imported here: none of them hides a function."""
    assert get_method(f"lenetexp.datasets.{function.__name__}") is function
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = datasets.nothing


# ---- splits ----


def numbered(*per_class: int) -> Split:
    """So many 1×1×1 images of each class, each with a different value."""
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    return Split(torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1), labels)


def numbers(split: Split) -> list[int]:
    return split.images.flatten().tolist()


def test_held_out_images_are_a_share_of_each_class_and_the_rest_are_the_others() -> None:
    everything = numbered(60, 30, 10, 2)
    rest, part = hold_out(everything, 0.1, 3, "abcd")
    assert part.labels.bincount().tolist() == [6, 3, 1, 1]  # at least one
    assert sorted(numbers(rest) + numbers(part)) == numbers(everything)
    for split in (rest, part):
        assert torch.equal(split.labels, everything.labels[split.images.flatten().long()])


def test_held_out_images_depend_on_the_seed_alone() -> None:
    everything = numbered(60, 30)
    first, again, other = (numbers(hold_out(everything, 0.1, seed, "ab")[1]) for seed in (0, 0, 1))
    assert first == again != other


def test_a_class_with_one_image_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"the class owl has one image"):
        hold_out(numbered(5, 1), fraction=0.1, seed=0, classes=("cat", "owl"))


def test_validation_images_are_held_out_or_are_the_test_images() -> None:
    source = digits()
    rest, part = hold_out(source.train, 0.25, 4, source.classes)
    data = loaded("lenetexp.datasets.digits", validation=0.25, split_seed=4)
    assert same(data.train, rest) and same(data.val, part) and same(data.test, source.test)
    data = loaded("lenetexp.datasets.digits", validation="test")
    assert same(data.train, source.train) and same(data.val, source.test) and same(data.test, source.test)


# ---- custom datasets ----

CUSTOM = """
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


def of_lists():
    return Source("mine", Split([[[0]]], [0]), six(), ("no", "yes"))


def nothing():
    return [1, 2]


def broken():
    raise OSError("the disk\\nis on fire")
"""


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "custom_pictures.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    yield "custom_pictures"
    sys.modules.pop("custom_pictures", None)


def test_a_custom_dataset_is_called_with_its_settings(custom: str) -> None:
    data = loaded(f"{custom}.source", pixel=9, validation="test", split_seed=1)
    assert (data.name, data.classes, data.image_shape) == ("mine", ("no", "yes"), (1, 5, 7))
    assert data.train.images.flatten()[-1] == 9
    assert data.build_facts()["images"] == {"train": 6, "val": 6, "test": 6}


def test_every_pixel_and_label_counts_in_the_digest(custom: str) -> None:
    changes = [{"part": part, **change} for part in ("train", "test") for change in ({"pixel": 1}, {"label": 1})]
    digests = [loaded(f"{custom}.source", **settings).digest for settings in ({}, {}, *changes)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


def test_the_digest_is_of_the_data_and_not_of_how_they_are_split() -> None:
    for validation in (0.3, "test"):
        data = loaded("lenetexp.datasets.digits", validation=validation)
        assert data.digest == "85f04fac531fa6ad939230efde807106a66f"  # as stored by every run on digits so far


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("source", {"image_type": "float32"}, "train images must be N×C×H×W uint8"),
        ("source", {"shape": [5, 7]}, r"train images must be N×C×H×W uint8 with N above 0, not \(6, 5, 7\)"),
        ("source", {"count": 0}, "with N above 0"),
        ("source", {"label_type": "int32"}, "train labels must be 6 int64 numbers, not .* torch.int32"),
        ("source", {"labels": 5}, r"train labels must be 6 int64 numbers, not \(5,\)"),
        ("source", {"label": 2}, "train labels must be from 0 to 1, not 0 to 2"),
        ("source", {"label": -1}, "train labels must be from 0 to 1, not -1 to 1"),
        ("source", {"label": 2, "part": "test"}, "test labels must be from 0 to 1, not 0 to 2"),
        ("source", {"shape": [1, 7, 5], "part": "test"}, "test images must have the shape of training images"),
        ("source", {"colour": "red"}, "^dataset: source does not take colour; add ~dataset.colour to the command$"),
        ("of_lists", {}, "train images must be .*, not list"),
        ("nothing", {}, "must make a lenetexp Source, not a list"),
        ("broken", {}, "the disk is on fire"),
        ("absent", {}, "absent"),
    ],
)
def test_what_a_custom_dataset_gets_wrong_is_said_in_one_line(
    custom: str, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        loaded(f"{custom}.{name}", **settings)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith((f"dataset._target_={custom}.{name}: ", f"dataset: {name}"))


def test_a_datasets_own_user_error_is_passed_on_unchanged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^dataset.root={tmp_path}: there are no pictures"):
        loaded("lenetexp.datasets.image_folder", root=str(tmp_path), image_size=28, channels=1, test=0.2)


def test_images_that_are_not_square_cannot_be_augmented(custom: str) -> None:
    with pytest.raises(UserError, match=r"^dataset\.augment: must be null .*not square \(5×7\)"):
        loaded(f"{custom}.source", augment={"rotate": 10})
    assert loaded("lenetexp.datasets.digits", augment={"rotate": 10}).image_shape == (1, 28, 28)
