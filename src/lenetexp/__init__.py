"""A lab bench for LeNet: docs/architecture.md shows the rooms and the one way of the data."""
