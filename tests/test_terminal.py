# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a command prints is what a user can act on."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from torchgeo_ekgnet._terminal import brief, in_one_line, quiet


def test_tips_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger('lightning.pytorch.utilities.rank_zero')
    with caplog.at_level(logging.INFO, logger.name):
        with quiet():
            logger.info('💡 Tip: try installing something')
            logger.info('GPU available: False, used: False')
        logger.info('💡 Tip: again')
    assert [record.getMessage() for record in caplog.records] == [
        'GPU available: False, used: False',
        '💡 Tip: again',
    ]


def test_other_warnings_are_heard() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        with quiet():
            warnings.warn('`isinstance(x, LeafSpec)` is deprecated', stacklevel=1)
            warnings.warn('the data look odd', stacklevel=1)
    assert [str(item.message) for item in heard] == ['the data look odd']


@pytest.mark.parametrize(
    'text',
    [
        'The number of training batches (3) is smaller than the logging interval ...',
        "The dirpath has changed from 'a' to 'b', therefore `best_model_score`, ...",
    ],
)
def test_what_changes_nothing_is_no_news(text: str) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        with quiet():
            warnings.warn(text, stacklevel=1)
    assert heard == []


def test_warnings_for_users_do_not_show_the_program() -> None:
    shown = in_one_line('the data look odd', UserWarning, __file__, 1)
    assert shown == 'warning: the data look odd\n'
    other = in_one_line('old', DeprecationWarning, __file__, 1)
    assert other.startswith(f'{__file__}:1: DeprecationWarning: old')


@pytest.mark.parametrize('level', [logging.INFO, logging.WARNING])
def test_brief_leaves_warnings(level: int, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger('lightning.pytorch.utilities.rank_zero')
    with caplog.at_level(logging.INFO, logger.name):
        with brief():
            logger.log(level, 'said')
        assert logger.level == logging.INFO
    assert len(caplog.records) == (level == logging.WARNING)


def test_fit_prints_few_lines_when_piped(tmp_path: Path) -> None:
    result = subprocess.run(
        [
            *(sys.executable, '-m', 'torchgeo_ekgnet', 'fit'),
            *('--config', 'quickstart', '--trainer.max_epochs', '3'),
            *('--trainer.limit_train_batches', '1', '--trainer.limit_val_batches', '1'),
            *('--data.patch_size=3', '--data.rows=32', '--data.cols=32'),
            '--data.num_bands=16',
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    lines = result.stdout.splitlines()
    # Scene, class table, size of the network, where the run is and what comes next.
    assert len(lines) <= 30, result.stdout
    for noise in ('\x1b', 'Tip', 'FLOPs', 'deprecated', 'TPU'):
        assert noise not in result.stdout
    assert 'ekgnet_tiny: 223,714 parameters' in result.stdout
