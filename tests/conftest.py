"""What every test gets, and the three tiers of tests.

`-m 'not ray and not nightly'`: units, which start neither Ray nor another process.
`-m 'not nightly'`: also those marked `ray`, which share one Ray or start processes.
`-m nightly`: clusters, hosts, terminals and browsers, and all that takes long.
`-m campaign`: processes are killed for an hour. `-m gpu`: what needs a GPU. These only run when
they are asked for.
Without `-m`, all others run.
"""

import os
import signal
from pathlib import Path

import pytest
import ray
import torch
from threadpoolctl import threadpool_limits

from bioimg.cluster import ray_session

os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
)
# seconds after which Ray ends a process whose cluster is gone: here one process joins many clusters
os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "7200"  # noqa: SIM112
# a shell's background jobs ignore Ctrl-C, and so would the programs that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
pytest.register_assert_rewrite("support")
torch.set_num_threads(1)  # as in a lane, so that sums are in the same order
threadpool_limits(1)  # threads of BLAS that wait for a busy core cost more than they gain


def shared(*parts: str) -> Path:
    """Return a file or folder of the real tiles and weights that may lie beside the project."""
    for parent in Path(__file__).resolve().parents:
        if (path := parent.joinpath("shared", *parts)).exists():
            return path
    pytest.skip(f"needs {'/'.join(('shared', *parts))} beside the project")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests that don't need one, so that they say the same on every machine."""
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave campaigns and tests on a GPU out unless they are asked for."""
    for marker in ("campaign", "gpu"):
        if marker in config.option.markexpr:
            continue
        left_out = [item for item in items if item.get_closest_marker(marker)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def shared_ray() -> None:
    """Join the one Ray of all tests, or start it: three CPUs, for two lanes or for two workers."""
    if not ray.is_initialized():
        ray_session.configure_ray()
        ray.init(address="local", num_cpus=3, log_to_driver=False, logging_level="ERROR")


@pytest.fixture(scope="module")
def no_ray() -> None:
    """Stop the Ray of all tests, for a module whose tests need none or have their own."""
    ray.shutdown()


@pytest.fixture
def tiles() -> Path:
    return shared("data", "kather2016-subset")


@pytest.fixture
def mobilenet_weights() -> Path:
    return shared("weights", "mobilenet_v2-imagenet-features.pth")


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path_factory.mktemp("cache")))
