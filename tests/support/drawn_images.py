"""Draw images of kinds that are easy or hard to tell apart: uint8 [N, size, size, 3]."""

import numpy as np
from PIL import Image

SIZE = 48


def draw_textures(count: int = 40, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Draw blurred noise."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        noise = generator.integers(0, 256, (size // 4, size // 4, 3), np.uint8)
        blurred = Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)
        images.append(np.asarray(blurred))
    return np.stack(images)


def draw_dark_noise(count: int = 150, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Draw noise of four dark levels."""
    return np.random.default_rng(seed).integers(0, 4, (count, size, size, 3), np.uint8)


def draw_spots(count: int = 150, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Draw small bright spots on black."""
    generator = np.random.default_rng(seed)
    images = np.zeros((count, size, size, 3), np.uint8)
    for image in images:
        for _ in range(generator.integers(3, 15)):
            row, column = generator.integers(0, size - 3, 2)
            image[row : row + 3, column : column + 3] = generator.integers(100, 255)
    return images


def draw_cells(
    count: int = 150,
    seed: int = 0,
    size: int = SIZE,
    *,
    noise: float = 3.0,
    centred: bool = True,
    cells: int = 1,
) -> np.ndarray:
    """Draw bright ellipses on black."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    images = []
    for _ in range(count):
        body = np.zeros((size, size))
        for _ in range(cells):
            shift_y, shift_x = generator.normal(0, 1 if centred else 9, 2)
            height, width = generator.uniform(5, 9, 2)
            body += np.exp(-(((y - shift_y) / height) ** 2) - ((x - shift_x) / width) ** 2)
        pixels = 180 * body + generator.normal(0, noise, body.shape)
        images.append(np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))
    return np.stack(images)
