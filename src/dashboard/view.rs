//! What the dashboard shows, as data.

use crate::audit::explain;
use crate::board::Known;
use crate::config::{ProbeKind, ProbeSettings};
use crate::store::HistoryRow;
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{
    Effect, EpisodeKind, Epoch, Event, GuardResult, Member, Record, Region, Route, RouteBy, Rule, State, Timestamp,
    Vantage, Verdict,
};

/// A line of the fleet.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Global cluster.
    pub cluster: String,
    /// State of the machine.
    pub state: &'static str,
    /// Since when; none while healthy since ever.
    pub since: Option<Timestamp>,
    /// What it may do by itself.
    pub mode: &'static str,
    /// Region of the writer.
    pub primary: Region,
    /// Counts changes of primary.
    pub epoch: Epoch,
    /// Version of the record.
    pub version: u64,
    /// When this was so.
    pub at: Timestamp,
    /// Heard by this process; otherwise read from the table.
    pub live: bool,
    /// How much it needs a human: 0 for not at all; higher first.
    pub attention: u8,
    /// Why, in words.
    pub notes: Vec<String>,
    /// What each vantage sees.
    pub vantages: Vec<VantageView>,
    /// How far secondaries are behind.
    pub lag: Vec<LagView>,
}

/// What a vantage sees of the primary.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct VantageView {
    /// Its name.
    pub name: Vantage,
    /// `ok`, `failing`, `isolated`, `silent`.
    pub sees: &'static str,
    /// Failures in a row that nobody's success voids.
    pub failures: usize,
    /// Class of the newest failure, or why no new session is taken.
    pub class: String,
    /// When it was last heard of.
    pub last_seen: Option<Timestamp>,
}

/// The lag of a secondary.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LagView {
    /// Its region.
    pub region: Region,
    /// Milliseconds behind.
    pub ms: u64,
    /// When that was so.
    pub at: Timestamp,
}

/// Everything of one cluster.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Detail {
    /// As in the fleet.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its members.
    pub members: Vec<MemberView>,
    /// Public names, and what moves them.
    pub routes: Vec<RouteView>,
    /// What is looked at beside the writes.
    pub observed: Vec<ObservedView>,
    /// Holding, and what releases it.
    pub hold: Option<HoldView>,
    /// Why it would not fail over by itself now.
    pub obstacles: Vec<String>,
    /// The record in sentences.
    pub sentences: Vec<String>,
    /// Marks of the open episode.
    pub episode: Option<EpisodeView>,
    /// Effects that are due or under way, in words.
    pub pending: Vec<String>,
}

/// A member of the global cluster.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MemberView {
    /// Its region.
    pub region: Region,
    /// Is it the writer, as far as the record knows?
    pub primary: bool,
    /// Writer endpoint.
    pub endpoint: String,
    /// It commits writes although it is not the primary.
    pub second_writer: bool,
    /// `serving`, `failing` and `unreachable` of the writer; `replicating`, `behind` (no replica yet), `becoming-writer`
    /// and `old-writer` (was the writer, and is no replica yet) of the others.
    pub condition: &'static str,
    /// Instances, as RDS said in this episode.
    pub instances: Option<u32>,
    /// Status, as RDS said in this episode.
    pub status: Option<String>,
}

/// A public name.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RouteView {
    /// The name.
    pub name: String,
    /// `record`, `health-check` or `arc`.
    pub by: &'static str,
    /// Time to live in caches, in seconds.
    pub ttl_s: u64,
    /// The region that it leads to, by what was done to it.
    pub leads_to: Option<Region>,
    /// The region that it is being moved to.
    pub moving_to: Option<Region>,
}

/// A target beside the writes.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ObservedView {
    /// Its name.
    pub name: String,
    /// Vantages that see it fail.
    pub failing: usize,
    /// Vantages that look.
    pub of: usize,
    /// A quorum sees it fail.
    pub down: bool,
    /// Class of a failure.
    pub class: String,
    /// `read`, `tcp`, `http`, `dns`; none when this configuration has no such target.
    pub kind: Option<&'static str>,
    /// The region that it is in, by its name or its address.
    pub region: Option<Region>,
    /// How long it takes, in the middle of what the vantages see.
    pub latency_ms: Option<u64>,
}

/// Why it waits.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct HoldView {
    /// The reason, by name.
    pub reason: &'static str,
    /// What for.
    pub detail: String,
    /// What releases it.
    pub release: String,
}

/// Marks of the open episode.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EpisodeView {
    /// Its id.
    pub id: String,
    /// Failover, switchover …
    pub kind: String,
    /// First failure, or the order.
    pub began_at: Timestamp,
    /// The newest commit before it: a report counts the recovery time from here.
    pub last_good_at: Option<Timestamp>,
    /// A quorum saw it.
    pub confirmed_at: Option<Timestamp>,
    /// The guards passed.
    pub decided_at: Option<Timestamp>,
    /// The new writer commits.
    pub promoted_at: Option<Timestamp>,
    /// The names are in sync.
    pub rerouted_at: Option<Timestamp>,
    /// A write through the public name.
    pub verified_at: Option<Timestamp>,
    /// The most that can be lost, in milliseconds.
    pub rpo_bound_ms: Option<u64>,
    /// What was lost by the heartbeat rows, in milliseconds.
    pub rpo_heartbeat_ms: Option<u64>,
}

/// A stored turn in brief.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TurnView {
    /// Whose.
    pub cluster: String,
    /// Version of the record.
    pub version: u64,
    /// When.
    pub at: Timestamp,
    /// Kind of event.
    pub event: &'static str,
    /// State before.
    pub from: String,
    /// State after.
    pub to: String,
    /// The rule, by name.
    pub rule: Rule,
    /// The rule, as a sentence.
    pub what: &'static str,
    /// Who brought the event.
    pub actor: String,
    /// Facts of the turn, beside its guards.
    pub detail: String,
    /// Guards that were asked.
    pub guards: Vec<GuardResult>,
    /// Of an order: its nonce.
    pub nonce: Option<String>,
    /// Of an order: what the operator was told.
    pub answer: Option<String>,
    /// The episode that was open, or that it closed.
    pub episode: Option<String>,
    /// How it ended, of the turn that closed it.
    pub outcome: Option<String>,
    /// The newest commit that a vantage saw before the turn.
    pub newest_ok: Option<Timestamp>,
    /// Something moved: worth a line in the story.
    pub moved: bool,
}

impl From<&HistoryRow> for TurnView {
    fn from(row: &HistoryRow) -> Self {
        let nonce = match &row.event.event {
            Event::Command(command) => Some(command.nonce.clone()),
            _ => None,
        };
        let facts = explain::facts(row).into_iter().filter(|fact| !fact.starts_with("guard "));
        Self {
            cluster: row.cluster.to_string(),
            version: row.version,
            at: row.at,
            event: row.event.event.name(),
            from: row.from.clone(),
            to: row.to.clone(),
            rule: row.rule,
            what: row.rule.sentence(),
            actor: row.actor.clone(),
            detail: facts.collect::<Vec<_>>().join("; "),
            guards: row.guards.clone(),
            nonce,
            answer: row.answer.clone(),
            episode: row.episode.as_ref().map(ToString::to_string),
            outcome: row.outcome.map(|outcome| explain::word(&outcome)),
            newest_ok: row.evidence.newest_ok,
            moved: row.verdict == Verdict::Moved,
        }
    }
}

impl Summary {
    /// Of what is known, at a time.
    #[must_use]
    pub fn of(known: &Known, now: Timestamp) -> Self {
        let record = &known.record;
        let (attention, notes) = attention(record);
        let policy = &record.config.policy;
        let vantages = policy.vantages.iter().map(|vantage| vantage_view(record, vantage, now)).collect();
        let lag = record.evidence.lag.iter().filter(|(region, _)| **region != record.primary);
        Self {
            cluster: record.cluster.to_string(),
            state: record.state.name(),
            since: record.state.since(),
            mode: record.mode.name(),
            primary: record.primary.clone(),
            epoch: record.epoch,
            version: known.version,
            at: known.at,
            live: known.live,
            attention,
            notes,
            vantages,
            lag: lag.map(|(region, lag)| LagView { region: region.clone(), ms: lag.ms, at: lag.at }).collect(),
        }
    }
}

fn vantage_view(record: &Record, vantage: &Vantage, now: Timestamp) -> VantageView {
    let track = record.evidence.tracks.get(vantage);
    let silent = track.is_none_or(|track| now.since_ms(track.last_seen) > record.config.policy.vantage_stale_after_ms);
    let sees = match track {
        Some(track) if !silent && track.isolated => "isolated",
        Some(track) if !silent && !track.failures.is_empty() => "failing",
        Some(_) if !silent => "ok",
        _ => "silent",
    };
    let class = match track {
        Some(track) if !track.failures.is_empty() => track.last_failure.clone(),
        Some(track) => track.connect_failure.clone().unwrap_or_default(),
        None => String::new(),
    };
    VantageView {
        name: vantage.clone(),
        sees,
        failures: track.map_or(0, |track| track.failures.len()),
        class,
        last_seen: track.map(|track| track.last_seen),
    }
}

/// How much it needs a human, and why.
fn attention(record: &Record) -> (u8, Vec<String>) {
    let mut notes: Vec<(u8, String)> = Vec::new();
    if let Some(hold) = &record.hold {
        notes.push((5, format!("holding: {}", hold.detail)));
    }
    if record.dual_writer.is_some() {
        notes.push((5, "a second member commits writes".into()));
    }
    if record.blind {
        notes.push((4, "blind: too few vantages can judge".into()));
    }
    if record.limit_latched {
        notes.push((4, "the limit of automatic failovers is reached".into()));
    }
    if record.exposed {
        notes.push((3, "exposed: no healthy secondary".into()));
    }
    if let Some(pause) = &record.paused {
        notes.push((2, format!("paused by {}: {}", pause.by, pause.reason)));
    }
    if !record.proven {
        notes.push((1, "never seen healthy yet".into()));
    }
    let state = match record.state.name() {
        "healthy" => 0,
        "stable" => 3,
        _ => 5,
    };
    let worst = notes.iter().map(|(level, _)| *level).max().unwrap_or(0).max(state);
    (worst, notes.into_iter().map(|(_, note)| note).collect())
}

impl Detail {
    /// Of what is known, at a time; `probes` are the targets beside the writes, as configured.
    #[must_use]
    pub fn of(known: &Known, probes: &[ProbeSettings], now: Timestamp) -> Self {
        let record = &known.record;
        let episode = record.episode.as_ref().map(|episode| EpisodeView {
            id: episode.id.to_string(),
            kind: explain::word(&episode.kind),
            began_at: episode.began_at,
            last_good_at: record.evidence.newest_ok.filter(|ok| *ok <= episode.began_at),
            confirmed_at: episode.confirmed_at,
            decided_at: episode.decided_at,
            promoted_at: episode.promoted_at,
            rerouted_at: episode.rerouted_at,
            verified_at: episode.verified_at,
            rpo_bound_ms: episode.rpo_bound_ms,
            rpo_heartbeat_ms: episode.rpo_heartbeat_ms,
        });
        Self {
            summary: Summary::of(known, now),
            members: record.config.members.iter().map(|member| member_view(known, member, now)).collect(),
            routes: record.config.routes.iter().map(|route| route_view(record, route)).collect(),
            observed: observed(record, probes, now),
            hold: record.hold.as_ref().map(|hold| HoldView {
                reason: hold.reason.name(),
                detail: hold.detail.clone(),
                release: hold.release.to_string(),
            }),
            obstacles: explain::obstacles(record, now),
            sentences: explain::record(record, now),
            episode,
            pending: record.pending.iter().map(|pending| explain::effect(&pending.effect)).collect(),
        }
    }
}

fn member_view(known: &Known, member: &Member, now: Timestamp) -> MemberView {
    let record = &known.record;
    let assessment = record.episode.as_ref().and_then(|episode| episode.assessment.as_ref());
    let facts = assessment.and_then(|assessment| assessment.member(&member.arn)?.cluster.as_ref());
    MemberView {
        region: member.region.clone(),
        primary: member.region == record.primary,
        endpoint: member.endpoint.clone(),
        second_writer: record.dual_writer.as_ref().is_some_and(|dual| dual.region == member.region),
        condition: condition(known, member, now),
        instances: facts.map(|facts| facts.instances),
        status: facts.map(|facts| facts.status.clone()),
    }
}

/// How a member is, see [`MemberView::condition`].
fn condition(known: &Known, member: &Member, now: Timestamp) -> &'static str {
    let record = &known.record;
    if member.region == record.primary {
        let failing = record.evidence.tracks.values().any(|track| !track.failures.is_empty());
        return match record.state {
            State::Healthy => "serving",
            _ if record.evidence.confirms_down(&record.config, now).reached() => "unreachable",
            State::ConfirmedDown { .. } | State::Promoting { .. } if failing => "unreachable",
            _ if failing => "failing",
            _ => "serving",
        };
    }
    if matches!(&record.state, State::Promoting { target, .. } if *target == member.region) {
        return "becoming-writer";
    }
    let promoted = record.episode.as_ref().and_then(|episode| Some((episode.kind, episode.promoted_at?)));
    let Some((kind, promoted_at)) = promoted else {
        return if record.evidence.lag.contains_key(&member.region) { "replicating" } else { "behind" };
    };
    // A replica again by its lag after the promotion, or because RDS calls the only other member one.
    let two = record.config.members.len() == 2;
    let lag = record.evidence.lag.get(&member.region);
    if lag.is_some_and(|lag| lag.at > promoted_at) || (two && !record.exposed) {
        return "replicating";
    }
    let was_writer = known.old_primary.as_ref().map_or(two, |old| *old == member.region);
    if was_writer && kind == EpisodeKind::Failover { "old-writer" } else { "behind" }
}

fn route_view(record: &Record, route: &Route) -> RouteView {
    let region_of = |endpoint: &str| {
        let member = record.config.members.iter().find(|member| member.endpoint == endpoint);
        member.map(|member| member.region.clone())
    };
    let change = record.pending.iter().find_map(|pending| match &pending.effect {
        Effect::Reroute { changes, .. } => changes.iter().find(|change| change.name == route.name),
        _ => None,
    });
    let ahead = record.episode.as_ref().is_some_and(|episode| episode.names_ahead);
    let (leads_to, moving_to) = match (change, &record.state) {
        // Asked for is not done: clients go where it led before.
        (Some(change), _) => (region_of(&change.from), region_of(&change.to)),
        (None, State::Promoting { target, .. }) if ahead => (Some(target.clone()), None),
        (None, _) => (Some(record.primary.clone()), None),
    };
    RouteView {
        name: route.name.clone(),
        by: match route.by {
            RouteBy::Record => "record",
            RouteBy::HealthCheck { .. } => "health-check",
            RouteBy::Arc { .. } => "arc",
        },
        ttl_s: route.ttl_s,
        leads_to,
        moving_to,
    }
}

fn observed(record: &Record, probes: &[ProbeSettings], now: Timestamp) -> Vec<ObservedView> {
    let seen = record.evidence.observed.iter().map(|(name, sights)| {
        let failing: Vec<_> = sights.values().filter(|sight| sight.failing_since.is_some()).collect();
        let mut times: Vec<u64> = sights.values().map(|sight| sight.latency_ms).collect();
        times.sort_unstable();
        let settings = probes.iter().find(|probe| probe.name == *name);
        ObservedView {
            name: name.clone(),
            failing: failing.len(),
            of: sights.len(),
            down: record.evidence.is_failing(name, &record.config.policy, now),
            class: failing.first().map(|sight| sight.last_failure.clone()).unwrap_or_default(),
            kind: settings.map(|probe| match probe.kind {
                ProbeKind::Read { .. } => "read",
                ProbeKind::Tcp { .. } => "tcp",
                ProbeKind::Http(_) => "http",
                ProbeKind::Dns { .. } => "dns",
            }),
            region: region_of_probe(record, name, settings),
            latency_ms: times.get(times.len() / 2).copied(),
        }
    });
    seen.collect()
}

/// By the member whose endpoint it looks at, else by a region's name in its own name or in its address.
fn region_of_probe(record: &Record, name: &str, settings: Option<&ProbeSettings>) -> Option<Region> {
    let address = settings.map(|probe| match &probe.kind {
        ProbeKind::Read { endpoint } => endpoint.clone(),
        ProbeKind::Tcp { host, .. } => host.clone(),
        ProbeKind::Http(page) => page.url.to_string(),
        // Where a public name leads is not where it is.
        ProbeKind::Dns { .. } => String::new(),
    });
    let address = address.unwrap_or_default();
    let at = |member: &&Member| address.trim_end_matches('.') == member.endpoint.trim_end_matches('.');
    let named = |member: &&Member| name.contains(member.region.as_str()) || address.contains(member.region.as_str());
    let members = &record.config.members;
    members.iter().find(at).or_else(|| members.iter().find(named)).map(|member| member.region.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use statemachine::{EffectId, Episode, Lag, Mode, Pending, RecordChange, Track};
    use std::sync::Arc;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_000_000);
    const SECOND: Duration = Duration::from_secs(1);
    const OLD: &str = "us-east-2";
    const NEW: &str = "us-west-2";

    fn known(change: impl FnOnce(&mut Record)) -> Known {
        let text = include_str!("../../aurora-failover.example.toml");
        let settings = config::parse(text, "example", |_| None).expect("the example is valid");
        let cluster = settings.clusters.into_iter().next().expect("it has one");
        let mut record = Record::new(cluster.id, cluster.config, Mode::Auto, NOW);
        record.state = State::Healthy;
        change(&mut record);
        Known { version: 1, record: Arc::new(record), at: NOW, live: true, old_primary: None }
    }

    fn endpoint(record: &Record, region: &str) -> String {
        record.config.member(&region.into()).expect("a member").endpoint.clone()
    }

    /// An episode whose target is promoted; its names are still to be moved when `names_pending`.
    fn promoted(record: &mut Record, names_pending: bool) {
        let episode =
            serde_json::json!({ "id": "orders-1-1", "began-at": 1, "kind": "failover", "promoted-at": 900_000 });
        record.episode = Some(serde_json::from_value::<Episode>(episode).expect("an episode"));
        record.primary = NEW.into();
        record.exposed = true;
        record.state = State::Rerouting { since: NOW };
        if names_pending {
            let route = record.config.routes[0].clone();
            let change = RecordChange {
                zone: route.zone.clone(),
                name: route.name.clone(),
                ttl_s: route.ttl_s,
                from: endpoint(record, OLD),
                to: endpoint(record, NEW),
                by: route.by,
            };
            record.pending = vec![Pending {
                id: EffectId(1),
                effect: Effect::Reroute { changes: vec![change], overlap: None },
                issued_at: NOW,
                not_before: NOW,
                deadline: NOW,
                attempts: 0,
                claim: None,
                ever_claimed: true,
                under_way: false,
            }];
        }
    }

    fn leads(known: &Known) -> (Option<String>, Option<String>) {
        let detail = Detail::of(known, &[], NOW);
        let text = |region: &Option<Region>| region.as_ref().map(ToString::to_string);
        (text(&detail.routes[0].leads_to), text(&detail.routes[0].moving_to))
    }

    fn conditions(known: &Known) -> Vec<&'static str> {
        Detail::of(known, &[], NOW).members.iter().map(|member| member.condition).collect()
    }

    #[test]
    fn a_name_leads_to_where_it_was_put_and_not_to_where_the_writer_is() {
        assert_eq!(leads(&known(|_| {})), (Some(OLD.into()), None));
        let not_rerouted = known(|record| promoted(record, true));
        assert_eq!(leads(&not_rerouted), (Some(OLD.into()), Some(NEW.into())));
        assert_eq!(leads(&known(|record| promoted(record, false))), (Some(NEW.into()), None));
        let ahead = known(|record| {
            promoted(record, false);
            record.primary = OLD.into();
            record.state = State::Promoting { since: NOW, target: NEW.into() };
            let episode = record.episode.as_mut().expect("it is open");
            (episode.promoted_at, episode.names_ahead, episode.rerouted_at) = (None, true, Some(NOW));
        });
        assert_eq!(leads(&ahead), (Some(NEW.into()), None));
        assert_eq!(conditions(&ahead)[1], "becoming-writer");
    }

    #[test]
    fn an_old_writer_is_one_until_it_replicates() {
        let lag = |record: &mut Record, at| record.evidence.lag.insert(OLD.into(), Lag { ms: 5, at });
        assert_eq!(conditions(&known(|record| promoted(record, true))), ["old-writer", "serving"]);
        let before = known(|record| {
            promoted(record, false);
            lag(record, Timestamp(899_999));
        });
        assert_eq!(conditions(&before), ["old-writer", "serving"], "what it said before says nothing");
        let after = known(|record| {
            promoted(record, false);
            lag(record, Timestamp(900_001));
        });
        assert_eq!(conditions(&after), ["replicating", "serving"]);
        let down = known(|record| {
            record.state = State::ConfirmedDown { since: NOW };
            let track = Track { failures: vec![NOW], ..Track::default() };
            record.evidence.tracks.insert("us-west-2".into(), track);
        });
        assert_eq!(conditions(&down)[0], "unreachable");
    }

    #[test]
    fn a_target_stands_in_the_region_that_its_name_or_address_tells() {
        let one = known(|_| {});
        let probe = |name: &str, endpoint: String| ProbeSettings {
            name: name.into(),
            kind: ProbeKind::Read { endpoint },
            rhythm: config::Rhythm { interval: SECOND, timeout: SECOND, jitter: SECOND },
        };
        let own = probe("checkout", endpoint(&one.record, NEW));
        let region = |name: &str, settings: Option<&ProbeSettings>| {
            region_of_probe(&one.record, name, settings).map(|region| region.to_string())
        };
        assert_eq!(region("checkout", Some(&own)).as_deref(), Some(NEW));
        assert_eq!(region("website us-east-2", None).as_deref(), Some(OLD));
        let named = probe("shop", "shop.us-east-2.example.com".into());
        assert_eq!(region("shop", Some(&named)).as_deref(), Some(OLD));
        assert_eq!(region("public name", None), None);
    }
}
