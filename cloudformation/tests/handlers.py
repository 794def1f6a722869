"""What CloudFormation itself calls to create, change and delete a type, from the schemas that cfn-lint ships."""

import json
import re
from pathlib import Path

import cfnlint

SCHEMAS = Path(cfnlint.__file__).parent / "data" / "schemas"
REGIONS = ["us-east-1", "us-east-2", "us-west-2"]


def permissions(kind, region="us-east-1"):
    index = json.loads((SCHEMAS / "providers" / f"{region}.json").read_text())
    schema = json.loads((SCHEMAS / "resources" / f"{index[kind]}.json").read_text())
    handlers = schema.get("handlers") or {}
    return {a for step in ("create", "read", "update", "delete") for a in handlers.get(step, {}).get("permissions", [])}


# Listed for features that these templates do not use; each with the reason.
UNUSED = {
    r"(s3tables|vpc-lattice|elasticfilesystem|s3files|firehose|vpce|sts):.*": "no such feature is used",
    r"secretsmanager:.*": "passwords are our own secrets, made by another stack",
    r"rds:(Restore|PromoteReadReplica|CreateDBInstanceReadReplica|StartDBInstanceAuto|StopDBInstanceAuto).*": "no restores, no replicas of instances",
    r"rds:(AddRole|RemoveRole|EnableHttp|DisableHttp).*": "clusters have no roles and no data API",
    r"rds:CreateDBSnapshot|rds:DescribeDBSnapshots|rds:DescribeDBInstanceAutomatedBackups|rds:DescribeDBClusterAutomatedBackups": "snapshots are the cluster's",
    r"rds:DescribeEngineDefault.*|rds:DescribeDBEngineVersions": "parameters are given",
    r"ec2:(AcceptAddressTransfer|AssociateAddress|DisassociateAddress)": "addresses belong to gateways",
    r"ec2:(AcceptVpcPeeringConnection|ModifyVpcPeeringConnectionOptions)": "the custom resource does it",
    r"ec2:.*(VpnGateway|SubnetCidrBlock|PrivateNatGatewayAddress|NatGatewayAddress|EncryptionControl|VpcTenancy).*": "no such part",
    r"ec2:DescribeInstances": "no instances",
    r"ecs:(PutAccountSetting.*|PutClusterCapacityProviders)": "account settings are the account's",
    r"kms:(Encrypt|ReEncrypt.*|GenerateDataKeyWithoutPlaintext|GenerateDataKey|Decrypt|ListAliases)": "keys are created, and used through services",
    r"lambda:(AssociateRuntimeAlias|PassCapacityProvider|PublishVersion|.*CodeSigning.*|.*RecursionConfig|.*ScalingConfig|PutRuntimeManagementConfig)": "no such feature",
    r"logs:(.*(DataProtection|IndexPolic|ResourcePolic|KmsKey|BearerToken|LogDelivery|LogGroupDeletionProtection).*|DeleteRetentionPolicy)": "plain log groups with a retention",
    r"s3:(.*(Analytics|Inventory|Metrics|Metadata|Intelligent|Replication|Website|Accelerate|CORS|Cors|Abac|Logging|Notification|ObjectLock|BucketAcl|ObjectAcl).*)": "buckets without these",
    r"s3:(REST\.PUT\.OBJECT|DeleteObject|GetObject|GetObjectVersion|ListBucket)": "objects are not CloudFormation's",
    r"cognito-idp:.*|elasticloadbalancing:(.*CapacityReservation|ModifyIpPools)|ec2:DescribeIpamPools": "no such feature is used",
    r"s3:DeleteBucket(Encryption|Lifecycle)": "IAM knows no such actions; the Put ones cover them",
    r"sns:.*DataProtectionPolicy": "a topic without one",
    r"iam:ListRoles": "roles are named",
    r"events:(UpdateEventBus|TagResource|UntagResource|ListTagsForResource)": "buses and rules have neither tags nor settings that change",
}


def used(kinds):
    """Of all types, without what is unused."""
    wanted = set().union(*(permissions(kind) for kind in kinds))
    return {action for action in wanted if not any(re.fullmatch(pattern, action) for pattern in UNUSED)}


# What is needed beside the handlers, to run a stack at all; each with the reason.
BESIDE = {
    "cloudformation:CreateChangeSet": "the stacks of the regions",
    "cloudformation:CreateStack": "the stacks of the regions",
    "cloudformation:DeleteChangeSet": "the stacks of the regions",
    "cloudformation:DeleteStack": "the stacks of the regions",
    "cloudformation:DescribeChangeSet": "the stacks of the regions",
    "cloudformation:DescribeStackEvents": "the stacks of the regions",
    "cloudformation:DescribeStackResource": "the stacks of the regions",
    "cloudformation:DescribeStackResources": "the stacks of the regions",
    "cloudformation:DescribeStacks": "the stacks of the regions",
    "cloudformation:ExecuteChangeSet": "the stacks of the regions",
    "cloudformation:GetTemplate": "the stacks of the regions",
    "cloudformation:GetTemplateSummary": "the stacks of the regions",
    "cloudformation:ListStackResources": "the stacks of the regions",
    "cloudformation:SetStackPolicy": "the stacks of the regions",
    "cloudformation:UpdateStack": "the stacks of the regions",
    "cloudformation:ValidateTemplate": "the stacks of the regions",
    "lambda:InvokeFunction": "custom resources",
    "s3:GetObject": "templates and packages",
    "secretsmanager:GetSecretValue": "the master password, in a dynamic reference",
}
