"""Each role may do what the code that takes it does, and nothing else."""

import fnmatch
import json
import re
import unittest

import handlers
import support
import template
from template import ACCOUNT, Deployment, deployment, deployments

ROLES = ["canary", "controller", "operator", "break-glass", "auditor", "deployer"]

# Managed by AWS: network interfaces and logs of a function in a network.
FUNCTION_IN_NETWORK = "arn:aws:iam::aws:policy/service-role/AWSLambdaVPCAccessExecutionRole"

# AWS offers nothing narrower for these.
ON_ANYTHING = {
    "cloudformation:GetTemplateSummary",
    "cloudformation:ListExports",
    "cloudformation:ValidateTemplate",
    "cloudwatch:GetMetricData",
    "ec2:DescribeRouteTables",
    "ec2:DescribeVpcPeeringConnections",
    "ecr:GetAuthorizationToken",
    "ecs:CreateCluster",
    "ecs:DeregisterTaskDefinition",
    "ecs:DescribeTaskDefinition",
    "ecs:RegisterTaskDefinition",
    "kms:CreateKey",
    "lambda:ListLayerVersions",
    "logs:DescribeLogGroups",
    "rds:DescribeDBClusters",
    "rds:DescribeGlobalClusters",
    "sns:GetSubscriptionAttributes",
    "sns:SetSubscriptionAttributes",
    "sns:Unsubscribe",
}


def listed(value):
    return value if isinstance(value, list) else [value]


def grants(statements):
    """Every single grant: action, resource, condition."""
    found = set()
    for statement in statements:
        assert statement["Effect"] == "Allow", statement
        condition = json.dumps(statement.get("Condition"), sort_keys=True)
        for action in listed(statement["Action"]):
            found |= {(action, resource, condition) for resource in listed(statement["Resource"])}
    return found


def managed(stack):
    return {
        template.made_up(stack, logical, "Ref"): resource["Properties"]["PolicyDocument"]["Statement"]
        for logical, resource in stack.resources().items()
        if resource["Type"] == "AWS::IAM::ManagedPolicy"
    }


def role_statements(stack, role_name):
    """The statements of a role, and the AWS managed policies that it has besides."""
    (role,) = (
        resource["Properties"]
        for resource in stack.resources().values()
        if resource["Type"] == "AWS::IAM::Role" and resource["Properties"]["RoleName"] == role_name
    )
    own, foreign = [], []
    for policy in role.get("Policies", []):
        own += policy["PolicyDocument"]["Statement"]
    policies = managed(stack)
    for arn in role.get("ManagedPolicyArns", []):
        if arn in policies:
            own += policies[arn]
        else:
            foreign.append(arn)
    return own, foreign


def roles_of(one):
    ((_, stack),) = one.of("roles").items()
    return stack


class Roles(unittest.TestCase):
    def test_each_role_has_exactly_what_the_product_prints_for_its_configuration(self):
        for name, one in deployments().items():
            text = one.main.outputs()["ConfigurationText"]
            stack = roles_of(one)
            for role in ROLES:
                with self.subTest(deployment=name, role=role):
                    wanted = printed(role, text)
                    if role == "controller" and one.main.condition("HasBoard"):
                        wanted |= printed("dashboard", text)
                    statements, foreign = role_statements(stack, f"{one.main.parameters['Name']}-{role}")
                    found = grants(statements)
                    self.assertEqual(found - wanted, set(), "granted, and the product does not ask for it")
                    self.assertEqual(wanted - found, set(), "the product asks for it, and it is not granted")
                    function = role == "canary" and one.main.parameters["CanaryRuntime"] == "lambda"
                    self.assertEqual(foreign, [FUNCTION_IN_NETWORK] if function else [])

    def test_the_comparison_sees_a_difference(self):
        one = deployment("new")
        statements, _ = role_statements(roles_of(one), "aurora-failover-controller")
        found = grants(statements)
        other = printed("controller", one.main.outputs()["ConfigurationText"].replace("db.orders", "db.other"))
        self.assertTrue(found - other and other - found)

    def test_only_roles_that_give_orders_may_use_the_operator_bus(self):
        for name in ("new", "oidc"):
            stack = deployment(name).of("events")["Events", "us-west-2"]
            allowed = stack.properties("OperatorBusPolicy")["Statement"]["Condition"]["ArnNotEquals"]["aws:PrincipalArn"]
            roles = [f"arn:aws:iam::{ACCOUNT}:role/aurora-failover-{role}" for role in ("operator", "break-glass", "controller")]
            self.assertEqual(allowed, roles)

    def test_a_boundary_bounds_every_role(self):
        boundary = f"arn:aws:iam::{ACCOUNT}:policy/boundary"
        for name in ("demo", "lambda"):
            one = Deployment({**template.SETS[name], "PermissionsBoundary": boundary})
            roles = [
                (stack.name, logical, resource["Properties"].get("PermissionsBoundary"))
                for stack in one.stacks.values()
                for logical, resource in stack.resources().items()
                if resource["Type"] == "AWS::IAM::Role"
            ]
            self.assertGreater(len(roles), 10)
            self.assertEqual([role for role in roles if role[2] != boundary], [])

    def test_people_are_trusted_by_name_where_names_are_given(self):
        arn = f"arn:aws:iam::{ACCOUNT}:role/sre"
        for principals, wanted in (("", f"arn:aws:iam::{ACCOUNT}:root"), (arn, [arn])):
            stack = roles_of(Deployment({**template.NEW, "TrustedPrincipals": principals}))
            for role in ("OperatorRole", "BreakGlassRole", "AuditorRole", "DeployerRole"):
                (statement,) = stack.properties(role)["AssumeRolePolicyDocument"]["Statement"]
                self.assertEqual(statement["Principal"]["AWS"], wanted)


class Everywhere(unittest.TestCase):
    def statements(self):
        """Every statement of every policy, also of resources."""
        for name, one in deployments().items():
            for stack in one.stacks.values():
                for logical, resource in stack.resources().items():
                    for statement in find_statements(resource["Properties"]):
                        yield (name, stack.name, logical, resource["Type"]), statement

    def test_no_action_is_a_pattern(self):
        seen = 0
        for where, statement in self.statements():
            seen += 1
            self.assertNotIn("NotAction", statement, where)
            for action in listed(statement["Action"]):
                self.assertRegex(action, r"^[a-z0-9-]+:[A-Za-z0-9]+$", where)
        self.assertGreater(seen, 500)

    def test_nothing_is_granted_on_anything_but_what_has_nothing_narrower(self):
        for where, statement in self.statements():
            if where[3] == "AWS::KMS::Key" or where[3] == "AWS::KMS::ReplicaKey":
                continue  # there `*` is the key
            if "*" in listed(statement.get("Resource", [])) and statement["Effect"] == "Allow":
                wide = set(listed(statement["Action"])) - ON_ANYTHING
                if where[1] == "stackset-roles":
                    # Networks and lists: named in the template; and in the other regions only.
                    wide = {action for action in wide if not action.startswith(("ec2:", "elasticloadbalancing:Describe"))}
                    self.assertIn("aws:RequestedRegion", statement["Condition"]["StringEquals"], where)
                self.assertEqual(wide, set(), where)

    def test_each_such_resource_says_why(self):
        for name in template.names():
            for number, line in enumerate(template.text(name).splitlines(), 1):
                if re.search(r"Resource: '\*'", line):
                    self.assertRegex(line, r"'\*' # \S", f"{name}.yml:{number}")

    def test_anybody_is_a_principal_only_under_a_condition_or_in_a_refusal(self):
        for where, statement in self.statements():
            principal = statement.get("Principal")
            if principal in ("*", {"AWS": "*"}) and statement["Effect"] == "Allow":
                if where[1] == "signpost":
                    self.assertEqual(statement["Action"], "s3:GetObject")  # health checkers have no credentials
                else:
                    self.assertEqual(statement["Condition"]["StringEquals"]["kms:CallerAccount"], ACCOUNT, where)


class StackSets(unittest.TestCase):
    def test_the_execution_role_has_what_cloudformation_needs_for_these_types_and_nothing_else(self):
        kinds = set()
        for one in deployments().values():
            sets = {k for k, r in one.main.template["Resources"].items() if r["Type"] == "AWS::CloudFormation::StackSet"}
            for (logical, _), stack in one.stacks.items():
                if logical in sets:
                    kinds |= {resource["Type"] for resource in stack.resources().values()}
        kinds = {kind for kind in kinds if kind.startswith("AWS::") and kind != "AWS::CloudFormation::WaitConditionHandle"}
        self.assertGreater(len(kinds), 30)
        self.assertEqual({kind for kind in kinds if not handlers.permissions(kind)}, set(), "schemas without handlers")
        wanted = handlers.used(kinds) | set(handlers.BESIDE)
        stack = deployment("new").of("stackset-roles")["StackSetRoles", "us-west-2"]
        statements, foreign = role_statements(stack, "aurora-failover-stacksets-execution")
        found = {action for statement in statements for action in listed(statement["Action"])}
        self.assertEqual((found - wanted, wanted - found, foreign), (set(), set(), []))

    def test_no_policy_is_longer_than_iam_takes(self):
        for one in deployments().values():
            for stack in one.stacks.values():
                for logical, resource in stack.resources().items():
                    properties = resource["Properties"]
                    if resource["Type"] == "AWS::IAM::ManagedPolicy":
                        length = len(json.dumps(properties["PolicyDocument"], separators=(",", ":")))
                        self.assertLess(length, 6144, (stack.name, logical))
                    if resource["Type"] == "AWS::IAM::Role":
                        documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
                        length = sum(len(json.dumps(one, separators=(",", ":"))) for one in documents)
                        self.assertLess(length, 10240, (stack.name, logical))


class CustomResources(unittest.TestCase):
    """Both ways: what the resources in the templates need is granted, and what is granted one of them needs."""

    def test_functions_may_do_what_their_resources_need_and_nothing_else(self):
        table = support.custom_resources_permissions()
        needed = {"aurora-failover-custom-resources": set(), "aurora-failover-custom-resources-database": set()}
        for one in (deployment(name) for name in ("new", "demo", "health-check", "internal")):
            for region, logical, kind, properties in custom_resources(one):
                function = properties["ServiceToken"].rsplit(":", 1)[1]
                for statement in table[kind]:
                    for pattern in statement["resources"]:
                        for resource in expand(pattern, properties, region):
                            needed[function] |= {(action, resource) for action in statement["actions"]}
        stack = deployment("new").of("custom-resources")["CustomResources", "us-west-2"]
        for function, calls in needed.items():
            self.assertTrue(calls, function)
            statements, foreign = role_statements(stack, function)
            statements = [one for one in statements if one["Sid"] != "WriteLog"]
            self.assertEqual(foreign, [FUNCTION_IN_NETWORK] if function.endswith("database") else [])
            granted = {(action, resource) for action, resource, _ in grants(statements)}
            allowed = lambda call: any(call[0] == action and matches(call[1], resource) for action, resource in granted)
            self.assertEqual({call for call in calls if not allowed(call)}, set(), "needed, and not granted")
            used = lambda grant: any(action == grant[0] and matches(resource, grant[1]) for action, resource in calls)
            self.assertEqual({grant for grant in granted if not used(grant)}, set(), "granted, and not needed")

    def test_the_templates_use_only_types_and_properties_that_exist(self):
        types = set(support.custom_resources_permissions())
        used = {kind for one in deployments().values() for _, _, kind, _ in custom_resources(one)}
        self.assertEqual(used - types, set())
        self.assertGreaterEqual(len(used), 7)


def printed(role, text):
    return grants(json.loads(support.product("iam-policy", role, config=text).stdout)["Statement"])


def find_statements(value):
    if isinstance(value, dict):
        if "Effect" in value and "Action" in value:
            yield value
        else:
            for one in value.values():
                yield from find_statements(one)
    elif isinstance(value, list):
        for one in value:
            yield from find_statements(one)


def custom_resources(one):
    """Region, logical id, type and properties of every custom resource of a deployment."""
    found = [(one.main, one.main.region), *((stack, region) for (_, region), stack in one.stacks.items())]
    for stack, region in found:
        for logical, resource in stack.template["Resources"].items():
            if not resource["Type"].startswith("Custom::"):
                continue
            if "Condition" in resource and not stack.condition(resource["Condition"]):
                continue
            yield region, logical, resource["Type"], stack.resolve(resource["Properties"])


def expand(pattern, properties, region):
    """ARNs of a pattern of the table; none where the resource has no such property."""
    known = {"AWS::Partition": ["aws"], "AWS::AccountId": [ACCOUNT], "AWS::Region": [region]}
    arns = [pattern]
    for name in re.findall(r"\$\{([^}]+)\}", pattern):
        values = known.get(name) or listed(properties.get(name, []))
        arns = [arn.replace("${%s}" % name, str(value)) for arn in arns for value in values]
    return arns


def matches(resource, pattern):
    """As IAM does: `*` and `?` in the pattern; what is needed may have stars of its own."""
    return fnmatch.fnmatchcase(resource, pattern.replace("[", "[[]"))


if __name__ == "__main__":
    unittest.main()
