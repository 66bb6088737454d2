# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the one policy for units of wavelengths."""

import logging

import numpy as np
import pytest

from torchgeo_ekgnet.datasets.units import checked_nanometres, nanometres


@pytest.mark.parametrize(
    ('unit', 'values'),
    [
        ('nm', [400, 2500]),
        ('Nanometers', [400, 2500]),
        ('NANOMETRE', [400, 2500]),
        ('nanometers (nm)', [400, 2500]),
        ('um', [0.4, 2.5]),
        ('\u00b5m', [0.4, 2.5]),
        ('\u03bcm', [0.4, 2.5]),
        ('Micrometers', [0.4, 2.5]),
        ('microns', [0.4, 2.5]),
        ('Angstroms', [4000, 25000]),
        ('m', [4e-7, 2.5e-6]),
        ('mm', [4e-4, 2.5e-3]),
        ('Wavenumber', [25000, 4000]),
        ('1/cm', [25000, 4000]),
        (None, [400, 2500]),
        ('Unknown', [0.4, 2.5]),
        ('', [0.4, 2.5]),
    ],
)
def test_units(unit: str | None, values: list[float]) -> None:
    found = nanometres(values, unit, 'a.hdr')
    assert found is not None
    np.testing.assert_allclose(found, [400, 2500])


@pytest.mark.parametrize('unit', ['furlongs', 'nm um', 'GHz', '1', 'n m'])
def test_unknown_units(unit: str) -> None:
    with pytest.raises(ValueError, match=r'a.hdr: wavelength unit .* is not known'):
        nanometres([400, 2500], unit, 'a.hdr')


@pytest.mark.parametrize(
    ('unit', 'values'),
    [('Index', [400, 500]), (None, [1, 2, 3]), ('Unknown', [0, 1, 2])],
)
def test_band_numbers(
    unit: str | None, values: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert nanometres(values, unit, 'a.hdr') is None
    assert 'band numbers and are left out' in caplog.text


@pytest.mark.parametrize('values', [[0, 500], [np.nan, 500], [np.inf, 500], [-1, 2]])
def test_bad_bands_may_have_any_centre(values: list[float]) -> None:
    with pytest.raises(ValueError, match='must be positive and finite'):
        checked_nanometres('scene', values, 2)
    bad = np.array([True, False])
    if values[1] == 500:
        assert checked_nanometres('scene', values, 2, bad) is not None


def test_units_that_are_mixed() -> None:
    with pytest.raises(ValueError, match=r'from 0\.6 to 500 nm, so some are nm'):
        checked_nanometres('scene', [400, 500, 0.6], 3)
    bad = np.array([False, False, True])
    assert checked_nanometres('scene', [400, 500, 0.6], 3, bad) is not None
