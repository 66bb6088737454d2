# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Arguments as timm gives them: feature levels, classes and pooling."""


def feature_indices(
    num_features: int, indices: int | list[int] | tuple[int, ...] | None = None
) -> list[int]:
    """Turn timm's notation for feature levels into indices from the start.

    Args:
        num_features: How many levels the network has.
        indices: None for all, n for the last n, or a sequence in which negative
            values count from the end.

    Returns:
        The chosen levels, in the order asked for.

    Raises:
        ValueError: If a level does not exist, or none is asked for.
    """
    if isinstance(indices, (list, tuple)) and not indices:
        raise ValueError('indices: found none, expected at least one feature level')
    if indices is None:
        return list(range(num_features))
    if isinstance(indices, int):
        if not 0 < indices <= num_features:
            raise ValueError(
                f'indices={indices} asks for the last {indices} feature levels, '
                f'the network has {num_features}'
            )
        return list(range(num_features - indices, num_features))
    taken = []
    for index in indices:
        level = num_features + index if index < 0 else index
        if not 0 <= level < num_features:
            raise ValueError(
                f'indices holds {index}, expected values from {-num_features} to '
                f'{num_features - 1}'
            )
        taken.append(level)
    return taken


def check_head(num_classes: int, global_pool: str = 'avg') -> None:
    """Refuse a head that classifies nothing, or maps in place of features.

    Args:
        num_classes: Number of classes; 0 for none.
        global_pool: timm's name of the spatial pooling; '' for none.

    Raises:
        ValueError: If ``num_classes`` is negative, or there are classes without a
            pooling.
    """
    if num_classes < 0:
        raise ValueError(f'num_classes must not be negative, found {num_classes}')
    if num_classes and not global_pool:
        raise ValueError(
            f"global_pool is '' with num_classes={num_classes}, expected num_classes=0 "
            "for maps, or a pooling such as 'avg' for classes"
        )
