"""One number format for all machines of a run."""

import pytest
import ray
from ray.cluster_utils import Cluster

from bioimg.cluster import number_format
from support.experiments import grid_experiment, run_experiment

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    ("formats", "chosen"),
    [
        (["bfloat16", "float16", "bfloat16"], "float16"),
        (["bfloat16", "float32"], "float32"),
        (["bfloat16", "bfloat16"], "bfloat16"),
        ([], "auto"),
    ],
)
def test_least_of_all_machines_is_chosen(formats, chosen):
    assert number_format.choose_format([ray.put(name) for name in formats]) == chosen


@pytest.mark.usefixtures("shared_ray")
def test_machine_that_fails_to_answer_is_left_out(monkeypatch):
    monkeypatch.setattr(number_format, "ANSWER_TIMEOUT_S", 5.0)

    @ray.remote(num_cpus=0, max_retries=0)
    def fail() -> str:
        raise RuntimeError("no torch here")

    silent = fail.options(num_gpus=100).remote()
    answers = [fail.remote(), silent, ray.put("float16")]
    assert number_format.choose_format(answers) == "float16"
    assert number_format.choose_format([fail.remote()]) == "auto"
    ray.cancel(silent)


@pytest.mark.usefixtures("shared_ray")
def test_single_machine_without_gpu_is_not_asked():
    assert number_format.ask_machines(gpu=False) == []


@pytest.mark.usefixtures("shared_ray")
def test_all_trials_of_a_run_get_the_format_that_was_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(number_format, "ask_machines", lambda gpu: [ray.put("bfloat16")])
    experiment = grid_experiment(epochs=1, precision=("auto", "float32"))
    rows = run_experiment(experiment, tmp_path, lanes=1).trials
    used = rows.set_index("precision")["precision_used"].to_dict()
    assert used == {"auto": "bfloat16", "float32": "float32"}


@pytest.mark.nightly
@pytest.mark.usefixtures("no_ray")
def test_each_machine_that_trains_is_asked():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        answers = number_format.ask_machines(gpu=False)
        assert len(answers) == 2
        assert number_format.choose_format(answers) in ("float32", "bfloat16")
    finally:
        ray.shutdown()
        cluster.shutdown()
