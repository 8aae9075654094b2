"""The columns of the four tables. Accuracies are fractions. What is missing is null, never 0."""

import dataclasses
from typing import Literal

import pyarrow as pa

from bioimg.config import TrialConfig

FORMAT_VERSION = 2
"""The version of the results. Raised when older readers can't read newer results."""

TrialStatus = Literal["completed", "stopped", "failed"]
"""How a trial ended: as its configuration says, by early stopping, or with an error."""

_ARROW_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    str | None: pa.string(),
}

TRIALS_SCHEMA = pa.schema(
    [
        pa.field("experiment", pa.string()),
        pa.field("key", pa.string()),
        *(pa.field(f.name, _ARROW_TYPES[f.type]) for f in dataclasses.fields(TrialConfig)),  # type: ignore[index]
        # the data it saw
        pa.field("data_fingerprint", pa.string()),
        pa.field("synthetic", pa.bool_()),
        pa.field("train_images", pa.int64()),
        pa.field("val_images", pa.int64()),
        pa.field("test_images", pa.int64()),
        pa.field("split_fingerprint", pa.string()),
        pa.field("split_leaks_groups", pa.bool_()),
        pa.field("likely_group_pattern", pa.string()),
        pa.field("duplicate_images_across_splits", pa.int64()),
        pa.field("look_alike_images_across_splits", pa.int64()),
        pa.field("ignored_files", pa.int64()),
        pa.field("unreadable_skipped", pa.int64()),
        # how it ran
        pa.field("weights_digest", pa.string()),
        pa.field("weights_source", pa.string()),
        pa.field("weights_licence", pa.string()),
        pa.field("weights_interpolation", pa.string()),
        pa.field("backbone_parameters", pa.int64()),
        pa.field("device", pa.string()),
        pa.field("precision_used", pa.string()),
        pa.field("skipped_steps", pa.int64()),
        pa.field("batch_norm", pa.string()),
        pa.field("features", pa.string()),
        pa.field("head_epochs", pa.int64()),
        pa.field("features_seconds", pa.float64()),
        pa.field("trained_parameters", pa.int64()),
        pa.field("continued_from", pa.string()),
        # how it ended
        pa.field("status", pa.string()),
        pa.field("epochs_run", pa.int64()),
        pa.field("out_of_patience", pa.bool_()),
        pa.field("error", pa.string()),
        pa.field("stopped_at_rung", pa.int64()),
        pa.field("rung_metric", pa.string()),
        pa.field("rung_score", pa.float64()),
        pa.field("lost_to", pa.string()),
        pa.field("lost_to_score", pa.float64()),
        pa.field("lost_to_epochs", pa.int64()),
        pa.field("lost_images", pa.int64()),
        pa.field("won_images", pa.int64()),
        pa.field("lost_p", pa.float64()),
        # what came out
        pa.field("score_used", pa.string()),
        pa.field("best_val_loss", pa.float64()),
        pa.field("best_val_loss_epoch", pa.int64()),
        pa.field("train_accuracy", pa.float64()),
        pa.field("val_accuracy", pa.float64()),
        pa.field("val_score", pa.float64()),
        pa.field("test_accuracy", pa.float64()),
        pa.field("test_score", pa.float64()),
        pa.field("balanced_accuracy", pa.float64()),
        pa.field("macro_f1", pa.float64()),
        pa.field("final_train_loss", pa.float64()),
        pa.field("final_val_accuracy", pa.float64()),
        pa.field("best_train_accuracy", pa.float64()),
        pa.field("best_val_accuracy", pa.float64()),
        # what it cost
        pa.field("recipe_seconds", pa.float64()),
        pa.field("train_seconds", pa.float64()),
        pa.field("wait_seconds", pa.float64()),
        pa.field("bytes", pa.int64()),
        pa.field("started_at", pa.timestamp("us", "UTC")),
        pa.field("ended_at", pa.timestamp("us", "UTC")),
    ]
)
"""One row per trial.

`status` is a `TrialStatus`. A stopped trial ended after `epochs_run` epochs. A failed one
has an `error`. A completed trial may have fewer epochs than it was given if it ran
`out_of_patience`: that is part of its configuration, so it is a result like any other.

A stopped trial says at which rung it lost, and to which trial (the key `lost_to`). `rung_score` and
`lost_to_score` are the best `rung_metric` of each until then; the other trial's is that of its
first `lost_to_epochs` epochs, in which it had made no more steps. In these best epochs, the other
alone recognised `lost_images` of the validation images, and the stopped one alone `won_images`.
`lost_p` is the one-sided p-value of that (see `bioimg.early_stopping`). These columns are null in
rows of earlier versions, which stopped trials without such a test.

`score_used` is what the trial was selected, stopped and tested by: its `score`, in which `auto` has
become `accuracy` or `balanced_accuracy`. Accuracies and scores are those of the selected epoch,
which has the lowest validation loss (`best_val_loss`). A validation loss is the mean over images,
or, for balanced accuracy, over the classes' means. Columns named `final` are of the last epoch,
`best_train_accuracy` and `best_val_accuracy` the highest of any epoch.

`recipe_seconds` is what the trial costs when it runs alone: `train_seconds` and `features_seconds`.
`train_seconds` is training and validation, summed over all epochs, those of earlier attempts
included. `features_seconds` is the computation of a frozen backbone's features, whichever trial has
computed them. `wait_seconds` is everything else from the moment a lane took the trial, in the last
attempt only. `started_at` is when the first batch of that attempt began, `ended_at` when the row
was written. `bytes` is what the trial's own checkpoints take on disk. A frozen backbone is stored
beside them, once for all trials that share it.

`likely_group_pattern` is a value of `group_pattern` whose groups, which file names suggest, are in
several subsets. `ignored_files` are those that may be images but have no known suffix or class.

`weights_digest` covers everything that `weights` names except the head, before any training. It is
null for random weights, which the seed determines. `weights_source` is where they came from: an
address, a repository of the Hugging Face hub with its commit, or a file. `weights_licence` is what
their publisher says, if anything, and so is `weights_interpolation`: how images were resized for
them. `backbone_parameters` counts all of the model without the head.

`features` says where the head got its inputs from. `head_epochs` counts the epochs in which the
head was trained alone, on cached features; it is null in rows of earlier versions.

`precision_used` is the number format of the model's products and convolutions. In float16,
`skipped_steps` counts the training steps that changed no weights since a gradient overflowed; a few
are usual at the start. It is null for other formats.

`continued_from` is the key of a shorter but otherwise equal trial. Its epochs are the first ones of
this trial. They weren't trained again, and count in all columns as if they had been.
"""

EPOCHS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("epoch", pa.int64()),
        pa.field("train_loss", pa.float64()),
        pa.field("train_accuracy", pa.float64()),
        pa.field("val_loss", pa.float64()),
        pa.field("val_accuracy", pa.float64()),
        pa.field("val_score", pa.float64()),
        pa.field("val_correct", pa.binary()),
        pa.field("seconds", pa.float64()),
    ]
)
"""One row per trial and epoch. The first epoch is 1.

`val_correct` says which validation images were classified correctly: a bit for each, packed as by
`numpy.packbits`, in the order of images.parquet. It is null in rows of earlier versions.
"""

PREDICTIONS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("subset", pa.string()),
        pa.field("image", pa.string()),
        pa.field("group", pa.string()),
        pa.field("label", pa.int64()),
        pa.field("prediction", pa.int64()),
        pa.field("probabilities", pa.list_(pa.float32())),
    ]
)
"""One row per completed trial, subset and image. `subset` is val, test or external:NAME.

The last is a set from elsewhere, which `external` of experiment.json describes. The predictions are
those after the epoch with the lowest validation loss. `label` and `prediction` index the classes of
experiment.json.
"""

IMAGES_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string()),
        pa.field("folds", pa.int64()),
        pa.field("fold", pa.int64()),
        pa.field("group_pattern", pa.string()),
        pa.field("image", pa.string()),
        pa.field("group", pa.string()),
        pa.field("label", pa.int64()),
        pa.field("subset", pa.string()),
        pa.field("digest", pa.string()),
    ]
)
"""One row per split that any run used, and image. `subset` is train, val or test."""
