"""Runs every system with every fault, and shows one table. See README.md."""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

import stage
from ours import Ours
from peers import DATABASE, AutoFailover, Pair, Patroni, Postgres
from stage import PREFIX, Failed, Network, read_until

HERE = Path(__file__).resolve().parent
FAULTS = {"kill": "kill -9", "drop": "packets dropped"}
# Longest time until somebody else acknowledges.
OUTAGE_MAX_S = 240
# A machine that is busy with other things may keep a system from coming up.
STARTS_MAX = 3
# The application writes so long before anything is broken, and after it is served again.
BEFORE_S = 3
AFTER_S = 1
# What a run takes beside the outage, and the outage, as seen; for the estimate.
SECONDS = {
    "aurora-failover/default": 75,
    "aurora-failover/fast": 25,
    "patroni/default": 50,
    "patroni/fastest": 38,
    "pg_auto_failover/default": 75,
    "pg_auto_failover/aggressive": 25,
    "pg_auto_failover/extreme": 20,
}


class System(Protocol):
    """One system with its settings."""

    round_s: float

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def client_options(self) -> dict[str, dict[str, Any]]: ...
    def kill(self) -> None: ...
    def drop(self) -> None: ...


@dataclass
class Case:
    """A system with settings."""

    key: str
    label: str
    settings: str
    make: Callable[[Path], System]


@dataclass
class Result:
    """What one client saw in one run."""

    case: str
    fault: str
    through: str
    run: int
    load: float
    outage_ms: float | None = None
    fault_to_first_write_ms: float | None = None
    lost: int | None = None
    acknowledged: int = 0
    failed_attempts: int = 0
    gap_before_ms: float | None = None
    failed_starts: int = 0
    problem: str = ""


class Application:
    """The client, in a process of its own."""

    def __init__(self, options: dict[str, Any], inside: str | None) -> None:
        where = ["ip", "netns", "exec", PREFIX + inside] if inside else []
        command = ["setpriv", "--pdeathsig", "KILL", *where, "/usr/bin/python3", str(HERE / "client.py")]
        everything = {"database": DATABASE, "user": "app", **options}
        self.process = subprocess.Popen(
            [*command, json.dumps(everything)], stdout=subprocess.PIPE, start_new_session=True
        )
        self.said = ""

    def served_by(self, hosts: int, within_s: float) -> bool:
        """Has it been served by so many hosts, one after the other?"""
        self.said = read_until(self.process, self.said, lambda said: said.count("\n") >= hosts, within_s)
        return self.said.count("\n") >= hosts

    def account(self) -> dict[str, Any]:
        self.process.terminate()
        self.said = read_until(self.process, self.said, lambda said: "}" in said, 60)
        if "}" not in self.said:
            raise Failed("the application ended before its account")
        account: dict[str, Any] = json.loads(self.said.splitlines()[-1])
        return account

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def postgres(binary: Path | None) -> Postgres:
    """The oldest major version that the lab takes: the peers' packages know newer ones ever less."""
    if binary is not None:
        found = [binary]
    else:
        places = ("/usr/lib/postgresql/*/bin", "/var/cache/aurora-failover/postgresql/*/*/*/bin")
        found = [path for place in places for path in sorted(Path("/").glob(place.lstrip("/")))]
    usable = []
    for path in found:
        if (path / "postgres").is_file() and (path / "pg_basebackup").is_file():
            match = re.search(r"(\d+)\.(\d+)", stage.run([str(path / "postgres"), "--version"]))
            if match and int(match.group(1)) >= 16:
                usable.append(((int(match.group(1)), -int(match.group(2))), path, match.group(0)))
    if not usable:
        raise Failed("no PostgreSQL 16 or newer found; run scripts/setup, or give --postgres DIR")
    _, path, version = min(usable)
    return Postgres(path, version)


def cases(arguments: argparse.Namespace, network: Network, chosen: Postgres) -> list[Case]:
    every = []
    for profile in arguments.profiles.split(","):
        ours = partial(Ours, arguments.lab_binary, chosen, profile)
        every.append(Case(f"aurora-failover/{profile}", Ours.label, Ours.settings(profile), ours))
    for variant in Patroni.variants:
        settings = f"{variant}: {Patroni.settings(variant)}"
        every.append(Case(f"patroni/{variant}", Patroni.label, settings, partial(Patroni, network, chosen, variant)))
    for variant in AutoFailover.variants:
        settings = f"{variant}: {AutoFailover.settings(variant)}"
        pair = partial(AutoFailover, network, chosen, variant)
        every.append(Case(f"pg_auto_failover/{variant}", AutoFailover.label, settings, pair))
    wanted = arguments.only.split(",") if arguments.only else [""]
    return [case for case in every if any(case.key.startswith(start) for start in wanted)]


@contextlib.contextmanager
def running(case: Case) -> Iterator[System]:
    work = stage.work_dir()
    system = None
    try:
        system = case.make(work)
        system.start()
        yield system
    finally:
        if system is not None:
            system.stop()
        shutil.rmtree(work, ignore_errors=True)


def some_run(case: Case, fault: str, number: int) -> list[Result]:
    """A run; a system that does not come up is started anew, and that is counted."""
    failed_starts = 0
    while True:
        try:
            seen = one_run(case, fault, number)
        except (Failed, subprocess.TimeoutExpired, OSError, ValueError) as error:
            failed_starts += 1
            say(f"  {error}")
            if failed_starts < STARTS_MAX:
                continue
            seen = [Result(case.key, fault, "-", number, round(os.getloadavg()[0], 2), problem=str(error))]
        return [replace(each, failed_starts=failed_starts) for each in seen]


def one_run(case: Case, fault: str, number: int) -> list[Result]:
    applications: dict[str, Application] = {}
    with running(case) as system, contextlib.ExitStack() as stack:
        inside = "app" if isinstance(system, Pair) else None
        for through, options in system.client_options().items():
            applications[through] = Application(options, inside)
            stack.callback(applications[through].kill)
        for through, application in applications.items():
            if not application.served_by(1, 20):
                raise Failed(f"the application ({through}) cannot write: {application.account()['last_error']}")
        # At any moment of what comes round: probes, leases, caches.
        time.sleep(BEFORE_S + random.uniform(0, system.round_s))
        load = os.getloadavg()[0]
        at = time.monotonic_ns()
        if fault == "kill":
            system.kill()
        else:
            system.drop()
        until = time.monotonic() + OUTAGE_MAX_S
        served = {through: each.served_by(2, until - time.monotonic()) for through, each in applications.items()}
        time.sleep(AFTER_S)
        seen = Result(case.key, fault, "", number, round(load, 2))
        return [
            account(replace(seen, through=through), at, served[through], each) for through, each in applications.items()
        ]


def account(seen: Result, at: int, served: bool, application: Application) -> Result:
    """Adds what the client saw."""
    account = application.account()
    seen.acknowledged, seen.failed_attempts = account["acknowledged"], account["failed_attempts"]
    if not served or "outage_ms" not in account:
        seen.problem = f"nobody else acknowledged a write within {OUTAGE_MAX_S} s"
        return seen
    seen.fault_to_first_write_ms = round((account["last_acknowledged_ns"] - at) / 1e6 + account["outage_ms"], 1)
    if seen.fault_to_first_write_ms < 0:
        seen.problem = "it failed over before anything was broken"
        return seen
    seen.outage_ms = round(account["outage_ms"], 1)
    seen.lost, seen.gap_before_ms = account["lost"], round(account["gap_before_ms"], 1)
    return seen


def summary(every: list[Case], results: list[Result]) -> list[dict[str, Any]]:
    rows = []
    for case, fault in itertools.product(every, FAULTS):
        seen = [each for each in results if (each.case, each.fault) == (case.key, fault)]
        rows += [
            row(case, fault, [each for each in seen if each.through == through])
            for through in sorted({each.through for each in seen})
        ]
    return rows


def row(case: Case, fault: str, group: list[Result]) -> dict[str, Any]:
    outages = [each.outage_ms for each in group if each.outage_ms is not None]
    lost = [each.lost for each in group if each.lost is not None]
    return {
        "system": case.label,
        "settings": case.settings,
        "fault": FAULTS[fault],
        "client": group[0].through,
        "runs": len(group),
        "failed_runs": len(group) - len(outages),
        "failed_starts": sum(each.failed_starts for each in group),
        "median_ms": round(statistics.median(outages)) if outages else None,
        "min_ms": round(min(outages)) if outages else None,
        "max_ms": round(max(outages)) if outages else None,
        "lost_median": statistics.median(lost) if lost else None,
        "lost_max": max(lost) if lost else None,
        "failed_attempts_median": statistics.median(each.failed_attempts for each in group),
        "load_median": round(statistics.median(each.load for each in group), 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    head = ["system", "settings", "fault", "client", "runs", "median ms", "min ms", "max ms", "lost (max)", "load"]
    shown = [head]
    for row in rows:
        runs = str(row["runs"]) + (f", {row['failed_runs']} failed" if row["failed_runs"] else "")
        numbers = [row[key] for key in ("median_ms", "min_ms", "max_ms", "lost_max", "load_median")]
        texts = [row["system"], row["settings"], row["fault"], row["client"], runs]
        shown.append(texts + ["-" if number is None else str(number) for number in numbers])
    widths = [max(len(line[column]) for line in shown) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in shown]
    notes = [
        f"{row['system']} ({row['settings']}), {row['fault']}: {row['failed_starts']} times it did not come up"
        for row in rows
        if row["failed_starts"]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:], *dict.fromkeys(notes)])


def versions(chosen: Postgres, lab_binary: Path) -> dict[str, str]:
    def first_line(*command: str) -> str:
        with contextlib.suppress(Failed, OSError):
            return stage.run(list(command)).splitlines()[0].strip()
        return "?"

    installed = "dpkg-query", "--show", "--showformat=${Version}"
    packages = ("patroni", "etcd-server", "pg-auto-failover-cli", "python3-psycopg2", "libpq5")
    return {
        "postgresql": chosen.version,
        "aurora-failover": first_line(str(lab_binary), "--version"),
        **{package: first_line(*installed, package) for package in packages},
        "system": first_line("sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME"'),
        "kernel": platform.release(),
        "processors": f"{os.cpu_count()} x {first_line('sed', '-n', 's/^model name[^:]*: //p', '/proc/cpuinfo')}",
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/peers/run", description="Write outages, side by side.")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="runs of each case (default: 5)")
    parser.add_argument("--only", metavar="CASE,…", help="only cases that begin so, such as patroni")
    parser.add_argument("--fault", choices=[*FAULTS, "both"], default="both")
    parser.add_argument(
        "--profiles", default="default,fast", metavar="NAME,…", help="profiles of our lab (default: both)"
    )
    parser.add_argument("--postgres", type=Path, metavar="DIR", help="PostgreSQL's programs, for every system")
    parser.add_argument("--lab-binary", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the JSON object here after each run")
    parser.add_argument("--estimate", action="store_true", help="say what would be run and how long it takes, and end")
    return parser.parse_args()


def say(text: str) -> None:
    print(f"peers: {text}", file=sys.stderr, flush=True)


def main() -> int:
    arguments = parse()
    chosen = postgres(arguments.postgres)
    faults = list(FAULTS) if arguments.fault == "both" else [arguments.fault]
    stage.stop_on_signals()
    network = Network()
    every = cases(arguments, network, chosen)
    if not every:
        raise Failed(f"no case begins with {arguments.only}")
    seconds = sum(SECONDS.get(case.key, 60) for case in every) * len(faults) * arguments.repeat
    minutes = max(1, round(seconds / 60))
    say(f"{len(every)} cases, {len(faults)} faults, {arguments.repeat} runs each: about {minutes} minutes")
    if arguments.estimate:
        print("\n".join(f"{case.key}  ({case.label}, {case.settings})" for case in every))
        return 0
    report: dict[str, Any] = {"began": now(), "versions": versions(chosen, arguments.lab_binary)}
    results: list[Result] = []

    def finish(file: Path | None) -> None:
        report.update(ended=now(), rows=summary(every, results), runs=[asdict(each) for each in results])
        if file is not None:
            file.write_text(json.dumps(report, indent=1) + "\n")

    guard: IO[str] = stage.lock()
    with guard, network:
        stage.remove_old_work()
        # Each round has every case once: what disturbs the machine for a while disturbs all.
        for number in range(1, arguments.repeat + 1):
            for case in every:
                for fault in faults:
                    say(f"{number}/{arguments.repeat} {case.key}, {FAULTS[fault]}")
                    seen = some_run(case, fault, number)
                    for each in seen:
                        say(f"  {each.through}: {each.problem or f'{each.outage_ms} ms, lost {each.lost}'}")
                    results += seen
                    finish(arguments.save)
    finish(arguments.save)
    print(json.dumps(report, indent=1) if arguments.json else table(report["rows"]))
    return 0 if all(each.outage_ms is not None for each in results) else 1


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(f"peers: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
