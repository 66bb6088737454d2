# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The published splits."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from torchgeo_ekgnet.datasets.download import SceneFile
from torchgeo_ekgnet.datasets.splits import (
    CommunitySplit,
    MaskSplit,
    RandomSplit,
    SplitContext,
    as_protocol,
    community,
)
from torchgeo_ekgnet.datasets.splits.__main__ import table

from .maps import Labels, fields, indices_of


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
        with pytest.raises(FileNotFoundError, match=r'found no Indian_pines_gt\.mat'):
            table(tmp_path)
        protocol = CommunitySplit('dase').bind(SplitContext(root=str(tmp_path)))
        with pytest.raises(
            FileNotFoundError, match=r'indianpines_disjoint_dset\.mat.*download.*md5'
        ):
            protocol(fields())
        (tmp_path / 'splits').mkdir()
        (tmp_path / 'splits' / 'indianpines_disjoint_dset.mat').write_bytes(b'other')
        with pytest.raises(ValueError, match='not the published mask: md5 is'):
            protocol(fields())

    def test_messages_say_what_there_is(self, tmp_path: Path) -> None:
        class _Hidden(RandomSplit):
            pass

        with pytest.raises(ValueError, match=r"^split is 'daze', expected") as caught:
            as_protocol('daze')
        listed = re.findall(r'protocols (.*?), or of', str(caught.value))[0].split(', ')
        assert {'RandomSplit', 'SavedSplit', 'CommunitySplit'} <= set(listed)
        assert listed == sorted(listed)
        # What cannot be made, and what is nobody's to name.
        assert not {'SplitProtocol', 'DrawnSplit', '_Hidden'} & set(listed)
        assert "'dase'" in str(caught.value).rpartition('masks')[2]
        # No letters are close, and yet a name begins so.
        with pytest.raises(ValueError, match=r"did you mean 'RandomSplit'\?$"):
            as_protocol('random')
        (tmp_path / 'indianpines_disjoint_dset.mat').mkdir()  # no file
        protocol = CommunitySplit('dase').bind(SplitContext(root=str(tmp_path)))
        with pytest.raises(FileNotFoundError) as missing:
            protocol(fields())
        file = community.COMMUNITY_SPLITS['dase'].train
        assert str(missing.value) == (
            f"split 'dase': there is no {file.name} in {tmp_path} or "
            f'{tmp_path / "splits"}; set download=True (--data.download true), or save '
            f'it there from {file.urls[0]} (md5 {file.md5}; "disjoint" training pixels '
            'of the GRSS DASE website)'
        )

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'masks': 'grss'}, r"^split is 'grss', expected one of \('dase', "),
            ({'val': 1}, '^val is 1, expected a share from 0 to below 1'),
            ({'seed': -1}, '^seed is -1'),
        ],
    )
    def test_bad(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CommunitySplit(**{'masks': 'dase', **options})


class TestPublishedMasks:
    """Masks of a made-up publisher: the left columns train, the others test."""

    def publish(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, **facts: Any
    ) -> tuple[Labels, SceneFile]:
        labels = fields()
        left = np.arange(labels.shape[1]) < 20
        masks = {'TR': np.where(left, labels, 0), 'TE': np.where(left, 0, labels)}
        folder.mkdir(exist_ok=True)
        scipy.io.savemat(folder / 'both.mat', masks)
        md5 = hashlib.md5((folder / 'both.mat').read_bytes()).hexdigest()
        train = SceneFile('both.mat', 'TR', ('http://localhost/both.mat',), md5=md5)
        given = {'train': train, 'test': replace(train, variable='TE'), **facts}
        masks_of = replace(community.COMMUNITY_SPLITS['dase'], **given)
        monkeypatch.setitem(community.COMMUNITY_SPLITS, 'dase', masks_of)
        return labels, train

    @pytest.mark.parametrize('place', ['', 'splits'])
    @pytest.mark.parametrize('alone', [False, True])
    def test_drawn_as_masks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, alone: bool
    ) -> None:
        facts = {'test': None} if alone else {}
        labels, file = self.publish(tmp_path / place, monkeypatch, **facts)
        context = SplitContext(root=str(tmp_path), download=True)
        split = CommunitySplit('dase').bind(context)(labels)
        path = str(tmp_path / place / 'both.mat')
        test = (None, None) if alone else (path, 'TE')
        same = MaskSplit(path, test[0], train_variable='TR', test_variable=test[1])
        assert indices_of(split) == indices_of(same(labels))
        assert split.protocol == 'dase'
        assert split.settings == {
            'masks': 'dase',
            'val': 0.1,
            'seed': 1331,
            'unserved': 'error',
            'md5': [file.md5] * (1 if alone else 2),
        }
        other = CommunitySplit('dase', val=0.3, seed=5).bind(context)(labels)
        options: Any = {'train_variable': 'TR', 'test_variable': test[1]}
        same = MaskSplit(path, test[0], val=0.3, seed=5, **options)
        assert indices_of(other) == indices_of(same(labels))

    def test_pixels_without_label(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labels, _ = self.publish(tmp_path, monkeypatch)
        full = (labels > 0).sum()
        labels[labels == 3] = 0
        context = SplitContext(root=str(tmp_path))
        split = CommunitySplit('dase').bind(context)(labels)
        used = sum(map(len, indices_of(split)))
        assert used == (labels > 0).sum() < full
        labels[:, 20:][labels[:, 20:] == 2] = 0
        split = CommunitySplit('dase', unserved='drop').bind(context)(labels)
        assert split.dropped == (2,)

    def test_labels_of_the_masks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labels, _ = self.publish(tmp_path, monkeypatch, labels='masks')
        labels[:6] = 0
        split = CommunitySplit('dase').bind(SplitContext(root=str(tmp_path)))(labels)
        assert sum(map(len, indices_of(split))) == (fields() > 0).sum()

    def test_another_file_beside_the_root(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file in the root counts, whatever lies in ``splits/``."""
        labels, _ = self.publish(tmp_path, monkeypatch)
        (tmp_path / 'splits').mkdir()
        (tmp_path / 'splits' / 'both.mat').write_bytes(b'other')
        protocol = CommunitySplit('dase').bind(SplitContext(root=str(tmp_path)))
        assert protocol(labels).protocol == 'dase'

    def test_download(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        labels, _ = self.publish(tmp_path / 'host', monkeypatch)
        fetched = []

        def download(wanted: SceneFile, folder: Path) -> Path:
            fetched.append((wanted.variable, folder))
            return tmp_path / 'host' / wanted.name

        monkeypatch.setattr(community, 'download_file', download)
        root = str(tmp_path / 'data')
        with pytest.raises(FileNotFoundError):
            CommunitySplit('dase').bind(SplitContext(root=root))(labels)
        assert fetched == []
        CommunitySplit('dase').bind(SplitContext(root=root, download=True))(labels)
        places = tmp_path / 'data' / 'splits'
        assert fetched == [('TR', places), ('TE', places)]
