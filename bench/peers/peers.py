"""Patroni with etcd, and pg_auto_failover: a pair of nodes and an arbiter, as their documents tell to set them up."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage import AS_USER, NETWORK, PREFIX, SOCKETS, USER, Failed, Network, Node, address, node, run, wait_for

DATABASE = "orders"
PORT = 5432
# Of every server, as in our lab: faults are about networks and processes, not about power. A promotion that meets the
# default of wal_retrieve_retry_interval (5 s) can take as much longer.
SETTINGS = {
    "fsync": "off",
    "shared_buffers": "16MB",
    "unix_socket_directories": SOCKETS,
    "wal_retrieve_retry_interval": "100ms",
}
INITDB = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-locale", "--data-checksums", "--wal-segsize=1"]
SQL = """
CREATE ROLE app LOGIN;
CREATE TABLE application_writes (number bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
ALTER TABLE application_writes OWNER TO app;
"""
UP_WITHIN_S = 120
IN_APP = ("ip", "netns", "exec", PREFIX + "app")


@dataclass
class Postgres:
    """The programs that every system runs."""

    bin: Path
    version: str


class Pair:
    """Two databases and an arbiter; n1 is the primary."""

    def __init__(self, network: Network, postgres: Postgres, work: Path) -> None:
        self.network = network
        self.postgres = postgres
        self.nodes = {name: node(name, work) for name in ("arbiter", "n1", "n2")}

    def stop(self) -> None:
        for each in self.nodes.values():
            each.kill()
        self.network.heal()

    def client_options(self) -> dict[str, dict[str, Any]]:
        return {"host list": {"hosts": [address("n1"), address("n2")], "port": PORT}}

    def kill(self) -> None:
        self.nodes["n1"].kill()

    def drop(self) -> None:
        self.network.drop("n1")

    def sql(self, on: str, statement: str, database: str = DATABASE) -> str:
        psql = [str(self.postgres.bin / "psql"), "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"]
        where = ["-h", address(on), "-p", str(PORT), "-d", database, "-U", USER]
        return run([*IN_APP, *psql, *where], statement).strip()

    def is_so(self, on: str, statement: str, database: str = DATABASE) -> bool:
        try:
            return self.sql(on, statement, database) == "t"
        except Failed:  # not up yet
            return False

    def caught_up(self) -> bool:
        all_of_it = "state = 'streaming' AND replay_lsn = pg_current_wal_lsn()"
        return self.is_so("n1", f"SELECT count(*) = 1 FROM pg_stat_replication WHERE {all_of_it}")

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        try:
            wait_for(what, ready, UP_WITHIN_S)
        except Failed as error:
            raise Failed("\n".join([str(error), *(each.log_end() for each in self.nodes.values())])) from None


class Patroni(Pair):
    """Asynchronous replication, its default."""

    label = "Patroni"
    # Seconds: ttl, loop_wait, retry_timeout.
    variants = {"default": (30, 10, 10), "fastest": (20, 1, 3)}

    def __init__(self, network: Network, postgres: Postgres, variant: str, work: Path) -> None:
        super().__init__(network, postgres, work)
        self.ttl, self.loop_wait, self.retry_timeout = self.variants[variant]
        # Time of one round: the fault comes at any moment of it.
        self.round_s = float(self.loop_wait)

    @classmethod
    def settings(cls, variant: str) -> str:
        ttl, loop_wait, retry_timeout = cls.variants[variant]
        return f"ttl {ttl}, loop_wait {loop_wait}, retry_timeout {retry_timeout}"

    def start(self) -> None:
        etcd = f"http://{address('arbiter')}"
        arbiter = self.nodes["arbiter"]
        peer = ["--listen-peer-urls", f"{etcd}:2380", "--initial-advertise-peer-urls", f"{etcd}:2380"]
        own = ["--listen-client-urls", f"{etcd}:2379", "--advertise-client-urls", f"{etcd}:2379"]
        cluster = ["--initial-cluster", f"default={etcd}:2380", "--data-dir", str(arbiter.dir / "data")]
        arbiter.start(["etcd", *peer, *own, *cluster], {})
        self.start_node("n1")
        self.wait("the first node of Patroni", lambda: self.is_so("n1", "SELECT NOT pg_is_in_recovery()", "postgres"))
        self.sql("n1", f"CREATE DATABASE {DATABASE}", "postgres")
        self.sql("n1", SQL)
        self.start_node("n2")
        self.wait("the second node of Patroni", self.caught_up)
        self.wait("Patroni sees its second node", self.whole)

    def start_node(self, name: str) -> None:
        file = self.nodes[name].dir / "patroni.json"  # JSON is YAML
        file.write_text(json.dumps(self.configuration(self.nodes[name]), indent=1))
        self.nodes[name].start(["patroni", str(file)], {})

    def configuration(self, of: Node) -> dict[str, Any]:
        timing = {"ttl": self.ttl, "loop_wait": self.loop_wait, "retry_timeout": self.retry_timeout}
        hba = ["local all all trust", f"host all all {NETWORK} trust", f"host replication all {NETWORK} trust"]
        options = [option.removeprefix("--").split("=") for option in INITDB if "username" not in option]
        initdb = [option[0] if len(option) == 1 else {option[0]: option[1]} for option in options]
        users = {"superuser": {"username": USER}, "replication": {"username": USER}}
        return {
            "scope": "peers",
            "name": of.name,
            "etcd3": {"host": f"{address('arbiter')}:2379"},
            "restapi": {"listen": f"{address(of.name)}:8008", "connect_address": f"{address(of.name)}:8008"},
            "bootstrap": {
                "dcs": {**timing, "postgresql": {"use_pg_rewind": True, "parameters": SETTINGS}},
                "initdb": initdb,
                "pg_hba": hba,
            },
            "postgresql": {
                "listen": f"{address(of.name)}:{PORT}",
                "connect_address": f"{address(of.name)}:{PORT}",
                "data_dir": str(of.dir / "data"),
                "bin_dir": str(self.postgres.bin),
                "pgpass": str(of.dir / "pgpass"),
                "authentication": users,
                # Else the second node waits for a checkpoint that takes its time.
                "basebackup": [{"checkpoint": "fast"}],
            },
        }

    def whole(self) -> bool:
        get = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=2).read().decode())"
        try:
            said = run([*IN_APP, "/usr/bin/python3", "-c", get, f"http://{address('n1')}:8008/cluster"])
        except Failed:  # not up yet
            return False
        members = json.loads(said)["members"]
        followers = [each for each in members if each["role"] != "leader" and each["state"] in ("running", "streaming")]
        return len(members) == 2 and any(each.get("lag") == 0 for each in followers)


class AutoFailover(Pair):
    """Synchronous replication, its default."""

    label = "pg_auto_failover"
    # Settings of the monitor, in milliseconds; what is not named stays at its default.
    variants: dict[str, dict[str, int]] = {
        "default": {},
        "aggressive": {
            "health_check_period": 1000,
            "health_check_timeout": 1000,
            "health_check_max_retries": 1,
            "health_check_retry_delay": 500,
            "node_considered_unhealthy_timeout": 3000,
            "primary_demote_timeout": 3000,
            "startup_grace_period": 1000,
        },
        "extreme": {
            "health_check_period": 250,
            "health_check_timeout": 250,
            "health_check_max_retries": 1,
            "health_check_retry_delay": 50,
            "node_considered_unhealthy_timeout": 1200,
            "primary_demote_timeout": 200,
            "startup_grace_period": 100,
        },
    }

    def __init__(self, network: Network, postgres: Postgres, variant: str, work: Path) -> None:
        super().__init__(network, postgres, work)
        self.monitor_settings = self.variants[variant]
        self.round_s = self.monitor_settings.get("health_check_period", 5000) / 1000

    @classmethod
    def settings(cls, variant: str) -> str:
        wanted = cls.variants[variant]
        if not wanted:
            return "as delivered"
        unhealthy, demoted = wanted["node_considered_unhealthy_timeout"], wanted["primary_demote_timeout"]
        return f"unhealthy after {unhealthy} ms, demoted after {demoted} ms"

    def environment(self, of: Node, binaries: Path) -> dict[str, str]:
        places = {f"XDG_{what}": str(of.dir / what.lower()) for what in ("CONFIG_HOME", "DATA_HOME", "RUNTIME_DIR")}
        return {**places, "PATH": f"{binaries}:/usr/bin:/bin", "PGUSER": USER}

    def create(self, what: str, of: Node, binaries: Path, *options: str) -> None:
        common = ["--pgdata", str(of.dir / "data"), "--hostname", address(of.name), "--pgport", str(PORT)]
        common += ["--pgctl", str(binaries / "pg_ctl"), "--auth", "trust", "--no-ssl", "--run"]
        of.start(["pg_autoctl", "create", what, *common, *options], self.environment(of, binaries))

    def start(self) -> None:
        # The monitor's extension belongs to the PostgreSQL that it was packaged for.
        extension = max(Path("/usr/share/postgresql").glob("*/extension/pgautofailover.control"))
        monitor = Path("/usr/lib/postgresql", extension.parts[-3], "bin")
        tuned = {f"pgautofailover.{key}": str(value) for key, value in self.monitor_settings.items()}
        self.prepare(self.nodes["arbiter"], monitor, tuned)
        self.create("monitor", self.nodes["arbiter"], monitor)
        self.wait("the monitor", lambda: self.is_so("arbiter", "SELECT true", "pg_auto_failover"))
        self.prepare(self.nodes["n1"], self.postgres.bin, {**SETTINGS, "shared_preload_libraries": ""})
        self.do_without_statistics()
        monitor_url = f"postgres://autoctl_node@{address('arbiter')}:{PORT}/pg_auto_failover"
        joining = ["--monitor", monitor_url, "--dbname", DATABASE]
        self.create("postgres", self.nodes["n1"], self.postgres.bin, "--name", "n1", *joining)
        self.wait("the first node of pg_auto_failover", lambda: self.is_so("n1", "SELECT NOT pg_is_in_recovery()"))
        self.sql("n1", SQL)
        # Its data is copied from the first one, with the settings.
        self.create("postgres", self.nodes["n2"], self.postgres.bin, "--name", "n2", *joining)
        self.wait("the second node of pg_auto_failover", self.copied)
        settled = "reportedstate = goalstate AND health = 1 AND reportedstate IN ('primary', 'secondary')"
        both = f"SELECT count(*) = 2 FROM pgautofailover.node WHERE {settled}"
        self.wait("primary and secondary", lambda: self.is_so("arbiter", both, "pg_auto_failover"))

    def prepare(self, of: Node, binaries: Path, settings: dict[str, str]) -> None:
        """An empty server with our settings, which pg_autoctl takes over."""
        data = of.dir / "data"
        run([*AS_USER, str(binaries / "initdb"), *INITDB, "--no-sync", "-D", str(data)])
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
        with (data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {NETWORK} trust\nhost replication all {NETWORK} trust\n")

    def copied(self) -> bool:
        # The copy waits for a checkpoint that takes its time; another one hurries it.
        self.sql("n1", "CHECKPOINT")
        return self.caught_up()

    def do_without_statistics(self) -> None:
        """It insists on an extension for statistics, which not every build of PostgreSQL has: let it find one there."""
        data = str(self.nodes["n1"].dir / "data")
        server = [str(self.postgres.bin / "postgres"), "--single", "-O", "-D", data, "template1"]
        row = "INSERT INTO pg_extension VALUES (90000, 'pg_stat_statements', 10, 11, true, '1')"
        run([*AS_USER, *server], row + "\n")
