"""The synthetic set as an index and as decoded images."""

from bioimg.data.image_index import ImageIndex
from bioimg.data.pixel_cache import DecodedSet, ImageInfo


def list_phantom() -> ImageIndex:
    """List the tiles."""
    from bioimg.data.synthetic_tissue import draw_phantom  # imports scipy

    drawn = draw_phantom()
    return ImageIndex(
        name=drawn.name,
        files=(),
        paths=drawn.paths,
        labels=drawn.labels,
        classes=drawn.classes,
        groups=drawn.groups,
        synthetic=True,
    )


def draw_decoded_phantom(image_size: int) -> DecodedSet:
    """Draw the tiles."""
    from bioimg.data.synthetic_tissue import draw_phantom

    drawn = draw_phantom(image_size=image_size)
    infos = tuple(
        ImageInfo(digest, image_size, image_size, "8-bit RGB", "uint8") for digest in drawn.digests
    )
    return DecodedSet(cache_key="", pixels=drawn.pixels, image_infos=infos)
