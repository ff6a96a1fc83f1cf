"""The names of tags, metrics and artifacts. MLflow, run folders and existing records share them."""

import socket


class Tag:
    """Tags of a run in MLflow."""

    HOST = "lenetexp.host"  # the machine that runs it
    FOLDER = "lenetexp.folder"  # its folder there
    DEVICE = "lenetexp.device"
    VERSION = "lenetexp.version"
    JOURNAL = "lenetexp.journal"  # the journal's own random key
    CONFIG_HASH = "lenetexp.config_hash"
    CONTINUES = "lenetexp.continues"  # the finished run whose epochs it begins with
    REASON = "lenetexp.reason"  # why it ended
    ENDING = "lenetexp.ending"  # did not learn, collapsed, diverged or pruned; in older records also at chance
    VERDICT = "lenetexp.verdict"  # learned, or as the ending, with the epoch
    UNSENT = "lenetexp.unsent"  # why its record is incomplete
    SECONDS = "lenetexp.seconds"  # of work, if several commands ran it
    NO_MODEL = "lenetexp.model_not_logged"
    SWEEP = "lenetexp.sweep"  # of a sweep's own run: which sweep it is
    BEST_RUN = "lenetexp.best_run"
    SWEPT = "swept."  # before each swept key
    PARENT = "mlflow.parentRunId"  # MLflow's UI nests runs by it
    DESCRIPTION = "mlflow.note.content"
    # How many each split has, as JSON. MLflow keeps one dataset, with the first run's profile, for all on its images.
    IMAGES = "lenetexp.images"
    COMMIT = "mlflow.source.git.commit"


class File:
    """Artifacts of a run, by the same paths in its folder."""

    CONFIG = "config.yaml"
    DATASET = "dataset.json"
    REPRODUCE = "reproduce"
    CHECKPOINTS = "checkpoints"
    BEST = "checkpoints/best.pt"
    LAST = "checkpoints/last.pt"
    FIGURES = "figures"
    CLOSEUP = "diagnostics.csv"
    MODEL = "model"
    SWEEP = "sweep.json"
    TABLES = ("table.txt", "table.csv")
    PREDICTIONS = "predictions.csv"


# Metrics with a step, which is the epoch: the fields of `EpochRecord`, with / for their first _.
SERIES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "images_per_second")
INSIDE = "inside/"  # before "layer/measure"
BEST_EPOCH, BEST_ACCURACY, BEST_LOSS = "best/epoch", "best/val_accuracy", "best/val_loss"
TEST_ACCURACY, TEST_LOSS = "test/accuracy", "test/loss"

HOST = socket.gethostname()
