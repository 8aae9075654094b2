"""A model as a folder for PyTorch.

timm's own models become what `timm.create_model("local-dir:...")` loads. Others become safetensors
with a load.py.
"""

import inspect
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import nn
from torchvision.models import get_model_builder

from bioimg.errors import UserError
from bioimg.export.trained_model import TrainedModel
from bioimg.models.model_source import find_model_source
from bioimg.models.torchvision_models import TorchvisionModel

if TYPE_CHECKING:
    from bioimg.models.timm_models import TimmModel

WEIGHTS_FILE, CONFIG_FILE, LOADER_FILE = "model.safetensors", "config.json", "load.py"
LOADERS = Path(__file__).with_name("loaders")
CROP_MODES = {"resize": "squash", "crop": "center", "pad": "border"}
"""timm's words for values of `resize`."""
RUN_LOADER = """
import sys
sys.modules["bioimg"] = None  # load.py must work without it
import load
from safetensors.torch import load_file, save_file
images = load_file(sys.argv[1])["images"]
probabilities = load.predict_probabilities(load.load_model(), images)
save_file({"probabilities": probabilities}, sys.argv[2])
"""


def write_files(model: TrainedModel, folder: Path) -> None:
    """Write config.json and model.safetensors, and load.py where timm alone can't load them.

    Raises:
        UserError: the model is somebody's own, whose code isn't known.
    """
    folder.mkdir(parents=True)
    source = find_model_source(model.trial.model)
    if isinstance(source, TorchvisionModel):
        _write_torchvision_folder(model, source, folder)
        return
    from bioimg.models.timm_models import TimmModel

    assert isinstance(source, TimmModel)
    classifier = _build_timm_classifier(model, source)
    if classifier is None:
        _write_pooled_folder(model, source, folder)
    else:
        _write_timm_folder(model, source, classifier, folder)


def predict_probabilities(folder: Path, images: torch.Tensor) -> torch.Tensor:
    """Return class probabilities [N, C] of images from 0 to 1, by the model in a folder.

    Raises:
        UserError: its load.py fails.
    """
    if (folder / LOADER_FILE).exists():
        return _run_loader(folder, images)
    import timm

    classifier = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config: Any = classifier.pretrained_cfg
    mean = torch.tensor(config["mean"]).view(3, 1, 1)
    std = torch.tensor(config["std"]).view(3, 1, 1)
    with torch.inference_mode():
        return classifier((images - mean) / std).softmax(1)


def _write_torchvision_folder(model: TrainedModel, source: TorchvisionModel, folder: Path) -> None:
    module = inspect.getmodule(get_model_builder(source.name))
    assert module is not None
    assert module.__file__ is not None
    code = None
    if not module.__name__.startswith("torchvision."):
        code = module.__name__.rpartition(".")[2]
        shutil.copyfile(module.__file__, folder / f"{code}.py")
    settings = {"architecture": source.name, "module": code, "head": model.classifier.head_name}
    _write_config(model, settings, folder)
    _write_tensors(model.classifier.model, folder)
    shutil.copyfile(LOADERS / "load_torchvision.py", folder / LOADER_FILE)


def _build_timm_classifier(model: TrainedModel, source: "TimmModel") -> nn.Module | None:
    """Return the model with timm's own head in place of ours; None if timm has none like it."""
    import timm

    from bioimg.models.timm_models import CLASS_ARGUMENTS

    names_layers = any(value in CLASS_ARGUMENTS for value in source.arguments.values())
    if source.pooling == "class+mean" or names_layers:
        return None
    classifier = timm.create_model(
        source.timm_name, num_classes=len(model.classes), **_timm_arguments(model, source)
    )
    config: Any = classifier.pretrained_cfg
    head = config["classifier"]
    if not isinstance(head, str):
        return None
    tensors = {}
    for name, tensor in model.classifier.model.state_dict().items():
        own_name = name.removeprefix("backbone.")
        tensors[own_name.replace("head.", f"{head}.", 1) if name == own_name else own_name] = tensor
    try:
        classifier.load_state_dict(tensors)
    except RuntimeError:
        # its head is more than one linear layer
        return None
    return classifier.eval()


def _timm_arguments(model: TrainedModel, source: "TimmModel") -> dict[str, Any]:
    arguments = dict(source.arguments)
    if source.config.get("fixed_input_size"):
        arguments["img_size"] = model.trial.image_size
    if source.pooling == "class":
        arguments["global_pool"] = "token"
    return arguments


def _write_timm_folder(
    model: TrainedModel, source: "TimmModel", classifier: nn.Module, folder: Path
) -> None:
    from timm.models import save_for_hf

    size = model.trial.image_size
    mean, std = model.normalisation
    config: Any = classifier.pretrained_cfg
    config |= {
        "mean": mean,
        "std": std,
        "input_size": (3, size, size),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": CROP_MODES[model.trial.resize],
    }
    _, stored_arguments = _stored_architecture(source)
    save_for_hf(
        classifier,
        str(folder),
        model_config={"label_names": model.classes},
        model_args={**stored_arguments, **_timm_arguments(model, source)},
        safe_serialization=True,
    )


def _write_pooled_folder(model: TrainedModel, source: "TimmModel", folder: Path) -> None:
    architecture, stored_arguments = _stored_architecture(source)
    arguments = {**stored_arguments, **source.arguments}
    if source.config.get("fixed_input_size"):
        arguments["img_size"] = model.trial.image_size
    settings = {
        "architecture": architecture,
        "arguments": arguments,
        "pooling": source.pooling,
        "features": model.classifier.head.in_features,
    }
    _write_config(model, settings, folder)
    _write_tensors(model.classifier.model, folder)
    shutil.copyfile(LOADERS / "load_timm.py", folder / LOADER_FILE)


def _stored_architecture(source: "TimmModel") -> tuple[str, dict[str, Any]]:
    """Return the architecture and its arguments; those of a folder are in its config.json."""
    prefix, _, path = source.timm_name.partition(":")
    if prefix != "local-dir":
        return source.timm_name, {}
    config = json.loads((Path(path) / CONFIG_FILE).read_text(encoding="utf-8"))
    arguments = dict(config.get("model_args", {}))
    arguments.pop("num_classes", None)  # of the classes that its own head knows
    return config["architecture"], arguments


def _write_config(model: TrainedModel, settings: dict[str, Any], folder: Path) -> None:
    mean, std = model.normalisation
    config = {**settings, "classes": model.classes, "mean": mean, "std": std}
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _write_tensors(module: nn.Module, folder: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE)


def _run_loader(folder: Path, images: torch.Tensor) -> torch.Tensor:
    """Run load.py in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        given, computed = Path(temporary) / "images", Path(temporary) / "probabilities"
        safetensors.torch.save_file({"images": images}, given)
        command = [sys.executable, "-B", "-c", RUN_LOADER, str(given), str(computed)]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if ended.returncode:
            reason = ended.stderr.strip().splitlines()[-1]
            raise UserError(
                f"the value of `to` has 'folder', but its load.py fails: {reason}. A model that "
                "torchvision doesn't have must be in one Python file without bioimg. Leave folder "
                "out of --to."
            )
        return safetensors.torch.load_file(computed)["probabilities"]
