"""main.yml gives each stack what it needs, and the configuration that comes of it can be used."""

import subprocess
import sys
import unittest

import support
import template
from template import EXISTING, NEW, OIDC, Stack, Unresolved, deployment, deployments


class Main(unittest.TestCase):
    def test_main_json_is_current(self):
        written = (template.DIRECTORY / "main.json").read_text()
        self.assertEqual(written, template.as_json("main"), "run scripts/templates")

    def test_the_script_says_when_it_is_not(self):
        script = [sys.executable, str(support.ROOT / "scripts" / "templates"), "--check"]
        self.assertEqual(subprocess.run(script, capture_output=True).returncode, 0)

    def test_every_deployment_resolves_down_to_the_last_property(self):
        for name, one in deployments().items():
            with self.subTest(name):
                resources = sum(len(stack.resources()) for stack in one.stacks.values())
                self.assertGreater(resources, 60)
                for stack in one.stacks.values():
                    stack.outputs()
                one.main.outputs()

    def test_every_template_but_the_first_step_is_launched_by_some_deployment(self):
        launched = {stack.name for one in deployments().values() for stack in one.stacks.values()}
        self.assertEqual(launched | {"main", "artifacts"}, set(template.names()))

    def test_an_attached_deployment_creates_no_network_and_no_database(self):
        for name in ("existing", "existing-secret", "existing-health-check"):
            one = deployment(name)
            kinds = {r["Type"] for s in one.stacks.values() for r in s.resources().values()}
            unwanted = {k for k in kinds if k.startswith(("AWS::RDS::", "AWS::EC2::")) and k != "AWS::EC2::SecurityGroup"}
            self.assertEqual(unwanted, set(), name)
            self.assertEqual({s.parameters.get("VpcId") for s in one.of("canary").values()}, {"vpc-0a", "vpc-0b", "vpc-0c"})

    def test_wrong_combinations_are_refused_with_a_reason(self):
        wrong = [
            ({**NEW, "WitnessRegion": "us-east-2"}, "must differ"),
            ({**EXISTING, "StandbyEndpoint": ""}, "GlobalCluster existing needs StandbyEndpoint"),
            ({**NEW, "CanaryRuntime": "lambda"}, "needs Egress nat"),
            ({**NEW, "ControllerIn": "primary", "StateTable": "regional"}, "only if the table is there"),
            ({**NEW, "RouteBy": "health-check", "CreateRecord": "false"}, "are created here"),
            ({**NEW, "DashboardAccess": "internal"}, "needs DashboardCertificateArn"),
            ({**NEW, **OIDC, "OidcSecretArn": ""}, "needs OidcSecretArn"),
            ({**EXISTING, "Demo": "true"}, "database of its own"),
            ({**NEW, "RecordName": "DB.example.com."}, "does not match"),
            ({**NEW, "Name": "-x"}, "does not match"),
        ]
        for parameters, reason in wrong:
            with self.subTest(reason), self.assertRaisesRegex(Unresolved, reason):
                Stack("main", parameters)

    def test_every_parameter_is_in_a_group_has_a_use_and_a_default_or_no_sane_one(self):
        main = template.load("main")
        groups = main["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        grouped = [name for group in groups for name in group["Parameters"]]
        self.assertEqual(sorted(grouped), sorted(main["Parameters"]))
        asked = {name for name, declared in main["Parameters"].items() if "Default" not in declared}
        self.assertEqual(asked, {"ImageTag", "HostedZoneId", "RecordName"})

    def test_no_parameter_takes_a_secret(self):
        for name in template.names():
            for parameter in template.load(name).get("Parameters", {}):
                secret = any(word in parameter for word in ("Password", "Secret", "Token"))
                # Functions, and ARNs of secrets; never a secret.
                named = parameter.endswith(("ServiceToken", "SecretArn", "TokenEndpoint"))
                self.assertTrue(not secret or named, f"{name}: {parameter}")

    def test_nothing_where_the_controller_runs_refers_to_the_primary_region(self):
        """Its services are found in the region itself; the member's names in the configuration are data."""
        for wanted in ("controller", "canary", "events", "alarms", "dashboard"):
            stack = next(s for (_, region), s in deployment("new").of(wanted).items() if region == "us-west-2")
            for logical, resource in stack.resources().items():
                properties = str({k: v for k, v in resource["Properties"].items()})
                if wanted in ("controller", "canary"):
                    properties = properties.replace(repr(stack.parameters["ConfigText"])[1:-1], "")
                if wanted == "alarms" and logical in ("Lag", "FirstVantageSilent"):
                    continue  # what they watch, not what they need
                self.assertNotIn("us-east-2", properties, f"{wanted}: {logical}")


    def test_exports_of_another_region_come_without_their_prefix(self):
        """A name with `Name` in it could not be written in Fn::GetAtt."""
        source = template.DIRECTORY / "custom-resources" / "src" / "resources" / "region_exports.rs"
        self.assertIn("strip_prefix(", source.read_text())


class Configuration(unittest.TestCase):
    def test_the_product_takes_it_in_every_deployment(self):
        for name, one in deployments().items():
            with self.subTest(name):
                text = configuration(one)
                done = support.product("config", "check", config=text)
                self.assertIn("can be used", done.stdout)

    def test_a_function_has_room_for_it(self):
        """All variables of a function together are at most 4 KB."""
        longest = max((configuration(one) for one in deployments().values()), key=len)
        self.assertLess(len(longest.encode()), 3500)

    def test_controllers_vantages_and_operators_have_the_same(self):
        for name, one in deployments().items():
            texts = {s.parameters["ConfigText"] for t in ("controller", "canary") for s in one.of(t).values()}
            self.assertEqual(texts, {one.main.outputs()["ConfigurationText"]}, name)

    def test_each_vantage_of_the_configuration_runs_once(self):
        for runtime in ("new", "lambda"):
            vantages = []
            for stack in deployment(runtime).of("canary").values():
                for resource in stack.resources().values():
                    properties = resource["Properties"]
                    if resource["Type"] == "AWS::ECS::TaskDefinition":
                        command = properties["ContainerDefinitions"][0]["Command"]
                        vantages.append(command[command.index("--vantage") + 1])
                    if resource["Type"] == "AWS::Lambda::Function":
                        vantages.append(properties["Environment"]["Variables"]["AURORA_FAILOVER_VANTAGE"])
            self.assertEqual(sorted(vantages), ["us-east-1", "us-east-2", "us-west-2"], runtime)
            listed = ", ".join(f'"{vantage}"' for vantage in ("us-east-2", "us-west-2", "us-east-1"))
            self.assertIn(f"vantages = [{listed}]", configuration(deployment(runtime)))

    def test_commands_of_the_containers_are_commands_of_the_product(self):
        for name in ("new", "oidc"):
            for what in ("controller", "canary"):
                for stack in deployment(name).of(what).values():
                    container = stack.properties("Task")["ContainerDefinitions"][0]
                    done = support.product(*container["Command"], "--help")
                    self.assertIn("Usage:", done.stdout)
                    # Each option is known: `--help` alone would not tell.
                    for option in (one for one in container["Command"] if one.startswith("--")):
                        self.assertIn(option, done.stdout)

    def test_the_twin_sleeps_until_it_is_woken(self):
        for name, awake in (("new", "us-west-2"), ("twin", "us-east-2")):
            for (_, region), stack in deployment(name).of("controller").items():
                count = int(stack.properties("Service")["DesiredCount"])
                self.assertEqual(count > 0, region == awake, (name, region))
            self.assertIn(f'region = "{awake}"', configuration(deployment(name)))


def configuration(one):
    ((_, stack),) = one.of("configuration").items()
    return stack.outputs()["Text"]


if __name__ == "__main__":
    unittest.main()
