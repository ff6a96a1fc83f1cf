"""A trained net in MLflow's registry, and what `mlflow models serve` makes of it.

rows        the rows of a request, checked, as images for the net
classifier  the model that answers requests
logged      the file whose text is logged with every model: how MLflow loads it
registration  from a run to a version in the registry: scripts/register.py
"""
