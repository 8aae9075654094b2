"""Features are computed once, and training on them equals training through the frozen backbone."""

import dataclasses
import gc
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

FROZEN = toys.trial(model="resnext_tiny", freeze="features", weights="TEXTURES_V1", epochs=3)


@pytest.fixture(autouse=True)
def _small_blocks_and_a_process_that_knows_none(monkeypatch):
    monkeypatch.setattr(feature_cache, "BLOCK_IMAGES", 10)
    feature_cache._feature_caches.clear()


@pytest.fixture
def computed(monkeypatch) -> list[feature_cache.FeatureBlock]:
    """Records the blocks that are computed."""
    blocks, compute = [], feature_cache.FeatureCache._compute_block

    def note(self, block, backbone):
        blocks.append(block)
        return compute(self, block, backbone)

    monkeypatch.setattr(feature_cache.FeatureCache, "_compute_block", note)
    return blocks


def anew(config=FROZEN, of=None) -> TrialTrainer:
    """A run as in a process that has just started."""
    feature_cache._feature_caches.clear()
    return toys.run(config, of)


def losses(run: TrialTrainer) -> list[tuple[float, float]]:
    return [(epoch.train_loss, epoch.val_loss) for epoch in train(run)]


def files() -> list[Path]:
    return sorted(path for path in (disk_cache.cache_folder() / "features").glob("*/*-*"))


def seen(run: TrialTrainer, view: int = 0) -> torch.Tensor:
    return run.input_source.load_batch(Batch(run.split.train, np.full(len(run.split.train), view)))


# once


def test_features_are_computed_once_for_all_seeds_and_starts(computed):
    first = losses(anew())
    assert sum(len(block.indices) for block in computed) == 75 + 7 * len(
        toys.run(FROZEN).split.train
    )
    computed.clear()
    assert losses(anew()) == first
    anew(dataclasses.replace(FROZEN, seed=1, batch_size=7, learning_rate=0.1))
    assert not computed


def test_folds_share_all_features(computed):
    whole = dataclasses.replace(FROZEN, folds=3)
    anew(whole)
    assert sum(len(block.indices) for block in computed) == 8 * 75
    computed.clear()
    anew(dataclasses.replace(whole, fold=1))
    assert not computed


def test_without_augmentation_the_images_as_they_are_will_do(computed):
    anew()
    computed.clear()
    anew(dataclasses.replace(FROZEN, augmentation="none"))
    assert not computed


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
def test_what_features_depend_on_is_in_their_key(change, computed):
    anew()
    computed.clear()
    anew(dataclasses.replace(FROZEN, **change))
    assert computed


def test_the_same_images_in_another_order_have_features_of_their_own():
    images = toys.images()
    places = np.random.default_rng(0).permutation(len(images))
    named = {name: tuple(getattr(images, name)[i] for i in places) for name in ("paths", "digests")}
    shuffled = dataclasses.replace(
        images, pixels=images.pixels[places], labels=images.labels[places], **named
    )
    assert shuffled.fingerprint == images.fingerprint
    anew(of=images)
    alone = anew(of=shuffled)
    plain = toys.run(dataclasses.replace(FROZEN, freeze="layer4"), shuffled)
    assert torch.allclose(seen(alone), through_the_backbone(plain), atol=1e-5)


def test_random_weights_depend_on_the_seed(computed):
    random = dataclasses.replace(FROZEN, weights="none")
    anew(random)
    computed.clear()
    anew(dataclasses.replace(random, seed=1))
    assert computed


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-3], lambda b: b[:99] + bytes([b[99] ^ 1]) + b[100:], lambda _: b""]
)
def test_a_damaged_block_is_computed_again(damage, computed):
    expected = seen(anew())
    computed.clear()
    files()[0].write_bytes(damage(files()[0].read_bytes()))
    assert torch.equal(seen(anew()), expected)
    assert len(computed) == 1


def test_features_that_can_not_be_kept_are_told(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        UserError,
        match=r"the cache folder .*file can't be written: .*environment variable BIOIMG_CACHE",
    ):
        anew()


# where they are


def test_features_that_would_take_more_than_a_quarter_of_a_gpu_stay_in_memory_and_are_sent_by_the_batch(
    monkeypatch,
):
    plain, sendings = toys.run(FROZEN), []
    batch = Batch(plain.split.train, np.arange(len(plain.split.train)) % 8)
    expected, size = plain.input_source.load_batch(batch), plain.input_source._values.nbytes

    def send(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
        sendings.append(device.type)
        return torch.as_tensor(values)

    monkeypatch.setattr(feature_cache, "to_device", send)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 4 * size - 4))
    backbone = FrozenBackbone(
        trial=plain.trial,
        images=plain.images,
        classifier=plain.classifier,
        normalisation=plain.normalisation,
        dtype=plain.dtype,
        device=plain.device,
    )
    more = {
        "shape": plain.input_source._values.shape,
        "dtype": torch.float32,
        "image_size": 16,
        "description": "",
    }
    large = feature_cache.FeatureCache(backbone.feature_key(), device=torch.device("cuda"), **more)
    large.compute_missing(pytest.fail, backbone.images_by_view(plain.split))
    assert torch.equal(large.load_batch(batch), expected)
    assert sendings == ["cpu", "cuda"], "where they are chosen, and the chosen ones"


def test_fine_tuning_gets_the_memory_of_features():
    anew()
    assert feature_cache._feature_caches
    toys.run(dataclasses.replace(FROZEN, freeze="layer4"))
    assert not feature_cache._feature_caches


def test_images_are_not_brought_to_the_device_for_features_that_are_known(monkeypatch):
    expected = losses(anew())
    monkeypatch.setattr(frozen_backbone, "ImageBatches", pytest.fail)
    assert losses(anew()) == expected


def test_the_backbone_s_copy_is_gone_when_its_features_are_there(monkeypatch):
    copies = []

    def note(*given: object) -> Callable[[torch.Tensor], torch.Tensor]:
        made = make_feature_extractor(*given)
        copies.append(weakref.ref(made.__self__.model))
        return made

    monkeypatch.setattr(frozen_backbone, "make_feature_extractor", note)
    gc.disable()
    try:
        anew()
        assert [copy() for copy in copies] == [None]
    finally:
        gc.enable()


# shared by processes

LANE = """
import sys, torch, dataclasses
from support import toys
from bioimg.training import feature_cache, frozen_backbone
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


def lane(*arguments: str) -> "subprocess.Popen[str]":
    started = subprocess.Popen(
        [sys.executable, "-c", LANE, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def lanes() -> Iterator[list["subprocess.Popen[str]"]]:
    started = [lane(), lane()]
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.ray
def test_two_lanes_that_want_the_same_features_compute_each_block_once(lanes):
    for process in lanes:
        go(process)
    said = [process.communicate()[0].splitlines() for process in lanes]
    assert sum(line == "computes" for lines in said for line in lines) == len(files())
    assert said[0][-1] == said[1][-1], "both have the same numbers"


@pytest.mark.ray
def test_a_block_whose_process_is_killed_is_computed_by_another():
    stuck = lane("hang")
    go(stuck)
    assert stuck.stdout is not None
    assert stuck.stdout.readline() == "computes\n"
    waiting = lane()
    go(waiting)
    assert waiting.stdout is not None
    others = (
        75 // 10 + 1 + 7 * 6 - 1
    )  # blocks of view 0 and of the 51 training images in seven more, but for the locked one
    assert [waiting.stdout.readline() for _ in range(others)] == ["computes\n"] * others
    stuck.send_signal(signal.SIGKILL)
    stuck.communicate()
    said, _ = waiting.communicate(timeout=60)
    assert said.splitlines()[-1].startswith("sum")
    assert len(files()) == others + 1


# as through the backbone


def through_the_backbone(run: TrialTrainer, view: int = 0) -> torch.Tensor:
    run.classifier.model.eval()
    with torch.no_grad():
        return run.classifier.compute_features(
            run.input_source.load_batch(Batch(run.split.train, np.full(len(run.split.train), view)))
        )


@pytest.mark.parametrize("view", [0, 6])
def test_features_of_a_folded_backbone_are_those_of_the_backbone(view):
    plain = toys.run(dataclasses.replace(FROZEN, freeze="layer4"))
    assert torch.allclose(
        seen(toys.run(FROZEN), view), through_the_backbone(plain, view), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("precision", "loss", "weight"), [("float32", 1e-4, 1e-4), ("bfloat16", 0.02, 0.1)]
)
def test_the_seeded_trajectory_on_features_is_that_through_the_backbone(precision, loss, weight):
    """In bfloat16, which rounds to 0.4%, a folded backbone rounds elsewhere: losses differ by that much. Weights differ more,
    since AdamW takes steps of one size also where a gradient is little else than rounding. Another seed is 0.2 and 0.4 away.
    """
    config = dataclasses.replace(FROZEN, epochs=6, precision=precision)
    cached, plain = toys.run(config), toys.run(dataclasses.replace(config, freeze="layer4"))
    assert np.allclose(losses(cached), losses(plain), rtol=loss)
    ours, theirs = cached.classifier.head.weight, plain.classifier.head.weight
    assert (ours - theirs).norm() < weight * theirs.norm()


def test_in_bfloat16_a_head_sees_what_autocast_would_have_made_of_features():
    cached = toys.run(dataclasses.replace(FROZEN, precision="bfloat16"))
    plain = toys.run(dataclasses.replace(FROZEN, freeze="layer4"))
    assert seen(cached).dtype == torch.bfloat16
    expected = through_the_backbone(plain)
    assert (seen(cached) - expected).abs().max() < 0.02 * expected.abs().max()
    assert np.isfinite(losses(cached)).all()


def norms(model: nn.Module) -> int:
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
def test_only_a_batch_norm_that_directly_follows_a_convolution_is_folded(name, left):
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
    assert norms(folded) == left
    assert backbone_digest(classifier) == before, "the classifier itself isn't changed"


class Moody(nn.Module):
    """Does what can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.conv(images)).mean((2, 3))
        return self.fc(-features if features.sum() > 0 else features)


def test_a_model_that_can_not_be_traced_is_left_as_it_is():
    moody = Classifier(Moody().eval(), "fc", ())
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(
            make_feature_extractor(moody, torch.float32)(images),
            moody.compute_features(images),
            atol=1e-6,
        )
