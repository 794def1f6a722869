"""A network of namespaces, and nodes in it: each node is one set of processes with an address of its own.

Every node has its own link to a router, which can drop what comes from and goes to it. A node's processes share a
process namespace: when its first process is killed, the kernel kills all others, as the loss of a host does.
"""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

PREFIX = "afpeers-"
NETWORK = "10.213.0.0/16"
# Two databases, the arbiter between them (etcd or a monitor), the application.
NODES = {"n1": 1, "n2": 2, "arbiter": 3, "app": 4}
ROUTER = PREFIX + "router"
WORK = "aurora-failover-peers-"
LOCK = Path("/run/lock/aurora-failover-peers.lock")
# Debian's packages of PostgreSQL make this user, and this directory.
USER = "postgres"
SOCKETS = "/run/postgresql"
AS_USER = ("setpriv", "--reuid", USER, "--regid", USER, "--clear-groups")
INIT = f"""
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs {SOCKETS}
"$@"
exit $?
"""


class Failed(Exception):
    """Something did not come up, or not in time; the text says what."""


def address(node: str) -> str:
    return f"10.213.{NODES[node]}.2"


def run(command: Sequence[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, cwd="/", check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def wait_for(what: str, ready: Callable[[], bool], within_s: float) -> None:
    until = time.monotonic() + within_s
    while not ready():
        if time.monotonic() > until:
            raise Failed(f"{what}: not within {within_s:.0f} s")
        time.sleep(0.1)


def read_until(process: subprocess.Popen[bytes], said: str, enough: Callable[[str], bool], within_s: float) -> str:
    """What a process has said, the part that is known already included, when it is enough, has ended or time is up."""
    assert process.stdout is not None
    until = time.monotonic() + within_s
    while not enough(said):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        piece = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not piece:
            break
        said += piece.decode(errors="replace")
    return said


def lock() -> IO[str]:
    """Two runs at a time would share namespaces, and disturb each other's times."""
    file = LOCK.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Failed("another run is under way on this machine") from None
    return file


class Network:
    """The namespaces; made at the beginning of a run, removed at its end."""

    def __enter__(self) -> "Network":
        self.remove()  # of a run that was killed
        run(["ip", "netns", "add", ROUTER])
        run(["ip", "netns", "exec", ROUTER, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
        for node, number in NODES.items():
            inside, gateway = PREFIX + node, f"10.213.{number}.1"
            run(["ip", "netns", "add", inside])
            run(["ip", "link", "add", node, "netns", ROUTER, "type", "veth", "peer", "name", "eth0", "netns", inside])
            run(["ip", "-n", ROUTER, "-batch", "-"], f"address add {gateway}/24 dev {node}\nlink set {node} up\n")
            # For pg_auto_failover all nodes are in one local network, to which it opens its servers.
            own = f"address add {address(node)}/16 dev eth0 noprefixroute"
            routes = [f"route add {gateway} dev eth0", f"route add default via {gateway}"]
            commands = ["link set lo up", own, "link set eth0 up", *routes]
            run(["ip", "-n", inside, "-batch", "-"], "\n".join(commands) + "\n")
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @staticmethod
    def remove() -> None:
        there = [line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line]
        for name in [ROUTER, *(PREFIX + node for node in NODES)]:
            if name in there:
                run(["ip", "netns", "delete", name])

    @staticmethod
    def drop(node: str) -> None:
        """From now on the router drops what comes from and goes to the node; nobody is told."""
        rules = [f"rule add iif {node} blackhole pref 10", f"rule add to {address(node)} blackhole pref 11"]
        run(["ip", "-n", ROUTER, "-batch", "-"], "\n".join(rules) + "\n")

    @staticmethod
    def heal() -> None:
        for pref in ("10", "11"):
            with contextlib.suppress(Failed):  # nothing was dropped
                run(["ip", "-n", ROUTER, "rule", "delete", "pref", pref])


class Node:
    """Processes of one node, ended together."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.dir = directory
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts the node's program as the user of PostgreSQL.

        setpriv: it ends when we do, however we end. unshare: what the program starts ends with it. sh: a first process
        that collects orphans. Sockets and shared memory are the node's own, and not those of the machine's servers.
        """
        whole = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", PREFIX + self.name]
        whole += ["unshare", "--pid", "--ipc", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
        whole += ["sh", "-ec", INIT, "sh"]
        whole += [*AS_USER, *command]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.dir), **environment}
        with (self.dir / "log").open("a") as log:
            started = subprocess.Popen(
                whole, env=env, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(started)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(timeout=30)
        self.processes.clear()

    def log_end(self) -> str:
        log = self.dir / "log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([f"--- log of {self.name}:", *lines[-15:]])


def work_dir() -> Path:
    """A directory that the user of PostgreSQL can enter."""
    path = Path(tempfile.mkdtemp(prefix=WORK))
    path.chmod(0o755)
    return path


def remove_old_work() -> None:
    """Directories of runs that were killed; none is under way, as we hold the lock."""
    for path in Path(tempfile.gettempdir()).glob(f"{WORK}*"):
        shutil.rmtree(path, ignore_errors=True)


def node(name: str, work: Path) -> Node:
    directory = work / name
    directory.mkdir()
    shutil.chown(directory, USER, USER)
    return Node(name, directory)


def stop_on_signals() -> None:
    """Ctrl-C and SIGTERM unwind as exceptions, so that everything is removed."""

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, _frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)  # impatience does not stop the removal
        raise KeyboardInterrupt(number)

    for each in signals:
        signal.signal(each, stop)
