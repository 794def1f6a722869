//! Many global clusters for one controller: the lab's endpoints in this process, an RDS that knows them all, one real
//! PostgreSQL behind every new writer, and probes made here. The controller is a process of its own, as in production.

use crate::aws::{Aws, AwsOptions, Call, PromotedAtOnce, Timing};
use crate::dns::{DnsServer, RecordKind, Zones};
use crate::postgres::{Binaries, Topology, TopologyOptions};
use crate::progress::Progress;
use crate::reaper::{LabDir, Reaper};
use crate::stage::{PRIMARY, SECONDARY};
use anyhow::{Context as _, Result, bail, ensure};
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse as _;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// Who probes.
pub(super) const VANTAGES: [&str; 3] = [SECONDARY, PRIMARY, "witness"];
const BUS: &str = "aurora-failover";
const ACCOUNT: &str = "000000000000";
const ENDPOINTS: &str = "fleet.lab.";
const ZONE: &str = "example.com.";
/// Nobody listens there: the old writers are gone.
const NOBODY: &str = "127.0.9.9";
/// How long RDS takes for a promotion.
const PROMOTION: Duration = Duration::from_millis(50);
/// Longest time for the controller to listen.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Entries that one PutEvents takes.
const ENTRIES_MAX: usize = 10;

/// How the controller is configured.
pub(super) struct FieldOptions {
    pub(super) clusters: u32,
    /// Keys of `[cluster.policy]`.
    pub(super) policy: String,
    /// Seconds that the public names are kept in caches.
    pub(super) ttl: &'static str,
    pub(super) profile: &'static str,
}

/// Everything running.
pub(super) struct Field {
    pub(super) aws: Aws,
    pub(super) rds: Arc<ManyClusters>,
    pub(super) controller: Child,
    pub(super) metrics: std::net::SocketAddr,
    pub(super) started_in: Duration,
    pub(super) zone_id: String,
    topology: Topology,
    _dns: DnsServer,
    _reaper: Arc<Reaper>,
    dir: LabDir,
    exe: PathBuf,
    rds_url: String,
    sequence: AtomicU64,
    published: AtomicU64,
    clusters: u32,
}

/// Name of the n-th cluster.
pub(super) fn name(number: u32) -> String {
    format!("c{number}")
}

fn endpoint(cluster: &str, region: &str) -> String {
    format!("{cluster}.{region}.{ENDPOINTS}")
}

impl Field {
    pub(super) async fn start(options: &FieldOptions, progress: &Progress) -> Result<Self> {
        let binaries = Binaries::find()?;
        let exe = std::env::current_exe().context("the path of this program")?;
        let dir = LabDir::create()?;
        let reaper = Arc::new(Reaper::start(&exe, &["lab", "reaper"], &dir)?);
        let topology_options = TopologyOptions {
            dir: dir.path().join("postgres"),
            primary_region: PRIMARY.into(),
            secondary_region: SECONDARY.into(),
            database: "orders".into(),
            vantage_regions: Vec::new(),
        };
        let topology = Topology::start(&binaries, &reaper, topology_options, |step| progress.step(step)).await?;
        progress.step(&format!("starting DNS and AWS with {} clusters", options.clusters));
        let zones = Zones::new();
        let dns = DnsServer::start(zones.clone()).await?;
        zones.add_zone(ENDPOINTS)?;
        let database = PromotedAtOnce { primary: PRIMARY.into(), lag: Vec::new() };
        let unused = PromotedAtOnce::global_cluster("unused", [PRIMARY, SECONDARY]);
        let mut aws_options = AwsOptions::new(zones.clone(), Arc::new(database), unused);
        aws_options.timing = Timing::default();
        let aws = Aws::start(aws_options).await?;
        let zone_id = aws.create_zone(ZONE)?;
        let writer = topology.address(topology.writer()).ip().to_string();
        for number in 0..options.clusters {
            let cluster = name(number);
            zones.set(&endpoint(&cluster, PRIMARY), RecordKind::A, 1, &[NOBODY])?;
            zones.set(&endpoint(&cluster, SECONDARY), RecordKind::A, 1, &[&writer])?;
            aws.put_record(&zone_id, &public_name(&cluster), RecordKind::Cname, 1, &endpoint(&cluster, PRIMARY))?;
        }
        let (rds, rds_url) = ManyClusters::serve(PROMOTION).await?;
        let text = configuration(options, dns.addr(), topology.port(), &zone_id);
        std::fs::write(dir.path().join("aurora-failover.toml"), text).context("writing the configuration")?;
        let metrics = std::net::TcpListener::bind("127.0.7.1:0")?.local_addr()?;
        let mut field = Self {
            controller: Command::new("true").spawn()?,
            aws,
            rds,
            metrics,
            started_in: Duration::ZERO,
            zone_id,
            topology,
            _dns: dns,
            _reaper: Arc::clone(&reaper),
            dir,
            exe,
            rds_url,
            sequence: AtomicU64::new(0),
            published: AtomicU64::new(0),
            clusters: options.clusters,
        };
        progress.step("creating table, bus and queues; starting the controller");
        let made = field.command(&["init"]).output().await?;
        ensure!(made.status.success(), "init: {}", String::from_utf8_lossy(&made.stderr));
        let log = File::create(field.log())?;
        let began = Instant::now();
        let listen = metrics.to_string();
        let mut command = field.command(&["serve", "--log-json", "--listen", &listen]);
        field.controller = command.stdout(log.try_clone()?).stderr(log).spawn().context("starting the controller")?;
        reaper.register(field.controller.id().context("it has just been started")?)?;
        while !field.aws.calls().iter().any(|call| call.action == "ReceiveMessage")
            && !field.log_text().contains("\"polling\"")
        {
            if let Some(status) = field.controller.try_wait()? {
                bail!("the controller ended ({status}): {}", field.log_text());
            }
            ensure!(began.elapsed() < START_WITHIN, "the controller does not listen: {}", field.log_text());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        field.started_in = began.elapsed();
        Ok(field)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("controller.log")
    }

    /// What the controller said so far: JSON lines.
    pub(super) fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// A command of the product, in this field.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(arguments).envs(self.environment()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// What a program of this field finds AWS by.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let config = self.dir.path().join("aurora-failover.toml");
        vec![
            ("AWS_ENDPOINT_URL", self.aws.url()),
            ("AWS_ENDPOINT_URL_RDS", self.rds_url.clone()),
            ("AWS_ACCESS_KEY_ID", "lab".into()),
            ("AWS_SECRET_ACCESS_KEY", "lab".into()),
            ("AWS_REGION", SECONDARY.into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("AURORA_FAILOVER_CONFIG", config.display().to_string()),
            ("RUST_LOG", "warn,aurora_failover::controller=info,aurora_failover::inbox=info".into()),
        ]
    }

    /// Publishes probes; ten at a time, as a canary does.
    pub(super) fn publish(&self, probes: &[Value]) {
        self.published.fetch_add(probes.len() as u64, Ordering::Relaxed);
        for batch in probes.chunks(ENTRIES_MAX) {
            let entry = |probe: &Value| {
                json!({
                    "Source": "aurora-failover.canary",
                    "DetailType": "Probe Result",
                    "EventBusName": BUS,
                    "Detail": probe.to_string(),
                })
            };
            let entries: Vec<Value> = batch.iter().map(entry).collect();
            self.aws.put_events(SECONDARY, &json!({ "Entries": entries }));
        }
    }

    /// How many probes left.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// One probe of the n-th cluster's member in a region; a replica tells its lag.
    pub(super) fn probe(&self, cluster: u32, vantage: &str, region: &str, class: Option<&str>) -> Value {
        let outcome =
            class.map_or_else(|| json!({ "result": "ok" }), |class| json!({ "result": "failed", "class": class }));
        let mut probe = json!({
            "vantage": vantage,
            "incarnation": "bench",
            "sequence": self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
            "target": region,
            "outcome": outcome,
            "self-check": "ok",
            "latency-ms": 1,
        });
        if class == Some("read-only") {
            probe["lag-ms"] = 20.into();
        }
        json!({ "version": 1, "cluster": name(cluster), "at": now(), "probe": probe })
    }

    /// Every vantage sees every cluster well, with the lag of its replica.
    pub(super) fn all_well(&self) {
        for number in 0..self.clusters {
            let lag = self.probe(number, SECONDARY, SECONDARY, Some("read-only"));
            let well = VANTAGES.map(|vantage| self.probe(number, vantage, PRIMARY, None));
            self.publish(&[vec![lag], well.to_vec()].concat());
        }
    }

    /// How many clusters there are.
    pub(super) fn clusters(&self) -> u64 {
        u64::from(self.clusters)
    }

    /// Calls of an action, oldest first.
    pub(super) fn calls(&self, action: &str) -> Vec<Call> {
        self.aws.calls().into_iter().filter(|call| call.action == action).collect()
    }

    /// Ends everything.
    pub(super) async fn stop(mut self) {
        let _already_gone = self.controller.kill().await;
        let _stopping_anyway = self.aws.shutdown().await;
        self.topology.stop().await;
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn public_name(cluster: &str) -> String {
    format!("db.{cluster}.{ZONE}")
}

fn configuration(options: &FieldOptions, nameserver: std::net::SocketAddr, port: u16, zone_id: &str) -> String {
    let FieldOptions { clusters, policy, ttl, profile } = options;
    let mut text = format!(
        "# Written by the lab.\nregion = \"{SECONDARY}\"\nprofile = \"{profile}\"\n\n[dns]\nnameservers = \
         [\"{nameserver}\"]\n\n[database]\nport = {port}\nuser = \"app\"\nname = \"orders\"\ntls = \"off\"\n"
    );
    for number in 0..*clusters {
        let cluster = name(number);
        text.push_str(&format!(
            "\n[[cluster]]\nid = \"{cluster}\"\nmode = \"auto\"\nvantages = {VANTAGES:?}\n\n[[cluster.route]]\nzone = \
             \"{zone_id}\"\nname = \"{}\"\nttl = \"{ttl}\"\n",
            public_name(&cluster),
        ));
        for region in [PRIMARY, SECONDARY] {
            text.push_str(&format!(
                "\n[[cluster.member]]\nregion = \"{region}\"\narn = \"{}\"\nendpoint = \"{}\"\n",
                arn(&cluster, region),
                endpoint(&cluster, region)
            ));
        }
        text.push_str(&format!("\n[cluster.policy]\n{policy}\n"));
    }
    text
}

fn arn(cluster: &str, region: &str) -> String {
    format!("arn:aws:rds:{region}:{ACCOUNT}:cluster:{cluster}-{region}")
}

/// An RDS of any number of global clusters, each with two members; it promotes after a while whatever it is told to.
pub(super) struct ManyClusters {
    promotion: Duration,
    moved: Mutex<HashMap<String, Move>>,
}

#[derive(Debug, Clone)]
struct Move {
    accepted_at: SystemTime,
    done: Instant,
}

impl ManyClusters {
    async fn serve(promotion: Duration) -> Result<(Arc<Self>, String)> {
        let rds = Arc::new(Self { promotion, moved: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let app = Router::new().fallback(answer).with_state(Arc::clone(&rds));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok((rds, url))
    }

    fn moved(&self) -> MutexGuard<'_, HashMap<String, Move>> {
        self.moved.lock().expect("no panic while it is held")
    }

    /// When a cluster's failover was accepted.
    pub(super) fn accepted_at(&self, cluster: &str) -> Option<SystemTime> {
        self.moved().get(cluster).map(|moved| moved.accepted_at)
    }

    /// How many failovers were accepted.
    pub(super) fn accepted(&self) -> usize {
        self.moved().len()
    }

    /// How long it takes for one.
    pub(super) const fn promotion(&self) -> Duration {
        self.promotion
    }

    fn global_cluster(&self, id: &str) -> String {
        let moved = self.moved().get(id).cloned();
        let (done, running) = (moved.as_ref().is_some_and(|m| m.done <= Instant::now()), moved.is_some());
        let member = |region: &str, writer: bool| {
            format!(
                "<GlobalClusterMember><DBClusterArn>{}</DBClusterArn><Readers/><IsWriter>{writer}</IsWriter>\
                 <SynchronizationStatus>connected</SynchronizationStatus></GlobalClusterMember>",
                arn(id, region)
            )
        };
        let state = match (running, done) {
            (true, false) => format!(
                "<FailoverState><Status>failing-over</Status><FromDbClusterArn>{}</FromDbClusterArn><ToDbClusterArn>{}\
                 </ToDbClusterArn><IsDataLossAllowed>true</IsDataLossAllowed></FailoverState>",
                arn(id, PRIMARY),
                arn(id, SECONDARY)
            ),
            _ => String::new(),
        };
        format!(
            "<GlobalClusterIdentifier>{id}</GlobalClusterIdentifier><Status>available</Status><Engine>aurora-postgresql\
             </Engine><EngineVersion>16.6</EngineVersion><GlobalClusterMembers>{}{}</GlobalClusterMembers>{state}",
            member(PRIMARY, !done),
            member(SECONDARY, done)
        )
    }
}

async fn answer(State(rds): State<Arc<ManyClusters>>, body: String) -> axum::response::Response {
    let asked: HashMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let of = |name: &str| asked.get(name).map(String::as_str).unwrap_or_default();
    let action = of("Action").to_owned();
    let result = match action.as_str() {
        "DescribeGlobalClusters" => {
            let cluster = rds.global_cluster(of("GlobalClusterIdentifier"));
            format!("<GlobalClusters><GlobalClusterMember>{cluster}</GlobalClusterMember></GlobalClusters>")
        }
        "FailoverGlobalCluster" => {
            let id = of("GlobalClusterIdentifier");
            let moved = Move { accepted_at: SystemTime::now(), done: Instant::now() + rds.promotion };
            rds.moved().entry(id.to_owned()).or_insert(moved);
            format!("<GlobalCluster>{}</GlobalCluster>", rds.global_cluster(id))
        }
        "DescribeDBClusters" => {
            let arn = of("DBClusterIdentifier");
            let id = arn.rsplit(':').next().unwrap_or_default();
            format!(
                "<DBClusters><DBCluster><DBClusterIdentifier>{id}</DBClusterIdentifier><DBClusterArn>{arn}</DBClusterArn>\
                 <Status>available</Status><EngineVersion>16.6</EngineVersion><DBClusterMembers><DBClusterMember>\
                 <DBInstanceIdentifier>{id}-1</DBInstanceIdentifier><IsClusterWriter>true</IsClusterWriter>\
                 </DBClusterMember></DBClusterMembers></DBCluster></DBClusters>"
            )
        }
        _ => {
            return (
                axum::http::StatusCode::BAD_REQUEST,
                "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidAction</Code></Error></ErrorResponse>",
            )
                .into_response();
        }
    };
    let namespace = "http://rds.amazonaws.com/doc/2014-10-31/";
    ([("content-type", "text/xml")], format!(
        "<{action}Response xmlns=\"{namespace}\"><{action}Result>{result}</{action}Result><ResponseMetadata><RequestId>1\
         </RequestId></ResponseMetadata></{action}Response>"
    ))
        .into_response()
}
