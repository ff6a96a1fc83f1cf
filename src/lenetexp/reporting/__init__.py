"""What a person sees: the terminal and the pictures. The only package that imports matplotlib.

terminal       aligned rows, tables, paths, the progress of a run and of a sweep
run_summary    the start and the end of a run in words
style          colours, sizes and helpers that all pictures share
diagnostics_figure  what happens inside the net, layer by layer
net_figure     a net to scale, its tables of connections, its bitmaps
range_figure   the picture of a learning-rate range test
run_figures    the pictures of a run and of predictions
animation      the first convolution while it learns
sweep_figures  the pictures of a sweep
report_page    a page to share, from plain values; report.html.j2, .css and .js are what it is made of
report_parts   the charts and tables of that page, from tables of runs
"""
