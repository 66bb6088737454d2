# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The campaigns in short; ``--robustness=long`` runs them in full."""

import os
import time
from pathlib import Path

import pytest

from . import LONG, good
from .commands import mutated_configurations
from .contents import mutated_contents
from .files import mutated_files
from .isolation import trials
from .stops import Campaign, deaths, kills, resumes

SHORT = {
    'files': 280,
    'configurations': 16,
    'contents': 6,
    'kills': 2,
    'resumes': 0,
    'deaths': 2,
}

pytestmark = pytest.mark.skipif(
    not hasattr(os, 'fork'), reason='trials run in forked processes'
)


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> dict[str, int]:
    """Trials of each campaign."""
    long = request.config.getoption('--robustness') == 'long'
    return LONG if long else SHORT


@pytest.fixture(scope='module')
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Undisturbed runs that all stops are compared with."""
    return Campaign(tmp_path_factory.mktemp('campaign'))


def bad(seen: dict[str, int]) -> dict[str, int]:
    """What should not have been seen."""
    return {name: times for name, times in seen.items() if not good(name)}


def test_ends_of_trials() -> None:
    def crash() -> str:
        os.kill(os.getpid(), 9)
        return 'alive'

    def hang() -> str:
        time.sleep(60)
        return 'late'

    works = [lambda: 'same', crash, lambda: str(1 // 0), hang, lambda: 'refused']
    ends = dict(trials(works, limit=0.2))
    assert ends[0] == 'same' and ends[4] == 'refused'
    assert ends[1] == 'death by signal 9'
    assert ends[2].startswith('traceback: ZeroDivisionError')
    assert ends[3] == 'hang'
    assert [good(f'x: {ends[n]}') for n in range(5)] == [
        True,
        False,
        False,
        False,
        True,
    ]


@pytest.mark.timeout(0)
def test_mutated_files(tmp_path: Path, counts: dict[str, int]) -> None:
    seen = mutated_files(counts['files'], tmp_path)
    assert sum(seen.values()) == counts['files']
    assert not bad(seen)
    assert sum(times for name, times in seen.items() if 'refused' in name) > 100


@pytest.mark.timeout(0)
def test_mutated_configurations(tmp_path: Path, counts: dict[str, int]) -> None:
    seen = mutated_configurations(counts['configurations'], tmp_path)
    assert sum(seen.values()) == counts['configurations']
    assert not bad(seen)


@pytest.mark.timeout(0)
def test_mutated_contents(
    tmp_path: Path, campaign: Campaign, counts: dict[str, int]
) -> None:
    campaign.reference('fit')
    origin = campaign.folder / 'fit_whole'
    seen = mutated_contents(counts['contents'], tmp_path, origin=origin)
    assert sum(seen.values()) == counts['contents']
    assert not bad(seen)


@pytest.mark.timeout(0)
def test_resumes(tmp_path: Path, counts: dict[str, int]) -> None:
    if not counts['resumes']:
        pytest.skip('long form only: test_kills resumes a training as well')
    assert resumes(counts['resumes'], tmp_path) == {'fit: same': counts['resumes']}


@pytest.mark.timeout(0)
def test_kills(campaign: Campaign, counts: dict[str, int]) -> None:
    seen = kills(counts['kills'], campaign.folder, campaign=campaign)
    assert sum(seen.values()) == counts['kills']
    assert not bad(seen)


@pytest.mark.timeout(0)
def test_deaths_while_publishing(campaign: Campaign, counts: dict[str, int]) -> None:
    seen = deaths(counts['deaths'], campaign.folder, campaign)
    assert sum(seen.values()) == counts['deaths']
    assert not bad(seen)
