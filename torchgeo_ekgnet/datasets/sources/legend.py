# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Names and colours of classes that rasters hold: categories, tables, colour maps."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..._reading import reading
from ..labels import LabelLegend

#: GDAL's numbers for the use of a column of an attribute table.
_NAME, _VALUE = ('2',), ('3', '5')
_COLOURS = ('6', '7', '8')


def raster_legend(path: Path, dataset: Any) -> LabelLegend | None:
    """Return the legend of the first band of a raster.

    GDAL keeps category names and attribute tables of most formats in a file beside the
    raster (``.aux.xml``), which rasterio does not read.

    Args:
        path: The raster.
        dataset: The same, open.
    """
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    with reading(path, 'a raster'):
        if dataset.count == 1 and dataset.dtypes[0] in ('uint8', 'uint16'):
            try:
                table = dataset.colormap(1)
            except ValueError:
                table = {}
            colours = {value: colour[:3] for value, colour in table.items()}
    aux = path.with_name(path.name + '.aux.xml')
    if aux.is_file():
        with reading(aux, 'an XML file'):
            # The parser knows no external entities, and expat bounds internal ones.
            root = ElementTree.parse(aux).getroot()
            band = root.find("PAMRasterBand[@band='1']")
            if band is not None:
                names.update(_categories(band))
                named, coloured = _attribute_table(band)
                names.update(named)
                colours.update(coloured)
    return LabelLegend(names, colours) if names or colours else None


def _categories(band: ElementTree.Element) -> dict[int, str]:
    return {
        value: item.text.strip()
        for value, item in enumerate(band.iterfind('CategoryNames/Category'))
        if item.text and item.text.strip()
    }


def _attribute_table(
    band: ElementTree.Element,
) -> tuple[dict[int, str], dict[int, tuple[int, int, int]]]:
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    table = band.find('GDALRasterAttributeTable')
    if table is None:
        return names, colours
    uses = [
        (field.findtext('Usage') or '').strip() for field in table.iter('FieldDefn')
    ]
    value = next((uses.index(use) for use in _VALUE if use in uses), None)
    if value is None:
        return names, colours
    name = uses.index(_NAME[0]) if _NAME[0] in uses else None
    rgb = [uses.index(use) for use in _COLOURS if use in uses]
    for row in table.iter('Row'):
        cells = [(cell.text or '').strip() for cell in row.iter('F')]
        if len(cells) != len(uses) or not cells[value]:
            continue
        number = float(cells[value])
        if not number.is_integer():
            continue
        if name is not None and cells[name]:
            names[int(number)] = cells[name]
        if len(rgb) == 3:
            red, green, blue = (min(255, max(0, int(float(cells[i])))) for i in rgb)
            colours[int(number)] = (red, green, blue)
    return names, colours
