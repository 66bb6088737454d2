# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from torchgeo_ekgnet._options import (
    known_arguments,
    known_word,
    number_of_workers,
    random_seed,
    real_number,
    whole_number,
)
from torchgeo_ekgnet.datasets import HyperspectralScene, RandomSplit


@pytest.mark.parametrize('value', [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_become_pythons(value: Any) -> None:
    assert type(whole_number('n', value)) is int
    assert whole_number('n', value, 3, 3) == 3


@pytest.mark.parametrize('value', [-1, 2.0, math.nan, '3', None, True, [3], 10])
def test_no_whole_number(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r'^n is .*expected a whole number from 0 to 9$'
    ):
        whole_number('n', value, 0, 9)


def test_workers_are_bounded() -> None:
    assert number_of_workers(8) == 8
    with pytest.raises(ValueError, match=r'num_workers is 10000, expected .* 0 to'):
        number_of_workers(10_000)


def test_arguments_that_are_not_taken() -> None:
    known_arguments('o', real_number, {'least': 1})
    known_arguments('o', lambda **options: options, {'whatever': 1})
    message = 'o: found row, cow, expected options of real_number: name, value, least'
    with pytest.raises(TypeError, match=message):
        known_arguments('o', real_number, {'row': 1, 'least': 1, 'cow': 1})


@pytest.mark.parametrize('value', [0.5, 1, np.float32(0.25), Fraction(1, 2)])
def test_real_numbers_become_pythons(value: Any) -> None:
    assert type(real_number('x', value)) is float
    assert real_number('x', value, 0, 1) == float(value)


@pytest.mark.parametrize(
    'value',
    [math.nan, math.inf, -math.inf, -0.1, 1.1, 'many', '0.5', None, True, [1], 10**400],
)
def test_no_real_number(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r'^x is .*expected a finite number, 0 or more'
    ):
        real_number('x', value, 0, 1)


def test_words_and_seeds() -> None:
    known_word('guard', 'patch', ('centre', 'patch'))
    with pytest.raises(ValueError, match=r"guard is 'wide', expected one of"):
        known_word('guard', 'wide', ('centre', 'patch'))
    assert random_seed(2**32 - 1) == 2**32 - 1
    for seed in (-1, 2**32, 0.5):
        with pytest.raises(ValueError, match='seed is'):
            random_seed(seed)


def test_arrays_with_a_mask_are_refused_where_the_mask_would_be_lost() -> None:
    cube, labels = np.ones((4, 4, 2)), np.ones((4, 4), dtype=int)
    masked = np.ma.masked_equal(labels, 1)
    message = 'found a masked array, expected a plain one'
    with pytest.raises(TypeError, match=f'a: cube: {message}.*valid='):
        HyperspectralScene(np.ma.masked_equal(cube, 1), labels, name='a')
    with pytest.raises(TypeError, match=f'a: labels: {message}.*filled'):
        HyperspectralScene(cube, masked, name='a')
    for name, given in {
        'cube': (cube.tolist(), labels),
        'labels': (cube, torch.from_numpy(labels)),
    }.items():
        found = f'a: {name}: found (list|Tensor), expected an array of NumPy'
        with pytest.raises(TypeError, match=found):
            HyperspectralScene(*given, name='a')  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f'label_map: {message}'):
        RandomSplit()(masked)
