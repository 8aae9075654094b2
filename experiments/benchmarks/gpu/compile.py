"""What torch.compile gains, and what it costs. Small work compiles only a head."""

from benchmarks.gpu.workload import make_noise_trainer, make_trial
from benchmarks.harness import Outcome
from bioimg.training.loop import train

STEPS = 24


def measure(small: bool) -> Outcome:
    """Train with and without it."""
    rows = []
    for compiled in (False, True):
        freeze = "features" if small else "none"
        trial = make_trial(small, compile=compiled, freeze=freeze)
        trainer = make_noise_trainer(trial, 2 if small else STEPS)
        first, *seconds = [epoch.seconds for epoch in train(trainer)]
        row = {
            "compile": str(compiled),
            "seconds of the first epoch": first,
            "images/s": len(trainer.split.train) / min(seconds),
        }
        rows.append(row)
    return Outcome(f"{trial.model}, batches of {trial.batch_size}", rows, [])
