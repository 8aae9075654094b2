"""Weights files are shown by name, not by their path on somebody's machine."""

import dataclasses
from collections import Counter
from pathlib import PurePath

from bioimg.results.result_store import Results


def shorten_weights_paths(results: Results) -> Results:
    """The same results with weights files shown by file name, unless two of them have the same name."""
    base, axes = results.manifest["base"], results.manifest["axes"]
    known = {base["weights"], *axes.get("weights", ()), *results.trials["weights"]}
    times = Counter(PurePath(weights).name for weights in known)

    def shown(weights: str) -> str:
        name = PurePath(weights).name
        return name if times[name] == 1 else weights

    asked = {
        "base": {**base, "weights": shown(base["weights"])},
        "axes": {
            name: [*map(shown, values)] if name == "weights" else values
            for name, values in axes.items()
        },
    }
    trials = results.trials.assign(weights=results.trials["weights"].map(shown))
    return dataclasses.replace(results, manifest={**results.manifest, **asked}, trials=trials)
