"""Images as a viewer shows them: upright, on white where they are transparent, page by page."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpvae.data.arrays import BYTES
from cpvae.data.packed import check_is_file
from cpvae.data.schema import Schema
from cpvae.data.splits import Selection, Source

IMAGES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".avif", ".pgm", ".ppm", ".pnm"),
)
# what Pillow may take a file for: some of its other readers start programs
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "PPM")
OF_PAGES = ("GIF", "TIFF", "WEBP", "PNG")  # others, a phone's MPO, keep previews in theirs
WHITES = (1, 255, 1023, 4095, 16383, 65535)  # of whole numbers in 1, 8, 10, 12, 14 and 16 bits
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue in a grey (ITU-R BT.601)
OURS = "cpvae"  # what pictures that this package writes have as their software
RUN = "run.json"  # in a run folder, whose figures are no data


class Page(NamedTuple):
    """One picture: bytes (h, w) or (h, w, 3), or greys (h, w) of more than eight bits."""

    pixels: np.ndarray
    transparent: bool = False
    whole: bool = True  # whether its numbers were whole

    @property
    def is_deep(self) -> bool:
        """Whether its white is still to be found out."""
        return self.pixels.dtype != np.uint8


def read_images(folder: Path, what: Selection, files: Sequence[Path] | None = None) -> Source:
    """Images in a folder and its subfolders, whose names are their labels.

    Left out are files and folders whose names begin with a dot, run folders, and pictures that this
    package wrote.

    Arguments:
        folder: of the images
        what: the size to bring them to; the schema of a fitted model, whose colours they get
        files: the images; by default all that are in the folder

    Raises:
        ValueError: no images, a file that is none, or images of different sizes.
    """
    found = sorted(f for f in folder.rglob("*") if _is_image(f, folder)) if files is None else files
    pages, names = [], []
    for file in found:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a decoder; what it cannot read is an error
            read = list(_pages(file, what.size))
        relative = file.relative_to(folder)
        pages += read
        several = len(read) > 1
        names += [(relative, f"[{i}]" if several else "") for i in range(len(read))]
    if not pages:
        raise ValueError(f"{folder} has no images in it: {', '.join(IMAGES)} are looked for.")
    x, schema = stacked(pages, str(folder), what.schema)
    parents = [name.parent.as_posix() for name, _ in names]
    labels = np.array(parents) if len(set(parents)) > 1 else None  # one folder a class
    rows = tuple(name.as_posix() + page for name, page in names)
    notes = _notes(pages, names, schema)
    return Source(folder.resolve().name, x, labels, schema, rows, notes=notes)


def _is_image(file: Path, folder: Path) -> bool:
    """Whether a file below a folder is one of its images."""
    inside = file.relative_to(folder).parts
    if file.suffix.lower() not in IMAGES or not file.is_file():
        return False
    if any(part.startswith(".") or part == "__MACOSX" for part in inside):
        return False
    above = list(file.relative_to(folder).parents)[:-1]  # but the folder itself
    if any((folder / parent / RUN).is_file() for parent in above):
        return False
    return not ((folder / RUN).is_file() and inside[0] in ("figures", "components.png"))


def _pages(file: Path, size: tuple[int, int] | None) -> Iterator[Page]:
    """The pages of an image file; none of a picture that this package wrote."""
    try:
        check_is_file(file)
        with _opened(file) as image:
            if image.info.get("Software") == OURS:
                return
            several = getattr(image, "n_frames", 1) if image.format in OF_PAGES else 1
            for number in range(several):
                image.seek(number)
                yield page_of(image, size)
    except Exception as error:  # of a decoder, anything
        raise ValueError(f"{file} cannot be read as an image ({error}): remove it.") from error


def _opened(file: Path) -> Any:
    """An image of a format that we list, and of no more pixels than Pillow takes for honest."""
    from PIL import Image

    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(file, formats=known)


def page_of(image: Any, size: tuple[int, int] | None = None) -> Page:
    """A PIL image as it is shown: turned as its EXIF tag says, laid on white.

    Arguments:
        image: of any mode
        size: (height, width) to bring it to: scaled, and what hangs over cut off evenly
    """
    from PIL import Image, ImageOps

    _check_bits(image)
    image, transparent, whole = ImageOps.exif_transpose(image), False, image.mode != "F"
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(np.asarray(image).astype(np.float32))
    else:
        grey = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            image = image.convert("RGBA")
            transparent = image.getextrema()[3][0] < 255
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(grey)
    if size and (image.height, image.width) != size:
        least, most = image.getextrema() if image.mode == "F" else (0, 255)
        image = ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS)
        return Page(np.asarray(image).clip(least, most), transparent, whole)
    return Page(np.asarray(image), transparent, whole)


def _check_bits(image: Any) -> None:
    """Refuses colours of 12 bits in 16, of which reading in 8 would leave four."""
    how = [part for tile in getattr(image, "tile", ()) for part in np.atleast_1d(tile[3] or "")]
    deep = any("RGB" in str(part) and ";16" in str(part) for part in how)
    if deep and max(high for _, high in image.convert("RGB").getextrema()) < 16:
        raise ValueError("its colours fill 12 bits of 16 at most: scale them to 8 or 16 bits")


def stacked(
    pages: Sequence[Page], called: str, known: Schema | None = None
) -> tuple[np.ndarray, Schema]:
    """Pages as examples (n, channels, height, width) in [0, 1], and their schema.

    Arguments:
        pages: of one size
        called: what errors call them
        known: the schema of a fitted model, whose colours and range of greys they get

    Raises:
        ValueError: different sizes, or greys that are not there (NaN).
    """
    sizes = Counter(f"{p.pixels.shape[0]}x{p.pixels.shape[1]}" for p in pages)
    if len(sizes) > 1:
        listed = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(5))
        raise ValueError(
            f"{called} has images of different sizes: {listed}. Bring them to one with --size, "
            f"as in --size {sizes.most_common(1)[0][0]} (height by width)."
        )
    deep = [page for page in pages if page.is_deep]
    pixel_range = _range(deep, called, known) if deep else BYTES
    colours = max(1 if page.pixels.ndim == 2 else 3 for page in pages)
    if known and known.is_image and known.shape[0] in (1, 3):
        colours = known.shape[0]
    arrays = [_in_colours(_shares(page, pixel_range), colours) for page in pages]
    x = np.stack(arrays)
    return x, known or Schema(x.shape[1:], pixel_range=pixel_range)


def _range(deep: Sequence[Page], called: str, known: Schema | None) -> tuple[float, float]:
    """The greys that are black and white in images of more than eight bits.

    Those of the fitted images, if they were deep too; else the white of as many bits as are used,
    and of other numbers the least and the greatest.
    """
    if known and len(known.pixel_range) == 2 and known.pixel_range != BYTES:
        return known.pixel_range[0], known.pixel_range[1]
    low, high = (float(f([f(page.pixels) for page in deep])) for f in (np.min, np.max))
    if not np.isfinite(low + high):
        raise ValueError(f"{called} has images with NaN or infinite greys: fill them in.")
    whites = WHITES if all(page.whole for page in deep) else WHITES[:2]
    white = next((w for w in whites if high <= w), None)
    return (0.0, float(white)) if low >= 0 and white else (low, high)


def _shares(page: Page, pixel_range: tuple[float, float]) -> np.ndarray:
    """A page between 0 and 1."""
    if not page.is_deep:
        return page.pixels.astype(np.float32) / 255
    low, high = pixel_range
    shares = (page.pixels - low) / max(high - low, 1e-30)
    between = shares if low == 0 and high in WHITES else shares.clip(0, 1)
    return between.astype(np.float32)


def _in_colours(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Pixels (h, w) or (h, w, 3) as (channels, h, w)."""
    if pixels.ndim == 2:
        return np.repeat(pixels[np.newaxis], channels, axis=0)
    if channels == 1:
        same = (pixels == pixels[..., :1]).all()  # a grey picture saved in colour
        grey = pixels[..., 0] if same else pixels @ np.array(LUMINANCE, dtype=np.float32)
        return grey[np.newaxis]
    return np.moveaxis(pixels, -1, 0)


def _notes(
    pages: Sequence[Page], names: Sequence[tuple[Path, str]], schema: Schema
) -> tuple[str, ...]:
    """What was done to the images that is not plain."""
    notes = []
    if any(page for _, page in names):
        notes.append("each page of a file is an image of its own, where it has several")
    if transparent := sum(page.transparent for page in pages):
        notes.append(
            f"what is transparent is read as white, in {transparent} of {len(pages)} images"
        )
    if (deep := sum(page.is_deep for page in pages)) and schema.pixel_range:
        low, high = schema.pixel_range
        notes.append(
            f"{low:g} is read as black and {high:g} as white, in {deep} of {len(pages)} images, "
            f"which have more than 8 bits"
        )
    return tuple(notes)
