# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of files of band centres."""

from pathlib import Path

import pytest

from torchgeo_ekgnet.datasets.centre_files import read_centres

CENTRES = [450.5, 500.0, 550.0, 600.25]


@pytest.mark.parametrize(
    ('text', 'unit'),
    [
        ('450.5 500\n550 600.25', None),
        ('450.5 nm\n500 nm\n550 nm\n600.25 nm', 'nm'),
        ('Wavelength (nm)\n450.5\n500\n550\n600.25\n', 'nm'),
        ('# made by hand\n1 450.5 9\n2 500 9\n3 550 8\n4 600.25 8', None),
        ('1\t450.5\n2\t500\n3\t550\n4\t600.25', None),
        ('450.5,9.5\n500,9.6\n550,9.7\n600.25,9.8', None),
        ('Kanal;FWHM;CWL_nm\n1;9;450,5\n2;9,5;500\n3;10;550\n4;11;600,25', 'nm'),
        ('id,to,centre\n"B1",46,450.5\n"B2",51,500\n"B3",56,550\n"B4",61,600.25', None),
        ('ENVI\nwavelength units = um\nwavelength = {450.5, 500, 550, 600.25}\n', 'um'),
    ],
)
def test_centres(text: str, unit: str | None, tmp_path: Path) -> None:
    path = tmp_path / 'centres.csv'
    path.write_text(text)
    assert read_centres(path, 4) == (CENTRES, unit)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('lower,upper\n440,460\n490,510\n540,560\n590,610', 'or a table'),
        ('a,b\n440,460\n490,510\n540,560\n590,610', 'or a table'),
        ('band,note\n1,blue\n2,green\n3,red\n4,nir', 'or a table'),
        ('\n', 'expected one wavelength a band .* empty'),
        ('450 nm and 500', 'expected one wavelength a band'),
        ('ENVI\nsamples = 3\n', "found no 'wavelength'"),
    ],
)
def test_what_tells_none(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'centres.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf'centres\.csv: .*{message}'):
        read_centres(path, 4)


def test_count_is_that_of_the_list(tmp_path: Path) -> None:
    """Who reads it says how many bands there are."""
    (tmp_path / 'centres.txt').write_text('440 460\n490 510\n')
    assert read_centres(tmp_path / 'centres.txt', 3)[0] == [440, 460, 490, 510]
