"""What is claimed about speed, measured on this machine.

    python experiments/benchmark.py overhead
    python experiments/benchmark.py data [--folder DIR]

Each part prints a table and ends with one line, `PART: FIGURE against TARGET: holds` or `falls short`; its exit status says the
same.
"""

import contextlib
import io
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import ray
import tyro
from PIL import Image
from ray import tune
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from bioimg import runner
from bioimg.config import TrialConfig
from bioimg.data import load
from bioimg.data.imageset import ByPath
from bioimg.data.phantom import phantom
from bioimg.experiment import Experiment
from bioimg.flags import Settings
from bioimg.results.store import read

CONSOLE = Console(file=sys.stdout)


def overhead(
    trials: Annotated[int, tyro.conf.arg(help="trials on lanes")] = 12,
    documented: Annotated[int, tyro.conf.arg(help="trials in the documented way, which takes its time")] = 3,
) -> bool:
    """From one trial's end to the next one's first batch: on a lane, and with a TorchTrainer for each trial.

    Both train on nothing to speak of, with 1 and with 2 workers (DDP) for each trial, one trial after another.
    """
    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level=logging.ERROR)
    table = Table("workers", "", "trials", "median s", "longest s", title="From one trial's end to the next one's first batch")
    on_lanes = []
    for workers in (1, 2):
        lanes = _gaps_on_a_lane(workers, trials)
        trainers = _gaps_of_trainers(workers, documented)
        for name, gaps in (("lane", lanes), ("a TorchTrainer for each trial", trainers)):
            table.add_row(str(workers), name, str(len(gaps) + 1), f"{statistics.median(gaps):.2f}", f"{max(gaps):.2f}")
        on_lanes.append(statistics.median(lanes))
    CONSOLE.print(table)
    return verdict("overhead", max(on_lanes), 0.5, "s")


def data(
    folder: Annotated[Path | None, tyro.conf.arg(help="images to decode; by default the phantom, enlarged")] = None,
    repeats: Annotated[int, tyro.conf.arg(help="of which the median is taken")] = 3,
) -> bool:
    """Decoding against torchvision's ImageFolder with as many processes, and a second start, which decodes nothing.

    Both resize to 150 px. The first run in a process also starts its workers and is shown apart; the verdict is on later ones.
    """
    with tempfile.TemporaryDirectory() as temporary:
        images = folder or _enlarged_phantom(Path(temporary) / "images")
        os.environ["BIOIMG_CACHE"] = str(Path(temporary) / "cache")
        trial = TrialConfig(data=str(images), image_size=150)
        ours, decoded, again = [], [], []
        for _ in range(repeats + 1):
            shutil.rmtree(os.environ["BIOIMG_CACHE"], ignore_errors=True)
            ours.append(_seconds(lambda: load(trial)))
            again.append(_seconds(lambda: load(trial, lambda done, total: decoded.append(done))))
        theirs = [_seconds(lambda: _read_with_image_folder(images)) for _ in range(repeats)]
        count = len(load(trial))
    table = Table("", "images/s", title=f"{count} images from {folder or 'the phantom, 600 px JPEG'}")
    table.add_row("bioimg, first run in a process", f"{count / ours[0]:.0f}")
    table.add_row("bioimg", f"{count / statistics.median(ours[1:]):.0f}")
    table.add_row("torchvision's ImageFolder", f"{count / statistics.median(theirs):.0f}")
    table.add_row(f"bioimg, second start ({len(decoded)} images decoded)", f"{count / statistics.median(again):.0f}")
    CONSOLE.print(table)
    return (
        verdict("data", statistics.median(ours[1:]) / statistics.median(theirs), 1.0, "of ImageFolder's time") and not decoded
    )


def _enlarged_phantom(folder: Path) -> Path:
    drawn = phantom()
    for path, tile in ByPath(drawn).items():
        file = (folder / path).with_suffix(".jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).resize((600, 600)).save(file, quality=90)
    return folder


def _read_with_image_folder(folder: Path) -> None:
    read = ImageFolder(str(folder), v2.Compose([v2.Resize((150, 150)), v2.PILToTensor()]))
    for _ in DataLoader(read, batch_size=64, num_workers=os.cpu_count() or 1):
        pass


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def verdict(part: str, figure: float, target: float, unit: str) -> bool:
    """Print the last line of a part; returns whether its target is met: not more than so much."""
    holds = figure <= target
    CONSOLE.print(
        f"{part}: {figure:.2f} {unit} against {target} {unit}: {'holds' if holds else 'falls short'}", highlight=False
    )
    return holds


def _gaps_on_a_lane(workers: int, trials: int) -> list[float]:
    base = TrialConfig(model="resnext_tiny", weights="none", image_size=32, epochs=1, batch_size=408, workers=workers)
    experiment = Experiment(name="overhead", base=base, axes={"seed": tuple(range(trials))}, early_stopping=None)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        runner.run(experiment, Settings(out=str(Path(folder) / "out"), lanes=1), Console(file=io.StringIO()))
        rows = read(Path(folder) / "out").trials.sort_values("started_at")
    started, ended = ([moment / 1e6 for moment in rows[name].astype("int64")] for name in ("started_at", "ended_at"))
    return _gaps(started, ended)


def _gaps_of_trainers(workers: int, trials: int) -> list[float]:
    """The pattern of Ray's documentation: a Tune trial that fits a TorchTrainer."""

    def trial(config: dict[str, Any]) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        def work() -> None:
            from ray.train import get_context

            if get_context().get_world_rank() == 0:
                config["folder"].joinpath(str(time.time())).touch()

        TorchTrainer(
            work,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=workers),
            run_config=RunConfig(name=str(config["number"]), storage_path=str(config["folder"] / "ray")),
        ).fit()

    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        tune.Tuner(
            tune.with_resources(trial, {"memory": 1e8}),
            param_space={"number": tune.grid_search(list(range(trials))), "folder": folder},
            tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
            run_config=tune.RunConfig(name="documented", storage_path=str(folder / "ray"), verbose=0),
        ).fit()
        moments = sorted(float(path.name) for path in folder.iterdir() if path.is_file())
    return _gaps(moments, moments)


def _gaps(started: list[float], ended: list[float]) -> list[float]:
    return [start - end for end, start in zip(ended, started[1:], strict=False)]


if __name__ == "__main__":
    sys.exit(not tyro.extras.subcommand_cli_from_dict({"overhead": overhead, "data": data}, description=__doc__))
