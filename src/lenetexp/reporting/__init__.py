"""What a person sees: the terminal and the pictures. The only package that imports matplotlib.

terminal        aligned rows, tables, paths, the progress bar of a run
run_summary     the start and the end of a run in words
sweep_progress  one view of a whole sweep while it runs
style           colours, sizes and helpers that all pictures share
run_figures     the pictures of a run and of predictions
sweep_figures   the pictures of a sweep
"""
