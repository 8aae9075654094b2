"""One grid of models of torchvision and of timm, from images to the page and new predictions."""

from pathlib import Path

import pandas as pd
import pytest

import bioimg
from bioimg.results.result_store import Results, read_results
from support.image_folders import write_image_folder
from support.timm_folders import save_timm_folder

pytestmark = pytest.mark.nightly
SETTINGS = {
    "image_size": 32,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "local": True,
    "early_stopping": False,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Two backbones as timm saves them, one of them under a licence with terms, and images."""
    folder = tmp_path_factory.mktemp("backbones")
    save_timm_folder(folder / "vit", "vit_tiny_patch16_224", 32, licence="cc-by-nc-nd-4.0")
    save_timm_folder(folder / "convnext", "convnext_atto", 32)
    images = write_image_folder(folder / "images", count=12)
    return {"vit": folder / "vit", "convnext": folder / "convnext", "images": images}


@pytest.fixture(scope="module")
def folder(folders, tmp_path_factory) -> Path:
    """The results of a grid of three models in three ways of training."""
    folder = tmp_path_factory.mktemp("results") / "grid"
    bioimg.compare(
        folders["images"],
        model=["resnext_tiny", f"folder:{folders['vit']}", f"folder:{folders['convnext']}"],
        weights="DEFAULT",
        freeze=["features", "last1", "none"],
        epochs=2,
        out=folder,
        **SETTINGS,
    )
    return folder


@pytest.fixture(scope="module")
def results(folder) -> Results:
    return read_results(folder)


def test_every_model_completes_in_every_way_of_training(results):
    trials = results.trials
    assert len(trials) == 9
    assert trials["status"].eq("completed").all()
    by_freeze = trials.pivot(index="model", columns="freeze", values="trained_parameters")
    assert (by_freeze["features"] < by_freeze["last1"]).all()
    assert (by_freeze["last1"] < by_freeze["none"]).all()


def test_rows_say_where_weights_came_from(results, folders):
    rows = results.trials.drop_duplicates("model").set_index("model")
    vit = rows.loc[f"folder:{folders['vit']}"]
    assert vit["weights_source"] == str(folders["vit"])
    assert vit["weights_licence"] == "cc-by-nc-nd-4.0"
    assert vit["backbone_parameters"] > 5_000_000
    assert rows.loc["resnext_tiny", "weights_source"] == "resnext_tiny-TEXTURES_V2.safetensors"


def test_page_names_what_the_licence_forbids_and_another_interpolation(folder):
    page = (folder / "report" / "report.html").read_text()
    assert "resized by bicubic interpolation. Here it is bilinear" in page
    assert "must not be used commercially" in page
    assert "must not be passed on (licence cc-by-nc-nd-4.0)" in page


@pytest.mark.parametrize("name", ["vit", "convnext"])
@pytest.mark.parametrize("freeze", ["features", "none"])
def test_new_images_get_the_predictions_of_the_table(name, freeze, folder, results, folders):
    trials = results.trials
    chosen = trials["model"].eq(f"folder:{folders[name]}") & trials["freeze"].eq(freeze)
    key = trials.loc[chosen, "key"].item()
    predicted = bioimg.read_results(folder).predict(folders["images"], key=key)
    recorded = results.predictions[results.predictions["key"].eq(key)]
    both = recorded.merge(predicted, left_on="image", right_on="path")
    assert len(both) == len(recorded)
    classes = list(results.manifest["data"]["classes"])
    assert list(both["prediction_y"]) == [classes[label] for label in both["prediction_x"]]


@pytest.mark.parametrize("freeze", ["none", "last1"])
def test_longer_trial_continues_to_the_last_bit(freeze, folders, tmp_path):
    settings = {**SETTINGS, "model": f"folder:{folders['vit']}", "weights": "DEFAULT"}
    settings |= {"freeze": freeze, "keep": "all"}
    data = folders["images"]
    bioimg.compare(data, epochs=1, out=tmp_path / "steps", **settings)
    bioimg.compare(data, epochs=3, out=tmp_path / "steps", **settings)
    bioimg.compare(data, epochs=3, out=tmp_path / "once", **settings)
    continued, at_once = read_results(tmp_path / "steps"), read_results(tmp_path / "once")
    assert continued.trials["continued_from"].notna().any()
    pd.testing.assert_frame_equal(losses(continued), losses(at_once))


def losses(results: Results) -> pd.DataFrame:
    """Return the losses of each epoch of the longest trial."""
    key = results.trials.sort_values("epochs")["key"].iloc[-1]
    epochs = results.epochs[results.epochs["key"].eq(key)]
    return epochs[["epoch", "train_loss", "val_loss"]].reset_index(drop=True)
