//! What the commands print of a failover that was recorded in the lab: as text by snapshots, for programs by the
//! published schemas. The endpoint is the lab's, the history is in `fixtures/`.
//!
//! A snapshot that changed on purpose: `INSTA_UPDATE=always cargo test --test outputs`. Another recording, which needs
//! PostgreSQL: `cargo test --test outputs -- --ignored`.
#![cfg(feature = "lab")]

mod support;

use aurora_failover::audit;
use aurora_failover::config;
use aurora_failover::store::{DynamoDb, HistoryRow, Item, Store as _};
use aurora_failover_lab::aws::{Aws, AwsOptions, PromotedAtOnce};
use aurora_failover_lab::dns::Zones;
use aws_config::{BehaviorVersion, Region};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{json, output, product, start, start_with_environment};

const CONFIG: &str = "recorded.toml";
const ROWS: &str = "recorded.jsonl";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A table that holds the recording.
struct Recording {
    runtime: tokio::runtime::Runtime,
    aws: Option<Aws>,
    environment: Vec<(String, String)>,
}

impl Recording {
    fn load() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (aws, environment) = runtime.block_on(async {
            let global_cluster = PromotedAtOnce::global_cluster("orders", ["us-east-2", "us-west-2"]);
            let databases = PromotedAtOnce { primary: "us-west-2".into(), lag: Vec::new() };
            let options = AwsOptions::new(Zones::new(), Arc::new(databases), global_cluster);
            let aws = Aws::start(options).await.expect("the endpoint starts");
            let environment = [
                ("AWS_ENDPOINT_URL", aws.url()),
                ("AWS_ACCESS_KEY_ID", "lab".into()),
                ("AWS_SECRET_ACCESS_KEY", "lab".into()),
                ("AWS_EC2_METADATA_DISABLED", "true".into()),
                ("AURORA_FAILOVER_CONFIG", fixture(CONFIG).display().to_string()),
            ];
            (aws, environment.map(|(name, value)| (name.to_owned(), value)).to_vec())
        });
        let recording = Self { runtime, aws: Some(aws), environment };
        recording.good(&["init"]);
        recording.runtime.block_on(recording.fill());
        recording
    }

    async fn fill(&self) {
        let settings = config::load(&fixture(CONFIG)).expect("the recorded configuration is valid");
        let sdk = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new("us-west-2"))
            .endpoint_url(&self.environment[0].1)
            .credentials_provider(aws_sdk_dynamodb::config::Credentials::new("lab", "lab", None, None, "test"))
            .load()
            .await;
        let store = DynamoDb::new(&sdk, &settings.table);
        let text = fs::read_to_string(fixture(ROWS)).expect("the recording");
        let row = |line| serde_json::from_str::<HistoryRow>(line).expect("a row");
        let rows: Vec<HistoryRow> = text.lines().map(row).collect();
        for (index, row) in rows.iter().enumerate() {
            let record = audit::record_after(&rows[..=index]).expect("the decisions can be made again");
            let (version, decision_id, row) = (row.version, row.decision_id.clone(), row.clone());
            let item = Item { version, decision_id, record, row };
            store.commit(&item).await.expect("DynamoDB takes it");
            store.append(&item.row).await.expect("DynamoDB takes it");
        }
    }

    fn good(&self, arguments: &[&str]) -> String {
        let (code, said) = product(&self.environment, arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        said
    }

    /// What it prints for programs is as the schema says.
    fn checked(&self, schema: &str, arguments: &[&str]) -> Value {
        let printed = json(&self.environment, arguments);
        let published = fs::read_to_string(format!("{}/schemas/{schema}.json", env!("CARGO_MANIFEST_DIR")));
        let published: Value = serde_json::from_str(&published.expect("it is published")).expect("JSON");
        let validator = jsonschema::validator_for(&published).expect("a schema");
        if let Some(error) = validator.iter_errors(&printed).next() {
            panic!("{arguments:?} is not as {schema} says: {error} at {}", error.instance_path());
        }
        printed
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(aws) = self.aws.take() {
            let _stopping_anyway = self.runtime.block_on(aws.shutdown());
        }
    }
}

#[test]
fn every_view_of_a_recorded_failover_is_as_it_was_approved() {
    let recording = Recording::load();
    let entries = recording.checked("output-episodes", &["episodes"]);
    let failover = entries.as_array().expect("a list").iter().find(|entry| entry["outcome"] == "completed");
    let failover = failover.expect("one was completed");
    let id = failover["id"].as_str().expect("an id");
    let promoted = failover["episode"]["promoted-at"].as_u64().expect("a time").to_string();
    let opened = failover["opened-version"].as_u64().expect("a version");
    let (first, last) = (opened.to_string(), failover["closed-version"].as_u64().expect("closed").to_string());
    let hasty = tempfile::NamedTempFile::new().expect("a file");
    let own = fs::read_to_string(fixture(CONFIG)).expect("the configuration");
    fs::write(hasty.path(), format!("{own}failures-min = 1\nquorum = 1\nconfirm-after = \"1ms\"\n")).expect("written");
    let hasty = hasty.path().to_str().expect("text").to_owned();
    let at = aurora_failover::clock::rfc3339(statemachine::Timestamp(promoted.parse().expect("a number")));

    for (name, arguments) in [
        ("episodes", &["episodes"][..]),
        ("episode", &["episode", id]),
        ("episode-markdown", &["episode", id, "--output", "markdown"]),
        ("history", &["history", "--episode", id]),
        ("history-of-commands", &["history", "--event", "command"]),
        ("explain-version", &["explain", "orders", "--version", &first]),
        ("explain-at", &["explain", "orders", "--at", &at]),
        ("audit-verify", &["audit", "verify"]),
        ("replay", &["replay", id]),
        ("replay-policy", &["replay", id, "--policy", &hasty]),
    ] {
        insta::assert_snapshot!(name, recording.good(arguments));
    }

    recording.checked("output-status", &["status"]);
    recording.checked("output-history", &["history"]);
    recording.checked("output-episode", &["episode", id]);
    recording.checked("output-explain", &["explain", "orders"]);
    recording.checked("output-explain", &["explain", "orders", "--version", &last]);
    recording.checked("output-audit-verify", &["audit", "verify"]);
    recording.checked("output-replay", &["replay", id]);
    recording.checked("output-replay-policy", &["replay", id, "--policy", &hasty]);
    recording.checked("output-dlq-list", &["dlq", "list"]);
}

#[test]
#[ignore = "makes another recording in the lab"]
fn record_a_failover() {
    let (lab, dir, environment) = start_with_environment();
    let order = |order: &[&str]| {
        let given = output(start(&[order, &["--lab", dir.to_str().expect("text")]].concat()));
        assert!(given.status.success(), "{order:?}: {}", String::from_utf8_lossy(&given.stderr));
    };
    order(&["fault", "lose-region", "us-east-2"]);
    let began = Instant::now();
    let wait_for = |done: &dyn Fn() -> bool| {
        while !done() {
            assert!(began.elapsed() < Duration::from_secs(90), "{}", product(&environment, &["status"]).1);
            std::thread::park_timeout(Duration::from_millis(300));
        }
    };
    wait_for(&|| json(&environment, &["status"])[0]["record"]["state"]["name"] == "stable");
    order(&["heal", "lose-region", "us-east-2"]);
    wait_for(&|| json(&environment, &["episodes"])[0]["closed-at"].is_u64());
    for order in [&["pause", "--for", "1m"][..], &["resume"], &["abort"]] {
        product(&environment, &[&["override", "orders"], order, &["--reason", "for the record", "--yes"]].concat());
    }
    let rows = fixture(ROWS);
    let exported =
        product(&environment, &["audit", "export", "--format", "json", "--to", rows.to_str().expect("text")]);
    assert_eq!(exported.0, 0, "{}", exported.1);
    fs::copy(dir.join("aurora-failover.toml"), fixture(CONFIG)).expect("copied");
    drop(lab);
}
