"""What happens while a net learns. Knows nothing of Hydra and MLflow.

loop        the training loop, on one screen
state       the device, and all that changes in training: set up, recorded by epoch, saved and restored
batches     the batches of any epoch, as a function of (seed, epoch)
evaluate    a net and a split to logits, loss and accuracy
checkpoint  one dictionary in one file, replaced atomically, read back as weights only
"""
