"""What the AWS sample's two Lambda functions do, warm, without its log in a database: one for the alarm, one for the
event of RDS. Events come from a queue; as in the sample, each invocation makes its clients anew."""

import json
import sys

import boto3

QUEUE, ZONE = sys.argv[1], sys.argv[2]


def promote(cluster):
    rds = boto3.client("rds")
    found = rds.describe_global_clusters(GlobalClusterIdentifier=cluster)["GlobalClusters"][0]
    target = next(m for m in found["GlobalClusterMembers"] if not m["IsWriter"])
    rds.failover_global_cluster(
        GlobalClusterIdentifier=cluster,
        TargetDbClusterIdentifier=target["DBClusterArn"],
        AllowDataLoss=True,
    )


def completed(cluster):
    rds = boto3.client("rds")
    found = rds.describe_global_clusters(GlobalClusterIdentifier=cluster)["GlobalClusters"][0]
    writer = next(m for m in found["GlobalClusterMembers"] if m["IsWriter"])
    region = writer["DBClusterArn"].split(":")[3]
    route53 = boto3.client("route53", region_name="us-east-1")
    change = {
        "Action": "UPSERT",
        "ResourceRecordSet": {
            "Name": f"db.{cluster}.example.com.",
            "Type": "CNAME",
            "TTL": 1,
            "ResourceRecords": [{"Value": f"{cluster}.{region}.fleet.lab."}],
        },
    }
    route53.change_resource_record_sets(HostedZoneId=ZONE, ChangeBatch={"Changes": [change]})


HANDLERS = {"alarm": promote, "completed": completed}


def main():
    sqs = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
    while True:
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1, WaitTimeSeconds=20)
        for message in answer.get("Messages", []):
            told = json.loads(message["Body"])["detail"].get("handler")
            if told:
                HANDLERS[told["event"]](told["cluster"])
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


main()
