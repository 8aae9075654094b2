"""Checklists of reporting guidelines, with what a methods section answers of each item.

- TRIPOD+AI: Collins et al. 2024, BMJ 385, e078378.
- CLAIM, update of 2024: Tejani et al. 2024, Radiol. Artif. Intell. 6, e240300.

Item numbers are those of the guidelines. What an item asks is said in our own words.
"""

from collections.abc import Collection, Iterator, Mapping

from bioimg.report.class_images import TextTable
from bioimg.report.methods.describe_methods import Methods
from bioimg.report.translation import read_catalogue, translate

Answers = Mapping[str, tuple[str, ...]]
"""Codes of the sentences that answer an item, by its number. `table` is the table of classes."""

NUMBERS = ("images", "groups", "groups_unknown", "table")
DIVISION = ("split_auto", "split_stratified", "split_grouped", "split_folder", "folds", "folds_run")
COUNTS = ("counts", "counts_folds", "tested_groups")
EXCLUSIONS = ("unreadable", "unreadable_none")
DISJOINTNESS = ("leak", "leak_none", "groups_unknown", "copies", "copies_none")
PREPROCESSING = ("resizing", "channels", "scaling", "normalisation")
MODEL = ("model", "head", "output", "parameters")
INITIALISATION = ("weights", "head", "layers", "frozen")
TRAINING = (
    "loss",
    "optimizer",
    "schedule",
    "batch_size",
    "sampling",
    "augmentation",
    "epochs",
    "patience",
    "seed",
    "seeds",
    "seeds_uneven",
    "stopping",
    "stopping_guard",
    "no_stopping",
)
SELECTION = (
    "epoch",
    "tuned_one",
    "tuned",
    "chosen",
    "chosen_repeats",
    "test_unused",
    "test_unused_folds",
)
LOOKS = ("looks", "looks_once", "looks_later", "looks_none_later", "looks_unknown")
SCORES = ("score_accuracy", "score_balanced_accuracy", "measures")
INTERVALS = (
    "interval_images_accuracy",
    "interval_images_balanced_accuracy",
    "interval_groups_accuracy",
    "interval_groups_balanced_accuracy",
    "interval_folds",
    "interval_runs",
    "interval_none",
)
TESTS = ("compared", "tests", "holm", "holm_one", "difference_interval")
SCOPE = ("scope_recipes", "scope_models", "scope_mixed")
SOFTWARE = ("versions", "commit", "devices", "precision", "hardware")
RESULT = (
    "result_recipe",
    "result",
    "result_interval",
    "result_runs",
    "result_baseline",
    "result_none",
)
EXTERNAL = (
    "external",
    "external_groups",
    "external_copies",
    "external_missing",
    "external_result",
    "external_interval",
    "external_outcome",
)
GROUPS = ("group_mean", "group_vote", "group_max", "group_result")

TRIPOD: Answers = {
    "5a": ("images", "synthetic", "fingerprint"),
    "7": (*PREPROCESSING, *EXCLUSIONS, "copies", "copies_none"),
    "10": (*COUNTS, "detectable"),
    "11": EXCLUSIONS,
    "12a": (*DIVISION, *COUNTS, "leak", "leak_none"),
    "12b": PREPROCESSING,
    "12c": ("recipe", "recipes", "model", *INITIALISATION, *TRAINING, *SELECTION, *LOOKS),
    "12d": ("groups", "groups_unknown", *INTERVALS),
    "12e": (*SCORES, *TESTS, *SCOPE),
    "13": ("imbalance", "imbalance_none", "score_auto", "balanced_loss"),
    "12g": ("output",),
    "15": ("head", "output"),
    "16": (*DIVISION, "leak", "leak_none"),
    "18f": ("versions", "commit"),
    "20a": (*NUMBERS, *EXCLUSIONS),
    "20b": ("table",),
    "20c": ("table",),
    "21": (*COUNTS, "table"),
    "22": (*MODEL, "result_recipe"),
    "23a": (*RESULT, "outcome", "outcome_unknown", *GROUPS),
    "23b": (
        "interval_groups_accuracy",
        "interval_groups_balanced_accuracy",
        "interval_folds",
        *EXTERNAL,
    ),
    "26": ("leak", "groups_unknown", "copies", "scope_models", "test_unused_folds", "detectable"),
}
TRIPOD_COMPLETE = ("12a", "12b", "12c", "12e", "15", "21")
"""Items that need nothing more, if there is an answer at all. All others are the author's, too."""

CLAIM: Answers = {
    "7": ("images", "synthetic", "fingerprint"),
    "9": PREPROCESSING,
    "12": EXCLUSIONS,
    "19": (*DIVISION, *COUNTS, "imbalance", "imbalance_none"),
    "20": DISJOINTNESS,
    "21": (*COUNTS, "detectable"),
    "22": MODEL,
    "23": SOFTWARE,
    "24": INITIALISATION,
    "25": TRAINING,
    "26": (*SELECTION, *LOOKS),
    "28": SCORES,
    "29": (*INTERVALS, *TESTS, *SCOPE),
    "30": ("seeds", "seeds_uneven", "folds", "effects"),
    "32": (*RESULT, "test_unused", "test_unused_folds"),
    "33": EXTERNAL,
    "35": (*NUMBERS, *EXCLUSIONS),
    "36": ("table",),
    "37": (*RESULT, "outcome", "outcome_unknown", *GROUPS),
    "38": ("result_recipe", "result", "result_interval", "measures"),
    "39": ("failures",),
    "40": ("leak", "groups_unknown", "copies", "scope_models", "test_unused_folds", "detectable"),
    "43": ("versions", "commit"),
}
CLAIM_COMPLETE = ("9", "19", "20", "23", "24", "25", "26", "29")


def fill_checklists(methods: Methods, lang: str = "en") -> tuple[TextTable, TextTable]:
    """Return the checklists of TRIPOD+AI and CLAIM, with what the sentences answer."""
    texts = {sentence.code: sentence.text for sentence in methods.sentences()}
    if methods.class_table:
        texts["table"] = translate("checklist.table", lang)
    tripod = _answer_items("tripod.item_", TRIPOD, TRIPOD_COMPLETE, texts, lang)
    claim = _answer_items("claim.item_", CLAIM, CLAIM_COMPLETE, texts, lang)
    headers = tuple(translate(f"checklist.{column}", lang) for column in ("item", "asks", "answer"))
    return (
        TextTable(translate("tripod.title", lang), headers, tuple(tripod)),
        TextTable(translate("claim.title", lang), headers, tuple(claim)),
    )


def _answer_items(
    prefix: str, answers: Answers, complete: Collection[str], texts: Mapping[str, str], lang: str
) -> Iterator[tuple[str, str, str]]:
    """Yield the number of each item, what it asks, and its answer.

    prefix: how the keys of the items' texts begin.
    """
    for key, question in read_catalogue(lang).items():
        if not key.startswith(prefix):
            continue
        item = key.removeprefix(prefix)
        found = [texts[code] for code in answers.get(item, ()) if code in texts]
        if not found:
            found = [translate("checklist.author", lang)]
        elif item not in complete:
            found.append(translate("checklist.author_adds", lang))
        yield item, question, translate("methods.space", lang).join(found)
