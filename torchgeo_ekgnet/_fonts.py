# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Fonts for names of classes whose letters Matplotlib's own font lacks."""

import logging
from collections.abc import Iterable, Sequence
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

__all__ = ('boxed', 'find_letters')

logger = logging.getLogger(__name__)

_BOX = '\N{WHITE SQUARE}'


def find_letters(texts: Iterable[Text]) -> None:
    """Give the texts of a figure fonts that have their letters, boxes where none has."""
    found = list(texts)
    families, lost = _others(_lacking(text.get_text() for text in found))
    for text in found:
        shown = _boxed(text.get_text(), lost)
        if families and not shown.isascii():
            text.set_fontfamily([*text.get_fontfamily(), *families])
        text.set_text(shown)


def boxed(texts: Sequence[str]) -> list[str]:
    """Put boxes in the place of letters that no installed font has."""
    _, lost = _others(_lacking(texts))
    return [_boxed(text, lost) for text in texts]


def _boxed(text: str, lost: frozenset[str]) -> str:
    """Put boxes in the place of these letters."""
    return text.translate(dict.fromkeys(map(ord, lost), _BOX))


def _lacking(texts: Iterable[str]) -> frozenset[str]:
    """Give the letters that the font of figures lacks."""
    letters = {letter for text in texts if not text.isascii() for letter in text}
    if not letters:
        return frozenset()
    own = _letters(findfont(FontProperties()))
    return frozenset(letter for letter in letters if letter.isprintable()) - own


@cache
def _others(lacking: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Name installed fonts that have these letters, and give those that none has."""
    families: list[str] = []
    # A font of last resort shows which script a letter is of, not the letter.
    names = {
        font.name
        for font in fontManager.ttflist
        if lacking and 'lastresort' not in font.name.lower().replace(' ', '')
    }
    have = {
        name: lacking & _letters(findfont(FontProperties(family=[name])))
        for name in sorted(names)
    }
    lost = lacking
    while best := max(have, key=lambda name: len(lost & have[name]), default=''):
        if not lost & have[best]:
            break
        families.append(best)
        lost -= have[best]
    if lost:
        logger.warning(
            'figures: no installed font has %s, drawn as boxes; expected one that does, '
            'such as Noto Sans CJK for Chinese, Japanese and Korean',
            ''.join(sorted(lost)),
        )
    return families, lost


def _letters(path: str) -> frozenset[str]:
    """Give the letters of a font, none of a file that cannot be read."""
    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()
