"""Omniglot at 28x28 pixels, split 23,000 / 1,345 / 8,070 (section 5.2).

The paper uses ``chardata.mat`` (Burda et al. 2016); where that file is found it is used as it is,
with a fixed random choice of the validation rows. Else the 32,460 original images of 105x105 are
averaged down to 28x28 and split here, by drawer: 15 of the 20 drawers of each character train, the
other 5 test, less 45 images at random to arrive at the published count. Which drawers the published
split uses is not known, so figures on this split are near the paper's and not the same.

The original images are looked for as ``omniglot_105.npz`` (bit-packed, 1 = ink), else downloaded.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cpvae.data.fetch import download, find, keep
from cpvae.data.splits import Source

MIRRORS = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
    "https://github.com/brendenlake/omniglot/raw/master/python/",
)
ARCHIVES = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
SIDE = 105
N_IMAGES, N_TRAIN, N_VALID, N_TEST = 32_460, 23_000, 1_345, 8_070
TEST_DRAWERS = 5
SPLIT_SEED = 0


def load_omniglot() -> Source:
    """All characters; labels are alphabets.

    Raises:
        ValueError: not found and not to be had, or a damaged file.
    """
    matlab = find("chardata.mat")
    if matlab is not None:
        return _from_chardata(matlab)
    small = find("omniglot_28.npz") or _make_small()
    try:
        with np.load(small, allow_pickle=False) as archive:
            x, drawer, alphabet = archive["x"], archive["drawer"], archive["alphabet"]
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{small} cannot be read as Omniglot ({error}): remove it.") from error
    parts = split_by_drawer(drawer)
    return Source("omniglot", (x.astype(np.float32) / 255)[:, np.newaxis], alphabet, parts=parts)


def split_by_drawer(drawer: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of training, validation and test rows; the same drawers test for all characters."""
    rng = np.random.default_rng(SPLIT_SEED)
    held = rng.choice(np.unique(drawer), TEST_DRAWERS, replace=False)
    is_test = np.isin(drawer, held)
    test = np.sort(rng.permutation(np.flatnonzero(is_test))[:N_TEST])
    rest = rng.permutation(np.flatnonzero(~is_test))
    return np.sort(rest[N_VALID:]), np.sort(rest[:N_VALID]), test


def _make_small() -> Path:
    large = find("omniglot_105.npz") or download_images()
    try:
        with np.load(large, allow_pickle=False) as archive:
            packed = archive["images_packed"]
            drawer, alphabet = archive["drawer"], archive["alphabet"]
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{large} cannot be read as Omniglot ({error}): remove it.") from error
    if len(packed) != N_IMAGES:
        raise ValueError(
            f"{large} has {len(packed)} images where Omniglot has {N_IMAGES}: remove it."
        )
    ink = np.unpackbits(packed, axis=1)[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE)
    x = average_down(ink)
    return keep(
        "omniglot_28.npz",
        lambda aside: np.savez_compressed(aside, x=x, drawer=drawer, alphabet=alphabet),
    )


def average_down(ink: np.ndarray, side: int = 28) -> np.ndarray:
    """Area averages of square images: (n, s, s) in {0, 1} -> (n, side, side) in 0..255, uint8.

    A small pixel takes from each large one what it covers of it, so the mean of an image is kept.
    """
    n = ink.shape[1]
    edges = np.linspace(0, n, side + 1)
    left, right = edges[:-1, np.newaxis], edges[1:, np.newaxis]
    cover = np.clip(np.minimum(right, np.arange(1, n + 1)) - np.maximum(left, np.arange(n)), 0, 1)
    share = (cover / cover.sum(1, keepdims=True)).astype(np.float32)  # (side, n)
    return np.rint(255 * (share @ ink.astype(np.float32) @ share.T)).astype(np.uint8)


def _from_chardata(file: Path) -> Source:
    from scipy.io import loadmat

    try:
        stored = loadmat(file)
        x = np.concatenate([stored["data"].T, stored["testdata"].T]).astype(np.float32)
    except (ValueError, OSError, KeyError, NotImplementedError, TypeError) as error:
        raise ValueError(f"{file} cannot be read as chardata.mat ({error}): remove it.") from error
    n_train = N_TRAIN + N_VALID
    order = np.random.default_rng(SPLIT_SEED).permutation(n_train)
    parts = (np.sort(order[N_VALID:]), np.sort(order[:N_VALID]), np.arange(n_train, len(x)))
    labels = None
    if "target" in stored and "testtarget" in stored:
        labels = np.concatenate([stored["target"].argmax(0), stored["testtarget"].argmax(0)])
    images = x.reshape(-1, 1, 28, 28).swapaxes(2, 3)  # Matlab stores columns first
    return Source("omniglot (chardata.mat)", np.ascontiguousarray(images), labels, parts=parts)


def download_images() -> Path:
    """The original images, from a mirror, in the cache."""
    images: list[np.ndarray] = []
    drawer: list[int] = []
    alphabets: list[str] = []
    for name, md5 in ARCHIVES.items():
        content = download([mirror + name for mirror in MIRRORS], "md5", md5)
        if content is None:
            raise ValueError(
                "Omniglot could not be downloaded: no mirror answered. Put omniglot_105.npz or "
                "chardata.mat into a folder and name the folder in CPVAE_DATA."
            )
        unpack(content, images, drawer, alphabets)
    packed = np.packbits(np.stack(images).reshape(len(images), -1), axis=1)
    arrays: Any = {
        "images_packed": packed,
        "drawer": np.array(drawer),
        "alphabet": np.unique(alphabets, return_inverse=True)[1],
    }
    return keep("omniglot_105.npz", lambda aside: np.savez_compressed(aside, **arrays))


def unpack(
    content: bytes, images: list[np.ndarray], drawer: list[int], alphabets: list[str]
) -> None:
    """Reads an archive of alphabet/character/NNNN_DD.png, where DD is the drawer."""
    from PIL import Image

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".png")):
            with archive.open(name) as file, Image.open(file) as image:
                images.append(np.asarray(image.convert("L")) < 128)  # ink is black
            drawer.append(int(Path(name).stem.split("_")[1]))
            alphabets.append(Path(name).parts[-3])
