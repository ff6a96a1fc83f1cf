"""The record of a run: its journal here, and MLflow. Beside serving/ the only package that imports it; no torch.

names       the names of tags, metrics and artifacts, which MLflow and run folders share
journal     what happens in a run, one JSON line each: typed events, their writer and an incremental reader
store       opening an MLflow store; one sentence when it fails
relocation  makes the addresses in an SQLite store that was moved or copied follow it
recorder    writing one run into the store
process     MLflow in a process of its own, so that a command need not wait for its import
view        how MLflow's UI shows the runs: columns, charts and filters that the experiment keeps as tags
registry    models by name and alias in MLflow's registry
query       reading runs from the store
selection   which runs are meant: latest, best, an id or its beginning, a folder, a registered model
outbox      sends a journal to MLflow: from a thread, so that no outage stops training, or later
"""
