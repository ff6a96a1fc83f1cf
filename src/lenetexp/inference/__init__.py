"""Trained nets put to use.

trained  a run's net, rebuilt from its record
serving  it in MLflow's registry, and behind HTTP
page     a page to draw on, with trained nets behind it
"""
