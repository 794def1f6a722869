//! Everything that a drill needs, running: two regions of PostgreSQL, DNS, the AWS endpoints, three vantages, the
//! controller, and the application that writes.
//!
//! The service runs as in production: separate processes of the same binary, one configuration file, the standard
//! AWS environment. Whatever is started here is registered with the reaper first, so that nothing survives.

use crate::aws::{Aws, AwsOptions, FailoverRecords, GlobalCluster, Member, Timing};
use crate::client::{self, Account, Acknowledged, Client, ClientOptions};
use crate::dns::{DnsServer, RecordKind, Zones};
use crate::link::{self, Link};
use crate::postgres::{Binaries, Front, Topology, TopologyOptions, seen_by};
use crate::progress::Progress;
use crate::reaper::{LabDir, Reaper};
use anyhow::{Context as _, Result, bail, ensure};
use axum::body::{Body, to_bytes};
use clap::ValueEnum;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// The region that is lost. Not us-east-1: Route 53's control plane is there, and its loss is another drill.
pub const PRIMARY: &str = "us-east-2";
/// The region that takes over; the controller lives here.
pub const SECONDARY: &str = "us-west-2";
/// The application's name.
pub const PUBLIC_NAME: &str = "db.orders.example.com.";
/// The watched global cluster.
pub const CLUSTER: &str = "orders";

const ZONE: &str = "example.com.";
/// Configuration of the controllers and of every command.
const CONFIG_FILE: &str = "aurora-failover.toml";
/// Stands for `rds.amazonaws.com`.
const ENDPOINT_ZONE: &str = "rds.lab.";
/// Region of the third vantage, and of what must survive both others.
const WITNESS: &str = "eu-west-1";
/// Bucket and key of the object that moves the public name, if that does.
const SIGNPOST: [&str; 2] = ["orders-signpost", "orders.json"];
/// The access key of whoever may do everything: the one at the keyboard.
const ADMINISTRATOR: &str = "lab";
/// The roles of the service's processes; each has its name as access key, and may do what `iam-policy` prints.
const ROLES: [&str; 7] = ["deployer", "controller", "canary", "operator", "break-glass", "auditor", "dashboard"];
const ENGINE_VERSION: &str = "16.6";
const ACCOUNT: &str = "000000000000";
/// Vantages, and the region of each.
const VANTAGES: [(&str, &str); 3] = [(SECONDARY, SECONDARY), (PRIMARY, PRIMARY), ("witness-eu-west-1", WITNESS)];
/// Longest time until everything is up and healthy.
const STEADY_WITHIN: Duration = Duration::from_secs(120);
/// Pause between two looks at the record.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Pause between two statements of a client of the application, in milliseconds.
const CLIENT_PACE_MS: u64 = 10;
/// Numbers of writes that each client of a fleet has for itself.
const FLEET_NUMBERS: i64 = 1_000_000_000;
/// A page of metrics is shorter.
const METRICS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Writes that the application must have made before anything is broken.
const WRITES_MIN: usize = 20;

/// The gauge of the controller that holds the lease.
const LISTENING: &str = "aurora_failover_listening";
/// The variable with the token of whoever gives orders on a dashboard.
const DASHBOARD_TOKEN: &str = "AURORA_FAILOVER_DASHBOARD_TOKEN";

/// Timing of the whole lab.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Probes every 200 ms, three failures, TTL 1 s.
    #[default]
    Fast,
    /// The product's default policy: probes every 10 s, confirmed after 30 s, TTL 5 s.
    Default,
}

impl Profile {
    /// Its name in the configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Default => "default",
        }
    }

    const fn ttl_s(self) -> u32 {
        match self {
            Self::Fast => 1,
            Self::Default => 5,
        }
    }

    /// The application's own patience.
    const fn client_timeouts(self) -> (Duration, Duration) {
        match self {
            Self::Fast => (Duration::from_millis(250), Duration::from_millis(500)),
            Self::Default => (Duration::from_secs(1), Duration::from_secs(2)),
        }
    }

    /// Time in which everything periodic (probes, caches) has had its turn.
    #[must_use]
    pub const fn round(self) -> Duration {
        match self {
            Self::Fast => Duration::from_secs(1),
            Self::Default => Duration::from_secs(10),
        }
    }
}

/// How clients of the primary region connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// To the public name.
    Name,
    /// To the cluster's writer endpoint.
    Cluster,
    /// To the proxy.
    Proxy,
}

impl Endpoint {
    fn name(self) -> String {
        match self {
            Self::Name => PUBLIC_NAME.into(),
            Self::Cluster => endpoint(PRIMARY),
            Self::Proxy => proxy_endpoint(PRIMARY),
        }
    }
}

/// What the application does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Traffic {
    /// How many clients; none for silence.
    pub clients: usize,
    /// Pause between two statements of a client, in milliseconds.
    pub pace_ms: u64,
    /// Of a hundred statements so many only read.
    pub reads_percent: u8,
    /// Where they connect to.
    pub through: Endpoint,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { clients: 1, pace_ms: CLIENT_PACE_MS, reads_percent: 0, through: Endpoint::Name }
    }
}

impl Traffic {
    /// The traffic that a line asks for; what it does not say stays.
    ///
    /// # Errors
    /// When it asks for something else.
    pub fn after(self, line: &str) -> Result<Self> {
        const SHAPE: &str =
            "write `traffic stop`, or `traffic CLIENTS [PACE] [name|cluster|proxy]`, such as `traffic 8 20ms proxy`";
        let mut wanted = self;
        for (index, word) in line.split_whitespace().enumerate() {
            if word == "stop" {
                wanted.clients = 0;
            } else if let (0, Ok(clients)) = (index, word.parse::<u8>()) {
                wanted.clients = clients.into();
            } else if let Ok(through) = Endpoint::from_str(word, true) {
                wanted.through = through;
            } else if let Ok(pace) = humantime::parse_duration(word) {
                ensure!(pace >= Duration::from_millis(1), "{word:?} is no pace: a millisecond at least");
                wanted.pace_ms = pace.as_millis() as u64;
            } else {
                bail!("{word:?} is no traffic; {SHAPE}");
            }
        }
        Ok(wanted)
    }
}

/// How to start a lab.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// Keys of `[cluster.policy]` that differ from the profile's, with their values as in TOML.
    pub policy: Vec<(String, String)>,
    /// Keys of `[canary]` that differ from the profile's, with their values as in TOML.
    pub canary: Vec<(String, String)>,
    /// How long what Aurora does takes.
    pub timing: Timing,
    /// Timing.
    pub profile: Profile,
    /// How many controllers run.
    pub controllers: usize,
    /// What moves the public name.
    pub route: RouteBy,
    /// What the controller may do by itself.
    pub mode: Mode,
    /// How many clients the application has; several share a pool of half as many connections.
    pub clients: usize,
    /// Of a hundred statements so many only read.
    pub reads_percent: u8,
    /// Where the dashboards find the control of the demonstration; without it there are no dashboards.
    pub demo_url: Option<String>,
    /// Region of controllers, table and queue.
    pub controller_region: String,
    /// The vantage of the standby region runs inside the first controller.
    pub vantage_in_controller: bool,
    /// The name of a secondary's writer endpoint leads nowhere, until it is the primary.
    pub unresolved_secondaries: bool,
}

impl Default for StageOptions {
    fn default() -> Self {
        Self {
            policy: Vec::new(),
            canary: Vec::new(),
            timing: Timing::default(),
            profile: Profile::Fast,
            controllers: 1,
            route: RouteBy::Record,
            mode: Mode::Auto,
            clients: 1,
            reads_percent: 0,
            demo_url: None,
            controller_region: SECONDARY.into(),
            vantage_in_controller: false,
            unresolved_secondaries: false,
        }
    }
}

/// What moves the public name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteBy {
    /// The record, through Route 53's control plane.
    Record,
    /// An object that a health check reads: data plane only.
    HealthCheck,
}

/// What the controller may do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything.
    Auto,
    /// A human approves promotions.
    Approve,
    /// Nothing.
    Observe,
}

/// A running lab.
pub struct Stage {
    /// The AWS endpoints.
    pub aws: Aws,
    /// The databases.
    pub topology: Arc<Topology>,
    application: Vec<Client>,
    /// How its clients are started.
    client: ClientOptions,
    /// Where they connect to.
    traffic: Traffic,
    /// What clients saw that were stopped.
    stopped: Account,
    dashboards: Vec<SocketAddr>,
    dashboard_token: String,
    demo_url: Option<String>,
    dns: DnsServer,
    zones: Zones,
    vantages: Vec<Vantage>,
    controllers: Vec<Option<Child>>,
    /// The vantage that runs inside the first controller, if one does.
    vantage_in_controller: Option<&'static str>,
    controller_started_at: Option<SystemTime>,
    /// Where each controller answers `/metrics`.
    metrics: Vec<SocketAddr>,
    reaper: Arc<Reaper>,
    dir: LabDir,
    exe: PathBuf,
}

/// One place to probe from: everything that it sees goes through links and a name server of its own.
struct Vantage {
    name: &'static str,
    region: &'static str,
    dns: DnsServer,
    aws: Link,
    neutral: Link,
    canary: Option<Child>,
}

impl Vantage {
    async fn start(number: usize, zones: &Zones, aws: SocketAddr, neutral: SocketAddr) -> Result<Self> {
        let (name, region) = VANTAGES[number - 1];
        let view = move |address: Ipv4Addr| seen_by(number, address);
        Ok(Self {
            name,
            region,
            dns: DnsServer::start_view(zones.clone(), Arc::new(view)).await?,
            aws: open_link(&format!("{name} to AWS"), aws)?,
            neutral: open_link(&format!("{name} to a neutral place"), neutral)?,
            canary: None,
        })
    }

    fn config_file(&self) -> String {
        format!("canary-{}.toml", self.name)
    }

    /// Its region's network, or its own, is gone or back: AWS, names, neutral places.
    fn set_isolated(&self, isolated: bool) {
        self.dns.set_silent(isolated);
        for link in [&self.aws, &self.neutral] {
            if isolated { link.cut() } else { link.heal() }
        }
    }
}

impl Stage {
    /// Starts everything; see [`Stage::steady`] for when it is ready.
    ///
    /// # Errors
    /// What did not start, and where its log is.
    pub async fn start(options: &StageOptions, progress: &Progress) -> Result<Self> {
        let StageOptions { profile, controllers, route, .. } = *options;
        let binaries = Binaries::find()?;
        let exe = std::env::current_exe().context("the path of this program")?;
        let dir = LabDir::create()?;
        let reaper = Arc::new(Reaper::start(&exe, &["lab", "reaper"], &dir)?);

        progress.step(&format!("starting PostgreSQL {} in two regions", binaries.version));
        let topology_options = TopologyOptions {
            dir: dir.path().join("postgres"),
            primary_region: PRIMARY.into(),
            secondary_region: SECONDARY.into(),
            database: CLUSTER.into(),
            vantage_regions: VANTAGES.map(|(_, region)| region.into()).to_vec(),
        };
        let topology = Topology::start(&binaries, &reaper, topology_options, |step| progress.step(step)).await?;
        let topology = Arc::new(topology);

        progress.step("starting DNS and the AWS endpoints");
        let zones = Zones::new();
        let dns = DnsServer::start(zones.clone()).await?;
        zones.add_zone(ENDPOINT_ZONE)?;
        for region in [PRIMARY, SECONDARY] {
            let address = topology.front_address(Front::Proxy, region).ip().to_string();
            zones.set(&proxy_endpoint(region), RecordKind::A, 1, &[&address])?;
        }
        let member = |region: &str| Member {
            region: region.into(),
            cluster_id: cluster_id(region),
            endpoint: endpoint(region),
            reader_endpoint: reader_endpoint(region),
            port: topology.port(),
        };
        let global_cluster = GlobalCluster {
            id: CLUSTER.into(),
            engine_version: ENGINE_VERSION.into(),
            endpoint: format!("{CLUSTER}.global.{ENDPOINT_ZONE}"),
            members: vec![member(PRIMARY), member(SECONDARY)],
        };
        let databases = Arc::clone(&topology) as Arc<dyn crate::aws::Databases>;
        let mut aws_options = AwsOptions::new(zones.clone(), databases, global_cluster);
        aws_options.account = ACCOUNT.into();
        aws_options.timing = options.timing;
        aws_options.unresolved_secondaries = options.unresolved_secondaries;
        let aws = Aws::start(aws_options).await?;
        let zone_id = aws.create_zone(ZONE)?;
        match route {
            RouteBy::Record => {
                aws.put_record(&zone_id, PUBLIC_NAME, RecordKind::Cname, profile.ttl_s(), &endpoint(PRIMARY))?;
            }
            RouteBy::HealthCheck => serve_signpost(&aws, profile)?,
        }
        for region in [PRIMARY, SECONDARY] {
            let address = topology.front_address(Front::Website, region).ip().to_string();
            aws.put_record(&zone_id, &website(region), RecordKind::A, profile.ttl_s(), &address)?;
        }
        let aws_addr = aws.url().trim_start_matches("http://").parse()?;
        let mut vantages = Vec::new();
        for number in 1..=VANTAGES.len() {
            vantages.push(Vantage::start(number, &zones, aws_addr, dns.addr()).await?);
        }
        let write = |name: &str, nameserver, neutral| {
            let config = configuration(options, &topology, nameserver, neutral, &zone_id);
            std::fs::write(dir.path().join(name), config).context("writing a configuration")
        };
        write(CONFIG_FILE, dns.addr(), dns.addr())?;
        for vantage in &vantages {
            write(&vantage.config_file(), vantage.dns.addr(), vantage.neutral.addr())?;
        }
        create_application_table(&topology).await?;
        let (connect_timeout, write_timeout) = profile.client_timeouts();
        let client = ClientOptions {
            name: PUBLIC_NAME.into(),
            port: topology.port(),
            nameserver: dns.addr(),
            database: CLUSTER.into(),
            first: 1,
            pace: Duration::from_millis(CLIENT_PACE_MS),
            reads_percent: options.reads_percent,
            connect_timeout,
            write_timeout,
        };
        let connections = options.clients.div_ceil(2);
        let application = Client::start_fleet(&client, options.clients, connections, FLEET_NUMBERS)?;

        let mut stage = Self {
            aws,
            topology,
            application,
            client,
            traffic: Traffic {
                clients: options.clients,
                pace_ms: CLIENT_PACE_MS,
                reads_percent: options.reads_percent,
                through: Endpoint::Name,
            },
            stopped: Account::default(),
            dashboards: (0..controllers).map(|_| free_address()).collect::<Result<_>>()?,
            dashboard_token: uuid::Uuid::new_v4().simple().to_string(),
            demo_url: options.demo_url.clone(),
            dns,
            zones,
            vantages,
            controllers: Vec::new(),
            vantage_in_controller: options.vantage_in_controller.then_some(SECONDARY),
            controller_started_at: None,
            metrics: (0..controllers).map(|_| free_address()).collect::<Result<_>>()?,
            reaper,
            dir,
            exe,
        };
        progress.step("creating roles (aurora-failover iam-policy)");
        let print = async |role| stage.finished("iam-policy", ADMINISTRATOR, &["iam-policy", role]).await;
        let policies = futures::future::try_join_all(ROLES.map(print)).await?;
        for (role, policy) in ROLES.iter().zip(policies) {
            // The dashboard is shown by the controller.
            let holder = if *role == "dashboard" { "controller" } else { role };
            stage.aws.put_role_policy(holder, role, &policy)?;
            if *role == "canary" && options.vantage_in_controller {
                stage.aws.put_role_policy("controller", role, &policy)?;
            }
        }
        progress.step("creating table, bus, rule and queues (aurora-failover init)");
        stage.finished("init", "deployer", &["init"]).await?;
        progress.step(if controllers == 1 {
            "starting the controller and three vantages"
        } else {
            "starting the controllers and three vantages"
        });
        stage.controllers.resize_with(controllers, || None);
        for index in 0..controllers {
            stage.start_controller(index)?;
            if index == 0 && controllers > 1 {
                // So that a scenario knows which one listens.
                stage.listens(0).await?;
            }
        }
        for (index, (name, _)) in VANTAGES.iter().enumerate() {
            if stage.vantage_in_controller != Some(name) {
                stage.start_canary(index)?;
            }
        }
        Ok(stage)
    }

    /// Starts more clients, all in the primary region.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_clients(&self, through: Endpoint, count: usize) -> Result<Vec<Client>> {
        let name = through.name();
        let client = |number: usize| {
            Client::start(ClientOptions {
                name: name.clone(),
                port: self.topology.port(),
                nameserver: self.dns.addr(),
                database: CLUSTER.into(),
                first: FLEET_NUMBERS * i64::try_from(number).expect("a few clients"),
                pace: Duration::from_millis(20),
                reads_percent: 0,
                connect_timeout: Duration::from_secs(2),
                write_timeout: Duration::from_secs(10),
            })
        };
        (1..=count).map(client).collect()
    }

    /// What the whole application saw so far.
    #[must_use]
    pub fn account(&self) -> Account {
        Account::merged(self.application.iter().map(Client::account).chain([self.stopped.clone()]))
    }

    /// What the whole application saw since a time.
    #[must_use]
    pub fn account_since(&self, since: SystemTime) -> Account {
        let mut account = Account::merged(self.application.iter().map(|client| client.account_since(since)));
        let before = self.stopped.acknowledged.iter().filter(|ack| ack.at >= since).copied();
        account.acknowledged.splice(0..0, before);
        account
    }

    /// Acknowledged writes and failed attempts of the whole application so far.
    #[must_use]
    pub fn counted(&self) -> (usize, usize) {
        let counted = self.application.iter().map(Client::counted);
        let stopped = (self.stopped.acknowledged.len(), self.stopped.failed.len());
        counted.fold(stopped, |(acknowledged, failed), (a, f)| (acknowledged + a, failed + f))
    }

    /// The traffic that the application makes.
    #[must_use]
    pub const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Makes other traffic from now on; none with no clients. What was seen before is kept.
    ///
    /// # Errors
    /// When a client cannot be started.
    pub fn set_traffic(&mut self, traffic: Traffic) -> Result<()> {
        let stopped = std::mem::take(&mut self.application).into_iter().map(Client::stop);
        self.stopped = Account::merged(stopped.chain([std::mem::take(&mut self.stopped)]));
        // Numbers are used once.
        self.client.first += FLEET_NUMBERS * 100;
        self.client.pace = Duration::from_millis(traffic.pace_ms);
        self.client.reads_percent = traffic.reads_percent;
        self.client.name = traffic.through.name();
        let connections = traffic.clients.div_ceil(2);
        self.application = Client::start_fleet(&self.client, traffic.clients, connections, FLEET_NUMBERS)?;
        self.traffic = traffic;
        Ok(())
    }

    /// The longest time that any client of the application waited between two acknowledged writes, the second one after
    /// `since`.
    #[must_use]
    pub fn longest_gap_ms(&self, since: SystemTime) -> u64 {
        self.application.iter().map(|client| client.account().longest_gap_ms(since)).max().unwrap_or_default()
    }

    /// The newest acknowledgement of the application's first client, and its changes; of an application that is
    /// silent none.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<Option<Acknowledged>> {
        self.application.first().map_or_else(|| watch::channel(None).1, Client::latest)
    }

    /// The region whose cluster the public name leads to.
    #[must_use]
    pub fn public_region(&self) -> Option<&'static str> {
        let name = self.zones.get(PUBLIC_NAME, RecordKind::Cname)?;
        let leads_to = |region: &&&str| name.values().iter().any(|value| same_name(value, &endpoint(region)));
        [PRIMARY, SECONDARY].iter().find(leads_to).copied()
    }

    /// Every name server answers so much later from now on.
    pub fn slow_dns(&self, delay: Duration) {
        self.vantages.iter().map(|vantage| &vantage.dns).chain([&self.dns]).for_each(|dns| dns.set_delay(delay));
    }

    /// Waits until the record says healthy, every vantage is heard of, and the application writes.
    ///
    /// # Errors
    /// When that takes longer than two minutes, or a process ended.
    pub async fn steady(&mut self, progress: &Progress) -> Result<()> {
        let began = Instant::now();
        loop {
            self.all_alive()?;
            let record = self.record().await?;
            let missing = self.missing(record.as_ref());
            let Some(missing) = missing else { return Ok(()) };
            progress.step(&format!("waiting for steady state: {missing}"));
            if began.elapsed() > STEADY_WITHIN {
                bail!(
                    "no steady state within {STEADY_WITHIN:?}: {missing}; logs are in {}",
                    self.keep_logs().display()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What is missing for steady state.
    fn missing(&self, record: Option<&Value>) -> Option<String> {
        let Some(record) = record else { return Some("the controller has not stored a record yet".into()) };
        if record["state"]["name"] != "healthy" || record["proven"] != true || record["blind"] != false {
            return Some(format!("the record says {}", record["state"]["name"]));
        }
        let heard = record["evidence"]["tracks"].as_object().map_or(0, serde_json::Map::len);
        if heard < VANTAGES.len() {
            return Some(format!("{heard} of {} vantages heard of", VANTAGES.len()));
        }
        if record["evidence"]["lag"].get(SECONDARY).is_none() {
            return Some("the replication lag is not known yet".into());
        }
        let writes = self.account().acknowledged.len();
        (writes < WRITES_MIN).then(|| format!("the application has written {writes} rows"))
    }

    /// The stored record, by `aurora-failover status`.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn record(&self) -> Result<Option<Value>> {
        let mut shown = self.status().await?;
        Ok(shown.get_mut(0).map(|item| item["record"].take()))
    }

    async fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.finished("status", "auditor", &["status", "--output", "json"]).await?)?)
    }

    /// From the start of the first controller to its first request for messages, once that has ended.
    pub async fn first_poll(&self) -> Option<Duration> {
        let until = Instant::now() + STEADY_WITHIN;
        while Instant::now() < until {
            let started = self.controller_started_at?;
            let polled =
                self.aws.calls().into_iter().find(|call| call.action == "ReceiveMessage" && call.at >= started);
            if let Some(call) = polled {
                return call.at.duration_since(started).ok();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        None
    }

    /// The version of the stored record, by `aurora-failover status`.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn version(&self) -> Result<u64> {
        let shown = self.status().await?;
        shown[0]["version"].as_u64().context("the status of the one cluster")
    }

    /// The service's processes: name, process id, and where it answers `/metrics`, if it does.
    pub fn processes(&self) -> impl Iterator<Item = (String, u32, Option<SocketAddr>)> {
        let controllers = self.controllers.iter().zip(&self.metrics).enumerate();
        let controllers = controllers.filter_map(|(index, (child, metrics))| {
            Some((controller_name(index), child.as_ref()?.id()?, Some(*metrics)))
        });
        let canary =
            |vantage: &Vantage| Some((format!("canary-{}", vantage.name), vantage.canary.as_ref()?.id()?, None));
        controllers.chain(self.vantages.iter().filter_map(canary))
    }

    /// One value at `/metrics`.
    ///
    /// # Errors
    /// When there is no such value.
    pub async fn gauge(&self, address: SocketAddr, name: &str) -> Result<u64> {
        let client: HttpClient<HttpConnector, Body> = HttpClient::builder(TokioExecutor::new()).build_http();
        let answer = client.get(format!("http://{address}/metrics").parse()?).await.context("asking for /metrics")?;
        let body = to_bytes(Body::new(answer.into_body()), METRICS_BYTES_MAX).await?;
        let text = String::from_utf8(body.to_vec())?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        Ok(value.with_context(|| format!("{name} is not among the metrics"))? as u64)
    }

    /// The stored history, oldest first, by `aurora-failover history`.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn history(&self) -> Result<Vec<Value>> {
        let shown = self.finished("history", "auditor", &["history", "--output", "json", "--limit", "100000"]).await?;
        let mut rows: Vec<Value> = serde_json::from_str(&shown)?;
        rows.reverse();
        Ok(rows)
    }

    /// The history as a person sees it.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn history_table(&self) -> Result<String> {
        self.finished("history", "auditor", &["history", "--limit", "200"]).await
    }

    /// A region vanishes: databases, vantages, their paths to AWS, and AWS's endpoints in it.
    pub fn lose_region(&self, region: &str) {
        self.topology.lose_region(region);
        self.vantages.iter().filter(|vantage| vantage.region == region).for_each(|vantage| vantage.set_isolated(true));
        self.aws.lose_region(region);
    }

    /// It is back, for all of them.
    pub fn heal_region(&self, region: &str) {
        self.aws.heal_region(region);
        self.vantages.iter().filter(|vantage| vantage.region == region).for_each(|vantage| vantage.set_isolated(false));
        self.topology.heal_region(region);
    }

    /// A vantage reaches nothing at all, or everything again.
    ///
    /// # Errors
    /// When there is no such vantage.
    pub fn isolate(&self, vantage: &str, isolated: bool) -> Result<()> {
        let number = number_of(vantage)?;
        for region in [PRIMARY, SECONDARY] {
            self.see(number, region, !isolated);
        }
        self.vantages[number - 1].set_isolated(isolated);
        Ok(())
    }

    /// A vantage reaches no server of a region, or does again; everybody else does.
    ///
    /// # Errors
    /// When there is no such vantage.
    pub fn blindfold(&self, vantage: &str, region: &str, blind: bool) -> Result<()> {
        self.see(number_of(vantage)?, region, !blind);
        Ok(())
    }

    fn see(&self, vantage: usize, region: &str, sees: bool) {
        if sees { self.topology.heal_view(vantage, region) } else { self.topology.lose_view(vantage, region) }
    }

    /// Address that clients of the writer see.
    #[must_use]
    pub fn writer(&self) -> IpAddr {
        self.topology.address(self.topology.writer()).ip()
    }

    /// Starts one of the controllers.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_controller(&mut self, index: usize) -> Result<()> {
        let started_at = SystemTime::now();
        let listen = self.metrics[index].to_string();
        let dashboard = self.dashboards[index].to_string();
        let mut arguments = vec!["serve", "--listen", &listen];
        if let Some(vantage) = self.vantage_in_controller.filter(|_| index == 0) {
            arguments.extend(["--vantage", vantage]);
        }
        if let Some(demo_url) = &self.demo_url {
            arguments.extend(["--dashboard", &dashboard, "--demo-url", demo_url]);
        }
        let controller = self.spawn(&controller_name(index), "controller", &arguments, &self.aws.url())?;
        self.controllers[index] = Some(controller);
        self.controller_started_at.get_or_insert(started_at);
        Ok(())
    }

    fn start_canary(&mut self, index: usize) -> Result<()> {
        let vantage = &self.vantages[index];
        let (name, url) = (vantage.name, format!("http://{}", vantage.aws.addr()));
        let config = self.dir.path().join(vantage.config_file());
        let config = config.to_str().context("the path is text")?;
        let arguments = ["canary", "--config", config, "--vantage", name];
        let canary = self.spawn(&format!("canary-{name}"), "canary", &arguments, &url)?;
        self.vantages[index].canary = Some(canary);
        Ok(())
    }

    /// Kills one of the controllers with SIGKILL.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill_controller(&mut self, index: usize) -> Result<()> {
        let mut controller = self.controllers[index].take().context("the controller is not running")?;
        controller.kill().await.context("killing the controller")
    }

    /// Stops one of the controllers in the middle of what it does (SIGSTOP), or lets it go on.
    ///
    /// # Errors
    /// When it is not running.
    pub fn hang_controller(&self, index: usize, hangs: bool) -> Result<()> {
        let controller = self.controllers.get(index).and_then(Option::as_ref);
        let pid = controller.and_then(Child::id).context("the controller is not running")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("the controller is not running")?;
        let signal = if hangs { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        rustix::process::kill_process(pid, signal).context("sending the controller a signal")
    }

    /// Waits until a controller holds the lease.
    async fn listens(&mut self, index: usize) -> Result<()> {
        let until = Instant::now() + STEADY_WITHIN;
        while !matches!(self.gauge(self.metrics[index], LISTENING).await, Ok(1)) {
            self.all_alive()?;
            if Instant::now() > until {
                bail!("controller {} does not listen; logs are in {}", index + 1, self.keep_logs().display());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Has any of the service's processes ended by itself?
    ///
    /// # Errors
    /// Which one.
    pub fn all_alive(&mut self) -> Result<()> {
        let canaries = self.vantages.iter_mut().filter_map(|vantage| vantage.canary.as_mut());
        for child in self.controllers.iter_mut().flatten().chain(canaries) {
            if let Some(status) = child.try_wait()? {
                bail!("a process of the service ended ({status}); logs are in {}", self.keep_logs().display());
            }
        }
        Ok(())
    }

    /// Rows of the application on a node, read past all faults.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn rows_on(&self, node: &str) -> Result<std::collections::BTreeSet<i64>> {
        let (session, connection) =
            tokio_postgres::connect(&self.topology.direct_dsn(node), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let rows = session.query(&format!("SELECT number FROM {}", client::TABLE), &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Where the dashboards are, with the token that lets them give orders; each controller has one.
    pub fn dashboard_urls(&self) -> impl Iterator<Item = String> {
        let shown = self.demo_url.iter().flat_map(|_| &self.dashboards);
        shown.map(|address| format!("http://{address}/#token={}", self.dashboard_token))
    }

    /// How to look around from another terminal.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut environment: Vec<String> = self
            .environment(&self.aws.url(), ADMINISTRATOR)
            .into_iter()
            // Of no use without a dashboard.
            .filter(|(key, _)| *key != DASHBOARD_TOKEN || self.demo_url.is_some())
            .map(|(key, value)| format!("export {key}={value}"))
            .collect();
        if let Some(dir) = self.exe.parent() {
            environment.push(format!("export PATH={}:$PATH", dir.display()));
        }
        let dashboards = self.dashboard_urls().map(|url| format!("dashboard     {url}\n")).collect::<String>();
        format!(
            "{dashboards}public name   {PUBLIC_NAME} (dig -p {} @127.0.0.1 {PUBLIC_NAME})\n\
             websites      http://{}/ ({PRIMARY}) and http://{}/ ({SECONDARY})\n\
             PostgreSQL    port {} on {} ({PRIMARY}) and {} ({SECONDARY}), user app, database {CLUSTER}\n\
             packet loss   {}\n\
             logs          {}\n\n\
             In another terminal:\n{}\naurora-failover status\naurora-failover history",
            self.dns.addr().port(),
            self.topology.front_address(Front::Website, PRIMARY),
            self.topology.front_address(Front::Website, SECONDARY),
            self.topology.port(),
            self.topology.address("a1").ip(),
            self.topology.address("b1").ip(),
            link::drop_method(),
            self.dir.path().display(),
            environment.join("\n"),
        )
    }

    /// Copies the logs out of the lab's directory, which is removed with the lab.
    pub fn keep_logs(&self) -> PathBuf {
        let kept = std::env::temp_dir().join(format!("{}-logs", self.dir.name()));
        let _best_effort = std::fs::create_dir_all(&kept);
        for entry in std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "log" || e == "toml") {
                let _best_effort = std::fs::copy(&path, kept.join(entry.file_name()));
            }
        }
        kept
    }

    /// Ends everything.
    pub async fn stop(mut self) {
        let canaries = self.vantages.iter_mut().filter_map(|vantage| vantage.canary.take());
        let mut children: Vec<Child> = self.controllers.iter_mut().filter_map(Option::take).chain(canaries).collect();
        for child in &mut children {
            let _already_gone = child.start_kill();
        }
        for child in &mut children {
            let _already_gone = child.wait().await;
        }
        self.application.clear();
        let _stopping_anyway = self.aws.shutdown().await;
        let _stopping_anyway = self.dns.shutdown().await;
        self.topology.stop().await;
        drop(self.reaper);
    }

    fn environment(&self, aws_url: &str, key: &str) -> Vec<(&'static str, String)> {
        let config = self.dir.path().join(CONFIG_FILE);
        vec![
            ("AWS_ENDPOINT_URL", aws_url.into()),
            ("AWS_ACCESS_KEY_ID", key.into()),
            ("AWS_SECRET_ACCESS_KEY", "lab".into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            (DASHBOARD_TOKEN, self.dashboard_token.clone()),
            ("AURORA_FAILOVER_CONFIG", config.display().to_string()),
        ]
    }

    fn command(&self, key: &str, arguments: &[&str], aws_url: &str) -> Command {
        let mut command = Command::new(&self.exe);
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("AWS_")) {
            command.env_remove(key);
        }
        command.args(arguments).envs(self.environment(aws_url, key)).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn spawn(&self, name: &str, role: &str, arguments: &[&str], aws_url: &str) -> Result<Child> {
        let path = self.dir.path().join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path).context("opening a log")?;
        let child = self
            .command(role, arguments, aws_url)
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.reaper.register(child.id().context("it has just been started")?)?;
        Ok(child)
    }

    /// Runs a command of the product to its end and gives its standard output.
    async fn finished(&self, name: &str, key: &str, arguments: &[&str]) -> Result<String> {
        let output =
            self.command(key, arguments, &self.aws.url()).output().await.with_context(|| format!("running {name}"))?;
        let status: ExitStatus = output.status;
        ensure!(status.success(), "{name} failed ({status}): {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a command of the product: its exit code, and all that it said.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn product(&self, arguments: &[String]) -> Result<(i32, String)> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let role = if arguments.contains(&"--direct") { "break-glass" } else { "operator" };
        let output = self.command(role, &arguments, &self.aws.url()).output().await.context("running the product")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned()))
    }

    /// How many controllers there are, running or not.
    #[must_use]
    pub const fn controllers(&self) -> usize {
        self.controllers.len()
    }

    /// Directory of logs and configuration, while the lab runs.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn controller_name(index: usize) -> String {
    if index == 0 { "controller".to_owned() } else { format!("controller-{}", index + 1) }
}

/// An address that nobody listens on. Not 127.0.0.1: there the port could be taken by a connection that goes out before
/// it is used.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.7.1:0")?.local_addr()?)
}

fn cluster_id(region: &str) -> String {
    format!("{CLUSTER}-{region}")
}

/// The proxy in front of a region's cluster.
fn proxy_endpoint(region: &str) -> String {
    format!("{CLUSTER}.proxy-lab.{region}.{ENDPOINT_ZONE}")
}

/// The website of a region.
fn website(region: &str) -> String {
    format!("www.{region}.{ZONE}")
}

/// Reader endpoint of a region's cluster.
fn reader_endpoint(region: &str) -> String {
    format!("{}.cluster-ro-lab.{region}.{ENDPOINT_ZONE}", cluster_id(region))
}

/// Writer endpoint of a region's cluster.
fn endpoint(region: &str) -> String {
    format!("{}.cluster-lab.{region}.{ENDPOINT_ZONE}", cluster_id(region))
}

/// The public name as a pair of failover records, moved by an object in a third region.
fn serve_signpost(aws: &Aws, profile: Profile) -> Result<()> {
    let [bucket, key] = SIGNPOST;
    aws.create_bucket(WITNESS, bucket);
    aws.serve_failover_records(FailoverRecords {
        name: PUBLIC_NAME.into(),
        ttl_s: profile.ttl_s(),
        first: endpoint(PRIMARY),
        second: endpoint(SECONDARY),
        url: format!("{}/{bucket}/{key}", aws.url()),
        search: format!("\"primary\":\"{SECONDARY}\""),
        // Of Route 53's two intervals the shorter one; a tenth of a second is the lab's haste.
        every: if profile == Profile::Fast { Duration::from_millis(100) } else { Duration::from_secs(10) },
        threshold: 3,
    })
}

/// The number of a vantage, from 1.
fn number_of(vantage: &str) -> Result<usize> {
    let index = VANTAGES.iter().position(|(name, _)| *name == vantage);
    let names: Vec<&str> = VANTAGES.iter().map(|(name, _)| *name).collect();
    Ok(1 + index.with_context(|| format!("{vantage} is no vantage of the lab: {}", names.join(", ")))?)
}

/// Names are the same with and without the last dot, and in any case.
fn same_name(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

fn open_link(name: &str, target: SocketAddr) -> Result<Link> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Link::open(name, listener, target)
}

async fn create_application_table(topology: &Topology) -> Result<()> {
    let (session, connection) = tokio_postgres::connect(&topology.direct_dsn("a1"), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let sql = format!(
        "CREATE TABLE {0} (number bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
         ALTER TABLE {0} OWNER TO app",
        client::TABLE
    );
    session.batch_execute(&sql).await.context("creating the application's table")
}

/// The configuration of the lab's controllers and commands, and of a vantage with names and neutral places of its own.
fn configuration(
    options: &StageOptions,
    topology: &Topology,
    nameserver: SocketAddr,
    neutral: SocketAddr,
    zone_id: &str,
) -> String {
    let vantages: Vec<String> = VANTAGES.iter().map(|(vantage, _)| format!("{vantage:?}")).collect();
    let route = match options.route {
        RouteBy::Record => format!("zone = \"{zone_id}\""),
        RouteBy::HealthCheck => {
            let [bucket, key] = SIGNPOST;
            format!(
                "by = \"health-check\"\nbucket = {{ region = \"{WITNESS}\", name = \"{bucket}\", key = \"{key}\" }}"
            )
        }
    };
    let mode = match options.mode {
        Mode::Auto => "auto",
        Mode::Approve => "approve",
        Mode::Observe => "observe",
    };
    let canary: String = options.canary.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let mut text = format!(
        "# Written by the lab.\n\
         region = \"{}\"\nprofile = \"{}\"\n\n\
         [dns]\nnameservers = [\"{nameserver}\"]\n\n\
         [database]\nport = {}\nuser = \"app\"\nname = \"{CLUSTER}\"\ntls = \"off\"\n\n\
         [canary]\nself-check = [\"{neutral}\"]\n{canary}\n\
         [[cluster]]\nid = \"{CLUSTER}\"\nmode = \"{mode}\"\nvantages = [{}]\n\n\
         [[cluster.route]]\n{route}\nname = \"{PUBLIC_NAME}\"\n",
        options.controller_region,
        options.profile.name(),
        topology.port(),
        vantages.join(", "),
    );
    for region in [PRIMARY, SECONDARY] {
        text.push_str(&format!(
            "\n[[cluster.member]]\nregion = \"{region}\"\narn = \"arn:aws:rds:{region}:{ACCOUNT}:cluster:{}\"\n\
             endpoint = \"{}\"\nreader-endpoint = \"{}\"\n",
            cluster_id(region),
            endpoint(region),
            reader_endpoint(region),
        ));
    }
    // Beside the writes, which decide: rarer, and with more patience.
    let rhythm = match options.profile {
        Profile::Fast => "interval = \"1s\"\ntimeout = \"500ms\"\n",
        Profile::Default => "",
    };
    let mut probe = |name: &str, kind: &str, target: &str, rest: &str| {
        text.push_str(&format!(
            "\n[[cluster.probe]]\nname = \"{name}\"\nkind = \"{kind}\"\ntarget = \"{target}\"\n{rhythm}{rest}"
        ));
    };
    for region in [PRIMARY, SECONDARY] {
        let (site, port) = (website(region), topology.port());
        let page = format!("http://{}:{port}/health", site.trim_end_matches('.'));
        probe(&format!("website {region}"), "http", &page, "body = \"ok\"\n");
        probe(&format!("proxy {region}"), "tcp", &format!("{}:{port}", proxy_endpoint(region)), "");
        probe(&format!("reader {region}"), "read", &reader_endpoint(region), "");
    }
    probe("public name", "dns", PUBLIC_NAME, "");
    text.push_str("\n[cluster.policy]\n");
    for (key, value) in &options.policy {
        text.push_str(&format!("{key} = {value}\n"));
    }
    text
}
