"""Image size --> size of a feature map."""


def feature_size(image_size: tuple[int, int], reduction: int) -> tuple[int, int]:
    """(H, W) of the feature map after strides that multiply to `reduction`, each rounding up.

    Raises:
        ValueError: a side of the image is shorter than `reduction`.
    """
    height, width = image_size
    if min(height, width) < reduction:
        raise ValueError(
            f"image_size must be at least {reduction} x {reduction}, since the network reduces it by {reduction}, "
            f"got {height} x {width}"
        )
    return -(-height // reduction), -(-width // reduction)
