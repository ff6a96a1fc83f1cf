"""What happens while a net learns. Knows nothing of Hydra and MLflow.

loop      the training loop, on one screen
setup     what a command trains with: device, net, optimizer, schedule
state     all that changes in training: recorded epoch by epoch, saved atomically, read back as weights only
curvature second derivatives of the loss, for the diagonal Levenberg-Marquardt step
frames    what the first convolution was like after the epochs, for the animation of a run
batches   the batches of any epoch, as a function of (seed, epoch)
lr_range  training at a rising learning rate
inside    what happens inside the net, layer by layer
verdict   whether the net learned, and why not
evaluate  a net and a split to logits, loss and accuracy
"""
