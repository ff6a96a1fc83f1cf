"""What lenetexp's own worker processes need: conf/hydra/launcher/local.yaml names it."""

import gc


def warm_up() -> None:
    """Prepares a new worker process for its runs, while its parent does other things."""
    import lenetexp.reporting.run_figures
    import lenetexp.runs.experiment  # noqa: F401
    from lenetexp.tracking import recorder

    recorder.warm_up()
    # What was imported stays: searching it for garbage would cost every run half a second.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
