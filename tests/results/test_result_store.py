"""Two runs are one experiment if images, subsets and weights are the same. Others are refused."""

import dataclasses
import json
import logging
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bioimg import provenance
from bioimg.config import TrialConfig
from bioimg.data import list_datasets, load_datasets
from bioimg.data.image_set import ImageSet
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.models.classifier import _pretrained_model
from bioimg.models.resnext_tiny import resnext_tiny
from bioimg.report.checks import find_checks
from bioimg.results.result_store import ResultStore, read_results
from bioimg.training.trial_runner import TrialContext, run_trial
from support import example_results, toys
from support.experiments import QUICK_FLAGS, run_grid_program
from support.image_folders import write_class_folders, write_grey_tiff_folder

IMAGES = toys.images()
IN_GROUPS = dataclasses.replace(
    IMAGES, groups=tuple(f"p{index % 9}" for index in range(len(IMAGES)))
)


def ordered(images: ImageSet, order: np.ndarray) -> ImageSet:
    """The same images under other names: the names of these, in another order."""
    digests = tuple(images.digests[index] for index in order)
    return dataclasses.replace(
        images, pixels=images.pixels[order], labels=images.labels[order], digests=digests
    )


SHUFFLED = ordered(
    IMAGES,
    np.concatenate([np.random.default_rng(0).permutation(25) + start for start in (0, 25, 50)]),
)


def begin(folder, images: ImageSet, *trials: TrialConfig) -> pd.DataFrame:
    """Start a run in a folder and leave it; returns what images.parquet then holds."""
    store, description = (
        ResultStore(folder),
        example_results.describe_experiment(trials[0], {}, images.classes),
    )
    description["data"]["fingerprint"] = images.fingerprint
    store.open_for_writing(
        description,
        provenance.image_assignment_rows({trial: toys.dataset(trial, images) for trial in trials}),
    )
    store.release()
    return pd.read_parquet(folder / "images.parquet")


def refusal(folder, images: ImageSet, *trials: TrialConfig) -> str:
    with pytest.raises(UserError) as error:
        begin(folder, images, *trials)
    return str(error.value)


# images in other parts


def test_renamed_images_that_change_subset_are_refused(tmp_path):
    trial = toys.trial()
    held = begin(tmp_path, IMAGES, trial)
    before, now = toys.dataset(trial, IMAGES).split, toys.dataset(trial, SHUFFLED).split
    trained = {IMAGES.digests[index] for index in before.train}
    assert trained & {SHUFFLED.digests[index] for index in now.test}, (
        "or else there is nothing to refuse"
    )
    assert SHUFFLED.fingerprint == IMAGES.fingerprint
    error = refusal(tmp_path, SHUFFLED, trial)
    parts = held.set_index("digest")["subset"]
    also = {
        SHUFFLED.digests[index]: part
        for part in ("train", "val", "test")
        for index in getattr(now, part)
    }
    moved = sorted(
        (SHUFFLED.paths[SHUFFLED.digests.index(d)], parts[d], part)
        for d, part in also.items()
        if parts[d] != part
    )
    first = "; ".join(f"{path} was {then}, is {part}" for path, then, part in moved[:3])
    assert f"{len(moved)} in another subset with split=stratified ({first}; ...)" in error
    assert "Restore files, labels, groups and names, or name another folder with --out." in error
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "images.parquet"), held)


def test_changed_groups_of_grouped_split_are_refused(tmp_path):
    trial = toys.trial(split="grouped")
    begin(tmp_path, IN_GROUPS, trial)
    regrouped = dataclasses.replace(
        IN_GROUPS, groups=tuple(f"p{index % 7}" for index in range(len(IMAGES)))
    )
    error = refusal(tmp_path, regrouped, trial)
    assert "in another subset with split=grouped (class-0/" in error
    assert "in another group (class-0/10.png was p1, is p3; class-0/11.png was p2, is p4; " in error


def test_changed_names_and_groups_are_refused(tmp_path):
    trial = toys.trial()
    begin(tmp_path, IMAGES, trial)
    renamed = dataclasses.replace(IMAGES, paths=tuple(f"all/{path}" for path in IMAGES.paths))
    assert "75 under another name (all/class-0/0.png was class-0/0.png; " in refusal(
        tmp_path, renamed, trial
    )
    assert "75 in another group (class-0/0.png was none, is p0; " in refusal(
        tmp_path, IN_GROUPS, trial
    )


def test_exact_copies_may_change_order(tmp_path):
    copies = dataclasses.replace(IMAGES, digests=(IMAGES.digests[1], *IMAGES.digests[1:]))
    begin(tmp_path, copies, toys.trial())
    assert len(begin(tmp_path, copies, toys.trial(seed=1))) == len(IMAGES)


def test_fold_is_compared_with_same_fold_only(tmp_path):
    folds = [toys.trial(folds=3, fold=fold) for fold in range(3)]
    begin(tmp_path, IMAGES, *folds[:2])
    begin(tmp_path, IMAGES, *folds[1:])
    assert "in another subset with split=stratified folds=3 (" in refusal(
        tmp_path, SHUFFLED, folds[0]
    )
    assert "in another subset with split=stratified folds=3 fold=2 (" in refusal(
        tmp_path, SHUFFLED, folds[2]
    )


def test_assignments_of_other_splits_stay_on_record(tmp_path):
    first = begin(tmp_path, IMAGES, toys.trial())
    both = begin(tmp_path, IMAGES, toys.trial(folds=3), toys.trial(folds=3, fold=1))
    pd.testing.assert_frame_equal(both[both["folds"] == 0], first)
    assert both.groupby(["folds", "fold"]).size().to_dict() == {(0, 0): 75, (3, 0): 75, (3, 1): 75}


# other images


def test_changed_images_are_counted_and_named(tmp_path):
    begin(tmp_path, IMAGES, toys.trial())
    paths, digests, labels = list(IMAGES.paths), list(IMAGES.digests), IMAGES.labels.copy()
    digests[3] = "retouched"
    paths[10], digests[10] = "class-0/new.png", "new"
    labels[12] = 2
    changed = dataclasses.replace(IMAGES, paths=tuple(paths), digests=tuple(digests), labels=labels)
    error = refusal(tmp_path, changed, toys.trial(folds=5))
    assert (
        "the runs whose results it holds: 1 with other pixels (class-0/3.png), 1 new "
        "(class-0/new.png), 1 gone (class-0/10.png), 1 with another label (class-0/12.png was "
        "class-0, is class-2). Restore "
    ) in error


def test_missing_image_record_falls_back_to_fingerprint(tmp_path):
    begin(tmp_path, IMAGES, toys.trial())
    (tmp_path / "images.parquet").unlink()
    other = dataclasses.replace(IMAGES, digests=("other", *IMAGES.digests[1:]))
    error = refusal(tmp_path, other, toys.trial())
    assert (
        f"its data fingerprint is '{IMAGES.fingerprint}', this one's is '{other.fingerprint}'"
        in error
    )


def test_damaged_image_record_is_reported_and_rewritten(tmp_path, caplog):
    held = begin(tmp_path, IMAGES, toys.trial())
    content = (tmp_path / "images.parquet").read_bytes()
    (tmp_path / "images.parquet").write_bytes(content[:-20])
    with caplog.at_level(logging.WARNING, "bioimg"):
        pd.testing.assert_frame_equal(begin(tmp_path, IMAGES, toys.trial()), held)
    assert "images.parquet is damaged" in caplog.text


def test_run_on_moved_images_writes_nothing(tmp_path, capsys):
    folder = write_class_folders(tmp_path / "images", a=20, b=20)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        Image.fromarray(
            np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        ).save(path)
    common = ["--data", folder, *QUICK_FLAGS, "--batch-size", "8", "--out", tmp_path / "out"]
    assert run_grid_program(*common) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    for path in folder.rglob("*.png"):
        path.rename(path.with_name(f"{int(path.stem) * 7 % 20:02}-{path.name}"))
    assert run_grid_program(*common, "--seed", "0", "1") == 2
    assert "in another subset with split=stratified (a/" in " ".join(
        capsys.readouterr().err.split()
    )
    assert {
        path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()
    } == before
    assert len(read_results(tmp_path / "out").trials) == 1


def test_sixteen_bit_images_join_at_other_sizes_and_folds(tmp_path):
    base = TrialConfig(data=str(write_grey_tiff_folder(tmp_path / "tiles")), image_size=16)
    trials = [base, dataclasses.replace(base, image_size=24), dataclasses.replace(base, folds=3)]
    held = [
        begin(tmp_path / "out", dataset.images, trial)
        for trial, dataset in load_datasets(list_datasets(trials)).items()
    ]
    assert held[-1].groupby("folds").size().to_dict() == {0: 40, 3: 40}


# weights of one name


def write_weights(path, seed: int, model: Callable[..., torch.nn.Module] = toys.Toy) -> None:
    """Overwrite a file of weights as another process would, without a cache of it here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(model(num_classes=3).state_dict(), path)
    _pretrained_model.cache_clear()


class Interrupted(BaseException):
    """Ctrl-C."""


def interrupt(epoch) -> None:
    if epoch.epoch == 2:
        raise Interrupted


def place(folder) -> TrialContext:
    return TrialContext(
        experiment_name="toy", store=ResultStore(folder), device=torch.device("cpu")
    )


@pytest.fixture
def interrupted(tmp_path) -> TrialConfig:
    """A frozen trial on weights of a file, interrupted after its second epoch."""
    write_weights(tmp_path / "mine.pth", 1)
    trial = toys.trial(weights=str(tmp_path / "mine.pth"), freeze="features", epochs=4)
    with pytest.raises(Interrupted):
        run_trial(trial, toys.dataset(trial, IMAGES), place(tmp_path / "out"), interrupt)
    return trial


def test_trial_with_changed_weights_does_not_resume(tmp_path, interrupted):
    write_weights(tmp_path / "mine.pth", 2)
    where = place(tmp_path / "out")
    assert (
        run_trial(interrupted, toys.dataset(interrupted, IMAGES), where, lambda epoch: None)
        == "failed"
    )
    (row,) = where.store.tables.trial_rows("trials", interrupted.key)
    assert (
        f"the value of `weights` is {interrupted.weights!r}, but these aren't the weights that"
        in row["error"]
    )
    assert row["epochs_run"] == 2
    write_weights(tmp_path / "mine.pth", 1)
    where = place(tmp_path / "out")
    assert (
        run_trial(interrupted, toys.dataset(interrupted, IMAGES), where, lambda epoch: None)
        == "completed"
    ), "with the earlier ones back it resumes"


def test_longer_trial_with_changed_weights_does_not_inherit(tmp_path, interrupted):
    run_trial(
        interrupted, toys.dataset(interrupted, IMAGES), place(tmp_path / "out"), lambda epoch: None
    )
    write_weights(tmp_path / "mine.pth", 2)
    longer = dataclasses.replace(interrupted, epochs=6)
    where = place(tmp_path / "out")
    assert run_trial(longer, toys.dataset(longer, IMAGES), where, lambda epoch: None) == "failed"
    (row,) = where.store.tables.trial_rows("trials", longer.key)
    assert "but these aren't the weights that these results were started with" in row["error"]


def test_weights_digest_is_of_weights_before_training(
    tmp_path,
):
    write_weights(tmp_path / "mine.pth", 1)
    rows = {}
    for weights in ("none", str(tmp_path / "mine.pth")):
        for freeze in ("none", "features"):
            trial, where = (
                toys.trial(weights=weights, freeze=freeze, epochs=1),
                place(tmp_path / "out"),
            )
            run_trial(trial, toys.dataset(trial, IMAGES), where, lambda epoch: None)
            rows[weights, freeze] = where.store.tables.trial_rows("trials", trial.key)[0][
                "weights_digest"
            ]
    assert rows["none", "none"] is rows["none", "features"] is None
    first, second = (rows[str(tmp_path / "mine.pth"), freeze] for freeze in ("none", "features"))
    assert first == second
    assert len(first) == 32


@pytest.mark.nightly
def test_run_with_changed_weights_trains_nothing(tmp_path, capsys):
    file, out = tmp_path / "mine.pth", tmp_path / "out"
    folder = write_class_folders(tmp_path / "images", a=20, b=20)
    common = [
        "--data",
        folder,
        *QUICK_FLAGS,
        "--batch-size",
        "8",
        "--model",
        "resnext_tiny",
        "--out",
        out,
        "--weights",
    ]
    write_weights(file, 1, resnext_tiny)
    assert run_grid_program(*common, file) == 0
    known = json.loads((out / "experiment.json").read_text())["weights"]
    assert known == {f"resnext_tiny {file}": read_results(out).trials["weights_digest"][0]}
    assert run_grid_program(*common, "TEXTURES_V1") == 0, (
        "which leaves the other's digest on record"
    )
    write_weights(file, 2, resnext_tiny)
    before = (out / "experiment.json").read_bytes()
    capsys.readouterr()
    assert run_grid_program(*common, file, "--seed", "0", "1") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert (
        f"the value of `weights` is '{file}', but these aren't the weights that these results were "
        "started with" in error
    )
    assert (
        f"and was {known[f'resnext_tiny {file}'][:16]}. Restore the earlier weights under that "
        "name, give the" in error
    )
    assert (out / "experiment.json").read_bytes() == before


def test_one_name_for_two_weights_is_noted_below_table(tmp_path):
    results = read_results(example_results.write_simulated_results(tmp_path))
    one, two = (
        results.trials.assign(
            weights_digest=[digests[weights] for weights in results.trials["weights"]]
        )
        for digests in (
            {"IMAGENET1K_V1": "a", "IMAGENET1K_V2": "b"},
            {"IMAGENET1K_V1": "a", "IMAGENET1K_V2": "b"},
        )
    )
    two.loc[two["status"].eq("completed").idxmax(), "weights_digest"] = "c"
    mixed_columns = []
    for trials in (one, two):
        checks = {check.code: check.values for check in find_checks(results, trials)}
        mixed_columns.append(checks.get("mixed", {}).get("columns"))
    assert mixed_columns == [None, ["weights_digest"]]


# what experiment.json says of several runs


EXPERIMENT = Experiment(name="grid", base=toys.trial())


def described(earlier: dict, *, trained: bool = True, **changes) -> dict:
    """What experiment.json holds after a run that resumed an earlier one."""
    experiment = dataclasses.replace(EXPERIMENT, **changes)
    begun = provenance.build_manifest(experiment, IMAGES, {"toy mine.pth": "1234"}, earlier)
    return json.loads(json.dumps(provenance.complete_manifest(begun, earlier, trained=trained)))


def test_each_run_is_recorded_with_its_changes():
    first = described({})
    same = described(first)
    other = described(same, early_stopping=EarlyStopping(metric="val_loss"))
    assert first["created"] == same["created"] == other["created"] == other["runs"][0]["started"]
    assert [set(run) for run in other["runs"]] == [
        {"started", "early_stopping", "versions", "commit", "hardware"},
        {"started"},
        {"started", "early_stopping"},
    ]
    assert (
        other["runs"][2]["early_stopping"]["metric"]
        == other["early_stopping"]["metric"]
        == "val_loss"
    )
    assert other["runs"][0]["versions"] == other["versions"]
    assert other["weights"] == {"toy mine.pth": "1234"}


def test_run_without_training_leaves_record_unchanged():
    first = described({})
    again = described({**first, "versions": {"torch": "1.0"}}, trained=False, early_stopping=None)
    assert again == {**first, "versions": {"torch": "1.0"}}


def test_repeated_command_adds_no_run_to_record(tmp_path):
    folder = write_class_folders(tmp_path / "images", a=20, b=20)
    common = [
        "--data",
        folder,
        *QUICK_FLAGS,
        "--batch-size",
        "8",
        "--model",
        "resnext_tiny",
        "--out",
        tmp_path / "out",
    ]
    assert run_grid_program(*common) == run_grid_program(*common) == 0
    assert len(read_results(tmp_path / "out").manifest["runs"]) == 1
    assert run_grid_program(*common, "--seed", "0", "1") == 0
    assert len(read_results(tmp_path / "out").manifest["runs"]) == 2
