"""One dictionary in one file: written to a temporary file, flushed and renamed; read back as weights only."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lenetexp.errors import UserError, one_line


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes `content`: at any moment, `path` is the whole old file or the whole new one. Raises `UserError`."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        with suppress(OSError):  # Windows cannot flush a folder, which holds the new name
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except (OSError, RuntimeError) as error:  # torch's writer turns the first into the second
        reason = error.strerror if isinstance(error, OSError) else one_line(error)[:120]
        raise UserError(f"{path} cannot be written ({reason}); the checkpoint before it is intact") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads tensors, numbers and strings, never anything that could run; `UserError` if there is anything else."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # a damaged pickle raises whatever its next byte leads to
        raise UserError(f"{path} is damaged or not a checkpoint of weights only ({one_line(error)[:120]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a dictionary, not a {type(content).__name__}")
    return content
