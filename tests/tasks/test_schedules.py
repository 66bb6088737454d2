# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import json
import math

import pytest
import torch
from torch import nn

from torchgeo_ekgnet.tasks.schedules import LRSchedule, make_schedule


def rates(name: str, epochs: int, warmup: float) -> list[float]:
    """Learning rate of every epoch, from a rate of 1."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = make_schedule(name, optimizer, epochs, 10, warmup)  # type: ignore[arg-type]
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


@pytest.mark.parametrize('epochs', [1, 2, 3, 40])
@pytest.mark.parametrize('warmup', [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize('name', ['cosine', 'constant'])
def test_every_epoch_of_every_run_learns(name: str, epochs: int, warmup: float) -> None:
    """Short runs, too, whose warm-up is all of them."""
    found = rates(name, epochs, warmup)
    assert all(0 < rate <= 1 for rate in found)
    rise = math.ceil(warmup * epochs)
    assert found[:rise] == sorted(found[:rise])
    if rise < epochs:
        assert found[rise] == 1


def test_share_of_the_epochs_is_not_rounded_up() -> None:
    found = rates('constant', 100, 0.07)
    assert found[6] < 1 == found[7]


def test_cosine_falls_to_zero() -> None:
    found = rates('cosine', 10, 0.2)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[6] == pytest.approx(0.5)
    assert found[2:] == sorted(found[2:], reverse=True)
    assert found[-1] == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 7 / 8))


@pytest.mark.parametrize(
    ('name', 'warmup'), [('cosine', 0.0), ('constant', 0.5), ('cosine_wave', 0.0)]
)
def test_groups_that_are_added_follow(name: LRSchedule, warmup: float) -> None:
    """As Lightning's callbacks that unfreeze layers add them, at a rate of the moment."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = make_schedule(name, optimizer, 6, 10, warmup)
    assert schedule is not None
    for epoch, rate in enumerate(rates(name, 6, warmup)):
        first, *added = (group['lr'] for group in optimizer.param_groups)
        assert first == rate and added == pytest.approx([rate / 10] * len(added))
        if epoch == 2:
            group = {'params': nn.Linear(1, 1).parameters(), 'lr': first / 10}
            optimizer.add_param_group(group)
        optimizer.step()
        schedule.step()
    assert added
    json.dumps(schedule.state_dict())  # a checkpoint holds plain values


@pytest.mark.parametrize('epochs', [None, -1, 0])
def test_no_last_epoch(epochs: int | None) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    for name, warmup in (('cosine', 0.0), ('constant', 0.1)):
        with pytest.raises(ValueError, match=r'cosine.*need trainer\.max_epochs'):
            make_schedule(name, optimizer, epochs, 10, warmup)  # type: ignore[arg-type]


@pytest.mark.parametrize('name', ['plateau', 'cosine_wave'])
def test_warmup_of_a_schedule_that_does_not_rise(name: str) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    with pytest.warns(UserWarning, match=rf'warmup: 0\.05 has no effect.*{name}'):
        make_schedule(name, optimizer, None, 10, 0.05)  # type: ignore[arg-type]
    assert optimizer.param_groups[0]['lr'] == 1.0
