# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests of means, comparisons and what is written of them."""

import csv
import io
from typing import Any

import pytest

from torchgeo_ekgnet.reproduce.declarations import Published
from torchgeo_ekgnet.reproduce.report import build_report, report_markdown
from torchgeo_ekgnet.reproduce.summary import Summary, compare, conclusion, summarise
from torchgeo_ekgnet.reproduce.tables import (
    CSV_HEADER,
    Table,
    accuracy_table,
    class_table,
    comparison_table,
    cost_table,
    expert_table,
    order_notes,
    percent,
    to_csv,
    to_markdown,
)

FLAT = [0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def result(right: int, seed: int = 0, curve: Any = FLAT, epochs: Any = 8) -> Any:
    """Of 100 pixels of each of two classes, ``right`` of the first are recognised."""
    return {
        'confusion': [[right, 100 - right], [0, 100]],
        'epochs': epochs,
        'tested_epoch': epochs and epochs - seed,
        'curves': {'val_OA': curve} if curve else {},
        'parameters': 1234567,
        'seconds': {'training': 10.0 + seed, 'inference': 2.0},
        'scene': {
            'name': 'Two',
            'shape': [10, 20, 5],
            'class_names': ['rock', 'tree'],
            'synthetic': True,
            'source': 'a test',
        },
        'split': {
            'protocol': 'random',
            'settings': {'train': 0.5, 'seed': seed},
            'identity': f'split {seed}',
            'sizes': [400, 50, 200],
            'labelled': 650,
            'dropped': [],
            'contains_training_centre': 0.25,
            'shares_training_pixel': 0.75,
        },
        'patch_size': 7,
        'environment': {
            'versions': {'torch': '2'},
            'accelerator': 'CPU',
            'processor': 'one',
            'threads': 1,
        },
    }


def rows(**right: tuple[int, ...]) -> list[Summary]:
    """Summaries; the bar is the row ``rbf_svm``."""

    def classical(name: str) -> bool:
        return name in ('rbf_svm', 'forest')

    results = {
        name: [
            result(
                n,
                seed,
                None if classical(name) else FLAT,
                None if classical(name) else 8,
            )
            for seed, n in enumerate(counts)
        ]
        for name, counts in right.items()
    }
    table = [(name, name.upper(), runs) for name, runs in results.items()]
    return summarise(table, results.get('rbf_svm', []))


def test_values_are_percent_of_the_one_metrics_definition() -> None:
    (summary,) = rows(a=(80, 60))
    assert summary.values('OA') == pytest.approx([90, 80])
    assert summary.values('AA') == pytest.approx([90, 80])
    assert summary.values('AA_precision') == pytest.approx(
        [(100 + 100 * 100 / 120) / 2, (100 + 100 * 100 / 140) / 2]
    )
    assert summary.values('class_1') == pytest.approx([80, 60])
    assert summary.values('class_2_precision')[0] == pytest.approx(100 * 100 / 120)
    with pytest.raises(ValueError, match='F1'):
        summary.values('F1')


def test_a_row_below_the_svm_or_rising_is_not_converged() -> None:
    good, bad, svm = rows(good=(90, 92), bad=(50, 55), rbf_svm=(70, 72))
    assert good.reason is None
    assert bad.reason == 'below RBF-SVM'
    assert svm.reason is None
    (rising,) = summarise([('a', 'A', [result(99, 0, RISING)])])
    assert rising.reason == 'rising +20.0 points'
    # Two points are one of 50 validation pixels, and four of 200.
    slow = result(99, 0, [0.9 + 0.01 * epoch for epoch in range(8)])
    assert summarise([('a', 'A', [slow])])[0].reason is None
    slow['split']['sizes'] = [400, 200, 50]
    assert summarise([('a', 'A', [slow])])[0].reason == 'rising +2.0 points'
    trained = result(99, 0, RISING)
    trained['curves'] = {'train_OA': trained['curves']['val_OA'], 'val_OA': []}
    (unseen,) = summarise([('a', 'A', [trained])])
    assert unseen.reason is None and unseen.rise == pytest.approx(20)
    assert unseen.status == 'ok, bar not run, no pixel validates'


def test_the_bar_is_the_svm_on_the_same_splits() -> None:
    def moved(run: Any) -> Any:
        return {**run, 'split': {**run['split'], 'identity': 'elsewhere'}}

    def network(right: int) -> Any:
        return result(right, 0, FLAT, 8)

    def svm(right: int) -> Any:
        return result(right, 0, None, None)

    bars = [svm(70), moved(svm(40))]
    here, there, _, _ = summarise(
        [
            ('here', 'HERE', [network(60)]),
            ('there', 'THERE', [moved(network(60))]),
            ('rbf_svm_random', 'SVM, random', bars[:1]),
            ('rbf_svm_disjoint', 'SVM, disjoint', bars[1:]),
        ],
        bars,
    )
    assert here.reason == 'below RBF-SVM'
    assert there.reason is None
    (alone,) = summarise([('here', 'HERE', [network(0)])])
    assert alone.reason is None
    assert alone.status == 'ok, bar not run'


def test_an_unfinished_bar_is_compared_on_its_own_seeds() -> None:
    runs = [result(80, 0), result(20, 1)]
    (row,) = summarise([('a', 'A', runs)], [result(70, 0, None, None)])
    assert row.reason is None
    assert row.bar == pytest.approx(85)


def test_a_classical_row_below_the_bar_is_marked() -> None:
    forest, svm = rows(forest=(50, 55), rbf_svm=(70, 72))
    assert forest.status == 'below RBF-SVM'
    assert svm.status == 'ok'
    assert compare([forest, svm]) == []


def test_rows_not_converged_enter_no_claim() -> None:
    summaries = rows(
        good=(90, 92, 91), other=(80, 83, 81), bad=(50, 55, 51), rbf_svm=(70, 72, 70)
    )
    named = {
        name
        for pair in compare(summaries)
        for name in (pair.better.key, pair.worse.key)
    }
    assert named == {'good', 'other', 'rbf_svm'}
    notes = ' '.join(order_notes(compare(summaries), summaries, {}))
    assert 'kept out of every claim of order: BAD' in notes


def test_pairs_need_the_same_splits() -> None:
    first, second = rows(first=(90, 92), second=(80, 83))
    assert len(compare([first, second])) == 1
    fewer = rows(second=(80,))
    assert compare([first, *fewer]) == []
    others = summarise([('b', 'B', [result(80, 2), result(83, 3)])])
    assert compare([first, *others]) == []


def test_comparison_is_the_corrected_t_test() -> None:
    # Overall accuracies differ by 1, 2 and 3 points (2, 4, 6 of 200 pixels):
    # mean 2, variance 1; 400 pixels train, 200 test.
    first, second = rows(first=(92, 94, 96), second=(90, 90, 90))
    (pair,) = compare([second, first])
    assert (pair.better.key, pair.worse.key) == ('first', 'second')
    assert pair.difference == pytest.approx(2)
    statistic = 2 / (1 / 3 + 200 / 400) ** 0.5
    expected = 1 - statistic / (statistic**2 + 2) ** 0.5
    assert pair.p_value == pair.adjusted == pytest.approx(expected)
    # The quantile 0.975 of Student's t with 2 degrees of freedom.
    assert pair.shown_from == pytest.approx(4.302653 * (1 / 3 + 200 / 400) ** 0.5)
    assert not pair.significant


def test_claims_are_those_of_the_adjusted_p() -> None:
    """Of three pairs one has a p below 0.05 that is none after Holm."""
    summaries = rows(a=(92, 94, 96), b=(90, 90, 90), c=(81, 86, 88))
    pairs = compare(summaries)
    wide, middle, narrow = pairs
    assert [pair.better.key for pair in pairs] == ['a', 'b', 'a']
    assert wide.p_value < 0.05 < wide.adjusted
    assert wide.adjusted == pytest.approx(3 * wide.p_value)
    assert not wide.significant
    table = comparison_table(pairs)
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert (cells['higher mean'], cells['lower mean']) == ('A', 'C')
    assert cells['p'] == f'{wide.p_value:.3f}'
    assert cells['p adjusted'] == f'{wide.adjusted:.3f}'
    assert cells['claim'] == 'no difference shown'
    assert middle.difference == pytest.approx(2.5) and narrow.difference < 2.5
    published = {(key, 'OA'): Published(99.0) for key in 'ab'}
    published['c', 'OA'] = Published(98.0)
    notes = ' '.join(order_notes(pairs, summaries, published))
    assert 'Of 2 pairs' in notes
    assert '2 have the same sign, 0 of them significantly' in notes


def test_equal_differences_scatter_by_a_pixel() -> None:
    """Of 200 test pixels: half a point."""
    (pair,) = compare(rows(a=(92, 92, 92), b=(90, 90, 90)))
    assert pair.shown_from == pytest.approx(4.302653 * 0.5 * (1 / 3 + 0.5) ** 0.5)
    assert comparison_table([pair]).rows[0][4] == f'{pair.p_value:.3f}'
    (sure,) = compare(rows(a=(92,) * 9, b=(20,) * 9))
    assert comparison_table([sure]).rows[0][4:6] == ('< 0.001', '< 0.001')


def test_smoothed_scores_have_rows_of_their_own() -> None:
    over = {'window': 3, 'edges': None, 'reaches_training': 0.5}
    runs = [result(80, seed) for seed in range(2)]
    for run in runs:
        run['smoothed'] = {**over, 'confusion': [[99, 1], [0, 100]]}
    plain, other, smooth = summaries = summarise(
        [('a', 'A', runs), ('b', 'B', [result(70, seed) for seed in range(2)])]
    )
    assert (smooth.key, smooth.label) == ('a_smoothed', 'A (smoothed 3 x 3)')
    assert smooth.values('OA') == pytest.approx([99.5, 99.5])
    assert plain.values('OA') == pytest.approx([90, 90])
    # Smoothing is no other system: it enters no pair with those without.
    (pair,) = pairs = compare(summaries)
    assert pair.better is plain and pair.worse is other
    text = conclusion(summaries, pairs)
    assert text.startswith('A has the highest mean')
    assert 'windows of up to 50 % of the test pixels hold' in text


def test_rows_of_which_some_runs_have_no_validation_pixels() -> None:
    runs = [result(90, seed, RISING) for seed in range(2)]
    runs[1]['curves'] = {'val_OA': [], 'train_OA': RISING}
    runs[1]['split']['sizes'] = [400, 0, 200]
    (row,) = summarise([('a', 'A', runs)])
    assert (row.reason, row.validates) == (None, False)
    slow = [result(99, seed, [0.9 + 0.01 * n for n in range(8)]) for seed in range(2)]
    slow[1]['split']['sizes'] = [400, 200, 200]
    # The fewest validation pixels decide what a rise can be.
    assert summarise([('a', 'A', slow)])[0].reason is None


def test_test_and_training_pixels_are_those_of_all_seeds() -> None:
    runs = [result(90, 0), result(92, 1)]
    runs[1]['split']['sizes'] = [100, 50, 200]
    (row,) = summarise([('a', 'A', runs)])
    assert row.test_to_train == pytest.approx((0.5 + 2) / 2)


def test_paper_order_is_checked() -> None:
    summaries = rows(a=(98, 97, 99), b=(80, 79, 81), c=(60, 59, 61))
    numbers = {
        ('a', 'OA'): Published(99.0),
        ('b', 'OA'): Published(98.0),
        ('c', 'OA'): Published(98.5),
    }
    pairs = compare(summaries)
    assert [pair.difference for pair in pairs] == pytest.approx([19, 10, 9])
    notes = ' '.join(order_notes(pairs, summaries, numbers))
    assert 'Of 3 pairs' in notes
    assert '2 have the same sign, 2 of them significantly' in notes
    assert 'Against the order of the paper: B over C (shown)' in notes


def test_percent() -> None:
    assert percent([90.0, 92.0]) == '91.00 ± 1.41'
    assert percent([90.0]) == '90.00'
    assert percent([float('nan')]) == '-'
    assert percent([float('nan'), 4.0]) == '4.00'


def test_accuracy_table_shows_published_beside_reproduced() -> None:
    table = accuracy_table(
        rows(a=(80, 60), b=(70, 70), rbf_svm=(50, 60)),
        {('a', 'OA'): Published(99.1, 0.2), ('a', 'AA'): Published(98.0)},
    )
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert cells['OA, published'] == '99.10 ± 0.20'
    assert cells['OA'] == '85.00 ± 7.07'
    assert cells['AA (precision), published'] == '98.00'
    assert cells['epochs'] == '8'
    assert cells['tested epoch'] == '7 to 8'
    assert cells['RBF-SVM, OA'] == '77.50'
    assert cells['last-quarter rise'] == '+0.00'
    assert cells['status'] == 'ok'
    assert table.rows[1][1] == '-'


def test_without_published_numbers_there_are_no_empty_columns() -> None:
    table = accuracy_table(rows(a=(80, 60)), {})
    assert not any('published' in name for name in table.header)
    assert all(len(row) == len(table.header) for row in table.rows)


def test_class_table_names_classes() -> None:
    table = class_table(rows(a=(80, 60)), {('a', 'class_1'): Published(97.0)})
    assert table.rows[0] == ('1 rock', '97.00 / 100.00 ± 0.00 / 70.00 ± 14.14')


def test_cost_table() -> None:
    (row,) = cost_table(rows(a=(80, 60))).rows
    assert row == ('A', '1,234,567', '10.5 s', '2.0 s', '10.00 ms')
    run = result(80)
    run['seconds'] = {'training': 6000.0, 'inference': 100.0}
    (row,) = cost_table(summarise([('a', 'A', [run])])).rows
    assert row[2:] == ('1.7 h', '1.7 min', '500.00 ms')


def test_expert_table() -> None:
    use = {
        'entropy': 0.75,
        'lowest_entropy': 0.5,
        'information': 0.25,
        'accuracy_with_mean_attention': None,
        'temperature': 4.0,
    }
    runs = [{**result(80, 0), 'experts': use}, {**result(80, 1), 'experts': None}]
    table = expert_table(summarise([('a', 'A', runs)]))
    assert table is not None
    assert table.rows == (('A', '75.00', '50.00', '25.00', '-', '4.0'),)
    assert expert_table(rows(a=(80, 60))) is None


def test_markdown_is_a_table() -> None:
    text = to_markdown(Table('t', 'Caption', ('a', 'b'), (('1\n0', 'x|y'),)))
    assert text == 'Caption.\n\n| a | b |\n|---|---|\n| 1 0 | x\\|y |\n'


def test_csv_has_one_number_a_line() -> None:
    text = to_csv(rows(a=(80, 60)), {('a', 'AA'): Published(99.0, 0.5)})
    lines = list(csv.DictReader(io.StringIO(text)))
    assert tuple(lines[0]) == CSV_HEADER
    found = {line['metric']: line for line in lines}
    assert set(found) == {
        'OA',
        'AA',
        'AA_precision',
        'Kappa',
        'class_1',
        'class_1_precision',
        'class_2',
        'class_2_precision',
    }
    assert found['OA']['mean'] == '85.0000'
    assert found['OA']['std'] == '7.0711'
    assert found['AA_precision']['published'] == '99.00'
    assert found['AA']['published'] == ''
    assert (lines[0]['row'], lines[0]['label']) == ('a', 'A')
    run = result(80)
    run['confusion'] = [[0, 0], [0, 100]]
    missing = list(
        csv.DictReader(io.StringIO(to_csv(summarise([('a', 'A', [run])]), {})))
    )
    none = next(line for line in missing if line['metric'] == 'class_1')
    assert (none['mean'], none['std'], none['seeds']) == ('', '', '0')


def test_report_header_names_protocol_overlap_and_scene() -> None:
    summaries = rows(a=(80, 60), b=(70, 71))
    text = report_markdown(build_report('Ti\ntle', summaries, [0, 1], note='Effort.'))
    assert text.startswith('# Ti tle\n\n- **scene**')
    for part in (
        'Two, 10 x 20 x 5; made up by this package; a test',
        'random (train 0.5); pixels to train / validate / test: 400 / 50 / 200',
        'patches of 7 x 7: 25.0 % of the test patches contain a training centre',
        '75.0 % share a pixel',
        '**seeds**: 0, 1',
        'Effort.',
        'corrected resampled t-test',
        'hours in all',
    ):
        assert part in text


def test_no_runs_no_report() -> None:
    with pytest.raises(ValueError, match='no run has finished'):
        build_report('Title', [], [0])


def test_rows_on_different_pixels_are_not_compared() -> None:
    first = rows(a=(80, 60))
    second = rows(b=(80, 60, 70))
    report = build_report('Title', [*first, *second], [0, 1, 2])
    assert 'significance' not in {table.name for table in report.tables}
    assert any('different pixels' in note for note in report.notes)


def test_copied_column_is_named() -> None:
    numbers = {('spectralformer', 'class_1'): Published(70.52)}
    report = build_report('Title', rows(a=(80, 60)), [0, 1], numbers)
    assert any('column of SpectralFormer is copied' in note for note in report.notes)


def test_a_split_that_is_the_same_for_all_seeds_has_the_mean_bar() -> None:
    """The SVM of each seed chooses its constants anew: no seed is the bar of all."""

    def same(*values: int, **options: Any) -> list[Any]:
        runs = [result(value, 0, **options) for value in values]
        return runs

    svm = same(80, 76, 84, curve=None, epochs=None)
    rows = [('svm', 'RBF-SVM', svm), ('net', 'net', same(81, 82, 80))]
    first, second = summarise(rows, svm)
    assert first.reason is None and second.reason is None
    assert first.bar == second.bar == pytest.approx(90.0)
    below = summarise([('net', 'net', same(70, 90, 70))], svm)
    assert below[0].reason == 'below RBF-SVM'


def test_report_names_all_versions_and_epochs() -> None:
    runs = [result(90, 0, epochs=20), result(91, 1, epochs=17)]
    runs[1]['environment'] = {**runs[1]['environment'], 'versions': {'torch': '3'}}
    report = build_report('T', summarise([('a', 'A', runs)]), [0, 1])
    assert ('software', 'torch 2 and 3') in report.facts
    assert any('different software (torch 2 and 3)' in note for note in report.notes)
    assert '| 17 to 20 |' in to_markdown(report.tables[0])
    runs[1]['environment'] = {**runs[0]['environment'], 'code': 'abc'}
    report = build_report('T', summarise([('a', 'A', runs)]), [0, 1])
    assert any('package abc and unknown)' in note for note in report.notes)
    report = build_report('T', summarise([('a', 'A', runs[:1])]), [0])
    assert not any('different software' in note for note in report.notes)


def test_rows_of_other_pixels_have_no_leader() -> None:
    one, other = [result(90, 0), result(91, 1)], [result(95, 2), result(96, 3)]
    for rows in (
        [('a', 'A', one), ('b', 'B', other)],
        [('a', 'A', [*one, result(99, 2)]), ('b', 'B', one)],  # not finished
    ):
        notes = ' '.join(build_report('T', summarise(rows), [0, 1]).notes)
        assert 'tested on different pixels' in notes
        assert 'has the highest mean' not in notes
