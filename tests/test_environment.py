# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of what is told about versions and the machine."""

import platform
from pathlib import Path

import pytest
import torch

from torchgeo_ekgnet import __version__, _environment


def test_versions() -> None:
    found = _environment.versions()
    assert found['torchgeo_ekgnet'] == __version__
    assert found['python'] == platform.python_version()
    assert found['torch'].split('+')[0] == torch.__version__.split('+')[0]


def test_missing_package_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_environment, 'PACKAGES', ('torch', 'no-such-package'))
    assert list(_environment.versions()) == ['torchgeo_ekgnet', 'python', 'torch']


def test_machine_counts_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = _environment.machine()
    finally:
        torch.set_num_threads(before)
    assert found['threads'] == '3'
    assert set(map(type, found.values())) == {str}
    assert all(found.values())


def test_machine_without_processor_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, 'read_text', missing)
    assert _environment.machine()['processor'] == (
        platform.processor() or platform.machine()
    )
