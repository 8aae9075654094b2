"""Weights are downloaded once per machine, even if several processes need them at the same time."""

import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

FETCH = """
import sys, torch
from torchvision.models._api import Weights, WeightsEnum
from bioimg.models import pretrained_weights
class Served(WeightsEnum):
    V1 = Weights(url=sys.argv[1], transforms=lambda: None, meta={})
torch.hub.set_dir(sys.argv[2])
print("ready", flush=True); input()
print(pretrained_weights._fetch_weights(Served.V1)["w"].tolist())
"""


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[str, list[str]]]:
    """The URL of a file of weights, and the requests to its server, which first waits for a second one."""
    torch.save({"w": torch.arange(3)}, tmp_path / "weights")
    content = (tmp_path / "weights").read_bytes()
    asked, second = [], threading.Event()

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if len(asked) > 1:
                second.set()
            second.wait(2)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield (
            f"http://127.0.0.1:{server.server_port}/toy-{hashlib.sha256(content).hexdigest()[:8]}.pth",
            asked,
        )
        server.shutdown()
        thread.join()


def fetching(url: str, folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, url, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.ray
def test_of_two_processes_that_want_the_same_weights_one_downloads_them(served, tmp_path):
    url, asked = served
    both = [fetching(url, tmp_path / "hub") for _ in range(2)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0].splitlines()[-1] for process in both] == ["[0, 1, 2]"] * 2
    assert len(asked) == 1
