"""Images are decoded only once, and sets larger than memory stay on disk."""

import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from bioimg.config import DatasetConfig, SplitConfig, TrialConfig
from bioimg.data import file_array, list_datasets, load, load_dataset, load_datasets, pixel_cache
from bioimg.data.file_array import FileArray
from bioimg.errors import UserError
from bioimg.storage import disk_cache
from support import PROJECT
from support.image_folders import write_image_folder, write_noise_image, write_tiff_folder


@pytest.fixture
def decoded(monkeypatch):
    """Records the files that are decoded."""
    files = []

    def count(path, *rest):
        files.append(path.name)
        return decode_image(path, *rest)

    decode_image = pixel_cache.decode_image
    monkeypatch.setattr(pixel_cache, "decode_image", count)
    return files


def kept():
    return list((disk_cache.cache_folder() / "images").iterdir())


def test_second_start_decodes_no_image(tmp_path, decoded):
    config = DatasetConfig(data=str(write_image_folder(tmp_path)), image_size=8)
    first = load_dataset(config).images
    assert len(decoded) == 14
    second = load_dataset(config).images
    assert len(decoded) == 14
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert (first.fingerprint, first.paths, first.digests) == (
        second.fingerprint,
        second.paths,
        second.digests,
    )


def test_other_split_or_batch_size_decodes_no_image(tmp_path, decoded):
    data = str(write_image_folder(tmp_path))
    for trial in (
        TrialConfig(data=data),
        TrialConfig(data=data, batch_size=8, folds=3),
        TrialConfig(data=data, seed=3),
    ):
        load_dataset(trial.dataset_config, trial.split_config)
    assert len(decoded) == 14


@pytest.mark.parametrize("fields", [{"image_size": 9}, {"resize": "pad"}, {"channels": "0"}])
def test_other_decode_options_decode_again(tmp_path, decoded, fields):
    data = str(write_image_folder(tmp_path))
    load_dataset(DatasetConfig(data=data, **{"image_size": 8} | fields))
    load_dataset(DatasetConfig(data=data, image_size=8))
    assert len(decoded) == 28


def test_changed_file_of_same_size_and_time_is_noticed(tmp_path):
    config = DatasetConfig(data=str(write_image_folder(tmp_path, suffix=".bmp")), image_size=8)
    before = load_dataset(config).images
    file = tmp_path / "a" / "p0_0.bmp"
    status = file.stat()
    write_noise_image(file, seed=99)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    assert load_dataset(config).images.fingerprint != before.fingerprint


def test_unreadable_set_leaves_no_cache_entry(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "a" / "p0_0.png").write_text("x")
    with pytest.raises(UserError):
        load_dataset(DatasetConfig(data=str(tmp_path)))
    assert kept() == []


def test_interrupted_decoding_leaves_no_cache_entry(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    config = DatasetConfig(data=str(write_image_folder(tmp_path)))
    with pytest.raises(KeyboardInterrupt):
        load_dataset(config, progress=stop)
    assert kept() == []
    assert len(load_dataset(config).images) == 14


def test_concurrent_starts_make_one_cache_entry(tmp_path):
    config = DatasetConfig(data=str(write_image_folder(tmp_path)))
    both = threading.Barrier(2)
    threads = [
        threading.Thread(
            target=load_dataset,
            args=(config, SplitConfig(), lambda done, total: done > 1 or both.wait(20)),
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept()) == 1
    assert len(load_dataset(config).images) == 14


def test_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        UserError,
        match=r"the cache folder .*file can't be written: .*environment variable BIOIMG_CACHE",
    ):
        load_dataset(DatasetConfig(data=str(write_image_folder(tmp_path / "set"))))


def test_trials_with_the_same_pixels_share_images(tmp_path):
    data = str(write_image_folder(tmp_path / "narrow"))
    trials = [
        TrialConfig(data=data, image_size=size, folds=3, fold=fold)
        for size in (8, 9)
        for fold in (0, 1)
    ]
    found = load_datasets(list_datasets(trials))
    assert found[trials[0]].images is found[trials[1]].images
    assert found[trials[2]].images is found[trials[3]].images
    assert found[trials[0]].images.pixels.shape[1] == 8


def test_set_is_listed_once_and_each_split_computed_once(tmp_path, monkeypatch):
    calls = []

    def count_calls(name):
        function = getattr(load, name)

        def counted(*args):
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(load, name, counted)

    count_calls("list_images")
    count_calls("assign_subsets")
    data = str(write_image_folder(tmp_path))
    folds = [TrialConfig(data=data, image_size=8, folds=3, fold=fold) for fold in range(3)]
    seeds = [TrialConfig(data=data, image_size=8, seed=seed) for seed in range(3)]
    datasets = load_datasets(list_datasets([*folds, *seeds]))
    assert calls.count("list_images") == 1
    assert calls.count("assign_subsets") == len(folds) + 1
    assert datasets[seeds[0]] is datasets[seeds[1]]


def test_folds_of_16_bit_images_are_scaled_separately(tmp_path):
    data = str(write_tiff_folder(tmp_path))
    trials = [TrialConfig(data=data, image_size=16, folds=3, fold=fold) for fold in range(3)]
    found = load_datasets(
        list_datasets([*trials, TrialConfig(data=data, image_size=16, folds=3, batch_size=8)])
    )
    assert len({dataset.images.scaling_limits for dataset in found.values()}) == 3


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setattr(file_array, "available_memory", lambda: 1000)


@pytest.mark.parametrize("make", [write_image_folder, write_tiff_folder])
def test_set_larger_than_memory_has_the_same_content(tmp_path, monkeypatch, make):
    config = DatasetConfig(data=str(make(tmp_path)), image_size=16)
    images = load_dataset(config).images
    monkeypatch.setattr(file_array, "available_memory", lambda: 1000)
    large = load_dataset(config).images
    assert isinstance(images.pixels, np.ndarray)
    assert isinstance(large.pixels, FileArray)
    np.testing.assert_array_equal(large.pixels[:], images.pixels)
    assert large.fingerprint == images.fingerprint


@pytest.mark.parametrize(
    "index",
    [
        3,
        -1,
        [4, 0, 4],
        slice(2, 9, 3),
        np.arange(12) % 2 == 0,
        np.array([[1, 2], [3, 0]]),
        np.array([], int),
    ],
)
def test_file_array_is_indexed_as_an_array(tmp_path, index):
    array = np.random.default_rng(0).integers(0, 9, (12, 4, 4, 3)).astype(np.uint16)
    array.tofile(tmp_path / "pixels")
    on_disk = FileArray(tmp_path / "pixels", array.shape, "uint16")
    np.testing.assert_array_equal(on_disk[index], array[index])
    assert (len(on_disk), on_disk.nbytes, on_disk.dtype) == (12, array.nbytes, array.dtype)


def test_missing_row_of_file_array_is_an_error(tmp_path):
    np.zeros((2, 4), np.uint8).tofile(tmp_path / "pixels")
    on_disk = FileArray(tmp_path / "pixels", (3, 4), "uint8")
    with pytest.raises(IndexError):
        on_disk[3]
    with pytest.raises(OSError, match="is truncated"):
        on_disk[2]


def test_pickled_file_array_holds_only_the_file_name(tmp_path):
    array = np.arange(40_000, dtype=np.uint8).reshape(4, -1)
    array.tofile(tmp_path / "pixels")
    sent = pickle.dumps(FileArray(tmp_path / "pixels", array.shape, "uint8"))
    assert len(sent) < 500
    np.testing.assert_array_equal(pickle.loads(sent)[[1, 3]], array[[1, 3]])
    (tmp_path / "pixels").unlink()
    with pytest.raises(
        UserError, match=r"can't be opened here: .* a folder that all machines share"
    ):
        pickle.loads(sent)


def test_available_memory_respects_process_and_container_limits(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr(file_array, "CGROUP_FOLDER", tmp_path)
    assert file_array.available_memory() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert file_array.available_memory() > 1_000_000


UNDER_A_LIMIT = """
import resource, sys, psutil, sklearn.model_selection, numpy as np
from bioimg.config import DatasetConfig
from bioimg.data import load_dataset
base = psutil.Process().memory_info()
limit = 300_000_000
resource.setrlimit(resource.RLIMIT_AS, (base.vms + limit,) * 2)
dataset = load_dataset(DatasetConfig(data=sys.argv[1], image_size=512))
images = dataset.images
assert images.pixels.nbytes > 3 * limit, images.pixels.nbytes
order, top = np.random.default_rng(0).permutation(dataset.split.train), 0
for start in range(0, len(order), 32):
    batch = images.pixels[order[start : start + 32]]
    top = max(top, psutil.Process().memory_info().rss - base.rss)
print(type(images.pixels).__name__, top)
"""


@pytest.mark.nightly
def test_set_beyond_memory_limit_is_read_in_batches(tmp_path):
    for label in "ab":
        for number in range(600):
            path = tmp_path / label / f"{number}.png"
            write_noise_image(path, seed=1000 * ord(label) + number, size=(8, 8))
    out = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )
    assert out.returncode == 0, out.stderr
    kind, top = out.stdout.split()
    assert kind == "FileArray"
    assert int(top) < 200_000_000


TRAIN_UNDER_A_LIMIT = """
import resource, sys
import psutil
import torch
from pathlib import Path
from bioimg.config import TrialConfig
from bioimg.data import list_datasets, load_datasets
from bioimg.results.result_store import ResultStore
from bioimg.training.trial_runner import TrialContext, run_trial

torch.set_num_threads(1)
process = psutil.Process()
base, limit = process.memory_info(), 400_000_000
resource.setrlimit(resource.RLIMIT_AS, (base.vms + limit, -1))
trial = TrialConfig(
    data=sys.argv[1], image_size=512, model="resnext_tiny", weights="none", freeze="features",
    augmentation="none", epochs=1, batch_size=64, precision="float32",
)
datasets = load_datasets(list_datasets([trial]))
kept = datasets[trial].images.pixels
store = ResultStore(sys.argv[2])
place = TrialContext(experiment_name="large", store=store, device=torch.device("cpu"))
status = run_trial(trial, datasets[trial], place, lambda epoch: None)
print(status, type(kept).__name__, kept.nbytes // limit, process.memory_info().rss - base.rss)
"""


@pytest.mark.nightly
def test_training_on_set_beyond_memory_limit_stays_within(tmp_path):
    for label in "ab":
        for number in range(800):
            path = tmp_path / "images" / label / f"{number}.png"
            write_noise_image(path, seed=1000 * ord(label) + number, size=(8, 8))
    out = subprocess.run(
        [
            sys.executable,
            "-c",
            TRAIN_UNDER_A_LIMIT,
            str(tmp_path / "images"),
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "MALLOC_ARENA_MAX": "1",
        },  # each thread's own arena would take 64 MB of addresses, used or not
        cwd=PROJECT,
    )
    assert out.returncode == 0, out.stderr
    status, kind, times, grown = out.stdout.split()
    assert (status, kind, times) == ("completed", "FileArray", "3")
    assert int(grown) < 1.5 * 2**30
