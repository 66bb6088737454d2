# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Names and colours of classes that rasters hold: categories, tables, colour maps."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import geopandas
from rasterio.io import MemoryFile
from rasterio.shutil import copy

from ..._reading import decoded, reading
from ..labels import LabelLegend
from .vector import unnamed_letters

#: What GDAL calls the use of a column of an attribute table, by its number there, and
#: usual names, lower case, of columns that do not tell their use.
_VALUE = ('3', '5', 'value')
_NAME = ('2', 'classname', 'classnames', 'class', 'name', 'label')
_COLOURS = (('6', 'red'), ('7', 'green'), ('8', 'blue'))
#: GDAL's number for columns of text.
_TEXT = '2'


class _Table(NamedTuple):
    """An attribute table.

    Args:
        columns: Use and name of each column, as above.
        texts: Places of the columns that hold texts.
        rows: Its cells as texts.
    """

    columns: Sequence[tuple[str, str]]
    texts: Sequence[int]
    rows: Sequence[Sequence[str]]

    def find(self, words: Sequence[str]) -> int | None:
        """Return the place of the column that has one of these uses or names."""
        for word in words:
            for place, column in enumerate(self.columns):
                if word in column:
                    return place
        return None


def raster_legend(path: Path, dataset: Any) -> LabelLegend | None:
    """Return the legend of the first band of a raster, or of a style beside it.

    Rasterio does not read category names and attribute tables; GDAL tells them, whatever
    file keeps them, in a virtual raster made of the dataset.

    Args:
        path: The raster.
        dataset: The same, open.
    """
    aux = path.with_name(path.name + '.aux.xml')
    if aux.is_file():
        with reading(aux, 'an XML file'):  # GDAL says nothing of a damaged one
            ElementTree.parse(aux)
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    with reading(path, 'a raster'):
        if dataset.count == 1 and dataset.dtypes[0] in ('uint8', 'uint16'):
            try:
                table = dataset.colormap(1)
            except ValueError:
                table = {}
            colours = {value: colour[:3] for value, colour in table.items()}
        with MemoryFile(ext='.vrt') as memory:
            copy(dataset, memory.name, driver='VRT')
            root = ElementTree.fromstring(decoded(memory.read()))
        band = root.find("VRTRasterBand[@band='1']")
        if band is not None:
            names.update(_categories(band))
        told = None if band is None else _attribute_table(band)
        if told is None:
            told = _table_beside(path)
        if told is not None:
            named, coloured = _read_table(told)
            names.update(named)
            colours.update(coloured)
    styled, coloured = _style_beside(path)
    names, colours = names or styled, coloured | colours
    return LabelLegend(names, colours) if names or colours else None


def _categories(band: ElementTree.Element) -> dict[int, str]:
    """Read the names of a band's categories by value."""
    return {
        value: item.text.strip()
        for value, item in enumerate(band.iterfind('CategoryNames/Category'))
        if item.text and item.text.strip()
    }


def _attribute_table(band: ElementTree.Element) -> _Table | None:
    """Return the attribute table that GDAL tells."""
    table = band.find('GDALRasterAttributeTable')
    if table is None:
        return None
    fields = list(table.iter('FieldDefn'))
    kinds = [(field.findtext('Type') or '').strip() for field in fields]
    return _Table(
        [
            ((field.findtext('Usage') or '').strip(), _word(field.findtext('Name')))
            for field in fields
        ],
        [place for place, kind in enumerate(kinds) if kind == _TEXT],
        [
            [(cell.text or '').strip() for cell in row.iter('F')]
            for row in table.iter('Row')
        ],
    )


def _table_beside(path: Path) -> _Table | None:
    """Return the attribute table of ArcGIS, which older GDAL does not read."""
    beside = path.with_name(path.name + '.vat.dbf')
    if not beside.is_file():
        return None
    with reading(beside, 'an attribute table'):
        frame = geopandas.read_file(beside, **unnamed_letters(beside))
    texts = frame.select_dtypes(exclude='number').columns
    return _Table(
        [('', _word(name)) for name in frame.columns],
        [place for place, name in enumerate(frame.columns) if name in texts],
        frame.astype(object).where(frame.notna(), '').astype(str).to_numpy().tolist(),
    )


def qgis_style(path: Path) -> ElementTree.Element | None:
    """Read the style that QGIS keeps beside a raster or vector file, if there is one."""
    style = path.with_suffix('.qml')
    if not style.is_file():
        return None
    with reading(style, 'a style of QGIS'):
        return ElementTree.parse(style).getroot()


def _style_beside(path: Path) -> tuple[dict[int, str], dict[int, tuple[int, int, int]]]:
    """Return names and colours of a style that QGIS or ESRI keeps beside a raster."""
    entries: list[tuple[str, str, str]] = []
    style, table = qgis_style(path), path.with_suffix('.clr')
    if style is not None:
        exact = ".//colorrampshader[@colorRampType='EXACT']/item"
        entries = [
            (item.get('value', ''), item.get('color', ''), item.get('label', ''))
            for item in (*style.iter('paletteEntry'), *style.iterfind(exact))
        ]
    elif table.is_file():
        with reading(table, 'a colour table'):
            # 1 255 0 0, then perhaps how opaque it is, and a name
            line = r'^\s*(-?\d+)((?:[,\s]+\d+){3})(?:[, \t]+\d+)?(?:[, \t]+(.*))?$'
            text = decoded(table.read_bytes())
            entries = re.findall(line, text, flags=re.MULTILINE)
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    for value, colour, name in entries:
        if not re.fullmatch(r'-?\d+(\.0*)?', value):
            continue
        number, name = int(float(value)), name.strip()
        if name and name != value:  # QGIS names a class that has no name as its value
            names[number] = name
        if re.fullmatch('#[0-9a-fA-F]{6}', colour):
            red, green, blue = bytes.fromhex(colour[1:])
        elif len(parts := re.findall(r'\d+', colour)) == 3:
            red, green, blue = (min(255, int(part)) for part in parts)
        else:
            continue
        colours[number] = (red, green, blue)
    return names, colours


def _word(name: str | None) -> str:
    """Leave the letters and digits of a name, in lower case."""
    return ''.join(letter for letter in (name or '').lower() if letter.isalnum())


def _read_table(
    table: _Table,
) -> tuple[dict[int, str], dict[int, tuple[int, int, int]]]:
    """Return names and colours by value."""
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    value, name = table.find(_VALUE), table.find(_NAME)
    if name not in table.texts:
        name = table.texts[0] if len(table.texts) == 1 else None
    if value is None:
        return names, colours
    found = (table.find(words) for words in _COLOURS)
    rgb = [place for place in found if place is not None]
    for cells in table.rows:
        if len(cells) != len(table.columns) or not cells[value]:
            continue
        number = float(cells[value])
        if not number.is_integer():
            continue
        if name is not None and cells[name]:
            names[int(number)] = cells[name]
        if len(rgb) == 3:
            red, green, blue = (
                min(255, max(0, int(float(cells[place])))) for place in rgb
            )
            colours[int(number)] = (red, green, blue)
    return names, colours
