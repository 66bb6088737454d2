# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The contract of a timm model, written once for every network of the package.

A network takes patches of shape (B, bands, P, P), works on maps with an explicit
spectral axis, (B, C, D, H, W), and gives timm what it expects of an image model:
4D maps. The border between the two is the mean over the spectral axis, so a global
average over (D, H, W) equals the spectral mean followed by a spatial average and the
logits do not depend on where the border is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from timm.layers import (
    create_classifier,
    get_device_dtype,
    register_notrace_function,
    register_notrace_module,
)
from timm.models import checkpoint
from torch import Tensor, nn

from ..layers.rule import check_type, symbolic
from ._arguments import check_head, feature_indices
from ._weights import compare_weights, network_state


def leaf_module(module: type[nn.Module]) -> type[nn.Module]:
    """Make a layer with data-dependent Python a leaf of every fx trace."""
    register_notrace_module(module)
    return module


@register_notrace_function
def check_patches(x: Tensor, bands: int) -> None:
    """Refuse what a network of this package cannot read.

    Args:
        x: What the network was given.
        bands: Number of bands that the network was made for.

    Raises:
        ValueError: If ``x`` is not (B, bands, P, P).
        TypeError: If ``x`` is not of a floating point type.
    """
    if x.dim() != 4:
        raise ValueError(
            f'the input has {x.dim()} dimensions, expected 4: (B, {bands}, P, P)'
        )
    if x.shape[1] != bands:
        raise ValueError(
            f'the input has {x.shape[1]} bands but the model was made with '
            f'in_chans={bands}; create it with the number of bands of the scene'
        )
    if not x.is_floating_point():
        raise TypeError(
            'the input must be floating point (normalised patches), '
            f'found {x.dtype}; convert it with .float()'
        )


def recomputed(stage: nn.Module, x: Tensor) -> Tensor:
    """Run a stage so that the backward pass computes its maps anew.

    Args:
        stage: A stage; its method ``recompute``, if any, knows a finer way.
        x: Maps, (B, C, D, H, W).

    Returns:
        What ``stage(x)`` returns.
    """
    finer = getattr(stage, 'recompute', None)
    return cast(Tensor, checkpoint(stage, x) if finer is None else finer(x))


def feature_levels(
    channels: Sequence[int], reductions: Sequence[int]
) -> list[dict[str, Any]]:
    """Describe the maps behind the stages of a network, as ``feature_info`` lists them.

    Args:
        channels: Channels of each.
        reductions: By how much each has fewer rows and columns than the patch.

    Returns:
        timm's description of each.
    """
    return [
        {'num_chs': width, 'reduction': reduction, 'module': f'stages.{index}'}
        for index, (width, reduction) in enumerate(
            zip(channels, reductions, strict=True)
        )
    ]


class SpectralSpatialNet(nn.Module):
    """What timm asks of a model, for networks on (B, bands, P, P) patches.

    A subclass calls ``super().__init__(num_classes, in_chans)``, then sets, in this
    order, ``stem`` (the first registered leaf is a plain ``nn.Conv3d``; weight
    loaders look at it), ``stages`` (an ``nn.ModuleList``, one module a feature level),
    optionally ``norm`` and ``act`` (final normalisation) and ``weigh`` (what happens to
    the final map before its mean), ``feature_info`` (:func:`feature_levels`), and calls
    :meth:`make_head` last. Networks of another shape override the small
    methods :meth:`forward_stem`, :meth:`forward_norm` and :meth:`spectral_mean`.

    ``global_pool`` other than ``'avg'`` acts on the spectral mean: ``'max'`` is the
    mean over bands followed by the maximum over rows and columns.

    Args:
        num_classes: Number of classes; 0 removes the classifier.
        in_chans: Number of spectral bands of the patches.

    Every network also takes, and hands to :meth:`make_head`, ``global_pool`` (timm's
    name of the spatial pooling), ``drop_rate`` (dropout before the classifier),
    ``device`` and ``dtype`` (of the parameters).

    Raises:
        ValueError: If ``in_chans`` is not positive or ``num_classes`` negative.
    """

    #: Whether expert convolutions decide: their use can be recorded, their temperature
    #: annealed.
    has_experts: ClassVar[bool] = False

    #: Share of the training after which ``set_progress`` prunes no more; 0 if the
    #: network never prunes.
    settled_share: ClassVar[float] = 0.0

    #: Options that turn the network into its static twin; None if there is none.
    static_options: ClassVar[dict[str, Any] | None] = None

    #: Names whose outputs in bfloat16 were within 1 % of float64: ``bf16-mixed`` on GPUs.
    bfloat16_names: ClassVar[frozenset[str]] = frozenset()

    #: Whether pixels are classified without their neighbours, so that single ones teach
    #: all there is to learn.
    pixelwise: bool = False

    #: Ends of parameter names that weight decay must leave alone.
    no_decay_suffixes: tuple[str, ...] = ('raw_temperature', 'residual_weight')

    if TYPE_CHECKING:  # at run time TorchScript would try to read them
        stem: nn.Module
        stages: nn.ModuleList
        feature_info: list[dict[str, Any]]

    def __init__(self, num_classes: int, in_chans: int) -> None:
        """Remember the sizes of the two ends."""
        super().__init__()
        if in_chans < 1:
            raise ValueError(f'in_chans must be at least 1, found {in_chans}')
        check_head(num_classes)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = 0
        self.head_hidden_size = 0
        self.grad_checkpointing = False
        # The stem's weight does not depend on the number of bands: it never needs
        # timm's adaptation of an RGB kernel.
        self._traits: dict[str, Any] = {'first_conv': None}

    def make_head(
        self,
        num_features: int,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Register pooling, dropout and classifier; the last step of a constructor.

        Args:
            num_features: Channels of the final map.
            global_pool: timm's name of the spatial pooling; '' for none.
            drop_rate: Dropout before the classifier.
            device: Where the parameters live.
            dtype: Type of the parameters.
        """
        if 'norm' not in self._modules:
            self.norm: nn.Module = nn.Identity()
        if 'act' not in self._modules:
            self.act: nn.Module = nn.Identity()
        if 'weigh' not in self._modules:
            self.weigh: nn.Module = nn.Identity()
        check_head(self.num_classes, global_pool)
        self.num_features = num_features
        self.global_pool, classifier = create_classifier(
            num_features,
            self.num_classes,
            pool_type=global_pool,
            device=device,
            dtype=dtype,
        )
        self.head_hidden_size = num_features * self.global_pool.feat_mult()
        self.head_drop = nn.Dropout(drop_rate)
        self.classifier = classifier
        if isinstance(classifier, nn.Linear) and classifier.bias is not None:
            nn.init.zeros_(classifier.bias)

    def own_weights(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Give weights of a file the names and layouts of this network.

        Args:
            state_dict: State dict of this network, or of what held it.

        Returns:
            State dict of this network.
        """
        return network_state(state_dict)

    @torch.jit.ignore
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights, those of a checkpoint of the task too.

        Raises:
            RuntimeError: If the weights do not fit; one sentence says why.
        """
        state = self.own_weights(state_dict)
        try:
            return super().load_state_dict(state, strict=strict, assign=assign)
        except RuntimeError as error:
            found = compare_weights(self, state)
            if found.fits:
                raise
            raise RuntimeError(
                f'the weights do not fit {type(self).__name__}: {found.sentence()}'
            ) from error

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Order the parameters by depth, for layer-wise learning rates.

        Args:
            coarse: One group a stage instead of one a layer.

        Returns:
            timm's matcher.
        """
        if coarse:
            return {'stem': r'^stem', 'blocks': [(r'^stages\.(\d+)', None)]}
        return {
            'stem': r'^stem',
            'blocks': [
                (r'^stages\.(\d+)(?:\.[a-z_]+)?\.(\d+)', None),
                (r'^stages\.(\d+)', None),
                (r'^norm', (99999,)),
            ],
        }

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay must leave alone.

        Returns:
            Names of temperatures, residual weights and the like.
        """
        return {
            name
            for name, _ in self.named_parameters()
            if name.rpartition('.')[2] in self.no_decay_suffixes
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computing time for memory: recompute maps in the backward pass.

        A stage is recomputed as its ``recompute`` method says (the dense networks: layer
        by layer), or as a whole. Batch-norm statistics are updated a second time then.

        Args:
            enable: Whether to recompute.
        """
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Give the classifier.

        Returns:
            The linear layer, or an identity.
        """
        return cast(nn.Module, self.classifier)

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """Put a new classifier in place.

        Args:
            num_classes: Number of classes; 0 for none.
            global_pool: Name of the pooling; None keeps it, '' removes it.

        Raises:
            ValueError: If ``num_classes`` is negative, or there are classes without a
                pooling.
        """
        if global_pool is None:
            global_pool = cast(str, self.global_pool.pool_type)
        check_head(num_classes, global_pool)
        self.num_classes = num_classes
        self.global_pool, self.classifier = create_classifier(
            self.num_features,
            num_classes,
            pool_type=global_pool,
            **get_device_dtype(self),
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.classifier.train(self.training)

    @torch.jit.unused
    def _check_type(self, x: Tensor) -> None:
        """Refuse patches of another type than the weights."""
        if not symbolic(x):
            check_type(type(self).__name__, x, self.stem)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Give the patches a channel axis and take the first convolution.

        Args:
            x: Patches, (B, bands, P, P).

        Returns:
            Maps, (B, C, D, H, W).
        """
        maps: Tensor = self.stem(x.unsqueeze(1))
        return maps

    def forward_norm(self, x: Tensor) -> Tensor:
        """Apply the final normalisation and activation.

        Args:
            x: Output of the last stage.

        Returns:
            A tensor of the same shape.
        """
        normed: Tensor = self.act(self.norm(x))
        return normed

    def spectral_mean(self, x: Tensor) -> Tensor:
        """Leave the world of five axes.

        Args:
            x: Maps, (B, C, D, H, W).

        Returns:
            Their mean over the spectral axis, (B, C, H, W).
        """
        return x.mean(2)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Any:
        """Collect the map of each stage.

        Args:
            x: Patches, (B, bands, P, P).
            indices: Which stages: None all, n the last n, or a sequence.
            norm: Apply the final normalisation to the last stage's map.
            stop_early: Do not compute the stages behind the last one asked for.
            output_fmt: Only 'NCHW' exists.
            intermediates_only: Return the maps alone.

        Returns:
            The list of maps (B, C, H, W), after the final features unless
            ``intermediates_only``.

        Raises:
            ValueError: If ``output_fmt`` is another, or a stage does not exist.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt must be 'NCHW', found {output_fmt!r}")
        taken = feature_indices(len(self.stages), indices)
        last = len(self.stages) - 1
        check_patches(x, self.in_chans)
        self._check_type(x)
        x = self.forward_stem(x)
        maps: dict[int, Tensor] = {}
        for level, stage in enumerate(self.stages):
            if stop_early and level > max(taken):
                break
            x = recomputed(stage, x) if self.grad_checkpointing else stage(x)
            if level in taken:
                normed = norm and level == last
                maps[level] = self.spectral_mean(self.forward_norm(x) if normed else x)
        intermediates = [maps[level] for level in taken]
        if intermediates_only:
            return intermediates
        if not stop_early or max(taken) == last:
            x = self.forward_norm(x)
        return self.spectral_mean(x), intermediates

    def prune_intermediate_layers(
        self,
        indices: int | list[int] | tuple[int, ...] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages that the chosen intermediate maps do not need.

        Args:
            indices: Which stages' maps are wanted.
            prune_norm: Drop the final normalisation too.
            prune_head: Drop the classifier and the pooling too.

        Returns:
            The chosen stages as indices from the start.
        """
        taken = feature_indices(len(self.stages), indices)
        deepest = max(taken)
        cut = deepest < len(self.stages) - 1
        self.stages = self.stages[: deepest + 1]
        if cut or prune_norm:
            self.norm = nn.Identity()
            self.act = nn.Identity()
        if cut:
            self.num_features = int(self.feature_info[deepest]['num_chs'])
        if cut or prune_head:
            self.reset_classifier(0, '')
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the final map.

        Args:
            x: Patches, (B, bands, P, P).

        Returns:
            The map, (B, num_features, H, W).
        """
        check_patches(x, self.in_chans)
        if not torch.jit.is_scripting():
            self._check_type(x)
        x = self.forward_stem(x)
        for stage in self.stages:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = recomputed(stage, x)
            else:
                x = stage(x)
        return self.spectral_mean(self.forward_norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify.

        Args:
            x: The map of :meth:`forward_features`.
            pre_logits: Stop before the classifier.

        Returns:
            Logits, (B, num_classes), or pooled features, (B, head_hidden_size).
        """
        if self.global_pool.pool_type == 'avg':
            x = self.weigh(x)
        x = self.head_drop(self.global_pool(x))
        if pre_logits:
            return x
        logits: Tensor = self.classifier(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Classify patches.

        Args:
            x: Patches, (B, bands, P, P), normalised as the network was trained.

        Returns:
            Logits, (B, num_classes).

        Raises:
            ValueError: If the shape is another or the number of bands differs.
            TypeError: If the patches are not floating point, or of another type than
                the weights.
        """
        return self.forward_head(self.forward_features(x))
