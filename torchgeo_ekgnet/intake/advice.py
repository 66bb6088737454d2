# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Which network, recipe and split suit a scene."""

from dataclasses import dataclass, field

from ..datasets import CountSplit, DisjointSplit, HyperspectralScene, RandomSplit
from ..datasets.splits import Split, SplitProtocol
from ..models import network_class
from .overview import context_of

__all__ = ('Advice', 'advise', 'advised_patch')

#: The network for ground that nobody trained on; training shows it single pixels.
NEW_GROUND = 'ekgnet_spectral'
#: The network for the rest of fields that have labels; training shows it whole patches.
SAME_FIELDS = 'ekgnet_spatial'


@dataclass(frozen=True)
class Advice:
    """Settings for a scene, each with its reason.

    Attributes:
        model: Name of the network.
        patch_size: Rows and columns of a patch.
        batch_size: Patches of a batch; None follows the training pixels.
        epochs: Epochs at most.
        protocol: How training, validation and test pixels are chosen.
        split: The split that it draws.
        reasons: A sentence for each setting, by its name.
    """

    model: str
    patch_size: int
    batch_size: int | None
    epochs: int
    protocol: SplitProtocol
    split: Split
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def patience(self) -> int:
        """Epochs without improvement that end the training, annealing apart."""
        return self.epochs // 4 + (self.epochs // 2 if self.has_experts else 0)

    @property
    def recipe(self) -> str | None:
        """Name of the shipped configuration whose recipe it is; None for neither."""
        return {NEW_GROUND: 'custom', SAME_FIELDS: 'custom_spatial'}.get(self.model)

    @property
    def weights(self) -> str:
        """Name of the checkpoint to test and map with."""
        return 'best' if self.recipe is None else 'last'

    @property
    def has_experts(self) -> bool:
        """Whether the network mixes kernels, so that its temperature is annealed."""
        network = network_class(self.model)
        return network is not None and network.has_experts


def advise(
    scene: HyperspectralScene,
    model: str | None = None,
    patch_size: int | None = None,
    split: str | None = None,
) -> Advice:
    """Advise on a scene with labels.

    Args:
        scene: The scene.
        model: Name of the network, if it is chosen already.
        patch_size: Rows and columns of a patch, if chosen already.
        split: 'random' or 'disjoint', if chosen already.

    Returns:
        The advice.

    Raises:
        ValueError: If no split can be drawn.
    """
    reasons = {}
    side = advised_patch(scene) if patch_size is None else patch_size
    spared = model in (None, NEW_GROUND, SAME_FIELDS)
    protocol, drawn, reasons['split'] = _choose_split(scene, side, split, spared)
    if model is None and isinstance(protocol, DisjointSplit):
        model = NEW_GROUND
        reasons['model'] = 'reads spectra pixel by pixel: best between fields'
    elif model is None:
        model = SAME_FIELDS
        reasons['model'] = (
            'sees the surroundings, and remembers them: best where labels lie all over '
            'the fields; ekgnet_spectral for a map of others'
        )
    if patch_size is None:
        reasons['patch_size'] = (
            'odd; the answers of its pixels are averaged, the middle counts most'
            if model == NEW_GROUND
            else 'odd; larger patches see more of the surroundings, and remember them'
        )
    training = drawn.train.size
    batch_size = None
    if model != NEW_GROUND:
        batch_size = 16 if training < 2000 else 32 if training < 8000 else 80
    reasons['batch_size'] = f'follows the {training:,} training pixels'
    epochs = 100 if training < 2000 else 60
    reasons['max_epochs'] = 'an epoch of few pixels is a few steps'
    return Advice(model, side, batch_size, epochs, protocol, drawn, reasons)


def advised_patch(scene: HyperspectralScene) -> int:
    """Return rows and columns of a patch: 7, less where the scene is smaller."""
    side = min(scene.shape[:2])
    return 7 if side >= 7 else side - 1 + side % 2


def _choose_split(
    scene: HyperspectralScene, patch_size: int, wanted: str | None, spared: bool
) -> tuple[SplitProtocol, Split, str]:
    """Draw the most honest split that serves every class; validation may be spared."""
    optimistic = (
        'test patches overlap training patches: scores are optimistic for new ground'
    )
    honest = 'no test patch shares a pixel with a training patch: scores of new ground'
    choices: tuple[tuple[SplitProtocol, str], ...] = (
        (DisjointSplit(train=0.5, val=0.15, guard='patch'), honest),
        (RandomSplit(train=0.5, val=0.15), optimistic),
        # A split that leaves a class out is better than none.
        (
            RandomSplit(train=0.5, val=0.15, unserved='drop'),
            f'{optimistic}; classes of a pixel or two are left out',
        ),
    )
    counts = [count for count in scene.class_counts if count > 1]
    if spared and counts:
        # The recipes choose nothing by validation.
        few = CountSplit(per_class=min(counts) // 2, val=0, unserved='drop')
        choices += (
            (few, f'{optimistic}; too few labels to validate with some of them'),
        )
    if wanted == 'disjoint':
        choices += (
            (
                DisjointSplit(train=0.5, val=0.15, guard='patch', unserved='drop'),
                f'{honest}; classes that lie in too few places for it are left out',
            ),
        )
    context, problem = context_of(scene), ''
    for protocol, reason in choices:
        drawn = 'disjoint' if protocol.spatial else 'random'
        if wanted not in (None, drawn):
            continue
        try:
            split = protocol.bind(context)(scene.label_map, patch_size)
        except ValueError as error:
            problem = problem or str(error)
            continue
        if split.test.size and (split.val.size or not protocol.settings['val']):
            if wanted is None and not protocol.spatial:
                reason += '; init --split disjoint gives some, without small classes'
            return protocol, split, reason
    raise ValueError(f'found no split that this scene allows: {problem}')
