"""Images as a viewer shows them."""

import numpy as np
import pytest
from PIL import Image

from cpvae import data
from cpvae.data.images import page_of

RAMP = np.linspace(0, 1, 256).reshape(16, 16)
# what a camera has done to an upright image that it stores with an EXIF orientation from 1 to 8
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("ending", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photos_are_upright(tmp_path, random, orientation, ending):
    upright = Image.fromarray(random.integers(256, size=(7, 5, 3), dtype=np.uint8))
    tag = Image.Exif()
    tag[0x0112] = orientation
    turn = STORED.get(orientation)
    stored = upright if turn is None else upright.transpose(turn)
    how = {"lossless": True} if ending == "webp" else {}
    stored.save(tmp_path / f"a.{ending}", exif=tag, **how)
    x = data.read(tmp_path).x[0]
    np.testing.assert_allclose(np.moveaxis(x, 0, -1), np.asarray(upright) / 255, rtol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB"])
def test_what_is_transparent_hides_no_colours(tmp_path, random, mode):
    pixels = random.integers(10, 256, size=(6, 6, 4), dtype=np.uint8)
    pixels[..., 3] = 255 * (np.arange(36).reshape(6, 6) % 3 > 0)
    hidden = pixels[..., 3] == 0
    for i, colour in enumerate((3, 200)):
        pixels[hidden, :3] = colour
        image, how = Image.fromarray(pixels), {}
        if mode in ("P", "PA"):
            image = Image.fromarray(np.where(hidden, i, 2).astype(np.uint8), "L").convert("P")
            image.putpalette([9, 9, 9, 200, 200, 200, 50, 60, 70])
            how = {"transparency": i}
        elif mode in ("L", "RGB"):
            image = image.convert("RGB").convert(mode)
            how = {"transparency": colour if mode == "L" else (colour,) * 3}
        else:
            image = image.convert(mode)
        image.save(tmp_path / f"{i}.png", **how)
    source = data.read(tmp_path)
    assert source.x.shape[1] == (1 if mode in ("L", "LA") else 3)
    np.testing.assert_array_equal(source.x[0][:, ~hidden], source.x[1][:, ~hidden])
    assert (source.x[:, :, hidden] == 1).all()  # white
    assert source.notes == ("what is transparent is read as white, in 2 of 2 images",)


@pytest.mark.parametrize(
    ("x", "ending", "white"),
    [
        (RAMP.astype(np.float32), "tif", 1),
        ((RAMP * 255).astype(np.float32), "tif", 255),
        ((RAMP * 65535).astype(np.int32), "tif", 65535),
        ((RAMP * 1023).astype(np.uint16), "png", 1023),
        ((RAMP * 4095).astype(np.uint16), "png", 4095),
        ((RAMP * 16383).astype(np.uint16), "tif", 16383),
        ((RAMP * 65535).astype(np.uint16), "pgm", 65535),
    ],
)
def test_greys_of_more_than_eight_bits_stay_apart(tmp_path, x, ending, white):
    Image.fromarray(x).save(tmp_path / f"a.{ending}")
    Image.fromarray((x / 2).astype(x.dtype)).save(tmp_path / f"b.{ending}")
    source = data.read(tmp_path)
    np.testing.assert_allclose(source.x[0, 0], RAMP, atol=1 / 900)
    assert source.schema.pixel_range == (0, white)
    assert f"0 is read as black and {white} as white, in 2 of 2 images" in source.notes[0]
    dark = data.read(tmp_path / f"b.{ending}", schema=source.schema)
    np.testing.assert_array_equal(dark.x[0], source.x[1])
    assert data.read(tmp_path, size=(8, 8)).x.max() <= 1


def test_greys_of_any_range(tmp_path):
    Image.fromarray((RAMP * 3 - 1).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_allclose(data.read(tmp_path).x[0, 0], RAMP, atol=1e-6)
    Image.fromarray(np.where(RAMP < 0.5, RAMP, np.nan).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="NaN or infinite greys"):
        data.read(tmp_path)


class Deep:
    """An image whose colours a decoder of 16 bits has brought to 8."""

    tile = (("zip", (0, 0, 2, 2), 0, "RGB;16B"),)
    mode = "RGB"

    def convert(self, mode):
        return Image.fromarray(np.full((2, 2, 3), 15, dtype=np.uint8))


def test_colours_of_twelve_bits_in_sixteen_are_refused():
    with pytest.raises(ValueError, match="fill 12 bits of 16"):
        page_of(Deep())


@pytest.mark.parametrize("ending", ["tif", "gif", "webp", "png"])
def test_every_page_is_an_image(tmp_path, random, ending):
    pages = [Image.fromarray(p) for p in random.integers(256, size=(3, 6, 6), dtype=np.uint8)]
    pages[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pages[1:])
    pages[0].convert("RGB").save(tmp_path / "b.bmp")
    source = data.read(tmp_path)
    assert source.rows == (*(f"a.{ending}[{i}]" for i in range(3)), "b.bmp")
    assert "each page of a file" in source.notes[0]
    assert len(data.read(tmp_path / f"a.{ending}").x) == 3


def test_a_preview_is_no_page(tmp_path, random):
    pages = [Image.fromarray(p) for p in random.integers(256, size=(2, 6, 6, 3), dtype=np.uint8)]
    pages[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pages[1:])
    assert len(data.read(tmp_path).x) == 1


def test_what_systems_and_this_package_leave_is_no_data(tmp_path, random):
    picture = Image.fromarray(random.integers(256, size=(6, 6), dtype=np.uint8))
    picture.save(tmp_path / "a.jfif", "JPEG")
    for name in (".ipynb_checkpoints", "__MACOSX", "runs/x/figures", "figures"):
        (tmp_path / name).mkdir(parents=True)
        picture.save(tmp_path / name / "b.png")
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07")
    assert data.read(tmp_path).rows == ("a.jfif", "figures/b.png", "runs/x/figures/b.png")
    (tmp_path / "runs" / "x" / "run.json").touch()
    assert data.read(tmp_path).rows == ("a.jfif", "figures/b.png")
    (tmp_path / "run.json").touch()
    source = data.read(tmp_path)
    assert (source.rows, source.labels) == (("a.jfif",), None)
    assert data.read(tmp_path / ".ipynb_checkpoints").rows == ("b.png",)


def test_images_get_the_colours_of_the_model(tmp_path, random):
    grey, colour = tmp_path / "grey.png", tmp_path / "colour.png"
    pixels = random.integers(256, size=(6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(colour)
    Image.fromarray(pixels[..., 0]).save(grey)
    of_grey, of_colour = data.read(grey).schema, data.read(colour).schema
    x = data.read(grey, schema=of_colour).x
    np.testing.assert_array_equal(x[0], np.repeat(data.read(grey).x[0], 3, axis=0))
    x = data.read(colour, schema=of_grey).x[0, 0]
    np.testing.assert_allclose(x, np.asarray(Image.open(colour).convert("L")) / 255, atol=0.005)
    Image.open(grey).convert("RGB").save(colour)
    np.testing.assert_array_equal(data.read(colour, schema=of_grey).x, data.read(grey).x)
