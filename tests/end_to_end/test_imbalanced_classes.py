"""One score rules an experiment: on imbalanced images it weighs classes alike."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.results import statistics
from bioimg.results.result_store import Results, ResultStore
from bioimg.results.table_store import EARLIER_COLUMNS
from bioimg.storage.checked_parquet import encode_table
from support import toys
from support.consoles import Interrupted, InterruptingConsole
from support.experiments import LENIENT_ALPHA, run_experiment
from support.results import assert_same_results

SKIN_LESIONS = {"nv": 406, "mel": 68, "bkl": 67, "bcc": 31, "akiec": 20, "vasc": 9, "df": 7}
"""As imbalanced as HAM10000: 58 to 1."""
TUMOURS = {"benign": 570, "malignant": 30}


def write_imbalanced_folder(folder: Path, counts: dict[str, int]) -> Path:
    """Write images of classes whose colours overlap."""
    generator = np.random.default_rng(0)
    class_colours = 128 + generator.normal(0, 50, (len(counts), 3))
    for class_colour, (name, count) in zip(class_colours, counts.items(), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            colour = class_colour + generator.normal(0, 25, 3)
            pixels = colour + generator.normal(0, 10, (12, 12, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{number}.png")
    return folder


def weighting_experiment(data: Path, **fields: object) -> Experiment:
    """Ask whether class weights in the training loss help."""
    base = toys.trial(
        data=str(data),
        **{"image_size": 12, "epochs": 4, "batch_size": 32, "learning_rate": 0.02, **fields},
    )
    axes = {"class_weights": ("none", "balanced")}
    return Experiment(name="weighting", base=base, axes=axes, early_stopping=None)


def run(experiment: Experiment, folder: Path, console: io.StringIO | None = None) -> Results:
    return run_experiment(experiment, folder, console, local=True)


def selected_class_weights(results: Results) -> str:
    """Return the value that validation chose."""
    best = statistics.best_configuration(results)
    return results.trials.set_index("key").loc[best, "class_weights"]


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imbalanced_folder(tmp_path_factory.mktemp("lesions") / "lesions", SKIN_LESIONS)


@pytest.fixture(scope="module")
def tumours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imbalanced_folder(tmp_path_factory.mktemp("tumours") / "tumours", TUMOURS)


@pytest.mark.parametrize("name", ["lesions", pytest.param("tumours", marks=pytest.mark.nightly)])
def test_imbalanced_images_are_scored_by_balanced_accuracy_and_class_weights_win(
    name, request, tmp_path
):
    console = io.StringIO()
    results = run(weighting_experiment(request.getfixturevalue(name)), tmp_path, console)
    assert results.trials["score"].eq("auto").all()
    assert results.trials["score_used"].eq("balanced_accuracy").all()
    assert results.manifest["score"] == "balanced_accuracy"
    assert selected_class_weights(results) == "balanced"
    printed = console.getvalue()
    assert "Recipes are compared by balanced accuracy" in printed
    assert "val balanced accuracy" in printed
    for row in results.trials.to_dict("records"):
        assert row["test_score"] == row["balanced_accuracy"] < row["test_accuracy"]
        epochs = results.epochs[results.epochs["key"].eq(row["key"])]
        selected = epochs.loc[epochs["val_loss"].idxmin()]
        for column in ("train_accuracy", "val_accuracy", "val_score"):
            assert row[column] == selected[column]


@pytest.mark.parametrize("name", ["tumours", pytest.param("lesions", marks=pytest.mark.nightly)])
def test_plain_accuracy_on_imbalanced_images_prefers_no_class_weights(name, request, tmp_path):
    experiment = weighting_experiment(request.getfixturevalue(name), score="accuracy")
    results = run(experiment, tmp_path)
    assert results.trials["score_used"].eq("accuracy").all()
    assert results.trials["test_score"].equals(results.trials["test_accuracy"])
    assert results.epochs["val_score"].equals(results.epochs["val_accuracy"])
    assert selected_class_weights(results) == "none"


@pytest.mark.parametrize(("score", "left_behind"), [("auto", "none"), ("accuracy", "balanced")])
@pytest.mark.nightly
def test_early_stopping_compares_by_the_score(score, left_behind, lesions, tmp_path):
    experiment = dataclasses.replace(
        weighting_experiment(lesions, score=score, epochs=3),
        axes={"class_weights": ("none", "balanced"), "seed": (0, 1, 2, 3)},
        early_stopping=EarlyStopping(grace_period=2, alpha=LENIENT_ALPHA),
    )
    results = run(experiment, tmp_path)
    stopped = results.trials[results.trials["status"].eq("stopped")]
    assert stopped["class_weights"].mode().tolist() == [left_behind]
    best_scores = results.epochs.groupby("key")["val_score"].max()
    for row in stopped.to_dict("records"):
        assert row["rung_metric"] == "val_score"
        assert row["rung_score"] == best_scores[row["key"]]


@pytest.mark.nightly
def test_interrupted_experiment_keeps_its_score(lesions, tmp_path):
    experiment = weighting_experiment(lesions)
    whole = run(experiment, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(experiment, tmp_path / "out", InterruptingConsole("epoch 2/4", 2))
    resumed = run(experiment, tmp_path / "out")
    assert_same_results(resumed, whole)
    assert resumed.trials["score_used"].eq("balanced_accuracy").all()


@pytest.fixture
def scored_by_accuracy(lesions: Path, tmp_path: Path) -> Path:
    run(weighting_experiment(lesions, score="accuracy", epochs=1), tmp_path / "out")
    return tmp_path / "out"


def test_results_of_another_score_are_refused_with_the_way_out(lesions, scored_by_accuracy):
    before = (scored_by_accuracy / "trials.parquet").read_bytes()
    with pytest.raises(
        UserError,
        match=r"`score` is 'auto', which means balanced_accuracy for these images, but must be "
        r"'accuracy', by which the results in .* Use --score accuracy, or name another folder",
    ):
        run(weighting_experiment(lesions), scored_by_accuracy)
    assert (scored_by_accuracy / "trials.parquet").read_bytes() == before


def forget_scores(folder: Path) -> None:
    """Make results as versions without a choice of scores have written them."""
    for name in ("trials", "epochs"):
        path = folder / f"{name}.parquet"
        rows = pq.read_table(path)
        new_columns = [name for name in ("score", *EARLIER_COLUMNS) if name in rows.column_names]
        path.write_bytes(encode_table(rows.drop_columns(new_columns)))
    store = ResultStore(folder)
    manifest = store.read_manifest()
    del manifest["score"], manifest["base"]["score"]
    store.write_manifest(manifest)


@pytest.mark.nightly
def test_results_of_earlier_versions_go_on_with_accuracy(lesions, scored_by_accuracy):
    forget_scores(scored_by_accuracy)
    with pytest.raises(UserError, match="Use --score accuracy"):
        run(weighting_experiment(lesions), scored_by_accuracy)
    experiment = weighting_experiment(lesions, score="accuracy", epochs=1)
    more = dataclasses.replace(experiment, axes={**experiment.axes, "seed": (0, 1)})
    results = run(more, scored_by_accuracy)
    assert len(results.trials) == 4
    assert results.trials["status"].eq("completed").all()
    assert results.trials["score_used"].eq("accuracy").all()
    assert results.epochs["val_score"].equals(results.epochs["val_accuracy"])
