"""The cache is limited in size, entries in use stay, and `bioimg cache` shows what there is."""

import io
import os
import shutil
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from bioimg.cli.cache import CacheCommand
from bioimg.errors import UserError
from bioimg.storage import disk_cache


def keep(name: str, size: int = 1_000_000, used: int = 0) -> None:
    """An entry that another process left, last used some seconds after 1970."""
    left = "from bioimg.storage import disk_cache; import sys; from pathlib import Path\n" + (
        "content = bytes(int(sys.argv[2]))\n"
        "write = lambda folder: (folder / 'x').write_bytes(content)\n"
        "disk_cache.get_or_create(sys.argv[1], write, about='what it is')"
    )
    subprocess.run([sys.executable, "-c", left, name, str(size)], check=True)
    os.utime(disk_cache.cache_folder() / "locks" / name.replace("/", "-"), (used, used))


def names() -> list[str]:
    return [entry.name for entry in disk_cache.list_entries()]


def said(**options: bool) -> str:
    text = io.StringIO()
    assert CacheCommand(**options).run(Console(file=text, width=150)) == 0
    return text.getvalue()


@pytest.mark.ray
def test_full_cache_removes_least_recently_used(monkeypatch):
    for number, name in enumerate(("images/a", "features/b", "set-c")):
        keep(name, used=[2, 1, 3][number])
    monkeypatch.setenv("BIOIMG_CACHE_GB", "0.0035")
    disk_cache.get_or_create(
        "scaled/d", lambda folder: shutil.copy(disk_cache.cache_folder() / "images/a/x", folder)
    )
    assert names() == ["images/a", "set-c", "scaled/d"]


@pytest.mark.ray
def test_entry_in_use_is_not_removed(monkeypatch):
    keep("images/a", used=1)
    keep("images/b", used=2)
    assert disk_cache.acquire_entry("images/a").is_dir()
    monkeypatch.setenv("BIOIMG_CACHE_GB", "0")
    disk_cache.evict_entries()
    assert names() == ["images/a"]


def test_eviction_tolerates_concurrent_writers():
    place, ended = (
        disk_cache.cache_folder() / "images" / ".being-written" / "entry" / "deep",
        threading.Event(),
    )

    def write_and_remove() -> None:
        while not ended.is_set():
            place.mkdir(parents=True)
            shutil.rmtree(place.parents[1])

    other = threading.Thread(target=write_and_remove)
    other.start()
    try:
        for _ in range(300):
            disk_cache.evict_entries()
    finally:
        ended.set()
        other.join()
    assert names() == []


@pytest.mark.ray
def test_entry_of_killed_process_can_be_removed():
    program = (
        "from bioimg.storage import disk_cache\n"
        "disk_cache.acquire_entry('images/a'); print('acquired', flush=True); input()"
    )
    keep("images/a")
    user = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with user:
        assert user.stdout is not None
        user.stdout.readline()
        assert not disk_cache.remove_entry("images/a")
        user.kill()
        user.wait()
    assert disk_cache.remove_entry("images/a")
    assert names() == []


def test_cache_takes_half_of_free_space(monkeypatch):
    free = shutil.disk_usage(disk_cache.cache_folder()).free
    assert disk_cache.max_cache_bytes(10**9) == pytest.approx((free + 10**9) / 2, rel=0.05)
    monkeypatch.setenv("BIOIMG_CACHE_GB", "2.5")
    assert disk_cache.max_cache_bytes(100) == 2.5e9
    monkeypatch.setenv("BIOIMG_CACHE_GB", "much")
    with pytest.raises(
        UserError, match=r"`BIOIMG_CACHE_GB` is 'much', but must be a number of gigabytes"
    ):
        disk_cache.max_cache_bytes(100)


def test_unfinished_entry_is_removed_after_a_day():
    old, new = (disk_cache.cache_folder() / "images" / name for name in (".old", ".new"))
    for left in (old, new):
        left.mkdir(parents=True)
        (left / "pixels").touch()
    for path in (old / "pixels", old):
        os.utime(path, (0, 0))
    disk_cache.evict_entries()
    assert not old.exists()
    assert new.exists()


def test_missing_cache_folder_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "none" / "yet"))
    assert said().startswith("0 entries")


@pytest.mark.ray
def test_command_lists_entries_and_sizes():
    assert said().startswith(f"0 entries of 0 bytes in {disk_cache.cache_folder()}, at most ")
    keep("features/b", size=2_000_000, used=86_400 * 365)
    shown = said()
    assert "features/b" in shown
    assert "what it is" in shown
    assert "2.0 MB" in shown
    assert "1971-01-01" in shown


@pytest.mark.ray
def test_command_clears_all_but_entries_in_use():
    keep("images/a")
    keep("images/b")
    disk_cache.acquire_entry("images/a")
    assert said(clear=True) == "removed 1 entry of 1.0 MB; 1 in use stay\n"
    assert names() == ["images/a"]
