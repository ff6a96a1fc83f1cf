#!/usr/bin/env python
"""The tutorial's plain PyTorch script at batch size 16, which benchmark.py measures lenetexp against.

python scripts/plain.py FOLDER EPOCHS        the folder holds MNIST/raw/…
"""

import statistics
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader


def plain_net() -> nn.Sequential:
    """Build the tutorial's net, as the tutorial writes it."""
    return nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Conv2d(6, 16, kernel_size=5),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Conv2d(16, 120, kernel_size=5),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.Linear(84, 10),
    )


def plain_epoch(loader: DataLoader[Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: str) -> float:
    """Train one epoch as the tutorial does. Return the mean of the batches' losses in nats."""
    loss_sum, accuracy_sum = 0.0, 0.0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        output = model(images)
        loss = F.cross_entropy(output, labels)
        accuracy = (output.argmax(dim=1) == labels).sum() / output.shape[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        accuracy_sum += accuracy.item()
    return loss_sum / len(loader)


@torch.no_grad()
def plain_validation(loader: DataLoader[Any], model: nn.Module, device: str) -> float:
    """Validate as the tutorial does. Return the mean of the batches' accuracies."""
    model.eval()
    correct = [(model(images.to(device)).argmax(1).cpu() == labels).float().mean().item() for images, labels in loader]
    model.train()
    return statistics.mean(correct)


def mnist(root: str, train: bool) -> Any:
    """Load torchvision's MNIST with the tutorial's transform."""
    from torchvision import datasets, transforms

    return datasets.MNIST(root, train=train, transform=transforms.ToTensor())


def plain_run(root: str, epochs: int) -> None:
    """Train, validate, save the best weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train = DataLoader(mnist(root, train=True), batch_size=16, shuffle=True)
    test = DataLoader(mnist(root, train=False), batch_size=16)
    model = plain_net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    best = 0.0
    for epoch in range(1, epochs + 1):
        loss = plain_epoch(train, model, optimizer, device)
        accuracy = plain_validation(test, model, device)
        print(f"{epoch} {loss:.4f} {accuracy:.4f}")
        if accuracy > best:
            best = accuracy
            torch.save(model.state_dict(), "best.pt")


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        sys.exit("usage: python scripts/plain.py FOLDER EPOCHS, where FOLDER holds MNIST/raw/…")
    plain_run(sys.argv[1], int(sys.argv[2]))
