//! `Custom::RegionExports` against CloudFormation of moto.

use crate::support::{Function, Recorder, aws};
use serde_json::{Map, json};

const REGION_EXPORTS: &str = "Custom::RegionExports";

#[tokio::test]
async fn exports_of_another_region_are_found_on_every_page() {
    let emulator = aws::moto().await;
    let outputs = (0..150).map(|i| {
        let value = if i < 140 { format!("value-{i}") } else { "x".repeat(500) };
        let kind = if i < 140 { "orders" } else { "long" };
        (format!("O{i}"), json!({ "Value": value, "Export": { "Name": format!("{kind}-{i}") } }))
    });
    let outputs: Map<_, _> = outputs.collect();
    let template = json!({ "Resources": { "T": { "Type": "AWS::SQS::Queue" } }, "Outputs": outputs }).to_string();
    let fields = [
        ("Action", "CreateStack"),
        ("Version", "2010-05-15"),
        ("StackName", "exporting"),
        ("TemplateBody", template.as_str()),
    ];
    aws::query(emulator, "cloudformation", "eu-west-1", &fields).await;

    let recorder = Recorder::start(emulator).await;
    let mut function = Function::start(&recorder.url).await;
    let some = json!({ "Region": "eu-west-1", "Names": ["orders-3", "orders-139"] });
    let created = function.create(REGION_EXPORTS, &some).await.succeeded();
    assert_eq!((created.data("orders-3"), created.data("orders-139")), ("value-3".into(), "value-139".into()));
    assert_eq!(created.body["Data"].as_object().map(Map::len), Some(2));
    recorder.check(REGION_EXPORTS);

    let by_prefix = json!({ "Region": "eu-west-1", "Prefix": "orders-12" });
    let updated = function.update(REGION_EXPORTS, &created.id(), &some, &by_prefix).await.succeeded();
    assert_eq!(updated.id(), created.id());
    assert_eq!(
        updated.body["Data"].as_object().map(Map::len),
        Some(10),
        "orders-120 to 129, and nothing without a name"
    );
    assert_eq!(updated.data("7"), "value-127", "what comes after the prefix");

    let missing = json!({ "Region": "eu-west-1", "Names": ["orders-3", "orders-x"] });
    function.create(REGION_EXPORTS, &missing).await.failed("no stack in eu-west-1 exports orders-x");
    let elsewhere = json!({ "Region": "eu-west-2", "Names": ["orders-3"] });
    let replaced = function.update(REGION_EXPORTS, &created.id(), &some, &elsewhere).await.failed("eu-west-2");
    assert_eq!(replaced.id(), created.id());
    let long = json!({ "Region": "eu-west-1", "Prefix": "long-" });
    function.create(REGION_EXPORTS, &long).await.failed("bytes of data, and CloudFormation takes");
    function.create(REGION_EXPORTS, &json!({ "Region": "eu-west-1" })).await.failed("one of Prefix and Names");
    function.delete(REGION_EXPORTS, &created.id(), &some).await.succeeded();
    function.delete(REGION_EXPORTS, &created.id(), &some).await.succeeded();
}
