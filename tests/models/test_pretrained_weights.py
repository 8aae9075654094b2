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
def weights_server(tmp_path) -> Iterator[tuple[str, list[str]]]:
    """Serve a file of weights. Yield its URL and the paths requested so far.

    The first request is answered after a second one or two seconds.
    """
    torch.save({"w": torch.arange(3)}, tmp_path / "weights")
    content = (tmp_path / "weights").read_bytes()
    requests, second_request = [], threading.Event()

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if len(requests) > 1:
                second_request.set()
            second_request.wait(2)
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
            requests,
        )
        server.shutdown()
        thread.join()


def start_fetching(url: str, folder: Path) -> "subprocess.Popen[str]":
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
def test_two_processes_download_weights_once(weights_server, tmp_path):
    url, requests = weights_server
    processes = [start_fetching(url, tmp_path / "hub") for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0].splitlines()[-1] for process in processes] == ["[0, 1, 2]"] * 2
    assert len(requests) == 1
