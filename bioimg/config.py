"""A trial: one cell of the comparison, as a value that is checked once, when it is created.

A field of `TrialConfig` has one name from the grid to the report. It is the axis of an experiment,
the flag of the command line, the argument of `bioimg.compare`, the parameter of Ray Tune, the
column of the table and the key that report headers translate.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from bioimg.errors import UserError, unknown_value_error

EXPERIMENT_FIELDS = ("data", "images", "layout", "score")
"""Fields that are the same in a whole experiment: no axis, and no part of a trial's key.

The data fingerprint identifies the images, and a results folder has one score.
"""
AUTO_EPOCHS = {"epochs": 200, "patience": 20, "patience_metric": "val_score"}
"""What the setting `epochs` auto means: train until the score stops improving, up to a ceiling."""
MIN_TEST_GROUPS = 5
"""With fewer independent groups among the test images, resampling them understates uncertainty."""
HEAD_EPOCHS_DIVISOR = 5
MIN_HEAD_EPOCHS = 2
"""With `freeze` head-first, the head is trained alone in this part of the epochs, and this long."""


def config_field(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    metavar: str | None = None,
    default_hint: str | None = None,
    unkeyed: tuple[Any, ...] = (),
    keywords: tuple[str, ...] = (),
) -> Any:
    """Return a field with its help text and its rule, both of which the command line uses too.

    metavar:      how the help writes the value, if not by its type.
    default_hint: how the help writes the default.
    unkeyed:      the values that aren't part of a trial's key, if not just the default.
    keywords:     words that settings may have in place of a value.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "at_least": at_least,
        "above": above,
        "below": below,
        "at_most": at_most,
        "metavar": metavar,
        "default_hint": default_hint,
        "unkeyed": unkeyed or (default,),
        "keywords": keywords,
    }
    return dataclasses.field(default=default, metadata=metadata)


def validate_fields(config: Any) -> None:
    """Check each field of a dataclass that is made with `config_field` against its rule.

    Raises:
        UserError: names the first field whose value breaks its rule.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata and value is not None:
            _check_value(field.name, value, field.metadata)


def _check_value(name: str, value: Any, rule: Mapping[str, Any]) -> None:
    choices, at_least = rule["choices"], rule["at_least"]
    above, below, at_most = rule["above"], rule["below"], rule["at_most"]
    values = value if isinstance(value, tuple) else (value,)
    for item in values:
        if choices and item not in choices:
            raise unknown_value_error(name, item, choices)
    # written so that NaN, which compares as false, breaks the rule
    if at_least is not None and not value >= at_least:
        raise UserError(f"the value of `{name}` is {value}, but must be `{name} >= {at_least}`.")
    if above is not None and not value > above:
        raise UserError(f"the value of `{name}` is {value}, but must be `{name} > {above}`.")
    if below is not None and not value < below:
        raise UserError(f"the value of `{name}` is {value}, but must be `{name} < {below}`.")
    if at_most is not None and not value <= at_most:
        raise UserError(f"the value of `{name}` is {value}, but must be `{name} <= {at_most}`.")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """Select the images of a trial and say how they become pixels.

    Fields and defaults are those of `TrialConfig`.
    """

    data: str
    columns: str | None = None
    images: str | None = None
    layout: str | None = None
    image_size: int = 150
    resize: str = "resize"
    channels: str | None = None
    scaling: str = "percentiles"
    skip_unreadable: bool = False
    group_pattern: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Say how the images are divided into train, val and test.

    Fields and defaults are those of `TrialConfig`.
    """

    split: str = "auto"
    folds: int = 0
    fold: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Select a model, its weights and what of it is frozen.

    Fields and defaults are those of `TrialConfig`.
    """

    model: str
    weights: str = "IMAGENET1K_V2"
    freeze: str = "none"
    image_size: int = 150


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """Describe one trial: which model is trained on which images, and how.

    The order of fields is that of the table's columns.
    """

    data: str = config_field(
        "phantom",
        "Folder of images (CLASS/image or train|val|test/CLASS/image), table of them (.csv, .tsv, "
        ".xlsx, .parquet), MedMNIST .npz, or name of a set: phantom (built in, synthetic), "
        "kather2016, kather2016-6, medmnist:NAME",
    )
    columns: str | None = config_field(
        None,
        "Column names of a table that aren't path, label, group and split, as in "
        "path=file,label=diagnosis; a path may be an id, which is a file's name without suffix",
    )
    images: str | None = config_field(
        None, "Folder in which a table's images are found; by default the folder of the table"
    )
    layout: str | None = config_field(
        None,
        "What the folders of `data` mean, from the top down: `class`, `part` (train, val, test), a "
        "word for groups, or * for nothing, as in patient/class; by default CLASS or PART/CLASS",
    )
    image_size: int = config_field(
        150, "Side length of images after resizing, in pixels", at_least=8
    )
    resize: str = config_field(
        "resize",
        "How images become square: resize (stretches to a square), crop (the centre), pad (black "
        "bars)",
        choices=("resize", "crop", "pad"),
    )
    channels: str | None = config_field(
        None,
        "Channels of multi-channel images to use as red, green and blue, counted from 0, as in "
        "2,1,0; one is grey",
    )
    scaling: str = config_field(
        "percentiles",
        "Intensities mapped to 0 and 255 in 16-bit and float images: percentiles (the 0.1th and "
        "99.9th of all training images, per channel) or range (0 and 65,535, or 0 and 1)",
        choices=("percentiles", "range"),
    )
    skip_unreadable: bool = config_field(
        False, "Skip images that can't be read; the row gives their number"
    )
    split: str = config_field(
        "auto",
        "How images are divided: stratified (68/16/16 % of each class at random), grouped (no "
        "group in two subsets), folder (as the train|val|test folders, table or file of `data` "
        "give it), or auto (folder if they give parts, else stratified)",
        choices=("auto", "stratified", "grouped", "folder"),
        unkeyed=("auto", "stratified"),
    )
    folds: int = config_field(
        0,
        "Cross-validation with this many folds (3 or more): one tests, the next one validates; "
        "0: none",
        at_least=0,
    )
    fold: int = config_field(0, "Index of the test fold, from 0", at_least=0)
    group_pattern: str | None = config_field(
        None,
        "Regular expression for image paths, whose first (...) matches the image's group (slide, "
        "patient); or `parent`: the name of the folder that holds the image is its group; or "
        "`copies`: images that look alike, also turned or mirrored, are a group",
    )
    model: str = config_field(
        "resnext50_32x4d",
        "Name of a classifier of torchvision (resnet50), timm:NAME, hub:OWNER/NAME on the Hugging "
        "Face hub, folder:PATH, a pathology model (uni, virchow2, h-optimus-0, kaiko, ...), or the "
        "small built-in `resnext_tiny`",
    )
    weights: str = config_field(
        "IMAGENET1K_V2",
        "Pretrained weights: DEFAULT, a name of torchvision (IMAGENET1K_V1), a tag of timm, a .pth "
        "or .safetensors file, or `none` for random weights",
    )
    freeze: str = config_field(
        "none",
        "Layers that aren't trained: none; features (all but the head); last1, last2, last4 (all "
        "but the head and so many blocks); lora4, lora8, lora16 (all but the head and updates of "
        "this rank, for transformers); a stage (layer1, layer2, ...) and all before it; or "
        "head-first: all but the head for a fifth of the epochs (at least 2), then none",
    )
    batch_size: int = config_field(
        32, "Images per optimizer step, over all workers together", at_least=1
    )
    epochs: int = config_field(
        50,
        "Passes over the training images; auto: until the score on validation images hasn't risen "
        "for 20 epochs (or `patience`), at most 200",
        at_least=1,
        keywords=("auto",),
    )
    score: str = config_field(
        "auto",
        "Measure that selects epochs and recipes, stops trials and is tested: accuracy, "
        "balanced_accuracy (the mean over classes), or auto (balanced if the largest class has "
        "more than twice the images of the smallest)",
        choices=("auto", "accuracy", "balanced_accuracy"),
    )
    patience: int = config_field(
        0,
        "End a trial when `patience_metric` hasn't improved for this many epochs; 0: never",
        at_least=0,
    )
    patience_metric: str = config_field(
        "val_loss",
        "What must improve: the loss on validation images, or the score on them (see --score)",
        choices=("val_loss", "val_score"),
    )
    learning_rate: float = config_field(
        1e-4, "Step size of the optimizer; not rescaled with batch size or workers", above=0
    )
    head_rate_factor: float = config_field(
        1.0,
        "While the head is trained alone (freeze features, head-first), its learning rate is "
        "`learning_rate` times this: a head alone needs larger steps",
        above=0,
    )
    layer_decay: float = config_field(
        1.0,
        "Factor of the learning rate from one block to the one before it, so that early layers "
        "change less (0.65 to 0.85 is usual for transformers); 1: all layers have the same rate",
        above=0,
        at_most=1,
    )
    warmup: int = config_field(
        0,
        "Epochs in which the learning rate rises from 0, by the same amount at each step; with "
        "head-first, the first ones that train all layers",
        at_least=0,
    )
    schedule: str = config_field(
        "constant",
        "Course of the learning rate over the epochs after the warm-up",
        choices=("constant", "cosine"),
    )
    optimizer: str = config_field(
        "adamw", "Optimizer: adamw, or sgd with momentum 0.9", choices=("adamw", "sgd")
    )
    weight_decay: float = config_field(
        0.01, "Weight decay per step, multiplied by the learning rate", at_least=0
    )
    augmentation: str = config_field(
        "dihedral",
        "Changes of training images: none, or dihedral (one of the 8 flips and quarter turns for "
        "each image and epoch)",
        choices=("none", "dihedral"),
    )
    class_weights: str = config_field(
        "none",
        "Class weights in the training loss: none, or balanced (inversely proportional to the "
        "number of training images)",
        choices=("none", "balanced"),
    )
    sampling: str = config_field(
        "shuffle",
        "Images of an epoch: shuffle (each training image once), or balanced (as many, drawn "
        "equally from all classes)",
        choices=("shuffle", "balanced"),
    )
    seed: int = config_field(
        0,
        "Seed of the head's initial weights, the order of images and the augmentation",
        at_least=0,
    )
    workers: int = config_field(
        1, "Processes (one device each) that share each batch (DDP)", at_least=1
    )
    precision: str = config_field(
        "auto",
        "Number format of autocast: auto (the fastest on all machines of the run: bfloat16 on GPUs "
        "from compute capability 8.0 on and CPUs with AMX, float16 on GPUs of 7.x such as a T4, "
        "else float32), or one of the three",
        choices=("auto", "bfloat16", "float16", "float32"),
    )
    tf32: bool = config_field(
        False, "On CUDA, multiply float32 matrices in TF32 (10-bit mantissa): faster, less exact"
    )
    compile: bool = config_field(
        False,
        "Compile the model (torch.compile), which takes a minute or more in each lane for the "
        "first trial of a model and freezing; later trials there use the same graphs",
    )

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.batch_size % self.workers:
            raise UserError(
                f"the value of `batch_size` is {self.batch_size}, but must be a multiple of "
                f"`workers`, which is {self.workers}: it is the size over all workers together. "
                "Change one of the two."
            )
        self._check_folds()
        self._check_phases()

    def _check_phases(self) -> None:
        fewest = MIN_HEAD_EPOCHS + 1
        if self.freeze == "head-first" and self.epochs < fewest:
            raise UserError(
                f"the value of `epochs` is {self.epochs}, but must be `epochs >= {fewest}` with "
                f"`freeze` 'head-first', which trains the head for {MIN_HEAD_EPOCHS} epochs before "
                "it trains all layers."
            )
        following = self.epochs - self.head_epochs
        if self.warmup >= following:
            raise UserError(
                f"the value of `warmup` is {self.warmup}, but must be `warmup < {following}`, the "
                "number of epochs that it is part of. Lower it, or raise `epochs`."
            )

    def _check_folds(self) -> None:
        if self.folds in (1, 2):
            raise UserError(
                f"the value of `folds` is {self.folds}, but must be 0 (none) or at least 3: to "
                "train, validate and test."
            )
        if self.folds and self.split == "folder":
            raise UserError(
                f"the value of `folds` is {self.folds}, but must be 0 with `split` 'folder', which "
                "uses the parts that `data` gives. Use --split stratified or grouped."
            )
        if self.fold >= max(self.folds, 1):
            raise UserError(
                f"the value of `fold` is {self.fold}, but must be less than `folds`, which is "
                f"{self.folds}."
            )

    @property
    def dataset_config(self) -> DatasetConfig:
        """The fields that determine which images the trial uses, and their pixels."""
        return _select_fields(DatasetConfig, self)

    @property
    def split_config(self) -> SplitConfig:
        """The fields that determine how the images are divided."""
        return _select_fields(SplitConfig, self)

    @property
    def model_config(self) -> ModelConfig:
        """The fields that determine the model before training, except for its head's seed."""
        return _select_fields(ModelConfig, self)

    @property
    def head_learning_rate(self) -> float:
        """The initial learning rate of a head that is trained alone, on a frozen backbone."""
        return self.learning_rate * self.head_rate_factor

    @property
    def head_epochs(self) -> int:
        """The number of epochs before all layers are trained: 0 unless `freeze` is head-first.

        Until then the head is trained alone: linear probing, then fine-tuning (LP-FT; Kumar et al.
        2022, arXiv:2202.10054).
        """
        if self.freeze != "head-first":
            return 0
        return max(MIN_HEAD_EPOCHS, self.epochs // HEAD_EPOCHS_DIVISOR)

    def trains_head_alone(self, epoch: int) -> bool:
        """Return True if an epoch, counted from 1, trains the head on cached features."""
        return self.freeze == "features" or epoch <= self.head_epochs

    @property
    def key(self) -> str:
        """Twelve hex digits that identify this trial within its experiment.

        They don't depend on `EXPERIMENT_FIELDS`, nor on fields at their defaults. So a field that
        a later version adds orphans no results.
        """
        settings = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in EXPERIMENT_FIELDS and value not in field.metadata["unkeyed"]:
                settings[field.name] = value
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()[:12]

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> "TrialConfig":
        """Return the trial of a row of the trials table.

        A field that is missing in the table of an earlier version gets its default.
        """
        return cls(**{name: row[name] for name in TRIAL_FIELDS if row[name] is not None})

    def format_fields(self, fields: Iterable[str]) -> str:
        """Return the values of some fields on one line, for consoles and captions."""
        return " ".join(f"{name}={getattr(self, name)}" for name in fields)


ViewT = TypeVar("ViewT", DatasetConfig, SplitConfig, ModelConfig)


def _select_fields(view: type[ViewT], trial: TrialConfig) -> ViewT:
    return view(**{field.name: getattr(trial, field.name) for field in dataclasses.fields(view)})


TRIAL_FIELDS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(TrialConfig))

SOURCE_FIELDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        (
            *(field.name for field in dataclasses.fields(DatasetConfig)),
            *(field.name for field in dataclasses.fields(SplitConfig)),
            "score",
            "seed",
        )
    )
)
"""Fields that say which images are learnt from or tested on, and how: they can't be tuned."""
TUNABLE_FIELDS: tuple[str, ...] = tuple(name for name in TRIAL_FIELDS if name not in SOURCE_FIELDS)
"""Fields whose values can be chosen within each recipe."""
