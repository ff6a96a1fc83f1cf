"""How MLflow loads a registered net: it runs the text of this file, which is logged with every model."""

from mlflow.models import set_model

from lenetexp.inference.serving.classifier import Classifier

set_model(Classifier())
