//! What the commands print of a failover that was recorded in the lab: as text by snapshots, for programs by the
//! published schemas. The endpoint is the lab's, the history is in `fixtures/`.
//!
//! How much it costs is asked of a long and quiet history: of a million rows with
//! `cargo test --test outputs million -- --ignored --nocapture`.
//!
//! A snapshot that changed on purpose: `INSTA_UPDATE=always cargo test --test outputs`. Another recording, which needs
//! PostgreSQL: `cargo test --test outputs -- --ignored`.
#![cfg(feature = "lab")]

#[path = "support/endpoint.rs"]
mod endpoint;
mod support;

use aurora_failover::audit;
use aurora_failover::config;
use aurora_failover::store::{DynamoDb, HistoryRow, Item, Store as _};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use endpoint::Endpoint;
use futures::StreamExt as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{BINARY, checked, json, output, product, start, start_with_environment};

const CONFIG: &str = "recorded.toml";
const ROWS: &str = "recorded.jsonl";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn recorded() -> Vec<HistoryRow> {
    let text = fs::read_to_string(fixture(ROWS)).expect("the recording");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

/// A table that holds the recording.
struct Recording(Endpoint);

impl std::ops::Deref for Recording {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}

impl Recording {
    fn load() -> Self {
        let recording = Self::empty();
        recording.runtime.block_on(recording.fill());
        recording
    }

    fn empty() -> Self {
        let recording = Self(Endpoint::start(&fixture(CONFIG).display().to_string()));
        recording.good(&["init"]);
        recording
    }

    async fn sdk(&self) -> SdkConfig {
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new("us-west-2"))
            .endpoint_url(&self.environment[0].1)
            .credentials_provider(aws_sdk_dynamodb::config::Credentials::new("lab", "lab", None, None, "test"))
            .load()
            .await
    }

    async fn store(&self) -> DynamoDb {
        let settings = config::load(&fixture(CONFIG)).expect("the recorded configuration is valid");
        DynamoDb::new(&self.sdk().await, &settings.table)
    }

    async fn fill(&self) {
        let store = self.store().await;
        let rows = recorded();
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
}

#[test]
fn every_view_of_a_recorded_failover_is_as_it_was_approved() {
    let recording = Recording::load();
    let entries = checked(&recording.environment, "output-episodes", &["episodes"]);
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

    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/aurora-failover.example.toml");
    insta::assert_snapshot!("cost", recording.good(&["cost", "--config", example]));
    checked(&recording.environment, "output-cost", &["cost"]);
    checked(&recording.environment, "output-status", &["status"]);
    checked(&recording.environment, "output-history", &["history"]);
    checked(&recording.environment, "output-episode", &["episode", id]);
    checked(&recording.environment, "output-explain", &["explain", "orders"]);
    checked(&recording.environment, "output-explain", &["explain", "orders", "--version", &last]);
    checked(&recording.environment, "output-audit-verify", &["audit", "verify"]);
    checked(&recording.environment, "output-replay", &["replay", id]);
    checked(&recording.environment, "output-replay-policy", &["replay", id, "--policy", &hasty]);
    checked(&recording.environment, "output-dlq-list", &["dlq", "list"]);
}

/// A quiet life: a row every 30 s until now, each follows the one before.
async fn live_quietly(recording: &Recording, count: u64) -> statemachine::Timestamp {
    let (client, store) = (aws_sdk_dynamodb::Client::new(&recording.sdk().await), recording.store().await);
    let began = aurora_failover::clock::now().0 - count * QUIET_ROW_EVERY_MS;
    let mut previous_hash = String::new();
    let template = recorded().remove(2);
    let rows = (1..=count).map(|version| {
        let at = statemachine::Timestamp(began + version * QUIET_ROW_EVERY_MS);
        let (decision_id, previous) = (version.to_string(), std::mem::take(&mut previous_hash));
        let row = HistoryRow { version, at, decision_id, previous_hash: previous, ..template.clone() }.sealed();
        previous_hash.clone_from(&row.hash);
        row
    });
    let text = |text: String| AttributeValue::S(text);
    let rows = rows.map(|row| {
        // As `docs/history.md` describes a row; in batches, which the store has no need of.
        let item = [
            ("PK", text(format!("CLUSTER#{}", row.cluster))),
            ("SK", text(format!("HIST#{:020}", row.version))),
            ("version", AttributeValue::N(row.version.to_string())),
            ("day", text(aurora_failover::clock::day(row.at))),
            ("at", text(aurora_failover::clock::rfc3339(row.at))),
            ("actor", text(row.actor.clone())),
            ("row", text(serde_json::to_string(&row).expect("plain data"))),
        ];
        let item = item.map(|(name, value)| (name.to_owned(), value)).into();
        let put = PutRequest::builder().set_item(Some(item)).build().expect("an item");
        WriteRequest::builder().put_request(put).build()
    });
    let write = |batch: Vec<WriteRequest>| {
        let written = client.batch_write_item().request_items(store.table(), batch).send();
        async move {
            let written = written.await.expect("DynamoDB takes it");
            assert!(written.unprocessed_items().is_none_or(|left| left.is_empty()), "{written:?}");
        }
    };
    futures::stream::iter(rows).chunks(25).map(write).buffer_unordered(8).collect::<()>().await;
    statemachine::Timestamp(began + count * QUIET_ROW_EVERY_MS)
}

/// Pause between two quiet rows.
const QUIET_ROW_EVERY_MS: u64 = 30_000;

/// Runs a command to its end: how long it took, and the most memory that it had, in KiB.
fn measured(recording: &Recording, arguments: &[&str]) -> (Duration, u64, String) {
    let began = Instant::now();
    let mut command = Command::new(BINARY);
    command.args(arguments).envs(recording.environment.iter().cloned()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut out = child.stdout.take().expect("piped");
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let mut most_kib = 0;
    let status = loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most_kib = peak.unwrap_or(most_kib);
        if let Some(status) = child.try_wait().expect("it is ours") {
            break status;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    };
    assert!(status.success(), "{arguments:?}: {status}");
    (began.elapsed(), most_kib, reading.join().expect("no panic").expect("text"))
}

/// What is asked of the history costs by what is answered, and not by what there is.
fn ask_a_history_of(count: u64) {
    let recording = Recording::empty();
    let newest = recording.runtime.block_on(live_quietly(&recording, count));
    let ago = |hours: u64| aurora_failover::clock::rfc3339(statemachine::Timestamp(newest.0 - hours * 3_600_000));
    let aws = recording.aws();
    let queries = || aws.calls().iter().filter(|call| call.action == "Query").count();
    let before = queries();
    let (took, kib, said) =
        measured(&recording, &["history", "--cluster", "orders", "--since", &ago(1), "--limit", "1000"]);
    let asked = queries() - before;
    let (found, searched) = (said.lines().count(), count.ilog2() as usize + 4);
    println!("history --since 1h of {count} rows: {} ms, {kib} KiB, {asked} queries", took.as_millis());
    assert!((119..=122).contains(&found), "{found} lines");
    assert!(asked <= searched + 2, "{asked} queries");

    let kept = tempfile::tempdir().expect("a directory");
    let file = kept.path().join("rows.jsonl");
    let to = file.to_str().expect("text");
    let short = ["audit", "export", "--format", "json", "--since", &ago(10), "--to", to];
    let (_, some_kib, _) = measured(&recording, &short);
    let (took, all_kib, _) = measured(&recording, &["audit", "export", "--format", "json", "--to", to]);
    println!("audit export of {count} rows: {} ms, {all_kib} KiB; of 1200 rows: {some_kib} KiB", took.as_millis());
    let lines = BufReader::new(fs::File::open(&file).expect("written")).lines().count();
    assert_eq!(lines as u64, count);
    assert!(all_kib < some_kib * 3 / 2, "{all_kib} KiB for {count} rows, {some_kib} KiB for 1200");
    let (took, kib, said) = measured(&recording, &["audit", "verify"]);
    println!("audit verify of {count} rows: {} ms, {kib} KiB", took.as_millis());
    assert!(said.contains("each follows the one before"), "{said}");
}

#[test]
fn what_is_asked_of_the_history_costs_by_what_is_answered() {
    ask_a_history_of(3_000);
}

#[test]
#[ignore = "a million rows: some minutes, and 8 GiB of memory"]
fn a_million_rows_are_asked_exported_and_verified() {
    ask_a_history_of(1_000_000);
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
