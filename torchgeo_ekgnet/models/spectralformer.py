# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""SpectralFormer: a transformer whose tokens are groups of neighbouring bands.

Paper: "SpectralFormer: Rethinking Hyperspectral Image Classification with
Transformers", IEEE TGRS 2022, https://doi.org/10.1109/TGRS.2021.3130716

A token holds a band and its neighbours (the spectrum wraps around) over all pixels of
the patch. From the third layer on, cross-layer adaptive fusion (CAF) mixes a layer's
input with the input of the layer two before, over all tokens: the parameters depend on
the number of bands. A class token is what the classifier reads. The network keeps no
rows and columns, so its feature maps are the class token after each layer, (B, 64, 1,
1).
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional as F

from ._blocks import ExpectSize, rows_and_columns
from ._contract import SpectralSpatialNet, feature_levels
from ._registration import create_spectral_model, register_network, spectral_cfg

__all__ = ['SpectralFormer']


class TokenAttention(nn.Module):
    """Multi-head attention between tokens, behind a layer normalisation.

    Args:
        embed_dim: Width of a token.
        num_heads: Number of heads.
        head_dim: Width of a head.
        proj_drop_rate: Dropout of the output.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        proj_drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the layers."""
        super().__init__()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(embed_dim, **dd)
        self.qkv = nn.Linear(embed_dim, 3 * inner, bias=False, **dd)
        self.proj = nn.Linear(inner, embed_dim, **dd)
        self.drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Exchange information between tokens: (B, N, C) to (B, N, C)."""
        qkv = self.qkv(self.norm(x)).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out


class CrossLayerFusion(nn.Module):
    """Cross-layer adaptive fusion: mix two layers' tokens over all token positions.

    Args:
        num_tokens: Number N of tokens.
    """

    def __init__(
        self,
        num_tokens: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the layer."""
        super().__init__()
        self.mix = nn.Linear(2 * num_tokens, num_tokens, device=device, dtype=dtype)

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        """Fuse: (B, N, C) to (B, N, C)."""
        pair = torch.cat([x, earlier], 1)
        mixed: Tensor = self.mix(pair.transpose(1, 2))
        return mixed.transpose(1, 2)


class TransformerStage(nn.Module):
    """One layer: fusion with an earlier layer, attention, perceptron.

    A stage passes on a stack of states, the newest first: its output, its input and,
    for the fusion of the next stage, the input of the stage before it.

    Args:
        num_tokens: Number N of tokens.
        embed_dim: Width C of a token.
        num_heads: Number of heads.
        head_dim: Width of a head.
        hidden_dim: Width of the perceptron's hidden layer.
        fuse: Fuse with the input of the layer two before.
        proj_drop_rate: Dropout inside.
    """

    def __init__(
        self,
        num_tokens: int,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        hidden_dim: int,
        fuse: bool,
        proj_drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the layer."""
        super().__init__()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.fusion = CrossLayerFusion(num_tokens, **dd) if fuse else None
        self.attention = TokenAttention(
            embed_dim, num_heads, head_dim, proj_drop_rate, **dd
        )
        self.perceptron = nn.Sequential(
            nn.LayerNorm(embed_dim, **dd),
            nn.Linear(embed_dim, hidden_dim, **dd),
            nn.GELU(),
            nn.Dropout(proj_drop_rate),
            nn.Linear(hidden_dim, embed_dim, **dd),
            nn.Dropout(proj_drop_rate),
        )

    def forward(self, states: Tensor) -> Tensor:
        """Transform the newest state: (B, S, N, C) to (B, min(S + 1, 3), N, C)."""
        x = states[:, 0]
        if self.fusion is not None:
            x = self.fusion(x, states[:, 2])
        x = x + self.attention(x)
        x = x + self.perceptron(x)
        return torch.cat([x.unsqueeze(1), states[:, :2]], 1)


class SpectralFormer(SpectralSpatialNet):
    """SpectralFormer on patches, or on their centre pixels.

    Shape: patches (B, in_chans, rows, columns) to logits (B, num_classes).

    Args:
        img_size: Rows and columns of the patches.
        centre_pixel: Read the spectrum of the patch's centre pixel alone; then any
            patch size passes and ``img_size`` is not used. Maps have one row and one
            column: the reduction of 1 in ``feature_info`` is that of 1x1 patches.
        near_bands: Neighbouring bands of a token, odd; the released settings are 3
            for Indian Pines and 7 for Pavia University's patches. Cut to the number
            of bands.
        embed_dim: Width of a token.
        depth: Number of layers.
        num_heads: Number of heads.
        head_dim: Width of a head.
        hidden_dim: Width of the perceptrons' hidden layer.
        proj_drop_rate: Dropout of the embedding and inside of the layers.

    Raises:
        ValueError: If ``near_bands`` is even or a size is not positive.
    """

    no_decay_suffixes = ('class_token', 'position')

    def __init__(
        self,
        num_classes: int = 16,
        in_chans: int = 200,
        global_pool: str = 'avg',
        img_size: int | Sequence[int] = 7,
        centre_pixel: bool = False,
        near_bands: int = 3,
        embed_dim: int = 64,
        depth: int = 5,
        num_heads: int = 4,
        head_dim: int = 16,
        hidden_dim: int = 8,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the network."""
        super().__init__(num_classes, in_chans)
        if near_bands < 1 or near_bands % 2 == 0:
            raise ValueError(f'near_bands must be odd and positive, found {near_bands}')
        if min(embed_dim, depth, num_heads, head_dim, hidden_dim) < 1:
            raise ValueError(
                'embed_dim, depth, num_heads, head_dim and hidden_dim must be at least '
                f'1, found {(embed_dim, depth, num_heads, head_dim, hidden_dim)}'
            )
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.centre_pixel = centre_pixel
        self.img_size = (1, 1) if centre_pixel else rows_and_columns(img_size)
        near_bands = min(near_bands, in_chans - 1 + in_chans % 2)
        self.wrap = near_bands // 2
        num_tokens = in_chans + 1
        self.class_token = nn.Parameter(torch.empty(1, 1, embed_dim, **dd))
        self.position = nn.Parameter(torch.empty(1, num_tokens, embed_dim, **dd))
        # One linear map of all pixels of neighbouring bands, sliding along the bands.
        self.stem = nn.Conv3d(1, embed_dim, (near_bands, *self.img_size), **dd)
        self.expect_size = ExpectSize(*self.img_size)
        self.stem_drop = nn.Dropout(proj_drop_rate)
        self.stages = nn.ModuleList(
            TransformerStage(
                num_tokens,
                embed_dim,
                num_heads,
                head_dim,
                hidden_dim,
                index > 1,
                proj_drop_rate,
                **dd,
            )
            for index in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, **dd)
        self.feature_info = feature_levels(
            [embed_dim] * depth, [max(self.img_size)] * depth
        )
        self.make_head(embed_dim, global_pool, drop_rate, **dd)
        self.reset_parameters()

    @torch.jit.ignore
    def reset_parameters(self) -> None:
        """Draw class token and positions; what lies inside has methods of its own."""
        nn.init.normal_(self.class_token)
        nn.init.normal_(self.position)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Order the parameters by depth, for layer-wise learning rates."""
        return {
            'stem': r'^stem',
            'blocks': [
                (r'^class_token|^position', (0,)),
                (r'^stages\.(\d+)', None),
                (r'^norm', (99999,)),
            ],
        }

    def forward_stem(self, x: Tensor) -> Tensor:
        """Make tokens."""
        if self.centre_pixel:
            row, col = x.shape[2] // 2, x.shape[3] // 2
            x = x[:, :, row : row + 1, col : col + 1]
        else:
            x = self.expect_size(x)
        if self.wrap > 0:
            x = torch.cat([x[:, -self.wrap :], x, x[:, : self.wrap]], 1)
        tokens = self.stem(x.unsqueeze(1)).flatten(2).transpose(1, 2)
        first = self.class_token.expand(x.shape[0], -1, -1)
        tokens = torch.cat([first, tokens], 1) + self.position
        states: Tensor = self.stem_drop(tokens).unsqueeze(1)
        return states

    def forward_norm(self, x: Tensor) -> Tensor:
        """Normalise the class token of the newest state."""
        out: Tensor = self.act(self.norm(x[:, :1, :1]))
        return out

    def spectral_mean(self, x: Tensor) -> Tensor:
        """Take the class token of the newest state; it summarises the spectrum."""
        return x[:, 0, 0].unsqueeze(2).unsqueeze(3)


_PAPER: dict[str, Any] = {
    'paper_ids': '10.1109/TGRS.2021.3130716',
    'paper_name': 'SpectralFormer: Rethinking Hyperspectral Image Classification with '
    'Transformers',
}

default_cfgs = generate_default_cfgs(
    {
        'spectralformer': spectral_cfg(
            input_size=(200, 7, 7), fixed_input_size=True, **_PAPER
        ),
        'spectralformer_pixel': spectral_cfg(input_size=(200, 1, 1), **_PAPER),
    }
)


@register_network(SpectralFormer)
def spectralformer(pretrained: bool = False, **kwargs: Any) -> Any:
    """SpectralFormer on patches: tokens of 3 bands and all pixels."""
    return create_spectral_model(
        SpectralFormer, 'spectralformer', pretrained, kwargs.get('depth', 5), **kwargs
    )


@register_network(SpectralFormer)
def spectralformer_pixel(pretrained: bool = False, **kwargs: Any) -> Any:
    """SpectralFormer on the centre pixel's spectrum: tokens of 3 bands."""
    model_args: dict[str, Any] = {'centre_pixel': True}
    return create_spectral_model(
        SpectralFormer,
        'spectralformer_pixel',
        pretrained,
        kwargs.get('depth', 5),
        **dict(model_args, **kwargs),
    )
