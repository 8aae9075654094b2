"""What makes two runs one experiment: the same images in the same parts, the same weights. All else is told, not mixed in."""

import dataclasses
import logging

import numpy as np
import pandas as pd
import pytest
import results_example
import toys
from PIL import Image
from test_grid import QUICK, grid, make_folder

from bioimg import provenance
from bioimg.config import TrialConfig, UserError
from bioimg.data.imageset import ImageSet
from bioimg.data.split import split
from bioimg.results.store import Store, read

IMAGES = toys.images()
IN_GROUPS = dataclasses.replace(IMAGES, groups=tuple(f"p{index % 9}" for index in range(len(IMAGES))))


def ordered(images: ImageSet, order: np.ndarray) -> ImageSet:
    """The same images as another order of their names gives them: new names in the order of the old ones."""
    digests = tuple(images.digests[index] for index in order)
    return dataclasses.replace(images, pixels=images.pixels[order], labels=images.labels[order], digests=digests)


SHUFFLED = ordered(IMAGES, np.concatenate([np.random.default_rng(0).permutation(25) + start for start in (0, 25, 50)]))


def begin(folder, images: ImageSet, *trials: TrialConfig) -> pd.DataFrame:
    """Start a run in a folder and leave it; returns what images.parquet then holds."""
    store, description = Store(folder), results_example.description(trials[0], {}, images.classes)
    description["data"]["fingerprint"] = images.fingerprint
    store.begin(description, provenance.whereabouts(dict.fromkeys(trials, images)))
    store.release()
    return pd.read_parquet(folder / "images.parquet")


def refusal(folder, images: ImageSet, *trials: TrialConfig) -> str:
    with pytest.raises(UserError) as told:
        begin(folder, images, *trials)
    return str(told.value)


# images in other parts


def test_the_same_images_under_names_that_change_the_split_are_refused(tmp_path):
    trial = toys.trial()
    held = begin(tmp_path, IMAGES, trial)
    before, now = split(IMAGES, trial), split(SHUFFLED, trial)
    trained = {IMAGES.digests[index] for index in before.train}
    assert trained & {SHUFFLED.digests[index] for index in now.test}, "or else there is nothing to refuse"
    assert SHUFFLED.fingerprint == IMAGES.fingerprint
    error = refusal(tmp_path, SHUFFLED, trial)
    parts = held.set_index("digest")["part"]
    also = {SHUFFLED.digests[index]: part for part in ("train", "val", "test") for index in getattr(now, part)}
    moved = sorted((SHUFFLED.paths[SHUFFLED.digests.index(d)], parts[d], part) for d, part in also.items() if parts[d] != part)
    first = "; ".join(f"{path} was {then}, is {part}" for path, then, part in moved[:3])
    assert f"{len(moved)} in another part with split=stratified ({first}; ...)" in error
    assert "Put files, labels, groups and names back as they were, or name another folder with --out." in error
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "images.parquet"), held)


def test_other_groups_that_change_a_grouped_split_are_refused(tmp_path):
    trial = toys.trial(split="grouped")
    begin(tmp_path, IN_GROUPS, trial)
    regrouped = dataclasses.replace(IN_GROUPS, groups=tuple(f"p{index % 7}" for index in range(len(IMAGES))))
    error = refusal(tmp_path, regrouped, trial)
    assert "in another part with split=grouped (class-0/" in error
    assert "in another group (class-0/10.png was p1, is p3; class-0/11.png was p2, is p4; " in error


def test_names_and_groups_by_which_predictions_are_compared_stay_too(tmp_path):
    trial = toys.trial()
    begin(tmp_path, IMAGES, trial)
    renamed = dataclasses.replace(IMAGES, paths=tuple(f"all/{path}" for path in IMAGES.paths))
    assert "75 under another name (all/class-0/0.png was class-0/0.png; " in refusal(tmp_path, renamed, trial)
    assert "75 in another group (class-0/0.png was none, is p0; " in refusal(tmp_path, IN_GROUPS, trial)


def test_exact_copies_may_change_their_places(tmp_path):
    copies = dataclasses.replace(IMAGES, digests=(IMAGES.digests[1], *IMAGES.digests[1:]))
    begin(tmp_path, copies, toys.trial())
    assert len(begin(tmp_path, copies, toys.trial(seed=1))) == len(IMAGES)


def test_a_fold_is_compared_with_the_same_fold_only(tmp_path):
    folds = [toys.trial(folds=3, fold=fold) for fold in range(3)]
    begin(tmp_path, IMAGES, *folds[:2])
    begin(tmp_path, IMAGES, *folds[1:])
    assert "in another part with split=stratified folds=3 (" in refusal(tmp_path, SHUFFLED, folds[0])
    assert "in another part with split=stratified folds=3 fold=2 (" in refusal(tmp_path, SHUFFLED, folds[2])


def test_images_of_other_ways_of_splitting_stay_on_record(tmp_path):
    first = begin(tmp_path, IMAGES, toys.trial())
    both = begin(tmp_path, IMAGES, toys.trial(folds=3), toys.trial(folds=3, fold=1))
    pd.testing.assert_frame_equal(both[both["folds"] == 0], first)
    assert both.groupby(["folds", "fold"]).size().to_dict() == {(0, 0): 75, (3, 0): 75, (3, 1): 75}


# other images


def test_other_images_are_counted_and_named(tmp_path):
    begin(tmp_path, IMAGES, toys.trial())
    paths, digests, labels = list(IMAGES.paths), list(IMAGES.digests), IMAGES.labels.copy()
    digests[3] = "retouched"
    paths[10], digests[10] = "class-0/new.png", "new"
    labels[12] = 2
    changed = dataclasses.replace(IMAGES, paths=tuple(paths), digests=tuple(digests), labels=labels)
    error = refusal(tmp_path, changed, toys.trial(folds=5))
    assert (
        "the runs whose results it holds: 1 with other pixels (class-0/3.png), 1 new (class-0/new.png), "
        "1 gone (class-0/10.png), 1 with another label (class-0/12.png was class-0, is class-2). Put "
    ) in error


def test_where_it_is_not_known_which_images_there_were_the_fingerprint_tells(tmp_path):
    begin(tmp_path, IMAGES, toys.trial())
    (tmp_path / "images.parquet").unlink()
    other = dataclasses.replace(IMAGES, digests=("other", *IMAGES.digests[1:]))
    error = refusal(tmp_path, other, toys.trial())
    assert f"its data fingerprint is '{IMAGES.fingerprint}', this one's is '{other.fingerprint}'" in error


def test_a_damaged_record_of_images_is_told_and_written_anew(tmp_path, caplog):
    held = begin(tmp_path, IMAGES, toys.trial())
    content = (tmp_path / "images.parquet").read_bytes()
    (tmp_path / "images.parquet").write_bytes(content[:-20])
    with caplog.at_level(logging.WARNING, "bioimg"):
        pd.testing.assert_frame_equal(begin(tmp_path, IMAGES, toys.trial()), held)
    assert "images.parquet is damaged" in caplog.text


def test_a_run_on_moved_images_ends_before_anything_is_written(tmp_path, capsys):
    folder = make_folder(tmp_path / "images", a=20, b=20)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(path)
    common = ["--data", folder, *QUICK, "--batch-size", "8", "--out", tmp_path / "out"]
    assert grid(*common) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    for path in folder.rglob("*.png"):
        path.rename(path.with_name(f"{int(path.stem) * 7 % 20:02}-{path.name}"))
    assert grid(*common, "--seed", "0", "1") == 2
    assert "in another part with split=stratified (a/" in " ".join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before
    assert len(read(tmp_path / "out").trials) == 1
