# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Fixtures of the tests of many runs."""

import pytest

from torchgeo_ekgnet.reproduce import classical


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let forests have trees enough to be told from one another."""
    monkeypatch.setattr(classical, 'FOREST_TREES', 30)
