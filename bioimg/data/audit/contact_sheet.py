"""The contact sheet: a few images of each class on one page."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bioimg.data.image_set import ImageSet

COLUMN_COUNT = 8
THUMBNAIL_PX = 96
GAP_PX = 6
TITLE_PX = 20
FONT_PX = 14


def draw_contact_sheet(images: ImageSet) -> Image.Image:
    """Draw a row for each class: its name, its count and up to eight of its images.

    The images are evenly spaced in the order of paths.
    """
    row_height = TITLE_PX + THUMBNAIL_PX + 2 * GAP_PX
    width = COLUMN_COUNT * (THUMBNAIL_PX + GAP_PX) + GAP_PX
    sheet = Image.new("RGB", (width, row_height * len(images.classes)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_PX)
    for label, name in enumerate(images.classes):
        members = np.flatnonzero(images.labels == label)
        top = label * row_height + GAP_PX
        draw.text((GAP_PX, top), f"{name} ({len(members)})", "black", font)
        for column, member in enumerate(_pick_evenly(members)):
            left = GAP_PX + column * (THUMBNAIL_PX + GAP_PX)
            sheet.paste(_make_thumbnail(images.pixels[member]), (left, top + TITLE_PX))
    return sheet


def _pick_evenly(members: np.ndarray) -> list[int]:
    count = min(COLUMN_COUNT, len(members))
    positions = np.linspace(0, len(members) - 1, count).astype(int)
    return members[np.unique(positions)].tolist()


def _make_thumbnail(pixels: np.ndarray) -> Image.Image:
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
