"""Experiments that are stated in a file, such as experiments/demo.py."""

import dataclasses
import runpy
from pathlib import Path

from bioimg.config import TrialConfig
from bioimg.errors import UserError, suggest_closest
from bioimg.experiment import Experiment

DEFAULT_EXPERIMENT = "demo"


def packaged_experiments_folder() -> Path:
    """Return the folder of the experiments that come with bioimg.

    It is in an installed package, and beside the package in a checkout.
    """
    package = Path(__file__).parent
    installed = package / "experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def find_experiment_files(folder: Path) -> dict[str, Path]:
    """Return the files in a folder that state an experiment, by the experiments' names."""
    return {
        path.stem: path
        for path in sorted(folder.glob("*.py"))
        if "\nEXPERIMENT = " in path.read_text(encoding="utf-8")
    }


def load_experiment_file(folder: Path, name: str) -> tuple[Experiment, str]:
    """Return the experiment that a file in a folder states, and its docstring.

    Raises:
        UserError: there is no such experiment.
    """
    files = find_experiment_files(folder)
    if name not in files:
        raise UserError(
            f"{name!r} is neither an experiment nor images. The experiments in {folder} are: "
            f"{', '.join(files)}.{suggest_closest(name, files)} Images are a folder, a file or the "
            "name of a set, as for --data."
        )
    module = runpy.run_path(str(files[name]))
    return module["EXPERIMENT"], module["__doc__"] or ""


def adapt_to_images(experiment: Experiment, data: str) -> Experiment:
    """Return an experiment for other images than its own, named after them.

    They are split as by default: how its own images are split may not be possible for others.
    """
    if data == experiment.base.data:
        return experiment
    base = dataclasses.replace(experiment.base, data=data, split=TrialConfig().split)
    return dataclasses.replace(experiment, name=_image_set_name(data), base=base)


def _image_set_name(data: str) -> str:
    """Return the name of a set of images.

    A dot is part of a folder's name; `.` and `..` get the name of the folder that they stand for.
    """
    path = Path(data).expanduser()
    if not path.is_dir():
        return path.stem
    return path.resolve().name if path.name in ("", "..") else path.name
