"""Depths, colours, planes and orientations, as microscopes and scanners write them."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from bioimg.config import DatasetConfig, TrialConfig
from bioimg.data import load_dataset
from bioimg.data.decoding.channels import resize_square
from bioimg.data.decoding.decode import decode_image
from bioimg.errors import UserError
from support.image_folders import write_tiff, write_tiff_folder

RAMP = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_16_bit_grey_keeps_its_depth(tmp_path):
    for path in (
        write_tiff(tmp_path / "x.tif", RAMP),
        save(tmp_path / "x.png", Image.fromarray(RAMP)),
    ):
        pixels, stored = decode_image(path)
        assert (pixels.dtype, stored) == (np.uint16, "16-bit grey")
        np.testing.assert_array_equal(pixels, np.repeat(RAMP[..., None], 3, 2))


def test_16_bit_colour_png_keeps_its_depth(tmp_path):
    import imagecodecs

    colour = np.stack([RAMP, RAMP + 1, RAMP + 2], axis=2)
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(colour))
    pixels, stored = decode_image(tmp_path / "x.png")
    assert stored == "16-bit RGB"
    np.testing.assert_array_equal(pixels, colour)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint32", "float16"])
def test_other_depths_become_float32(tmp_path, dtype):
    pixels = decode_image(write_tiff(tmp_path / "x.tif", (RAMP // 80).astype(dtype))).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[..., 0], RAMP // 80)


def test_big_endian_tiff_is_read(tmp_path):
    np.testing.assert_array_equal(
        decode_image(write_tiff(tmp_path / "x.tif", RAMP, byteorder=">")).pixels[..., 1], RAMP
    )


def test_white_as_zero_is_inverted(tmp_path):
    pixels = decode_image(
        write_tiff(tmp_path / "x.tif", np.zeros((4, 4), np.uint8), photometric="miniswhite")
    ).pixels
    assert pixels.min() == 255


def test_one_bit_images_are_black_and_white(tmp_path):
    bits = np.eye(8, dtype=bool)
    for path in (
        save(tmp_path / "x.png", Image.fromarray(bits)),
        save(tmp_path / "x.tif", Image.fromarray(bits)),
    ):
        np.testing.assert_array_equal(decode_image(path).pixels[..., 2], np.eye(8) * 255)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["P", "RGBA", "LA"])
def test_palette_is_applied_and_transparency_dropped(tmp_path, suffix, mode):
    source = Image.fromarray(
        np.random.default_rng(0).integers(0, 4, (8, 8, 3), np.uint8) * 80
    ).convert(mode)
    pixels = decode_image(save(tmp_path / f"x{suffix}", source)).pixels
    np.testing.assert_array_equal(pixels, np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    source = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    np.testing.assert_allclose(
        decode_image(save(tmp_path / f"x{suffix}", source)).pixels[4, 4], (0, 255, 255), atol=3
    )


def test_planar_colour_is_read_as_colour(tmp_path):
    colour = np.arange(3 * 20 * 30, dtype=np.uint8).reshape(3, 20, 30)
    path = write_tiff(tmp_path / "x.tif", colour, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(decode_image(path).pixels, np.moveaxis(colour, 0, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_each_of_eight_orientations_is_undone(tmp_path, orientation, suffix):
    source = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3))
    exif = source.getexif()
    exif[274] = orientation
    path = tmp_path / f"x{suffix}"
    if suffix == ".tif":
        write_tiff(
            path,
            np.asarray(source),
            photometric="rgb",
            extratags=[(274, "H", 1, orientation, True)],
        )
    else:
        source.save(path, exif=exif)
    with Image.open(save(tmp_path / "expected.png", source, exif=exif)) as image:
        np.testing.assert_array_equal(
            decode_image(path).pixels, np.asarray(ImageOps.exif_transpose(image))
        )


def stack(tmp_path, axes="CYX", **options):
    """Four planes, the k-th one filled with 10 k."""
    planes = np.broadcast_to(np.arange(4, dtype=np.uint16)[:, None, None] * 10, (4, 24, 32))
    return write_tiff(
        tmp_path / "x.tif", planes, metadata={"axes": axes}, photometric="minisblack", **options
    )


@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"ome": True}])
def test_channels_select_red_green_and_blue(tmp_path, options):
    assert decode_image(stack(tmp_path, **options), (2, 0, 3)).pixels[5, 5].tolist() == [20, 0, 30]
    assert decode_image(stack(tmp_path, **options), (2,)).pixels[5, 5].tolist() == [20, 20, 20]
    assert decode_image(stack(tmp_path, **options), (2, 1)).pixels[5, 5].tolist() == [20, 10, 0]


def test_channels_are_reordered_in_any_format(tmp_path):
    path = save(tmp_path / "x.png", Image.new("RGB", (4, 4), (1, 2, 3)))
    assert decode_image(path, (2, 1, 0)).pixels[0, 0].tolist() == [3, 2, 1]


def test_many_channels_without_choice_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="4 channels; choose those for red, green and blue, as in --channels 0,1,2"
    ):
        decode_image(stack(tmp_path))
    with pytest.raises(ValueError, match="4 channels, numbered from 0, but `channels` names 4"):
        decode_image(stack(tmp_path), (4,))


@pytest.mark.parametrize("channels", ["", "a", "0,1,2,3", "-1", "0,,1"])
def test_invalid_channels_are_refused(tmp_path, channels):
    with pytest.raises(
        UserError,
        match=f"the value of `channels` is '{channels}', but must be one to three channel numbers",
    ):
        load_dataset(DatasetConfig(data=str(write_tiff_folder(tmp_path)), channels=channels))


def write_ome_set(folder, count=3, planes=2):
    """Write files as OMERO exports them: each one's description lists the planes of all."""
    ids = [f"urn:uuid:{number}" for number in range(count)]
    listed = "".join(
        f'<TiffData FirstC="{plane}" FirstT="{number}" IFD="{plane}" PlaneCount="1">'
        f'<UUID FileName="{number}.ome.tif">{ids[number]}</UUID></TiffData>'
        for number in range(count)
        for plane in range(planes)
    )
    for number, own_id in enumerate(ids):
        description = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{own_id}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
            f'Type="uint16" SizeX="16" SizeY="16" SizeC="{planes}" SizeZ="1" SizeT="{count}">'
            f"{listed}</Pixels></Image></OME>"
        )
        with tifffile.TiffWriter(folder / f"{number}.ome.tif", ome=False) as writer:
            for plane in range(planes):
                pixels = np.full((16, 16), 100 * number + plane, np.uint16)
                text = description if plane == 0 else None
                writer.write(pixels, description=text, metadata=None, contiguous=False)


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("is_alone", [False, True])
def test_file_of_a_set_holds_its_own_planes_only(tmp_path, planes, is_alone):
    write_ome_set(tmp_path, planes=planes)
    if is_alone:
        for number in (0, 1):
            (tmp_path / f"{number}.ome.tif").unlink()
    image = decode_image(tmp_path / "2.ome.tif", tuple(range(planes)))
    assert image.pixels[5, 5].tolist()[:planes] == [200 + plane for plane in range(planes)]
    assert image.stored_type.endswith("file of a set")


def test_file_of_a_set_opens_no_other_file(tmp_path, monkeypatch):
    write_ome_set(tmp_path)
    opened = []
    original = tifffile.TiffFile.__init__

    def record(self, file, *arguments, **settings):
        opened.append(file)
        original(self, file, *arguments, **settings)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", record)
    decode_image(tmp_path / "1.ome.tif", (0, 1))
    assert len(opened) == 1


def test_companion_of_a_set_is_left_alone(tmp_path):
    """OMERO's other form: one file describes all, the others only name it."""
    for number in range(3):
        description = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{number}"><BinaryOnly MetadataFile="set.companion.ome" '
            'UUID="urn:uuid:companion"/></OME>'
        )
        pixels = np.full((16, 16), 100 * number, np.uint16)
        write_tiff(tmp_path / f"{number}.ome.tif", pixels, description=description, metadata=None)
    for number in range(3):
        image = decode_image(tmp_path / f"{number}.ome.tif")
        assert image.pixels[5, 5].tolist() == [100 * number] * 3


def test_planes_that_a_description_promises_and_the_file_lacks_are_not_invented(tmp_path):
    write_ome_set(tmp_path, count=1, planes=3)
    path = tmp_path / "0.ome.tif"
    path.write_bytes(path.read_bytes().replace(b'SizeT="1"', b'SizeT="9"'))
    assert decode_image(path, (0, 1, 2)).pixels[5, 5].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="3 channels, numbered from 0"):
        decode_image(path, (3,))


def test_thumbnails_and_pyramids_are_skipped(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(pixels, photometric="rgb")
        writer.write(pixels[::4, ::4], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.tif").pixels, pixels)


def test_several_images_in_one_file_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for size in (16, 20):
            writer.write(np.zeros((size, size), np.uint8))
    with pytest.raises(
        ValueError, match=r"2 images of shapes \(16, 16\) and \(20, 20\), where one is expected"
    ):
        decode_image(tmp_path / "x.tif")
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 200)]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="2 frames, where one image is expected"):
        decode_image(tmp_path / "x.webp")


def test_colours_without_conversion_to_rgb_are_refused(tmp_path):
    write_tiff(tmp_path / "x.tif", np.zeros((8, 8, 3), np.uint8), photometric="cielab")
    with pytest.raises(ValueError, match="8-bit CIELAB colours"):
        decode_image(tmp_path / "x.tif")


@pytest.mark.parametrize(
    "write",
    [
        lambda p: write_tiff(p, np.zeros((100, 100), np.uint8)),
        lambda p: save(p, Image.new("L", (100, 100)), format="PNG"),
    ],
)
def test_image_beyond_pixel_limit_is_not_unpacked(tmp_path, write):
    write(tmp_path / "x")
    assert decode_image(tmp_path / "x", max_pixels=10_000).pixels.shape == (100, 100, 3)
    with pytest.raises(
        ValueError, match="100 x 100 pixels are more than the limit of 9,999; BIOIMG_MAX_PIXELS"
    ):
        decode_image(tmp_path / "x", max_pixels=9_999)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_image_becomes_square_by_chosen_method(dtype):
    image = np.zeros((10, 20, 3), dtype)
    image[:, 5:15] = 200  # the middle square
    assert np.unique(resize_square(image, 10, "crop")).tolist() == [200]
    padded = resize_square(image, 20, "pad")
    assert (padded.shape, padded.dtype) == ((20, 20, 3), dtype)
    assert not padded[:5].any()
    assert not padded[15:].any()
    assert resize_square(image, 10, "resize")[5, 5].tolist() == [200] * 3
    assert resize_square(image, 10, "resize")[5, 0].tolist() == [0] * 3


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint16, 1), (np.float32, 1e-3)])
def test_high_bit_images_are_scaled_by_training_percentiles(tmp_path, dtype, scale):
    dataset = load_dataset(
        DatasetConfig(data=str(write_tiff_folder(tmp_path, scale, dtype)), image_size=16)
    )
    images = dataset.images
    raw = np.stack([tifffile.imread(tmp_path / path) for path in images.paths])
    low, high = np.percentile(raw[dataset.split.train], (0.1, 99.9))
    np.testing.assert_allclose(images.scaling_limits, [(low, high)] * 3, rtol=1e-6)
    np.testing.assert_allclose(
        images.pixels[..., 0], ((raw - low) / (high - low)).clip(0, 1) * 255, atol=0.51
    )


def test_scaling_by_range_uses_whole_range(tmp_path):
    images = load_dataset(
        DatasetConfig(data=str(write_tiff_folder(tmp_path)), image_size=16, scaling="range")
    ).images
    assert images.scaling_limits == ((0, 65535),) * 3
    assert images.pixels.max() <= 16


def test_scaling_changes_fingerprint_of_split_only(tmp_path):
    write_tiff_folder(tmp_path)
    trials = [
        TrialConfig(data=str(tmp_path), image_size=size, scaling=rule, folds=folds)
        for size, rule, folds in (
            (16, "percentiles", 0),
            (16, "range", 0),
            (24, "percentiles", 0),
            (16, "percentiles", 5),
        )
    ]
    datasets = [load_dataset(trial.dataset_config, trial.split_config) for trial in trials]
    sets = [dataset.images for dataset in datasets]
    assert len({images.scaling_limits for images in sets}) == 4
    assert len({images.fingerprint for images in sets}) == 1
    assert len({dataset.split.fingerprint for dataset in datasets}) == 4


def test_non_finite_pixels_are_black_and_ignored(tmp_path):
    folder = write_tiff_folder(tmp_path, 1e-3, np.float32)
    holes = tifffile.imread(folder / "a" / "0.tif")
    holes[0, 0], holes[0, 1] = np.nan, np.inf
    write_tiff(folder / "a" / "0.tif", holes)
    images = load_dataset(DatasetConfig(data=str(folder), image_size=16)).images
    assert np.isfinite(images.scaling_limits).all()
    assert images.pixels[images.paths.index("a/0.tif"), 0, 0].tolist() == [0, 0, 0]


def test_images_of_different_depths_are_refused(tmp_path):
    write_tiff(write_tiff_folder(tmp_path) / "b" / "x.tif", np.zeros((16, 16), np.uint8))
    depths = r"different depths.*20 of uint16: a/0\.tif.*; 1 of uint8: b/x\.tif"
    with pytest.raises(UserError, match=rf"{depths}.*Image > Type.*table \(path,label\)"):
        load_dataset(DatasetConfig(data=str(tmp_path)))
