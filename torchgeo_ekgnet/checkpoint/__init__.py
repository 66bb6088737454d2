# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a checkpoint says of its training run, and whether other data are the same.

Task, datamodules and maps meet here: the task writes a :class:`Provenance` into its
checkpoints, and whoever shows the network data compares them with it.
"""

from .comparison import (
    UNITS,
    check_same_classes,
    check_same_network,
    check_same_pixels,
    check_sizes,
    doubt_part_of_epoch,
    doubt_seen_pixels,
    match_classes,
    other_bands,
    reach,
)
from .contents import check_content
from .provenance import KEY, Provenance, data_state, trained_bands
from .reading import (
    LocalCheckpointIO,
    ReadsLocally,
    local_file,
    read_checkpoint,
    read_tensors,
)

__all__ = (
    'KEY',
    'UNITS',
    'LocalCheckpointIO',
    'Provenance',
    'ReadsLocally',
    'check_content',
    'check_same_classes',
    'check_same_network',
    'check_same_pixels',
    'check_sizes',
    'data_state',
    'doubt_part_of_epoch',
    'doubt_seen_pixels',
    'local_file',
    'match_classes',
    'other_bands',
    'reach',
    'read_checkpoint',
    'read_tensors',
    'trained_bands',
)
