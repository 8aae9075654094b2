"""Draw the synthetic set that comes with bioimg as `--data phantom`, and write it to a zip file.

    python experiments/make_synthetic_tissue.py bioimg/data/synthetic_tissue.zip

The set holds six hundred tiles of 64 px that look like stained tissue. Nothing about them is real.
There are six classes of a hundred tiles each, from fifty slides, so that a grouped split has enough
slides to test on. A tile is two maps, the amounts of haematoxylin and eosin at each pixel. They
become colour by the law of Beer and Lambert, with the stain, light and focus of its slide. The same
seed draws the same bytes. Drawing takes a second.

The set is difficult but not hopeless. This is the mean test accuracy of `resnext_tiny` over 3
seeds, which differ by up to 0.07, as printed by

    python experiments/grid.py --weights none TEXTURES_V1 TEXTURES_V2 --batch-size 32 \\
        --seed 0 1 2 --no-early-stopping

with --split stratified, which divides tiles at random, and with --split grouped, which keeps slides
together. A majority guess gets 0.17, a linear model of the mean colour 0.41.

                  tiles at random             slides kept together
                  frozen    fine-tuned        frozen    fine-tuned
    none          0.33      0.76              0.30      0.71
    TEXTURES_V1   0.75      0.89              0.69      0.84
    TEXTURES_V2   0.83      0.93              0.82      0.92
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

SIDE_PX = 64
SLIDE_COUNT = 50
TILES_PER_CLASS_ON_SLIDE = 2
"""Number of tiles of each class on each slide."""
MAX_BORDER_SHARE = 0.42
"""Largest share of a tile that tissue of another class takes up.

The set's difficulty depends on it.
"""
MARGIN_PX = 8
"""Margin around a tile where nuclei are placed, too, so that its border cuts some."""

HAEMATOXYLIN, EOSIN = np.array([0.563, 0.720, 0.406]), np.array([0.216, 0.801, 0.558])
"""Optical density in red, green and blue (Macenko et al. 2009)."""

R2_STEP = np.array([0.7548776662466927, 0.5698402909980532])
"""Multiples of this modulo one are spread evenly over the unit square (M. Roberts 2018)."""

StainMaps = tuple[np.ndarray, np.ndarray]
"""Haematoxylin and eosin, each float64 [N, SIDE_PX, SIDE_PX].

That is precise enough for the same bytes on every processor.
"""


def main(file: Annotated[Path, tyro.conf.Positional], seed: int = 0) -> None:
    """Draw the tiles and write them as CLASS/slide-NN_NNN.png.

    Args:
        file: the zip file to write
        seed: another seed draws other slides and other tiles
    """
    with zipfile.ZipFile(file, "w") as archive:
        for path, pixels in draw_tiles(seed).items():
            # without the time of writing, so that the same tiles make the same file
            archive.writestr(zipfile.ZipInfo(path), encode_png(pixels))


def encode_png(pixels: np.ndarray) -> bytes:
    """Return the bytes of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    return content.getvalue()


def draw_tiles(seed: int = 0) -> dict[str, np.ndarray]:
    """Draw all tiles, uint8 [64, 64, 3], by their paths, as in tumour-like/slide-50_002.png."""
    rng = np.random.default_rng(seed)
    slide = np.repeat(np.arange(SLIDE_COUNT), TILES_PER_CLASS_ON_SLIDE)
    stains = SlideStains.draw_random(rng)
    maps = [np.stack(draw(rng, len(slide)), axis=-1) for draw in TISSUE_PAINTERS.values()]
    mixed_maps = _mix_neighbour_tissue(rng, np.stack(maps))
    tiles = {}
    for class_name, class_maps in zip(TISSUE_PAINTERS, mixed_maps, strict=True):
        for index, pixels in enumerate(stains.render(rng, class_maps, slide)):
            number = index % TILES_PER_CLASS_ON_SLIDE + 1
            tiles[f"{class_name}/slide-{slide[index] + 1:02}_{number:03}.png"] = pixels
    return tiles


def _mix_neighbour_tissue(rng: np.random.Generator, maps: np.ndarray) -> np.ndarray:
    """Let tissue of another class of the same slide into each tile.

    Maps are [classes, tiles, SIDE_PX, SIDE_PX, 2].
    """
    classes, tiles = maps.shape[:2]
    other = (np.arange(classes)[:, None] + rng.integers(1, classes, (classes, tiles))) % classes
    cloud = _smooth_noise(rng, classes * tiles, 3).reshape(classes, tiles, SIDE_PX**2)
    share = rng.uniform(0, MAX_BORDER_SHARE, (classes, tiles, 1))
    rank = cloud.argsort(axis=-1).argsort(axis=-1) / SIDE_PX**2
    own = ((rank - share) * 12 + 0.5).clip(0, 1).reshape(classes, tiles, SIDE_PX, SIDE_PX, 1)
    return own * maps + (1 - own) * maps[other, np.arange(tiles)]


@dataclass(frozen=True)
class SlideStains:
    """The properties that the tiles of a slide share. The first axis is the slide."""

    stain_vectors: np.ndarray
    light: np.ndarray
    blur_px: np.ndarray

    @classmethod
    def draw_random(cls, rng: np.random.Generator) -> "SlideStains":
        vectors = np.stack([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.08, (SLIDE_COUNT, 2, 3))
        strength = np.exp(rng.normal(0, 0.28, (SLIDE_COUNT, 2, 1)))
        return cls(
            vectors.clip(0.02) * strength,
            rng.uniform(225, 252, (SLIDE_COUNT, 3)),
            rng.uniform(0.35, 0.9, SLIDE_COUNT),
        )

    def render(self, rng: np.random.Generator, maps: np.ndarray, slide: np.ndarray) -> np.ndarray:
        """Turn maps of stains into uint8 [N, SIDE_PX, SIDE_PX, 3]."""
        stains = maps * np.exp(rng.normal(0, 0.12, (len(slide), 1, 1, 2)))
        light = self.light[slide, None, None] * np.exp(-stains @ self.stain_vectors[slide, None])
        blurred = np.stack(
            [
                gaussian_filter(t, (b, b, 0), truncate=2.5)
                for t, b in zip(light, self.blur_px[slide], strict=True)
            ]
        )
        return (blurred + rng.normal(0, 3, blurred.shape)).round().clip(0, 255).astype(np.uint8)


def _smooth_noise(rng: np.random.Generator, tiles: int, knots: int) -> np.ndarray:
    """Draw smooth noise of about unit variance.

    Random values on knots x knots points are joined by bell curves.
    """
    at = (np.arange(SIDE_PX)[:, None] + 0.5) / SIDE_PX * (knots - 1) - np.arange(knots)
    bell = np.exp(-(at**2) / 0.5)
    bell /= np.sqrt((bell**2).sum(axis=1, keepdims=True))
    return bell @ rng.normal(size=(tiles, knots, knots)) @ bell.T


def _draw_fibres(
    rng: np.random.Generator, angle: np.ndarray, pitch: tuple[float, float], wave: float
) -> np.ndarray:
    """Draw strands 0..1 along `angle`, `pitch` pixels apart, bent by smooth noise."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    across = x * np.sin(angle)[:, None, None] - y * np.cos(angle)[:, None, None]
    tiles = len(angle)
    period = rng.uniform(*pitch, (tiles, 1, 1))
    phase = 2 * np.pi * across / period + wave * _smooth_noise(rng, tiles, 5)
    fine = np.sin(2.3 * phase + 1.5 * _smooth_noise(rng, tiles, 9))
    return 0.5 + 0.3 * np.sin(phase) + 0.2 * fine


def _draw_nuclei(
    rng: np.random.Generator,
    tiles: int,
    count: tuple[int, int],
    radius: tuple[float, float],
    *,
    length: tuple[float, float] = (1.0, 1.3),
    angle: np.ndarray | None = None,
    pale: float = 0.0,
    where: np.ndarray | None = None,
) -> np.ndarray:
    """Draw ellipses 0..1, `count` per tile, with half axes `radius` and `radius * length`.

    `pale` ones have a rim and a nucleolus. They point along `angle` or in any direction. Each is
    kept with the probability that the map `where` has at its centre.
    """
    tile, centre = _scatter_nuclei(rng, rng.integers(*count, tiles))
    short = rng.uniform(*radius, len(tile))
    long = short * rng.uniform(*length, len(tile))
    turn = (
        rng.uniform(0, np.pi, len(tile))
        if angle is None
        else angle[tile] + rng.normal(0, 0.15, len(tile))
    )
    if where is not None:
        row, column = centre.round().astype(int).clip(0, SIDE_PX - 1).T
        keep = rng.uniform(size=len(tile)) < where[tile, row, column]
        tile, centre, short, long, turn = (
            tile[keep],
            centre[keep],
            short[keep],
            long[keep],
            turn[keep],
        )
    return _stamp_ellipses(tiles, tile, centre, short, long, turn, pale)


def _scatter_nuclei(rng: np.random.Generator, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tile and the centre (row, column) of each nucleus, for the number in each tile.

    They keep apart, as cells do.
    """
    tile = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(tile)) - np.repeat(counts.cumsum() - counts, counts)
    even = (rng.uniform(size=(len(counts), 2))[tile] + nth[:, None] * R2_STEP) % 1
    span = SIDE_PX + 2 * MARGIN_PX
    jitter = rng.normal(size=even.shape) * 0.3 * span / np.sqrt(counts)[tile, None]
    return tile, (even * span - MARGIN_PX + jitter).clip(-MARGIN_PX, SIDE_PX - 1 + MARGIN_PX)


def _stamp_ellipses(
    tiles: int,
    tile: np.ndarray,
    centre: np.ndarray,
    short: np.ndarray,
    long: np.ndarray,
    turn: np.ndarray,
    pale: float,
) -> np.ndarray:
    """Draw each ellipse on a small square of its own and put the squares in place.

    The darkest wins where they overlap.
    """
    reach = int(np.ceil(long.max(initial=1))) + 1
    offset = np.arange(-reach, reach + 1)
    middle = centre.round().astype(int)
    y, x = (offset - (centre - middle)[..., None]).transpose(1, 0, 2)
    y, x = y[:, :, None], x[:, None, :]
    short, long, turn = short[:, None, None], long[:, None, None], turn[:, None, None]
    distance = np.hypot(
        (x * np.cos(turn) + y * np.sin(turn)) / long, (y * np.cos(turn) - x * np.sin(turn)) / short
    )
    cover = ((1 - distance) * short + 0.5).clip(0, 1)
    inside = 1 - pale * (1 - distance.clip(0, 1) ** 3) + pale * np.exp(-((distance / 0.3) ** 2))
    margin = reach + MARGIN_PX
    row, column = (middle[..., None] + offset + margin).transpose(1, 0, 2)
    canvas = np.zeros((tiles, SIDE_PX + 2 * margin, SIDE_PX + 2 * margin))
    np.maximum.at(
        canvas, (tile[:, None, None], row[:, :, None], column[:, None, :]), cover * inside
    )
    return canvas[:, margin:-margin, margin:-margin]


def _wall_distance(rng: np.random.Generator, tiles: int, count: int) -> np.ndarray:
    """Return the distance of each pixel from the wall between its cell and the next, in pixels.

    It is F2 - F1 of the Voronoi cells.
    """
    span = SIDE_PX + 4 * MARGIN_PX
    even = (
        rng.uniform(size=(tiles, 1, 2)) + np.arange(count)[:, None] * R2_STEP
    ) % 1 * span - 2 * MARGIN_PX
    seeds = even + rng.normal(0, 3, even.shape)
    pixels = np.mgrid[:SIDE_PX, :SIDE_PX].reshape(2, -1).T
    nearest = np.stack([KDTree(points).query(pixels, k=2)[0] for points in seeds]).reshape(
        tiles, SIDE_PX, SIDE_PX, 2
    )
    return nearest[..., 1] - nearest[..., 0]


def _tear_tissue(rng: np.random.Generator, maps: StainMaps, share: float) -> StainMaps:
    """Draw white gaps, as where the section tore, in about this share of each tile's pixels."""
    cloud = _smooth_noise(rng, len(maps[0]), 4)
    edge = np.quantile(cloud, share)
    tissue = ((cloud - edge) * 6 + 1).clip(0, 1)
    return maps[0] * tissue, maps[1] * tissue


def draw_tumour(rng: np.random.Generator, tiles: int) -> StainMaps:
    """Draw crowded large pale nuclei in purple cytoplasm."""
    nuclei = _draw_nuclei(rng, tiles, (45, 80), (3.0, 5.2), length=(1.0, 1.6), pale=0.5)
    ground = 0.5 + 0.13 * _smooth_noise(rng, tiles, 12)
    return _tear_tissue(rng, (0.45 * ground + 0.95 * nuclei, 0.75 * ground + 0.25 * nuclei), 0.08)


def draw_stroma(rng: np.random.Generator, tiles: int) -> StainMaps:
    """Draw fibres with a few slender nuclei along them."""
    angle = rng.uniform(0, np.pi, tiles)
    fibres = _draw_fibres(rng, angle, (6, 14), 2.0)
    nuclei = _draw_nuclei(rng, tiles, (5, 22), (1.4, 2.4), length=(1.8, 3.6), angle=angle)
    return _tear_tissue(rng, (0.08 + 0.1 * fibres + 1.2 * nuclei, 0.25 + 0.65 * fibres), 0.08)


def draw_lymphocytes(rng: np.random.Generator, tiles: int) -> StainMaps:
    """Draw small round dark nuclei, close together."""
    nuclei = _draw_nuclei(rng, tiles, (90, 170), (2.2, 3.2))
    ground = 0.35 + 0.12 * _smooth_noise(rng, tiles, 8)
    return _tear_tissue(rng, (0.3 * ground + 1.5 * nuclei, 0.7 * ground + 0.2 * nuclei), 0.06)


def draw_debris(rng: np.random.Generator, tiles: int) -> StainMaps:
    """Draw clots, torn strands and crumbs of nuclei with much empty space."""
    angle = rng.uniform(0, np.pi, tiles)
    strands = _draw_fibres(rng, angle, (8, 22), 5.0)
    red = _draw_nuclei(
        rng,
        tiles,
        (0, 110),
        (2.4, 3.4),
        length=(1.0, 1.2),
        where=(_smooth_noise(rng, tiles, 3) > 0) * 1.0,
    )
    crumbs = _draw_nuclei(rng, tiles, (0, 40), (0.8, 2.2), length=(1.0, 1.6))
    return _tear_tissue(rng, (0.1 + 0.9 * crumbs, 0.15 + 0.4 * strands + 0.9 * red), 0.3)


def draw_mucosa(rng: np.random.Generator, tiles: int) -> StainMaps:
    """Draw swollen cells full of pale mucus, their nuclei pressed against the walls."""
    wall = np.exp(-(_wall_distance(rng, tiles, 45) / 2.5))
    nuclei = _draw_nuclei(
        rng, tiles, (40, 110), (1.8, 3.0), length=(1.0, 1.8), where=(wall > 0.5) * 1.0
    )
    mucus = 0.22 + 0.06 * _smooth_noise(rng, tiles, 16)
    return _tear_tissue(rng, (mucus + 0.25 * wall + 1.2 * nuclei, 0.12 + 0.75 * wall), 0.05)


def draw_mixed_tissue(rng: np.random.Generator, tiles: int) -> StainMaps:
    """Draw stroma with scattered tumour cells and lymphocytes."""
    angle = rng.uniform(0, np.pi, tiles)
    fibres = _draw_fibres(rng, angle, (7, 16), 3.0)
    where = (0.5 + 0.5 * _smooth_noise(rng, tiles, 3)).clip(0, 1)
    large = _draw_nuclei(
        rng, tiles, (15, 45), (2.6, 4.6), length=(1.0, 1.7), pale=0.45, where=where
    )
    small = _draw_nuclei(rng, tiles, (10, 60), (1.9, 2.9), where=1 - where)
    nuclei = np.maximum(large, 1.3 * small)
    return _tear_tissue(rng, (0.12 + 0.1 * fibres + nuclei, 0.3 + 0.5 * fibres), 0.06)


TISSUE_PAINTERS = {
    "debris-like": draw_debris,
    "lymphocyte-like": draw_lymphocytes,
    "mixed-like": draw_mixed_tissue,
    "mucosa-like": draw_mucosa,
    "stroma-like": draw_stroma,
    "tumour-like": draw_tumour,
}
"""Alphabetical, as classes are."""


if __name__ == "__main__":
    tyro.cli(main)
