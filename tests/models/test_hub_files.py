"""Weights on the Hugging Face hub: fetched once, and each way to fail is one line."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMIT = "0" * 39 + "1"
CONTENT = b"weights" * 100
ERRORS = {
    "gated": (403, "GatedRepo"),
    "login": (401, "GatedRepo"),
    "absent": (404, "RepoNotFound"),
    "empty": (404, "EntryNotFound"),
}
"""What the server answers for a repository: status and code, as the hub does."""
FETCH = """
import sys
from bioimg.errors import UserError
from bioimg.models import hub_files
repository = hub_files.Repository.parse(sys.argv[1])
try:
    path = hub_files.fetch_weights_file(repository, "the value of `model` is 'm'")
    print(path.name, hub_files.commit_of(path), path.stat().st_size)
except UserError as error:
    print(error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub whose repositories are named after what is wrong with them."""

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        # the connection of `broken` ends before the file does
        self.answer(CONTENT[:10] if "/broken/" in self.path else CONTENT)

    def answer(self, body: bytes) -> None:
        repository = self.path.split("/")[2]
        filename = self.path.rsplit("/", 1)[-1]
        status, code = ERRORS.get(repository, (200, None))
        if repository == "pickled" and filename != "pytorch_model.bin":
            status, code = ERRORS["empty"]
        if "/resolve/nowhere/" in self.path:
            status, code = 404, "RevisionNotFound"
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.end_headers()
            return
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{repository}"')
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub_address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(repository: str, address: str, home: Path, offline: bool = False) -> str:
    """Return what a process prints that fetches weights, with this cache of the hub."""
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    command = [sys.executable, "-c", FETCH, repository]
    environment = {**os.environ, **settings}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_weights_are_fetched_and_then_found_without_network(hub_address, tmp_path):
    expected = f"model.safetensors {COMMIT} {len(CONTENT)}"
    assert fetch("lab/good", hub_address, tmp_path) == expected
    assert fetch("lab/good", "http://127.0.0.1:1", tmp_path, offline=True) == expected


def test_weights_in_another_file_are_found_without_network(hub_address, tmp_path):
    expected = f"pytorch_model.bin {COMMIT} {len(CONTENT)}"
    assert fetch("lab/pickled", hub_address, tmp_path) == expected
    assert fetch("lab/pickled", "http://127.0.0.1:1", tmp_path, offline=True) == expected


@pytest.mark.parametrize(
    ("repository", "reason"),
    [
        ("lab/gated", "Accept its conditions at"),
        ("lab/login", "log in with `hf auth login`"),
        ("lab/absent", "doesn't exist, or is open only to some"),
        ("lab/good@nowhere", "has no revision 'nowhere'"),
        ("lab/empty", "has none of the files model.safetensors"),
        ("no/such/form", "Write it as OWNER/NAME"),
        pytest.param("lab/broken", "can't be downloaded", marks=pytest.mark.nightly),
    ],
)
def test_weights_that_cannot_be_had_are_explained_on_one_line(
    repository, reason, hub_address, tmp_path
):
    message = fetch(repository, hub_address, tmp_path)
    assert message.startswith("the value of `model` is 'm', but ")
    assert reason in message
    assert "\n" not in message


def test_weights_without_network_and_cache_name_the_cache(tmp_path):
    message = fetch("lab/good", "http://127.0.0.1:1", tmp_path, offline=True)
    assert "hf download lab/good" in message
    assert str(tmp_path / "hub") in message
