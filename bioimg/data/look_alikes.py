"""Find images that look the same: recompressed, resized, brightened, turned or mirrored copies.

Images are compared by the lowest coefficients of their discrete cosine transform, as perceptual
hashes do (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"), with
two differences. What all images of a set have in common is subtracted first: a bright spot in the
middle of each image, as of cells, makes no two of them alike. And how close two images must be
follows from the set: so close that hardly any pair of different images is expected to be.

The search takes time and memory in proportion to the number of images. It sorts them by a few signs
of random projections (Charikar 2002, "Similarity estimation techniques from rounding algorithms")
and compares neighbours only.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bioimg.data.file_array import PixelArray
from bioimg.data.pixel_cache import DecodedSet, ProgressCallback
from bioimg.storage import disk_cache

CACHE_VERSION = 1
"""Version of the cached numbers. Raise it when others count as alike."""
NUMBERS_FILE = "numbers.npy"
FREQUENCIES = 16
"""Number of frequencies in each direction."""
VIEWS = 8
MAX_DISTANCE = 0.05
"""1 - r of the most different images that count as alike, r being their correlation.

`pytest -s -m nightly tests/data/test_look_alike_rates.py` measures what it does, at 64 px, on 420
tiles of Kather 2016 and on three sets of 300 images of each of seven drawn kinds: blurred noise,
dark noise, spots, and one or several cells on black, in the middle or anywhere, with noise or not.

False alarms: none of the tiles, in full or in half size. 4 of 6,300 drawn images in full size and 4
in half size, all of smooth cells.
Found copies: all that are turned or mirrored, of any kind. As JPEG of quality 90 or 70, at half the
size or 10 % brighter, all of the tiles, of blurred noise, spots and several cells. Single cells
hardly differ from each other, so the limit is closer there: 13 to 100 % were found as JPEG of
quality 90, 70 to 100 % brighter, and at most 0.3 % as JPEG of quality 70 or at half the size.
Of dark noise, whose JPEG is flat, only turned, mirrored and brighter images were found.
"""
EXPECTED_PAIRS = 0.1
"""How many pairs of different images are expected to count as alike in a set."""
FITTED_QUANTILES = (0.05, 0.25)
SAMPLED_PAIRS = 5_000
TABLES = 8
"""Number of times that the images are sorted, each time by other signs."""
NEIGHBOURS = 4
"""How many entries before it an entry is compared with, of those with the same signs."""
MAX_SIGNS = 60
CHUNK_BYTES = 4_000_000
CHUNK_ROWS = 512
CHUNK_PAIRS = 20_000
"""Bytes of pixels, rows of features and pairs of rows in memory at a time."""


def read_look_alikes(decoded: DecodedSet, progress: ProgressCallback | None = None) -> np.ndarray:
    """Return `number_look_alikes` of decoded images, cached as their pixels are."""
    key = disk_cache.cache_key(CACHE_VERSION, decoded.cache_key)

    def write(folder: Path) -> None:
        digests = [info.digest for info in decoded.readable_infos]
        np.save(folder / NUMBERS_FILE, number_look_alikes(decoded.pixels, digests, progress))

    description = f"which of {len(decoded.pixels)} images look alike"
    folder = disk_cache.get_or_create(f"alike/{key}", write, description)
    return np.load(folder / NUMBERS_FILE)


def number_look_alikes(
    pixels: PixelArray, digests: Sequence[str], progress: ProgressCallback | None = None
) -> np.ndarray:
    """Return int64 [N], the same number for images that look the same.

    pixels:   [N, size, size, 3].
    digests:  N hashes of the images; of exact copies, one is compared.
    progress: called with the number of images measured and their total number.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, first_rows, set_by_row = np.unique(digests, return_index=True, return_inverse=True)
    features = _measure_features(pixels, first_rows, progress)
    usable = np.flatnonzero(features.any(axis=1))
    pairs = usable[_find_pairs(features[usable])]
    count = len(first_rows)
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(count, count))
    _, number_by_set = connected_components(links, directed=False)
    return number_by_set[set_by_row].astype(np.int64)


def _measure_features(
    pixels: PixelArray, rows: np.ndarray, progress: ProgressCallback | None
) -> np.ndarray:
    """Return float32 [rows, F ** 2] of length 1, without what all have in common.

    A row of zeros is an image without any structure.
    """
    size = pixels.shape[1]
    frequencies = np.arange(min(FREQUENCIES, size))
    basis = np.cos(np.pi / size * np.outer(frequencies, np.arange(size) + 0.5)).astype(np.float32)
    features = np.empty((len(rows), len(frequencies) ** 2), np.float32)
    step = max(1, CHUNK_BYTES * len(pixels) // pixels.nbytes)
    for start in range(0, len(rows), step):
        chunk = pixels[rows[start : start + step]]
        # faster than a sum over so short an axis
        red, green, blue = (chunk[..., channel].astype(np.float32) for channel in range(3))
        grey = np.nan_to_num(red + green + blue, posinf=0, neginf=0)
        coefficients = basis @ grey @ basis.T
        features[start : start + len(chunk)] = coefficients.reshape(len(chunk), -1)
        if progress:
            progress(start + len(chunk), len(rows))
    # brightness and contrast don't matter; rounding errors are no structure
    total = np.abs(features[:, :1])
    features[:, 0] = 0
    features[np.abs(features).max(axis=1) <= 1e-5 * total[:, 0]] = 0
    _normalise(features)
    features[features.any(axis=1)] -= _symmetric_mean(features)
    return _normalise(features)


def _normalise(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.where(lengths > 0, lengths, 1)
    return features


def _symmetric_mean(features: np.ndarray) -> np.ndarray:
    """Return the mean over all images in all views."""
    mean = features.mean(axis=0, dtype=np.float64)
    orders, signs = _view_changes(features.shape[1])
    return (mean[orders] * signs).mean(axis=0)


def _view_changes(feature_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how features change from view to view: order and signs, each [8, F ** 2].

    To mirror an image changes the sign of odd frequencies. To transpose it exchanges directions.
    """
    width = round(feature_count**0.5)
    numbers = np.arange(feature_count).reshape(width, width)
    parity = (-1.0) ** np.arange(width)
    orders, signs = [], []
    for order in (numbers, numbers.T):
        for vertical in (np.ones(width), parity):
            for horizontal in (np.ones(width), parity):
                orders.append(order.reshape(-1))
                signs.append(np.outer(vertical, horizontal).reshape(-1))
    return np.stack(orders), np.stack(signs).astype(np.float32)


def _find_pairs(features: np.ndarray) -> np.ndarray:
    """Return int64 [P, 2], pairs of images that link all that look the same."""
    found = [np.empty((0, 2), np.int64)]
    if len(features) > 1:
        max_distance = _max_distance(features)
        for first, second in _iter_candidates(features, max_distance):
            correlations = np.einsum(
                "pf,pf->p", _take_entries(features, first), _take_entries(features, second)
            )
            entries = np.stack([first, second], axis=1)[1 - correlations <= max_distance]
            found.append(entries % len(features))
    return np.concatenate(found)


def _take_entries(features: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Return the features of entries: images in a view, numbered view by view."""
    views, images = np.divmod(entries, len(features))
    orders, signs = _view_changes(features.shape[1])
    return np.take_along_axis(features[images], orders[views], axis=1) * signs[views]


def _measure_distances(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return 1 - r of each pair, in the view of the second image that is closest to the first."""
    first, second = features[pairs[:, 0]], features[pairs[:, 1]]
    correlations = [
        np.einsum("pf,pf->p", first, second[:, order] * sign)
        for order, sign in zip(*_view_changes(features.shape[1]), strict=True)
    ]
    return 1 - np.max(correlations, axis=0)


def _max_distance(features: np.ndarray) -> float:
    """Return the distance below which `EXPECTED_PAIRS` of different images are expected.

    The distances of random pairs are extrapolated by the power law through two quantiles. Pairs
    that look the same by `MAX_DISTANCE` are left out: they may be copies.
    """
    generator = np.random.default_rng(0)
    count = len(features)
    first = generator.integers(count, size=SAMPLED_PAIRS)
    second = (first + generator.integers(1, count, size=SAMPLED_PAIRS)) % count
    distances = _measure_distances(features, np.stack([first, second], axis=1))
    different = distances[distances > MAX_DISTANCE]
    if not len(different):
        return MAX_DISTANCE
    low, high = np.quantile(different, FITTED_QUANTILES)
    exponent = np.log(high / low) / np.log(FITTED_QUANTILES[1] / FITTED_QUANTILES[0])
    expected_share = 2 * EXPECTED_PAIRS / (count * (count - 1))
    return min(MAX_DISTANCE, low * (expected_share / FITTED_QUANTILES[0]) ** exponent)


def _iter_candidates(
    features: np.ndarray, max_distance: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield int64 [P] and [P], entries of different images that may look the same."""
    count = len(features)
    generator = np.random.default_rng(0)
    sign_count = _sign_count(count, max_distance)
    for _ in range(TABLES):
        directions = generator.normal(size=(features.shape[1], sign_count)).astype(np.float32)
        keys = _sign_keys(features, directions)
        order = np.argsort(keys, kind="stable")
        keys, images = keys[order], order % count
        for step in range(1, min(NEIGHBOURS + 1, len(order))):
            meets = (keys[step:] == keys[:-step]) & (images[step:] != images[:-step])
            positions = np.flatnonzero(meets)
            for start in range(0, len(positions), CHUNK_PAIRS):
                chunk = positions[start : start + CHUNK_PAIRS]
                yield order[chunk], order[chunk + step]


def _sign_count(count: int, max_distance: float) -> int:
    """Return the number of signs by which images are sorted.

    There are eight times as many combinations as views, so that few of these meet by chance, and so
    many that a quarter of the pairs at the largest distance still meet. Eight views and eight
    tables give a pair 64 chances.
    """
    differing = np.arccos(1 - max_distance) / np.pi
    by_distance = np.log(0.25) / np.log(1 - differing)
    by_count = np.log2(VIEWS * count) + 3
    return int(min(MAX_SIGNS, np.ceil(max(by_distance, by_count))))


def _sign_keys(features: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return int64 [8 * N], the signs of the projections of each view as one number."""
    digits = 2 ** np.arange(directions.shape[1], dtype=np.int64)
    keys = []
    for order, sign in zip(*_view_changes(features.shape[1]), strict=True):
        # to turn the directions is the same as to turn all images
        turned = (directions * sign[:, None])[order]
        for start in range(0, len(features), CHUNK_ROWS):
            projections = features[start : start + CHUNK_ROWS] @ turned
            keys.append((projections > 0) @ digits)
    return np.concatenate(keys)
