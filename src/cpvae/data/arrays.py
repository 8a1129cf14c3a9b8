"""Arrays: which axis is which, and the numbers of images as shares from black to white."""

from collections.abc import Sequence

import numpy as np

from cpvae.data.checks import single

COLOURS = (1, 3, 4)  # numbers of channels that images have: grey, colours, colours and opacity
BYTES = (0.0, 255.0)  # of an image that are black and white


def as_examples(array: np.ndarray, name: str, are_bytes: bool = False) -> np.ndarray:
    """An array as float32 examples (n, f) or (n, channels, height, width); bytes become [0, 1].

    Arguments:
        array: numbers (n), (n, f), (n, height, width), or images with channels first or last
        name: of the data, for errors
        are_bytes: whether images of bytes go to 255, also those that are all dark; by default those
            that have a value above 1

    Raises:
        ValueError: text or objects, or a number of axes that has no meaning here.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype} values: numbers are needed.")
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim == 3:
        array = array[:, np.newaxis]
    elif array.ndim == 4 and channels_last(array.shape[1:]):
        array = np.moveaxis(array, -1, 1)
    if array.ndim not in (2, 4):
        raise ValueError(
            f"{name} has shape {array.shape}: use (rows, columns) for a table, or "
            f"(n, height, width) or (n, channels, height, width) for images."
        )
    if array.ndim == 4 and ((are_bytes and array.dtype == np.uint8) or in_bytes(array)):
        return array.astype(np.float32) / 255
    return single(array, name)


def in_bytes(array: np.ndarray) -> bool:
    """Whether images are of bytes from 0 to 255, and not of zeros and ones."""
    images = array.dtype == np.uint8 and array.ndim in (3, 4) and array.size
    return bool(images and array.max() > 1)


def channels_last(shape: Sequence[int]) -> bool:
    """Whether the three axes of an image are height, width and channels.

    The channels are the axis of a length that they usually have, the first before the last; where
    neither has one, they are the shorter.
    """
    first, _, last = shape
    if last in (1, 3) and first not in (1, 3):
        return True
    return first not in COLOURS and (last in COLOURS or last < first)


def laid_out(images: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Images (n, channels, height, width) in the layout of one that was handed in as ``shape``.

    That is (height, width), (channels, height, width) or (height, width, channels).
    """
    if len(shape) == 3 and channels_last(shape):
        return np.ascontiguousarray(np.moveaxis(images, 1, -1))
    return images.reshape(len(images), *shape)
