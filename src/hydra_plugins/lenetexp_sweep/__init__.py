"""Hydra plugins. They serve any Hydra application.

launcher  hydra/launcher=local: jobs in processes of this machine, one per core or several per GPU
sweeper   hydra/sweeper=grid, every combination; hydra/sweeper=optuna, lenetexp's search
"""
