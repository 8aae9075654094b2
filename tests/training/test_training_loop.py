import contextlib
import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from bioimg import local
from bioimg.cluster import lanes
from bioimg.cluster.coordinator import Job
from bioimg.errors import UserError
from bioimg.experiment import Experiment
from bioimg.models import classifier
from bioimg.progress.listener import CombinedListener
from bioimg.results.result_store import ResultStore
from bioimg.training import loop, trial_runner
from bioimg.training import trial_trainer as run_module
from bioimg.training.batches import (
    VIEW_COUNTS,
    Batch,
    TrainingStep,
    apply_dihedral_views,
    batch_bounds,
    iter_training_steps,
)
from bioimg.training.distributed import SINGLE_WORKER, WorkerGroup
from bioimg.training.loop import NonFiniteLossError, train
from bioimg.training.trial_trainer import TrialTrainer, learning_rate
from support import toys


def curves(run: TrialTrainer) -> list[dict[str, float]]:
    """The results of a run's epochs, without their seconds."""
    epochs = [dataclasses.asdict(epoch) for epoch in train(run)]
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in epochs]


# batches

LABELS = np.repeat([0, 1], [90, 10])


@pytest.mark.parametrize(
    ("images", "batch_size"), [(10, 4), (8, 4), (9, 4), (3, 4), (1, 4), (5, 1)]
)
def test_an_epoch_has_every_image_once(images, batch_size):
    config = toys.trial(batch_size=batch_size)
    seen = [
        index
        for step in iter_training_steps(config, np.arange(images), LABELS, 1, SINGLE_WORKER)
        for index in step.batch.indices
    ]
    assert sorted(seen) == list(range(images))


def test_a_last_batch_of_one_image_joins_the_one_before():
    assert batch_bounds(9, 4) == [(0, 4), (4, 9)]
    assert batch_bounds(10, 4) == [(0, 4), (4, 8), (8, 10)]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_workers_shares_together_are_the_batches_of_one_worker(size):
    config, indices = toys.trial(batch_size=12), np.arange(50)
    alone = list(iter_training_steps(config, indices, LABELS, 2, SINGLE_WORKER))
    shares = [
        list(iter_training_steps(config, indices, LABELS, 2, WorkerGroup(rank, size)))
        for rank in range(size)
    ]
    for number, whole in enumerate(alone):
        counted = [share[number].batch for share in shares if share[number].loss_factor]
        pairs = {pair for batch in counted for pair in zip(batch.indices, batch.views, strict=True)}
        assert pairs == set(zip(whole.batch.indices, whole.batch.views, strict=True))


def test_every_worker_takes_a_step_even_if_the_last_batch_has_fewer_images_than_workers():
    shares = [
        list(
            iter_training_steps(
                toys.trial(batch_size=4), np.arange(6), LABELS, 1, WorkerGroup(rank, 4)
            )
        )
        for rank in range(4)
    ]
    assert [len(share) for share in shares] == [2, 2, 2, 2]
    assert [share[1].loss_factor for share in shares] == [2.0, 2.0, 0.0, 0.0]


def test_epochs_and_seeds_differ_in_order_and_views():
    def order(seed, epoch):
        return [
            step.batch.indices.tolist()
            for step in iter_training_steps(
                toys.trial(seed=seed), np.arange(50), LABELS, epoch, SINGLE_WORKER
            )
        ]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_the_eight_views_of_an_image_are_its_flips_and_quarter_turns():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    views = {
        tuple(apply_dihedral_views(image, np.array([view])).flatten().tolist())
        for view in range(VIEW_COUNTS["dihedral"])
    }
    turned = {
        tuple(np.rot90(side, k).flatten().tolist())
        for side in (image[0, 0].numpy(), image[0, 0].numpy().T)
        for k in range(4)
    }
    assert len(views) == 8
    assert views == turned
    assert torch.equal(apply_dihedral_views(image, np.array([0])), image)


def test_balanced_sampling_shows_each_class_alike():
    config, indices = toys.trial(sampling="balanced", batch_size=10), np.arange(100)
    seen = np.concatenate(
        [
            s.batch.indices
            for epoch in range(20)
            for s in iter_training_steps(config, indices, LABELS, epoch, SINGLE_WORKER)
        ]
    )
    assert len(seen) == 20 * 100
    assert LABELS[seen].mean() == pytest.approx(0.5, abs=0.05)


# the loop


def test_training_learns():
    epochs = curves(toys.run(toys.trial(epochs=20)))
    assert epochs[-1]["val_loss"] < epochs[0]["val_loss"]
    assert epochs[-1]["val_accuracy"] > 0.9


@pytest.mark.parametrize("freeze", ["none", "features"])
def test_the_same_seed_gives_the_same_numbers_to_the_last_bit(freeze):
    first, again, other = (
        curves(toys.run(toys.trial(freeze=freeze, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_seed_decides_the_head_also_of_a_model_whose_outline_draws_random_numbers():
    trial = toys.trial(model="regnet_y_400mf", image_size=32)
    heads = []
    for cold in (True, False):
        if cold:
            classifier._meta_model.cache_clear()
        heads.append(classifier.build_classifier(trial, 3).head.weight)
    assert torch.equal(*heads)


def test_a_trial_that_is_resumed_goes_on_as_if_it_had_never_stopped():
    config = toys.trial(epochs=4, schedule="cosine")
    undisturbed = toys.run(config)
    whole = curves(undisturbed)
    begun = toys.run(config)
    generator = train(begun)
    next(generator), next(generator)
    resumed = toys.run(config)
    resumed.load_state_dict(begun.state_dict())
    assert curves(resumed) == whole[2:]
    assert all(
        torch.equal(resumed.best_weights[name], tensor)
        for name, tensor in undisturbed.best_weights.items()
    )


def test_the_best_weights_are_those_of_the_lowest_validation_loss():
    run = toys.run(toys.trial(epochs=12, learning_rate=0.3))
    losses = [epoch.val_loss for epoch in train(run)]
    assert losses.index(min(losses)) < len(losses) - 1, (
        "the last epoch must not be the best for this test to say anything"
    )
    run.restore_best()
    assert run.score_images(run.split.val).loss == min(losses)


def test_a_loss_that_is_not_finite_ends_training_and_names_epoch_and_step():
    with pytest.raises(
        NonFiniteLossError,
        match=r"the loss is (nan|inf) at epoch \d+, step \d+ of 5. Lower `learning_rate` \(1e\+20\)",
    ):
        list(train(toys.run(toys.trial(learning_rate=1e20, optimizer="sgd"))))


def test_balanced_class_weights_make_a_rare_class_count_as_much_as_a_frequent_one():
    few = toys.images(per_class=40, classes=2)
    rare = np.flatnonzero(few.labels == 0)[:10]
    kept = np.concatenate([rare, np.flatnonzero(few.labels == 1)])
    names = ("paths", "digests")
    chosen = {name: tuple(getattr(few, name)[i] for i in kept) for name in names}
    unbalanced = dataclasses.replace(
        few, pixels=few.pixels[kept], labels=few.labels[kept], **chosen
    )
    run = toys.run(toys.trial(class_weights="balanced"), unbalanced)
    counts = np.bincount(unbalanced.labels[run.split.train])
    assert (counts * run.class_weights.numpy()).tolist() == pytest.approx([counts.sum() / 2] * 2)
    assert curves(run) != curves(toys.run(toys.trial(), unbalanced))


def test_the_learning_rate_is_constant_or_half_a_cosine():
    cosine = toys.trial(epochs=4, schedule="cosine", learning_rate=1.0)
    assert [round(learning_rate(cosine, epoch), 3) for epoch in (1, 2, 3, 4)] == [
        1.0,
        0.854,
        0.5,
        0.146,
    ]
    assert {learning_rate(toys.trial(learning_rate=0.5), epoch) for epoch in (1, 9)} == {0.5}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("freeze", ["none", "features"])
def test_on_a_gpu_an_epoch_is_nearly_that_of_a_cpu_and_no_step_of_it_waits_for_the_gpu(
    freeze, monkeypatch
):
    def watched(*given: Any) -> Iterator[TrainingStep]:
        torch.cuda.set_sync_debug_mode("error")
        yield from iter_training_steps(*given)
        torch.cuda.set_sync_debug_mode("default")

    config = toys.trial(epochs=1, freeze=freeze)
    (expected,) = train(toys.run(config))
    run = toys.run(config, device="cuda")
    monkeypatch.setattr(loop, "iter_training_steps", watched)
    (epoch,) = train(run)
    assert (epoch.train_loss, epoch.val_loss) == pytest.approx(
        (expected.train_loss, expected.val_loss), rel=0.01
    )


# frozen


@pytest.mark.parametrize("freeze", ["features", "layer2", "layer4"])
def test_what_is_frozen_is_the_same_afterwards_to_the_last_bit(freeze):
    run = toys.run(toys.trial(model="resnext_tiny", image_size=16, freeze=freeze))
    before = {name: tensor.clone() for name, tensor in run.classifier.model.state_dict().items()}
    list(train(run))
    after = run.classifier.model.state_dict()
    changed = {
        name.split(".")[0]
        for name, tensor in before.items()
        if not torch.equal(tensor, after[name])
    }
    assert (
        changed
        == {"features": {"fc"}, "layer4": {"fc"}, "layer2": {"layer3", "layer4", "fc"}}[freeze]
    )


def test_training_on_cached_features_is_training_through_the_frozen_backbone():
    config = toys.trial(model="resnext_tiny", freeze="features", epochs=4)
    cached = toys.run(config)
    computed = toys.run(
        dataclasses.replace(config, freeze="layer4")
    )  # the same is frozen, but each batch goes through it
    assert cached.features_seconds is not None
    assert computed.features_seconds is None
    for of_cached, of_computed in zip(curves(cached), curves(computed), strict=True):
        assert of_cached == pytest.approx(of_computed, rel=1e-5)


def test_features_of_a_view_are_those_of_the_turned_image():
    run = toys.run(toys.trial(model="resnext_tiny", freeze="features"))
    plain = toys.run(toys.trial(model="resnext_tiny", freeze="layer4"))
    plain.classifier.model.eval()
    batch = Batch(run.split.train[:16], np.arange(16) % 8)
    with torch.no_grad():
        expected = plain.classifier.compute_features(plain.input_source(batch))
    assert torch.allclose(run.input_source(batch), expected, atol=1e-6)


def test_batch_norm_over_the_whole_batch_is_recorded_only_where_it_is_trained():
    assert toys.run(toys.trial(model="resnext_tiny")).batch_norm_scope == "whole batch"
    assert toys.run(toys.trial(model="resnext_tiny", freeze="features")).batch_norm_scope is None
    assert toys.run(toys.trial()).batch_norm_scope is None


@pytest.mark.parametrize(
    ("freeze", "device", "told"),
    [("none", "cuda", True), ("features", "cuda", False), ("none", "cpu", False)],
)
def test_batch_norm_is_synchronised_on_gpus_but_not_where_it_is_folded(
    freeze, device, told, monkeypatch
):
    class Built(BaseException):
        """The rest needs the GPU."""

    def build(*_: object, synchronise_batch_norm: bool) -> None:
        assert synchronise_batch_norm == told
        raise Built

    monkeypatch.setattr(run_module, "build_classifier", build)
    with pytest.raises(Built):
        toys.run(toys.trial(freeze=freeze), group=WorkerGroup(0, 2), device=device)


# several workers, as real processes


def _worker(
    rank: int, size: int, meeting: str, freeze: str, queue: "torch.multiprocessing.SimpleQueue"
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    run = toys.run(toys.trial(freeze=freeze), toys.images(per_class=23), WorkerGroup(rank, size))
    epochs = curves(run)
    logits = run.predict_logits(run.split.test)
    queue.put((rank, epochs, logits.tolist()))
    dist.destroy_process_group()


def _train_with(
    size: int, freeze: str, meeting: str
) -> list[tuple[list[dict[str, float]], list[list[float]]]]:
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    torch.multiprocessing.spawn(_worker, (size, meeting, freeze, queue), nprocs=size)
    return [what for _, *what in sorted(queue.get() for _ in range(size))]


@pytest.mark.parametrize(
    ("error", "told"),
    [(UserError("it lacks a file"), False), (NonFiniteLossError("at epoch 1"), True)],
)
def test_a_worker_of_several_leaves_a_trial_by_itself_only_where_all_of_them_do(
    error, told, tmp_path, monkeypatch
):
    """The loss is that of the whole group; anything else may be one worker's own, and the others wait for it."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(trial_runner, "TrialTrainer", fail)
    place = trial_runner.TrialContext(
        experiment_name="toy",
        store=ResultStore(tmp_path),
        device=torch.device("cpu"),
        worker_group=WorkerGroup(1, 2),
    )
    with contextlib.nullcontext() if told else pytest.raises(UserError, match="it lacks a file"):
        assert (
            trial_runner.run_trial(toys.trial(), toys.images(), place, lambda epoch: None)
            == "failed"
        )


def test_workers_that_see_different_states_do_not_train_together(tmp_path):
    class Ahead(WorkerGroup):
        def broadcast(self, value: Any) -> Any:
            return 3

    run = toys.run(toys.trial())
    place = trial_runner.TrialContext(
        experiment_name="toy",
        store=ResultStore(tmp_path),
        device=run.device,
        worker_group=Ahead(1, 2),
    )
    with pytest.raises(
        RuntimeError, match="this worker sees a state after 0 epochs, and the first one after 3"
    ):
        trial_runner._TrialRecorder(run.trial, run.images, place).resume(run)


def test_a_gpu_that_fails_is_not_the_trial_s_fault(tmp_path, monkeypatch):
    """It is lost to the process: a lane gives the trial back and is replaced, and alone the program ends."""

    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(trial_runner, "TrialTrainer", fail)
    config, images, store = toys.trial(), toys.images(), ResultStore(tmp_path)
    job, lane = (
        Job(config.key, dataclasses.asdict(config)),
        SimpleNamespace(image_refs={config.key: images}, coordinator=None),
    )
    monkeypatch.setattr(lanes, "_get_or_disconnect", lambda reference: reference)
    monkeypatch.setattr(lanes, "_record_shared_failure", pytest.fail)
    place = trial_runner.TrialContext(
        experiment_name="toy", store=store, device=torch.device("cpu")
    )
    with pytest.raises(torch.AcceleratorError):
        lanes._run_job(job, place, lane)
    with pytest.raises(
        UserError,
        match=rf"the GPU failed at trial {config.key}: CUDA error.*the same command goes on",
    ):
        local.run_in_process(
            Experiment(name="toy", base=config, axes={}),
            [config],
            {config: images},
            store,
            CombinedListener(),
        )
    assert not store.tables.all_rows("trials")


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["none", "features"])
def test_two_and_three_workers_train_and_evaluate_as_one_does(freeze, tmp_path):
    alone = toys.run(toys.trial(freeze=freeze), toys.images(per_class=23))
    losses, logits = curves(alone), alone.predict_logits(alone.split.test).tolist()
    assert len(alone.split.test) % 2 == 1, "a set that two workers can't share evenly"
    assert len(alone.split.val) % 2 == 1
    for size in (2, 3):
        for of_worker, logits_of_worker in _train_with(
            size, freeze, str(tmp_path / f"meeting-{size}")
        ):
            for ours, theirs in zip(losses, of_worker, strict=True):
                assert theirs == pytest.approx(ours, rel=1e-4)
            assert np.allclose(logits_of_worker, logits, rtol=1e-3, atol=1e-4)
