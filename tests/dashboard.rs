//! The dashboard under load: a fleet of 500 clusters, a hundred pages and more than are let in, a history of 100,000
//! rows, and all of that in a browser, also on a slow network. The real binary, on the lab's AWS without servers.
#![cfg(all(feature = "lab", feature = "dashboard"))]

#[path = "support/endpoint.rs"]
mod endpoint;
#[path = "dashboard/long_history.rs"]
mod long_history;

use aurora_failover::clock;
use endpoint::Endpoint;
use long_history::LongHistory;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_aurora-failover");
const CLUSTERS: usize = 500;
const PAGES: usize = 100;
/// More than are let in at once.
const PAGES_TOO_MANY: usize = 201;
const ROWS: u64 = 100_000;
/// Whose history is long.
const LONG: &str = "c250";
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

/// The binary serves the fleet.
struct Served {
    url: String,
    endpoint: Endpoint,
    _serving: Serving,
    _config: tempfile::NamedTempFile,
}

impl Served {
    /// With another endpoint in front of the lab's, if there is one.
    fn start(in_front: impl FnOnce(&Endpoint) -> Option<String>) -> Self {
        let config = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(config.path(), configuration()).expect("written");
        let endpoint = Endpoint::start(config.path().to_str().expect("text"));
        let in_front = in_front(&endpoint);
        let command = |arguments: &[&str]| {
            let mut command = Command::new(BINARY);
            command.args(arguments).envs(endpoint.environment.iter().cloned());
            command.envs(in_front.as_ref().map(|url| ("AWS_ENDPOINT_URL", url)));
            command.env("AURORA_FAILOVER_DASHBOARD_TOKEN", TOKEN).stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        assert!(command(&["init"]).status().expect("it starts").success());
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let mut serve = command(&["serve", "--dashboard", &free.to_string()]);
        let serving = Serving(serve.stderr(Stdio::null()).spawn().expect("it starts"));
        Self { url: format!("http://{free}"), endpoint, _serving: serving, _config: config }
    }
}

#[test]
fn a_fleet_of_five_hundred_is_followed_by_a_hundred_pages() {
    let served = Served::start(|_| None);
    served.endpoint.runtime.block_on(follow(&served.url));
    // The calls that it made show that a page costs no reads where the controller listens itself.
    let reads = served.endpoint.aws().calls().iter().filter(|call| call.action == "GetItem").count();
    assert!(reads < CLUSTERS * 8, "{reads} reads of {CLUSTERS} records");
}

#[test]
fn a_long_history_is_paged_and_searched_and_a_browser_holds_the_fleet_on_a_slow_network() {
    let tools = std::env::var_os("AURORA_FAILOVER_TOOLS")
        .expect("run the tests by scripts/test, which installs what they need");
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recorded.jsonl");
    let recorded = std::fs::read_to_string(recorded).expect("the recording");
    let row = serde_json::from_str(recorded.lines().nth(2).expect("a third row")).expect("a row");
    let mut history = None;
    let served = Served::start(|endpoint| {
        let started = LongHistory::start(LONG, ROWS, row, endpoint.aws().url());
        let (started, address) = endpoint.runtime.block_on(started);
        history = Some(started);
        Some(format!("http://{address}"))
    });
    let history = history.expect("it was started");
    served.endpoint.runtime.block_on(ask_history(&served.url, &history));
    let mut node = Command::new("node");
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dashboard/fleet.mjs"));
    node.args([format!("{}/#token={TOKEN}", served.url), LONG.into(), CLUSTERS.to_string(), ROWS.to_string()]);
    let output = node.env("AURORA_FAILOVER_TOOLS", tools).env("CHROMIUM", browser()).output().expect("node starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

fn browser() -> PathBuf {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let usual = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    let found = named.into_iter().chain(usual).find(|path| path.exists());
    found.expect("a browser: run scripts/setup test, or set CHROMIUM")
}

/// A page, a time and a filter cost by what is answered, and not by what there is.
async fn ask_history(url: &str, history: &LongHistory) {
    let client = reqwest::Client::new();
    let began = Instant::now();
    while client.get(format!("{url}/api/fleet")).send().await.is_err() {
        assert!(began.elapsed() < WITHIN, "it is not served");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let ask = async |query: String, queries_max: usize| {
        let (before, began) = (history.queries(), Instant::now());
        let answer = client.get(format!("{url}/api/{query}")).send().await.expect("it answers");
        assert_eq!(answer.status(), 200, "{query}");
        let page = json(answer).await;
        let asked = history.queries() - before;
        println!("{query}: {asked} queries, {} ms", began.elapsed().as_millis());
        assert!(asked <= queries_max, "{query}: {asked} queries");
        page
    };
    let turns = |page: &Value| page["turns"].as_array().expect("turns").len();
    let mut before = None;
    for _ in 0..3 {
        let older = before.map(|before: u64| format!("&before={before}")).unwrap_or_default();
        let page = ask(format!("clusters/{LONG}/turns?limit=100{older}"), 2).await;
        assert_eq!(turns(&page), 100);
        let next = page["before"].as_u64().expect("there are older ones");
        assert!(before.is_none_or(|before| next < before));
        before = Some(next);
    }
    let hour = |ago: u64| {
        let from = clock::now().0 - ago * 3_600_000;
        format!("since={from}&until={}", from + 3_599_999)
    };
    let searched = 2 * (ROWS.ilog2() as usize + 5);
    let page = ask(format!("turns?cluster={LONG}&limit=500&{}", hour(400)), searched).await;
    assert!((119..=121).contains(&turns(&page)), "{} turns in an hour", turns(&page));
    // Of all clusters by the index of days; the other clusters have been quiet then.
    let page = ask(format!("turns?limit=500&{}", hour(400)), 4).await;
    assert!((119..=121).contains(&turns(&page)), "{} turns in an hour", turns(&page));
    let page = ask(format!("clusters/{LONG}/turns?rule=nothing-is-called-so"), 12).await;
    assert!(turns(&page) == 0 && page["before"].is_u64(), "it does not read all of it for nothing");
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

    // More pages than are let in: whoever is too many is told so, and the others stay.
    let opened = async |_: usize| client.get(format!("{url}/api/stream")).send().await.expect("it answers");
    let many = futures::future::join_all((0..PAGES_TOO_MANY).map(opened)).await;
    let refused: Vec<_> = many.iter().filter(|answer| answer.status() == 503).collect();
    assert!(!refused.is_empty() && refused.len() < PAGES_TOO_MANY / 2, "{} were refused", refused.len());
    assert!(refused[0].headers().contains_key("retry-after"));
    drop(many);
    let began = Instant::now();
    while client.get(format!("{url}/api/stream")).send().await.expect("it answers").status() == 503 {
        assert!(began.elapsed() < WITHIN, "who leaves makes place");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // Another site that gave its own name to this address sees nothing.
    let elsewhere = client.get(format!("{url}/api/fleet")).header("host", "evil.example.com");
    assert_eq!(elsewhere.send().await.expect("it answers").status(), 401);
    let again = resume(newest.saturating_sub(5)).await;
    assert!(again.contains("event: summary") || again.contains("event: here"), "{again}");
    assert!(resume(newest + 1_000_000).await.contains("event: anew"), "numbers of another process");

    // Every described route is served, and says no in its own words.
    let described = json(client.get(format!("{url}/api/openapi.json")).send().await.expect("it answers")).await;
    let orders = &described["paths"]["/api/clusters/{cluster}/orders"]["post"];
    assert!(orders["requestBody"]["content"]["application/json"]["schema"]["$ref"].is_string(), "{orders}");
    let demo = &described["paths"]["/api/demo"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert!(demo["$ref"].is_string(), "{demo}");
    let search = described["paths"]["/api/turns"]["get"]["parameters"].as_array().expect("parameters");
    let names: Vec<&str> = search.iter().filter_map(|one| one["name"].as_str()).collect();
    for name in ["cluster", "episode", "since", "until", "state", "actor", "rule", "event", "outcome", "moved"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
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
