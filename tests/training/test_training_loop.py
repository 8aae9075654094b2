"""Batches, the training loop, and what several workers share."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from bioimg import local
from bioimg.cluster import lane_worker
from bioimg.cluster.coordinator import Job
from bioimg.config import ModelConfig
from bioimg.data.image_set import ImageSet
from bioimg.errors import UserError
from bioimg.experiment import Experiment
from bioimg.models import classifier
from bioimg.progress.listener import CombinedListener
from bioimg.results.result_store import ResultStore
from bioimg.training import loop, trial_runner, trial_trainer
from bioimg.training.batches import (
    VIEW_COUNTS,
    Batch,
    TrainingStep,
    batch_bounds,
    draw_epoch,
    iter_training_steps,
)
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup
from bioimg.training.evaluation import evaluate_logits
from bioimg.training.image_batches import select_views
from bioimg.training.loop import NonFiniteLossError, train
from bioimg.training.trial_recorder import TrialContext, TrialRecorder, batch_norm_scope
from bioimg.training.trial_trainer import TrialTrainer
from support import toys

LABELS = np.repeat([0, 1], [90, 10])


def draw(images: int, *, seed: int = 0, epoch: int = 1, sampling: str = "shuffle") -> Batch:
    """Draw an epoch of the first images."""
    return draw_epoch(
        np.arange(images),
        LABELS,
        seed=seed,
        epoch=epoch,
        sampling=sampling,
        augmentation="dihedral",
    )


def worker_steps(epoch_images: Batch, batch_size: int, workers: int) -> list[list[TrainingStep]]:
    """Return the steps of each of several workers."""
    groups = [WorkerGroup(rank, workers) for rank in range(workers)]
    cpu = torch.device("cpu")
    return [list(iter_training_steps(epoch_images, batch_size, group, cpu)) for group in groups]


def train_curves(trainer: TrialTrainer) -> list[dict[str, float]]:
    """Train, and return the results of the epochs without their seconds."""
    epochs = [dataclasses.asdict(epoch) for epoch in train(trainer)]
    for epoch in epochs:
        del epoch["seconds"]
    return epochs


def make_context(folder: Any, worker_group: WorkerGroup = SINGLE_WORKER) -> TrialContext:
    return TrialContext(
        experiment_name="toy",
        store=ResultStore(folder),
        device=torch.device("cpu"),
        worker_group=worker_group,
    )


# batches


@pytest.mark.parametrize(
    ("images", "batch_size"), [(10, 4), (8, 4), (9, 4), (3, 4), (1, 4), (5, 1)]
)
def test_epoch_has_every_image_once(images, batch_size):
    (steps,) = worker_steps(draw(images), batch_size, workers=1)
    indices = np.concatenate([step.batch.indices for step in steps])
    assert sorted(indices) == list(range(images))


def test_last_batch_of_one_image_joins_previous():
    assert batch_bounds(9, 4) == [(0, 4), (4, 9)]
    assert batch_bounds(10, 4) == [(0, 4), (4, 8), (8, 10)]


@pytest.mark.parametrize("images", [2, 3, 5, 34, 39])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_no_worker_gets_a_single_image(images, workers):
    for steps in worker_steps(draw(images), 16, workers):
        assert min(len(step.batch.indices) for step in steps) >= 2


def image_views(batch: Batch) -> set[tuple[int, int]]:
    """Return the images and views of a batch, which are the same as those that were sent."""
    assert batch.sent is not None
    assert batch.sent.tolist() == [batch.indices.tolist(), batch.views.tolist()]
    return set(zip(batch.indices.tolist(), batch.views.tolist(), strict=True))


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_worker_shares_form_the_batches_of_one_worker(workers):
    epoch_images = draw(50, epoch=2)
    (single_steps,) = worker_steps(epoch_images, 12, workers=1)
    shares = worker_steps(epoch_images, 12, workers)
    for number, single_step in enumerate(single_steps):
        pairs = set()
        for share in shares:
            batch, loss_factor = share[number]
            if loss_factor:
                pairs |= image_views(batch)
        assert pairs == image_views(single_step.batch)


def test_worker_without_images_takes_a_step_that_does_not_count():
    shares = worker_steps(draw(6), 4, workers=4)
    assert [len(share) for share in shares] == [2, 2, 2, 2]
    assert [share[0].loss_factor for share in shares] == [1.0, 1.0, 0.0, 0.0]
    assert [share[1].loss_factor for share in shares] == [2.0, 0.0, 0.0, 0.0]


def test_order_and_views_depend_on_epoch_and_seed():
    def order(seed: int, epoch: int) -> list[list[int]]:
        images = draw(50, seed=seed, epoch=epoch)
        return [images.indices.tolist(), images.views.tolist()]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_dihedral_views_are_all_flips_and_quarter_turns():
    images = torch.arange(27, dtype=torch.uint8).view(1, 3, 3, 3)
    views = np.arange(VIEW_COUNTS["dihedral"])
    shown = select_views(images, Batch(np.zeros(8, dtype=np.int64), views)).numpy()
    image = images[0].numpy()
    expected = {
        np.rot90(side, turns).tobytes()
        for side in (image, image.transpose(1, 0, 2))
        for turns in range(4)
    }
    assert {view.tobytes() for view in shown} == expected
    assert len(expected) == 8
    assert np.array_equal(shown[0], image)


@pytest.mark.parametrize("side", [1, 4, 5])
def test_each_image_of_a_batch_is_in_its_own_view(side):
    """As torch turns and mirrors each image alone, channels last in memory."""
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(256, size=(9, side, side, 3), dtype=np.uint8))
    batch = Batch(generator.integers(9, size=20), generator.integers(8, size=20))
    shown = select_views(images, batch)
    for row, index, view in zip(shown, batch.indices, batch.views, strict=True):
        turned = torch.rot90(images[index], int(view) % 4)
        assert torch.equal(row, turned.flip(1) if view >= 4 else turned)
    assert shown.is_contiguous()


def test_balanced_sampling_shows_each_class_equally():
    epochs = [draw(100, epoch=epoch, sampling="balanced").indices for epoch in range(20)]
    indices = np.concatenate(epochs)
    assert len(indices) == 20 * 100
    assert LABELS[indices].mean() == pytest.approx(0.5, abs=0.05)


# the loop


def test_training_learns():
    epochs = train_curves(toys.run(toys.trial(epochs=20)))
    assert epochs[-1]["val_loss"] < epochs[0]["val_loss"]
    assert epochs[-1]["val_accuracy"] > 0.9


@pytest.mark.parametrize("freeze", ["none", "features", "head-first"])
def test_same_seed_gives_the_same_numbers(freeze):
    first, again, other = (
        train_curves(toys.run(toys.trial(freeze=freeze, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_seed_determines_head_of_model_that_draws_while_inspected():
    config = ModelConfig(model="regnet_y_400mf", weights="none", image_size=32)
    classifier._meta_model.cache_clear()
    cold = classifier.build_classifier(config, 3).head.weight
    warm = classifier.build_classifier(config, 3).head.weight
    assert torch.equal(cold, warm)


def test_resumed_trial_equals_uninterrupted_one():
    config = toys.trial(epochs=4, schedule="cosine")
    uninterrupted = toys.run(config)
    expected = train_curves(uninterrupted)
    interrupted = toys.run(config)
    epochs = train(interrupted)
    next(epochs)
    next(epochs)
    resumed = toys.run(config)
    resumed.load_state_dict(interrupted.state_dict())
    assert train_curves(resumed) == expected[2:]
    for name, tensor in uninterrupted.best_weights.items():
        assert torch.equal(resumed.best_weights[name], tensor)


def test_best_weights_have_the_lowest_validation_loss():
    trainer = toys.run(toys.trial(epochs=12, learning_rate=0.3))
    losses = [epoch.val_loss for epoch in train(trainer)]
    assert losses.index(min(losses)) < len(losses) - 1, (
        "the test needs a best epoch before the last"
    )
    trainer.restore_best()
    assert trainer.evaluate(trainer.split.val).loss == min(losses)


def test_balanced_loss_and_score_are_means_over_the_classes_that_occur():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], [50, 5, 2])
    logits = torch.from_numpy(generator.normal(size=(len(labels), 4)))
    plain = evaluate_logits(logits, labels, "accuracy")
    balanced = evaluate_logits(logits, labels, "balanced_accuracy")
    by_class = [
        evaluate_logits(logits[labels == label], labels[labels == label], "accuracy")
        for label in (0, 1, 3)
    ]
    assert balanced.loss == pytest.approx(np.mean([each.loss for each in by_class]))
    assert balanced.score == pytest.approx(np.mean([each.accuracy for each in by_class]))
    assert plain.score == plain.accuracy == balanced.accuracy != balanced.score


@pytest.mark.parametrize("score", ["accuracy", "balanced_accuracy"])
def test_epochs_are_validated_by_the_score(score):
    images = select_images(toys.images(classes=2), np.arange(40))  # 25 and 15 images
    trainer = toys.run(toys.trial(epochs=2, score=score), images)
    *_, last = train(trainer)
    indices = trainer.split.val
    expected = evaluate_logits(trainer.predict_logits(indices), images.labels[indices], score)
    assert (last.val_loss, last.val_accuracy, last.val_score) == expected[:3]


def test_state_of_version_without_scores_resumes_with_accuracy():
    trainer = toys.run(toys.trial(epochs=1))
    list(train(trainer))
    state = trainer.state_dict()
    for epoch in state["history"]:
        del epoch["val_score"]
    resumed = toys.run(trainer.trial)
    resumed.load_state_dict(state)
    assert resumed.history == trainer.history


def test_non_finite_loss_ends_training_and_names_the_step():
    message = r"the loss is (nan|inf) at epoch \d+, step \d+ of 5. Lower `learning_rate` \(1e\+20\)"
    with pytest.raises(NonFiniteLossError, match=message):
        list(train(toys.run(toys.trial(learning_rate=1e20, optimizer="sgd"))))


def select_images(images: ImageSet, rows: np.ndarray) -> ImageSet:
    return dataclasses.replace(
        images,
        pixels=images.pixels[rows],
        labels=images.labels[rows],
        paths=tuple(images.paths[row] for row in rows),
        digests=tuple(images.digests[row] for row in rows),
    )


def test_balanced_class_weights_give_classes_equal_influence():
    images = toys.images(per_class=40, classes=2)
    rare = np.flatnonzero(images.labels == 0)[:10]
    frequent = np.flatnonzero(images.labels == 1)
    unbalanced = select_images(images, np.concatenate([rare, frequent]))
    trainer = toys.run(toys.trial(class_weights="balanced"), unbalanced)
    counts = np.bincount(unbalanced.labels[trainer.split.train])
    assert trainer.class_weights is not None
    influence = counts * trainer.class_weights.numpy()
    assert influence.tolist() == pytest.approx([counts.sum() / 2] * 2)
    assert train_curves(trainer) != train_curves(toys.run(toys.trial(), unbalanced))


@pytest.mark.parametrize(("freeze", "rate"), [("features", 0.2), ("none", 0.1)])
def test_head_alone_is_trained_at_its_own_multiple_of_the_learning_rate(freeze, rate):
    fields = {"freeze": freeze, "epochs": 1}
    trainer = toys.run(toys.trial(learning_rate=0.1, head_rate_factor=2.0, **fields))
    plain = toys.run(toys.trial(learning_rate=rate, **fields))
    assert train_curves(trainer) == train_curves(plain)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.gpu
@pytest.mark.parametrize("freeze", ["none", "features"])
def test_gpu_epoch_is_close_to_cpu_and_never_waits(freeze, monkeypatch):
    def steps_without_waiting(*args: Any) -> Iterator[TrainingStep]:
        torch.cuda.set_sync_debug_mode("error")
        yield from iter_training_steps(*args)
        torch.cuda.set_sync_debug_mode("default")

    config = toys.trial(epochs=1, freeze=freeze)
    (expected,) = train(toys.run(config))
    trainer = toys.run(config, device="cuda")
    monkeypatch.setattr(loop, "iter_training_steps", steps_without_waiting)
    (epoch,) = train(trainer)
    losses = (epoch.train_loss, epoch.val_loss)
    assert losses == pytest.approx((expected.train_loss, expected.val_loss), rel=0.01)


# frozen stages


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [("features", {"fc"}), ("layer2", {"layer3", "layer4", "fc"}), ("layer4", {"fc"})],
)
def test_frozen_tensors_stay_the_same_to_the_last_bit(freeze, trained):
    trainer = toys.run(toys.trial(model="resnext_tiny", image_size=16, freeze=freeze))
    state = trainer.classifier.model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    list(train(trainer))
    after = trainer.classifier.model.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert {name.split(".")[0] for name in changed} == trained


def test_cached_features_train_as_the_frozen_backbone():
    config = toys.trial(model="resnext_tiny", freeze="features", epochs=4)
    cached = toys.run(config)
    # the same is frozen, but each batch goes through it
    computed = toys.run(dataclasses.replace(config, freeze="layer4"))
    assert cached.features_seconds is not None
    assert computed.features_seconds is None
    for epoch, expected in zip(train_curves(cached), train_curves(computed), strict=True):
        assert epoch.pop("val_correct") == expected.pop("val_correct")
        assert epoch == pytest.approx(expected, rel=1e-5)


def test_features_of_a_view_are_those_of_the_turned_image():
    cached = toys.run(toys.trial(model="resnext_tiny", freeze="features"))
    computed = toys.run(toys.trial(model="resnext_tiny", freeze="layer4"))
    computed.classifier.model.eval()
    batch = Batch(cached.split.train[:16], np.arange(16) % 8)
    with torch.no_grad():
        images = computed.input_source.load_batch(batch)
        expected = computed.classifier.compute_features(images)
    assert torch.allclose(cached.input_source.load_batch(batch), expected, atol=1e-6)


def test_batch_norm_scope_is_recorded_only_where_it_is_trained():
    tiny = toys.run(toys.trial(model="resnext_tiny"))
    frozen = toys.run(toys.trial(model="resnext_tiny", freeze="features"))
    without_batch_norm = toys.run(toys.trial())
    assert batch_norm_scope(tiny) == "whole batch"
    assert batch_norm_scope(frozen) is None
    assert batch_norm_scope(without_batch_norm) is None


@pytest.mark.parametrize(
    ("freeze", "device", "synchronised"),
    [
        ("none", "cuda", True),
        ("features", "cuda", False),
        ("head-first", "cuda", False),
        ("none", "cpu", False),
    ],
)
def test_batch_norm_is_synchronised_on_gpus_unless_folded(
    freeze, device, synchronised, monkeypatch
):
    class BuiltError(BaseException):
        """The rest would need the GPU."""

    def build(*_: object, synchronise_batch_norm: bool, **__: object) -> None:
        assert synchronise_batch_norm == synchronised
        raise BuiltError

    monkeypatch.setattr(trial_trainer, "build_classifier", build)
    with pytest.raises(BuiltError):
        toys.run(toys.trial(freeze=freeze), group=WorkerGroup(0, 2), device=device)


# several workers, as real processes


def _worker(
    rank: int,
    size: int,
    meeting: str,
    settings: dict[str, str],
    queue: "torch.multiprocessing.SimpleQueue",
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    images = toys.images(per_class=23)
    trial = toys.trial(score="balanced_accuracy", **settings)
    trainer = toys.run(trial, images, WorkerGroup(rank, size))
    epochs = train_curves(trainer)
    logits = trainer.predict_logits(trainer.split.test)
    queue.put((epochs, logits.tolist()))
    dist.destroy_process_group()


def _train_with_workers(
    size: int, settings: dict[str, Any], meeting: str
) -> list[tuple[list[dict[str, float]], list[list[float]]]]:
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    torch.multiprocessing.spawn(_worker, (size, meeting, settings, queue), nprocs=size)
    return [queue.get() for _ in range(size)]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "settings",
    [
        {"freeze": "none"},
        {"freeze": "features"},
        {"freeze": "head-first"},
        {"freeze": "last2", "model": "timm:vit_tiny_patch16_224"},
        {"freeze": "lora4", "model": "timm:vit_tiny_patch16_224"},
        {"freeze": "features", "model": "timm:resnet18"},
        {"freeze": "features", "model": "timm:tf_efficientnet_lite0"},
        {"freeze": "none", "layer_decay": 0.5},
    ],
    ids=[
        *("trained", "frozen", "head first", "transformer", "low rank"),
        *("frozen CNN", "frozen EfficientNet", "layer decay"),
    ],
)
def test_several_workers_train_and_evaluate_as_one(settings, tmp_path):
    trial = toys.trial(score="balanced_accuracy", **settings)
    single = toys.run(trial, toys.images(per_class=23))
    expected_epochs = train_curves(single)
    expected_logits = single.predict_logits(single.split.test).tolist()
    assert len(single.split.test) % 2 == 1, "two workers must not be able to share it evenly"
    assert len(single.split.val) % 2 == 1
    assert any(epoch["val_score"] != epoch["val_accuracy"] for epoch in expected_epochs)
    for size in (2, 3):
        for epochs, logits in _train_with_workers(size, settings, str(tmp_path / f"{size}")):
            for epoch, expected in zip(epochs, expected_epochs, strict=True):
                assert epoch["val_correct"] == expected["val_correct"]
                numbers = {name: expected[name] for name in expected if name != "val_correct"}
                assert {name: epoch[name] for name in numbers} == pytest.approx(numbers, rel=1e-4)
            assert np.allclose(logits, expected_logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("error", "is_shared"),
    [(UserError("it lacks a file"), False), (NonFiniteLossError("at epoch 1"), True)],
)
def test_worker_records_only_failures_that_all_workers_share(
    error, is_shared, tmp_path, monkeypatch
):
    """The loss is the whole group's. Any other error may be one worker's own."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(trial_runner, "TrialTrainer", fail)
    context = make_context(tmp_path, WorkerGroup(1, 2))
    raised = pytest.raises(UserError, match="it lacks a file")
    with contextlib.nullcontext() if is_shared else raised:
        status = trial_runner.run_trial(
            toys.trial(), toys.dataset(toys.trial()), context, lambda epoch: None
        )
        assert status == "failed"


def test_workers_that_see_different_states_do_not_train(tmp_path):
    class OtherStateGroup(WorkerGroup):
        def broadcast(self, value: Any) -> Any:
            return 3

    trainer = toys.run(toys.trial())
    context = make_context(tmp_path, OtherStateGroup(1, 2))
    message = "this worker sees a state after 0 epochs, and the first one after 3"
    with pytest.raises(RuntimeError, match=message):
        TrialRecorder(trainer.trial, trainer.images, context).resume(trainer)


def test_failed_gpu_is_not_recorded_as_the_trials_failure(tmp_path, monkeypatch):
    """The process can't use the GPU any more: a lane is replaced, and the twin ends the program."""

    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(trial_runner, "TrialTrainer", fail)
    config = toys.trial()
    dataset = toys.dataset(config)
    job = Job(config.key, config)
    lane: Any = None
    monkeypatch.setattr(lane_worker, "_get_dataset", lambda *_: dataset)
    monkeypatch.setattr(lane_worker, "_record_shared_failure", pytest.fail)
    context = make_context(tmp_path)
    with pytest.raises(torch.AcceleratorError):
        lane_worker._run_job(job, context, lane)
    message = rf"the GPU failed at trial {config.key}: CUDA error.*The same command resumes"
    with pytest.raises(UserError, match=message):
        local.run_in_process(
            Experiment(name="toy", base=config, axes={}),
            [config],
            {config: dataset},
            context.store,
            CombinedListener(),
        )
    assert not context.store.tables.all_rows("trials")
