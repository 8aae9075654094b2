"""The built-in synthetic set: tiles that look like stained tissue and were drawn by this file. Nothing about them is real.

Each tile is two maps, how much haematoxylin and how much eosin lie at a pixel, turned into colour by the law of Beer and
Lambert with the stain vectors, the light and the focus of its slide.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from bioimg.data.imageset import ImageSet

SIDE = 64
SLIDES = 10
TILES = 10
"""Per class and slide."""
EDGE = 16
"""Pixels drawn beyond the tile, so that nuclei are cut by its border."""

HAEMATOXYLIN, EOSIN = np.array([0.563, 0.720, 0.406]), np.array([0.216, 0.801, 0.558])
"""Optical density in red, green and blue (Macenko et al. 2009)."""

Maps = tuple[np.ndarray, np.ndarray]
"""Haematoxylin and eosin, each float64 [N, SIDE, SIDE]."""


def phantom(image_size: int = SIDE, seed: int = 0) -> ImageSet:
    """Six hundred tiles of six classes from ten slides."""
    rng = np.random.default_rng(seed)
    slide = np.repeat(np.arange(SLIDES), TILES)
    stains = Stains.draw(rng)
    pixels = np.concatenate([stains.colour(rng, draw(rng, len(slide)), slide) for draw in TISSUES.values()])
    paths = tuple(f"{name}/slide-{s + 1:02}_{t % TILES + 1:03}.png" for name in TISSUES for t, s in enumerate(slide))
    return ImageSet(
        name="phantom",
        pixels=_resize(pixels, image_size),
        labels=np.repeat(np.arange(len(TISSUES)), len(slide)),
        classes=tuple(TISSUES),
        paths=paths,
        groups=tuple(path.split("/")[1][:8] for path in paths),
        digests=tuple(hashlib.sha256(tile.tobytes()).hexdigest()[:16] for tile in pixels),
        synthetic=True,
    )


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
    if size == SIDE:
        return pixels
    return np.stack([np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BILINEAR)) for p in pixels])


@dataclass(frozen=True)
class Stains:
    """What the tiles of a slide have in common; the first axis is the slide."""

    vectors: np.ndarray
    light: np.ndarray
    blur: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Stains":
        vectors = np.stack([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.07, (SLIDES, 2, 3))
        strength = np.exp(rng.normal(0, 0.22, (SLIDES, 2, 1)))
        return cls(vectors.clip(0.02) * strength, rng.uniform(225, 252, (SLIDES, 3)), rng.uniform(0.35, 0.9, SLIDES))

    def colour(self, rng: np.random.Generator, maps: Maps, slide: np.ndarray) -> np.ndarray:
        """Maps of stain to uint8 [N, SIDE, SIDE, 3]."""
        stains = np.stack(maps, axis=-1) * np.exp(rng.normal(0, 0.12, (len(slide), 1, 1, 2)))
        light = self.light[slide, None, None] * np.exp(-stains @ self.vectors[slide, None])
        blurred = np.stack([gaussian_filter(t, (b, b, 0), truncate=2.5) for t, b in zip(light, self.blur[slide], strict=True)])
        return (blurred + rng.normal(0, 3, blurred.shape)).round().clip(0, 255).astype(np.uint8)


def _cloud(rng: np.random.Generator, tiles: int, knots: int) -> np.ndarray:
    """Smooth noise of about unit variance: random values on knots x knots points, joined by bell curves."""
    at = (np.arange(SIDE)[:, None] + 0.5) / SIDE * (knots - 1) - np.arange(knots)
    bell = np.exp(-(at**2) / 0.5)
    bell /= np.sqrt((bell**2).sum(axis=1, keepdims=True))
    return bell @ rng.normal(size=(tiles, knots, knots)) @ bell.T


def _fibres(rng: np.random.Generator, angle: np.ndarray, pitch: tuple[float, float], wave: float) -> np.ndarray:
    """Strands 0..1 along `angle`, `pitch` pixels apart, bent by smooth noise."""
    y, x = np.mgrid[:SIDE, :SIDE]
    across = x * np.sin(angle)[:, None, None] - y * np.cos(angle)[:, None, None]
    tiles = len(angle)
    period = rng.uniform(*pitch, (tiles, 1, 1))
    phase = 2 * np.pi * across / period + wave * _cloud(rng, tiles, 5)
    fine = np.sin(2.3 * phase + 1.5 * _cloud(rng, tiles, 9))
    return 0.5 + 0.3 * np.sin(phase) + 0.2 * fine


def _nuclei(
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
    """Ellipses 0..1: `count` per tile, half axes `radius` and `radius * length`; `pale` ones have a rim and a nucleolus.

    They lie along `angle` or anyhow, and with the probability that the map `where` gives.
    """
    counts = rng.integers(*count, tiles)
    tile = np.repeat(np.arange(tiles), counts)
    nth = np.arange(len(tile)) - np.repeat(counts.cumsum() - counts, counts)
    # The R2 sequence (M. Roberts 2018) keeps them apart, as cells are, whatever their number.
    apart = (rng.uniform(size=(tiles, 2))[tile] + nth[:, None] * [0.7548776662, 0.5698402910]) % 1
    span = SIDE + EDGE
    jitter = 0.3 * span / np.sqrt(counts)[tile, None]
    centre = (apart * span - EDGE / 2 + rng.normal(size=apart.shape) * jitter).clip(-EDGE / 2, SIDE - 1 + EDGE / 2)
    a = rng.uniform(*radius, len(tile))
    b = a * rng.uniform(*length, len(tile))
    turn = rng.uniform(0, np.pi, len(tile)) if angle is None else angle[tile] + rng.normal(0, 0.15, len(tile))
    if where is not None:
        y, x = centre.round().astype(int).clip(0, SIDE - 1).T
        keep = rng.uniform(size=len(tile)) < where[tile, y, x]
        tile, centre, a, b, turn = tile[keep], centre[keep], a[keep], b[keep], turn[keep]
    return _stamp(tiles, tile, centre, a, b, turn, pale)


def _stamp(
    tiles: int, tile: np.ndarray, centre: np.ndarray, a: np.ndarray, b: np.ndarray, turn: np.ndarray, pale: float
) -> np.ndarray:
    """Draw ellipses, each on a small square of its own, the darkest winning where they overlap."""
    reach = int(np.ceil(b.max(initial=1))) + 1
    corner = centre.round().astype(int)
    offset = np.arange(-reach, reach + 1)
    y = offset[:, None] - (centre - corner)[:, 0, None, None]
    x = offset[None, :] - (centre - corner)[:, 1, None, None]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    d = np.hypot((x * cos + y * sin) / b[:, None, None], (y * cos - x * sin) / a[:, None, None])
    cover = ((1 - d) * a[:, None, None] + 0.5).clip(0, 1)
    inside = 1 - pale * (1 - d.clip(0, 1) ** 3) + pale * np.exp(-((d / 0.3) ** 2))
    margin = reach + EDGE
    width = SIDE + 2 * margin
    rows, columns = corner[:, 0, None, None] + offset[:, None] + margin, corner[:, 1, None, None] + offset + margin
    canvas = np.zeros(tiles * width * width)
    np.maximum.at(canvas, ((tile[:, None, None] * width + rows) * width + columns).ravel(), (cover * inside).ravel())
    return canvas.reshape(tiles, width, width)[:, margin:-margin, margin:-margin]


def _cells(rng: np.random.Generator, tiles: int, count: int) -> np.ndarray:
    """Distance in pixels from the wall between neighbouring cells (Voronoi: F2 - F1)."""
    nth = np.arange(count)[:, None] * [0.7548776662, 0.5698402910]
    seeds = (rng.uniform(size=(tiles, 1, 2)) + nth) % 1 * (SIDE + 2 * EDGE) - EDGE + rng.normal(0, 3, (tiles, count, 2))
    y, x = np.mgrid[:SIDE, :SIDE]
    gap = np.hypot(y - seeds[..., 0, None, None], x - seeds[..., 1, None, None])
    nearest = np.partition(gap, 1, axis=1)[:, :2]
    return nearest[:, 1] - nearest[:, 0]


def _torn(rng: np.random.Generator, maps: Maps, share: float) -> Maps:
    """White gaps, as where the section tore, in about this share of each tile's pixels."""
    cloud = _cloud(rng, len(maps[0]), 4)
    edge = np.quantile(cloud, share)
    tissue = ((cloud - edge) * 6 + 1).clip(0, 1)
    return maps[0] * tissue, maps[1] * tissue


def tumour(rng: np.random.Generator, tiles: int) -> Maps:
    """Crowded large pale nuclei in purple cytoplasm."""
    nuclei = _nuclei(rng, tiles, (45, 80), (3.0, 5.2), length=(1.0, 1.6), pale=0.5)
    ground = 0.5 + 0.13 * _cloud(rng, tiles, 12)
    return _torn(rng, (0.45 * ground + 0.95 * nuclei, 0.75 * ground + 0.25 * nuclei), 0.08)


def stroma(rng: np.random.Generator, tiles: int) -> Maps:
    """Fibres with a few slender nuclei along them."""
    angle = rng.uniform(0, np.pi, tiles)
    fibres = _fibres(rng, angle, (6, 14), 2.0)
    nuclei = _nuclei(rng, tiles, (5, 22), (1.4, 2.4), length=(1.8, 3.6), angle=angle)
    return _torn(rng, (0.08 + 0.1 * fibres + 1.2 * nuclei, 0.25 + 0.65 * fibres), 0.08)


def lymphocytes(rng: np.random.Generator, tiles: int) -> Maps:
    """Small round dark nuclei, close together."""
    nuclei = _nuclei(rng, tiles, (90, 170), (2.2, 3.2))
    ground = 0.35 + 0.12 * _cloud(rng, tiles, 8)
    return _torn(rng, (0.3 * ground + 1.5 * nuclei, 0.7 * ground + 0.2 * nuclei), 0.06)


def debris(rng: np.random.Generator, tiles: int) -> Maps:
    """Clots, torn strands and crumbs of nuclei with much empty space."""
    angle = rng.uniform(0, np.pi, tiles)
    strands = _fibres(rng, angle, (8, 22), 5.0)
    red = _nuclei(rng, tiles, (0, 110), (2.4, 3.4), length=(1.0, 1.2), where=(_cloud(rng, tiles, 3) > 0) * 1.0)
    crumbs = _nuclei(rng, tiles, (0, 40), (0.8, 2.2), length=(1.0, 1.6))
    return _torn(rng, (0.1 + 0.9 * crumbs, 0.15 + 0.4 * strands + 0.9 * red), 0.3)


def mucosa(rng: np.random.Generator, tiles: int) -> Maps:
    """Swollen cells full of pale mucus, their nuclei pressed against the walls."""
    wall = np.exp(-(_cells(rng, tiles, 45) / 2.5))
    nuclei = _nuclei(rng, tiles, (40, 110), (1.8, 3.0), length=(1.0, 1.8), where=(wall > 0.5) * 1.0)
    mucus = 0.22 + 0.06 * _cloud(rng, tiles, 16)
    return _torn(rng, (mucus + 0.25 * wall + 1.2 * nuclei, 0.12 + 0.75 * wall), 0.05)


def mixed(rng: np.random.Generator, tiles: int) -> Maps:
    """Stroma in which tumour cells and lymphocytes lie scattered."""
    angle = rng.uniform(0, np.pi, tiles)
    fibres = _fibres(rng, angle, (7, 16), 3.0)
    where = (0.5 + 0.5 * _cloud(rng, tiles, 3)).clip(0, 1)
    large = _nuclei(rng, tiles, (15, 45), (2.6, 4.6), length=(1.0, 1.7), pale=0.45, where=where)
    small = _nuclei(rng, tiles, (10, 60), (1.9, 2.9), where=1 - where)
    nuclei = np.maximum(large, 1.3 * small)
    return _torn(rng, (0.12 + 0.1 * fibres + nuclei, 0.3 + 0.5 * fibres), 0.06)


TISSUES = {
    "debris-like": debris,
    "lymphocyte-like": lymphocytes,
    "mixed-like": mixed,
    "mucosa-like": mucosa,
    "stroma-like": stroma,
    "tumour-like": tumour,
}
"""Alphabetical, as classes are."""
