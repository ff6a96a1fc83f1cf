"""Hydra plugins: the sweepers and the launcher of lenetexp."""
