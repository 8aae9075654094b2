"""Show weights files by name instead of by their path on somebody's machine."""

import dataclasses
from collections import Counter
from pathlib import PurePath

from bioimg.results.result_store import Results


def shorten_weights_paths(results: Results) -> Results:
    """Return the same results with the file name of each weights file.

    Files that share their name with another one keep their paths.
    """
    base = results.manifest["base"]
    axes = dict(results.manifest["axes"])
    names = _display_names({base["weights"], *axes.get("weights", ()), *results.trials["weights"]})
    if "weights" in axes:
        axes["weights"] = [names[weights] for weights in axes["weights"]]
    shown_base = {**base, "weights": names[base["weights"]]}
    return dataclasses.replace(
        results,
        manifest={**results.manifest, "base": shown_base, "axes": axes},
        trials=results.trials.assign(weights=results.trials["weights"].map(names)),
    )


def _display_names(known_weights: set[str]) -> dict[str, str]:
    file_names = {weights: PurePath(weights).name for weights in known_weights}
    counts = Counter(file_names.values())
    names = {}
    for weights, file_name in file_names.items():
        names[weights] = file_name if counts[file_name] == 1 else weights
    return names
