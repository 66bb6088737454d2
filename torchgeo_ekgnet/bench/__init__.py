# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``torchgeo-ekgnet bench``: speed and memory of layers and models.

Every comparison runs its arms in turn, A B A B, in one process, so that a machine that
slows down slows all of them; medians and the spread between the quartiles are given.
The floor is measured too: the peak of a large matrix product and the bandwidth of a
copy, in the same process with the same threads.
"""

from .cli import build_parser, main, run

__all__ = ('build_parser', 'main', 'run')
