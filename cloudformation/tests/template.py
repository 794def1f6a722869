"""Reads templates, and resolves their functions as CloudFormation would, for given parameters."""

import functools
import ipaddress
import json
import re
from pathlib import Path

import yaml

DIRECTORY = Path(__file__).resolve().parent.parent
ACCOUNT = "123456789012"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML with CloudFormation's short forms; refuses a key that is there twice."""


def _short(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix in ("Ref", "Condition"):
        return {suffix: value}
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {f"Fn::{suffix}": value}


def _mapping(loader, node, deep=False):
    keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise ValueError(f"{node.start_mark}: there twice: {sorted(twice)}")
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


Loader.add_multi_constructor("!", _short)
Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# Dates are text in templates: '2010-09-09'.
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def names():
    """All templates."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yml"))


def text(name):
    return (DIRECTORY / f"{name}.yml").read_text()


@functools.cache
def load(name):
    """Shared: nobody may change it."""
    return yaml.load(text(name), Loader)


def as_json(name):
    return json.dumps(load(name), indent=1, ensure_ascii=False) + "\n"


class Unresolved(Exception):
    """A function or a name that CloudFormation would not resolve either."""


NO_VALUE = object()


class Stack:
    """One template with parameters, in a region. `attributes` answers Fn::GetAtt; made up where it says nothing."""

    def __init__(self, name, parameters=None, region="us-west-2", attributes=None):
        self.name, self.region = name, region
        self.template = load(name)
        self.attributes = attributes or {}
        self.parameters = {}
        given = dict(parameters or {})
        for parameter, declared in self.template.get("Parameters", {}).items():
            if parameter not in given and "Default" not in declared:
                raise Unresolved(f"{name}: parameter {parameter} has no value")
            value = given.pop(parameter, declared.get("Default"))
            value = check_parameter(name, parameter, declared, str(value) if not isinstance(value, str) else value)
            self.parameters[parameter] = value
        if given:
            raise Unresolved(f"{name}: no such parameters: {sorted(given)}")
        self.check_rules()

    def changed(self, **parameters):
        """The same with other parameters; this one stays as it is."""
        return Stack(self.name, {**self.parameters, **parameters}, self.region, self.attributes)

    def check_rules(self):
        for rule, declared in self.template.get("Rules", {}).items():
            if "RuleCondition" in declared and not self._test(declared["RuleCondition"]):
                continue
            for assertion in declared["Assertions"]:
                if not self._test(assertion["Assert"]):
                    raise Unresolved(f"{self.name}: rule {rule}: {assertion['AssertDescription']}")

    def condition(self, name):
        return self._test(self.template["Conditions"][name])

    def resources(self):
        """Those that exist under these parameters: logical id, and the resource with everything resolved."""
        found = {}
        for logical, resource in self.template["Resources"].items():
            if "Condition" in resource and not self.condition(resource["Condition"]):
                continue
            found[logical] = {**resource, "Properties": self.resolve(resource.get("Properties", {}))}
        return found

    def properties(self, logical):
        return self.resources()[logical]["Properties"]

    def outputs(self):
        found = {}
        for name, output in self.template.get("Outputs", {}).items():
            if "Condition" not in output or self.condition(output["Condition"]):
                found[name] = self.resolve(output["Value"])
        return found

    def _test(self, value):
        if isinstance(value, dict) and len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Fn::Equals":
                left, right = (self.resolve(side) for side in argument)
                return left == right
            if function == "Fn::Not":
                return not self._test(argument[0])
            if function == "Fn::And":
                return all(self._test(one) for one in argument)
            if function == "Fn::Or":
                return any(self._test(one) for one in argument)
            if function == "Condition":
                return self.condition(argument)
        raise Unresolved(f"{self.name}: no condition: {value}")

    def resolve(self, value):
        if isinstance(value, list):
            resolved = [self.resolve(one) for one in value]
            return [one for one in resolved if one is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref":
                return self._ref(argument)
            if function.startswith("Fn::"):
                return getattr(self, "_" + function[4:].lower())(argument)
        resolved = {key: self.resolve(one) for key, one in value.items()}
        return {key: one for key, one in resolved.items() if one is not NO_VALUE}

    def _ref(self, name):
        pseudo = {
            "AWS::Region": self.region,
            "AWS::AccountId": ACCOUNT,
            "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::StackName": self.name,
            "AWS::NoValue": NO_VALUE,
        }
        if name in pseudo:
            return pseudo[name]
        if name in self.parameters:
            value = self.parameters[name]
            kind = self.template["Parameters"][name]["Type"]
            return value.split(",") if kind == "CommaDelimitedList" or kind.startswith("List<") else value
        if name in self.template["Resources"]:
            return self._attribute(name, "Ref")
        raise Unresolved(f"{self.name}: Ref {name}")

    def _attribute(self, logical, attribute):
        resource = self.template["Resources"].get(logical)
        if resource is None:
            raise Unresolved(f"{self.name}: there is no resource {logical}")
        if "Condition" in resource and not self.condition(resource["Condition"]):
            raise Unresolved(f"{self.name}: {logical} does not exist here")
        known = self.attributes
        if callable(known):
            return known(self, logical, attribute)
        return known.get((logical, attribute), f"<{logical}.{attribute}>")

    def _getatt(self, argument):
        return self._attribute(*argument)

    def _sub(self, argument):
        pattern, extra = argument if isinstance(argument, list) else (argument, {})
        extra = {key: self.resolve(value) for key, value in extra.items()}

        def one(match):
            name = match.group(1)
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in extra:
                return str(extra[name])
            if "." in name:
                return str(self._attribute(*name.split(".", 1)))
            value = self._ref(name)
            if not isinstance(value, (str, int)):
                raise Unresolved(f"{self.name}: Sub of a list: {name}")
            return str(value)

        return re.sub(r"\$\{([^}]+)\}", one, pattern)

    def _if(self, argument):
        name, yes, no = argument
        return self.resolve(yes if self.condition(name) else no)

    def _join(self, argument):
        between, parts = argument
        return between.join(str(part) for part in self.resolve(parts))

    def _split(self, argument):
        between, whole = argument
        return self.resolve(whole).split(between)

    def _select(self, argument):
        index, parts = argument
        return self.resolve(parts)[int(index)]

    def _getazs(self, _argument):
        return [f"{self.region}{zone}" for zone in "abc"]

    def _cidr(self, argument):
        block, count, bits = (self.resolve(one) for one in argument)
        subnets = ipaddress.ip_network(block).subnets(new_prefix=32 - int(bits))
        return [str(next(subnets)) for _ in range(int(count))]


def check_parameter(template, name, declared, value):
    if "AllowedValues" in declared and value not in [str(one) for one in declared["AllowedValues"]]:
        raise Unresolved(f"{template}: {name}={value!r} is none of {declared['AllowedValues']}")
    if "AllowedPattern" in declared and not re.fullmatch(declared["AllowedPattern"], value):
        raise Unresolved(f"{template}: {name}={value!r} does not match {declared['AllowedPattern']}")
    if declared["Type"] == "Number":
        number = float(value)
        if number < declared.get("MinValue", number) or number > declared.get("MaxValue", number):
            raise Unresolved(f"{template}: {name}={value} is out of bounds")
    if len(value.encode()) > 4096:
        raise Unresolved(f"{template}: {name} is longer than 4096 bytes")
    return value


class Deployment:
    """All stacks that main.yml would launch, with what it would give to each of them."""

    MADE_UP = {
        "Endpoint": "{id}-{region}.cluster-abcdefghijkl.{region}.rds.amazonaws.com",
        "ReaderEndpoint": "{id}-{region}.cluster-ro-abcdefghijkl.{region}.rds.amazonaws.com",
        "ProxyEndpoint": "{id}-{region}.proxy-abcdefghijkl.{region}.rds.amazonaws.com",
    }

    def __init__(self, parameters, region="us-west-2"):
        self.stacks = {}
        self.main = Stack("main", parameters, region, self._answer)
        for logical, resource in self.main.template["Resources"].items():
            if "Condition" in resource and not self.main.condition(resource["Condition"]):
                continue
            if resource["Type"] == "AWS::CloudFormation::Stack":
                self.nested(logical)
            elif resource["Type"] == "AWS::CloudFormation::StackSet":
                self.instances(logical)

    def nested(self, logical):
        if (logical, self.main.region) not in self.stacks:
            properties = self.main.resolve(self.main.template["Resources"][logical]["Properties"])
            name = template_of(properties["TemplateURL"])
            stack = Stack(name, properties.get("Parameters", {}), self.main.region, made_up)
            self.stacks[logical, self.main.region] = stack
        return self.stacks[logical, self.main.region]

    def instances(self, logical):
        properties = self.main.resolve(self.main.template["Resources"][logical]["Properties"])
        name = template_of(properties["TemplateURL"])
        for group in properties["StackInstancesGroup"]:
            assert group["DeploymentTargets"] == {"Accounts": [ACCOUNT]}, group
            for region in group["Regions"]:
                given = [*properties.get("Parameters", []), *group.get("ParameterOverrides", [])]
                for one in given:
                    assert isinstance(one["ParameterValue"], str), (logical, one)
                parameters = {one["ParameterKey"]: one["ParameterValue"] for one in given}
                self.stacks[logical, region] = Stack(name, parameters, region, made_up)

    def _answer(self, main, logical, attribute):
        resource = main.template["Resources"][logical]
        if resource["Type"] == "AWS::CloudFormation::Stack":
            assert attribute.startswith("Outputs."), attribute
            outputs = self.nested(logical).outputs()
            wanted = attribute.removeprefix("Outputs.")
            if wanted not in outputs:
                raise Unresolved(f"{logical} has no output {wanted}")
            return outputs[wanted]
        if resource["Type"] == "Custom::RegionExports":
            return self._exported(main, logical, attribute)
        return f"<{logical}.{attribute}>"

    def _exported(self, main, logical, attribute):
        """What stacks of that region export: with Prefix, names come without it."""
        properties = main.resolve(resource_properties(main, logical))
        region, prefix = properties["Region"], properties["Prefix"]
        for stack_logical, resource in main.template["Resources"].items():
            if resource["Type"] != "AWS::CloudFormation::StackSet" or stack_logical not in resource_depends(main, logical):
                continue
            if (stack_logical, region) not in self.stacks:
                self.instances(stack_logical)
            stack = self.stacks[stack_logical, region]
            for name, output in stack.template["Outputs"].items():
                exported = "Export" in output and stack.resolve(output["Export"]["Name"])
                if exported == prefix + attribute:
                    return stack.outputs()[name]
        raise Unresolved(f"{logical}: nothing that it depends on exports {prefix}{attribute} in {region}")

    def of(self, template):
        """All stacks of a template: logical id and region in main.yml, and the stack."""
        return {key: stack for key, stack in self.stacks.items() if stack.name == template}


def resource_properties(stack, logical):
    return stack.template["Resources"][logical]["Properties"]


def resource_depends(stack, logical):
    depends = stack.template["Resources"][logical].get("DependsOn", [])
    return [depends] if isinstance(depends, str) else depends


def template_of(url):
    return re.fullmatch(r"https://\S+/([a-z-]+)\.yml", url).group(1)


def made_up(stack, logical, attribute):
    """Values in the form that AWS gives them."""
    resource = stack.template["Resources"][logical]
    kind, region = resource["Type"], stack.region
    suffix = f"{abs(hash((stack.name, logical, region))) % 16**8:08x}"
    cluster = f"{stack.parameters.get('GlobalClusterId')}-{region}"
    if kind == "AWS::RDS::DBCluster":
        domain = f"abcdefghijkl.{region}.rds.amazonaws.com"
        return {
            "Ref": cluster,
            "DBClusterArn": f"arn:aws:rds:{region}:{ACCOUNT}:cluster:{cluster}",
            "Endpoint.Address": f"{cluster}.cluster-{domain}",
            "ReadEndpoint.Address": f"{cluster}.cluster-ro-{domain}",
        }[attribute]
    if kind == "AWS::KMS::Key" and attribute == "Arn":
        return f"arn:aws:kms:{region}:{ACCOUNT}:key/mrk-{suffix}"
    if kind == "AWS::SecretsManager::Secret":
        name = stack.resolve(resource["Properties"]["Name"])
        return f"arn:aws:secretsmanager:{region}:{ACCOUNT}:secret:{name}-AbCdEf"
    if kind == "AWS::ElasticLoadBalancingV2::LoadBalancer" and attribute == "Ref":
        name = stack.resolve(resource["Properties"]["Name"])
        return f"arn:aws:elasticloadbalancing:{region}:{ACCOUNT}:loadbalancer/app/{name}/0123456789abcdef"
    if kind == "AWS::S3::Bucket":
        name = stack.resolve(resource["Properties"]["BucketName"])
        return name if attribute == "Ref" else f"arn:aws:s3:::{name}"
    if kind == "AWS::EC2::VPC":
        return f"vpc-{suffix}"
    if kind == "AWS::EC2::Subnet":
        return f"subnet-{suffix}"
    if kind == "AWS::EC2::SecurityGroup":
        return f"sg-{suffix}"
    if kind == "AWS::IAM::Role" and attribute == "Arn":
        name = resource["Properties"].get("RoleName", logical)
        return f"arn:aws:iam::{ACCOUNT}:role/{stack.resolve(name)}"
    if kind == "AWS::Events::Rule" and attribute == "Arn":
        bus = resource["Properties"].get("EventBusName")
        name = stack.resolve(resource["Properties"]["Name"])
        path = f"{stack.resolve(bus)}/{name}" if bus else name
        return f"arn:aws:events:{region}:{ACCOUNT}:rule/{path}"
    if kind == "AWS::Events::EventBus":
        name = stack.resolve(resource["Properties"]["Name"])
        return name if attribute in ("Ref", "Name") else f"arn:aws:events:{region}:{ACCOUNT}:event-bus/{name}"
    if kind == "AWS::SQS::Queue":
        name = stack.resolve(resource["Properties"]["QueueName"])
        url = f"https://sqs.{region}.amazonaws.com/{ACCOUNT}/{name}"
        return {"Arn": f"arn:aws:sqs:{region}:{ACCOUNT}:{name}", "QueueName": name, "Ref": url}[attribute]
    if kind == "AWS::DynamoDB::GlobalTable" and attribute == "Ref":
        return stack.resolve(resource["Properties"]["TableName"])
    if kind == "AWS::Lambda::Function" and attribute == "Arn":
        return f"arn:aws:lambda:{region}:{ACCOUNT}:function:{stack.resolve(resource['Properties']['FunctionName'])}"
    if kind in ("AWS::IAM::ManagedPolicy",):
        return f"arn:aws:iam::{ACCOUNT}:policy/{logical}"
    return f"arn:aws:made-up:{region}:{ACCOUNT}:{logical}.{attribute}"


# Sets of parameters that every test of the whole deployment goes through.
NEW = {"ImageTag": "0.1.0", "HostedZoneId": "Z0123456789EXAMPLE", "RecordName": "db.orders.example.com"}
EXISTING = {
    **NEW,
    "GlobalCluster": "existing",
    "CreateRecord": "false",
    "PrimaryClusterArn": f"arn:aws:rds:us-east-2:{ACCOUNT}:cluster:shop-a",
    "PrimaryEndpoint": "shop-a.cluster-abc.us-east-2.rds.amazonaws.com",
    "PrimaryReaderEndpoint": "shop-a.cluster-ro-abc.us-east-2.rds.amazonaws.com",
    "StandbyClusterArn": f"arn:aws:rds:us-west-2:{ACCOUNT}:cluster:shop-b",
    "StandbyEndpoint": "shop-b.cluster-def.us-west-2.rds.amazonaws.com",
    "StandbyReaderEndpoint": "shop-b.cluster-ro-def.us-west-2.rds.amazonaws.com",
    "PrimaryVpcId": "vpc-0a",
    "StandbyVpcId": "vpc-0b",
    "WitnessVpcId": "vpc-0c",
    "PrimarySubnetIds": "subnet-0a,subnet-1a",
    "StandbySubnetIds": "subnet-0b,subnet-1b",
    "WitnessSubnetIds": "subnet-0c,subnet-1c",
}
CERTIFICATE = f"arn:aws:acm:us-west-2:{ACCOUNT}:certificate/0"
OIDC = {
    "DashboardAccess": "oidc",
    "DashboardCertificateArn": CERTIFICATE,
    "DashboardOperators": "alice@example.com,bob@example.com",
    "OidcIssuer": "https://id.example.com",
    "OidcAuthorizationEndpoint": "https://id.example.com/authorize",
    "OidcTokenEndpoint": "https://id.example.com/token",
    "OidcUserInfoEndpoint": "https://id.example.com/userinfo",
    "OidcSecretArn": f"arn:aws:secretsmanager:us-west-2:{ACCOUNT}:secret:oidc-AbCdEf",
}
SECRET = f"arn:aws:secretsmanager:us-west-2:{ACCOUNT}:secret:shop-failover-AbCdEf"
SETS = {
    "new": NEW,
    "named": {**NEW, "Name": "shop", "GlobalClusterId": "shop-db", "DatabaseName": "shop", "DatabaseUser": "watch"},
    "health-check": {**NEW, "RouteBy": "health-check", "Mode": "auto"},
    "regional": {**NEW, "StateTable": "regional"},
    "lambda": {**NEW, "CanaryRuntime": "lambda", "Egress": "nat", "InterfaceEndpoints": "true"},
    "twin": {**NEW, "ControllerIn": "primary", "AlarmEmail": "pager@example.com"},
    "oidc": {**NEW, **OIDC},
    "internal": {**NEW, "DashboardAccess": "internal", "DashboardCertificateArn": CERTIFICATE},
    "demo": {**NEW, "Demo": "true", "WebsiteCertificateArn": CERTIFICATE, "PrimaryWebsiteCertificateArn": CERTIFICATE},
    "existing": EXISTING,
    "existing-secret": {**EXISTING, "DatabaseSecretArn": SECRET, "CreateRecord": "true", "Mode": "approve"},
    "existing-health-check": {**EXISTING, "CreateRecord": "true", "RouteBy": "health-check", "Egress": "nat"},
}


@functools.cache
def deployment(name):
    """The deployment of a set of parameters."""
    return Deployment(SETS[name])


def deployments():
    """All of them, by name."""
    return {name: deployment(name) for name in SETS}
