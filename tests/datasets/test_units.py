# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of the one policy for units of wavelengths."""

import numpy as np
import pytest

from torchgeo_ekgnet.datasets.units import (
    checked_nanometres,
    named_centres,
    nanometres,
    told_nanometres,
)


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
        ('cm^-1', [25000, 4000]),
        ('Wavenumbers [cm-1]', [25000, 4000]),
        ('cm\u207b\u00b9', [25000, 4000]),
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
    assert nanometres(values, unit, 'a.hdr') is None
    assert 'band numbers and are left out' in caplog.text


@pytest.mark.parametrize(
    ('unit', 'values'), [('um', [1, 2, 3]), ('Micrometers', [0, 1, 2]), (None, [1])]
)
def test_no_band_numbers(unit: str | None, values: list[float]) -> None:
    """With a unit they are wavelengths however they count, as a single one is."""
    found = nanometres(values, unit, 'a.hdr')
    assert found is not None and found.tolist() == [1000 * value for value in values]


@pytest.mark.parametrize(
    ('names', 'found'),
    [
        (['300', '301.5'], [(300.0, None), (301.5, None)]),
        (['299', '300'], []),
        (['400 nm', '0.5um'], [(400.0, 'nm'), (0.5, 'um')]),
        (['400 nm', 'B2'], []),
        (['400 nm to 410 nm', '420 nm'], []),
    ],
)
def test_names_of_bands(
    names: list[str], found: list[tuple[float, str | None]]
) -> None:
    assert named_centres(names) == found


@pytest.mark.parametrize(
    ('told', 'unit'),
    [
        ([(400, 'nm'), (0.5, 'um'), (600, 'nm')], None),
        ([(0.4, 'nm'), (0.5, 'nm'), (0.6, None)], 'um'),
    ],
)
def test_bands_with_units_of_their_own(
    told: list[tuple[float, str | None]], unit: str | None
) -> None:
    found = told_nanometres(told, unit, 'a.tif')
    assert found is not None and found.tolist() == [400, 500, 600]


@pytest.mark.parametrize('values', [[0, 500], [np.nan, 500], [np.inf, 500], [-1, 2]])
def test_bad_bands_may_have_any_centre(values: list[float]) -> None:
    with pytest.raises(
        ValueError, match=rf'positive and finite \(nm\), found {values[0]:g}'
    ):
        checked_nanometres('scene', values, 2)
    bad = np.array([True, False])
    if values[1] == 500:
        assert checked_nanometres('scene', values, 2, bad) is not None


@pytest.mark.parametrize('value', [0.0, np.nan])
def test_centres_that_nobody_knows(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    assert nanometres([value] * 3, 'nm', 'a.hdr') is None
    assert f'a.hdr: its 3 wavelengths are all {value:g}, so' in caplog.text


def test_units_that_are_mixed() -> None:
    with pytest.raises(ValueError, match=r'from 0\.6 to 500 nm, so some are nm'):
        checked_nanometres('scene', [400, 500, 0.6], 3)
    bad = np.array([False, False, True])
    assert checked_nanometres('scene', [400, 500, 0.6], 3, bad) is not None
