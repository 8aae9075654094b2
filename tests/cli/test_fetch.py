"""`bioimg fetch` says where weights came from, and why they can't be had."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from bioimg.cli.fetch import FetchCommand
from bioimg.errors import UserError
from support.timm_folders import save_timm_folder


def test_origin_and_licence_are_printed(tmp_path):
    save_timm_folder(tmp_path, "resnet18", 32, licence="mit")
    console = Console(file=io.StringIO())
    models = (f"folder:{tmp_path}", "resnext_tiny")
    assert FetchCommand(model=models).run(console) == 0
    assert console.file.getvalue().splitlines() == [
        f"folder:{tmp_path} DEFAULT: {tmp_path}, licence mit",
        "resnext_tiny DEFAULT: resnext_tiny-TEXTURES_V2.safetensors",
    ]


@pytest.mark.parametrize(
    ("model", "weights", "text"),
    [
        ("resnet51", "DEFAULT", "Did you mean 'resnet50'?"),
        ("resnet18", "IMAGENET1K_V2", "Did you mean 'IMAGENET1K_V1'?"),
        ("uni", "DEFAULT", "MahmoodLab/UNI isn't on this machine and can't be downloaded"),
    ],
)
def test_weights_that_cannot_be_had_are_an_error(
    model: str, weights: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        FetchCommand(model=(model,), weights=(weights,)).run()
    assert text in str(caught.value)
