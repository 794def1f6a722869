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
use aurora_failover::turn::{Before, new_row};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use endpoint::Endpoint;
use futures::StreamExt as _;
use statemachine::{ControllerId, Envelope, Event, Probe, ProbeOutcome, Record, SelfCheck, Timestamp, step};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{BINARY, Running, checked, json, output, product, start, start_with_environment, until, until_stable};

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

/// What does not depend on the moment: no ages, no times, no names made up, and no widths that come of them.
fn steady(text: &str) -> String {
    let is_number = |word: &str| word.parse::<f64>().is_ok();
    let is_unit = |word: &str| matches!(word, "ms" | "s" | "min" | "h" | "day" | "days");
    let made_up = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        bare.len() >= 32 && bare.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
    };
    let is_time = |word: &str| word.starts_with("20") && word.contains('T') && word.contains('Z') && word.len() > 20;
    let line = |line: &str| {
        let mut words: Vec<String> = Vec::new();
        for word in line.split_whitespace() {
            let age = word.trim_end_matches([',', '.', ':', ';', ')']);
            if age == "ago" || age == "ago)" {
                while words.last().is_some_and(|last| is_unit(last) || is_number(last.trim_start_matches('('))) {
                    words.pop();
                }
                words.push("(age)".into());
            } else if is_time(word) {
                words.push("(time)".into());
            } else if made_up(word) {
                words.push("(id)".into());
            } else {
                words.push(word.to_owned());
            }
        }
        // "not heard of for 22 min 18 s"
        let bare = |word: &str| word.trim_end_matches([',', '.', ':', ';', ')']).to_owned();
        let spans = words.windows(3).position(|w| w[0] == "for" && is_number(&w[1]) && is_unit(&bare(&w[2])));
        if let Some(at) = spans {
            let length = words[at + 1..].iter().take_while(|word| is_number(word) || is_unit(&bare(word))).count();
            words.splice(at + 1..=at + length, ["(age)".to_owned()]);
        }
        words.join(" ")
    };
    // An hour after the recording its cooldown is over.
    let lasting = |line: &&str| !line.starts_with("No automatic failover: the last failover was");
    text.lines().filter(lasting).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_view_of_a_running_service_is_as_it_was_approved() {
    let recording = Recording::load();
    let said = |arguments: &[&str]| steady(&product(&recording.environment, arguments).1);
    insta::assert_snapshot!("status", said(&["status"]));
    insta::assert_snapshot!("doctor", said(&["doctor"]));
    insta::assert_snapshot!("plan", said(&["plan", "orders", "--switchover"]));
    let order = |order: &[&'static str]| [&["override", "orders"], order, &["--reason", "test"]].concat();
    insta::assert_snapshot!("override-dry-run", said(&order(&["pause", "--for", "1h", "--dry-run"])));

    let endless = "x".repeat(300);
    let (code, refused) = product(
        &recording.environment,
        &["override", "orders", "abort", "--reason", "test", "--yes", "--on-behalf-of", &endless],
    );
    assert!(code == 1 && refused.contains("on-behalf-of has 300 bytes, at most 256; nothing was sent"), "{refused}");

    let mut serve = Command::new(BINARY);
    serve.arg("serve").envs(recording.environment.iter().cloned()).stdout(Stdio::null()).stderr(Stdio::null());
    let _serving = Running(serve.spawn().expect("it starts"));
    let refused = [&order(&["abort", "--yes"])[..], &["--on-behalf-of", "ticket 4711"]].concat();
    insta::assert_snapshot!("override-refused", said(&refused));
    let paused = checked(&recording.environment, "output-override", &order(&["pause", "--for", "1h", "--yes"]));
    assert_eq!(paused["ended"], "done", "{paused:#}");
    insta::assert_snapshot!("drill-refused", said(&["drill", "orders", "--switchover", "--reason", "test", "--yes"]));

    let sdk = recording.runtime.block_on(recording.sdk());
    let sqs = aws_sdk_sqs::Client::new(&sdk);
    recording.runtime.block_on(async {
        let queue = sqs.get_queue_url().queue_name("aurora-failover-events-dead-letters").send().await;
        let url = queue.expect("SQS answers").queue_url.expect("a queue");
        sqs.send_message().queue_url(url).message_body("{\"what\": \"is this\"}").send().await.expect("SQS takes it");
    });
    let listed = checked(&recording.environment, "output-dlq-list", &["dlq", "list"]);
    let id = listed[0]["id"].as_str().expect("an id").to_owned();
    insta::assert_snapshot!("dlq-list", said(&["dlq", "list"]));
    insta::assert_snapshot!("dlq-show", said(&["dlq", "show", &id]));
    insta::assert_snapshot!("dlq-redrive", said(&["dlq", "redrive", "--all"]));
    checked(&recording.environment, "output-dlq-show", &["dlq", "show", &id]);
    let kept = checked(&recording.environment, "output-dlq-redrive", &["dlq", "redrive", &id]);
    assert!(kept[0]["kept"].as_str().is_some_and(|why| why.contains("not an EventBridge envelope")), "{kept:#}");

    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/aurora-failover.example.toml");
    let checked_file = recording.good(&["config", "check", "--config", example]);
    insta::assert_snapshot!("config-check", checked_file.replace(env!("CARGO_MANIFEST_DIR"), ""));
    checked(&recording.environment, "output-config-check", &["config", "check"]);
    checked(&recording.environment, "output-doctor", &["doctor"]);
}

#[test]
fn whoever_reads_only_the_beginning_of_an_export_sees_no_error() {
    let recording = Recording::load();
    for format in ["json", "csv"] {
        let mut command = Command::new(BINARY);
        command.args(["audit", "export", "--format", format]).envs(recording.environment.iter().cloned());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut out = child.stdout.take().expect("piped");
        out.read_exact(&mut [0; 100]).expect("a beginning");
        drop(out);
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("error"), "{format}: {said}");
    }
}

/// Takes one row away, past the product.
fn remove_row(recording: &Recording, version: u64) {
    let key = |name: &str, value: String| (name.to_owned(), AttributeValue::S(value));
    let key = [key("PK", "CLUSTER#orders".into()), key("SK", format!("HIST#{version:020}"))];
    recording.runtime.block_on(async {
        let client = aws_sdk_dynamodb::Client::new(&recording.sdk().await);
        let table = recording.store().await.table().to_owned();
        let deleted = client.delete_item().table_name(table).set_key(Some(key.into())).send().await;
        deleted.expect("DynamoDB takes it");
    });
}

#[test]
fn a_row_that_is_missing_at_either_end_is_found() {
    let recording = Recording::load();
    let verify = || {
        let (code, said) = product(&recording.environment, &["audit", "verify"]);
        assert_eq!(code, 1, "{said}");
        said
    };
    let newest = recorded().last().expect("rows").version;
    remove_row(&recording, newest);
    let said = verify();
    assert!(said.contains(&format!("row {newest} is missing at the end")) && said.contains(": 1 flaw"), "{said}");
    remove_row(&recording, 1);
    let said = verify();
    assert!(said.contains("the oldest row is 2: row 1 is missing") && said.contains(": 2 flaws"), "{said}");
    remove_row(&recording, 2);
    assert!(verify().contains("the oldest row is 3: rows 1 to 2 are missing"));
    // Where rows expire nobody knows what the first one is.
    let expiring = tempfile::NamedTempFile::new().expect("a file");
    let own = fs::read_to_string(fixture(CONFIG)).expect("the configuration");
    fs::write(expiring.path(), own.replacen("profile", "retention = \"400d\"\nprofile", 1)).expect("written");
    let config = expiring.path().to_str().expect("text");
    let (_, said) = product(&recording.environment, &["audit", "verify", "--config", config]);
    assert!(said.contains(": 1 flaw") && said.contains("it begins at version 3"), "{said}");
}

/// A cluster that was seen healthy so long ago, and of which nothing was stored since.
async fn seen_healthy(recording: &Recording, ago_s: u64) {
    let settings = config::load(&fixture(CONFIG)).expect("the recorded configuration is valid");
    let at = Timestamp(aurora_failover::clock::now().0 - ago_s * 1000);
    let cluster = &settings.clusters[0];
    let mut record = Record::new(cluster.id.clone(), cluster.config.clone(), statemachine::Mode::Auto, at);
    let probe = |number: usize, target: &str, lag_ms: Option<u64>| {
        let outcome = match lag_ms {
            None => ProbeOutcome::Ok,
            Some(_) => ProbeOutcome::Failed { class: "read-only".into() },
        };
        let event = Event::Probe(Probe {
            vantage: cluster.config.policy.vantages[number].clone(),
            incarnation: "one".into(),
            sequence: 1,
            target: target.into(),
            outcome,
            self_check: SelfCheck::Ok,
            latency_ms: 1,
            connect_ms: None,
            connect_failure: None,
            dropped: 0,
            lag_ms,
        });
        Envelope { id: format!("{number}/{target}").into(), at, event }
    };
    for event in [probe(0, "us-west-2", Some(20)), probe(1, "us-east-2", None), probe(2, "us-east-2", None)] {
        record = step(record, &event, at).record;
    }
    let (before, last) = (Before::of(&record), probe(0, "us-east-2", None));
    let decision = step(record, &last, at);
    let by = ControllerId("controller".into());
    let row = new_row(before, &last, &decision, 1, "", at, "one".into(), &by, Vec::new());
    let item = Item { version: 1, decision_id: "one".into(), record: decision.record, row };
    let store = recording.store().await;
    store.commit(&item).await.expect("DynamoDB takes it");
    store.append(&item.row).await.expect("DynamoDB takes it");
}

/// Healthy evidence is stored once a minute: between two heartbeats a plan is made on it, not against the clock.
#[test]
fn a_plan_on_a_quiet_healthy_cluster_goes_through_between_two_heartbeats() {
    let recording = Recording::empty();
    recording.runtime.block_on(seen_healthy(&recording, 50));
    let plan = checked(&recording.environment, "output-plan", &["plan", "orders"]);
    assert_eq!(plan["goes-through"], true, "{plan:#}");
    assert_eq!(plan["obstacles"], serde_json::json!([]), "{plan:#}");
    let told = recording.good(&["plan", "orders"]);
    assert!(told.contains("evidence as of ") && !told.contains("no controller"), "{told}");
    let dry = recording.good(&["override", "orders", "failover", "--reason", "test", "--dry-run"]);
    assert!(dry.contains("it would then make us-west-2 the writer"), "{dry}");
    let why = recording.good(&["explain", "orders"]);
    assert!(!why.contains("silence") && why.contains(" ago), version 1"), "{why}");
}

#[test]
fn a_plan_on_evidence_that_no_controller_renews_says_so() {
    let recording = Recording::empty();
    recording.runtime.block_on(seen_healthy(&recording, 600));
    let (code, told) = product(&recording.environment, &["plan", "orders"]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("no controller seems to be running"), "{told}");
}

#[test]
fn where_nothing_is_stored_it_says_so_in_a_sentence() {
    let recording = Recording::empty();
    assert!(recording.good(&["episodes"]).contains("There was no episode"));
    assert!(recording.good(&["history"]).contains("No turn is like that"));
    assert!(recording.good(&["audit", "verify"]).contains("nothing is stored of orders yet"));
    let (code, said) = product(&recording.environment, &["explain", "orders"]);
    assert!(code == 1 && said.contains("nothing is stored of orders yet"), "{said}");
}

/// A quiet life: a row every 30 s until now, each follows the one before.
async fn live_quietly(recording: &Recording, count: u64) -> statemachine::Timestamp {
    let (client, store) = (aws_sdk_dynamodb::Client::new(&recording.sdk().await), recording.store().await);
    let began = aurora_failover::clock::now().0 - count * QUIET_ROW_EVERY_MS;
    let mut previous_hash = String::new();
    let template = recorded().remove(2);
    let mut newest = None;
    let rows = (1..=count).map(|version| {
        let at = statemachine::Timestamp(began + version * QUIET_ROW_EVERY_MS);
        let (decision_id, previous) = (version.to_string(), std::mem::take(&mut previous_hash));
        let row = HistoryRow { version, at, decision_id, previous_hash: previous, ..template.clone() }.sealed();
        previous_hash.clone_from(&row.hash);
        if version == count {
            newest = Some(row.clone());
        }
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
    let newest = newest.expect("the last one was written");
    let record = audit::record_after(&recorded()[..3]).expect("the decisions can be made again");
    let state = [
        ("PK", text(format!("CLUSTER#{}", newest.cluster))),
        ("SK", text("STATE".into())),
        ("version", AttributeValue::N(newest.version.to_string())),
        ("decision_id", text(newest.decision_id.clone())),
        ("record", text(serde_json::to_string(&record).expect("plain data"))),
        ("row", text(serde_json::to_string(&newest).expect("plain data"))),
    ];
    let state = state.map(|(name, value)| (name.to_owned(), value)).into();
    let put = client.put_item().table_name(store.table()).set_item(Some(state)).send().await;
    put.expect("DynamoDB takes it");
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
    assert!(count < 1_000_000 || took < Duration::from_secs(1), "{took:?}");
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
#[ignore = "a million rows: a quarter of an hour, and 13 GiB of memory"]
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
    until_stable(&environment, Duration::from_secs(45));
    order(&["heal", "lose-region", "us-east-2"]);
    until(Duration::from_secs(45), || {
        let newest = json(&environment, &["episodes"])[0].take();
        if newest["closed-at"].is_u64() { Ok(()) } else { Err(format!("{newest:#}")) }
    });
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
