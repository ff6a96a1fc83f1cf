"""Three trained nets, and the page that a user starts with them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from browser import Browser
from helpers import InProcess, in_process
from lenetexp.datasets import torchvision_dataset
from lenetexp.datasets.splits import Data, Split
from lenetexp.inference.page.answer import ObservedNet
from lenetexp.inference.trained import Facts, TrainedNet, _Config
from page_server import HOSTILE, PageServer
from sample_training import make_training, train


@pytest.fixture(scope="session")
def knows_mnist(mnist_root: Path) -> tuple[ObservedNet, Split]:
    """A net that has seen 6,000 images of MNIST four times, and fifty test images."""
    source = torchvision_dataset("MNIST", str(mnist_root))
    some, few = (source.train[torch.arange(count)] for count in (6_000, 100))
    training = make_training(lr=0.02, seed=3)
    train(training, Data("some", some, few, few, source.classes, True, ""), epochs=4, seed=3)
    facts = Facts(classes=source.classes, image_shape=(1, 28, 28), like_mnist=True)
    numbers = np.random.default_rng(0).choice(len(source.test), 500, replace=False)[:50]  # the first of docs/draw.md's
    return ObservedNet(TrainedNet(training.model, _Config.model_construct(), facts)), source.test[
        torch.from_numpy(numbers)
    ]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> InProcess:
    """A folder with three finished runs; the name of one would do something in a page that let it."""
    with pytest.MonkeyPatch.context() as patch:
        store = in_process(tmp_path_factory.mktemp("trained"), patch, empty_store)
        store.train("epochs=10", "model.activation=tanh", recipe=())
        store.train("epochs=3", "model.activation=sigmoid", recipe=())
        store.train("epochs=2", "model=mlp", recipe=())
        store.client.set_tag(store.runs[0].info.run_id, "mlflow.runName", HOSTILE)
        return store


@pytest.fixture(scope="module")
def page(trained: InProcess) -> Iterator[PageServer]:
    """Of the three runs in this order, with nothing kept yet."""
    shutil.rmtree(trained.cwd / "kept", ignore_errors=True)
    ids = ",".join(run.info.run_id for run in reversed(trained.runs))
    server = PageServer(trained.cwd, f"run=[{ids}]", "keep=kept")
    yield server
    assert server.stop() == (0, ""), "nothing went wrong in all the tests, and Ctrl-C ends it in order"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def sheet(page: PageServer, browser: Browser) -> Iterator[Browser]:
    """The page as it opens, with whatever it sends noted."""
    browser.resize(1280, 900)
    browser.open(page.address)
    browser.wait("document.querySelectorAll('.group button').length")
    browser.value("""(() => {
      const fetch = window.fetch;
      window.fetch = (path, options) => { if (options?.body) window.sent = options.body; return fetch(path, options); };
    })()""")
    yield browser
    assert browser.complaints() == []
