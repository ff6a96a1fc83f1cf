"""What to compute on."""

import pytest
import torch

from lenetexp.config.schema import Device
from lenetexp.errors import UserError
from lenetexp.training.state import THREADS, pick_device


def test_a_run_after_one_that_set_its_threads_has_torchs_number_again() -> None:
    for threads in (1, THREADS + 1):
        pick_device(Device(name="cpu", threads=threads))
        assert torch.get_num_threads() == threads
    pick_device(Device(name="cpu", threads=None))
    assert torch.get_num_threads() == THREADS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^device=cuda: torch finds no such device; must be auto or .*cpu$"):
        pick_device(Device(name="cuda"))
