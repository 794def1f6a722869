//! What is published beside the program is true: schemas, documented orders, the example configuration.

use aurora_failover::config;
use aurora_failover::envelope::{Channel, Decoder};
use serde_json::{Value, json};
use statemachine::{Event, Order};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

fn published(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemas").join(format!("{name}.json"))
}

fn schema(name: &str) -> Value {
    let text = std::fs::read_to_string(published(name)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// What the product prints.
fn said(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_aurora-failover")).args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_published_schemas_are_current() {
    let names = said(&["schema"]);
    let events = names.lines().map(|name| (name, said(&["schema", name])));
    for (name, text) in events.chain([("configuration", said(&["config", "schema"]))]) {
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(published(name), &text).expect("written");
        }
        let kept = std::fs::read_to_string(published(name)).unwrap_or_default();
        assert!(kept == text, "schemas/{name}.json is stale; run: UPDATE_EXPECT=1 cargo test --test published");
    }
}

/// The entries of each `put-events` in the documentation.
fn documented() -> Vec<Value> {
    let text = include_str!("../docs/orders.md");
    let commands = text.lines().filter(|line| line.starts_with("aws events put-events"));
    let entries = commands.map(|line| {
        let words = shlex::split(line).expect("a shell would take it");
        let at = words.iter().position(|word| word == "--entries").expect("it has entries");
        let entries: Value = serde_json::from_str(&words[at + 1]).expect("JSON");
        entries[0].clone()
    });
    entries.collect()
}

#[test]
fn every_order_is_documented_as_one_command_that_the_schema_and_the_service_take() {
    let schema = schema("operator-command");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let example = include_str!("../aurora-failover.example.toml");
    let settings = config::parse(example, "example", |_| None).expect("the example is valid");
    let decoder = Decoder::new(&settings.clusters);
    let mut orders = BTreeSet::new();
    for entry in documented() {
        assert_eq!(entry["EventBusName"], settings.operator_bus.as_str());
        let detail: Value = serde_json::from_str(entry["Detail"].as_str().expect("text")).expect("JSON");
        if let Err(error) = validator.validate(&detail) {
            panic!("{detail} is not as published: {error}");
        }
        let body = json!({
            "version": "0", "id": "1", "account": "123456789012",
            "source": entry["Source"], "detail-type": entry["DetailType"], "detail": detail,
        });
        let decoded = decoder.decode(&body.to_string(), Channel::Operator).expect("the service takes it");
        let Event::Command(command) = decoded.envelope.event else { panic!("{body} is no order") };
        orders.insert(Order::name(&command.order));
    }
    let all = [
        "pause",
        "resume",
        "set-mode",
        "failover",
        "switchover",
        "failover-in-region",
        "approve",
        "abort",
        "acknowledge",
        "reset-limit",
    ];
    assert_eq!(orders, all.into_iter().collect(), "each order has one");
}

#[test]
fn the_schemas_refuse_what_the_service_refuses() {
    let schema = schema("operator-command");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let first = documented().remove(0);
    let good: Value = serde_json::from_str(first["Detail"].as_str().expect("text")).expect("JSON");
    type Spoil = fn(&mut Value);
    let spoil: [(&str, Spoil); 4] = [
        ("an unknown field", |detail| detail["extra"] = json!(1)),
        ("no actor", |detail| drop(detail["command"].as_object_mut().expect("an object").remove("actor"))),
        ("an unknown order", |detail| detail["command"]["order"]["order"] = json!("explode")),
        ("a time as text", |detail| detail["command"]["expires-at"] = json!("tomorrow")),
    ];
    for (what, spoil) in spoil {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(validator.validate(&bad).is_err(), "{what} passes");
    }
}

#[test]
fn the_example_configuration_is_as_its_schema_says() {
    let schema = schema("configuration");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let example: toml::Table = toml::from_str(include_str!("../aurora-failover.example.toml")).expect("TOML");
    let example = serde_json::to_value(example).expect("JSON");
    if let Err(error) = validator.validate(&example) {
        panic!("the example is not as published: {error}");
    }
    let mut wrong = example;
    wrong["cluster"][0]["quorom"] = json!(2);
    assert!(validator.validate(&wrong).is_err(), "an unknown key passes");
}
