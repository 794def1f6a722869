"""What README.md says in figures and lists is so."""

import re
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib
import unittest

import support
import template
from test_failover import OTHER

README = (template.DIRECTORY / "README.md").read_text()


def rows(heading):
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    for line in section.splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| what |")):
            yield [cell.strip() for cell in line.strip("|").split("|")]


class Readme(unittest.TestCase):
    def test_the_costs_are_what_their_parts_come_to(self):
        total, parts, own = 0.0, 0, set()
        prices = {
            f"{one['usd']:g}" for one in tomllib.loads((support.ROOT / "src" / "prices.toml").read_text()).values()
            if isinstance(one, dict)
        }
        for what, quantity, _, unit, month, source in (row for row in rows("Costs") if len(row) == 6):
            if what.startswith("**"):
                self.assertAlmostEqual(float(month.strip("*")), total, places=1)
                continue
            parts += 1
            total += float(month)
            self.assertAlmostEqual(float(quantity) * float(unit), float(month), delta=0.006, msg=what)
            self.assertTrue(source, what)
            if "prices.toml" in source:
                own.add(unit)
                self.assertIn(f"{float(unit):g}", prices, what)
        self.assertGreater(parts, 15)
        self.assertGreaterEqual(len(own), 6)

    def test_every_template_is_in_the_table_of_regions_or_launched_before(self):
        table = " ".join(" ".join(row) for row in rows("What outlives which region"))
        named = set(re.findall(r"`([a-z-]+)\.yml`", table))
        # main launches, configuration only writes text, the website is a demonstration.
        self.assertEqual(set(template.names()) - named, {"main", "configuration", "website"})
        self.assertEqual(named - set(template.names()), set())

    def test_parameters_to_leave_alone_after_a_failover_are_listed(self):
        section = README.split("do not change them after a failover:", 1)[1].split(". ", 1)[0]
        self.assertEqual(set(re.findall(r"`(\w+)`", section)), {name for name, value in OTHER.items() if value is None})

    def test_parameters_and_their_choices_exist(self):
        parameters = template.load("main")["Parameters"]
        for name in re.findall(r"`([A-Z]\w+)`", README.split("## What outlives", 1)[0]):
            self.assertIn(name, {*parameters, "ConfigurationText"})
        for name, value in re.findall(r"`([A-Z]\w+)=([\w-]+)`", README):
            self.assertIn(value, [str(one) for one in parameters[name].get("AllowedValues", [value])], name)

    def test_links_lead_somewhere(self):
        for link in re.findall(r"\]\(([^)]+)\)", README):
            self.assertTrue((template.DIRECTORY / link).exists(), link)


if __name__ == "__main__":
    unittest.main()
