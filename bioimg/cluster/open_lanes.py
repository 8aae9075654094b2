"""Open what runs trials on lanes: join or start Ray, and import the rest meanwhile."""

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bioimg.cluster import devices, number_format, ray_session
from bioimg.config import TrialConfig
from bioimg.run_options import RunOptions

if TYPE_CHECKING:
    from bioimg.cluster.tune_runner import LaneExecutor

IMPORTED_MEANWHILE = ("bioimg.provenance", "bioimg.models.feature_extractor")
"""What a run needs anyway, with torch and torchvision: seconds in which Ray starts.

None of it imports Ray: two threads that import from one package can get in each other's way.
"""


def open_lanes(
    trials: Sequence[TrialConfig], options: RunOptions, check_nodes: Callable[[str], None]
) -> "LaneExecutor":
    """Join a cluster or start Ray on this machine, and return what runs trials on its lanes.

    Args:
        trials: what will be run.
        options: the number of lanes, and whether a Ray that is started has a dashboard.
        check_nodes: as for `LaneExecutor`.

    Raises:
        UserError: as `ray_session.join_cluster`, `devices.check_workers` and
            `devices.count_local_devices`.
    """
    threading.Thread(target=_import_modules, name="imports", daemon=True).start()
    ray_session.configure_ray()
    is_cluster = ray_session.join_cluster()
    devices.check_workers(trials, options.lanes, is_cluster=is_cluster)
    ray_session.start_local_ray(dashboard=options.dashboard)

    from bioimg.cluster.tune_runner import LaneExecutor

    device, count = devices.count_devices() if is_cluster else devices.count_local_devices()
    gpus_per_worker = 0.0
    if device == "GPU":
        # lanes that a cluster has no GPU for wait for machines that will join it
        lane_count = 1 if is_cluster else options.lanes or 1
        gpus_per_worker = devices.share_of_gpu(lane_count, count)
    is_auto = any(trial.precision == "auto" for trial in trials)
    answers = number_format.ask_machines(gpu=device == "GPU") if is_auto else []
    return LaneExecutor(options.lanes, gpus_per_worker, check_nodes, answers)


def _import_modules() -> None:
    for name in IMPORTED_MEANWHILE:
        importlib.import_module(name)
