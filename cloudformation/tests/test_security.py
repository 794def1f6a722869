"""Security policies: checkov's, with every exception and its reason, and those of this project that it does not know."""

import json
import subprocess
import unittest
from pathlib import Path

import support
import template
from template import deployments

LOGS = "CloudWatch encrypts all logs; a key of our own would be one more service that has to answer in a failover"
QUEUE_OF_CALLS = "CloudFormation calls it and waits for the answer; a failed call is answered, not queued"
WAITS_FOR_NOTHING = "a schedule or a load balancer calls it; what failed is stale a moment later"
KEY = "the condition beside it admits this account through the named service only"
INSIGHTS = "the program prints its own metrics; these would cost more than the task"
PUBLIC_OBJECT = "Route 53's health checkers read one object without credentials; only the controller writes it"

# checkov's check, template, resource: why not.
EXCEPTIONS = {
    ("CKV_AWS_18", "artifacts", "Bucket"): "packages and templates; deployments are in CloudTrail",
    ("CKV_AWS_18", "signpost", "Signposts"): "one object, read by health checkers six times a second; its versions are kept",
    ("CKV_AWS_33", "events", "QueueKey"): KEY,
    ("CKV_AWS_33", "keys", "Key"): KEY,
    ("CKV_AWS_54", "signpost", "Signposts"): PUBLIC_OBJECT,
    ("CKV_AWS_56", "signpost", "Signposts"): PUBLIC_OBJECT,
    ("CKV_AWS_65", "canary", "Cluster"): INSIGHTS,
    ("CKV_AWS_65", "controller", "Cluster"): INSIGHTS,
    ("CKV_AWS_91", "website", "Balancer"): "a demonstration",
    ("CKV_AWS_115", "custom-resources", "DatabaseFunction"): "called by stacks only; a limit would make deployments fail",
    ("CKV_AWS_115", "custom-resources", "Function"): "called by stacks only; a limit would make deployments fail",
    ("CKV_AWS_116", "custom-resources", "DatabaseFunction"): QUEUE_OF_CALLS,
    ("CKV_AWS_116", "custom-resources", "Function"): QUEUE_OF_CALLS,
    ("CKV_AWS_116", "website", "Client"): WAITS_FOR_NOTHING,
    ("CKV_AWS_116", "website", "Website"): WAITS_FOR_NOTHING,
    ("CKV_AWS_117", "custom-resources", "Function"): "it calls AWS in several regions and touches no network; the one that does stands inside",
    ("CKV_AWS_118", "global-database", "InstanceA"): "Performance Insights is on; enhanced monitoring needs one more role and is yours to add",
    ("CKV_AWS_118", "global-database", "InstanceB"): "Performance Insights is on; enhanced monitoring needs one more role and is yours to add",
    ("CKV_AWS_136", "artifacts", "Repository"): "ECR encrypts all images; they are no secret",
    ("CKV_AWS_158", "canary", "Log"): LOGS,
    ("CKV_AWS_158", "controller", "Log"): LOGS,
    ("CKV_AWS_158", "custom-resources", "Log"): LOGS,
    ("CKV_AWS_158", "website", "Log"): LOGS,
    ("CKV_AWS_173", "website", "Client"): "two names, no secret; Lambda encrypts variables",
    ("CKV_AWS_173", "website", "Website"): "two names, no secret; Lambda encrypts variables",
}


class Checkov(unittest.TestCase):
    def test_every_finding_is_an_exception_with_a_reason_and_every_exception_is_found(self):
        program = Path(support.TOOLS) / "checkov" / "bin" / "checkov"
        files = [part for name in template.names() for part in ("-f", str(template.DIRECTORY / f"{name}.yml"))]
        options = ["--framework", "cloudformation", "--compact", "--skip-download", "--output", "json"]
        done = subprocess.run([str(program), *files, *options], capture_output=True, text=True, timeout=300)
        report = json.loads(done.stdout)
        found = {
            (one["check_id"], Path(one["file_path"]).stem, one["resource"].rsplit(".", 1)[1])
            for one in report["results"]["failed_checks"]
        }
        self.assertGreater(report["summary"]["passed"], 150)
        self.assertEqual(report["summary"]["parsing_errors"], 0)
        self.assertEqual((found - set(EXCEPTIONS), set(EXCEPTIONS) - found), (set(), set()))


class Rules(unittest.TestCase):
    """On what would really be created, in every deployment."""

    def of(self, kind):
        found = []
        for name, one in deployments().items():
            for stack in one.stacks.values():
                for logical, resource in stack.resources().items():
                    if resource["Type"] == kind:
                        found.append((f"{name}/{stack.name}/{logical}", stack, logical, resource["Properties"]))
        self.assertTrue(found, kind)
        return found

    def refuses_plain_http(self, stack, kind, refers):
        for resource in stack.resources().values():
            if resource["Type"] == kind and refers(resource["Properties"]):
                for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
                    if statement["Effect"] == "Deny" and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}:
                        return True
        return False

    def test_databases_are_encrypted_private_and_take_tls_only(self):
        for where, _, _, cluster in self.of("AWS::RDS::DBCluster"):
            self.assertTrue(cluster["StorageEncrypted"] and cluster["KmsKeyId"], where)
            self.assertTrue(cluster["EnableIAMDatabaseAuthentication"], where)
            self.assertTrue(cluster["EnableCloudwatchLogsExports"], where)
        for where, _, _, instance in self.of("AWS::RDS::DBInstance"):
            self.assertIs(instance["PubliclyAccessible"], False, where)
            self.assertEqual(instance["DBInstanceClass"], "db.r6g.large")
        for where, _, _, group in self.of("AWS::RDS::DBClusterParameterGroup"):
            self.assertEqual(group["Parameters"]["rds.force_ssl"], "1", where)
        for where, _, _, proxy in self.of("AWS::RDS::DBProxy"):
            self.assertTrue(proxy["RequireTLS"], where)
            self.assertEqual((proxy["DefaultAuthScheme"], proxy.get("Auth")), ("IAM_AUTH", None), where)

    def test_no_group_lets_anybody_in(self):
        for where, _, _, group in self.of("AWS::EC2::SecurityGroup"):
            for rule in group.get("SecurityGroupIngress", []):
                self.assertNotEqual(rule.get("CidrIp"), "0.0.0.0/0", where)
                self.assertTrue("CidrIp" in rule or "SourceSecurityGroupId" in rule, where)
                self.assertIn(rule["FromPort"], (443, 5432, 9470), where)
            # Without an own list AWS would let everything out.
            self.assertTrue(group["SecurityGroupEgress"], where)
            for rule in group["SecurityGroupEgress"]:
                self.assertIn(rule["FromPort"], (53, 443, 5432, 9470), where)

    def test_queues_are_encrypted_with_their_own_key_and_take_tls_only(self):
        for where, stack, _, queue in self.of("AWS::SQS::Queue"):
            self.assertIn(":key/", queue["KmsMasterKeyId"], where)
            url = f"/{queue['QueueName']}"
            refers = lambda properties: any(one.endswith(url) for one in properties["Queues"])
            self.assertTrue(self.refuses_plain_http(stack, "AWS::SQS::QueuePolicy", refers), where)

    def test_buckets_are_encrypted_closed_versioned_and_take_tls_only(self):
        for where, stack, logical, bucket in self.of("AWS::S3::Bucket"):
            self.assertTrue(bucket["BucketEncryption"], where)
            self.assertEqual(bucket["VersioningConfiguration"], {"Status": "Enabled"}, where)
            block = dict(bucket["PublicAccessBlockConfiguration"])
            if stack.name == "signpost":
                self.assertEqual((block.pop("BlockPublicPolicy"), block.pop("RestrictPublicBuckets")), (False, False))
            self.assertEqual(set(block.values()), {True}, where)
            refers = lambda properties: properties["Bucket"] == bucket["BucketName"]
            self.assertTrue(self.refuses_plain_http(stack, "AWS::S3::BucketPolicy", refers), where)

    def test_topics_are_encrypted_and_take_tls_only(self):
        for where, stack, _, topic in self.of("AWS::SNS::Topic"):
            self.assertTrue(topic["KmsMasterKeyId"], where)
            self.assertTrue(self.refuses_plain_http(stack, "AWS::SNS::TopicPolicy", lambda _: True), where)

    def test_keys_rotate(self):
        for where, _, _, key in self.of("AWS::KMS::Key"):
            self.assertIs(key["EnableKeyRotation"], True, where)

    def test_the_table_can_be_restored_to_any_second(self):
        for where, _, _, table in self.of("AWS::DynamoDB::GlobalTable"):
            for replica in table["Replicas"]:
                self.assertTrue(replica["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], where)

    def test_logs_end_one_day(self):
        for where, _, _, log in self.of("AWS::Logs::LogGroup"):
            self.assertGreaterEqual(int(log["RetentionInDays"]), 30, where)

    def test_load_balancers_speak_tls_only(self):
        for where, _, _, listener in self.of("AWS::ElasticLoadBalancingV2::Listener"):
            self.assertEqual((listener["Protocol"], listener["Port"]), ("HTTPS", 443), where)
            self.assertIn("TLS13", listener["SslPolicy"], where)

    def test_people_are_asked_who_they_are_before_they_see_the_dashboard(self):
        listener = deployments()["oidc"].stacks["Dashboard", "us-west-2"].properties("Listener")
        self.assertEqual([one["Type"] for one in listener["DefaultActions"]], ["authenticate-oidc", "forward"])
        task = deployments()["internal"].stacks["Controller", "us-west-2"].properties("Task")["ContainerDefinitions"][0]
        self.assertEqual([one["Name"] for one in task["Secrets"]], ["AURORA_FAILOVER_DASHBOARD_TOKEN"])

    def test_containers_cannot_write_and_are_nobody(self):
        for where, _, _, task in self.of("AWS::ECS::TaskDefinition"):
            self.assertEqual(task["RuntimePlatform"]["CpuArchitecture"], "ARM64", where)
            for container in task["ContainerDefinitions"]:
                self.assertIs(container["ReadonlyRootFilesystem"], True, where)
                self.assertEqual(container["User"], "65532:65532", where)
                self.assertEqual(container["LinuxParameters"]["Capabilities"], {"Drop": ["ALL"]}, where)
                for variable in container["Environment"]:
                    self.assertNotIn("PASSWORD", variable["Name"], where)

    def test_secrets_are_made_up_and_only_referred_to(self):
        for where, _, _, secret in self.of("AWS::SecretsManager::Secret"):
            self.assertIn("GenerateSecretString", secret, where)
            self.assertNotIn("SecretString", secret, where)
        for where, _, _, cluster in self.of("AWS::RDS::DBCluster"):
            if "MasterUserPassword" in cluster:
                self.assertRegex(cluster["MasterUserPassword"], r"^\{\{resolve:secretsmanager:arn:.*:SecretString:password\}\}$", where)


if __name__ == "__main__":
    unittest.main()
