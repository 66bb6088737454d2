# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which labelled pixels of a scene train, validate and test a network.

A protocol (:class:`RandomSplit`, :class:`CountSplit`, ...) draws a :class:`Split`
from a label map. Every protocol uses a frozen generator of its own
(:class:`numpy.random.RandomState`), so that the same arguments give the same pixels
in every process, on every Python version, whatever else draws random numbers.
"""

from .community import COMMUNITY_SPLITS, CommunityMasks, CommunitySplit, as_protocol
from .files import MaskSplit, SavedSplit, read_mask
from .groups import BlockSplit, FoldSplit, GroupedSplit, GroupSplit
from .guards import guard_distance
from .matched import MatchedSplit, ProtocolComparison, compare_protocols, match_counts
from .protocol import DrawnSplit, SplitContext, SplitProtocol
from .random_pixels import CountSplit, RandomSplit
from .spatial import DisjointSplit
from .split import SUBSETS, Overlap, Split, check_label_map

__all__ = (
    'COMMUNITY_SPLITS',
    'SUBSETS',
    'BlockSplit',
    'CommunityMasks',
    'CommunitySplit',
    'CountSplit',
    'DisjointSplit',
    'DrawnSplit',
    'FoldSplit',
    'GroupSplit',
    'GroupedSplit',
    'MaskSplit',
    'MatchedSplit',
    'Overlap',
    'ProtocolComparison',
    'RandomSplit',
    'SavedSplit',
    'Split',
    'SplitContext',
    'SplitProtocol',
    'as_protocol',
    'check_label_map',
    'compare_protocols',
    'guard_distance',
    'match_counts',
    'read_mask',
)
