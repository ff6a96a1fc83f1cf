"""The ten digits as 7×12 bitmaps: what LeNet-5's RBF units compare the 84 values of f6 with.

A reconstruction: the paper's own are only in its figure 3 (LeCun 1998). As there, they are stylised characters of a
set that holds all of ASCII: so digits stand on a base line, with room for a comma's tail below. Similar characters
should have similar bitmaps, so that mistaking one for the other costs little.
"""

import torch
from torch import Tensor

WIDTH, HEIGHT = 7, 12

DIGITS = (
    """
    .......
    ..###..
    .##.##.
    ##...##
    ##...##
    ##...##
    ##...##
    ##...##
    .##.##.
    ..###..
    .......
    .......
    """,
    """
    .......
    ...##..
    ..###..
    .####..
    ...##..
    ...##..
    ...##..
    ...##..
    ...##..
    .######
    .......
    .......
    """,
    """
    .......
    .#####.
    ##...##
    .....##
    ....##.
    ...##..
    ..##...
    .##....
    ##.....
    #######
    .......
    .......
    """,
    """
    .......
    #######
    .....##
    ....##.
    ...##..
    ..####.
    .....##
    .....##
    ##...##
    .#####.
    .......
    .......
    """,
    """
    .......
    ....##.
    ...###.
    ..####.
    .##.##.
    ##..##.
    #######
    ....##.
    ....##.
    ....##.
    .......
    .......
    """,
    """
    .......
    #######
    ##.....
    ##.....
    ######.
    .....##
    .....##
    .....##
    ##...##
    .#####.
    .......
    .......
    """,
    """
    .......
    ..####.
    .##....
    ##.....
    ######.
    ##...##
    ##...##
    ##...##
    ##...##
    .#####.
    .......
    .......
    """,
    """
    .......
    #######
    .....##
    .....##
    ....##.
    ....##.
    ...##..
    ...##..
    ..##...
    ..##...
    .......
    .......
    """,
    """
    .......
    .#####.
    ##...##
    ##...##
    ##...##
    .#####.
    ##...##
    ##...##
    ##...##
    .#####.
    .......
    .......
    """,
    """
    .......
    .#####.
    ##...##
    ##...##
    ##...##
    ##...##
    .######
    .....##
    ....##.
    .####..
    .......
    .......
    """,
)


def build_bitmaps(classes: int = len(DIGITS)) -> Tensor:
    """Return classes × 84 values, row by row: 1 is ink, −1 is paper."""
    rows = [[1.0 if dot == "#" else -1.0 for dot in "".join(art.split())] for art in DIGITS[:classes]]
    return torch.tensor(rows)
