"""Training uses the trial's frozen stages, precision and compiler."""

import dataclasses
import functools

import numpy as np
import pytest
import tifffile
import torch

from bioimg import data
from bioimg.data.file_array import FileArray
from bioimg.training import device_memory, image_batches, precision, trial_trainer
from bioimg.training.batches import Batch
from bioimg.training.loop import train
from support import toys
from support.gpus import set_gpu_memory


def losses(**fields: object) -> list[tuple[float, float]]:
    return [(epoch.train_loss, epoch.val_loss) for epoch in train(toys.run(toys.trial(**fields)))]


def kept_activation_bytes(freeze: str) -> int:
    """Return the bytes of activations, without weights, that autograd keeps for one batch."""
    run, kept = toys.run(toys.trial(model="resnext_tiny", image_size=16, freeze=freeze)), {}
    weights = {tensor.data_ptr() for tensor in run.classifier.model.state_dict().values()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    run.start_epoch(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run.forward(Batch(run.split.train[:12], np.zeros(12, int)))
    return sum(kept.values())


def test_no_activations_are_kept_below_frozen_stage():
    all_stages = [
        kept_activation_bytes(freeze) for freeze in ("none", "layer1", "layer2", "layer3", "layer4")
    ]
    assert all_stages == sorted(all_stages, reverse=True)
    assert all_stages[-1] == 12 * 512 * 4, "the head's inputs"


def test_frozen_output_requires_no_gradient():
    run = toys.run(toys.trial(model="resnext_tiny", image_size=16, freeze="layer2"))
    requires_gradient = []
    model = run.classifier.model
    for name in ("layer2", "layer3"):
        model.get_submodule(name).register_forward_hook(
            lambda *given: requires_gradient.append(given[2].requires_grad)
        )
    run.start_epoch(1)
    run.forward(Batch(run.split.train[:12], np.zeros(12, int)))
    assert requires_gradient == [False, True]


def test_vit_frozen_through_encoder_trains_only_head():
    run = toys.run(
        toys.trial(model="vit_b_32", image_size=224, freeze="encoder"),
        toys.images(size=224, per_class=7),
    )
    trained = [
        name for name, weight in run.classifier.model.named_parameters() if weight.requires_grad
    ]
    assert trained == ["heads.head.weight", "heads.head.bias"]


def test_tf32_is_off_by_default():
    for allowed in (True, False):
        toys.run(toys.trial(tf32=allowed))
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
        assert torch.backends.cudnn.allow_tf32 == allowed


def test_compiled_model_trains_as_uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    assert np.allclose(losses(compile=True), losses(), rtol=1e-5)


def test_process_compiles_more_models_than_torch_does_by_default(monkeypatch):
    compiled = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> object:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    for layers in range(1, 13):
        module = torch.nn.Sequential(*(torch.nn.ReLU() for _ in range(layers)))
        trial_trainer.compile_module(module)(torch.ones(2))
    assert len(compiled) == 12


@pytest.mark.nightly
def test_compiled_weights_keep_their_names():
    compiled = toys.run(toys.trial(freeze="features", compile=True))
    assert np.allclose(
        [e.val_loss for e in train(compiled)],
        [val for _, val in losses(freeze="features")],
        rtol=1e-4,
    )
    assert list(compiled.best_weights) == ["weight", "bias"]


def test_images_are_copied_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(image_batches, "COPY_CHUNK_IMAGES", 10)
    pixels = np.asarray(toys.images().pixels)
    pixels.tofile(tmp_path / "pixels")
    for source in (pixels, FileArray(tmp_path / "pixels", pixels.shape, "uint8")):
        assert torch.equal(
            image_batches.copy_in_chunks(source, torch.device("cpu")), torch.from_numpy(pixels)
        )


@pytest.mark.parametrize("field", ["image_size", "resize", "channels", "scaling"])
def test_resident_images_depend_on_preprocessing(tmp_path, monkeypatch, field):
    """The files and so the digests are the same, since digests are taken before resizing."""
    monkeypatch.setattr(image_batches, "_resident_by_key", {})
    generator, device = np.random.default_rng(0), torch.device("cpu")
    for path in (tmp_path / name / f"{number}.tif" for name in "ab" for number in range(10)):
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(
            path, generator.integers(0, 4000, (20, 30, 3), dtype=np.uint16), photometric="rgb"
        )
    config = toys.trial(data=str(tmp_path), scaling="range")
    other = {"image_size": 12, "resize": "crop", "channels": "2,1,0", "scaling": "percentiles"}[
        field
    ]
    for trial in (config, dataclasses.replace(config, **{field: other}), config):
        images = data.load_dataset(trial.dataset_config).images
        resident = image_batches.resident_images(
            images.pixels, image_batches.pixel_key(trial.dataset_config, images), device
        )
        assert np.array_equal(resident, images.pixels)
        # a lane gets a new object for each trial
        reloaded = data.load_dataset(trial.dataset_config).images
        assert (
            image_batches.resident_images(
                reloaded.pixels, image_batches.pixel_key(trial.dataset_config, reloaded), device
            )
            is resident
        )


def test_images_stay_on_gpu_up_to_a_quarter(monkeypatch):
    pixels = toys.images().pixels
    for memory, resident in ((4 * pixels.nbytes, True), (4 * pixels.nbytes - 4, False)):
        set_gpu_memory(monkeypatch, memory)
        assert device_memory.fits_on_device(pixels.nbytes, torch.device("cuda")) == resident


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True}, "float32"),
        ({"sve": True}, "float32"),
    ],
)
def test_cpu_uses_bfloat16_only_with_amx(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert str(precision.resolve_dtype("auto", torch.device("cpu"))) == f"torch.{dtype}"
    assert precision.resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16, (
        "an explicit setting is followed"
    )
