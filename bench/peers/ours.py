"""aurora-failover in its lab: two regions on loopback, as `scripts/lab up` starts them."""

import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from peers import Postgres
from stage import Failed, read_until

UP_WITHIN_S = 240
PRIMARY = "us-east-2"
NAME = "db.orders.example.com."


class Ours:
    label = "aurora-failover"

    def __init__(self, binary: Path, postgres: Postgres, profile: str, _work: Path) -> None:
        self.binary = binary
        self.postgres = postgres
        self.profile = profile
        # Time of one round of the vantages' probes.
        self.round_s = 10.0 if profile == "default" else 1.0
        self.lab: subprocess.Popen[bytes] | None = None
        self.said = ""

    @classmethod
    def settings(cls, profile: str) -> str:
        return f"--profile {profile}"

    def start(self) -> None:
        command = ["setpriv", "--pdeathsig", "TERM", str(self.binary), "lab", "up", "--profile", self.profile]
        self.lab = subprocess.Popen(
            command,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LAB_PG_BIN": str(self.postgres.bin)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        last = "Stop it with Ctrl-C"
        self.said = read_until(self.lab, "", lambda said: last in said, UP_WITHIN_S)
        if last not in self.said:
            end = "\n".join(self.said.strip().splitlines()[-3:])
            raise Failed(f"the lab did not come up:\n{end}")

    def stop(self) -> None:
        if self.lab is None:
            return
        self.lab.send_signal(signal.SIGTERM)
        try:
            self.lab.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.lab.kill()
            self.lab.wait()
        self.lab = None

    def found(self, pattern: str) -> str:
        match = re.search(pattern, self.said)
        if match is None:
            raise Failed(f"the lab did not say {pattern!r}:\n{self.said}")
        return match.group(1)

    def client_options(self) -> dict[str, dict[str, Any]]:
        port = int(self.found(r"PostgreSQL +port (\d+)"))
        hosts = [self.found(r"PostgreSQL .* on ([\d.]+) \("), self.found(r"PostgreSQL .* and ([\d.]+) \(")]
        dns_port = int(self.found(r"dig -p (\d+)"))
        by_name = {"name": NAME, "nameserver": "127.0.0.1", "nameserver_port": dns_port, "first": 2 * 10**15}
        # Numbers that the lab's own client does not use.
        return {"host list": {"hosts": hosts, "port": port, "first": 10**15}, "name": {**by_name, "port": port}}

    def order(self, line: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(self.found(r"logs +(\S+)") + "/control.sock")
            connection.sendall(f"{line}\n".encode())
            said = connection.recv(65536).decode()
        if not said.startswith("done"):
            raise Failed(f"{line}: {said}")

    def kill(self) -> None:
        """Both servers of the region, else RDS would replace the writer inside it and nobody had to fail over."""
        self.order("fault crash reader")
        self.order("fault crash writer")

    def drop(self) -> None:
        self.order(f"fault lose-region {PRIMARY}")
