"""What is packaged is what the templates fetch. Docker itself does not run here: the Dockerfile is read, and its context
is laid out and shown to cargo, but no image is built by these tests."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
import zipfile
from pathlib import Path

import template
from support import ROOT

AUTHORITIES = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"


def package(directory, *options):
    bundle = Path(directory) / "bundle.pem"
    bundle.write_text(AUTHORITIES)
    target = Path(directory) / "dist"
    command = [str(ROOT / "scripts" / "package"), "--ca-bundle", str(bundle), "--to", str(target), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done, target


def dockerfile():
    """Instructions as (name, rest), continuation lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = (line.strip() for line in text.splitlines())
    return [tuple(line.split(None, 1)) for line in lines if line and not line.startswith("#")]


def copied_from_context():
    for name, rest in dockerfile():
        if name == "COPY" and "--from=" not in rest:
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            yield from sources


class Packages(unittest.TestCase):
    def test_templates_and_demonstration_are_packaged_the_same_each_time(self):
        sums = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as directory:
                done, dist = package(directory, "--without-binaries")
                self.assertEqual(done.returncode, 0, done.stderr)
                sums.append((dist / "SHA256SUMS").read_text())
                checked = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=dist)
                self.assertEqual(checked.returncode, 0)
                names = {path.name for path in dist.iterdir()}
                self.assertTrue({f"{name}.yml" for name in template.names()} | {"main.json"} <= names)
                with zipfile.ZipFile(dist / "rds-ca.zip") as layer:
                    self.assertEqual(layer.namelist(), ["rds/global-bundle.pem"])
                with zipfile.ZipFile(dist / "demo.zip") as demo:
                    self.assertEqual(demo.namelist(), ["demo.py"])
                    compile(demo.read("demo.py"), "demo.py", "exec")
        self.assertEqual(sums[0], sums[1])

    def test_every_package_that_a_template_fetches_is_made(self):
        script = (ROOT / "scripts" / "package").read_text()
        made = set(re.findall(r'"\$dist/([\w.-]+\.zip)"', script))
        fetched = set()
        for name in template.names():
            fetched |= set(re.findall(r"\$\{CodePrefix\}([\w.-]+)'", template.text(name)))
        self.assertEqual(fetched, made)

    def test_handlers_of_the_demonstration_exist(self):
        source = (template.DIRECTORY / "demo" / "demo.py").read_text()
        for resource in template.load("website")["Resources"].values():
            if resource["Type"] == "AWS::Lambda::Function":
                module, function = resource["Properties"]["Handler"].split(".")
                self.assertEqual(module, "demo")
                self.assertIn(f"\ndef {function}(event, context):", source)

    def test_what_cannot_be_used_is_refused(self):
        with tempfile.TemporaryDirectory() as directory:
            done, _ = package(directory, "--surprise")
            self.assertEqual(done.returncode, 2)
            (Path(directory) / "empty.pem").write_text("")
            done, _ = package(directory, "--without-binaries", "--ca-bundle", str(Path(directory) / "empty.pem"))
            self.assertIn("holds no certificate", done.stderr)


class Image(unittest.TestCase):
    def test_it_ends_small_as_nobody_and_with_a_pinned_base(self):
        instructions = dockerfile()
        (image,) = (rest for name, rest in instructions if name == "ARG" and rest.startswith("RUST_IMAGE="))
        channel = re.search(r'channel = "([\d.]+)"', (ROOT / "rust-toolchain.toml").read_text()).group(1)
        self.assertEqual(image, f"RUST_IMAGE=rust:{channel}-bookworm")
        bases = [rest for name, rest in instructions if name == "FROM"]
        self.assertEqual(bases, ["${RUST_IMAGE} AS build", "scratch"])
        final = instructions[[name for name, _ in instructions].index("FROM", 2) :]
        self.assertIn(("USER", "65532:65532"), final)
        self.assertIn(("ENTRYPOINT", '["/aurora-failover"]'), final)
        self.assertNotIn("RUN", [name for name, _ in final])
        self.assertIn("SOURCE_DATE_EPOCH", (ROOT / "Dockerfile").read_text())
        # As the templates run it.
        for name in ("controller", "canary"):
            (container,) = template.load(name)["Resources"]["Task"]["Properties"]["ContainerDefinitions"]
            self.assertEqual(container["User"], "65532:65532")
            self.assertNotIn("EntryPoint", container)

    def test_what_it_copies_is_there_and_not_ignored(self):
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        kept = {line[1:] for line in ignored if line.startswith("!")}
        sources = set(copied_from_context())
        self.assertEqual(sources, kept)
        made = {"dist/rds/global-bundle.pem"}  # by scripts/package
        self.assertEqual({source for source in sources - made if not (ROOT / source).exists()}, set())
        self.assertIn('"$dist/rds/global-bundle.pem"', (ROOT / "scripts" / "package").read_text())

    def test_cargo_finds_every_target_in_what_it_copies(self):
        with tempfile.TemporaryDirectory() as directory:
            for source in copied_from_context():
                path = ROOT / source
                target = Path(directory) / source
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    shutil.copytree(path, target, ignore=shutil.ignore_patterns("target"))
                elif path.exists():
                    shutil.copy(path, target)
            command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]
            environment = {key: value for key, value in os.environ.items() if key != "CARGO_TARGET_DIR"}
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True, env=environment)
            self.assertEqual(done.returncode, 0, done.stderr)
            packages = {one["name"] for one in json.loads(done.stdout)["packages"]}
            self.assertIn("aurora-failover", packages)

    def test_its_features_are_features_of_the_product(self):
        cargo = (ROOT / "Cargo.toml").read_text()
        features = set(re.findall(r"^([a-z]+) = \[", cargo.split("[features]")[1].split("[dependencies]")[0], re.M))
        texts = (ROOT / "Dockerfile").read_text() + (ROOT / "scripts" / "package").read_text()
        used = {one for found in re.findall(r"--features ([a-z,]+)", texts) for one in found.split(",")}
        self.assertEqual(used - features, set())
        self.assertNotIn("lab", used)


if __name__ == "__main__":
    unittest.main()
