"""cfn-lint has nothing to say, in any region set that a global table can span; each exception is listed here."""

import subprocess
import unittest
from pathlib import Path

import support
import template

# The three sets of regions over which a table can be strongly consistent.
REGIONS = [
    "us-east-1",
    "us-east-2",
    "us-west-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "eu-central-1",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
]

# A parameter whose default is empty is used under a condition only, which cfn-lint does not follow (W1030).
EXCEPTIONS = {
    ("controller", "Group"): ["W1030"],
    ("dashboard", "Balancer"): ["W1030"],
    ("dashboard", "Group"): ["W1030"],
    ("dashboard", "Listener"): ["W1030"],
    ("dashboard", "Targets"): ["W1030"],
    ("website", "Listener"): ["W1030"],
}


class Lint(unittest.TestCase):
    def test_without_errors_and_warnings(self):
        files = [str(template.DIRECTORY / f"{name}.yml") for name in template.names()]
        files.append(str(template.DIRECTORY / "main.json"))
        self.assertGreater(len(files), 20)
        command = [str(Path(support.TOOLS) / "bin" / "cfn-lint"), "--regions", *REGIONS, "--template", *files]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)

    def test_the_exceptions_are_these(self):
        found = {}
        for name in template.names():
            loaded = template.load(name)
            self.assertNotIn("cfn-lint", loaded.get("Metadata", {}), name)
            for logical, resource in loaded["Resources"].items():
                ignored = resource.get("Metadata", {}).get("cfn-lint", {}).get("config", {}).get("ignore_checks")
                if ignored:
                    found[name, logical] = ignored
        self.assertEqual(found, EXCEPTIONS)


if __name__ == "__main__":
    unittest.main()
