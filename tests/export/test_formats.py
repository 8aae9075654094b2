"""What each format takes, and that it predicts what the model does."""

import numpy as np
import pytest
import torch

from bioimg.data.image_set import ImageSet
from bioimg.errors import UserError
from bioimg.export import model_folder, qupath
from bioimg.export.trained_model import CheckImages, TrainedModel, shorten_path
from bioimg.models.checked_safetensors import SavedModel
from bioimg.models.classifier import build_classifier
from bioimg.models.licences import forbids_commerce, forbids_sharing
from bioimg.models.pathology import PATHOLOGY_MODELS, PathologyModel
from support import toys

CLASSES = ["class-0", "class-1", "class-2"]


def make_trained_model(scaling: object = None, **fields: object) -> TrainedModel:
    """Return a model with random weights as if a trial had trained it."""
    trial = toys.trial(**fields)
    classifier = build_classifier(trial.model_config, len(CLASSES))
    classifier.model.eval()
    metadata = {
        "classes": CLASSES,
        "normalisation": [[0.5, 0.4, 0.3], [0.2, 0.25, 0.3]],
        "scaling": scaling,
    }
    saved = SavedModel(classifier.model.state_dict(), metadata)
    return TrainedModel(
        key=trial.key, name="toy", trial=trial, row={}, saved=saved, classifier=classifier
    )


def make_check_images(*sizes: tuple[int, int]) -> CheckImages:
    images: ImageSet = toys.images(per_class=2)
    return CheckImages(images=images, stored_sizes=frozenset(sizes or {(16, 16)}))


def expected_probabilities(model: TrainedModel, images: torch.Tensor) -> np.ndarray:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in model.normalisation)
    with torch.no_grad():
        return model.classifier.model((images - mean) / std).softmax(1).numpy()


def test_qupath_files_predict_what_the_model_does_for_any_number_of_images(tmp_path):
    model, images = make_trained_model(), make_check_images((64, 64))
    qupath.write_files(model, images, 0.5, tmp_path / "toy")
    for inputs in (images.to_tensor(), images.to_tensor()[:1]):
        given = qupath.predict_probabilities(tmp_path / "toy", inputs)
        np.testing.assert_allclose(given, expected_probabilities(model, inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "sizes", "um_per_pixel", "words"),
    [
        ({}, (), None, "the value of `um_per_pixel` isn't given"),
        ({}, (), 0.0, "must be `um_per_pixel > 0`"),
        ({}, (), float("nan"), "must be `um_per_pixel > 0`"),
        ({"resize": "crop"}, (), 0.5, "`resize` of this trial is 'crop', but must be 'resize'"),
        ({"resize": "pad"}, (), 0.5, "`resize` of this trial is 'pad', but must be 'resize'"),
        ({"channels": "2,1,0"}, (), 0.5, "`channels` of this trial is '2,1,0', but must not be"),
        ({"scaling": [[0, 9]] * 3}, (), 0.5, "have more than 8 bits, but must have 8"),
        ({}, ((64, 48),), 0.5, "have 64 x 48 pixels, but must be square and of one size"),
        ({}, ((48, 48), (64, 64)), 0.5, "have 48 x 48, 64 x 64 pixels, but must be square"),
    ],
)
def test_what_qupath_can_not_give_a_model_is_refused_with_the_way_out(
    fields, sizes, um_per_pixel, words
):
    with pytest.raises(UserError) as refusal:
        qupath.check_usable(make_trained_model(**fields), make_check_images(*sizes), um_per_pixel)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def register_transformer(monkeypatch):
    """Return a function that gives a small transformer a short name, as pathology models have."""

    def register(pooling: str, arguments: dict[str, object]) -> str:
        facts = PathologyModel(
            repository="lab/tiny",
            architecture="vit_tiny_patch16_224",
            arguments={"depth": 2, **arguments},
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            pooling=pooling,  # type: ignore[arg-type]
            features=192,
            pixel_size="0.5",
            licence="apache-2.0",
        )
        # models are kept by their names
        name = "-".join(("tiny", pooling, *arguments))
        monkeypatch.setitem(PATHOLOGY_MODELS, name, facts)
        return name

    return register


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("pooling", "arguments", "has_loader"),
    [
        ("class", {}, False),
        ("class+mean", {}, True),
        ("class", {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}, True),
    ],
)
def test_transformer_folder_predicts_what_the_model_does_with_timm_alone_where_it_can(
    pooling, arguments, has_loader, register_transformer, tmp_path
):
    name = register_transformer(pooling, arguments)
    model = make_trained_model(model=name, image_size=32)
    inputs = torch.rand(4, 3, 32, 32)
    model_folder.write_files(model, tmp_path / "folder")
    assert (tmp_path / "folder" / "load.py").exists() == has_loader
    given = model_folder.predict_probabilities(tmp_path / "folder", inputs)
    np.testing.assert_allclose(given, expected_probabilities(model, inputs), atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["resnext_tiny", "resnet18", "mobilenet_v3_small"])
def test_torchvision_folder_predicts_what_the_model_does_without_bioimg(name, tmp_path):
    model = make_trained_model(model=name, image_size=32)
    inputs = torch.rand(4, 3, 32, 32)
    model_folder.write_files(model, tmp_path / "folder")
    given = model_folder.predict_probabilities(tmp_path / "folder", inputs)
    np.testing.assert_allclose(given, expected_probabilities(model, inputs), atol=1e-5)


@pytest.mark.nightly
def test_model_whose_code_needs_bioimg_has_no_folder_and_the_reason_is_told(tmp_path):
    model = make_trained_model(model="toy")
    model_folder.write_files(model, tmp_path / "folder")
    with pytest.raises(UserError, match=r"its load\.py fails: .*bioimg.* Leave folder out of --to"):
        model_folder.predict_probabilities(tmp_path / "folder", torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("licence", "sharing", "commerce"),
    [
        ("cc-by-nc-nd-4.0", True, True),
        ("CC BY-ND 4.0", True, False),
        ("lunit-non-commercial", False, True),
        ("apache-2.0", False, False),
        ("", False, False),
    ],
)
def test_licence_says_what_it_forbids(licence, sharing, commerce):
    assert forbids_sharing(licence) == sharing
    assert forbids_commerce(licence) == commerce


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("folder:/home/lab/vit", "folder:vit"),
        ("/data/weights.pth", "weights.pth"),
        ("https://download.pytorch.org/models/a.pth", "https://download.pytorch.org/models/a.pth"),
        ("hub:owner/name@abc", "hub:owner/name@abc"),
        ("resnet50", "resnet50"),
    ],
)
def test_shown_names_have_no_folders_of_this_machine(name, shown):
    assert shorten_path(name) == shown


def test_check_images_become_tensors_from_0_to_1():
    images = make_check_images()
    tensor = images.to_tensor()
    assert tensor.shape == (6, 3, 16, 16)
    first = np.asarray(images.images.pixels[0]).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(tensor[0], first, atol=1e-6)
