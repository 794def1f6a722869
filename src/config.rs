//! The configuration file, checked. `serve`, `canary` and all other commands read the same file.
//!
//! Reading is strict: unknown keys, unusable values and combinations that could never decide are errors that name
//! the key, the value and the fix, all of them at once. Endpoints and credentials of AWS are not here: they come
//! from the standard AWS environment and configuration. This is the only module that reads the environment.

use reqwest::Url;
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use statemachine::{
    AlarmWeight, ArcEndpoint, Arn, ClusterId, Config as ClusterConfig, Member, Mode, Policy, ProbeWeight, Region,
    RerouteWhen, Route, RouteBy, Vantage,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that the file says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Region of the controller, its table, bus and queues.
    pub region: Region,
    /// DynamoDB table.
    pub table: String,
    /// How long history rows are kept; for ever when there is none.
    pub retention: Option<Duration>,
    /// EventBridge bus that probes arrive on.
    pub event_bus: String,
    /// SQS queue that the bus feeds.
    pub queue: String,
    /// EventBridge bus for operators' commands: its policy decides who may give them.
    pub operator_bus: String,
    /// SQS queue that the operator bus feeds.
    pub operator_queue: String,
    /// SQS queue for messages that cannot be used.
    pub dead_letter_queue: String,
    /// How AWS calls are made.
    pub aws: AwsSettings,
    /// Name servers to ask; empty means the system's.
    pub nameservers: Vec<SocketAddr>,
    /// How to reach PostgreSQL.
    pub database: DatabaseSettings,
    /// How to probe.
    pub canary: CanarySettings,
    /// Who may look at the dashboard, and give orders on it.
    pub dashboard: DashboardSettings,
    /// The clusters.
    pub clusters: Vec<ClusterSettings>,
}

/// Who may look at the dashboard, and give orders on it.
#[derive(Debug, Clone, Default)]
pub struct DashboardSettings {
    /// Whoever has it may do both.
    pub token: Token,
    /// A load balancer that asks an OIDC provider who somebody is.
    pub balancer: Option<BalancerSettings>,
}

/// A load balancer that identifies people.
#[derive(Debug, Clone)]
pub struct BalancerSettings {
    /// Whose signature counts.
    pub arn: Arn,
    /// The claim that names a person.
    pub claim: String,
    /// Who may give orders.
    pub operators: Vec<String>,
    /// Where its public keys are, without the id of the key.
    pub keys_url: String,
}

/// A token from the environment; never shown.
#[derive(Clone, Default)]
pub struct Token(pub Option<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "(set)" } else { "(none)" })
    }
}

/// Timing of AWS calls.
#[derive(Debug, Clone)]
pub struct AwsSettings {
    /// Longest time for one try of one call.
    pub timeout: Duration,
    /// Pause between two looks at something that is under way.
    pub poll_every: Duration,
}

/// How to reach PostgreSQL. A password never stands in the file.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// Port of every endpoint.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Database name.
    pub name: String,
    /// Where the password comes from.
    pub password: PasswordSource,
    /// How connections are protected.
    pub tls: Tls,
}

/// Where the password comes from. Its value goes to the server only.
#[derive(Clone)]
pub enum PasswordSource {
    /// From the environment; none when the variable is not set.
    Environment(Option<String>),
    /// A file, read at each connection.
    File(PathBuf),
    /// A secret of Secrets Manager: the password, or JSON with `password` in it. Read again when it is refused.
    Secret(Arn),
    /// An RDS IAM authentication token, made for each connection.
    IamToken,
}

/// How connections to PostgreSQL are protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// TLS; the server's certificate must be of these authorities, and name the endpoint.
    Verify {
        /// PEM bundle, such as the RDS global bundle.
        ca_file: PathBuf,
    },
    /// None.
    Off,
}

impl fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@*:{}/{}", self.user, self.port, self.name)
    }
}

/// When a target is probed, and how long that may take.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Pause between the starts of two probes.
    pub interval: Duration,
    /// Deadline of one probe, connecting included.
    pub timeout: Duration,
    /// Up to so much is added to the pause, by chance.
    pub jitter: Duration,
}

impl Rhythm {
    /// Longest time from the start of one probe to the verdict of the next one, in milliseconds.
    fn longest_ms(&self) -> u64 {
        (self.interval + self.jitter + self.timeout).as_millis() as u64
    }
}

/// How to probe.
#[derive(Debug, Clone)]
pub struct CanarySettings {
    /// Of everything that has none of its own.
    pub rhythm: Rhythm,
    /// A session is re-made after so long, to find out whether new ones are taken.
    pub reconnect_every: Duration,
    /// How often CloudWatch is asked for the replication lag; never when there is none.
    pub lag_every: Option<Duration>,
    /// Neutral addresses (`host:port`) that tell a dead primary from a dead vantage.
    pub self_check: Vec<String>,
}

/// One cluster.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// Id of the global cluster.
    pub id: ClusterId,
    /// What the controller may do by itself.
    pub mode: Mode,
    /// What the state machine is told.
    pub config: ClusterConfig,
    /// How the members are probed, in their order.
    pub targets: Vec<TargetSettings>,
    /// Probes of other kinds than a write.
    pub probes: Vec<ProbeSettings>,
}

/// How one member is probed.
#[derive(Debug, Clone)]
pub struct TargetSettings {
    /// Where its replicas are asked for their lag.
    pub reader_endpoint: String,
    /// When its writer is probed.
    pub rhythm: Rhythm,
}

/// A probe of another kind than a write.
#[derive(Debug, Clone)]
pub struct ProbeSettings {
    /// Its name, unique in the cluster.
    pub name: String,
    /// What is looked at.
    pub kind: ProbeKind,
    /// When it is looked at.
    pub rhythm: Rhythm,
}

/// What a probe looks at.
#[derive(Debug, Clone)]
pub enum ProbeKind {
    /// A read from the database behind a name.
    Read {
        /// The name.
        endpoint: String,
    },
    /// A TCP connection.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A page.
    Http(PageSettings),
    /// The addresses of a name.
    Dns {
        /// The name.
        name: String,
        /// The address or canonical name that it has to lead to; any address will do when there is none.
        answer: Option<String>,
    },
}

/// A page, and what it has to answer.
#[derive(Debug, Clone)]
pub struct PageSettings {
    /// Where it is.
    pub url: Url,
    /// Its status; any of 2xx when there is none.
    pub status: Option<u16>,
    /// Its body contains this.
    pub body: Option<String>,
    /// Certificate authorities; the system's when there is none.
    pub ca_file: Option<PathBuf>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("cannot read the configuration file {path}: {source}; pass its path with --config")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or has keys or types that do not exist.
    #[error("{path} is not a valid configuration:\n{detail}")]
    Parse {
        /// The file.
        path: String,
        /// What and where.
        detail: String,
    },
    /// It contradicts itself.
    #[error("{path} cannot be used:\n{}", problems.join("\n"))]
    Check {
        /// The file.
        path: String,
        /// Every problem, one line each.
        problems: Vec<String>,
    },
}

/// JSON Schema of the file.
#[must_use]
pub fn schema() -> Schema {
    schema_for!(File)
}

/// Reads and checks the file, or, where it is set, the text in the environment in the place of a file.
///
/// # Errors
/// All problems at once.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    let environment = |name: &str| std::env::var(name).ok();
    if let Some(text) = environment(TEXT_ENV).filter(|text| !text.is_empty()) {
        return parse(&text, TEXT_ENV, environment);
    }
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
    parse(&text, &shown, environment)
}

/// Checks a file's text; `environment` looks up a variable.
///
/// # Errors
/// All problems at once.
pub fn parse(text: &str, path: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Settings, ConfigError> {
    let file: File =
        toml::from_str(text).map_err(|error| ConfigError::Parse { path: path.into(), detail: error.to_string() })?;
    let mut check = Check { problems: Vec::new() };
    let settings = check.settings(file, &environment);
    if check.problems.is_empty() {
        Ok(settings)
    } else {
        Err(ConfigError::Check { path: path.into(), problems: check.problems })
    }
}

// ---- the file as it is written ---------------------------------------------------------------------------------

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    region: String,
    #[serde(default)]
    profile: Profile,
    #[serde(default = "default_name")]
    table: String,
    retention: Option<String>,
    #[serde(default = "default_name")]
    event_bus: String,
    #[serde(default = "default_queue")]
    queue: String,
    #[serde(default)]
    operator_bus: Option<String>,
    #[serde(default)]
    operator_queue: Option<String>,
    #[serde(default)]
    dead_letter_queue: Option<String>,
    #[serde(default)]
    aws: AwsSection,
    #[serde(default)]
    dns: DnsSection,
    database: DatabaseSection,
    #[serde(default)]
    canary: CanarySection,
    #[serde(default)]
    dashboard: DashboardSection,
    #[serde(default)]
    cluster: Vec<ClusterSection>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct DashboardSection {
    load_balancer: Option<BalancerSection>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct BalancerSection {
    arn: String,
    claim: Option<String>,
    #[serde(default)]
    operators: Vec<String>,
    keys_url: Option<String>,
}

fn default_name() -> String {
    "aurora-failover".into()
}

fn default_queue() -> String {
    "aurora-failover-events".into()
}

/// A named set of defaults for everything that has to do with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Profile {
    /// Probes every 10 s, confirmed after 30 s.
    #[default]
    Default,
    /// Probes every 200 ms, confirmed after 3 failures.
    Fast,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct AwsSection {
    timeout: Option<String>,
    poll_every: Option<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct DnsSection {
    nameservers: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct DatabaseSection {
    #[serde(default = "default_port")]
    port: u16,
    user: String,
    name: String,
    password_env: Option<String>,
    password_file: Option<PathBuf>,
    password_secret: Option<String>,
    #[serde(default)]
    iam_token: bool,
    tls: TlsSection,
    ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum TlsSection {
    Verify,
    Off,
}

fn default_port() -> u16 {
    5432
}

/// Variable that holds the token of whoever may give orders on the dashboard.
const DASHBOARD_TOKEN_ENV: &str = "AURORA_FAILOVER_DASHBOARD_TOKEN";

/// Variable that holds the password where nothing else is said.
const PASSWORD_ENV: &str = "AURORA_FAILOVER_DB_PASSWORD";

/// The text of the configuration itself, for containers that have no file.
const TEXT_ENV: &str = "AURORA_FAILOVER_CONFIG_TEXT";

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct CanarySection {
    interval: Option<String>,
    timeout: Option<String>,
    jitter: Option<String>,
    reconnect_every: Option<String>,
    lag_every: Option<String>,
    self_check: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ClusterSection {
    id: String,
    #[serde(default)]
    mode: Mode,
    vantages: Vec<String>,
    member: Vec<MemberSection>,
    route: Vec<RouteSection>,
    #[serde(default)]
    alarm: Vec<AlarmSection>,
    #[serde(default)]
    probe: Vec<ProbeSection>,
    #[serde(default)]
    policy: PolicySection,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct MemberSection {
    region: String,
    arn: String,
    endpoint: String,
    reader_endpoint: Option<String>,
    interval: Option<String>,
    timeout: Option<String>,
    jitter: Option<String>,
    #[serde(default)]
    priority: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RouteSection {
    /// Not needed where the data plane moves the name.
    #[serde(default)]
    zone: String,
    name: String,
    ttl: Option<String>,
    #[serde(default)]
    by: RouteBySection,
    /// For `by = "health-check"`.
    bucket: Option<BucketSection>,
    /// For `by = "arc"`.
    #[serde(default)]
    endpoint: Vec<ArcEndpoint>,
    /// For `by = "arc"`: the routing control of each region.
    #[serde(default)]
    controls: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum RouteBySection {
    #[default]
    Record,
    HealthCheck,
    Arc,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct BucketSection {
    region: String,
    name: String,
    key: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct AlarmSection {
    name: String,
    weight: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ProbeSection {
    name: String,
    kind: ProbeKindSection,
    target: String,
    interval: Option<String>,
    timeout: Option<String>,
    jitter: Option<String>,
    #[serde(default)]
    weight: u32,
    /// For `kind = "http"`.
    status: Option<u16>,
    /// For `kind = "http"`.
    body: Option<String>,
    /// For `kind = "http"`.
    ca_file: Option<PathBuf>,
    /// For `kind = "dns"`.
    answer: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum ProbeKindSection {
    Read,
    Tcp,
    Http,
    Dns,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct PolicySection {
    in_region_grace: Option<String>,
    approval_timeout: Option<String>,
    approvals_required: Option<u32>,
    pause_max: Option<String>,
    quorum: Option<u32>,
    failures_min: Option<u32>,
    confirm_after: Option<String>,
    recover_after: Option<u32>,
    vantage_stale_after: Option<String>,
    event_age_max: Option<String>,
    event_ahead_max: Option<String>,
    rpo_max: Option<String>,
    cooldown: Option<String>,
    failovers_max: Option<u32>,
    failovers_window: Option<String>,
    reassess_every: Option<String>,
    assess_deadline: Option<String>,
    promote_deadline: Option<String>,
    reroute: Option<RerouteWhen>,
    reroute_deadline: Option<String>,
    fence_deadline: Option<String>,
    announce_deadline: Option<String>,
    retries_max: Option<u32>,
    retry: Option<String>,
    retry_max: Option<String>,
    claim_ttl: Option<String>,
    soak: Option<String>,
    heartbeat: Option<String>,
}

/// What a profile sets where the file is silent. Times as in the file.
struct Defaults {
    interval: &'static str,
    probe_timeout: &'static str,
    reconnect_every: &'static str,
    lag_every: &'static str,
    aws_timeout: &'static str,
    poll_every: &'static str,
    ttl: &'static str,
    policy: Policy,
}

impl Profile {
    fn defaults(self) -> Defaults {
        let policy = Policy::standard(Vec::new());
        match self {
            Self::Default => Defaults {
                interval: "10s",
                probe_timeout: "5s",
                reconnect_every: "1m",
                lag_every: "1m",
                aws_timeout: "3s",
                poll_every: "2s",
                ttl: "5s",
                policy,
            },
            Self::Fast => Defaults {
                interval: "200ms",
                probe_timeout: "200ms",
                reconnect_every: "10s",
                lag_every: "10s",
                aws_timeout: "1s",
                poll_every: "20ms",
                ttl: "1s",
                policy: Policy {
                    confirm_after_ms: 400,
                    vantage_stale_after_ms: 1_500,
                    event_age_max_ms: 10_000,
                    rpo_max_ms: 5_000,
                    in_region_grace_ms: 2_000,
                    reassess_every_ms: 1_000,
                    retry_ms: 50,
                    retry_max_ms: 1_000,
                    claim_ttl_ms: 3_000,
                    reroute_deadline_ms: 10_000,
                    fence_deadline_ms: 3_000,
                    soak_ms: 10_000,
                    ..policy
                },
            },
        }
    }
}

// ---- the checks ------------------------------------------------------------------------------------------------

struct Check {
    problems: Vec<String>,
}

impl Check {
    fn problem(&mut self, key: &str, value: impl fmt::Display, fix: &str) {
        self.problems.push(format!("  {key} = {value}: {fix}"));
    }

    fn duration(&mut self, key: &str, text: &str) -> Duration {
        match humantime::parse_duration(text) {
            Ok(duration) if !duration.is_zero() => duration,
            Ok(_) => {
                self.problem(key, format!("{text:?}"), "must be longer than zero, such as \"10s\" or \"200ms\"");
                Duration::from_secs(1)
            }
            Err(error) => {
                let fix = format!("is not a duration ({error}); write \"10s\", \"200ms\" or \"5m\"");
                self.problem(key, format!("{text:?}"), &fix);
                Duration::from_secs(1)
            }
        }
    }

    /// A duration in milliseconds.
    fn ms(&mut self, key: &str, text: &str) -> u64 {
        u64::try_from(self.duration(key, text).as_millis()).unwrap_or(u64::MAX)
    }

    fn settings(&mut self, file: File, environment: &impl Fn(&str) -> Option<String>) -> Settings {
        let defaults = file.profile.defaults();
        let or = |given: &Option<String>, default: &'static str| given.clone().unwrap_or_else(|| default.into());
        let usual = Rhythm {
            interval: self.duration("interval", defaults.interval),
            timeout: self.duration("timeout", defaults.probe_timeout),
            jitter: Duration::ZERO,
        };
        let section = &file.canary;
        let canary = CanarySettings {
            rhythm: self.rhythm("canary", [&section.interval, &section.timeout, &section.jitter], &usual),
            reconnect_every: self
                .duration("canary.reconnect-every", &or(&file.canary.reconnect_every, defaults.reconnect_every)),
            lag_every: match file.canary.lag_every.as_deref().unwrap_or(defaults.lag_every) {
                "never" => None,
                text => Some(self.duration("canary.lag-every", text)),
            },
            self_check: file.canary.self_check,
        };
        let nameservers = file.dns.nameservers.iter().filter_map(|text| match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                self.problem(
                    "dns.nameservers",
                    format!("{text:?}"),
                    "is not an address with a port, such as \"10.0.0.2:53\"",
                );
                None
            }
        });
        let nameservers = nameservers.collect();
        if file.cluster.is_empty() {
            self.problem("cluster", "(none)", "add at least one [[cluster]] with its members, vantages and routes");
        }
        let mut clusters: Vec<ClusterSettings> = Vec::new();
        for section in file.cluster {
            if clusters.iter().any(|c| c.id.as_str() == section.id) {
                self.problem(
                    "cluster.id",
                    format!("{:?}", section.id),
                    "is there twice; each cluster needs its own id",
                );
            }
            clusters.push(self.cluster(section, &defaults, &canary));
        }
        Settings {
            region: Region(file.region),
            table: file.table,
            retention: file.retention.as_ref().map(|text| self.duration("retention", text)),
            operator_bus: file.operator_bus.unwrap_or_else(|| format!("{}-operator", file.event_bus)),
            operator_queue: file.operator_queue.unwrap_or_else(|| format!("{}-operator", file.queue)),
            event_bus: file.event_bus,
            dead_letter_queue: file.dead_letter_queue.unwrap_or_else(|| format!("{}-dead-letters", file.queue)),
            queue: file.queue,
            aws: AwsSettings {
                timeout: self.duration("aws.timeout", &or(&file.aws.timeout, defaults.aws_timeout)),
                poll_every: self.duration("aws.poll-every", &or(&file.aws.poll_every, defaults.poll_every)),
            },
            nameservers,
            database: self.database(file.database, environment),
            canary,
            dashboard: DashboardSettings {
                token: Token(environment(DASHBOARD_TOKEN_ENV).filter(|token| !token.is_empty())),
                balancer: file.dashboard.load_balancer.map(|section| self.balancer(section)),
            },
            clusters,
        }
    }

    fn balancer(&mut self, section: BalancerSection) -> BalancerSettings {
        let arn = Arn(section.arn);
        if arn.region().is_empty() {
            let fix = "must be the ARN of the application load balancer";
            self.problem("dashboard.load-balancer.arn", format!("{:?}", arn.0), fix);
        }
        let usual = format!("https://public-keys.auth.elb.{}.amazonaws.com", arn.region());
        BalancerSettings {
            claim: section.claim.unwrap_or_else(|| "email".into()),
            operators: section.operators,
            keys_url: section.keys_url.unwrap_or(usual),
            arn,
        }
    }

    fn database(&mut self, file: DatabaseSection, environment: &impl Fn(&str) -> Option<String>) -> DatabaseSettings {
        let given =
            [file.password_env.is_some(), file.password_file.is_some(), file.password_secret.is_some(), file.iam_token];
        if given.iter().filter(|given| **given).count() > 1 {
            let fix = "there is more than one source of the password; keep one of password-env, password-file, \
                       password-secret and iam-token";
            self.problem("database", "(password)", fix);
        }
        if file.iam_token && file.tls == TlsSection::Off {
            self.problem("database.iam-token", true, "needs tls = \"verify\": RDS takes tokens over TLS only");
        }
        let password = match (file.password_file, file.password_secret) {
            _ if file.iam_token => PasswordSource::IamToken,
            (Some(path), _) => PasswordSource::File(path),
            (None, Some(secret)) => {
                let arn = Arn(secret);
                if arn.region().is_empty() {
                    self.problem("database.password-secret", format!("{:?}", arn.0), "must be the ARN of the secret");
                }
                PasswordSource::Secret(arn)
            }
            (None, None) => {
                PasswordSource::Environment(environment(file.password_env.as_deref().unwrap_or(PASSWORD_ENV)))
            }
        };
        let tls = match (file.tls, file.ca_file) {
            (TlsSection::Verify, Some(ca_file)) => Tls::Verify { ca_file },
            (TlsSection::Verify, None) => {
                let fix = "needs ca-file, the PEM bundle of RDS's certificate authorities (global-bundle.pem)";
                self.problem("database.tls", "\"verify\"", fix);
                Tls::Off
            }
            (TlsSection::Off, _) => Tls::Off,
        };
        DatabaseSettings { port: file.port, user: file.user, name: file.name, password, tls }
    }

    fn cluster(&mut self, section: ClusterSection, defaults: &Defaults, canary: &CanarySettings) -> ClusterSettings {
        let key = |name: &str| format!("cluster.{}.{name}", section.id);
        if section.id.is_empty() || !section.id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            self.problem(
                "cluster.id",
                format!("{:?}", section.id),
                "use the global cluster's identifier: letters, digits, hyphens",
            );
        }
        if section.member.len() < 2 {
            self.problem(
                &key("member"),
                section.member.len(),
                "a failover needs a primary and at least one secondary; list every member",
            );
        }
        for (index, member) in section.member.iter().enumerate() {
            if section.member[..index].iter().any(|other| other.region == member.region) {
                self.problem(
                    &key("member.region"),
                    format!("{:?}", member.region),
                    "is there twice; one member per region",
                );
            }
            if !member.arn.starts_with("arn:") || !member.arn.contains(&format!(":{}:", member.region)) {
                let fix = format!("must be the ARN of the DB cluster in {}", member.region);
                self.problem(&key("member.arn"), format!("{:?}", member.arn), &fix);
            }
        }
        if section.route.is_empty() {
            self.problem(
                &key("route"),
                "(none)",
                "name the DNS record that your application uses, so that it can follow the writer",
            );
        }
        let mut routes = Vec::new();
        for route in &section.route {
            let ttl_key = key("route.ttl");
            let ttl_ms = self.ms(&ttl_key, route.ttl.as_deref().unwrap_or(defaults.ttl));
            if !ttl_ms.is_multiple_of(1000) {
                self.problem(&ttl_key, format!("{:?}", route.ttl), "DNS counts in whole seconds");
            }
            let by = self.route_by(&key("route.by"), route, &section.member);
            routes.push(Route { zone: route.zone.clone(), name: with_dot(&route.name), ttl_s: ttl_ms / 1000, by });
        }
        let probes = section.probe.iter().map(|probe| self.probe(&key("probe"), probe, canary)).collect::<Vec<_>>();
        for (index, probe) in section.probe.iter().enumerate() {
            if section.probe[..index].iter().any(|other| other.name == probe.name) {
                self.problem(&key("probe.name"), format!("{:?}", probe.name), "is there twice; give each its own name");
            }
        }
        let targets: Vec<TargetSettings> =
            section.member.iter().map(|member| self.target(&key("member"), member, canary)).collect();
        let policy = self.policy(&section, defaults);
        self.policy_can_decide(&section, &policy, &targets);
        for (probe, settings) in section.probe.iter().zip(&probes) {
            if probe.weight > 0 && settings.rhythm.longest_ms() > policy.vantage_stale_after_ms {
                let fix = "has a weight, and comes too rarely to count: interval, jitter and timeout together must not \
                           be longer than policy.vantage-stale-after";
                self.problem(&key("probe"), format!("{:?}", probe.name), fix);
            }
        }
        let members = section.member.iter().map(|member| Member {
            region: Region(member.region.clone()),
            arn: Arn(member.arn.clone()),
            endpoint: with_dot(&member.endpoint),
            priority: member.priority,
        });
        let alarms = section.alarm.iter().map(|a| AlarmWeight { name: a.name.clone(), weight: a.weight }).collect();
        let weights = section.probe.iter().map(|p| ProbeWeight { name: p.name.clone(), weight: p.weight }).collect();
        let mut config =
            ClusterConfig { hash: String::new(), members: members.collect(), routes, alarms, probes: weights, policy };
        config.hash = hash(&config);
        ClusterSettings { id: ClusterId(section.id.clone()), mode: section.mode, config, targets, probes }
    }

    /// A probe of another kind than a write.
    fn probe(&mut self, key: &str, section: &ProbeSection, canary: &CanarySettings) -> ProbeSettings {
        let ProbeSection { name, kind, target, .. } = section;
        let unfit = [
            (section.status.is_some(), ProbeKindSection::Http, "status"),
            (section.body.is_some(), ProbeKindSection::Http, "body"),
            (section.ca_file.is_some(), ProbeKindSection::Http, "ca-file"),
            (section.answer.is_some(), ProbeKindSection::Dns, "answer"),
        ];
        for (given, of, field) in unfit {
            if given && of != *kind {
                let fix = "which another `kind` needs; remove one of them";
                self.problem(key, format!("{name:?} has {field}"), fix);
            }
        }
        let kind = match kind {
            ProbeKindSection::Read => ProbeKind::Read { endpoint: with_dot(target) },
            ProbeKindSection::Dns => ProbeKind::Dns {
                name: with_dot(target),
                answer: section.answer.as_ref().map(|answer| answer.trim_end_matches('.').to_ascii_lowercase()),
            },
            ProbeKindSection::Tcp => {
                let split = target.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
                let (host, port) = split.unwrap_or_else(|| {
                    let fix = "must be a name or an address with a port, such as \"proxy.example.com:5432\"";
                    self.problem(&format!("{key}.target"), format!("{target:?}"), fix);
                    ("localhost", 1)
                });
                ProbeKind::Tcp { host: host.trim_matches(['[', ']']).to_owned(), port }
            }
            ProbeKindSection::Http => {
                let url = Url::parse(target).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
                let url = url.unwrap_or_else(|| {
                    let fix = "must be a URL, such as \"https://www.example.com/health\"";
                    self.problem(&format!("{key}.target"), format!("{target:?}"), fix);
                    Url::parse("http://localhost/").expect("a URL")
                });
                let (status, body, ca_file) = (section.status, section.body.clone(), section.ca_file.clone());
                ProbeKind::Http(PageSettings { url, status, body, ca_file })
            }
        };
        let own = [&section.interval, &section.timeout, &section.jitter];
        let rhythm = self.rhythm(&format!("{key}.{name}"), own, &canary.rhythm);
        ProbeSettings { name: name.clone(), kind, rhythm }
    }

    /// How a member is probed.
    fn target(&mut self, key: &str, section: &MemberSection, canary: &CanarySettings) -> TargetSettings {
        let own = [&section.interval, &section.timeout, &section.jitter];
        TargetSettings {
            reader_endpoint: with_dot(section.reader_endpoint.as_ref().unwrap_or(&section.endpoint)),
            rhythm: self.rhythm(&format!("{key}.{}", section.region), own, &canary.rhythm),
        }
    }

    /// Interval, timeout and jitter as they are given, otherwise as usual.
    fn rhythm(&mut self, key: &str, given: [&Option<String>; 3], usual: &Rhythm) -> Rhythm {
        let mut duration = |field: &str, given: &Option<String>, usual: Duration| match given {
            Some(text) => self.duration(&format!("{key}.{field}"), text),
            None => usual,
        };
        let rhythm = Rhythm {
            interval: duration("interval", given[0], usual.interval),
            timeout: duration("timeout", given[1], usual.timeout),
            jitter: duration("jitter", given[2], usual.jitter),
        };
        if rhythm.timeout > rhythm.interval {
            self.problem(
                &format!("{key}.timeout"),
                humantime::format_duration(rhythm.timeout),
                "must not be longer than the interval, or probes pile up; shorten it",
            );
        }
        rhythm
    }

    /// What moves a public name, and whether it can.
    fn route_by(&mut self, key: &str, route: &RouteSection, members: &[MemberSection]) -> RouteBy {
        let unfit = [
            (route.bucket.is_some(), RouteBySection::HealthCheck, "bucket"),
            (!route.endpoint.is_empty(), RouteBySection::Arc, "endpoint"),
            (!route.controls.is_empty(), RouteBySection::Arc, "controls"),
        ];
        for (given, by, field) in unfit {
            if given && by != route.by {
                self.problem(
                    key,
                    format!("{:?} has {field}", route.name),
                    "which another `by` needs; remove one of them",
                );
            }
        }
        match route.by {
            RouteBySection::Record => {
                if route.zone.is_empty() {
                    self.problem(key, "\"record\"", "needs `zone`, the id of the hosted zone that holds the record");
                }
                RouteBy::Record
            }
            RouteBySection::HealthCheck => {
                if members.len() != 2 {
                    let fix =
                        "moves a name between two regions, and this cluster has another number of members; use arc";
                    self.problem(key, "\"health-check\"", fix);
                }
                let Some(BucketSection { region, name, key: object }) = route.bucket.clone() else {
                    let fix =
                        "needs `bucket = { region = …, name = …, key = … }`, the object that the health check reads";
                    self.problem(key, "\"health-check\"", fix);
                    return RouteBy::Record;
                };
                RouteBy::HealthCheck { region: Region(region), bucket: name, key: object }
            }
            RouteBySection::Arc => {
                if !cfg!(feature = "arc") {
                    self.problem(key, "\"arc\"", "is not in this build; build it with the cargo feature `arc`");
                }
                if route.endpoint.is_empty() {
                    self.problem(key, "\"arc\"", "needs [[cluster.route.endpoint]] with region and url, best all five");
                }
                for member in members.iter().filter(|member| !route.controls.contains_key(&member.region)) {
                    let fix = "has no routing control in `controls`; traffic could not go there";
                    self.problem(key, format!("\"arc\", and {}", member.region), fix);
                }
                let controls = route.controls.iter().map(|(region, arn)| (Region(region.clone()), Arn(arn.clone())));
                RouteBy::Arc { endpoints: route.endpoint.clone(), controls: controls.collect() }
            }
        }
    }

    fn policy(&mut self, section: &ClusterSection, defaults: &Defaults) -> Policy {
        let (p, d) = (&section.policy, &defaults.policy);
        let mut ms = |name: &str, given: &Option<String>, default_ms: u64| match given {
            Some(given) => self.ms(&format!("cluster.{}.policy.{name}", section.id), given),
            None => default_ms,
        };
        Policy {
            vantages: section.vantages.iter().map(|v| Vantage(v.clone())).collect(),
            quorum: p.quorum.unwrap_or(d.quorum),
            failures_min: p.failures_min.unwrap_or(d.failures_min),
            recover_after: p.recover_after.unwrap_or(d.recover_after),
            failovers_max: p.failovers_max.unwrap_or(d.failovers_max),
            retries_max: p.retries_max.unwrap_or(d.retries_max),
            approvals_required: p.approvals_required.unwrap_or(d.approvals_required),
            reroute: p.reroute.unwrap_or(d.reroute),
            confirm_after_ms: ms("confirm-after", &p.confirm_after, d.confirm_after_ms),
            vantage_stale_after_ms: ms("vantage-stale-after", &p.vantage_stale_after, d.vantage_stale_after_ms),
            event_age_max_ms: ms("event-age-max", &p.event_age_max, d.event_age_max_ms),
            event_ahead_max_ms: ms("event-ahead-max", &p.event_ahead_max, d.event_ahead_max_ms),
            rpo_max_ms: ms("rpo-max", &p.rpo_max, d.rpo_max_ms),
            cooldown_ms: ms("cooldown", &p.cooldown, d.cooldown_ms),
            failovers_window_ms: ms("failovers-window", &p.failovers_window, d.failovers_window_ms),
            in_region_grace_ms: ms("in-region-grace", &p.in_region_grace, d.in_region_grace_ms),
            approval_timeout_ms: ms("approval-timeout", &p.approval_timeout, d.approval_timeout_ms),
            pause_max_ms: ms("pause-max", &p.pause_max, d.pause_max_ms),
            reassess_every_ms: ms("reassess-every", &p.reassess_every, d.reassess_every_ms),
            assess_deadline_ms: ms("assess-deadline", &p.assess_deadline, d.assess_deadline_ms),
            promote_deadline_ms: ms("promote-deadline", &p.promote_deadline, d.promote_deadline_ms),
            reroute_deadline_ms: ms("reroute-deadline", &p.reroute_deadline, d.reroute_deadline_ms),
            fence_deadline_ms: ms("fence-deadline", &p.fence_deadline, d.fence_deadline_ms),
            announce_deadline_ms: ms("announce-deadline", &p.announce_deadline, d.announce_deadline_ms),
            retry_ms: ms("retry", &p.retry, d.retry_ms),
            retry_max_ms: ms("retry-max", &p.retry_max, d.retry_max_ms),
            claim_ttl_ms: ms("claim-ttl", &p.claim_ttl, d.claim_ttl_ms),
            soak_ms: ms("soak", &p.soak, d.soak_ms),
            heartbeat_ms: ms("heartbeat", &p.heartbeat, d.heartbeat_ms),
        }
    }

    /// Combinations that could never confirm, or would on too little.
    fn policy_can_decide(&mut self, section: &ClusterSection, policy: &Policy, targets: &[TargetSettings]) {
        let key = |name: &str| format!("cluster.{}.{name}", section.id);
        let vantages = section.vantages.len();
        for (index, vantage) in section.vantages.iter().enumerate() {
            if section.vantages[..index].contains(vantage) {
                self.problem(&key("vantages"), format!("{vantage:?}"), "is there twice; a vantage has one vote");
            }
        }
        if policy.quorum == 0 || policy.quorum as usize > vantages {
            let fix = format!(
                "must be between 1 and the number of vantages ({vantages}), or no outage could ever be confirmed"
            );
            self.problem(&key("policy.quorum"), policy.quorum, &fix);
        }
        if !(1..=16).contains(&policy.approvals_required) {
            self.problem(&key("policy.approvals-required"), policy.approvals_required, "must be between 1 and 16");
        }
        if !(1..=16).contains(&policy.failures_min) {
            self.problem(&key("policy.failures-min"), policy.failures_min, "must be between 1 and 16");
        }
        if policy.recover_after == 0 {
            self.problem(&key("policy.recover-after"), 0, "must be at least 1");
        }
        let probe_ms = targets.iter().map(|target| target.rhythm.longest_ms()).max().unwrap_or_default();
        if policy.vantage_stale_after_ms < probe_ms {
            let fix = format!(
                "must be at least interval, jitter and timeout of the probes together ({probe_ms} ms), or live vantages look silent"
            );
            self.problem(&key("policy.vantage-stale-after"), format!("{} ms", policy.vantage_stale_after_ms), &fix);
        }
        if policy.event_age_max_ms < policy.vantage_stale_after_ms {
            self.problem(
                &key("policy.event-age-max"),
                format!("{} ms", policy.event_age_max_ms),
                "must be at least vantage-stale-after",
            );
        }
    }
}

/// Names are kept fully qualified, as DNS and Route 53 do.
fn with_dot(name: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    format!("{name}.")
}

fn hash(config: &ClusterConfig) -> String {
    let text = serde_json::to_string(config).expect("a configuration is plain data");
    hex::encode(&Sha256::digest(text.as_bytes())[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../aurora-failover.example.toml");

    fn problems(text: &str) -> String {
        parse(text, "test.toml", |_| None).expect_err("it must not pass").to_string()
    }

    #[test]
    fn the_documented_example_is_valid_and_says_what_it_says() {
        let settings = parse(EXAMPLE, "example", |_| Some("secret".into())).expect("the example is valid");
        assert_eq!(settings.clusters.len(), 1);
        assert_eq!(settings.clusters[0].config.policy.confirm_after_ms, 30_000);
        assert_eq!(settings.clusters[0].config.policy.quorum, 2);
        assert_eq!(settings.clusters[0].mode, Mode::Approve);
        assert!(!format!("{settings:?}").contains("secret"), "the password must not show in debug output");
    }

    #[test]
    fn every_problem_is_reported_at_once_with_key_value_and_fix() {
        let text = EXAMPLE
            .replace("quorum = 2", "quorum = 4")
            .replace("confirm-after = \"30s\"", "confirm-after = \"30 parsecs\"");
        let shown = problems(&text);
        assert!(shown.contains("cluster.orders.policy.quorum = 4"), "{shown}");
        assert!(shown.contains("between 1 and the number of vantages (3)"), "{shown}");
        assert!(shown.contains("cluster.orders.policy.confirm-after = \"30 parsecs\""), "{shown}");
    }

    #[test]
    fn a_name_moved_by_a_health_check_needs_its_object_and_two_members() {
        let route = "zone = \"Z0123456789EXAMPLE\"";
        assert!(EXAMPLE.contains(route));
        let by = |text: &str| EXAMPLE.replace(route, text);
        let bucket = "bucket = { region = \"eu-west-1\", name = \"signposts\", key = \"orders.json\" }";
        let settings = parse(&by(&format!("by = \"health-check\"\n{bucket}")), "x", |_| None).expect("valid");
        let RouteBy::HealthCheck { region, bucket: name, key } = &settings.clusters[0].config.routes[0].by else {
            panic!("{:?}", settings.clusters[0].config.routes)
        };
        assert_eq!((region.as_str(), name.as_str(), key.as_str()), ("eu-west-1", "signposts", "orders.json"));
        assert!(problems(&by("by = \"health-check\"")).contains("needs `bucket"), "no object");
        assert!(problems(&by(bucket)).contains("has bucket: which another"), "an object for nothing");
        assert!(problems(&by("")).contains("needs `zone`"), "a record without its zone");
        assert!(problems(&by("by = \"arc\"")).contains("[[cluster.route.endpoint]]"), "controls without endpoints");
    }

    #[test]
    fn a_password_has_one_source_and_travels_protected() {
        let with = |text: &str| EXAMPLE.replace("name = \"orders\"\ntls", &format!("name = \"orders\"\n{text}\ntls"));
        let password = |text: &str| parse(&with(text), "x", |_| None).expect("valid").database.password;
        assert!(matches!(password("iam-token = true"), PasswordSource::IamToken));
        assert!(matches!(password("password-file = \"/run/secrets/db\""), PasswordSource::File(_)));
        let secret = "password-secret = \"arn:aws:secretsmanager:us-west-2:123456789012:secret:db\"";
        assert!(matches!(password(secret), PasswordSource::Secret(_)));
        assert!(problems(&with(&format!("{secret}\niam-token = true"))).contains("keep one of"));
        assert!(problems(&with("password-secret = \"db\"")).contains("must be the ARN"));
        let plain = with("iam-token = true").replace("tls = \"verify\"", "tls = \"off\"");
        assert!(problems(&plain).contains("over TLS only"));
        let unverified = EXAMPLE.lines().filter(|line| !line.starts_with("ca-file")).collect::<Vec<_>>().join("\n");
        assert!(problems(&unverified).contains("needs ca-file"));
    }

    #[test]
    fn a_probe_says_what_it_looks_at_and_what_it_expects() {
        let before = "[[cluster.member]]\nregion = \"us-east-2\"";
        assert!(EXAMPLE.contains(before));
        let with = |probe: &str| EXAMPLE.replace(before, &format!("[[cluster.probe]]\n{probe}\n{before}"));
        let kind = |probe: &str| parse(&with(probe), "x", |_| None).expect("valid").clusters[0].probes[0].kind.clone();
        let page = "name = \"a\"\nkind = \"http\"\ntarget = \"https://[::1]:8443/health\"\nbody = \"ok\"";
        assert!(matches!(kind(page), ProbeKind::Http(page) if page.url.port() == Some(8443) && page.body.is_some()));
        let proxy = "name = \"a\"\nkind = \"tcp\"\ntarget = \"[::1]:5432\"";
        assert!(matches!(kind(proxy), ProbeKind::Tcp { host, port: 5432 } if host == "::1"));
        assert!(problems(&with("name = \"a\"\nkind = \"tcp\"\ntarget = \"proxy\"")).contains("with a port"));
        assert!(problems(&with("name = \"a\"\nkind = \"http\"\ntarget = \"/health\"")).contains("must be a URL"));
        assert!(problems(&with(&format!("{proxy}\nstatus = 200"))).contains("has status: which another"));
        let twice = format!("{proxy}\n[[cluster.probe]]\n{proxy}");
        assert!(problems(&with(&twice)).contains("is there twice"));
        let rare = format!("{proxy}\nweight = 1\ninterval = \"1m\"");
        assert!(problems(&with(&rare)).contains("comes too rarely"));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let shown = problems(&EXAMPLE.replace("quorum = 2", "quorom = 2"));
        assert!(shown.contains("quorom"), "{shown}");
    }

    #[test]
    fn the_hash_changes_with_the_policy_and_only_then() {
        let hash = |text: &str| parse(text, "x", |_| None).expect("valid").clusters[0].config.hash.clone();
        assert_eq!(hash(EXAMPLE), hash(&EXAMPLE.replace("# ", "## ")));
        assert_ne!(hash(EXAMPLE), hash(&EXAMPLE.replace("quorum = 2", "quorum = 3")));
    }
}
