"""The application: writes a numbered row every few milliseconds, and keeps account of what was acknowledged.

    client.py '{"hosts": ["10.213.1.2", "10.213.2.2"], "port": 5432, "database": "orders", "user": "app"}'

It connects to the first of a list of hosts that takes writes (the rule of libpq: in order, anew at each attempt), or to
what a name resolves to (with a cache that honours the TTL). Connecting to a host may take `connect_ms`, a write
`write_ms`. A write that is given up is not repeated: its number is never used again.

On standard output it says which host has just begun to acknowledge. On SIGTERM it looks which acknowledged rows the
last of them does not have, and prints its account.
"""

import contextlib
import itertools
import json
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import dns.resolver
import psycopg2
import psycopg2.extensions

TABLE = "application_writes"


class GivenUp(Exception):
    """No answer in time, or no host that takes writes."""


class Stop(Exception):
    """SIGTERM."""


@dataclass
class Options:
    port: int
    database: str
    user: str
    # One of both.
    hosts: list[str] = field(default_factory=list)
    name: str = ""
    # Where the name is asked for.
    nameserver: str = ""
    nameserver_port: int = 53
    first: int = 1
    pace_ms: float = 5
    connect_ms: float = 250
    write_ms: float = 500


def wait(connection: Any, until: float) -> None:
    """Until the connection has done what it does."""
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        left = until - time.monotonic()
        if left <= 0:
            raise GivenUp("no answer in time")
        reads = [connection] if state == psycopg2.extensions.POLL_READ else []
        writes = [connection] if state == psycopg2.extensions.POLL_WRITE else []
        select.select(reads, writes, [], left)


class Client:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.connection: Any = None
        self.host = ""
        self.acknowledged: list[tuple[int, int, str]] = []
        self.failed = 0
        self.last_error = ""
        self.resolver = dns.resolver.Resolver(configure=False)
        self.resolver.nameservers = [options.nameserver or "127.0.0.1"]
        self.resolver.port = options.nameserver_port
        self.resolver.cache = dns.resolver.Cache()

    def candidates(self) -> list[str]:
        if self.options.hosts:
            return self.options.hosts
        answer = self.resolver.resolve(self.options.name, "A", lifetime=self.options.connect_ms / 1000)
        return [str(answer[0])]

    def connect(self) -> None:
        hosts = self.candidates()
        for host in hosts:
            until = time.monotonic() + self.options.connect_ms / 1000
            connection = None
            try:
                connection = psycopg2.connect(
                    host=host,
                    port=self.options.port,
                    dbname=self.options.database,
                    user=self.options.user,
                    sslmode="disable",
                    gssencmode="disable",
                    # Behind a name there may be a replica: the write will tell.
                    target_session_attrs="read-write" if self.options.hosts else "any",
                    async_=True,
                )
                wait(connection, until)
            except (psycopg2.Error, GivenUp):
                if connection is not None:
                    connection.close()
                continue
            self.connection, self.host = connection, host
            return
        raise GivenUp("no host takes writes")

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def write(self, number: int) -> None:
        if self.connection is None:
            self.connect()
        until = time.monotonic() + self.options.write_ms / 1000
        cursor = self.connection.cursor()  # lives until the answer is there
        cursor.execute(f"INSERT INTO {TABLE} (number) VALUES (%s)", (number,))
        wait(self.connection, until)
        last = self.acknowledged[-1][2] if self.acknowledged else ""
        self.acknowledged.append((time.monotonic_ns(), number, self.host))
        if self.host != last:
            print(self.host, flush=True)

    def run(self) -> None:
        number = self.options.first
        pace = self.options.pace_ms / 1000
        due = time.monotonic()
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic() - pace) + pace
            try:
                self.write(number)
            except (psycopg2.Error, dns.exception.DNSException, GivenUp) as error:
                self.failed += 1
                self.last_error = str(error).strip()
                self.disconnect()
            number += 1

    def account(self) -> dict[str, Any]:
        """The outage is from the last acknowledgement of the first host to the first one of another."""
        self.disconnect()
        account: dict[str, Any] = {"acknowledged": len(self.acknowledged), "failed_attempts": self.failed}
        account["last_error"] = self.last_error
        if not self.acknowledged:
            return account
        old = self.acknowledged[0][2]
        fresh = next((ack for ack in self.acknowledged if ack[2] != old), None)
        before = [ack for ack in self.acknowledged if ack[2] == old and (fresh is None or ack[0] < fresh[0])]
        account["last_acknowledged_ns"] = before[-1][0]
        # While nothing was broken: what of the outage is the bench's own noise.
        settled = [ack[0] for ack in before][5:]
        account["gap_before_ms"] = max((b - a for a, b in itertools.pairwise(settled)), default=0) / 1e6
        if fresh is not None:
            account["outage_ms"] = (fresh[0] - before[-1][0]) / 1e6
            account["lost"] = self.lost()
        return account

    def lost(self) -> int:
        where = {"host": self.acknowledged[-1][2], "port": self.options.port, "connect_timeout": 5}
        connection = psycopg2.connect(dbname=self.options.database, user=self.options.user, **where)
        cursor = connection.cursor()
        cursor.execute(f"SELECT number FROM {TABLE} WHERE number >= %s", (self.options.first,))
        rows = {row[0] for row in cursor.fetchall()}
        connection.close()
        return sum(number not in rows for _, number, _ in self.acknowledged)


def main() -> None:
    client = Client(Options(**json.loads(sys.argv[1])))

    def stop(_number: int, _frame: object) -> None:
        raise Stop

    signal.signal(signal.SIGTERM, stop)
    with contextlib.suppress(Stop):
        client.run()
    print(json.dumps(client.account()), flush=True)


if __name__ == "__main__":
    main()
