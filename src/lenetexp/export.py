"""scripts/export.py: a trained net as a file that runs without lenetexp, checked to give the same logits."""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from lenetexp.config.commands import ExportConfig
from lenetexp.errors import UserError, format_error, wrap_text
from lenetexp.inference.trained import TrainedNet, load_net
from lenetexp.reporting.terminal import format_path
from lenetexp.tracking.names import BEST_ACCURACY
from lenetexp.tracking.selection import find_run
from lenetexp.tracking.store import open_store
from lenetexp.training.batches import convert_to_floats

Forward = Callable[[Tensor], Tensor]
SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript.pt", "pt2": ".pt2"}
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra [export]
BATCHES = (1, 7)  # sizes that the check tries; the net is exported with another one
ABSOLUTE, RELATIVE = 1e-4, 1e-5
# A deslanted pixel is rounded to a grey level; where it lies halfway between two, another order of sums changes it.
DESLANTED = 1e-2


def run(settings: ExportConfig, config: dict[str, Any], folder: Path) -> None:
    """Write the file and a description beside it.

    Raises:
        UserError: The file gives other logits than the net. No file is left.
    """
    if settings.format == "onnx" and (missing := [name for name in PACKAGES if find_spec(name) is None]):
        raise UserError(
            f"format=onnx: needs the packages {', '.join(missing)}; "
            'install them: pip install -c constraints.txt -e ".[export]"'
        )
    stored = find_run(open_store(settings.tracking, create=False), settings.run)
    target = Path(settings.to or folder / f"{stored.run_id[:8]}{SUFFIXES[settings.format]}").expanduser()
    sidecar = target.with_name(f"{target.name}.json")
    for path in (target, sidecar):
        if path.exists():
            raise UserError(f"to={path}: must be a new file; this one exists")
    net = load_net(stored, settings.trust)
    net.model.eval()
    for parameter in net.model.parameters():
        parameter.requires_grad_(False)
    with TemporaryDirectory(prefix="lenetexp-") as place:
        file = Path(place) / target.name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says that torchscript is deprecated; so does docs/serving.md
                exported = EXPORTERS[settings.format](net.model, torch.rand(5, *net.facts.image_shape), file)
        except Exception as error:  # an exporter raises whatever a custom net leads it to
            raise UserError(
                f"format={settings.format}: {net.config.model.name} cannot be exported ({format_error(error)[:200]})"
            ) from error
        results = _check_export(net, exported, settings)
        description = {
            "format": settings.format,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "run": stored.run_id,
            "model": net.config.model.name,
            "dataset": net.facts.name,
            "validation_accuracy": stored.metrics.get(BEST_ACCURACY),
            "input": {"shape": ["batch", *net.facts.image_shape], "type": "float32", "range": [0, 1]},
            "output": {"shape": ["batch", len(net.facts.classes)], "type": "float32", "is": "logits"},
            "preparation": "as MNIST: light on dark, scaled into 20×20, centred by mass"
            if net.facts.like_mnist
            else "",
            "classes": net.facts.classes,
            "torch": torch.__version__,
        }
        _write_export(file, target, json.dumps(description, indent=1, ensure_ascii=False), sidecar)
    print(wrap_text(f"run {stored.run_id} ({stored.name}): {net.config.model.name} on {net.facts.name}"), end="\n\n")
    print("\n".join(results))
    print(f"\nfile: {format_path(target)}\nabout it: {format_path(sidecar)}")


def _write_export(file: Path, target: Path, description: str, sidecar: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    copyfile(file, target)
    sidecar.write_text(description + "\n")


def convert_to_onnx(model: nn.Module, example: Tensor, file: Path) -> Forward:
    """Write the net for any number of images. Return it as ONNX Runtime runs it."""
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(_trace(model, example), (example,), str(file), dynamo=True, dynamic_shapes=({0: "batch"},),
                      input_names=["images"], output_names=["logits"], external_data=False, verbose=False)  # fmt: skip
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def convert_to_pt2(model: nn.Module, example: Tensor, file: Path) -> Forward:
    """Write the net for any number of images. Return it as `torch.export.load` reads it."""
    torch.export.save(_trace(model, example), file)
    loaded: Forward = torch.export.load(file).module()
    return loaded


def convert_to_torchscript(model: nn.Module, example: Tensor, file: Path) -> Forward:
    """Write the net as a trace. Return it as `torch.jit.load` reads it."""
    torch.jit.trace(model, example).save(str(file))
    loaded: Forward = torch.jit.load(str(file))
    return loaded


EXPORTERS = {"onnx": convert_to_onnx, "pt2": convert_to_pt2, "torchscript": convert_to_torchscript}


def _trace(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def _check_export(net: TrainedNet, exported: Forward, settings: ExportConfig) -> list[str]:
    """Compare the logits of the net and the file. Return a line for each kind of images.

    Raises:
        UserError: A difference is too large.
    """
    generator = torch.Generator().manual_seed(0)
    samples = {"random images": torch.rand(max(BATCHES), *net.facts.image_shape, generator=generator)}
    lines = []
    try:
        test = net.load_own_images(settings.root, torch.device("cpu")).test.images[: max(BATCHES)]
        samples["test images"] = convert_to_floats(test)
    except (UserError, OSError) as error:
        lines.append(wrap_text(f"note: not checked on test images ({format_error(error)[:160]})"))
    allowed = DESLANTED if getattr(net.model, "deslant", False) else ABSOLUTE
    for name, images in samples.items():
        worst = 0.0
        for size in BATCHES:
            batch = images[-size:]
            with torch.inference_mode():
                expected = net.model(batch)
            difference = (exported(batch) - expected).abs()
            worst = max(worst, float(difference.max()))
            if not bool((difference <= allowed + RELATIVE * expected.abs()).all()):
                raise UserError(
                    f"format={settings.format}: the exported net gives other logits for {name}, by up to {worst:.2g}; "
                    "no file was kept"
                )
        sizes = " and ".join(map(str, BATCHES))
        lines.append(f"{name}, in batches of {sizes}: logits differ by at most {worst:.1e}")
    return lines
