//! `Custom::GlobalClusterMember` against RDS of ministack.

use crate::support::{Function, Recorder, aws};
use aws_sdk_rds::Client;
use serde_json::json;
use std::time::Duration;

const MEMBER: &str = "Custom::GlobalClusterMember";

async fn cluster(rds: &Client, name: &str) -> String {
    let request = rds.create_db_cluster().db_cluster_identifier(name).engine("aurora-postgresql");
    let request = request.master_username("app").master_user_password("not-a-secret");
    let created = request.global_cluster_identifier("orders").send().await.expect("a cluster");
    created.db_cluster().and_then(|cluster| cluster.db_cluster_arn()).expect("an ARN").to_owned()
}

#[tokio::test]
async fn a_cluster_leaves_its_global_database_when_it_can() {
    let emulator = aws::ministack().await;
    let (east, west) = (aws::config(emulator, "us-east-2").await, aws::config(emulator, "us-west-2").await);
    let (east, west) = (Client::new(&east), Client::new(&west));
    let global = east.create_global_cluster().global_cluster_identifier("orders").engine("aurora-postgresql");
    global.send().await.expect("a global cluster");
    let (writer, reader) = (cluster(&east, "orders-east").await, cluster(&west, "orders-west").await);
    let of = |arn: &str, region: &str| json!({ "GlobalClusterId": "orders", "ClusterArn": arn, "Region": region });
    let (of_writer, of_reader) = (of(&writer, "us-east-2"), of(&reader, "us-west-2"));

    let recorder = Recorder::start(emulator).await;
    let mut function = Function::start(&recorder.url).await;
    let created = function.create(MEMBER, &of_reader).await.succeeded();
    function.update(MEMBER, &created.id(), &of_reader, &of_reader).await.succeeded();
    assert!(recorder.take().is_empty(), "only a Delete does anything");

    // The writer cannot leave before its readers: it waits for them, and says so when its time is over.
    let lasts = Duration::from_secs(5);
    let waited =
        function.delete_within(MEMBER, "writer", &of_writer, lasts).await.failed("while reader members remain");
    assert!(waited.after < lasts);
    let mut other = Function::start(&recorder.url).await;
    let (writer_left, ()) = tokio::join!(function.delete(MEMBER, "writer", &of_writer), async {
        other.delete(MEMBER, &created.id(), &of_reader).await.succeeded();
    });
    writer_left.succeeded();
    let global = east.describe_global_clusters().global_cluster_identifier("orders").send().await.expect("it is there");
    assert!(global.global_clusters().iter().all(|global| global.global_cluster_members().is_empty()));
    recorder.check(MEMBER);

    function.delete(MEMBER, &created.id(), &of_reader).await.succeeded();
    east.delete_global_cluster().global_cluster_identifier("orders").send().await.expect("deleted");
    function.delete(MEMBER, &created.id(), &of_reader).await.succeeded();
}
