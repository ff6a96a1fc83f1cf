"""An experiment bench for LeNet: docs/architecture.md has the map and the data flow.

From the bottom up; nothing imports from a line below its own.

errors     what a user can put right prints one line; how messages read
config     a composed config, checked, typed and explained
cli        what all commands share
datasets   images and labels
models     LeNet
losses     what training minimises
optim      optimizers and learning-rate schedules
training   the loop
tracking   the record in MLflow
reporting  terminal and figures
runs       one run, from its config to its record
sweeps     many runs, and what they show
predict    what a trained net says of images
page       a page to draw on, with trained nets behind it
find_lr    the learning rates at which a recipe learns
describe   a net layer by layer, in numbers and as a picture
"""
