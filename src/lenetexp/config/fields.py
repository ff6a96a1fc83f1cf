"""The types of single settings. Each has a description of the values that it allows."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WrapValidator
from pydantic import ValidatorFunctionWrapHandler as Check


def replace_message(allowed: str) -> WrapValidator:
    """Make a type's error message a description of the values that it allows."""

    def validate(value: Any, check: Check) -> Any:
        try:
            return check(value)
        except (ValidationError, ValueError, OverflowError):
            raise ValueError(allowed) from None

    return WrapValidator(validate)


Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, lt=2**63)]  # torch and NumPy hold no larger seed or size

AboveZero = Annotated[Finite, Field(gt=0), replace_message("a number above 0")]
NotNegative = Annotated[Finite, Field(ge=0), replace_message("a number, 0 or above")]
BelowOne = Annotated[Finite, Field(ge=0, lt=1), replace_message("a number from 0 to below 1")]
Decay = Annotated[Finite, Field(gt=0, lt=1), replace_message("a number above 0 and below 1")]
Share = Annotated[Finite, Field(ge=0, le=1), replace_message("a number from 0 to 1")]
Degrees = Annotated[Finite, Field(ge=0, le=180), replace_message("a number of degrees from 0 to 180")]
Slant = Annotated[Finite, Field(ge=0, lt=90), replace_message("a number of degrees from 0 to below 90")]
Count = Annotated[Whole, Field(ge=1), replace_message("a whole number, 1 or more")]
# 120 have 7,260 products: 2 GB for MNIST's images, and more grow with the square.
Components = Annotated[Whole, Field(ge=1, le=120), replace_message("a whole number from 1 to 120")]
FromZero = Annotated[Whole, replace_message("a whole number, 0 or more")]
Seed = Annotated[Whole, replace_message("a whole number from 0 to below 2^63")]
CountOrAuto = Annotated[Count | Literal["auto"], replace_message("a whole number, 1 or more, or auto")]
HeldOut = Annotated[Finite, Field(gt=0, lt=1), replace_message("a share of the images, above 0 and below 1")]
HeldOutOrTest = Annotated[
    HeldOut | Literal["test"], replace_message('a share of the training images, above 0 and below 1, or "test"')
]
Text = Annotated[str, Field(min_length=1)]


def _parse_name(value: Any) -> Any:
    """Turn a name made of digits, which Hydra reads as a number, back into text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _parse_address(value: str) -> str:
    if "://" not in value or value.startswith("file:"):
        raise ValueError
    return value


def _parse_resume(value: str) -> str:
    is_path = "/" in value or "\\" in value or Path(value).expanduser().is_dir()
    if not is_path and not re.fullmatch("[0-9a-f]{4,32}", value):
        raise ValueError
    return value


Name = Annotated[Text, BeforeValidator(_parse_name)]
RunId = Annotated[Name, replace_message("latest, best, best:DATASET, a run's id, its folder, or models:/NAME@ALIAS")]
OneToThreeRuns = Annotated[
    Annotated[list[Name], Field(min_length=1, max_length=3)],
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    replace_message(
        "best, best:DATASET, latest, a run's id or folder, or up to three of these in brackets, as [ID,ID,ID]"
    ),
]
Port = Annotated[Whole, Field(le=65_535), replace_message("a whole number from 0 to 65535")]
SweepId = Annotated[Name, replace_message("latest, or the id or the folder of a sweep (sweep=…)")]
Runs = Annotated[
    Text | Annotated[list[Name], Field(min_length=1)] | None,
    replace_message("latest:3, all, [ID,ID] or an MLflow filter"),
]
Resume = Annotated[
    bool | Annotated[Name, AfterValidator(_parse_resume)],
    replace_message("true, false, the id of a run or its first characters, at least four, or its folder"),
]
Paths = Annotated[
    Annotated[list[Name], Field(min_length=1)] | None,
    BeforeValidator(lambda value: value if isinstance(value, list | None) else [value]),
    replace_message("a file, a folder, a glob, or a list of those in brackets, as [a.png,b.png]"),
]
Address = Annotated[
    str,
    AfterValidator(_parse_address),
    replace_message("an SQLite file (sqlite:///outputs/mlflow.db) or a server (http://127.0.0.1:5000)"),
]
Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "silu", "gelu", "scaled_tanh"]
