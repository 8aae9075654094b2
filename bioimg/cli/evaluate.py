"""The command `bioimg evaluate`. Most imports happen when it runs, so that its help is instant."""

from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from bioimg.external_evaluation import ExternalSource, evaluate_external_set, parse_class_map
from bioimg.report.write import print_external_set


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Test the recipes of an experiment on labelled images from elsewhere: an external set."""

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """Results folder, such as results/grid or s3://bucket/grid"""
    data: Annotated[str, Positional, arg(metavar="IMAGES")]
    """Labelled images from elsewhere: a folder, table or .npz, as for --data of an experiment"""
    name: str
    """What the set is called in results, such as hospital-b"""
    columns: str | None = None
    """Column names of a table that aren't path, label and group, as in path=file,label=diagnosis"""
    images: str | None = None
    """Folder in which a table's images are found; by default the folder of the table"""
    layout: str | None = None
    """What the folders of IMAGES mean, from the top down, as in patient/class"""
    group_pattern: str | None = None
    """Regular expression for image paths, whose first (...) matches the image's patient or slide;
    or `parent`: the name of the image's folder"""
    map: Annotated[tuple[str, ...], arg(metavar="OWN=CLASS ...")] = ()
    """Classes that the experiment calls otherwise, as in tumour=tumor"""
    key: Annotated[tuple[str, ...], arg(metavar="KEY ...")] = ()
    """Keys of the trials to evaluate; by default all completed ones"""
    skip_copies: bool = False
    """Leave out copies of training and validation images, which are counted"""
    skip_unreadable: bool = False
    """Leave out images that can't be read, which are counted"""

    def run(self) -> int:
        """Evaluate what wasn't evaluated yet, and print what came out. Return 0.

        Raises:
            UserError: as `evaluate_external_set`.
        """
        source = ExternalSource(
            data=self.data,
            columns=self.columns,
            images=self.images,
            layout=self.layout,
            group_pattern=self.group_pattern,
            class_map=parse_class_map(self.map),
            skip_copies=self.skip_copies,
            skip_unreadable=self.skip_unreadable,
        )
        console = Console()
        evaluate_external_set(self.folder, self.name, source, self.key, console)
        print_external_set(self.folder, self.name)
        return 0
