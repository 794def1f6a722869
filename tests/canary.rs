//! What a vantage reports of targets that answer, refuse, are silent or say something else: real servers, real DNS, and
//! a bus that keeps what is published.
#![cfg(feature = "lab")]

use async_trait::async_trait;
use aurora_failover::bus::{Bus, BusError, Outgoing};
use aurora_failover::canary::{self, Outside};
use aurora_failover::cloudwatch::CloudWatch;
use aurora_failover::config::{self, AwsSettings, DatabaseSettings, PasswordSource, Settings, Tls};
use aurora_failover::database::Database;
use aurora_failover::dns::Dns;
use aurora_failover::envelope::OBSERVATION_DETAIL_TYPE;
use aurora_failover_lab::dns::{DnsServer, RecordKind, Zones};
use aurora_failover_lab::postgres::{Binaries, Topology, TopologyOptions};
use aurora_failover_lab::reaper::{LabDir, Reaper};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

/// Longest time until every probe has reported.
const WITHIN: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Kept(Mutex<Vec<Outgoing>>);

#[async_trait]
impl Bus for Kept {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), BusError> {
        self.0.lock().expect("no panic while it is held").extend_from_slice(events);
        Ok(())
    }
}

impl Kept {
    /// The newest result of each probe, by its name: `ok`, or the class of its failure.
    fn seen(&self) -> BTreeMap<String, String> {
        let events = self.0.lock().expect("no panic while it is held").clone();
        let observations = events.iter().filter(|event| event.detail_type == OBSERVATION_DETAIL_TYPE).map(|event| {
            let detail: Value = serde_json::from_str(&event.detail).expect("JSON");
            let seen = &detail["observation"];
            let outcome = seen["outcome"]["class"].as_str().unwrap_or("ok").to_owned();
            (seen["name"].as_str().expect("a name").to_owned(), outcome)
        });
        observations.collect()
    }
}

async fn site(address: &str) -> SocketAddr {
    let app = Router::new()
        .route("/health", get(|| async { "all is well" }))
        .route("/down", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "down") }))
        .route("/slow", get(std::future::pending::<&str>));
    let listener = TcpListener::bind(address).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// The example's configuration, probing every 200 ms, with these probes: name, kind, target, and what else there is.
fn settings(nameserver: SocketAddr, probes: &[(&str, &str, String, &str)]) -> Settings {
    let example = include_str!("../aurora-failover.example.toml");
    let mut text = example
        .replace("ca-file = \"/etc/ssl/rds/global-bundle.pem\"", "")
        .replace("tls = \"verify\"", "tls = \"off\"\nport = 1");
    text = text.replace("# profile = \"default\"", "profile = \"fast\"");
    text = text.replace("[dns]", &format!("[dns]\nnameservers = [\"{nameserver}\"]"));
    text = text.replace("self-check = [\"checkip.us-west-2.example.com:443\"]", "lag-every = \"never\"");
    let mut sections = String::new();
    for (name, kind, target, rest) in probes {
        sections +=
            &format!("[[cluster.probe]]\nname = \"{name}\"\nkind = \"{kind}\"\ntarget = \"{target}\"\n{rest}\n");
    }
    let before = "[[cluster.member]]\nregion = \"us-east-2\"";
    assert!(text.contains(before));
    config::parse(&text.replace(before, &format!("{sections}\n{before}")), "test", |_| None).expect("valid")
}

#[tokio::test]
async fn each_kind_of_probe_says_what_it_found_by_ipv4_and_by_ipv6() {
    let (v4, v6) = (site("127.0.0.1:0").await, site("[::1]:0").await);
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = silent.local_addr().expect("it is bound").port();
    let closed = 1;
    let zones = Zones::new();
    zones.add_zone("test.").expect("a zone");
    zones.set("v4.test.", RecordKind::A, 1, &["127.0.0.1"]).expect("a record");
    zones.set("v6.test.", RecordKind::Aaaa, 1, &["::1"]).expect("a record");
    zones.set("both.test.", RecordKind::A, 1, &["127.0.0.1"]).expect("a record");
    zones.set("both.test.", RecordKind::Aaaa, 1, &["::1"]).expect("a record");
    zones.set("db.test.", RecordKind::Cname, 1, &["v4.test."]).expect("a record");
    let server = DnsServer::start(zones).await.expect("a free port");
    let (http4, http6) = (format!("http://v4.test:{}", v4.port()), format!("http://v6.test:{}", v6.port()));
    let cases = [
        ("page", "http", format!("{http4}/health"), "body = \"well\"", "ok"),
        ("page by IPv6", "http", format!("{http6}/health"), "status = 200", "ok"),
        ("page at an address", "http", format!("http://[::1]:{}/health", v6.port()), "", "ok"),
        ("other text", "http", format!("{http4}/health"), "body = \"ill\"", "body"),
        ("down", "http", format!("{http4}/down"), "", "status"),
        ("down as expected", "http", format!("{http4}/down"), "status = 503", "ok"),
        ("missing", "http", format!("{http4}/nothing"), "", "status"),
        ("slow", "http", format!("{http4}/slow"), "", "timeout"),
        ("refused", "http", format!("http://v4.test:{closed}/"), "", "refused"),
        ("no such name", "http", "http://nowhere.test/".into(), "", "dns"),
        ("not TLS", "http", format!("https://v4.test:{}/health", v4.port()), "", "tls"),
        ("port", "tcp", format!("v4.test:{}", v4.port()), "", "ok"),
        ("port by IPv6", "tcp", format!("v6.test:{}", v6.port()), "", "ok"),
        ("port of whichever answers", "tcp", format!("both.test:{}", v6.port()), "", "ok"),
        ("accepts and is silent", "tcp", format!("v4.test:{silent}"), "", "ok"),
        ("closed port", "tcp", format!("v4.test:{closed}"), "", "refused"),
        ("name", "dns", "db.test".into(), "", "ok"),
        ("name leads there", "dns", "db.test".into(), "answer = \"127.0.0.1\"", "ok"),
        ("name is an alias of", "dns", "db.test".into(), "answer = \"v4.test\"", "ok"),
        ("name leads elsewhere", "dns", "db.test".into(), "answer = \"127.0.0.9\"", "answer"),
        ("name is not there", "dns", "nowhere.test".into(), "", "dns"),
        ("database", "read", "v4.test".into(), "", "refused"),
    ];
    let probes: Vec<_> =
        cases.iter().map(|(name, kind, target, rest, _)| (*name, *kind, target.clone(), *rest)).collect();
    let settings = settings(server.addr(), &probes);
    let dns = Dns::new(&settings.nameservers).expect("a resolver");
    let bus = Arc::new(Kept::default());
    let outside = Outside {
        database: Database::new(settings.database.clone(), &settings.aws, dns.clone()).expect("no TLS"),
        dns,
        bus: Arc::clone(&bus) as Arc<dyn Bus>,
        cloudwatch: Arc::new(CloudWatch::new(settings.aws.clone())),
    };
    let stop = CancellationToken::new();
    let (all_seen, stopped) = (
        async {
            while bus.seen().len() < cases.len() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            stop.cancel();
        },
        canary::run("us-west-2".into(), &settings, &outside, stop.clone()),
    );
    let (reported, sent) = tokio::join!(tokio::time::timeout(WITHIN, all_seen), stopped);
    let seen = bus.seen();
    let wrong = cases.iter().filter(|(name, .., expected)| seen.get(*name).map(String::as_str) != Some(*expected));
    let wrong: Vec<_> = wrong.map(|(name, .., expected)| (name, expected, seen.get(*name))).collect();
    assert!(wrong.is_empty(), "probe, expected, seen: {wrong:?}");
    reported.expect("every probe reports");
    assert_eq!(sent.dropped, 0);
    let published = bus.0.lock().expect("no panic").len() as u64;
    assert_eq!(sent.published, published, "stopping loses nothing that was seen");
}

#[tokio::test]
async fn a_heartbeat_without_an_epoch_carries_the_one_that_the_last_proof_brought() {
    let dir = LabDir::create().expect("a directory");
    let exe = Path::new(env!("CARGO_BIN_EXE_aurora-failover"));
    let reaper = Arc::new(Reaper::start(exe, &["lab", "reaper"], &dir).expect("the reaper starts"));
    let options = TopologyOptions {
        dir: dir.path().join("postgres"),
        primary_region: "us-east-2".into(),
        secondary_region: "us-west-2".into(),
        database: "orders".into(),
        vantage_regions: Vec::new(),
    };
    let binaries = Binaries::find().expect("PostgreSQL");
    let topology = Topology::start(&binaries, &reaper, options, |_| ()).await.expect("servers");
    let address = topology.address("a1");
    let zones = Zones::new();
    zones.add_zone("test.").expect("a zone");
    zones.set("writer.test.", RecordKind::A, 1, &[&address.ip().to_string()]).expect("a record");
    let server = DnsServer::start(zones).await.expect("a free port");
    let settings = DatabaseSettings {
        port: address.port(),
        user: "postgres".into(),
        name: "orders".into(),
        tls: Tls::Off,
        password: PasswordSource::Environment(None),
    };
    let aws = AwsSettings { timeout: Duration::from_secs(1), poll_every: Duration::from_secs(1) };
    let database = Database::new(settings, &aws, Dns::new(&[server.addr()]).expect("a resolver")).expect("usable");
    let session = database.connect("writer.test.").await.expect("a session");

    let (client, connection) = tokio_postgres::connect(&topology.direct_dsn("a1"), NoTls).await.expect("a session");
    let _connection = tokio::spawn(connection);
    let epoch = "SELECT epoch FROM aurora_failover_heartbeat WHERE writer = 'canary/a@us-east-2'";
    for (proof, expected) in [(None, 0), (Some(3), 3), (None, 3), (Some(4), 4)] {
        if proof.is_some() {
            session.write("controller", proof).await.expect("a proof");
        }
        session.write("canary/a@us-east-2", None).await.expect("a heartbeat");
        let found: i64 = client.query_one(epoch, &[]).await.expect("a row").get(0);
        assert_eq!(found, expected, "after the proof {proof:?}");
    }
    topology.shutdown().await.expect("the servers stop");
}
