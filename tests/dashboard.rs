//! The dashboard's API under load: a fleet of 500 clusters, a hundred pages, and a history of many rows. The real
//! binary, on the lab's AWS without servers.
#![cfg(all(feature = "lab", feature = "dashboard"))]

#[path = "support/endpoint.rs"]
mod endpoint;

use endpoint::Endpoint;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_aurora-failover");
const CLUSTERS: usize = 500;
const PAGES: usize = 100;
const TOKEN: &str = "0123456789abcdef";
const WITHIN: Duration = Duration::from_secs(60);

struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

fn configuration() -> String {
    let mut text =
        "region = \"us-west-2\"\n[database]\nuser = \"u\"\nname = \"n\"\ntls = \"off\"\n[canary]\nself-check = []\n"
            .to_owned();
    for number in 0..CLUSTERS {
        write!(
            text,
            "[[cluster]]\nid = \"c{number:03}\"\nmode = \"observe\"\nvantages = [\"a\", \"b\", \"c\"]\n\
             [[cluster.route]]\nzone = \"Z1\"\nname = \"c{number:03}.example.com\"\n"
        )
        .expect("text");
        for region in ["us-east-2", "us-west-2"] {
            write!(
                text,
                "[[cluster.member]]\nregion = \"{region}\"\narn = \"arn:aws:rds:{region}:000000000000:cluster:c{number:03}\"\n\
                 endpoint = \"c{number:03}.{region}.example.com\"\n"
            )
            .expect("text");
        }
        text.push_str("[cluster.policy]\nheartbeat = \"5s\"\nclaim-ttl = \"5s\"\n");
    }
    text
}

#[test]
fn a_fleet_of_five_hundred_is_followed_by_a_hundred_pages() {
    let config = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(config.path(), configuration()).expect("written");
    let endpoint = Endpoint::start(config.path().to_str().expect("text"));
    let command = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(arguments).envs(endpoint.environment.iter().cloned());
        command.env("AURORA_FAILOVER_DASHBOARD_TOKEN", TOKEN).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    assert!(command(&["init"]).status().expect("it starts").success());
    let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").to_string();
    let mut serve = command(&["serve", "--dashboard", &address]);
    let _serving = Serving(serve.stderr(Stdio::null()).spawn().expect("it starts"));
    endpoint.runtime.block_on(follow(&format!("http://{address}")));
    // The calls that it made show that a page costs no reads where the controller listens itself.
    let reads = endpoint.aws().calls().iter().filter(|call| call.action == "GetItem").count();
    assert!(reads < CLUSTERS * 8, "{reads} reads of {CLUSTERS} records");
}

async fn json(answer: reqwest::Response) -> Value {
    serde_json::from_slice(&answer.bytes().await.expect("it is whole")).expect("JSON")
}

async fn follow(url: &str) {
    let client = reqwest::Client::new();
    let began = Instant::now();
    let fleet = loop {
        let answer = client.get(format!("{url}/api/fleet")).send().await;
        if let Ok(answer) = answer {
            let fleet = json(answer).await;
            if fleet["clusters"].as_array().is_some_and(|clusters| clusters.len() == CLUSTERS) {
                break fleet;
            }
        }
        assert!(began.elapsed() < WITHIN, "the fleet is not whole");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(fleet["may-order"], false);
    let page = async |number: usize| {
        let query = if number.is_multiple_of(2) { String::new() } else { format!("?cluster=c{number:03}") };
        let answer = client.get(format!("{url}/api/stream{query}")).send().await.expect("a stream");
        assert_eq!(answer.status(), 200);
        let mut stream = answer;
        let mut text = String::new();
        let wanted = if number.is_multiple_of(2) { "event: summary" } else { "event: cluster" };
        while !text.contains(wanted) {
            let more = tokio::time::timeout(WITHIN, stream.chunk()).await.expect("it says something");
            text.push_str(&String::from_utf8_lossy(&more.expect("it is whole").expect("it goes on")));
        }
        let last = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse::<u64>().ok()).max();
        last.expect("events are numbered")
    };
    let seen = futures::future::join_all((0..PAGES).map(page)).await;

    // Whoever comes back gets what was missed; whoever was never here looks anew.
    let resume = async |last: u64| {
        let asked = client.get(format!("{url}/api/stream")).header("last-event-id", last.to_string());
        let mut stream = asked.send().await.expect("a stream");
        let first = tokio::time::timeout(WITHIN, stream.chunk()).await.expect("it says something");
        String::from_utf8_lossy(&first.expect("it is whole").expect("it goes on")).into_owned()
    };
    let newest = seen.iter().copied().max().expect("pages");
    let again = resume(newest.saturating_sub(5)).await;
    assert!(again.contains("event: summary") || again.contains("event: here"), "{again}");
    assert!(resume(newest + 1_000_000).await.contains("event: anew"), "numbers of another process");

    // Every described route is served, and says no in its own words.
    let described = json(client.get(format!("{url}/api/openapi.json")).send().await.expect("it answers")).await;
    for (path, methods) in described["paths"].as_object().expect("paths") {
        let path = path.replace("{cluster}", "c001").replace("{version}", "1").replace("{id}", "c001-1-1");
        for method in methods.as_object().expect("methods").keys() {
            let method: reqwest::Method = method.to_uppercase().parse().expect("a method");
            let asked =
                client.request(method.clone(), format!("{url}{path}")).header("content-type", "application/json");
            let status = asked.body("{}").send().await.expect("it answers").status();
            let expected: &[u16] = if method == reqwest::Method::POST { &[401] } else { &[200, 404] };
            assert!(expected.contains(&status.as_u16()), "{method} {path}: {status}");
        }
    }
    let order = client.post(format!("{url}/api/clusters/c001/orders")).bearer_auth(TOKEN);
    let nameless = r#"{"order":{"order":"abort"},"reason":" ","name":"x","expected-epoch":1}"#;
    let answer = order.header("content-type", "application/json").body(nameless).send().await.expect("it answers");
    assert_eq!(answer.status(), 422);
    let why = json(answer).await;
    assert!(why["error"].as_str().is_some_and(|why| why.contains("reason")), "{why}");
    let elsewhere = client.post(format!("{url}/api/clusters/c001/orders")).bearer_auth(TOKEN);
    let elsewhere = elsewhere.header("sec-fetch-site", "cross-site").header("content-type", "application/json");
    assert_eq!(elsewhere.body(nameless).send().await.expect("it answers").status(), 403);
}
