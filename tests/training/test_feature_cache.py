"""Features are computed once, and training on them equals training through the frozen backbone."""

import dataclasses
import gc
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bioimg.config import ModelConfig
from bioimg.errors import UserError
from bioimg.models.classifier import Classifier, build_classifier
from bioimg.models.feature_extractor import backbone_digest, make_feature_extractor
from bioimg.storage import disk_cache
from bioimg.training import feature_cache, frozen_backbone
from bioimg.training.batches import Batch
from bioimg.training.frozen_backbone import FrozenBackbone
from bioimg.training.loop import train
from bioimg.training.trial_trainer import TrialTrainer
from support import toys
from support.gpus import set_gpu_memory

FROZEN = toys.trial(model="resnext_tiny", freeze="features", weights="TEXTURES_V1", epochs=3)


@pytest.fixture(autouse=True)
def _small_blocks_in_a_new_process(monkeypatch):
    monkeypatch.setattr(feature_cache, "BLOCK_IMAGES", 10)
    feature_cache._feature_caches.clear()


@pytest.fixture
def computed_blocks(monkeypatch) -> list[feature_cache.FeatureBlock]:
    """Record the blocks that are computed."""
    blocks = []
    compute = feature_cache.FeatureCache._compute_block

    def record(self, block, backbone):
        blocks.append(block)
        return compute(self, block, backbone)

    monkeypatch.setattr(feature_cache.FeatureCache, "_compute_block", record)
    return blocks


def run_in_new_process(config=FROZEN, images=None) -> TrialTrainer:
    """Return a trainer as in a process that has just started."""
    feature_cache._feature_caches.clear()
    return toys.run(config, images)


def losses(run: TrialTrainer) -> list[tuple[float, float]]:
    return [(epoch.train_loss, epoch.val_loss) for epoch in train(run)]


def block_files() -> list[Path]:
    return sorted(path for path in (disk_cache.cache_folder() / "features").glob("*/*-*"))


def training_features(run: TrialTrainer, view: int = 0) -> torch.Tensor:
    return run.input_source.load_batch(Batch(run.split.train, np.full(len(run.split.train), view)))


# computed once


def test_features_are_computed_once_for_all_seeds_and_runs(computed_blocks):
    first = losses(run_in_new_process())
    assert sum(len(block.indices) for block in computed_blocks) == 75 + 7 * len(
        toys.run(FROZEN).split.train
    )
    computed_blocks.clear()
    assert losses(run_in_new_process()) == first
    run_in_new_process(dataclasses.replace(FROZEN, seed=1, batch_size=7, learning_rate=0.1))
    assert not computed_blocks


def test_features_cost_the_same_whoever_has_computed_them():
    first = run_in_new_process()
    assert first.features_seconds > 0
    other_seed = run_in_new_process(dataclasses.replace(FROZEN, seed=1))
    assert other_seed.features_seconds == first.features_seconds


def test_folds_share_all_features(computed_blocks):
    whole = dataclasses.replace(FROZEN, folds=3)
    run_in_new_process(whole)
    assert sum(len(block.indices) for block in computed_blocks) == 8 * 75
    computed_blocks.clear()
    run_in_new_process(dataclasses.replace(whole, fold=1))
    assert not computed_blocks


def test_unaugmented_trial_uses_view_zero(computed_blocks):
    run_in_new_process()
    computed_blocks.clear()
    run_in_new_process(dataclasses.replace(FROZEN, augmentation="none"))
    assert not computed_blocks


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "TEXTURES_V2"},
        {"weights": "none"},
        {"precision": "bfloat16"},
        {"model": "toy", "weights": "none"},
    ],
    ids=lambda change: "-".join(change),
)
def test_feature_key_covers_model_weights_and_precision(change, computed_blocks):
    run_in_new_process()
    computed_blocks.clear()
    run_in_new_process(dataclasses.replace(FROZEN, **change))
    assert computed_blocks


def test_feature_key_covers_image_order():
    images = toys.images()
    places = np.random.default_rng(0).permutation(len(images))
    named = {name: tuple(getattr(images, name)[i] for i in places) for name in ("paths", "digests")}
    shuffled = dataclasses.replace(
        images, pixels=images.pixels[places], labels=images.labels[places], **named
    )
    assert shuffled.fingerprint == images.fingerprint
    run_in_new_process(images=images)
    alone = run_in_new_process(images=shuffled)
    plain = toys.run(dataclasses.replace(FROZEN, freeze="layer4"), shuffled)
    assert torch.allclose(training_features(alone), through_the_backbone(plain), atol=1e-5)


def test_random_weights_depend_on_the_seed(computed_blocks):
    random = dataclasses.replace(FROZEN, weights="none")
    run_in_new_process(random)
    computed_blocks.clear()
    run_in_new_process(dataclasses.replace(random, seed=1))
    assert computed_blocks


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-3], lambda b: b[:99] + bytes([b[99] ^ 1]) + b[100:], lambda _: b""]
)
def test_damaged_block_is_recomputed(damage, computed_blocks):
    expected = training_features(run_in_new_process())
    computed_blocks.clear()
    block_files()[0].write_bytes(damage(block_files()[0].read_bytes()))
    assert torch.equal(training_features(run_in_new_process()), expected)
    assert len(computed_blocks) == 1


def test_unwritable_cache_is_a_user_error(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        UserError,
        match=r"the cache folder .*file can't be written: .*environment variable BIOIMG_CACHE",
    ):
        run_in_new_process()


# memory


def test_large_features_stay_in_main_memory(monkeypatch):
    trainer = toys.run(FROZEN)
    batch = Batch(trainer.split.train, np.arange(len(trainer.split.train)) % 8)
    expected = trainer.input_source.load_batch(batch)
    values = trainer.input_source._values
    target_devices = []

    def record_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
        target_devices.append(device.type)
        return torch.as_tensor(values)

    monkeypatch.setattr(feature_cache, "to_device", record_device)
    # a GPU of which they would take just more than a quarter
    set_gpu_memory(monkeypatch, 4 * values.nbytes - 4)
    backbone = FrozenBackbone(
        trial=trainer.trial,
        images=trainer.images,
        classifier=trainer.classifier,
        normalisation=trainer.normalisation,
        dtype=trainer.dtype,
        device=trainer.device,
    )
    large = feature_cache.FeatureCache(
        backbone.feature_key(),
        shape=tuple(values.shape),
        dtype=torch.float32,
        image_size=16,
        device=torch.device("cuda"),
        description="",
    )
    large.compute_missing(pytest.fail, backbone.images_by_view(trainer.split), pytest.fail)
    assert torch.equal(large.load_batch(batch), expected)
    assert target_devices == ["cuda"], "only the chosen features go to the GPU"


def test_fine_tuning_releases_features():
    run_in_new_process()
    assert feature_cache._feature_caches
    toys.run(dataclasses.replace(FROZEN, freeze="layer4"))
    assert not feature_cache._feature_caches


def test_cached_features_need_no_images(monkeypatch):
    expected = losses(run_in_new_process())
    monkeypatch.setattr(frozen_backbone, "ImageBatches", pytest.fail)
    assert losses(run_in_new_process()) == expected


def test_backbone_copy_is_freed_after_computing(monkeypatch):
    copies = []

    def record(*args: object) -> Callable[[torch.Tensor], torch.Tensor]:
        extract = make_feature_extractor(*args)
        copies.append(weakref.ref(extract.__self__.model))
        return extract

    monkeypatch.setattr(frozen_backbone, "make_feature_extractor", record)
    gc.disable()
    try:
        run_in_new_process()
        assert [copy() for copy in copies] == [None]
    finally:
        gc.enable()


# shared by processes

LANE = """
import sys, torch, dataclasses
from support import toys
from bioimg.training import feature_cache
torch.set_num_threads(1)
feature_cache.BLOCK_IMAGES = 10
compute = feature_cache.FeatureCache._compute_block
print("ready", flush=True); input()
def note(self, block, backbone):
    print("computes", flush=True)
    if sys.argv[1:] == ["hang"]:
        input()
    return compute(self, block, backbone)
feature_cache.FeatureCache._compute_block = note
trial = toys.trial(model="resnext_tiny", freeze="features", weights="TEXTURES_V1", epochs=3)
print("sum", toys.run(trial).input_source._values[0].sum().item())
"""


def start_lane(*arguments: str) -> "subprocess.Popen[str]":
    started = subprocess.Popen(
        [sys.executable, "-c", LANE, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def let_continue(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def lanes() -> Iterator[list["subprocess.Popen[str]"]]:
    started = [start_lane(), start_lane()]
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.ray
def test_two_lanes_compute_each_block_once(lanes):
    for process in lanes:
        let_continue(process)
    outputs = [process.communicate()[0].splitlines() for process in lanes]
    assert sum(line == "computes" for lines in outputs for line in lines) == len(block_files())
    assert outputs[0][-1] == outputs[1][-1], "the lanes have different features"


@pytest.mark.ray
def test_block_of_killed_process_is_computed_by_another():
    hanging = start_lane("hang")
    let_continue(hanging)
    assert hanging.stdout is not None
    assert hanging.stdout.readline() == "computes\n"
    waiting = start_lane()
    let_continue(waiting)
    assert waiting.stdout is not None
    # blocks of view 0 and of the 51 training images in seven more views, except for the locked one
    others = 75 // 10 + 1 + 7 * 6 - 1
    assert [waiting.stdout.readline() for _ in range(others)] == ["computes\n"] * others
    hanging.send_signal(signal.SIGKILL)
    hanging.communicate()
    output, _ = waiting.communicate(timeout=60)
    assert output.splitlines()[-1].startswith("sum")
    assert len(block_files()) == others + 1


@pytest.mark.ray
def test_killed_computation_goes_on_with_what_is_missing(monkeypatch, tmp_path, computed_blocks):
    killed = start_lane()
    let_continue(killed)
    assert killed.stdout is not None
    assert [killed.stdout.readline() for _ in range(10)] == ["computes\n"] * 10
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    saved = {path.name for path in block_files()}
    assert 9 <= len(saved) < 50
    continued = training_features(run_in_new_process(), view=6)
    recomputed = {f"{block.view}-{block.key:016x}" for block in computed_blocks}
    assert {path.name for path in block_files()} == saved | recomputed
    assert not saved & recomputed
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "other"))
    assert torch.equal(training_features(run_in_new_process(), view=6), continued)


# progress


@pytest.fixture
def reported(monkeypatch) -> list[str]:
    """Collect messages of a computation that counts as long after its first block."""
    monkeypatch.setattr(feature_cache, "FIRST_REPORT_S", 0)
    monkeypatch.setattr(frozen_backbone, "SHORT_WAIT_S", 0)
    return []


def run_with_messages(messages: list[str], **fields: object) -> None:
    feature_cache._feature_caches.clear()
    toys.run(dataclasses.replace(FROZEN, **fields), on_message=messages.append)


def test_long_computation_says_how_long_it_will_take_and_why(reported):
    run_with_messages(reported)
    # 8 blocks of unchanged images, and 6 of training images in each other view
    (text,) = reported
    assert re.fullmatch(
        r"Features of resnext_tiny: 2 %, about 0:\d\d:\d\d left\. "
        r"\(With --augmentation none, 1 of 8 views would do\.\)",
        text,
    )
    run_with_messages(reported)
    assert len(reported) == 1, "cached features take no time"


def test_single_view_has_nothing_to_leave_out(reported):
    run_with_messages(reported, augmentation="none")
    (text,) = reported
    assert "augmentation" not in text


REPORTER = """
import sys
from pathlib import Path
from bioimg.storage.process_lock import lock_slot
with lock_slot(Path(sys.argv[1]), 0, wait=False):
    print("reports", flush=True)
    input()
"""


@pytest.mark.ray
def test_one_of_several_processes_reports_for_all(reported):
    run_with_messages(reported)
    folder = block_files()[0].parent
    for file in block_files():
        file.unlink()
    command = [sys.executable, "-c", REPORTER, str(folder / "reporter")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "reports\n"
        run_with_messages(reported)
        other.kill()
    assert len(reported) == 1


def test_short_computation_is_silent(monkeypatch):
    monkeypatch.setattr(feature_cache, "FIRST_REPORT_S", 0)
    messages = []
    run_with_messages(messages)
    assert messages == []


# equal to training through the backbone


def through_the_backbone(run: TrialTrainer, view: int = 0) -> torch.Tensor:
    run.classifier.model.eval()
    with torch.no_grad():
        return run.classifier.compute_features(
            run.input_source.load_batch(Batch(run.split.train, np.full(len(run.split.train), view)))
        )


@pytest.mark.parametrize("view", [0, 6])
def test_folded_backbone_gives_the_same_features(view):
    plain = toys.run(dataclasses.replace(FROZEN, freeze="layer4"))
    assert torch.allclose(
        training_features(toys.run(FROZEN), view),
        through_the_backbone(plain, view),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("precision", "loss", "weight"), [("float32", 1e-4, 1e-4), ("bfloat16", 0.02, 0.1)]
)
def test_training_on_features_matches_training_through_backbone(precision, loss, weight):
    """Allow for rounding. In bfloat16, to 0.4 %, a folded backbone rounds elsewhere.

    Losses differ by that much. Weights differ more, since AdamW takes steps of one size even where
    a gradient is little more than rounding. Another seed differs by 0.2 and 0.4.
    """
    config = dataclasses.replace(FROZEN, epochs=6, precision=precision)
    cached, plain = toys.run(config), toys.run(dataclasses.replace(config, freeze="layer4"))
    assert np.allclose(losses(cached), losses(plain), rtol=loss)
    ours, theirs = cached.classifier.head.weight, plain.classifier.head.weight
    assert (ours - theirs).norm() < weight * theirs.norm()


def test_bfloat16_features_are_those_of_autocast():
    cached = toys.run(dataclasses.replace(FROZEN, precision="bfloat16"))
    plain = toys.run(dataclasses.replace(FROZEN, freeze="layer4"))
    assert training_features(cached).dtype == torch.bfloat16
    expected = through_the_backbone(plain)
    assert (training_features(cached) - expected).abs().max() < 0.02 * expected.abs().max()
    assert np.isfinite(losses(cached)).all()


def count_batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        pytest.param("densenet121", 62, marks=pytest.mark.nightly),
        pytest.param("maxvit_t", 11, marks=pytest.mark.nightly),
        pytest.param("vit_b_16", 0, marks=pytest.mark.nightly),
    ],
)
def test_only_batch_norm_after_convolution_is_folded(name, left):
    classifier = build_classifier(ModelConfig(model=name, weights="none", freeze="features"), 3)
    for module in classifier.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    before, images = backbone_digest(classifier), torch.rand(2, 3, 224, 224)
    classifier.model.eval()
    fast = make_feature_extractor(classifier, torch.float32)
    with torch.no_grad():
        expected = classifier.compute_features(images)
        assert torch.allclose(
            fast(images), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item()
        )
    folded = fast.__self__.model  # type: ignore[attr-defined]
    assert count_batch_norms(folded) == left
    assert backbone_digest(classifier) == before, "the classifier itself isn't changed"


class ConstantModel(nn.Module):
    """A model with a constant of five dimensions, as tracing leaves in a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.register_buffer("constant", torch.rand(1, 1, 1, 4, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(images).mean((2, 3)) * self.constant.flatten())


def test_constant_of_five_dimensions_stays():
    classifier = Classifier(ConstantModel().eval(), "fc", ())
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(
            make_feature_extractor(classifier, torch.float32)(images),
            classifier.compute_features(images),
            atol=1e-6,
        )


class UntraceableModel(nn.Module):
    """A model whose forward pass depends on values, which can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.conv(images)).mean((2, 3))
        return self.fc(-features if features.sum() > 0 else features)


def test_untraceable_model_stays():
    moody = Classifier(UntraceableModel().eval(), "fc", ())
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(
            make_feature_extractor(moody, torch.float32)(images),
            moody.compute_features(images),
            atol=1e-6,
        )
