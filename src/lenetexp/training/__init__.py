"""What happens while a net learns. Knows nothing of Hydra and MLflow.

loop        the training loop, on one screen
state       all that changes in training: set up, recorded epoch by epoch, saved and restored
batches     the batches of any epoch, as a function of (seed, epoch)
evaluate    a net and a split to logits, loss and accuracy
device      from device=auto to a torch.device that exists
checkpoint  one dictionary in one file, replaced atomically, read back as weights only
"""
