"""Files that are packed: damaged ones and bombs are refused in one line, and not unpacked."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import time
import zipfile
import zlib

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from cpvae import data
from cpvae.data import packed, tables

ROWS = b"a,b\n" + b"0,0\n" * 300_000


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Bombs may be small ones here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packed, "MOST", 2**20)
    monkeypatch.setattr(packed, "MOST_TIMES", 100)


def refused(name, words):
    with pytest.raises(ValueError, match=words) as told:
        data.load(name)
    assert name in str(told.value)
    assert "\n" not in str(told.value)


PACKED = {
    "t.csv.gz": gzip.compress,
    "t.csv.bz2": bz2.compress,
    "t.csv.xz": lzma.compress,
    "t.csv.zst": lambda rows: pyarrow.compress(rows, "zstd", asbytes=True),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_table_is_read_unless_it_would_fill_the_memory(name, tmp_path):
    rng = np.random.default_rng(0)
    rows = "a,b\n" + "\n".join(f"{a},{b}" for a, b in rng.normal(size=(50, 2)))
    whole = PACKED[name](rows.encode())
    (tmp_path / name).write_bytes(whole)
    assert len(data.load(name).train.x) == 40
    (tmp_path / name).write_bytes(PACKED[name](ROWS))
    refused(name, r"its [\d,]+ bytes would unpack to")
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    refused(name, "cannot be read")


def test_arrays_that_ask_for_more_than_there_is_are_not_made(tmp_path):
    def head(shape):
        out = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            out, {"descr": "<f8", "fortran_order": False, "shape": shape}
        )
        return out.getvalue() + b"\0" * 800

    for shape in ((10**12, 2), (10**6, 10**6), (-1, 2), (2**62, 8)):
        (tmp_path / "x.npy").write_bytes(head(shape))
        refused("x.npy", r"its shape .* needs more than its [\d,]+ bytes")
        with zipfile.ZipFile("x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", head(shape))
        refused("x.npz", r"its shape .* needs more than its [\d,]+ bytes")
    np.savez_compressed("zeros.npz", x=np.zeros((10**6, 2)))
    refused("zeros.npz", "would unpack to")


def test_whatever_a_zip_file_has_wrong_is_one_line(tmp_path):
    rng = np.random.default_rng(0)
    np.savez_compressed("good.npz", x=rng.normal(size=(50, 2)))
    good = bytearray((tmp_path / "good.npz").read_bytes())
    raised = set()
    for place in range(30, len(good), 29):
        bad = bytearray(good)
        bad[place] ^= 255
        (tmp_path / "x.npz").write_bytes(bad)
        try:
            packed.read_npz(tmp_path / "x.npz")
        except packed.ERRORS as error:
            raised.add(type(error))
    assert {zlib.error, zipfile.BadZipFile} <= raised
    (tmp_path / "x.npz").write_bytes(good.replace(b"\x08\x00", b"\x0e\x00"))  # lzma, it says
    refused("x.npz", "cannot be read")
    encrypted = bytearray(good)
    encrypted[6] |= 1
    encrypted[good.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.npz").write_bytes(encrypted)
    refused("x.npz", "cannot be read .*encrypted")
    for name, member, words in (
        ("x.txt", b"text", "holds nothing"),
        ("x.npy", b"no array", "cannot be read"),
    ):
        with zipfile.ZipFile("x.npz", "w") as archive:
            archive.writestr(name, member)
        refused("x.npz", words)


def test_a_parquet_file_of_one_value_repeated_is_not_unpacked(tmp_path):
    table = pyarrow.table({"a": pyarrow.array(np.zeros(10**6))})
    parquet.write_table(table, "t.parquet", compression="zstd")
    refused("t.parquet", "would unpack to")


def test_a_picture_of_too_many_pixels_or_of_another_format_is_refused(tmp_path):
    def chunk(kind, content):
        crc = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + crc

    size = (50_000).to_bytes(4, "big") * 2
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\0\0\0\0")
    (tmp_path / "bomb.png").write_bytes(png + chunk(b"IDAT", zlib.compress(b"\0" * 1000)))
    refused("bomb.png", "decompression bomb")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    refused("script.png", "cannot identify image file")
    Image.new("L", (8, 8)).save("good.png")
    damaged = bytearray((tmp_path / "good.png").read_bytes())
    damaged[45:] = b"\0" * (len(damaged) - 45)
    (tmp_path / "bad.png").write_bytes(damaged)
    refused("bad.png", "cannot be read as an image")


@pytest.mark.parametrize("name", ["t.csv", "t.npy", "t.npz", "t.png", "t.parquet"])
def test_a_pipe_is_not_waited_for(name):
    os.mkfifo(name)
    refused(name, "is a pipe or a device")


def test_many_columns_are_not_each_looked_for_among_all_others():
    """100,000 columns took three minutes."""
    names = [f"c{i}" for i in range(100_000)]
    begun = time.process_time()
    assert tables._unique(["a", *names, "a"]) == ["\0" + "0", *names, "\0" + "100001"]
    assert time.process_time() - begun < 2


def test_no_other_program_is_started_for_a_picture(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    refused("a.png", "cannot identify")
