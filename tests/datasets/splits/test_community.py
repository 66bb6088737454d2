# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The published splits."""

from pathlib import Path

import pytest
import scipy.io

from torchgeo_ekgnet.datasets.splits import (
    CommunitySplit,
    RandomSplit,
    SplitContext,
    as_protocol,
)

from .maps import fields


class TestCommunity:
    def test_pixels(self, real_data_dir: Path) -> None:
        """Counts that the masks' publishers give, and the shares of the docs."""
        path = real_data_dir / 'indian_pines/Indian_pines_gt.mat'
        labels = scipy.io.loadmat(path)['indian_pines_gt']
        context = SplitContext(root=str(real_data_dir))
        split = CommunitySplit('dase', val=0).bind(context)(labels, 7)
        assert (split.train.size, split.test.size) == (5538, 4711)
        assert [round(share, 3) for share in split.overlap(7)] == [0.558, 0.910]
        path = real_data_dir / 'pavia_university/PaviaU_gt.mat'
        labels = scipy.io.loadmat(path)['paviaU_gt']
        split = CommunitySplit('pavia_fixed', val=0).bind(context)(labels, 7)
        assert (split.train.size, split.test.size) == (3921, 40002)
        outside = (labels.flat[split.train] == 0).sum()
        assert outside == 1147
        assert split.labels(labels, 'train').min() == 1

    def test_names(self) -> None:
        with pytest.raises(
            ValueError, match=r"split is 'grss', expected one of.* masks dase"
        ):
            as_protocol('grss')
        protocol = as_protocol('dase')
        assert isinstance(protocol, CommunitySplit) and protocol.masks == 'dase'
        assert as_protocol(None) is None
        random_split = RandomSplit()
        assert as_protocol(random_split) is random_split

    def test_missing_or_other_masks(self, tmp_path: Path) -> None:
        protocol = CommunitySplit('dase').bind(SplitContext(root=str(tmp_path)))
        with pytest.raises(
            FileNotFoundError, match=r'indianpines_disjoint_dset\.mat.*download.*md5'
        ):
            protocol(fields())
        (tmp_path / 'splits').mkdir()
        (tmp_path / 'splits' / 'indianpines_disjoint_dset.mat').write_bytes(b'other')
        with pytest.raises(ValueError, match='not the published mask: md5 is'):
            protocol(fields())
