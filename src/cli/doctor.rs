//! `aurora-failover doctor`: is everything as it has to be before it is needed.

use super::{ConfigFile, Format, Output, show, show_as, table, world};
use anyhow::Result;
use aurora_failover::audit::held::{self, Held, count, duration};
use aurora_failover::config::{ClusterSettings, Settings};
use aurora_failover::database::{Database, within};
use aurora_failover::dns::Dns;
use aurora_failover::effects::World;
use aurora_failover::permissions::{self, Role};
use aurora_failover::rds::AwsRds;
use aurora_failover::sqs::Sqs;
use aurora_failover::store::DynamoDb;
use aurora_failover::{aws, clock, iam, identity, infrastructure};
use aws_config::SdkConfig;
use clap::{Args, ValueEnum as _};
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{Mode, Record, Region, RouteBy, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

/// A stored heartbeat of a live vantage is not older than this.
const HEARD_WITHIN_MS: u64 = 150_000;

/// Clocks may differ by so much.
const CLOCK_SKEW_MAX_MS: u64 = 1_000;

/// With a longer TTL most of an outage is waiting for DNS.
const TTL_MAX_S: u64 = 60;

/// Longest time for one look at a database.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// Look at the real account: is everything there that a failover needs, and does it fit together?
///
/// Changes nothing but a heartbeat row in the database. Exits with 0 only if there is no error; each finding comes with
/// its fix.
#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    output: Output,
    /// Ask IAM whether this role may do what it needs, such as controller=arn:aws:iam::123456789012:role/controller;
    /// may be repeated. The roles are those of `iam-policy`.
    #[arg(long, value_name = "ROLE=ARN", value_parser = simulated)]
    simulate: Vec<(Role, String)>,
}

fn simulated(text: &str) -> Result<(Role, String), String> {
    let (role, arn) = text.split_once('=').ok_or("expected ROLE=ARN")?;
    Ok((Role::from_str(role, false)?, arn.to_owned()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Severity {
    Good,
    Warning,
    Error,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Finding {
    severity: Severity,
    about: String,
    found: String,
    fix: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, about: impl Display, found: impl Display) {
        self.add(Severity::Good, about, found, None);
    }

    fn warning(&mut self, about: impl Display, found: impl Display, fix: impl Into<String>) {
        self.add(Severity::Warning, about, found, Some(fix.into()));
    }

    fn error(&mut self, about: impl Display, found: impl Display, fix: impl Into<String>) {
        self.add(Severity::Error, about, found, Some(fix.into()));
    }

    fn add(&mut self, severity: Severity, about: impl Display, found: impl Display, fix: Option<String>) {
        self.0.push(Finding { severity, about: about.to_string(), found: found.to_string(), fix });
    }
}

impl Doctor {
    /// Is there no error?
    pub(super) async fn run(self) -> Result<bool> {
        let settings = self.file.load()?;
        let sdk = aws::load(&settings.region, &settings.aws).await;
        let mut findings = Findings::default();
        account(&mut findings, &settings, &sdk).await;
        for (role, arn) in &self.simulate {
            permissions(&mut findings, &settings, &sdk, *role, arn).await;
        }
        let world = world(&settings, &sdk)?;
        let store = DynamoDb::new(&sdk, &settings.table);
        let database = Database::new(settings.database.clone(), &settings.aws, Dns::new(&settings.nameservers)?)?;
        self_checks(&mut findings, &settings);
        for cluster in &settings.clusters {
            let record = stored(&mut findings, &store, cluster).await;
            let primary = record.as_ref().map_or(&cluster.config.members[0].region, |record| &record.primary);
            where_it_runs(&mut findings, &settings, cluster, primary, record.as_ref());
            independence(&mut findings, cluster, primary);
            rds(&mut findings, &world, cluster, primary, &settings.region).await;
            lag_limit(&mut findings, &settings, cluster, primary).await;
            names(&mut findings, &world, cluster, primary).await;
            databases(&mut findings, &database, cluster, primary).await;
        }
        let errors = findings.0.iter().filter(|finding| finding.severity == Severity::Error).count();
        let warnings = findings.0.iter().filter(|finding| finding.severity == Severity::Warning).count();
        if self.output.output != Format::Table {
            show_as(self.output.output, &findings.0)?;
            return Ok(errors == 0);
        }
        let mut table = table(["", "what", "found", "fix"]);
        for finding in &findings.0 {
            let sign = match finding.severity {
                Severity::Good => "ok",
                Severity::Warning => "WARNING",
                Severity::Error => "ERROR",
            };
            table.add_row([sign, &finding.about, &finding.found, finding.fix.as_deref().unwrap_or_default()]);
        }
        let simulate = "\nGive --simulate controller=ARN and the like to have the roles' permissions simulated.";
        let hint = if self.simulate.is_empty() { simulate } else { "" };
        let (errors_told, warnings_told) = (count(errors, "error"), count(warnings, "warning"));
        show(&format!("{table}\n\n{errors_told}, {warnings_told}{hint}"))?;
        Ok(errors == 0)
    }
}

async fn account(findings: &mut Findings, settings: &Settings, sdk: &SdkConfig) {
    match identity::caller(sdk).await {
        Ok(arn) => findings.good("identity", arn),
        Err(error) => findings.error("identity", error, "give this shell AWS credentials, and a way to STS"),
    }
    for queue in [&settings.queue, &settings.operator_queue] {
        if let Err(error) = Sqs::open(sdk, queue, &settings.dead_letter_queue).await {
            findings.error(format!("queue {queue}"), format!("{error:#}"), "run `aurora-failover init`");
        }
    }
    let flaws = infrastructure::inspect(sdk, settings, |part, found| findings.good(part, found)).await;
    for infrastructure::Flaw { part, found, fix, fatal } in flaws {
        if fatal { findings.error(part, found, fix) } else { findings.warning(part, found, fix) }
    }
}

/// May the role do what it needs?
async fn permissions(findings: &mut Findings, settings: &Settings, sdk: &SdkConfig, role: Role, arn: &str) {
    let about = format!("permissions of the {}", role.name());
    let mut allowed = 0;
    for statement in permissions::statements(role, settings) {
        for resource in &statement.resources {
            // IAM is asked about things, not about patterns.
            let thing = if resource == "*" { resource.clone() } else { resource.replace('*', "any") };
            match iam::denied(sdk, arn, &statement.actions, &thing).await {
                Ok(denied) => {
                    allowed += statement.actions.len() - denied.len();
                    for iam::Denied { action, resource, decision } in denied {
                        let found = format!("{action} on {resource}: {decision}");
                        findings.error(&about, found, "give the role what `aurora-failover iam-policy` prints");
                    }
                }
                Err(error) => {
                    let fix = "check the role's ARN, and iam:SimulatePrincipalPolicy of your own";
                    findings.error(&about, error, fix);
                    return;
                }
            }
        }
    }
    findings.good(about, format!("{allowed} actions are allowed"));
}

async fn lag_limit(findings: &mut Findings, settings: &Settings, cluster: &ClusterSettings, primary: &Region) {
    let Some(member) = cluster.config.members.iter().find(|member| member.region == *primary) else { return };
    let about = format!("lag limit of {}", cluster.id);
    match AwsRds::new(settings.aws.clone()).lag_limit_s(primary, &member.arn).await {
        Ok(None) => findings.good(about, "rds.global_db_rpo is off: the primary never waits for a secondary"),
        Ok(Some(seconds)) => {
            let found = format!("rds.global_db_rpo = {seconds} s: the primary stops committing beyond that lag");
            if seconds * 1000 > cluster.config.policy.rpo_max_ms {
                let fix = "lower it to rpo-max, or a loss that it allows is one that `auto` refuses";
                findings.warning(about, found, fix);
            } else {
                findings.good(about, found);
            }
        }
        Err(error) => {
            findings.warning(about, error, "check rds:DescribeDBClusterParameters");
        }
    }
}

/// What the table says, and the record if there is one.
async fn stored(findings: &mut Findings, store: &DynamoDb, cluster: &ClusterSettings) -> Option<Record> {
    let about = format!("{} in table {}", cluster.id, store.table());
    let item = match store.read(&cluster.id).await {
        Ok(Some(item)) => item,
        Ok(None) => {
            findings.error(about, "nothing is stored", "start `aurora-failover serve`");
            return None;
        }
        Err(error) => {
            findings.error(about, error, "run `aurora-failover init`, and check the access to the table");
            return None;
        }
    };
    let (record, now) = (item.record, clock::now());
    findings.good(&about, format!("{}, version {}", record.state.name(), item.version));
    if !record.proven {
        findings.error(&about, "it was never seen healthy", "check endpoints, user and password of the vantages");
    }
    if record.blind {
        findings.error(&about, "too few vantages are heard of", "start the vantages, and check their way to the bus");
    }
    if record.exposed {
        findings.error(&about, "no healthy secondary is known", "bring a secondary back, or add one");
    }
    if let Some(pause) = &record.paused {
        let found = format!("paused by {} until {}", pause.by, clock::rfc3339(pause.until));
        findings.warning(&about, found, held::command(&cluster.id, "resume"));
    }
    for Held { why, release } in held::held(&record, &[]) {
        findings.warning(&about, format!("holding: {why}"), release);
    }
    if record.mode == Mode::Observe {
        findings.warning(&about, "mode observe: it never acts", "set mode = \"approve\" or \"auto\" when you trust it");
    }
    vantages(findings, &record, now);
    lag(findings, &record, now);
    Some(record)
}

fn vantages(findings: &mut Findings, record: &Record, now: Timestamp) {
    let policy = &record.config.policy;
    for vantage in &policy.vantages {
        let about = format!("vantage {vantage}");
        match record.evidence.tracks.get(vantage) {
            Some(track) if now.since_ms(track.last_seen) <= HEARD_WITHIN_MS => {
                findings.good(about, format!("heard of {} ago", duration(now.since_ms(track.last_seen))));
            }
            Some(track) => {
                let found = format!("not heard of for {}", duration(now.since_ms(track.last_seen)));
                findings.error(about, found, "start it, and check its way to the bus");
            }
            None => findings.error(about, "never heard of", "start `aurora-failover canary` there"),
        }
    }
    if policy.vantages.len() < 3 {
        let found = count(policy.vantages.len(), "vantage");
        findings.warning(
            "quorum",
            found,
            "have at least three, one outside both regions: two cannot outvote each other",
        );
    }
    if policy.quorum < 2 {
        findings.warning("quorum", "one vantage alone can confirm an outage", "set quorum = 2 or more");
    }
}

fn lag(findings: &mut Findings, record: &Record, now: Timestamp) {
    let secondaries = record.config.members.iter().filter(|member| member.region != record.primary);
    for member in secondaries {
        let about = format!("lag of {}", member.region);
        match record.evidence.lag.get(&member.region) {
            None => findings.error(about, "unknown, and unknown counts as too much", "check its reader endpoint"),
            Some(lag) => {
                let found = format!("{}, {} ago", duration(lag.ms), duration(now.since_ms(lag.at)));
                if lag.ms > record.config.policy.rpo_max_ms {
                    findings.warning(about, found, "it is over rpo-max: a failover would wait for a human");
                } else {
                    findings.good(about, found);
                }
            }
        }
    }
}

fn where_it_runs(
    findings: &mut Findings,
    settings: &Settings,
    cluster: &ClusterSettings,
    primary: &Region,
    record: Option<&Record>,
) {
    let about = format!("controller of {}", cluster.id);
    if settings.region != *primary {
        findings.good(about, format!("in {}, away from the primary in {primary}", settings.region));
        return;
    }
    let found = format!("its region {} is the primary's", settings.region);
    if record.is_some_and(|record| record.epoch.0 > 1) {
        // Where it was set up the primary was elsewhere: the writer came after it.
        let others = cluster.config.members.iter().map(|member| &member.region).filter(|region| *region != primary);
        let back = others.map(|region| held::command(&cluster.id, &format!("switchover --target {region}")));
        let back = back.collect::<Vec<_>>().join(" or ");
        let fix = format!(
            "the writer has moved to where the controller is, and with this region both would be lost: once the other \
             region is well, switch back ({back}); or stay here, and move the controller, its table, buses and queues \
             to another region, best a third one"
        );
        findings.error(about, found, fix);
    } else {
        let fix = "run it in a standby region or a third one: it must work when the primary's region is gone";
        findings.error(about, found, fix);
    }
}

/// The region that a vantage's name tells of, such as that of `witness-eu-west-1`.
fn region_of(vantage: &str) -> Option<String> {
    let words: Vec<&str> = vantage.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let compass =
        |word: &str| ["north", "south", "east", "west", "central"].iter().any(|direction| word.starts_with(direction));
    let is_region = |words: &&[&str]| {
        let [area, middle @ .., direction, number] = words else { return false };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        area.len() == 2 && middle.iter().all(|word| *word == "gov") && compass(direction) && digits(number)
    };
    let lengths = [3, 4].into_iter();
    lengths.flat_map(|length| words.windows(length)).find(is_region).map(|words| words.join("-"))
}

/// Would the vantages that are left confirm the loss of the primary's region, and is each one cut off by itself only?
fn independence(findings: &mut Findings, cluster: &ClusterSettings, primary: &Region) {
    let policy = &cluster.config.policy;
    let about = format!("independence of the vantages of {}", cluster.id);
    let mut regions: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut nowhere = Vec::new();
    for vantage in &policy.vantages {
        match region_of(vantage.as_str()) {
            Some(region) => regions.entry(region).or_default().push(vantage.as_str()),
            None => nowhere.push(vantage.as_str()),
        }
    }
    let inside = regions.get(primary.as_str()).map_or(0, Vec::len);
    let outside = policy.vantages.len() - inside;
    let mut good = true;
    if (outside as u64) < u64::from(policy.quorum) {
        good = false;
        let found = format!(
            "{outside} of {} outside the primary's region {primary}, and {} must agree: its loss could not be confirmed",
            count(policy.vantages.len(), "vantage"),
            policy.quorum
        );
        findings.error(&about, found, "run as many vantages as the quorum needs in other regions");
    }
    for (region, together) in regions.iter().filter(|(_, together)| together.len() > 1) {
        good = false;
        let found = format!("{} are in {region}: what cuts one off cuts off all", together.join(", "));
        findings.warning(&about, found, "spread them over regions");
    }
    if !nowhere.is_empty() {
        good = false;
        let found = format!("the region of {} is not known", nowhere.join(", "));
        findings.warning(
            &about,
            found,
            "name each after its region, such as witness-eu-west-1, so that this can be told",
        );
    }
    if good {
        let regions = regions.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        findings.good(about, format!("one each in {regions}; {outside} outside the primary's region"));
    }
}

/// A vantage that is cut off itself must find out: by neutral targets that do not fail together.
fn self_checks(findings: &mut Findings, settings: &Settings) {
    let about = "self-check of the vantages";
    let targets = &settings.canary.self_check;
    let host = |target: &String| target.rsplit_once(':').map_or(target.as_str(), |(host, _)| host).to_owned();
    let hosts: BTreeSet<String> = targets.iter().map(host).collect();
    match (targets.len(), hosts.len()) {
        (0, _) => findings.warning(
            about,
            "none is configured: a vantage that is cut off itself takes the primary for down",
            "set canary.self-check to two or more neutral addresses of different owners",
        ),
        (targets, 1) => findings.warning(
            about,
            format!("{} at one host: when that fails, all vantages count as cut off", count(targets, "target")),
            "add a neutral address elsewhere",
        ),
        (targets, hosts) => findings.good(about, format!("{} at {hosts} hosts", count(targets, "target"))),
    }
}

async fn rds(findings: &mut Findings, world: &World, cluster: &ClusterSettings, primary: &Region, own: &Region) {
    let about = format!("global cluster {}", cluster.id);
    let seen = match world.rds.global_cluster(own, &cluster.id).await {
        Ok(seen) => seen,
        Err(error) => {
            findings.error(about, error, "check its identifier, and rds:DescribeGlobalClusters");
            return;
        }
    };
    findings.good(&about, format!("{}, engine {}", seen.status, seen.engine_version));
    for member in &seen.members {
        if !cluster.config.members.iter().any(|known| known.arn == member.arn) {
            findings.warning(&about, format!("{} is not configured", member.arn), "add it as [[cluster.member]]");
        }
    }
    for member in &cluster.config.members {
        let about = format!("cluster in {}", member.region);
        let Some(listed) = seen.members.iter().find(|listed| listed.arn == member.arn) else {
            findings.error(about, format!("RDS does not list {}", member.arn), "correct the ARN in the configuration");
            continue;
        };
        if listed.writer != (member.region == *primary) {
            let found = if listed.writer { "RDS says it is the writer" } else { "RDS says it is not the writer" };
            findings.error(&about, found, "the record and RDS differ: look at `explain`");
        }
        match world.rds.cluster(&member.region, &member.arn).await {
            Err(error) => findings.error(about, error, "check rds:DescribeDBClusters in that region"),
            Ok(facts) if facts.instances == 0 => {
                findings.error(about, "it has no instance", "add one: a headless secondary cannot be promoted");
            }
            Ok(facts) if facts.engine_version != seen.engine_version => {
                let found = format!("engine {}, the global cluster has {}", facts.engine_version, seen.engine_version);
                findings.error(about, found, "upgrade it: versions must match for a failover");
            }
            Ok(facts) if facts.status != "available" => {
                findings.error(about, format!("status {}", facts.status), "wait until it is available");
            }
            Ok(facts) => findings.good(about, format!("available, {}", count(facts.instances, "instance"))),
        }
    }
}

async fn names(findings: &mut Findings, world: &World, cluster: &ClusterSettings, primary: &Region) {
    let Some(writer) = cluster.config.members.iter().find(|member| member.region == *primary) else { return };
    for route in &cluster.config.routes {
        let about = format!("name {}", route.name);
        match world.dns.cname(&route.name).await {
            Err(error) => findings.error(&about, error, "create the record, or correct the name"),
            Ok(target) if target != writer.endpoint => {
                let fix = "make it a CNAME of the writer's endpoint; a failover swaps exactly that value";
                findings.error(&about, format!("it leads to {target}, not to {}", writer.endpoint), fix);
            }
            Ok(target) => findings.good(&about, format!("leads to {target}")),
        }
        if route.by != RouteBy::Record {
            continue;
        }
        match world.route53.current(&route.zone, &route.name).await {
            Err(error) => findings.error(&about, error, "check the zone, and route53:ListResourceRecordSets"),
            Ok(None) => findings.error(&about, format!("zone {} has no such CNAME", route.zone), "create the record"),
            Ok(Some(record)) if record.ttl_s != route.ttl_s => {
                let found = format!("TTL {} s, configured {} s", record.ttl_s, route.ttl_s);
                findings.warning(&about, found, "give the record the configured TTL");
            }
            Ok(Some(record)) if record.ttl_s > TTL_MAX_S => {
                findings.warning(
                    &about,
                    format!("TTL {} s", record.ttl_s),
                    "lower it: clients wait for it in an outage",
                );
            }
            Ok(Some(record)) => findings.good(&about, format!("TTL {} s", record.ttl_s)),
        }
    }
}

async fn databases(findings: &mut Findings, database: &Database, cluster: &ClusterSettings, primary: &Region) {
    for (member, target) in cluster.config.members.iter().zip(&cluster.targets) {
        let is_primary = member.region == *primary;
        let endpoint = if is_primary { &member.endpoint } else { &target.reader_endpoint };
        let about = format!("database at {endpoint}");
        let looked = within(LOOK_WITHIN, async {
            let session = database.connect(endpoint).await?;
            if is_primary {
                session.write("doctor", None).await?;
            } else {
                session.read().await?;
            }
            session.now().await
        });
        match looked.await {
            Err(error) => findings.error(about, error, "check endpoint, network, user, password and grants"),
            Ok(its) => {
                let now = clock::now();
                let apart_ms = now.since_ms(its).max(its.since_ms(now));
                if apart_ms > CLOCK_SKEW_MAX_MS {
                    findings.warning(
                        about,
                        format!("its clock is {apart_ms} ms off this one"),
                        "set this clock by NTP",
                    );
                } else {
                    findings.good(about, if is_primary { "commits" } else { "answers" });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aurora_failover::config;
    use statemachine::Vantage;

    fn example() -> Settings {
        let example = include_str!("../../aurora-failover.example.toml");
        config::parse(example, "example", |_| None).expect("the example is valid")
    }

    fn told(findings: &Findings) -> Vec<(Severity, &str)> {
        findings.0.iter().map(|finding| (finding.severity, finding.found.as_str())).collect()
    }

    #[test]
    fn a_vantage_is_where_its_name_says() {
        let told = ["us-west-2", "witness-eu-west-1", "ap-southeast-2b", "us-gov-west-1", "office", "my_ca-central-1"];
        let want = [Some("us-west-2"), Some("eu-west-1"), None, Some("us-gov-west-1"), None, Some("ca-central-1")];
        assert_eq!(told.map(region_of).each_ref().map(Option::as_deref), want);
    }

    #[test]
    fn vantages_that_fail_together_are_found() {
        let of = |vantages: &[&str]| {
            let mut cluster = example().clusters.remove(0);
            cluster.config.policy.vantages = vantages.iter().map(|name| Vantage((*name).into())).collect();
            cluster.config.policy.quorum = 2;
            let mut findings = Findings::default();
            independence(&mut findings, &cluster, &"us-east-2".into());
            findings
        };
        let well = of(&["us-east-2", "us-west-2", "witness-eu-west-1"]);
        assert_eq!(well.0[0].severity, Severity::Good, "{well:?}", well = told(&well));
        let inside = of(&["us-east-2", "b-us-east-2", "us-west-2"]);
        assert_eq!(inside.0[0].severity, Severity::Error);
        assert!(inside.0[0].found.contains("its loss could not be confirmed"));
        assert!(inside.0[1].found.contains("us-east-2, b-us-east-2 are in us-east-2"), "{:?}", told(&inside));
        let office = of(&["office", "us-west-2", "eu-west-1"]);
        assert_eq!(told(&office), [(Severity::Warning, "the region of office is not known")]);
    }

    #[test]
    fn self_checks_that_fail_together_are_found() {
        let of = |targets: &[&str]| {
            let mut settings = example();
            settings.canary.self_check = targets.iter().map(|target| (*target).into()).collect();
            let mut findings = Findings::default();
            self_checks(&mut findings, &settings);
            findings.0.remove(0).severity
        };
        assert_eq!(of(&[]), Severity::Warning);
        assert_eq!(of(&["one.example.com:443", "one.example.com:53"]), Severity::Warning);
        assert_eq!(of(&["one.example.com:443", "two.example.com:443"]), Severity::Good);
    }

    #[test]
    fn after_a_failover_to_where_the_controller_is_it_says_what_to_do() {
        let settings = example();
        let cluster = &settings.clusters[0];
        let mut record = Record::new("orders".into(), cluster.config.clone(), Mode::Auto, Timestamp(0));
        record.epoch = statemachine::Epoch(2);
        let mut findings = Findings::default();
        where_it_runs(&mut findings, &settings, cluster, &settings.region, Some(&record));
        let fix = findings.0[0].fix.as_deref().unwrap_or_default();
        assert!(fix.contains("aurora-failover override orders switchover --target us-east-2"), "{fix}");
    }
}
