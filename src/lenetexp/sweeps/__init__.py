"""Many runs as one sweep.

plan        from Hydra's overrides to checked jobs
grid        every combination of the given values: hydra/sweeper=grid
search      trials that Optuna proposes: hydra/sweeper=optuna
sweep       a sweep's own run in MLflow: what is finished, what is left to do
listing     the runs and sweeps that there are: scripts/runs.py
results     what became of a set of runs: a row for each run, and for each recipe
summary     what they show: a table, findings, pictures, the best run
image_sets  which images runs were validated on, within which alone they are ranked and compared
compare     a sweep's results again, or any runs beside each other: scripts/compare.py
findings    what the numbers support, in words: which settings differ, which are tied, how many seeds it takes
significance  exact tests and intervals, of numbers alone
run_files   what repeats a run: its recipe, data, code, machine and commands, from its artifacts
report      a page to share, of a sweep or of one run: scripts/report.py
"""
