"""Images before any is decoded: files, labels, groups and subsets."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from bioimg.data.image_set import LikelyGroups

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff")
DOCUMENT_SUFFIXES = {
    *(".txt", ".md", ".pdf", ".doc", ".docx", ".html", ".htm", ".rtf", ".log"),
    *(".csv", ".tsv", ".xls", ".xlsx", ".ods", ".json", ".xml", ".yaml", ".yml", ".toml", ".ini"),
    *(".py", ".ipynb", ".r", ".m", ".sh", ".ijm", ".roi", ".geojson"),
}
"""Files that nobody takes for images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageIndex:
    """Images with their labels. Fields that `ImageSet` has, too, mean the same there."""

    name: str
    files: tuple[Path, ...]
    """One file for each image; empty if `npz_file` contains them all."""
    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    likely_groups: LikelyGroups | None = None
    subsets: np.ndarray | None = None
    npz_file: Path | None = None
    ignored_files: tuple[str, ...] = ()
    """Paths of files that were found but aren't images or aren't in a class."""
    assumptions: tuple[str, ...] = ()
    """How the source was understood, in sentences without a capital and a full stop."""
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def possible_images(self) -> tuple[str, ...]:
        """The ignored files that may be images: all but documents."""
        return tuple(
            path
            for path in self.ignored_files
            if PurePosixPath(path).suffix.lower() not in DOCUMENT_SUFFIXES
        )

    def select(self, rows: np.ndarray) -> "ImageIndex":
        """Return the images in these rows. All classes stay, even those without images."""
        if len(rows) == len(self):
            return self
        return dataclasses.replace(
            self,
            files=tuple(self.files[row] for row in rows) if self.files else (),
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            groups=self.groups and tuple(self.groups[row] for row in rows),
            likely_groups=self.likely_groups and _select_groups(self.likely_groups, rows),
            subsets=None if self.subsets is None else self.subsets[rows],
        )


def _select_groups(groups: LikelyGroups, rows: np.ndarray) -> LikelyGroups:
    return groups._replace(names=tuple(groups.names[row] for row in rows))
