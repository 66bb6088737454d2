# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the log of a run as a table."""

import sys
from pathlib import Path

import pytest

from torchgeo_ekgnet.callbacks.csv_log import CSVLog


@pytest.mark.skipif(sys.platform != 'linux', reason='/dev/full is a file of Linux')
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    log = CSVLog(str(tmp_path), name='', version='run')
    log.log_metrics({'loss': 1.0}, 0)
    file = Path(log.log_dir) / 'metrics.csv'
    file.unlink(missing_ok=True)
    file.symlink_to('/dev/full')
    with pytest.raises(OSError, match=r'metrics\.csv could not be written') as caught:
        log.save()
    assert caught.value.filename == str(file)
    file.unlink()
    log.save()
    assert file.read_text().splitlines()[0].split(',') == ['loss', 'step']
