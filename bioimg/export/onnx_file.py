"""A model as one ONNX file: images from 0 to 1 in, class probabilities out."""

import contextlib
import importlib.util
import io
import json
import warnings
from pathlib import Path

import torch
from torch import nn

from bioimg.errors import UserError
from bioimg.export.trained_model import TrainedModel

INPUT, OUTPUT = "images", "probabilities"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ProbabilityModel(nn.Module):
    """A classifier with the normalisation before it and softmax after it."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        mean, std = model.normalisation
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.classifier = model.classifier.model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities [N, C] for images [N, 3, S, S], RGB from 0 to 1."""
        return self.classifier((images - self.mean) / self.std).softmax(1)


def check_usable() -> None:
    """Check that the packages that write and run ONNX files are installed.

    Raises:
        UserError: one isn't.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the value of `to` has 'onnx', which needs the packages {', '.join(missing)}. Install "
            "them: pip install 'bioimg[onnx]'"
        )


def write_file(model: TrainedModel, file: Path) -> None:
    """Write the file. Its metadata has the classes as a JSON list, and the trial's key."""
    batch = torch.export.Dim("N")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # of torch's own exporter, about itself
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            ProbabilityModel(model).eval(),
            (model.blank_images(),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    assert program is not None
    metadata = {"classes": json.dumps(model.classes), "bioimg_trial": model.key}
    program.model.metadata_props.update(metadata)
    program.save(file)


def predict_probabilities(file: Path, images: torch.Tensor) -> torch.Tensor:
    """Return class probabilities [N, C] by ONNX Runtime on the CPU, for images from 0 to 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run([OUTPUT], {INPUT: images.numpy()})
    return torch.from_numpy(probabilities)
