"""Several hosts on this machine, which reach each other by SSH as machines in a lab do.

Each host has namespaces of its own: address, name, processes, home, /dev/shm and /tmp/ray. They all
share the rest of the file system, as if it were on NFS. The user sits at the `desk`, which has no
sshd, and where all cables end in a bridge. The machine's own network shows nothing of this, and the
processes of a host end with its first one, as in a power cut.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from support.processes import wait_until

PACKAGES = "openssh-server rsync iproute2"
"""Debian packages of the programs that hosts need."""
NETWORK = "10.77.0"
DESK = f"{NETWORK}.254"
SPACES = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child")

START = r"""
set -eu
mount --make-rprivate /
ip link set lo up
hostname "$name"
mkdir -p "$own/ray" /tmp/ray
mount --bind "$own/ray" /tmp/ray
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$own/hosts" /etc/hosts
mount --bind "$own/passwd" /etc/passwd
"""


def missing() -> str | None:
    """Return why hosts can't be made here, and what to do, or None if they can."""
    if os.geteuid() != 0:
        return "needs root: network namespaces are made"
    programs = (
        "/usr/sbin/sshd",
        "ssh-keygen",
        "ssh",
        "rsync",
        "ip",
        "unshare",
        "nsenter",
        "setpriv",
    )
    if absent := [name for name in programs if not shutil.which(name)]:
        return f"needs {', '.join(absent)}: apt-get install --no-install-recommends {PACKAGES}"
    alone = ["unshare", *SPACES, "ip", "link", "add", "name", "lab", "type", "bridge"]
    tried = subprocess.run(alone, capture_output=True, text=True)
    return (
        f"needs namespaces, which this machine doesn't allow: {tried.stderr.strip()}"
        if tried.returncode
        else None
    )


class Host:
    """Run one host from its creation on, and commands in it as at its console."""

    def __init__(self, name: str, own: Path, program: Sequence[str]) -> None:
        self.home = own / "home"
        with (own / "console").open("ab") as console:
            self._unshare = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig=KILL",
                    "unshare",
                    *SPACES,
                    "bash",
                    "-c",
                    START + shlex.join(["exec", *program]),
                ],
                env={**os.environ, "name": name, "own": str(own)},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        unshare = psutil.Process(self._unshare.pid)
        self.pid: int = wait_until(
            lambda: next((child.pid for child in unshare.children()), None), f"{name} to start"
        )
        """The host's first process, as seen from outside."""

    def run(self, command: str, timeout: float = 600) -> str:
        """Run a command line at the host's console, which must succeed; return what it prints."""
        command_line = [
            "env",
            "-i",
            f"HOME={self.home}",
            "USER=lab",
            "TERM=dumb",
            "LANG=C.UTF-8",
            "bash",
            "--login",
            "-c",
            command,
        ]
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            *command_line,
        ]
        process = subprocess.run(
            enter, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        assert process.returncode == 0, f"{command}\n{process.stdout}\n{process.stderr}"
        return process.stdout

    def runs(self, name: str) -> bool:
        """Return whether a process of the host has this name in its command line."""
        return any(
            name in " ".join(_arguments(process))
            for process in psutil.Process(self.pid).children(recursive=True)
        )

    def cut(self) -> None:
        """Cut the power: every process of the host ends at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._unshare.wait()


class Lab:
    """Hold a desk, and hosts on a network of their own with one key for all of them."""

    def __init__(self, folder: Path, names: Sequence[str], profile: str) -> None:
        self._folder, self._profile = folder, profile
        self.address = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, 1)}
        self.hosts: dict[str, Host] = {}
        self._key = folder / "desk" / "home" / ".ssh" / "id_ed25519"
        self._key.parent.mkdir(parents=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._key], check=True)
        self.desk = self._host("desk", ["sleep", "infinity"])
        self._plug(
            f"ip link add lab type bridge; ip address add {DESK}/24 dev lab; ip link set lab up"
        )

    def switch_on(self, name: str) -> None:
        """Start a host and plug in its cable."""
        key = [f"-oAuthorizedKeysFile={self._key}.pub", f"-oHostKey={self._key}"]
        free = ["-oUsePAM=no", "-oStrictModes=no", "-oPermitRootLogin=yes"]
        self.hosts[name] = host = self._host(
            name, ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *key, *free]
        )
        self._plug(f"ip link add to-{name} type veth peer name lan netns /proc/{host.pid}/ns/net")
        self._plug(f"ip link set to-{name} master lab up")
        host.run(
            f"ip address add {self.address[name]}/24 dev lan; ip link set lan up; "
            f"ip route add default via {DESK}"
        )

    def _host(self, name: str, program: Sequence[str]) -> Host:
        own = self._folder / name
        (own / "home").mkdir(parents=True, exist_ok=True)
        (own / "home" / ".bash_profile").write_text(self._profile)
        known = {"localhost": "127.0.0.1", "desk": DESK, **self.address}
        (own / "hosts").write_text(
            "".join(f"{address} {host}\n" for host, address in known.items())
        )
        users = [
            line
            for line in Path("/etc/passwd").read_text().splitlines()
            if not line.startswith(("lab:", "sshd:"))
        ]
        lab_users = [
            f"lab:x:0:0::{own}/home:/bin/bash",
            "sshd:x:74:74::/run/sshd:/usr/sbin/nologin",
        ]
        (own / "passwd").write_text("\n".join([*lab_users, *users, ""]))
        return Host(name, own, program)

    def _plug(self, command: str) -> None:
        """Run a command in the desk's network, but where /proc shows the processes of all hosts."""
        subprocess.run(
            ["nsenter", f"--target={self.desk.pid}", "--net", "bash", "-ec", command], check=True
        )


@contextlib.contextmanager
def lab(folder: Path, names: Sequence[str], profile: str) -> Iterator[Lab]:
    """Switch on the hosts of a lab, and off at the end. Each login shell first runs `profile`."""
    started = Lab(folder, names, profile)
    try:
        for name in names:
            started.switch_on(name)
        yield started
    finally:
        for host in (*started.hosts.values(), started.desk):
            host.cut()


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []
