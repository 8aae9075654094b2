"""The contact sheet: a few images of each class on one page."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bioimg.data.imageset import ImageSet

COLUMNS = 8
SIDE = 96
GAP = 6
TITLE = 20


def contact_sheet(images: ImageSet) -> Image.Image:
    """A row for each class: its name, its count, and up to eight of its images, evenly spaced in the order of paths."""
    height = TITLE + SIDE + 2 * GAP
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, height * len(images.classes)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for label, name in enumerate(images.classes):
        members, top = np.flatnonzero(images.labels == label), label * height + GAP
        draw.text((GAP, top), f"{name} ({len(members)})", "black", font)
        for column, member in enumerate(_some(members)):
            thumbnail = Image.fromarray(images.pixels[member]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            sheet.paste(thumbnail, (GAP + column * (SIDE + GAP), top + TITLE))
    return sheet


def _some(members: np.ndarray) -> list[int]:
    return members[np.unique(np.linspace(0, len(members) - 1, min(COLUMNS, len(members))).astype(int))].tolist()
