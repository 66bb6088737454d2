# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import DataLoader, TensorDataset

from torchgeo_ekgnet.samplers import ClassBalancedSampler, PerClassSampler

LABELS = torch.tensor([3] * 90 + [1] * 9 + [7])


def make(kind: type[Any], seed: int = 0) -> Any:
    if kind is PerClassSampler:
        return PerClassSampler(12, seed).bind(LABELS)
    return ClassBalancedSampler(300, seed).bind(LABELS)


KINDS = [ClassBalancedSampler, PerClassSampler]


def test_per_class_counts() -> None:
    sampler = make(PerClassSampler)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 36
    assert LABELS[drawn].bincount().tolist() == [0, 12, 0, 12, 0, 0, 0, 12]
    # No pixel comes again before its class is used up.
    frequent = [i for i in drawn if LABELS[i] == 3]
    assert len(set(frequent)) == 12
    middle = [i for i in drawn if LABELS[i] == 1]
    assert len(set(middle)) == 9
    assert drawn.count(99) == 12


def test_balanced_frequencies() -> None:
    sampler = ClassBalancedSampler(3000).bind(LABELS)
    counts = LABELS[list(sampler)].bincount()
    for label in (1, 3, 7):
        assert 900 < int(counts[label]) < 1100
    assert len(ClassBalancedSampler().bind(LABELS)) == 100
    assert len(set(sampler)) == 100


@pytest.mark.parametrize('kind', KINDS)
def test_epochs(kind: type[Any]) -> None:
    sampler = make(kind)
    first, second = list(sampler), list(sampler)
    assert first != second
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(sampler) == second
    sampler.set_epoch(1)
    assert list(sampler) == second
    assert list(make(kind, seed=1)) != first


def test_order_of_earlier_releases() -> None:
    """A run that is repeated sees its pixels in the order that it saw them in."""
    sampler = PerClassSampler(2, seed=5).bind([0, 0, 0, 0, 1, 1, 1, 1])
    assert [list(sampler) for _ in range(3)] == GOLDEN
    large = PerClassSampler(2, seed=2**80 + 5).bind([0, 0, 0, 0, 1, 1, 1, 1])
    assert list(large) == GOLDEN[0]


@pytest.mark.parametrize('kind', KINDS)
def test_independent_of_the_global_generator(kind: type[Any]) -> None:
    torch.manual_seed(0)
    first = list(make(kind))
    torch.manual_seed(1)
    assert list(make(kind)) == first
    state = torch.get_rng_state()
    list(make(kind))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('num_workers', [0, 2])
def test_loader(kind: type[Any], num_workers: int) -> None:
    loader = DataLoader(
        TensorDataset(LABELS), 10, sampler=make(kind), num_workers=num_workers
    )
    drawn = torch.cat([batch[0] for batch in loader])
    assert drawn.tolist() == LABELS[list(make(kind))].tolist()


@pytest.mark.parametrize('kind', KINDS)
def test_lightnings_distributed_wrapper(kind: type[Any]) -> None:
    """Ranks deal one epoch's order out among them, and agree on every epoch."""
    # Lightning 2.6.0 does not tell the wrapped sampler which epoch it is.
    forwards = 'set_epoch' in vars(DistributedSamplerWrapper)
    for epoch in (0, 3) if forwards else ():
        single = make(kind)
        single.set_epoch(epoch)
        whole = list(single)
        shares = []
        for rank in range(3):
            wrapper = DistributedSamplerWrapper(
                make(kind), num_replicas=3, rank=rank, shuffle=False
            )
            wrapper.set_epoch(epoch)
            shares.append(list(wrapper))
        assert len({len(share) for share in shares}) == 1
        dealt = [index for group in zip(*shares, strict=True) for index in group]
        assert dealt == whole
    # Without set_epoch the ranks stay in step as well.
    wrappers = [
        DistributedSamplerWrapper(make(kind), num_replicas=2, rank=r, shuffle=False)
        for r in range(2)
    ]
    single = make(kind)
    for _ in range(2):
        parts = [list(wrapper) for wrapper in wrappers]
        assert [i for pair in zip(*parts, strict=True) for i in pair] == list(single)


def test_errors() -> None:
    with pytest.raises(ValueError, match='labels is empty'):
        ClassBalancedSampler().bind([])
    with pytest.raises(ValueError, match='num_samples is 0'):
        ClassBalancedSampler(0)
    with pytest.raises(ValueError, match='sampler: seed is -1'):
        ClassBalancedSampler(seed=-1)
    with pytest.raises(ValueError, match='samples_per_class is 0'):
        PerClassSampler(0)
    with pytest.raises(RuntimeError, match=r'no pixels yet: call bind'):
        list(PerClassSampler(1))


@pytest.mark.parametrize('kind', KINDS)
def test_bind_leaves_the_sampler_as_it_is(kind: type[Any]) -> None:
    sampler = kind(9, seed=5)
    bound = sampler.bind(LABELS)
    first = list(bound)
    assert list(sampler.bind(LABELS)) == first
    with pytest.raises(RuntimeError, match='call bind'):
        list(sampler)
    assert repr(bound) == repr(sampler) and 'seed=5' in repr(sampler)
    # A sampler that has gone on is bound anew at its beginning.
    assert list(bound.bind(LABELS)) == first


def test_least_and_default_arguments() -> None:
    assert repr(ClassBalancedSampler()) == 'ClassBalancedSampler(None, seed=0)'
    assert repr(PerClassSampler(1)) == 'PerClassSampler(1, seed=0)'
    assert len(list(ClassBalancedSampler(1).bind(LABELS))) == 1
    assert sorted(PerClassSampler(1).bind([4, 2])) == [0, 1]


GOLDEN = [[1, 6, 3, 4], [6, 1, 0, 7], [5, 3, 6, 1]]
