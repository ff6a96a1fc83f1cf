"""The model that answers requests, as MLflow loads it: scripts/register.py logs it, `mlflow models serve` serves it."""

import logging
from pathlib import Path
from typing import Any

import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from pydantic import BaseModel

from lenetexp.datasets.splits import Split
from lenetexp.errors import UserError
from lenetexp.inference.serving.rows import decode_rows
from lenetexp.inference.trained import NEEDED, rebuild_net
from lenetexp.training.evaluate import evaluate


class Answer(BaseModel):
    """The answer to one picture. The model's signature has these names."""

    predicted: str
    confidence: float
    probabilities: dict[str, float]


class Refusal(MlflowException):
    """A refusal of one sentence. MLflow's server would put the whole request before it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "message" or "message" not in self.__dict__:
            super().__setattr__(name, value)


class Classifier(PythonModel):
    """Classifies pictures of any size and arrays. See docs/serving.md."""

    # Requests are checked here: MLflow's own check of type hints repeats the whole request in its message.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Rebuild the net from the files that were logged with the model."""
        trust = (context.model_config or {}).get("trust", [])
        files = [Path(context.artifacts[Path(name).stem]) for name in NEEDED]
        self.net = rebuild_net(files, "the registered model", trust)
        self.net.model.eval()
        torch.set_num_threads(1)  # requests come in parallel, and each is small

    # A union, because MLflow checks nothing of it then. Its server takes {"inputs": […]} for a model with type hints.
    def predict(  # type: ignore[override]  # MLflow looks at which parameters there are
        self, model_input: list[str | list[Any]], params: dict[str, Any] | None = None
    ) -> list[Answer]:
        """Answer every row.

        Raises:
            Refusal: A row is neither a picture nor an array.
        """
        try:
            images = decode_rows(model_input, self.net)
            scores = evaluate(self.net.model, Split(images, torch.zeros(len(images), dtype=torch.int64)))
        except UserError as error:
            raise Refusal(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        except Exception:
            logging.getLogger(__name__).exception("a request failed")
            raise Refusal("the model failed; the server's log says why", error_code=INTERNAL_ERROR) from None
        classes = self.net.facts.classes
        answers: list[Any] = [
            {
                "predicted": classes[number],
                "confidence": shares[number],
                "probabilities": dict(zip(classes, shares, strict=True)),
            }
            for number, shares in zip(scores.predicted.tolist(), scores.logits.softmax(1).tolist(), strict=True)
        ]
        return answers  # plain, as they are sent


setattr(Classifier.predict, "_is_pyfunc", True)  # noqa: B010  # else MLflow warns that it checks nothing
