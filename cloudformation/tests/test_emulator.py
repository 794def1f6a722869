"""Stacks on an emulator, as far as it knows their types, and the product on what they created.

ministack knows most types; each that it does not is left out here by name, and the test fails when that is not true any
more. It cannot run: StackSets, custom resources without their function, strong consistency over regions, delivery from
one region to another. So main.yml as a whole is resolved and checked by the other tests, and launched by nobody here.
"""

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import certifi

import support
import template
from support import Emulator, wait_for
from template import deployment

# Types that ministack refuses.
UNKNOWN = {
    "AWS::CloudFormation::StackSet",
    "AWS::EC2::EIP",
    "AWS::EC2::NatGateway",
    "AWS::EC2::VPCPeeringConnection",
    "AWS::Events::EventBusPolicy",
    "AWS::KMS::ReplicaKey",
    "AWS::RDS::DBProxy",
    "AWS::RDS::DBProxyTargetGroup",
    "AWS::RDS::GlobalCluster",
    "AWS::Route53::HealthCheck",
}

# Parts of types that it does know: metric math in an alarm, and a count of tasks that comes from a parameter.
UNKNOWN_PARTS = {("alarms", "Hold"), ("controller", "Service")}

# What is created there: deployment, logical id in main.yml.
CREATED = [
    ("new", "Events"),
    ("regional", "Table"),
    ("new", "Table"),
    ("new", "Forwarding"),
    ("twin", "Forwarding"),
    ("new", "Roles"),
    ("oidc", "Roles"),
    ("new", "StackSetRoles"),
    ("new", "Configuration"),
    ("new", "Alarms"),
    ("new", "Keys"),
    ("new", "Secrets"),
    ("new", "Network"),
    ("lambda", "Network"),
    ("new", "Controller"),
    ("new", "Canary"),
    ("internal", "Dashboard"),
    ("new", "Dns"),
]


def create(emulator, stack, name, region="us-west-2"):
    """Creates a stack of what the emulator knows; answers how it ended, with every failure."""
    client = emulator.client("cloudformation", region)
    body = json.loads(template.as_json(stack.name))
    left_out = {
        logical
        for logical, resource in body["Resources"].items()
        if resource["Type"] in UNKNOWN or resource["Type"].startswith("Custom::") or (stack.name, logical) in UNKNOWN_PARTS
    }
    body["Resources"] = {logical: one for logical, one in body["Resources"].items() if logical not in left_out}
    for one in body["Resources"].values():
        depends = [one.get("DependsOn", [])] if isinstance(one.get("DependsOn"), str) else one.get("DependsOn", [])
        one["DependsOn"] = [logical for logical in depends if logical not in left_out]
        if not one["DependsOn"]:
            del one["DependsOn"]
    gone = re.compile("|".join(rf'"{logical}[".]' for logical in sorted(left_out)) or "$^")
    outputs = body.get("Outputs", {})
    body["Outputs"] = {key: one for key, one in outputs.items() if not gone.search(json.dumps(one["Value"]))}
    if not body["Outputs"]:
        del body["Outputs"]
    parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in stack.parameters.items()]
    client.create_stack(
        StackName=name, TemplateBody=json.dumps(body), Parameters=parameters, Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    return ended(client, name)


def ended(client, name):
    def status():
        found = client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
        return None if found.endswith("IN_PROGRESS") else found

    found = wait_for(f"stack {name} ends", status)
    if found == "CREATE_COMPLETE":
        return found
    events = client.describe_stack_events(StackName=name)["StackEvents"]
    failed = [(one["LogicalResourceId"], one.get("ResourceStatusReason")) for one in events if "FAILED" in one["ResourceStatus"]]
    return f"{found}: {failed}"


def table_shape(emulator, name):
    table = emulator.client("dynamodb").describe_table(TableName=name)["Table"]
    key = lambda schema: {(one["AttributeName"], one["KeyType"]) for one in schema}
    return {
        "keys": key(table["KeySchema"]),
        "attributes": {(one["AttributeName"], one["AttributeType"]) for one in table["AttributeDefinitions"]},
        "indexes": {
            (one["IndexName"], frozenset(key(one["KeySchema"])), one["Projection"]["ProjectionType"])
            for one in table["GlobalSecondaryIndexes"]
        },
        "billing": table.get("BillingModeSummary", {}).get("BillingMode"),
    }


def queue_shape(emulator, name):
    client = emulator.client("sqs")
    url = client.get_queue_url(QueueName=name)["QueueUrl"]
    attributes = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    shape = {"redrive": None, "senders": set()}
    if attributes.get("RedrivePolicy"):
        redrive = json.loads(attributes["RedrivePolicy"])
        shape["redrive"] = (redrive["deadLetterTargetArn"].rsplit(":", 1)[1], int(redrive["maxReceiveCount"]))
    for statement in json.loads(attributes.get("Policy", '{"Statement": []}'))["Statement"]:
        if statement["Effect"] == "Allow":
            shape["senders"] |= set(statement["Condition"]["ArnEquals"]["aws:SourceArn"])
    return shape


def rules_shape(emulator, bus):
    client = emulator.client("events")
    shape = {}
    for rule in client.list_rules(EventBusName=bus)["Rules"]:
        pattern = {key: sorted(value) for key, value in json.loads(rule["EventPattern"]).items()}
        targets = client.list_targets_by_rule(Rule=rule["Name"], EventBusName=bus)["Targets"]
        shape[rule["Name"]] = (pattern, {(one["Id"], one["Arn"].rsplit(":", 1)[1]) for one in targets})
    return shape


def shapes(emulator, name):
    """Everything that `init` makes, as somebody sees it from outside."""
    events = emulator.client("events")
    queues = [f"{name}-events", f"{name}-events-operator", f"{name}-events-dead-letters"]
    found = {
        "table": table_shape(emulator, name),
        "buses": {one["Name"] for one in events.list_event_buses()["EventBuses"]},
        "rules": {bus: rules_shape(emulator, bus) for bus in ("default", name, f"{name}-operator")},
        "queues": {queue: queue_shape(emulator, queue) for queue in queues},
    }
    # The templates let the dead-letter queue take what rules cannot deliver, too.
    found["queues"][queues[2]].pop("senders")
    return found


class Stacks(unittest.TestCase):
    maxDiff = None

    def test_what_the_templates_create_is_what_init_creates(self):
        one = deployment("named")
        text = one.main.outputs()["ConfigurationText"]
        with Emulator("ministack") as emulator:
            support.product("init", config=text, env=emulator.environment())
            by_init = shapes(emulator, "shop")
        with Emulator("ministack") as emulator:
            for logical in ("Table", "Events"):
                status = create(emulator, one.stacks[logical, "us-west-2"], logical)
                self.assertEqual(status, "CREATE_COMPLETE")
            by_templates = shapes(emulator, "shop")
            # And init, run by mistake on what the templates created, finds all of it.
            support.product("init", config=text, env=emulator.environment())
        self.assertEqual(by_init["rules"]["shop"].keys(), {"shop-to-queue", "shop-forwarded-rds", "shop-forwarded-alarms"})
        self.assertEqual(len(by_init["table"]["indexes"]), 3)
        for part in by_init:
            self.assertEqual(by_templates[part], by_init[part])
        # The emulator forgets the protection of a replica.
        for replica in one.stacks["Table", "us-west-2"].properties("Table")["Replicas"]:
            self.assertEqual(replica["DeletionProtectionEnabled"], "true")

    def test_stacks_are_created_and_deleted_as_far_as_the_emulator_knows_their_types(self):
        for name, logical in CREATED:
            with self.subTest(stack=logical, deployment=name), Emulator("ministack") as emulator:
                stack = deployment(name).stacks[logical, "us-west-2"]
                if "HostedZoneId" in stack.parameters and logical == "Dns":
                    emulator.client("route53").create_hosted_zone(Name="orders.example.com", CallerReference="1")
                    zones = emulator.client("route53").list_hosted_zones()["HostedZones"]
                    stack = stack.changed(HostedZoneId=zones[0]["Id"].rsplit("/", 1)[1])
                self.assertEqual(create(emulator, stack, logical), "CREATE_COMPLETE")
                client = emulator.client("cloudformation")
                client.delete_stack(StackName=logical)

                def gone():
                    stacks = client.list_stacks()["StackSummaries"]
                    return {s["StackStatus"] for s in stacks if s["StackName"] == logical} <= {"DELETE_COMPLETE"}

                if logical != "Table":  # it is protected
                    wait_for(f"{logical} is deleted", gone)

    def test_the_emulator_does_not_know_these_types(self):
        known = template.names()
        used = {r["Type"] for name in known for r in template.load(name)["Resources"].values()}
        self.assertEqual(UNKNOWN - used, set())
        with Emulator("ministack") as emulator:
            client = emulator.client("cloudformation")
            refused = set()
            for number, kind in enumerate(sorted(one for one in used if one.startswith("AWS::"))):
                body = json.dumps({"Resources": {"One": {"Type": kind, "Properties": {}}}})
                try:
                    client.create_stack(StackName=f"s{number}", TemplateBody=body)
                except client.exceptions.ClientError as error:
                    if "Unrecognized resource types" in str(error):
                        refused.add(kind)
        self.assertEqual(refused & used, UNKNOWN & used)


class Product(unittest.TestCase):
    """The real controller and a real vantage, on queues, buses, rules and a table from the templates."""

    def test_a_vantages_results_come_through_the_stacks_into_the_table(self):
        one = deployment("regional")
        with Emulator("ministack") as emulator, tempfile.TemporaryDirectory() as directory:
            for logical in ("Table", "Events"):
                self.assertEqual(create(emulator, one.stacks[logical, "us-west-2"], logical), "CREATE_COMPLETE")
            text = one.main.outputs()["ConfigurationText"]
            text = text.replace("/opt/rds/global-bundle.pem", certifi.where())
            # No database answers; the vantage's way to its neutral address does, so its failures count.
            text = text.replace('"checkip.amazonaws.com:443", "dns.google:443"', f'"{emulator.url.removeprefix("http://")}"')
            environment = {**os.environ, **emulator.environment(), "AURORA_FAILOVER_CONFIG_TEXT": text}
            controller = one.stacks["Controller", "us-west-2"].properties("Task")["ContainerDefinitions"][0]["Command"]
            canary = one.stacks["Canary", "us-west-2"].properties("Task")["ContainerDefinitions"][0]["Command"]
            controller = [part.replace("0.0.0.0:9464", "127.0.0.1:0") for part in controller]
            outputs = [Path(directory) / name for name in ("controller", "canary")]
            processes = []
            try:
                for command, output in zip((controller, canary), outputs):
                    with output.open("w") as out, output.with_suffix(".log").open("w") as log:
                        program = [support.binary(), *command]
                        processes.append(subprocess.Popen(program, env=environment, cwd="/", stdout=out, stderr=log))
                table = emulator.client("dynamodb")

                def stored():
                    for process, output in zip(processes, outputs):
                        if process.poll() is not None:
                            raise AssertionError(output.with_suffix(".log").read_text())
                    items = table.scan(TableName="aurora-failover")["Items"]
                    keys = {(one["PK"]["S"], one["SK"]["S"]) for one in items}
                    heard = [one for one in items if one["SK"]["S"] == "STATE" and "us-west-2" in json.dumps(one)]
                    history = [sort for _, sort in keys if sort.startswith("HIST#")]
                    return heard and history and ("CONTROLLER", "LEASE#aurora-failover-events") in keys

                wait_for("a stored record that knows the vantage, its history, and the lease", stored, within_s=120)
                shown = support.product("status", "--output", "json", config=text, env=emulator.environment())
                self.assertEqual(json.loads(shown.stdout)[0]["record"]["cluster"], "orders")
                attributes = queue_attributes(emulator, "aurora-failover-events-dead-letters")
                self.assertEqual(attributes["ApproximateNumberOfMessages"], "0", "nothing was refused")
            finally:
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.wait(timeout=30)
            self.check_alarms(outputs[0].read_text())

    def check_alarms(self, printed):
        """Alarms on the product's own metrics use names and dimensions that it prints, or says that it prints."""
        emitted = set()
        for line in printed.splitlines():
            if line.startswith('{"_aws"'):
                (space,) = json.loads(line)["_aws"]["CloudWatchMetrics"]
                emitted |= {(space["Namespace"], m["Name"], frozenset(space["Dimensions"][0])) for m in space["Metrics"]}
        self.assertGreater(len(emitted), 5)
        # Not seen in a quiet minute; they must stand in the table of telemetry.rs, with these labels.
        source = (support.ROOT / "src" / "telemetry.rs").read_text()
        rows = dict(re.findall(r"^//! \| `(aurora_failover_\w+)`[^|]*\| ([^|]*) \|", source, re.M))
        stack = deployment("new").stacks["Alarms", "us-west-2"]
        seen = 0
        for logical, resource in stack.resources().items():
            if resource["Type"] != "AWS::CloudWatch::Alarm" or resource["Properties"].get("Namespace") != "aurora-failover":
                continue
            name = resource["Properties"]["MetricName"]
            dimensions = frozenset(one["Name"] for one in resource["Properties"].get("Dimensions", []))
            if ("aurora-failover", name, dimensions) in emitted:
                seen += 1
            else:
                self.assertEqual(set(re.split(r", *", rows[name].strip())), set(dimensions), logical)
        self.assertGreaterEqual(seen, 5)
        query = stack.properties("Hold")["Metrics"][0]["Expression"]
        self.assertIn('SCHEMA("aurora-failover", cluster, reason)', query)
        self.assertEqual(rows["aurora_failover_hold"].strip(), "cluster, reason")


def queue_attributes(emulator, name):
    client = emulator.client("sqs")
    url = client.get_queue_url(QueueName=name)["QueueUrl"]
    return client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]


if __name__ == "__main__":
    unittest.main()
