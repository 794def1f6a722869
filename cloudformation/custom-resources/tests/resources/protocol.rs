//! The protocol of custom resources, whatever the resource.

use crate::support::function::SIGNATURE;
use crate::support::{Function, with};
use aurora_failover_custom_resources::{Data, Failure, Request, TYPES, permissions, serve};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::Instant;

/// Nothing is there: for what needs no AWS.
const NO_AWS: &str = "http://127.0.0.1:1";

const EMPTY_BUCKET: &str = "Custom::EmptyBucket";

fn bucket(name: &str) -> Value {
    json!({ "Bucket": name })
}

#[tokio::test]
async fn an_id_stays_until_what_the_resource_is_about_changes() {
    let mut function = Function::start(NO_AWS).await;
    let created = function.create(EMPTY_BUCKET, &bucket("one")).await.succeeded();
    let again = function.create(EMPTY_BUCKET, &bucket("one")).await.succeeded();
    assert_eq!(created.id(), again.id());
    let same = function.update(EMPTY_BUCKET, &created.id(), &bucket("one"), &bucket("one")).await.succeeded();
    assert_eq!(created.id(), same.id());
    let replaced = function.update(EMPTY_BUCKET, &created.id(), &bucket("one"), &bucket("two")).await.succeeded();
    assert_ne!(created.id(), replaced.id());
    let foreign = function.update(EMPTY_BUCKET, "of-another-version", &bucket("one"), &bucket("one")).await.succeeded();
    assert_eq!(foreign.id(), "of-another-version");
    let failed = function.update(EMPTY_BUCKET, &created.id(), &bucket("one"), &json!({})).await.failed("`Bucket`");
    assert_eq!(failed.id(), created.id(), "a failed update replaces nothing");
}

#[tokio::test]
async fn what_cannot_be_done_is_answered_with_the_reason() {
    let mut function = Function::start(NO_AWS).await;
    let unknown = function.create("Custom::Other", &json!({})).await.failed("Custom::Other");
    for known in TYPES {
        unknown.clone().failed(known);
    }
    function.create(EMPTY_BUCKET, &json!({})).await.failed("missing field `Bucket`");
    function.create(EMPTY_BUCKET, &bucket(" ")).await.failed("Bucket is empty");
    function.create(EMPTY_BUCKET, &with(&bucket("one"), "Buckets", "x")).await.failed("unknown field `Buckets`");
    let secret = json!({ "Region": "eu-west-1", "Names": "hush-value" });
    let answer = function.create("Custom::RegionExports", &secret).await.failed("expected a sequence");
    assert!(!format!("{}{}", answer.body, function.log()).contains("hush-value"));
    let no_type = function.event("Upgrade", EMPTY_BUCKET, json!({ "ResourceProperties": bucket("one") }));
    function.answer(no_type, Duration::from_secs(10)).await.failed("RequestType");
    let long = "x".repeat(9_000);
    function.create(&long, &json!({})).await.failed("more in the function's log");
    assert!(function.log().contains(&long), "the log has all of it");
}

#[tokio::test]
async fn a_delete_after_a_creation_that_failed_succeeds() {
    let mut function = Function::start(NO_AWS).await;
    let failed = function.create(EMPTY_BUCKET, &json!({})).await.failed("Bucket");
    function.delete(EMPTY_BUCKET, &failed.id(), &json!({})).await.succeeded();
    function.delete(EMPTY_BUCKET, "orders-Thing-MADE-UP", &json!({})).await.succeeded();
}

#[tokio::test]
async fn the_answer_is_put_again_while_that_may_help() {
    let mut function = Function::start(NO_AWS).await;
    function.answer_puts_with(&[500, 503]);
    let event = function.event("Create", EMPTY_BUCKET, json!({ "ResourceProperties": bucket("one") }));
    let invocation = function.invoke(event.clone(), Duration::from_secs(20)).await;
    assert!(!invocation.is_error);
    assert_eq!(invocation.puts.len(), 3);
    // An expired URL stays expired; Lambda is told, and tries the invocation again.
    function.answer_puts_with(&[403]);
    let invocation = function.invoke(event.clone(), Duration::from_secs(20)).await;
    assert!(invocation.is_error);
    assert_eq!(invocation.puts.len(), 1);
    function.answer_puts_with(&[500; 20]);
    let invocation = function.invoke(event.clone(), Duration::from_secs(20)).await;
    assert!(invocation.is_error);
    assert_eq!(invocation.puts.len(), 5);
    let unreachable = with(&event, "ResponseURL", format!("http://127.0.0.1:1/?X-Amz-Signature={SIGNATURE}"));
    assert!(function.invoke(unreachable, Duration::from_secs(20)).await.is_error);
    assert!(!function.log().contains(SIGNATURE), "{}", function.log());
}

#[tokio::test]
async fn what_is_no_request_of_cloudformation_is_an_error_and_the_function_goes_on() {
    let mut function = Function::start(NO_AWS).await;
    for event in [json!({}), json!([1]), json!({ "RequestType": "Delete", "StackId": "s" })] {
        let invocation = function.invoke(event, Duration::from_secs(10)).await;
        assert!(invocation.is_error && invocation.puts.is_empty());
    }
    function.create(EMPTY_BUCKET, &bucket("one")).await.succeeded();
}

/// A server that takes connections, and says nothing.
async fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a client");
            tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
        }
    });
    url
}

#[tokio::test]
async fn the_answer_comes_before_lambda_ends_the_function() {
    let source = silent().await;
    let mut function = Function::start(NO_AWS).await;
    let properties = json!({ "SourceUrl": format!("{source}/code.zip"), "Sha256": "0".repeat(64), "Bucket": "code" });
    for (lasts, at) in [(5_000, 2_900..3_500), (2_000, 900..1_500)] {
        let event = function.event("Create", "Custom::DeployCode", json!({ "ResourceProperties": properties }));
        let answer = function.answer(event, Duration::from_millis(lasts)).await.failed("time was nearly over");
        assert!(at.contains(&answer.after.as_millis()), "answered after {:?} of {lasts} ms", answer.after);
    }
    function.create(EMPTY_BUCKET, &bucket("one")).await.succeeded();
}

/// A function with a defect.
struct Panics;

impl aurora_failover_custom_resources::Function for Panics {
    fn physical_id(&self, request: &Request) -> Result<String, Failure> {
        assert!(request.resource_type != "Custom::PanicsAtOnce", "a defect in naming");
        Ok("named".into())
    }

    async fn carry_out(&self, request: Request, _until: Instant) -> Result<Data, Failure> {
        assert!(request.resource_type != "Custom::Panics", "a defect in carrying out");
        Ok(Data::new())
    }
}

const CHILD: &str = "AURORA_FAILOVER_TEST_FUNCTION_THAT_PANICS";

/// Not a test: the function that the next test starts.
#[tokio::test]
#[ignore = "started by the test after it"]
async fn function_that_panics() {
    if std::env::var_os(CHILD).is_some() {
        serve(Arc::new(Panics)).await.expect("it is ended from outside");
    }
}

#[tokio::test]
async fn a_panic_is_answered_and_the_function_goes_on() {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(["--ignored", "--exact", "protocol::function_that_panics", "--nocapture"]).env(CHILD, "1");
    let mut function = Function::start_command(command, NO_AWS).await;
    assert_eq!(function.create("Custom::Panics", &json!({})).await.failed("panicked").id(), "named");
    assert_eq!(function.delete("Custom::Panics", "given", &json!({})).await.failed("panicked").id(), "given");
    let nameless = function.create("Custom::PanicsAtOnce", &json!({})).await.succeeded();
    assert!(!nameless.id().is_empty());
    function.create("Custom::Well", &json!({})).await.succeeded();
}

#[tokio::test]
async fn the_table_of_permissions_is_printed_for_the_templates() {
    let output = Command::new(env!("CARGO_BIN_EXE_custom-resources")).arg("permissions").output().await.expect("runs");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed.as_object().map(serde_json::Map::len), Some(TYPES.len()));
    for resource_type in TYPES {
        let rows = printed[resource_type].as_array().expect("rows");
        assert_eq!(rows.len(), permissions(resource_type).len());
        assert!(
            rows.iter().all(|row| row["sid"].is_string() && row["actions"].is_array() && row["resources"].is_array())
        );
    }
    let output = Command::new(env!("CARGO_BIN_EXE_custom-resources")).arg("--help").output().await.expect("runs");
    assert_eq!(output.status.code(), Some(2));
}
