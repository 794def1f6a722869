"""Programs that the tests run: the product, and AWS emulators."""

import functools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config

# ministack takes an access key of twelve digits as the account.
ACCOUNT = "123456789012"
ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ.get("AURORA_FAILOVER_TOOLS", Path(sys.executable).parent.parent))


@functools.cache
def built(program):
    """A program of the workspace, as `cargo test` has built it: another choice of features would build all anew."""
    build = ["cargo", "test", "--locked", "--quiet", "--workspace", "--all-features", "--no-run"]
    subprocess.run(build, cwd=ROOT, check=True)
    return str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / program)


def binary():
    """The product's program."""
    return os.environ.get("AURORA_FAILOVER_BINARY") or built("aurora-failover")


@functools.cache
def custom_resources_permissions():
    """What the custom resources may have to do, as they say themselves."""
    program = os.environ.get("AURORA_FAILOVER_CUSTOM_RESOURCES") or built("custom-resources")
    done = subprocess.run([program, "permissions"], cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def product(*arguments, config=None, check=True, env=None):
    """Runs a command with this configuration, given as a container gets it."""
    environment = {**os.environ, **(env or {})}
    if config is not None:
        environment["AURORA_FAILOVER_CONFIG_TEXT"] = config
    done = subprocess.run([binary(), *arguments], capture_output=True, text=True, env=environment, cwd="/")
    if check and done.returncode:
        raise AssertionError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


def wait_for(what, condition, within_s=60):
    """Asks until it is so; never longer than that."""
    until = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"within {within_s} s: {what}")
        time.sleep(0.2)


class Emulator:
    """An AWS emulator on loopback, ended with the `with`, also when this process is killed."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        program = TOOLS / "bin" / ("moto_server" if self.name == "moto" else self.name)
        if not program.exists():
            raise AssertionError(f"{program} does not exist; run scripts/setup test")
        arguments = ["-H", "127.0.0.1", "-p", str(port)] if self.name == "moto" else []
        # The shell ends the emulator when our end of its standard input closes, however we end.
        script = '"$@" & pid=$!; cat >/dev/null; kill $pid; wait $pid'
        self.process = subprocess.Popen(
            ["sh", "-c", script, "sh", str(program), *arguments],
            env={**os.environ, "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "IOT_MTLS_ENABLED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.url = f"http://127.0.0.1:{port}"

        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(f"{self.name} listens on {port}", listens)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def environment(self, region="us-west-2"):
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": region,
        }

    def client(self, service, region="us-west-2"):
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=ACCOUNT,
            aws_secret_access_key="test",
            config=Config(retries={"max_attempts": 2}, read_timeout=60),
        )
