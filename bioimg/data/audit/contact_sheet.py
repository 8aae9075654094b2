"""The contact sheet: a few images of each class on one page."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bioimg.data.image_set import ImageSet

COLUMN_COUNT = 8
THUMBNAIL_PX = 96
GAP_PX = 6
TITLE_PX = 20


def draw_contact_sheet(images: ImageSet) -> Image.Image:
    """A row for each class: its name, its count, and up to eight of its images, evenly spaced in the order of paths."""
    height = TITLE_PX + THUMBNAIL_PX + 2 * GAP_PX
    sheet = Image.new(
        "RGB",
        (COLUMN_COUNT * (THUMBNAIL_PX + GAP_PX) + GAP_PX, height * len(images.classes)),
        "white",
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for label, name in enumerate(images.classes):
        members, top = np.flatnonzero(images.labels == label), label * height + GAP_PX
        draw.text((GAP_PX, top), f"{name} ({len(members)})", "black", font)
        for column, member in enumerate(_pick_evenly(members)):
            thumbnail = Image.fromarray(images.pixels[member]).resize(
                (THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR
            )
            sheet.paste(thumbnail, (GAP_PX + column * (THUMBNAIL_PX + GAP_PX), top + TITLE_PX))
    return sheet


def _pick_evenly(members: np.ndarray) -> list[int]:
    return members[
        np.unique(np.linspace(0, len(members) - 1, min(COLUMN_COUNT, len(members))).astype(int))
    ].tolist()
