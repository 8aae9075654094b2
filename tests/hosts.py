"""Several hosts on this machine, each in namespaces of its own, that reach each other by SSH as machines in a lab do.

A host has its own address, name, processes, home, /dev/shm and /tmp/ray; the rest of the file system is everybody's, as if
all of it were on NFS. The `desk` is where the user sits: it has no sshd, and the bridge that all cables end in. Nothing of
this is seen on the machine's own network, and a host's processes end with its first one, as in a power cut.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

PACKAGES = "openssh-server rsync iproute2"
NETWORK = "10.77.0"
DESK = f"{NETWORK}.254"

START = r"""
set -eu
mount --make-rprivate /
ip link set lo up
hostname "$name"
mkdir -p "$own/home" "$own/ray" "$own/shm" /tmp/ray
mount --bind "$own/ray" /tmp/ray
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$base/hosts" /etc/hosts
mount --bind "$own/passwd" /etc/passwd
"""


def missing() -> str | None:
    """What keeps hosts from being made here, and what to do; None if nothing does."""
    if os.geteuid() != 0:
        return "needs root: network namespaces are made"
    programs = ("/usr/sbin/sshd", "ssh-keygen", "ssh", "rsync", "ip", "unshare", "nsenter")
    if absent := [name for name in programs if not shutil.which(name)]:
        return f"needs {', '.join(absent)}: apt-get install --no-install-recommends {PACKAGES}"
    alone = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "ip", "link", "add", "name", "b", "type", "bridge"]
    tried = subprocess.run(alone, capture_output=True, text=True)
    return f"needs namespaces, which this machine doesn't allow: {tried.stderr.strip()}" if tried.returncode else None


class Host:
    """One host, switched on when it is made. Commands run in it as from its console."""

    def __init__(self, base: Path, name: str, command: Sequence[str]) -> None:
        self.name, self.own = name, base / name
        self.home = self.own / "home"
        env = {"name": name, "base": str(base), "own": str(self.own), "PATH": os.environ["PATH"], "HOME": str(self.home)}
        spaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child"]
        self._log = (self.own / "console").open("ab")
        self._unshare = subprocess.Popen(
            ["unshare", *spaces, "bash", "-c", START + shlex.join(["exec", *command])],
            env=env, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.pid = until(self._first, f"{name} to start")

    def _first(self) -> int | None:
        """The pid of the host's first process, as it is seen from outside."""
        return next((child.pid for child in psutil.Process(self._unshare.pid).children()), None)

    def run(self, command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command line at the host's console."""
        return subprocess.run(self.argv(command), **{"capture_output": True, "text": True, **options})  # type: ignore[call-overload]

    def argv(self, command: str) -> list[str]:
        """What runs a command line at the host's console."""
        clean = ["env", "-i", f"HOME={self.home}", "USER=lab", "TERM=dumb", "LANG=C.UTF-8", "bash", "--login", "-c", command]
        return ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", *clean]

    def processes(self) -> list[psutil.Process]:
        """All that run in it."""
        return psutil.Process(self.pid).children(recursive=True) if self._unshare.poll() is None else []

    def cut(self) -> None:
        """Pull the plug: every process of the host is gone at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._unshare.wait()
        self._log.close()


class Lab:
    """A desk and hosts `one`, `two`, ... on a network of their own, with a key that opens all of them."""

    def __init__(self, base: Path, count: int, profile: str) -> None:
        self.base, self.profile = base, profile
        self.names = ("one", "two", "three", "four", "five")[:count]
        self.address = {name: f"{NETWORK}.{number}" for number, name in enumerate(self.names, 1)}
        lines = ["127.0.0.1 localhost", f"{DESK} desk", *(f"{address} {name}" for name, address in self.address.items())]
        (base / "hosts").write_text("\n".join(lines) + "\n")
        self.desk = self._host("desk", ["sleep", "infinity"])
        self._at_desk(f"ip link add lab type bridge; ip address add {DESK}/24 dev lab; ip link set lab up")
        (self.desk.home / ".ssh").mkdir(mode=0o700)
        self.key = self.desk.home / ".ssh" / "id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.hosts: dict[str, Host] = {}
        for name in self.names:
            self.switch_on(name)

    def switch_on(self, name: str) -> None:
        """Start a host and plug in its cable."""
        options = ("UsePAM=no", "StrictModes=no", "PermitRootLogin=yes", f"AuthorizedKeysFile={self.key}.pub", f"HostKey={self.key}")
        host = self._host(name, ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *(f"-o{option}" for option in options)])
        self._at_desk(
            f"ip link add to-{name} type veth peer name lan netns /proc/{host.pid}/ns/net; ip link set to-{name} master lab up"
        )
        host.run(f"ip address add {self.address[name]}/24 dev lan; ip link set lan up; ip route add default via {DESK}", check=True)
        self.hosts[name] = host

    def off(self) -> None:
        """Switch everything off."""
        for host in (*self.hosts.values(), self.desk):
            host.cut()

    def _host(self, name: str, command: Sequence[str]) -> Host:
        own = self.base / name
        (own / "home").mkdir(parents=True, exist_ok=True)
        (own / "home" / ".bash_profile").write_text(self.profile)
        users = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith(("lab:", "sshd:"))]
        users += ["sshd:x:74:74::/run/sshd:/usr/sbin/nologin"]
        (own / "passwd").write_text("\n".join([f"lab:x:0:0::{own}/home:/bin/bash", *users]) + "\n")
        return Host(self.base, name, command)

    def _at_desk(self, command: str) -> None:
        # only the network: another host's /proc is seen from outside
        subprocess.run(["nsenter", f"--target={self.desk.pid}", "--net", "bash", "-ec", command], check=True)


@contextlib.contextmanager
def lab(base: Path, count: int, profile: str) -> Iterator[Lab]:
    """A lab that is switched off at the end, whatever happens."""
    built = Lab(base, count, profile)
    try:
        yield built
    finally:
        built.off()


def until(look: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """What `look` returns once it is true."""
    limit = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > limit:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)
    return seen
