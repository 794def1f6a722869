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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

/// Longest time until every probe has reported.
const WITHIN: Duration = Duration::from_secs(20);

/// Servers beside short time-outs would be seen as slow: one test at a time.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    MACHINE.lock().await
}

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
    let _machine = alone().await;
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
    let wrong = || {
        let seen = bus.seen();
        let wrong = cases.iter().filter(|(name, .., expected)| seen.get(*name).map(String::as_str) != Some(*expected));
        wrong.map(|(name, .., expected)| (*name, *expected, seen.get(*name).cloned())).collect::<Vec<_>>()
    };
    // On a busy machine a first answer may come too late; the next one has not to.
    let all_seen = async {
        let until = Instant::now() + WITHIN;
        while !wrong().is_empty() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left = wrong();
        stop.cancel();
        left
    };
    let (left, sent) = tokio::join!(all_seen, canary::run("us-west-2".into(), &settings, &outside, stop.clone()));
    assert!(left.is_empty(), "probe, expected, seen: {left:?}");
    assert_eq!(sent.dropped, 0);
    let published = bus.0.lock().expect("no panic").len() as u64;
    assert_eq!(sent.published, published, "stopping loses nothing that was seen");
}

/// Two regions of real servers, and what keeps them from outliving the test.
struct Servers {
    _machine: tokio::sync::MutexGuard<'static, ()>,
    topology: Topology,
    _reaper: Arc<Reaper>,
    _dir: LabDir,
}

async fn servers() -> Servers {
    let machine = alone().await;
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
    Servers { _machine: machine, topology, _reaper: reaper, _dir: dir }
}

impl Servers {
    fn ip(&self, node: &str) -> String {
        self.topology.address(node).ip().to_string()
    }

    fn database_settings(&self) -> DatabaseSettings {
        DatabaseSettings {
            port: self.topology.port(),
            user: "postgres".into(),
            name: "orders".into(),
            tls: Tls::Off,
            password: PasswordSource::Environment(None),
        }
    }

    fn database(&self, nameserver: SocketAddr) -> Database {
        let aws = AwsSettings { timeout: Duration::from_secs(1), poll_every: Duration::from_secs(1) };
        Database::new(self.database_settings(), &aws, Dns::new(&[nameserver]).expect("a resolver")).expect("usable")
    }

    /// A session past all faults.
    async fn direct(&self, node: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.topology.direct_dsn(node), NoTls).await.expect("a session");
        tokio::spawn(connection);
        client
    }
}

#[tokio::test]
async fn a_heartbeat_without_an_epoch_carries_the_one_that_the_last_proof_brought() {
    let servers = servers().await;
    let zones = Zones::new();
    zones.add_zone("test.").expect("a zone");
    zones.set("writer.test.", RecordKind::A, 1, &[&servers.ip("a1")]).expect("a record");
    let server = DnsServer::start(zones).await.expect("a free port");
    let session = servers.database(server.addr()).connect("writer.test.").await.expect("a session");

    let client = servers.direct("a1").await;
    let epoch = "SELECT epoch FROM aurora_failover_heartbeat WHERE writer = 'canary/a@us-east-2'";
    for (proof, expected) in [(None, 0), (Some(3), 3), (None, 3), (Some(4), 4)] {
        if proof.is_some() {
            session.write("controller", proof).await.expect("a proof");
        }
        session.write("canary/a@us-east-2", None).await.expect("a heartbeat");
        let found: i64 = client.query_one(epoch, &[]).await.expect("a row").get(0);
        assert_eq!(found, expected, "after the proof {proof:?}");
    }
    servers.topology.shutdown().await.expect("the servers stop");
}

/// Vantages begin together, and the table is not there yet: `CREATE TABLE IF NOT EXISTS` fails for some of them.
#[tokio::test]
async fn first_writes_at_the_same_moment_all_commit() {
    const WRITERS: usize = 24;
    const ROUNDS: usize = 20;
    let servers = servers().await;
    let zones = Zones::new();
    zones.add_zone("test.").expect("a zone");
    zones.set("writer.test.", RecordKind::A, 1, &[&servers.ip("a1")]).expect("a record");
    let server = DnsServer::start(zones).await.expect("a free port");
    let database = servers.database(server.addr());
    let connecting = (0..WRITERS).map(|_| database.connect("writer.test."));
    let sessions = futures::future::try_join_all(connecting).await.expect("sessions");
    let client = servers.direct("a1").await;
    for round in 0..ROUNDS {
        client.batch_execute("DROP TABLE IF EXISTS aurora_failover_heartbeat").await.expect("it is gone");
        let writers: Vec<String> = (0..WRITERS).map(|number| format!("canary/{number}@us-east-2")).collect();
        let writing = sessions.iter().zip(&writers).map(|(session, writer)| session.write(writer, None));
        let failed: Vec<_> = futures::future::join_all(writing)
            .await
            .into_iter()
            .filter_map(Result::err)
            .map(|e| e.to_string())
            .collect();
        assert!(failed.is_empty(), "round {round}: {failed:?}");
        let rows = client.query_one("SELECT count(*) FROM aurora_failover_heartbeat", &[]).await.expect("rows");
        assert_eq!(rows.get::<_, i64>(0), WRITERS as i64, "round {round}");
    }
    servers.topology.shutdown().await.expect("the servers stop");
}

/// The example's configuration against these servers. The secondary's writer endpoint has no address.
fn against(servers: &Servers, zones: &Zones, nameserver: SocketAddr) -> Settings {
    let mut settings = settings(nameserver, &[]);
    settings.database = servers.database_settings();
    let cluster = &settings.clusters[0];
    let names = cluster.config.members.iter().zip(&cluster.targets);
    for ((member, target), [writer, reader]) in names.zip([[Some("a1"), Some("a2")], [None, Some("b1")]]) {
        for (name, node) in [(&member.endpoint, writer), (&target.reader_endpoint, reader)] {
            let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
            zones.add_zone(&format!("{}.", labels[1..].join("."))).expect("a zone");
            if let Some(node) = node {
                zones.set(name, RecordKind::A, 1, &[&servers.ip(node)]).expect("a record");
            }
        }
    }
    settings
}

fn outside(servers: &Servers, settings: &Settings, nameserver: SocketAddr, bus: Arc<dyn Bus>) -> Outside {
    Outside {
        database: servers.database(nameserver),
        dns: Dns::new(&[nameserver]).expect("a resolver"),
        bus,
        cloudwatch: Arc::new(CloudWatch::new(settings.aws.clone())),
    }
}

/// Waits until a published detail is like that.
async fn published(bus: &Kept, what: &str, like: impl Fn(&Value) -> bool) {
    let came = async {
        loop {
            let events = bus.0.lock().expect("no panic while it is held").clone();
            let details = events.iter().map(|event| serde_json::from_str::<Value>(&event.detail).expect("JSON"));
            if details.into_iter().any(|detail| like(&detail)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WITHIN, came).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn the_lag_of_a_secondary_without_a_writer_endpoint_is_asked_by_its_reader_endpoint_and_a_writers_is_not() {
    let servers = servers().await;
    let zones = Zones::new();
    let server = DnsServer::start(zones.clone()).await.expect("a free port");
    let settings = against(&servers, &zones, server.addr());
    let bus = Arc::new(Kept::default());
    let outside = outside(&servers, &settings, server.addr(), Arc::clone(&bus) as Arc<dyn Bus>);
    let stop = CancellationToken::new();
    let seen = async {
        let of = |detail: &Value, region: &str| detail["probe"]["target"] == region;
        published(&bus, "a commit of the primary", |detail| {
            of(detail, "us-east-2") && detail["probe"]["outcome"]["result"] == "ok"
        })
        .await;
        published(&bus, "the lag of the secondary, which has no writer endpoint", |detail| {
            let probe = &detail["probe"];
            of(detail, "us-west-2") && probe["outcome"]["class"] == "dns" && probe["lag-ms"].is_u64()
        })
        .await;
        // Now the primary is down: nobody waits for its lag.
        servers.topology.lose_region("us-east-2");
        published(&bus, "a failure of the primary", |detail| {
            of(detail, "us-east-2") && detail["probe"]["outcome"]["class"] == "timeout"
        })
        .await;
        stop.cancel();
    };
    tokio::join!(seen, canary::run("us-west-2".into(), &settings, &outside, stop.clone()));
    let events = bus.0.lock().expect("no panic").clone();
    let details = events.iter().map(|event| serde_json::from_str::<Value>(&event.detail).expect("JSON"));
    let asked = details.into_iter().any(|d| d["probe"]["target"] == "us-east-2" && d["probe"]["lag-ms"].is_u64());
    assert!(!asked, "the writer has no lag");
    servers.topology.shutdown().await.expect("the servers stop");
}

/// A bus that is defective at first.
#[derive(Default)]
struct Defective {
    failures: AtomicUsize,
    kept: Kept,
}

#[async_trait]
impl Bus for Defective {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), BusError> {
        assert!(self.failures.fetch_add(1, Ordering::Relaxed) > 0, "a defect");
        self.kept.publish(events).await
    }
}

#[tokio::test]
async fn a_vantage_that_cannot_begin_or_ends_by_itself_begins_anew() {
    let zones = Zones::new();
    zones.add_zone("test.").expect("a zone");
    let server = DnsServer::start(zones).await.expect("a free port");
    let settings = settings(server.addr(), &[]);
    let (bus, tries) = (Arc::new(Defective::default()), AtomicUsize::default());
    let outside = || {
        let tried = tries.fetch_add(1, Ordering::Relaxed);
        let dns = Dns::new(&settings.nameservers).expect("a resolver");
        let outside = Outside {
            database: Database::new(settings.database.clone(), &settings.aws, dns.clone()).expect("no TLS"),
            dns,
            bus: Arc::clone(&bus) as Arc<dyn Bus>,
            cloudwatch: Arc::new(CloudWatch::new(settings.aws.clone())),
        };
        async move { if tried < 2 { Err(anyhow::anyhow!("no certificate authorities")) } else { Ok(outside) } }
    };
    let stop = CancellationToken::new();
    let probed = async {
        published(&bus.kept, "probes of a vantage that began anew", |detail| detail["probe"].is_object()).await;
        stop.cancel();
    };
    tokio::join!(probed, canary::keep("us-west-2".into(), settings.clone(), outside, stop.clone()));
    assert_eq!(tries.load(Ordering::Relaxed), 3, "it is tried again until it can begin");
    assert!(bus.failures.load(Ordering::Relaxed) > 1, "results are sent again after a defect");
}
