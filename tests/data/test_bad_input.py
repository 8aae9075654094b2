"""Bad input, as in folders of real labs, gets one clear error that names it, or does no harm."""

import contextlib
import csv
import io
import os
import shutil
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from openpyxl.utils.exceptions import InvalidFileException
from PIL import Image, UnidentifiedImageError

from bioimg.config import DatasetConfig
from bioimg.data import load_dataset, table_file
from bioimg.data.decoding import decode
from bioimg.errors import UserError
from support.image_folders import write_image_folder, write_noise_image

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


def encoded(kind, pixels=NOISE, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels=NOISE, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def half(content):
    return content[: len(content) // 2]


def frames():
    images = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 200)]
    buffer = io.BytesIO()
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:])
    return buffer.getvalue()


def bomb():
    """A PNG of 64,000 x 64,000 pixels in a few bytes."""

    def chunk(kind, content):
        return (
            len(content).to_bytes(4, "big")
            + kind
            + content
            + zlib.crc32(kind + content).to_bytes(4, "big")
        )

    header = (64000).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def flipped(content, place):
    return content[:place] + bytes((content[place] ^ 0xFF,)) + content[place + 1 :]


UNREADABLE = {
    "zero bytes.png": b"",
    "zero bytes.jpg": b"",
    "zero bytes.tif": b"",
    "one byte.png": b"\x89",
    "cut off.png": half(encoded("PNG")),
    "cut off.jpg": half(encoded("JPEG")),
    "cut off.bmp": half(encoded("BMP")),
    "cut off.webp": half(encoded("WEBP", lossless=True)),
    "cut off.tif": half(tiff()),
    "cut off lzw.tif": half(tiff(compression="lzw")),
    "cut off deflate.tif": half(tiff(compression="deflate")),
    "cut off packbits.tif": half(tiff(compression="packbits")),
    "cut off jpeg.tif": half(tiff(compression="jpeg", photometric="ycbcr")),
    "cut off in the header.png": encoded("PNG")[:20],
    "cut off in the header.jpg": encoded("JPEG")[:100],
    "cut off in the header.tif": tiff()[:12],
    "damaged.png": flipped(encoded("PNG"), 100),
    "damaged header.png": flipped(encoded("PNG"), 18),
    "text.png": b"patient 7, slide 3",
    "text.tif": b"patient 7, slide 3",
    "web page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "pdf.png": b"%PDF-1.7\n%...",
    "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "archive.png": b"PK\x03\x04" + bytes(100),
    "only a start.png": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "only a start.jpg": b"\xff\xd8\xff\xe0" + bytes(50),
    "only a start.tif": b"II*\0" + bytes(50),
    "zeros.bmp": bytes(500),
    "bomb.png": bomb(),
    "two frames.webp": frames(),
    "five planes.tif": tiff(np.zeros((5, 8, 8), np.uint8), photometric="minisblack"),
    "two pages.tif": tiff(np.zeros((2, 8, 8), np.uint16), photometric="minisblack"),
    "complex.tif": tiff(np.zeros((8, 8), np.complex64)),
    "cielab.tif": tiff(NOISE, photometric="cielab"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_image_is_named_and_can_be_skipped(tmp_path, name, caplog):
    write_image_folder(tmp_path)
    (tmp_path / "a" / name).write_bytes(UNREADABLE[name])
    message = (
        rf"^1 of 15 images in '[^']+' can't be read: a/{name} \(\w.*\)\. Fix .* it, .* it out "
    )
    with pytest.raises(UserError, match=rf"{message}with --skip-unreadable\.$"):
        load_dataset(DatasetConfig(data=str(tmp_path), image_size=8))
    images = load_dataset(
        DatasetConfig(data=str(tmp_path), image_size=8, skip_unreadable=True)
    ).images
    assert (len(images), len(images.pixels), images.unreadable_skipped) == (14, 14, 1)
    assert f"a/{name}" not in images.paths
    assert caplog.text == ""


DECODER_ERRORS = [
    *(SyntaxError("broken PNG file"), EOFError(), IndexError(), KeyError(33432), struct.error("x")),
    *(zlib.error("Error -3"), AssertionError(), RuntimeError("jpeg8_decode"), MemoryError()),
    *(OverflowError("too large"), NotImplementedError("codec"), RecursionError(), TypeError("x")),
    *(
        tifffile.TiffFileError("no tag"),
        Image.DecompressionBombError("bomb"),
        UnidentifiedImageError(),
    ),
]


@pytest.mark.parametrize("error", DECODER_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("decoder", ["decode_tiff", "_decode_with_pillow"])
def test_any_error_of_a_decoder_is_told_of_its_image(tmp_path, decoder, error, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    write_image_folder(tmp_path, suffix=".tif" if decoder == "decode_tiff" else ".png")
    monkeypatch.setattr(decode, decoder, fail)
    with pytest.raises(UserError, match=r"14 of 14 images in .* can't be read") as caught:
        load_dataset(DatasetConfig(data=str(tmp_path)))
    assert "\n" not in str(caught.value)


TABLE_ERRORS = [
    *(
        OSError(5, "Input/output error"),
        KeyError("xl/workbook.xml"),
        zlib.error("x"),
        MemoryError(),
    ),
    *(zipfile.BadZipFile("not a zip"), pa.ArrowInvalid("no magic bytes"), ValueError("a\nb")),
    *(pa.ArrowNotImplementedError("type"), csv.Error("line contains NUL"), InvalidFileException()),
    *(TypeError("expected"), UnicodeDecodeError("utf-16", b"x", 0, 1, "odd"), IndexError()),
]


@pytest.mark.parametrize("error", TABLE_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("suffix", "reader"),
    [("csv", "_read_delimited"), ("xlsx", "_read_sheet"), ("parquet", "_read_parquet")],
)
def test_any_error_of_a_table_is_told_in_one_line(tmp_path, suffix, reader, error, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    (tmp_path / f"set.{suffix}").touch()
    monkeypatch.setattr(table_file, reader, fail)
    with pytest.raises(UserError, match=rf"set\.{suffix}, can't be read: .+ Fix it") as caught:
        load_dataset(DatasetConfig(data=str(tmp_path / f"set.{suffix}")))
    assert "\n" not in str(caught.value)


def missing_target(path):
    path.symlink_to(path.parent / "not there.png")


def itself(path):
    path.symlink_to(path)


LINKS = {"link to nothing": missing_target, "link to itself": itself, "pipe": os.mkfifo}


@pytest.mark.parametrize("name", LINKS)
def test_special_file_is_named_and_can_be_skipped(tmp_path, name):
    write_image_folder(tmp_path)
    LINKS[name](tmp_path / "a" / f"{name}.png")
    with pytest.raises(
        UserError, match=rf"^1 of 15 images in '[^']+' can't be read: a/{name}\.png \(\w.*\)"
    ):
        load_dataset(DatasetConfig(data=str(tmp_path), image_size=8))
    assert (
        load_dataset(
            DatasetConfig(data=str(tmp_path), image_size=8, skip_unreadable=True)
        ).images.unreadable_skipped
        == 1
    )


def test_skipping_keeps_pixels_with_their_images(tmp_path):
    write_image_folder(tmp_path)
    whole = load_dataset(DatasetConfig(data=str(tmp_path), image_size=8)).images
    for name in ("a/aaa.png", "a/p1_1b.png", "b/zzz.png"):
        (tmp_path / name).write_text("text")
    rest = load_dataset(
        DatasetConfig(data=str(tmp_path), image_size=8, skip_unreadable=True)
    ).images
    assert (rest.paths, rest.digests, rest.unreadable_skipped) == (whole.paths, whole.digests, 3)
    np.testing.assert_array_equal(rest.pixels, whole.pixels)
    np.testing.assert_array_equal(rest.labels, whole.labels)


def test_ten_of_many_unreadable_images_are_named(tmp_path):
    write_image_folder(tmp_path)
    for number in range(30):
        (tmp_path / "a" / f"x{number:02}.png").write_text("text")
    message = r"^30 of 44 images .* a/x00\.png .* a/x09\.png .*, \.\.\. \(30 in all\)\. "
    with pytest.raises(UserError, match=rf"{message}`bioimg data --json` lists them all\. "):
        load_dataset(DatasetConfig(data=str(tmp_path)))


def test_wholly_unreadable_set_is_refused_despite_skipping(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(7):
            (tmp_path / name / f"{number}.png").write_text("text")
    with pytest.raises(
        UserError,
        match=r"14 of 14 images in '[^']+' can't be read: .*\. Fix them, or use other images\.$",
    ):
        load_dataset(DatasetConfig(data=str(tmp_path), skip_unreadable=True))


def test_class_too_small_after_skipping_is_refused(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "a" / "p0_0.png").write_text("text")
    with pytest.raises(UserError, match=r"too few of: a \(6\)"):
        load_dataset(DatasetConfig(data=str(tmp_path), skip_unreadable=True))


def test_pixel_limit_can_be_set(tmp_path, monkeypatch):
    write_image_folder(tmp_path)
    monkeypatch.setenv("BIOIMG_MAX_PIXELS", "100")
    with pytest.raises(
        UserError,
        match="12 x 10 pixels are more than the limit of 100; BIOIMG_MAX_PIXELS sets another",
    ):
        load_dataset(DatasetConfig(data=str(tmp_path)))
    monkeypatch.setenv("BIOIMG_MAX_PIXELS", "many")
    with pytest.raises(
        UserError, match="`BIOIMG_MAX_PIXELS` is 'many', but must be a whole number"
    ):
        load_dataset(DatasetConfig(data=str(tmp_path)))


@contextlib.contextmanager
def unprivileged():
    """As a user without special permissions; root becomes nobody for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder(monkeypatch):
    """A folder, and a cache, that every user can access."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    (folder / "cache").mkdir()
    (folder / "cache").chmod(0o777)
    monkeypatch.setenv("BIOIMG_CACHE", str(folder / "cache"))
    yield folder
    shutil.rmtree(folder)


def test_file_without_permission_is_named(open_folder):
    data = write_image_folder(open_folder / "set")
    (data / "a" / "p0_0.png").chmod(0)
    with (
        unprivileged(),
        pytest.raises(UserError, match=r"1 of 14 .* a/p0_0\.png \(permission denied\)"),
    ):
        load_dataset(DatasetConfig(data=str(data)))


def test_folder_without_permission_is_named(open_folder):
    data = write_image_folder(open_folder / "set")
    (data / "a").chmod(0)
    with (
        unprivileged(),
        pytest.raises(
            UserError, match=r"the folder .*/a in `data` can't be listed: permission denied"
        ),
    ):
        load_dataset(DatasetConfig(data=str(data)))
    (data / "a").chmod(0o755)


def test_cache_without_permission_is_named(open_folder):
    data = write_image_folder(open_folder / "set")
    (open_folder / "cache").chmod(0o555)
    with (
        unprivileged(),
        pytest.raises(UserError, match=r"the cache folder .* can't be written: Permission denied"),
    ):
        load_dataset(DatasetConfig(data=str(data)))


HARMLESS_NAMES = [
    "Präparat Ä.png",
    "切片.png",
    "🔬.png",
    "two  spaces.png",
    "line\nbreak.png",
    "quote'\"s.png",
    "-dash.png",
    "comma,semicolon;.png",
    "100%.png",
    "x.tar.png",
    "UPPER.PNG",
    "l" * 251 + ".png",
    unicodedata.normalize("NFD", "é.png"),
    "[bracket]*?.png",
    "\\backslash.png",
]


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_image_with_strange_name_is_read(tmp_path, name):
    write_image_folder(tmp_path)
    write_noise_image(tmp_path / "x.png", seed=1)
    (tmp_path / "x.png").rename(tmp_path / "a" / name)
    assert f"a/{name}" in load_dataset(DatasetConfig(data=str(tmp_path), image_size=8)).images.paths


def test_image_with_name_beyond_utf_8_is_read(tmp_path):
    write_image_folder(tmp_path)
    write_noise_image(tmp_path / "x.png", seed=1)
    (tmp_path / "x.png").rename(tmp_path / "a" / os.fsdecode(b"caf\xe9.png"))
    images = load_dataset(DatasetConfig(data=str(tmp_path), image_size=8)).images
    assert "a/caf\ufffd.png" in images.paths
    assert "\n".join(images.paths).encode()


HARMLESS_FILES = [
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "._p0_0.png",
    ".hidden.tif",
    "notes.txt",
    "scan.xml",
    "labels.csv",
    "x.png.part",
]


@pytest.mark.parametrize("name", HARMLESS_FILES)
def test_file_that_is_no_image_is_ignored(tmp_path, name):
    write_image_folder(tmp_path)
    (tmp_path / "a" / name).write_bytes(b"Bud1 something")
    (tmp_path / name).write_bytes(b"Bud1 something")
    assert len(load_dataset(DatasetConfig(data=str(tmp_path), image_size=8)).images) == 14


SIZES = [(1, 1), (1, 3000), (3000, 1), (7, 9)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["resize", "crop", "pad"])
def test_image_of_extreme_size_is_read(tmp_path, size, resize):
    write_image_folder(tmp_path)
    write_noise_image(tmp_path / "a" / "extreme.png", size=size)
    assert load_dataset(
        DatasetConfig(data=str(tmp_path), image_size=8, resize=resize)
    ).images.pixels.shape == (15, 8, 8, 3)


def test_linked_class_folders_are_followed_once(tmp_path):
    write_image_folder(tmp_path / "elsewhere")
    (tmp_path / "set").mkdir()
    for name in "ab":
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "a" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "elsewhere" / "b" / "here").symlink_to(".")
    assert len(load_dataset(DatasetConfig(data=str(tmp_path / "set"), image_size=8)).images) == 14


def test_folder_named_like_an_image_is_searched(tmp_path):
    write_image_folder(tmp_path)
    write_noise_image(tmp_path / "a" / "scan.png" / "x.png")
    assert (
        "a/scan.png/x.png"
        in load_dataset(DatasetConfig(data=str(tmp_path), image_size=8)).images.paths
    )


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (("Tumor", "tumor", "x"), "differ only in case, .*: 'Tumor' = 'tumor'"),
        (("é", unicodedata.normalize("NFD", "é"), "x"), "differ only in case"),
        (("tumor", "tumor ", "x"), "differ only in case"),
        (("x", "y", "empty"), "holds classes without images: empty"),
    ],
)
def test_ambiguous_class_folders_are_refused(tmp_path, classes, text):
    for name in classes:
        (tmp_path / name).mkdir()
        if name != "empty":
            write_noise_image(tmp_path / name / "x.png")
    with pytest.raises(UserError, match=text):
        load_dataset(DatasetConfig(data=str(tmp_path)))


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpath,label\na/p0_0.png,x\nb/p0_0.png,y\n",
        b"path,label\r\na/p0_0.png,x\r\nb/p0_0.png,y\r\n",
        b'path,label\n"a/p0_0.png","x"\n"b/p0_0.png",y\n',
        b"path,label\na\\p0_0.png,x\nb\\p0_0.png,y\n",
        b"label,note,path\nx,,a/p0_0.png\ny,!,b/p0_0.png\n",
        b"path,label\n a/p0_0.png , x \nb/p0_0.png,y\n\n",
    ],
)
def test_table_written_by_spreadsheet_is_read(tmp_path, content):
    from bioimg.data import list_images

    write_image_folder(tmp_path)
    (tmp_path / "set.csv").write_bytes(content)
    listing = list_images(DatasetConfig(data=str(tmp_path / "set.csv")))
    assert (listing.paths, listing.classes) == (("a/p0_0.png", "b/p0_0.png"), ("x", "y"))
    assert all(file.exists() for file in listing.files)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfep\0a\0t\0h\0", b"path,label\na,\xe9\n", b"\0\0\0", b"PAR1 not at all PAR1"],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_unreadable_table_is_named(tmp_path, suffix, content):
    (tmp_path / f"set.{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=f"set.{suffix}"):
        load_dataset(DatasetConfig(data=str(tmp_path / f"set.{suffix}")))


def test_bad_input_campaign_has_enough_cases():
    assert (
        len(UNREADABLE) + len(LINKS) + len(HARMLESS_NAMES) + len(HARMLESS_FILES) + len(SIZES) >= 60
    )
