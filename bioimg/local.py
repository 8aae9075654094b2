"""The same experiment in this process, without Ray, for debugging.

A breakpoint in the training loop just works.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from bioimg import malloc_tuning
from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset
from bioimg.early_stopping import StoppingRule, find_images, past_trials
from bioimg.errors import UserError
from bioimg.experiment import Experiment, StopReason
from bioimg.progress.listener import ProgressListener
from bioimg.results.epoch_summary import EpochMetrics
from bioimg.results.result_store import ResultStore
from bioimg.training.trial_recorder import TrialContext
from bioimg.training.trial_runner import StopCheck, run_trial


def make_executor(trials: Iterable[TrialConfig]) -> Callable[..., None]:
    """Return `run_in_process` after checking that this process can run the trials.

    Raises:
        UserError: a trial has more than one worker.
    """
    workers = max(trial.workers for trial in trials)
    if workers > 1:
        raise UserError(
            f"the value of `workers` is {workers}, but must be 1 with --local. Leave out one of "
            "the two."
        )
    return run_in_process


def run_in_process(
    experiment: Experiment,
    trials: Sequence[TrialConfig],
    datasets: Mapping[TrialConfig, Dataset],
    store: ResultStore,
    listener: ProgressListener,
) -> None:
    """Run trials one after another and leave their rows in the store.

    One thread is used, as in a lane on a CPU, so that the rows are the same as those of lanes to
    the last bit. `datasets` holds the images and split of each trial.

    Raises:
        UserError: the GPU failed, so that this process can't continue.
    """
    malloc_tuning.keep_freed_memory()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context = TrialContext(
        experiment_name=experiment.name,
        store=store,
        device=device,
        on_message=listener.on_message,
    )
    stopping_rule = None
    if rule := experiment.stopping_rule:
        earlier = past_trials(store, trials)
        stopping_rule = StoppingRule(rule, trials, earlier, find_images(datasets))
    for trial in trials:
        should_stop = _make_stop_check(trial, stopping_rule, listener)
        try:
            status = run_trial(trial, datasets[trial], context, should_stop)
        except torch.AcceleratorError as error:
            raise UserError(
                f"the GPU failed at trial {trial.key}: {error}. Look at nvidia-smi. The "
                "same command resumes from the last saved epoch of each trial."
            ) from error
        listener.on_trial_end(trial.key, status)
        store.tables.merge()


def _make_stop_check(
    trial: TrialConfig, stopping_rule: StoppingRule | None, listener: ProgressListener
) -> StopCheck:
    def should_stop(epoch: EpochMetrics) -> StopReason | None:
        row = dataclasses.asdict(epoch)
        listener.on_epoch(trial.key, row)
        return stopping_rule.decide(trial, row) if stopping_rule else None

    return should_stop
