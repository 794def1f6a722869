//! What each resource may have to do in AWS, and nothing else: the table that the function's roles are held to.
//!
//! Resources hold placeholders: `${Bucket}` is the property Bucket; `${AWS::Partition}`, `${AWS::AccountId}` and
//! `${AWS::Region}` are CloudFormation's, the latter the function's own region.

use crate::resources::TYPES;
use serde_json::{Map, Value, json};

/// Actions on resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// What it is for.
    pub sid: &'static str,
    /// IAM actions, without wildcards.
    pub actions: &'static [&'static str],
    /// ARNs; `*` only where AWS offers nothing narrower.
    pub resources: &'static [&'static str],
}

const fn statement(
    sid: &'static str,
    actions: &'static [&'static str],
    resources: &'static [&'static str],
) -> Statement {
    Statement { sid, actions, resources }
}

const BUCKET: &str = "arn:${AWS::Partition}:s3:::${Bucket}";
const OBJECTS: &str = "arn:${AWS::Partition}:s3:::${Bucket}/*";
const LAYER: &str = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:layer:${LayerName}";
const LAYER_VERSIONS: &str = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:layer:${LayerName}:*";
const ROUTE_TABLES: [&str; 2] = [
    "arn:${AWS::Partition}:ec2:${RequesterRegion}:${AWS::AccountId}:route-table/${RequesterRouteTableIds}",
    "arn:${AWS::Partition}:ec2:${AccepterRegion}:${AWS::AccountId}:route-table/${AccepterRouteTableIds}",
];

/// The statements of a resource type; none of one that is not known.
#[must_use]
pub fn permissions(resource_type: &str) -> &'static [Statement] {
    const EMPTY_BUCKET: [Statement; 3] = [
        statement("EmptyBucketList", &["s3:ListBucketVersions", "s3:ListBucketMultipartUploads"], &[BUCKET]),
        statement("EmptyBucketDelete", &["s3:DeleteObject", "s3:DeleteObjectVersion"], &[OBJECTS]),
        statement("EmptyBucketAbort", &["s3:AbortMultipartUpload"], &[OBJECTS]),
    ];
    const DEPLOY_CODE: [Statement; 2] = [
        statement("DeployCodeList", &["s3:ListBucket"], &[BUCKET]),
        statement("DeployCodeObjects", &["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], &[OBJECTS]),
    ];
    const REGION_EXPORTS: [Statement; 1] = [statement("RegionExports", &["cloudformation:ListExports"], &["*"])];
    const VPC_PEERING: [Statement; 3] = [
        statement("VpcPeeringLook", &["ec2:DescribeRouteTables", "ec2:DescribeVpcPeeringConnections"], &["*"]),
        statement(
            "VpcPeeringAccept",
            &["ec2:AcceptVpcPeeringConnection"],
            // The VPC of the accepter is no property.
            &[
                "arn:${AWS::Partition}:ec2:${AccepterRegion}:${AWS::AccountId}:vpc-peering-connection/${PeeringConnectionId}",
                "arn:${AWS::Partition}:ec2:${AccepterRegion}:${AWS::AccountId}:vpc/*",
            ],
        ),
        statement("VpcPeeringRoutes", &["ec2:CreateRoute", "ec2:DeleteRoute"], &ROUTE_TABLES),
    ];
    const PYTHON_LAYER: [Statement; 4] = [
        statement("PythonLayerPublish", &["lambda:PublishLayerVersion"], &[LAYER]),
        statement("PythonLayerList", &["lambda:ListLayerVersions"], &["*"]),
        statement("PythonLayerDelete", &["lambda:DeleteLayerVersion"], &[LAYER_VERSIONS]),
        // Only with a Bucket. Lambda reads the object with the rights of whoever calls it.
        statement(
            "PythonLayerBucket",
            &["s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
            &["arn:${AWS::Partition}:s3:::${Bucket}/layers/*"],
        ),
    ];
    const STATEMENTS: [Statement; 1] =
        [statement("StatementsSecret", &["secretsmanager:GetSecretValue"], &["${SecretArn}"])];
    const DNS_RECORDS: [Statement; 1] = [statement(
        "DnsRecords",
        &["route53:ChangeResourceRecordSets", "route53:GetHostedZone", "route53:ListResourceRecordSets"],
        &["arn:${AWS::Partition}:route53:::hostedzone/${HostedZoneId}"],
    )];
    const GLOBAL_CLUSTER_MEMBER: [Statement; 2] = [
        statement("GlobalClusterMemberLook", &["rds:DescribeDBClusters", "rds:DescribeGlobalClusters"], &["*"]),
        statement(
            "GlobalClusterMemberRemove",
            &["rds:RemoveFromGlobalCluster"],
            &["${ClusterArn}", "arn:${AWS::Partition}:rds::${AWS::AccountId}:global-cluster:${GlobalClusterId}"],
        ),
    ];
    match resource_type {
        "Custom::EmptyBucket" => &EMPTY_BUCKET,
        "Custom::DeployCode" => &DEPLOY_CODE,
        "Custom::RegionExports" => &REGION_EXPORTS,
        "Custom::VpcPeering" => &VPC_PEERING,
        "Custom::PythonLayer" => &PYTHON_LAYER,
        "Custom::Statements" => &STATEMENTS,
        "Custom::DnsRecords" => &DNS_RECORDS,
        "Custom::GlobalClusterMember" => &GLOBAL_CLUSTER_MEMBER,
        _ => &[],
    }
}

/// The whole table: `{ "Custom::X": [ { "sid", "actions", "resources" } ] }`.
#[must_use]
pub fn permissions_json() -> Value {
    let of = |resource_type: &str| {
        let all = permissions(resource_type).iter();
        all.map(|it| json!({ "sid": it.sid, "actions": it.actions, "resources": it.resources })).collect::<Value>()
    };
    Value::Object(
        TYPES.iter().map(|resource_type| ((*resource_type).to_owned(), of(resource_type))).collect::<Map<_, _>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_row_and_no_action_is_a_pattern() {
        /// AWS knows no narrower resource for them.
        const ON_ANYTHING: [&str; 6] = [
            "cloudformation:ListExports",
            "ec2:DescribeRouteTables",
            "ec2:DescribeVpcPeeringConnections",
            "lambda:ListLayerVersions",
            "rds:DescribeDBClusters",
            "rds:DescribeGlobalClusters",
        ];
        for resource_type in TYPES {
            let statements = permissions(resource_type);
            assert!(!statements.is_empty(), "{resource_type}");
            for Statement { sid, actions, resources } in statements {
                assert!(actions.iter().all(|action| !action.contains('*')), "{sid}");
                let narrow = resources.iter().all(|resource| *resource != "*");
                assert!(narrow || actions.iter().all(|action| ON_ANYTHING.contains(action)), "{sid}");
            }
        }
    }
}
