"""What every test gets."""

import pytest


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path_factory.mktemp("cache")))
