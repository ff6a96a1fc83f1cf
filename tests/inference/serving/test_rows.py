"""Rows of a request: what is an image for the net, and what is refused with one sentence."""

import base64
import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from lenetexp.config.schema import check_config
from lenetexp.datasets.mnist_form import convert_to_mnist
from lenetexp.errors import UserError
from lenetexp.inference.serving.classifier import Classifier, Refusal
from lenetexp.inference.serving.registration import make_example
from lenetexp.inference.serving.rows import decode_rows
from lenetexp.inference.trained import Facts, TrainedNet, _Config

CONFIG = check_config(
    _Config,
    {"model": {"_target_": "lenetexp.models.LeNet"}, "dataset": {"_target_": "lenetexp.datasets.digits"}},
)  # fmt: skip


def net(shape: tuple[int, int, int] = (1, 28, 28), mnist: bool = True) -> TrainedNet:
    """One whose logits are the first ten pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 10, bias=False))
    facts = Facts(classes=tuple("0123456789"), image_shape=shape, like_mnist=mnist)
    return TrainedNet(model, CONFIG, facts)


def png(image: Image.Image, kind: str = "PNG") -> str:
    file = BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


ARRAY = np.arange(28 * 28).reshape(28, 28) % 256
PICTURE = base64.b64encode(make_example()).decode()


@pytest.mark.parametrize("rows", [[ARRAY.tolist()] * 3, [[ARRAY.tolist()]] * 3, np.stack([ARRAY] * 3), [ARRAY] * 3])
def test_arrays_are_taken_as_they_are(rows: Any) -> None:
    images = decode_rows(rows, net())
    assert images.shape == (3, 1, 28, 28) and images.dtype == torch.float32
    assert np.array_equal(images[2, 0].numpy(), ARRAY)


def test_pictures_are_prepared_as_predict_prepares_them() -> None:
    """Both kinds of rows in one request; a browser's data: address; base64 in lines."""
    lines = "\n".join(PICTURE[i : i + 76] for i in range(0, len(PICTURE), 76))
    images = decode_rows([PICTURE, ARRAY.tolist(), f"data:image/png;base64,{PICTURE}", lines], net())
    grey = np.array(Image.open(BytesIO(make_example())))
    for i in (0, 2, 3):
        assert np.array_equal(images[i].numpy(), convert_to_mnist(grey, "auto", ""))
    assert np.array_equal(images[1, 0].numpy(), ARRAY)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_of_any_size_suit_a_colour_net(kind: str) -> None:
    images = decode_rows([png(Image.new("RGB", (90, 70), (250, 0, 0)), kind)], net((3, 32, 32), mnist=False))
    assert images.shape == (1, 3, 32, 32)
    assert images[0, 0].min() > 240 and images[0, 2].max() < 10


def bomb(width: int, height: int) -> str:
    return png(Image.new("1", (width, height)))


REFUSED = [
    ("abc", "must be a list"),
    ({"a": 1}, "this is an object"),
    ([], "1 to 1000 rows, not 0"),
    ([PICTURE] * 1001, "not 1,001"),
    ([None], "row 0 must be a picture file in base64 or an array of 28×28 or 1×28×28 numbers, not null"),
    ([PICTURE, 7], "row 1 must be a picture file in base64 or an array"),
    (["%%%"], "row 0 must be a picture file in base64; this is not base64"),
    ([""], "row 0 is empty"),
    (["aGVsbG8="], "row 0 cannot be read: it is none of BMP, GIF"),
    ([base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode()], "it is none of BMP"),
    ([base64.b64encode(make_example()[:200]).decode()], "row 0 cannot be read"),
    (["A" * 30_000_000], "at most 20,000,000 bytes"),
    ([bomb(10_000, 6_000)], "row 0 has 10000×6000 pixels: must be at most 50,000,000"),
    ([bomb(30_000, 30_000)], "row 0 cannot be read"),
    ([bomb(6_000, 6_000)] * 3, "all pictures together must have at most 100,000,000 pixels"),
    ([png(Image.new("L", (50, 50), 200))], "row 0: must show a sign; it is one flat shade"),
    ([ARRAY.tolist(), [[1, 2], [3, 4]]], "row 1 must be an array of 28×28 or 1×28×28 numbers, not 2×2"),
    (ARRAY.tolist(), "row 0 must be an array of 28×28 or 1×28×28 numbers, not 28"),
    ([[[1, 2], [3]]], "row 0 must be an array of 28×28 or 1×28×28 numbers from 0 to 255 alone"),
    ([[["a"] * 28] * 28], "row 0 must be an array of"),
    ([[[{}] * 28] * 28], "row 0 must be an array of"),
    ([[[10**400] * 28] * 28], "row 0 must be an array of"),
    ([[[256] * 28] * 28], "row 0 must hold numbers from 0 (background) to 255 (ink)"),
    ([[[-1] * 28] * 28], "row 0 must hold numbers from 0"),
    ([[[float("nan")] * 28] * 28], "row 0 must hold numbers from 0"),
    ([ARRAY.tolist(), (ARRAY / 255).tolist()], "row 1 has no value above 1: numbers must be grey levels from 0 to 255"),
]


@pytest.mark.parametrize(("rows", "sentence"), REFUSED, ids=[sentence[:40] for _, sentence in REFUSED])
def test_what_is_no_image_is_refused(rows: Any, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        decode_rows(rows, net())
    assert sentence in str(refused.value) and len(str(refused.value)) < 300


def test_an_empty_image_is_no_doubt_about_the_scale() -> None:
    assert decode_rows([np.zeros((28, 28)).tolist()], net()).max() == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9) | st.just(PICTURE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@settings(deadline=None, derandomize=True, database=None, max_examples=200)
@given(JSON)
def test_any_json_has_an_answer_or_is_refused(rows: Any) -> None:
    try:
        images = decode_rows(rows, net())
    except UserError as error:
        assert len(str(error)) < 300
    else:
        assert images.shape[1:] == (1, 28, 28)


@settings(deadline=None, derandomize=True, database=None, max_examples=100)
@given(st.binary(max_size=60), st.integers(0, len(make_example())), st.sampled_from([0, 1, 4]))
def test_a_damaged_picture_is_read_or_refused(noise: bytes, place: int, cut: int) -> None:
    content = make_example()[:place] + noise + make_example()[place + cut :]
    try:
        decode_rows([base64.b64encode(content).decode()], net())
    except UserError as error:
        assert str(error).startswith("row 0")


def test_a_refusal_does_not_repeat_the_request() -> None:
    """MLflow's server puts the whole of it before the message."""
    model = Classifier()
    model.net = net()
    with pytest.raises(Refusal) as refused:
        model.predict(["A" * 100])
    refused.value.message = f"Failed to predict data '{'A' * 100}'. \nError: {refused.value.message}"
    answer = json.loads(refused.value.serialize_as_json())
    assert answer["message"].startswith("row 0 cannot be read") and "AAAA" not in answer["message"]
    assert refused.value.get_http_status_code() == 400


def test_a_fault_of_the_model_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Classifier()
    model.net = net()
    monkeypatch.setattr("lenetexp.inference.serving.classifier.evaluate", lambda *_: 1 / 0)
    with pytest.raises(Refusal, match="the model failed") as failed:
        model.predict([ARRAY.tolist()])
    assert failed.value.get_http_status_code() == 500


def test_answers_have_the_probabilities_of_all_classes() -> None:
    model = Classifier()
    model.net = net()
    answers: Any = model.predict([ARRAY.tolist(), PICTURE])
    assert len(answers) == 2
    for answer in answers:
        assert list(answer["probabilities"]) == [*"0123456789"]
        assert answer["confidence"] == answer["probabilities"][answer["predicted"]]
        assert answer["confidence"] == max(answer["probabilities"].values())
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
