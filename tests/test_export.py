"""A net as a file for other programs gives the logits that it gives here, for any number of images."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers import InProcess, composed, run_script
from lenetexp import export, models
from lenetexp.config.commands import ExportConfig
from lenetexp.config.schema import check_config
from lenetexp.datasets.local import digits
from lenetexp.errors import UserError
from lenetexp.models.layers import QuickConv2d, Subsampling


def exported(store: InProcess, folder: Path, *words: str) -> Path:
    """What the command does, within this process; its file."""
    folder.mkdir(exist_ok=True)
    values = composed(f"tracking.uri={store.uri}", *words, name="export")
    export.run(check_config(ExportConfig, values), values, folder)
    (sidecar,) = folder.glob("*.json")
    return sidecar.with_suffix("")


def logits(store: InProcess, images: torch.Tensor) -> torch.Tensor:
    """By a LeNet that is put together here from best.pt."""
    (best,) = store.cwd.glob("outputs/runs/*/checkpoints/best.pt")
    net = models.LeNet(activation=store.runs[0].data.params["model.activation"])
    net.load_state_dict(torch.load(best, weights_only=True))
    return net.eval()(images)


def test_onnx_from_the_command_line(trained: InProcess) -> None:
    """Read by ONNX Runtime alone, with the sidecar's names."""
    import onnxruntime

    done = run_script("export", "run=best", "format=onnx", "to=new/digits.onnx", cwd=trained.cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "random images, in batches of 1 and 7: logits differ by at most" in done.stdout
    assert "test images, in batches of 1 and 7: logits differ by at most" in done.stdout
    file = trained.cwd / "new/digits.onnx"
    about = json.loads((trained.cwd / "new/digits.onnx.json").read_text())
    assert about["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert about["classes"] == [*"0123456789"] and about["input"]["shape"] == ["batch", 1, 28, 28]
    images = digits().test.images[:300].float() / 255
    session = onnxruntime.InferenceSession(str(file))
    assert [ends[0].shape[0] for ends in (session.get_inputs(), session.get_outputs())] == ["batch", "batch"]
    for count in (1, 4, 5, 300):
        (found,) = session.run(None, {"images": images[:count].numpy()})
        assert np.allclose(found, logits(trained, images[:count]).detach().numpy(), atol=1e-4)
    with pytest.raises(UserError, match="must be a new file; this one exists"):
        exported(trained, trained.cwd / "again", "format=onnx", f"to={file}")


@pytest.mark.parametrize("kind", ["pt2", "torchscript"])
def test_torchs_own_forms(trained: InProcess, tmp_path: Path, kind: str) -> None:
    file = exported(trained, tmp_path / kind, f"format={kind}")
    net = torch.export.load(file).module() if kind == "pt2" else torch.jit.load(str(file))
    images = digits().test.images[:300].float() / 255
    for count in (1, 4, 5, 300):
        assert torch.allclose(net(images[:count]), logits(trained, images[:count]), atol=1e-4)


def test_a_file_that_gives_other_logits_is_not_kept(
    trained: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: nn.Module, example: torch.Tensor, file: Path) -> Any:
        file.write_text("a file")
        return lambda images: model(images) + 0.01

    monkeypatch.setitem(export.EXPORTERS, "pt2", wrong)
    with pytest.raises(UserError, match=r"gives other logits for random images, by up to 0\.01; no file was kept"):
        exported(trained, tmp_path / "wrong", "format=pt2")
    assert not list((tmp_path / "wrong").iterdir())


def test_a_missing_extra_and_a_net_that_cannot_be_traced(
    trained: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(UserError, match=r"format=onnx: needs the packages onnx; install them: pip install .*export"):
        exported(trained, tmp_path / "a", "format=onnx")
    monkeypatch.setitem(export.EXPORTERS, "pt2", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="format=pt2: LeNet cannot be exported"):
        exported(trained, tmp_path / "b", "format=pt2")


def test_exporting_fixes_no_batch_size_and_uses_what_onnx_knows() -> None:
    """torch's exporter to ONNX forgets divisor_override, by which all sums were four times too small."""
    batch = {0: torch.export.Dim("batch")}
    layer = nn.Sequential(QuickConv2d(1, 3, 5), Subsampling(3))
    program = torch.export.export(layer, (torch.rand(5, 1, 12, 12),), dynamic_shapes=({**batch},))
    (pool,) = [node for node in program.graph.nodes if "avg_pool2d" in str(node.target)]
    assert len(pool.args) < 7 or pool.args[6] is None
    images = torch.rand(2, 1, 12, 12)
    assert torch.allclose(program.module()(images), layer(images), atol=1e-6)


NETS: dict[str, dict[str, Any]] = {
    "LeNet1": {}, "LeNet4": {}, "LeNet5": {}, "LeNet1989": {}, "MLP": {}, "LinearClassifier": {"deslant": True},
    "PairwiseLinear": {}, "NearestNeighbours": {}, "QuadraticClassifier": {}, "PolynomialSVM": {},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*export.EXPORTERS])
@pytest.mark.parametrize("name", NETS)
def test_every_net_can_be_exported(name: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = getattr(models, name)(**NETS[name]).eval()
    train = digits().train
    if hasattr(net, "learn"):
        net.learn(train.images[:300].float() / 255, train.labels[:300])
    found = export.EXPORTERS[kind](net, torch.rand(5, 1, 28, 28), tmp_path / "file")
    images = digits().test.images[:50].float() / 255
    for count in (1, 4, 7, 50):
        theirs, ours = found(images[:count]), net(images[:count])
        atol = export.DESLANTED if getattr(net, "deslant", False) else export.ABSOLUTE
        assert torch.allclose(theirs, ours, atol=atol, rtol=export.RELATIVE)
