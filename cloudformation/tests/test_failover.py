"""After a failover the world differs from the templates. No update may undo it, and no deletion may stumble over it."""

import json
import unittest

import template
from support import Emulator
from template import EXISTING, NEW, Deployment, deployment, deployments
from test_emulator import create, ended

# Another value of each parameter of main.yml. What a failover moves must not follow from any of them, but for those
# that say what is watched and where: README.md asks to leave these alone.
OTHER = {
    "AlarmEmail": "pager@example.com",
    "ArtifactPrefix": "other/",
    "BackupRetentionDays": "8",
    "CanaryRuntime": ("lambda", {"Egress": "nat"}),
    "ConfirmAfter": "40s",
    "ControllerIn": "primary",
    "DashboardAccess": ("internal", {"DashboardCertificateArn": template.CERTIFICATE}),
    "DashboardCertificateArn": template.CERTIFICATE,
    "DashboardClientCidr": "10.1.0.0/16",
    "DashboardOperators": "alice@example.com",
    "DashboardSubnetIds": "subnet-1",
    "DatabaseName": "other",
    "DatabaseSecretArn": template.SECRET,
    "DatabaseUser": "other",
    "DeletionProtection": "false",
    "Demo": "true",
    "Egress": "nat",
    "EngineVersion": "17.8",
    "ImageTag": "0.2.0",
    "InstanceClass": "db.r6g.xlarge",
    "InterfaceEndpoints": "true",
    "LagMaxMs": "2000",
    "Mode": "auto",
    "OidcAuthorizationEndpoint": "https://a.example.com",
    "OidcIssuer": "https://a.example.com",
    "OidcSecretArn": template.SECRET,
    "OidcTokenEndpoint": "https://a.example.com",
    "OidcUserInfoEndpoint": "https://a.example.com",
    "PermissionsBoundary": "arn:aws:iam::123456789012:policy/b",
    "PrimaryCidr": "10.30.0.0/16",
    "PrimaryClusterArn": "arn:aws:rds:us-east-2:123456789012:cluster:other",
    "PrimaryReaderEndpoint": "other.example.com",
    "PrimarySubnetIds": "subnet-2",
    "PrimaryVpcId": "vpc-2",
    "PrimaryWebsiteCertificateArn": template.CERTIFICATE,
    "Proxy": "false",
    "RpoMax": "10s",
    "SelfCheck": "a.example.com:443",
    "StandbyCidr": "10.31.0.0/16",
    "StandbyClusterArn": "arn:aws:rds:us-west-2:123456789012:cluster:other",
    "StandbyReaderEndpoint": "other.example.com",
    "StandbySubnetIds": "subnet-3",
    "StandbyVpcId": "vpc-3",
    "StateTable": "regional",
    "TrustedPrincipals": "arn:aws:iam::123456789012:role/x",
    "WebsiteCertificateArn": template.CERTIFICATE,
    "WebsiteClientCidr": "10.2.0.0/16",
    "WitnessCidr": "10.32.0.0/16",
    "WitnessSubnetIds": "subnet-4",
    "WitnessVpcId": "vpc-4",
    # These say what is watched, and where.
    "CreateRecord": None,
    "GlobalCluster": None,
    "GlobalClusterId": None,
    "HostedZoneId": None,
    "Name": None,
    "PrimaryEndpoint": None,
    "PrimaryRegion": None,
    "RecordName": None,
    "RouteBy": None,
    "StandbyEndpoint": None,
    "WitnessRegion": None,
}

# Which cluster is a member is not for an update to say; which one is the writer is written nowhere.
MEMBERSHIP = ["GlobalClusterIdentifier", "DBClusterIdentifier", "SourceDBClusterIdentifier", "ReplicationSourceIdentifier"]


def moved_by_a_failover(one):
    """The properties of what a failover changes: records, and who belongs to the global cluster."""
    found = {}
    for (logical, region), stack in one.stacks.items():
        for name, resource in stack.resources().items():
            properties = resource["Properties"]
            if resource["Type"] in ("AWS::Route53::RecordSet", "AWS::Route53::HealthCheck", "AWS::RDS::GlobalCluster"):
                found[logical, region, name] = {k: v for k, v in properties.items() if k not in ("EngineVersion", "DeletionProtection")}
            if resource["Type"] in ("AWS::RDS::DBCluster", "AWS::RDS::DBInstance"):
                found[logical, region, name] = {key: properties.get(key) for key in MEMBERSHIP}
    return found


class Updates(unittest.TestCase):
    def test_every_parameter_is_considered(self):
        self.assertEqual(set(OTHER), set(template.load("main")["Parameters"]))

    def test_no_update_of_a_parameter_touches_what_a_failover_moved(self):
        for base in (NEW, {**NEW, "RouteBy": "health-check"}, {**EXISTING, "CreateRecord": "true"}):
            before = moved_by_a_failover(Deployment(base))
            self.assertTrue(before)
            tried = 0
            for parameter, value in OTHER.items():
                if value is None or (base.get("GlobalCluster") == "existing" and parameter == "Demo"):
                    continue
                value, beside = value if isinstance(value, tuple) else (value, {})
                self.assertEqual(moved_by_a_failover(Deployment({**base, **beside, parameter: value})), before, parameter)
                tried += 1
            self.assertGreater(tried, 45)

    def test_the_check_sees_a_touch(self):
        before = moved_by_a_failover(Deployment(NEW))
        self.assertNotEqual(moved_by_a_failover(Deployment({**NEW, "RecordName": "db.other.example.com"})), before)

    def test_the_value_of_a_record_comes_from_the_day_of_creation(self):
        """Exports of the other region are read again only when these properties change, and they are constants of a deployment."""
        main = template.load("main")
        first = main["Resources"]["Dns"]["Properties"]["Parameters"]["FirstEndpoint"]
        self.assertEqual(first, {"Fn::If": ["IsNew", {"Fn::GetAtt": ["PrimaryMember", "Endpoint"]}, {"Ref": "PrimaryEndpoint"}]})
        properties = main["Resources"]["PrimaryMember"]["Properties"]
        self.assertEqual(set(properties), {"ServiceToken", "Region", "Prefix"})
        for name in ("Record", "FirstRecord", "SecondRecord"):
            record = template.load("dns")["Resources"][name]
            self.assertEqual(record["Properties"]["TTL"], "5")
            self.assertEqual((record["DeletionPolicy"], record["UpdateReplacePolicy"]), ("Retain", "Retain"))

    def test_nothing_says_who_the_writer_is(self):
        for name in template.names():
            for logical, resource in template.load(name)["Resources"].items():
                text = json.dumps(resource)
                for word in ("SourceDBClusterIdentifier", "ReplicationSourceIdentifier", "IsWriter", "FailoverGlobalCluster\"]:"):
                    self.assertNotIn(f'"{word}":', text, f"{name}: {logical}")

    def test_the_object_of_the_health_check_is_written_by_the_controller_only(self):
        kinds = {r["Type"] for r in template.load("signpost")["Resources"].values()}
        self.assertEqual(kinds, {"AWS::S3::Bucket", "AWS::S3::BucketPolicy", "Custom::EmptyBucket"})

    def test_an_update_on_the_emulator_leaves_a_moved_record_alone_and_deletion_does_not_stumble(self):
        stack = deployment("new").stacks["Dns", "us-west-2"]
        with Emulator("ministack") as emulator:
            route53 = emulator.client("route53")
            zone = route53.create_hosted_zone(Name="orders.example.com", CallerReference="1")["HostedZone"]["Id"].rsplit("/", 1)[1]
            stack = stack.changed(HostedZoneId=zone)
            self.assertEqual(create(emulator, stack, "dns"), "CREATE_COMPLETE")
            first, second = stack.parameters["FirstEndpoint"], stack.parameters["SecondEndpoint"]

            def value():
                sets = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
                (record,) = (one for one in sets if one["Type"] == "CNAME")
                return record["ResourceRecords"][0]["Value"].rstrip("."), record

            self.assertEqual(value()[0], first)
            # As the controller does it: exactly the old one out, the new one in.
            old = value()[1]
            new = {**old, "ResourceRecords": [{"Value": second}]}
            changes = [{"Action": "DELETE", "ResourceRecordSet": old}, {"Action": "CREATE", "ResourceRecordSet": new}]
            route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": changes})
            client = emulator.client("cloudformation")
            given = {**stack.parameters, "SecondRegion": "eu-west-1"}
            parameters = [{"ParameterKey": key, "ParameterValue": one} for key, one in given.items()]
            body = client.get_template(StackName="dns")["TemplateBody"]
            body = body if isinstance(body, str) else json.dumps(body)
            client.update_stack(StackName="dns", TemplateBody=body, Parameters=parameters)
            self.assertIn("UPDATE_COMPLETE", ended(client, "dns"))
            self.assertEqual(value()[0], second)
            client.delete_stack(StackName="dns")
            self.assertEqual(value()[0], second)


class Deletion(unittest.TestCase):
    def test_records_are_deleted_by_name_whatever_they_hold(self):
        for name in ("new", "health-check"):
            stack = deployment(name).stacks["Dns", "us-west-2"]
            self.assertEqual(stack.properties("CleanUp")["Names"], ["db.orders.example.com"])

    def test_both_members_leave_the_global_cluster_before_either_stack_goes(self):
        main = template.load("main")["Resources"]
        arns = set()
        for name in ("PrimaryLeaves", "StandbyLeaves"):
            self.assertEqual(main[name]["Type"], "Custom::GlobalClusterMember")
            # Deleted before what it depends on.
            self.assertEqual(set(main[name]["DependsOn"]), {"PrimaryDatabase", "Database"})
            arns.add(deployment("new").main.properties(name)["ClusterArn"])
        members = {
            f"arn:aws:rds:{region}:{template.ACCOUNT}:cluster:orders-{region}"
            for (_, region), _ in deployment("new").of("global-database").items()
        }
        self.assertEqual(arns, members)

    def test_each_bucket_of_the_stacks_is_emptied(self):
        for name in template.names():
            resources = template.load(name)["Resources"]
            buckets = {logical for logical, one in resources.items() if one["Type"] == "AWS::S3::Bucket"}
            emptied = {one["Properties"]["Bucket"]["Ref"] for one in resources.values() if one["Type"] == "Custom::EmptyBucket"}
            if name != "artifacts":  # the function that could do it comes from there
                self.assertEqual(buckets, emptied, name)

    def test_what_holds_data_or_takes_time_to_miss_says_what_becomes_of_it(self):
        stateful = {
            "AWS::DynamoDB::GlobalTable": {"Delete"},
            "AWS::ECR::Repository": {"Delete"},
            "AWS::KMS::Key": {"Delete"},
            "AWS::KMS::ReplicaKey": {"Delete"},
            "AWS::Logs::LogGroup": {"Delete"},
            "AWS::RDS::DBCluster": {"Snapshot"},
            "AWS::RDS::DBInstance": {"Delete"},
            "AWS::RDS::GlobalCluster": {"Delete"},
            "AWS::Route53::RecordSet": {"Retain"},
            "AWS::S3::Bucket": {"Delete"},
            "AWS::SQS::Queue": {"Delete"},
            "AWS::SecretsManager::Secret": {"Delete"},
        }
        seen = set()
        for name in template.names():
            for logical, resource in template.load(name)["Resources"].items():
                if resource["Type"] in stateful:
                    seen.add(resource["Type"])
                    self.assertIn(resource.get("DeletionPolicy"), stateful[resource["Type"]], f"{name}: {logical}")
                    self.assertIn("UpdateReplacePolicy", resource, f"{name}: {logical}")
        self.assertEqual(seen, set(stateful))

    def test_databases_and_the_table_are_protected_until_somebody_says_otherwise(self):
        for protection in ("true", "false"):
            one = Deployment({**NEW, "DeletionProtection": protection})
            found = set()
            for stack in one.stacks.values():
                for resource in stack.resources().values():
                    if resource["Type"] in ("AWS::RDS::DBCluster", "AWS::RDS::GlobalCluster"):
                        found.add(resource["Properties"]["DeletionProtection"])
                    if resource["Type"] == "AWS::DynamoDB::GlobalTable":
                        found |= {replica["DeletionProtectionEnabled"] for replica in resource["Properties"]["Replicas"]}
            self.assertEqual(found, {protection})
        self.assertEqual({one.main.parameters["DeletionProtection"] for one in deployments().values()}, {"true"})


if __name__ == "__main__":
    unittest.main()
