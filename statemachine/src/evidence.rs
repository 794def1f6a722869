//! What the vantages saw, bounded: a few numbers per vantage, however many probes come.
//!
//! Probes are facts; the verdicts are drawn here and only here: [`Evidence::confirms_down`],
//! [`Evidence::recovered`], [`Evidence::is_blind`]. Silence is never evidence: a vantage that is not heard
//! of is not live and counts neither way.

use crate::{
    Config, LagReading, Observation, Policy, Probe, ProbeOutcome, Reason, Region, SelfCheck, Timestamp, Vantage,
};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Failure times kept per vantage; more would decide nothing.
const FAILURES_KEPT: usize = 16;

/// The window of probe facts about the current primary.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Evidence {
    /// One track per configured vantage that was heard of.
    pub tracks: BTreeMap<Vantage, Track>,
    /// Since when whoever holds this evidence hears all vantages; before, it knows of what was stored only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening_since: Option<Timestamp>,
    /// While sight is lost: the newest moment at which too few vantages were live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_at: Option<Timestamp>,
    /// Newest counted success by any vantage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_ok: Option<Timestamp>,
    /// Alarms in alarm, and since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alarms: BTreeMap<String, Timestamp>,
    /// What the vantages last saw of each target of another kind than a write, by the probe's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub observed: BTreeMap<String, BTreeMap<Vantage, Sight>>,
    /// Last known replication lag per secondary region.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lag: BTreeMap<Region, Lag>,
}

/// What one vantage saw.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Track {
    /// Run of the canary.
    pub incarnation: String,
    /// Highest sequence seen from that run, for the primary.
    pub sequence: u64,
    /// Time of its newest probe.
    pub last_seen: Timestamp,
    /// It cannot reach its neutral targets.
    pub isolated: bool,
    /// When the first of `failures` began; nobody has seen a success since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// Verdict times of the failures since the newest success by anyone, oldest first, bounded.
    pub failures: Vec<Timestamp>,
    /// Class of the newest failure.
    pub last_failure: String,
    /// It commits, and a new session was refused when one was last tried: the class of that failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_failure: Option<String>,
    /// Good probes in a row since its last failure or since the suspicion began.
    pub good: u32,
    /// It fails while a quorum succeeds: its failures alone raise no new suspicion.
    pub outvoted: bool,
}

impl Track {
    fn clear(&mut self) {
        self.failing_since = None;
        self.failures.clear();
        self.good = 0;
    }
}

/// What one vantage last saw of one observed target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Sight {
    /// Run of the canary.
    pub incarnation: String,
    /// Highest sequence seen from that run.
    pub sequence: u64,
    /// Time of its newest probe.
    pub last_seen: Timestamp,
    /// Since when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// Class of the newest failure.
    pub last_failure: String,
    /// How long the newest probe took.
    pub latency_ms: u64,
}

/// A replication lag reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Lag {
    /// Milliseconds behind.
    pub ms: u64,
    /// When it was read.
    pub at: Timestamp,
}

/// A vote of the vantages, with its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    /// Votes that are needed.
    pub needed: u32,
    /// Vantages that can vote now.
    pub live: u32,
    /// Those that voted for it.
    pub votes: Vec<Vantage>,
    /// Votes that alarms add.
    pub alarm_votes: u32,
    /// Votes that probes of other kinds add.
    pub observed_votes: u32,
}

impl Quorum {
    /// Enough votes.
    #[must_use]
    pub fn reached(&self) -> bool {
        let added = u64::from(self.alarm_votes) + u64::from(self.observed_votes);
        !self.votes.is_empty() && self.votes.len() as u64 + added >= u64::from(self.needed)
    }
}

/// What became of a probe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    /// It counts as a success.
    Ok,
    /// It counts as a failure.
    Failed {
        /// The vantage was not already known to fail alone.
        suspicious: bool,
    },
    /// A member that is not the primary committed a write.
    SecondWriter,
    /// It does not count, but told the lag of a region for the first time.
    FirstLag,
    /// It does not count.
    Ignored(Reason),
}

/// What became of an observation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// It was taken in.
    Noted,
    /// The target fails now for a quorum, or does not any more.
    Turned,
    /// It does not count.
    Ignored(Reason),
}

impl Evidence {
    /// Takes one probe in.
    pub(crate) fn take(
        &mut self,
        probe: &Probe,
        at: Timestamp,
        config: &Config,
        primary: &Region,
        now: Timestamp,
        outage_began_at: Option<Timestamp>,
    ) -> Intake {
        let policy = &config.policy;
        if !policy.vantages.contains(&probe.vantage) {
            return Intake::Ignored(Reason::UnknownVantage);
        }
        if now.since_ms(at) > policy.event_age_max_ms {
            return Intake::Ignored(Reason::Stale);
        }
        if at.since_ms(now) > policy.event_ahead_max_ms {
            return Intake::Ignored(Reason::FromTheFuture);
        }
        if probe.target != *primary {
            if config.member(&probe.target).is_none() {
                return Intake::Ignored(Reason::NotThePrimary);
            }
            if probe.outcome == ProbeOutcome::Ok {
                return Intake::SecondWriter;
            }
            let read = probe.lag_ms.map(|ms| LagReading { region: probe.target.clone(), ms, measured_at: at });
            let bounds_loss = |read: &LagReading| Self::bounds_loss(read, outage_began_at);
            return match read.filter(bounds_loss) {
                Some(read) if self.take_lag(&read) => Intake::FirstLag,
                _ => Intake::Ignored(Reason::NotThePrimary),
            };
        }
        let track = match self.tracks.get_mut(&probe.vantage) {
            Some(track) => track,
            None => self.tracks.entry(probe.vantage.clone()).or_default(),
        };
        if track.incarnation != probe.incarnation {
            // A restarted canary counts anew; a straggler of the old run is older than what was seen.
            if at < track.last_seen {
                return Intake::Ignored(Reason::Duplicate);
            }
            track.incarnation.clone_from(&probe.incarnation);
        } else if probe.sequence <= track.sequence {
            return Intake::Ignored(Reason::Duplicate);
        }
        if at.since_ms(track.last_seen) > policy.vantage_stale_after_ms {
            // Silence is not evidence: after a gap the window starts from zero.
            track.clear();
        }
        track.sequence = probe.sequence;
        track.last_seen = track.last_seen.max(at);
        if probe.connect_ms.is_some() || probe.connect_failure.is_some() {
            track.connect_failure.clone_from(&probe.connect_failure);
        }
        track.isolated = probe.self_check == SelfCheck::Failed && probe.outcome != ProbeOutcome::Ok;
        if track.isolated {
            track.clear();
            return Intake::Ignored(Reason::VantageIsolated);
        }
        match &probe.outcome {
            ProbeOutcome::Ok => {
                track.good = track.good.saturating_add(1);
                track.outvoted = false;
                self.newest_ok = self.newest_ok.max(Some(at));
                // A success by anyone voids older failures by everyone: slow or unreachable for some is not down.
                for track in self.tracks.values_mut() {
                    track.failures.retain(|failed| *failed > at);
                    track.failing_since = (!track.failures.is_empty()).then_some(at);
                }
                Intake::Ok
            }
            ProbeOutcome::Failed { class } => {
                track.good = 0;
                track.last_failure.clone_from(class);
                if self.newest_ok.is_none_or(|ok| at > ok) {
                    if track.failures.len() == FAILURES_KEPT {
                        track.failures.remove(0);
                    }
                    track.failures.push(at);
                    // The target did not commit while the probe waited either.
                    let began_at = Timestamp(at.0.saturating_sub(probe.latency_ms));
                    track.failing_since.get_or_insert(began_at.max(self.newest_ok.unwrap_or(began_at)));
                }
                Intake::Failed { suspicious: !track.outvoted }
            }
        }
    }

    /// After the fault the lag only grows with the outage; the last value before it bounds the loss.
    pub(crate) fn bounds_loss(reading: &LagReading, outage_began_at: Option<Timestamp>) -> bool {
        outage_began_at.is_none_or(|began_at| reading.measured_at <= began_at)
    }

    /// Keeps the newest reading; true when it is the first one of that region.
    pub(crate) fn take_lag(&mut self, reading: &LagReading) -> bool {
        let read = Lag { ms: reading.ms, at: reading.measured_at };
        match self.lag.get_mut(&reading.region) {
            Some(lag) if lag.at < read.at => *lag = read,
            Some(_) => {}
            None => return self.lag.insert(reading.region.clone(), read).is_none(),
        }
        false
    }

    /// Takes in what a vantage saw of an observed target.
    pub(crate) fn observe(&mut self, seen: &Observation, at: Timestamp, config: &Config, now: Timestamp) -> Sighting {
        let policy = &config.policy;
        if !policy.vantages.contains(&seen.vantage) {
            return Sighting::Ignored(Reason::UnknownVantage);
        }
        if !config.probes.iter().any(|probe| probe.name == seen.name) {
            return Sighting::Ignored(Reason::NotOurs);
        }
        if seen.self_check == SelfCheck::Failed && seen.outcome != ProbeOutcome::Ok {
            return Sighting::Ignored(Reason::VantageIsolated);
        }
        let failed_before = self.is_failing(&seen.name, policy, now);
        let sight = self.observed.entry(seen.name.clone()).or_default().entry(seen.vantage.clone()).or_default();
        let straggles =
            if sight.incarnation == seen.incarnation { seen.sequence <= sight.sequence } else { at < sight.last_seen };
        if straggles {
            return Sighting::Ignored(Reason::Duplicate);
        }
        if at.since_ms(sight.last_seen) > policy.vantage_stale_after_ms {
            sight.failing_since = None;
        }
        sight.incarnation.clone_from(&seen.incarnation);
        sight.sequence = seen.sequence;
        sight.last_seen = sight.last_seen.max(at);
        sight.latency_ms = seen.latency_ms;
        match &seen.outcome {
            ProbeOutcome::Ok => sight.failing_since = None,
            ProbeOutcome::Failed { class } => {
                sight.failing_since.get_or_insert(at);
                sight.last_failure.clone_from(class);
            }
        }
        if self.is_failing(&seen.name, policy, now) == failed_before { Sighting::Noted } else { Sighting::Turned }
    }

    /// Does a quorum see this target fail?
    #[must_use]
    pub fn is_failing(&self, name: &str, policy: &Policy, now: Timestamp) -> bool {
        self.fails_for_quorum(name, policy, now, |_| true)
    }

    fn fails_for_quorum(
        &self,
        name: &str,
        policy: &Policy,
        now: Timestamp,
        counts: impl Fn(Timestamp) -> bool,
    ) -> bool {
        let fresh = |sight: &&Sight| now.since_ms(sight.last_seen) <= policy.vantage_stale_after_ms;
        let failing = |sight: &&Sight| sight.failing_since.is_some_and(&counts);
        let sights = self.observed.get(name).into_iter().flat_map(BTreeMap::values);
        sights.filter(fresh).filter(failing).count() as u64 >= u64::from(policy.quorum)
    }

    /// A suspicion begins: recovery is counted from here.
    pub(crate) fn begin_suspicion(&mut self) {
        for track in self.tracks.values_mut() {
            track.good = 0;
        }
    }

    /// A suspicion is averted: whoever still fails is outvoted.
    pub(crate) fn outvote_failing(&mut self) {
        for track in self.tracks.values_mut() {
            track.outvoted = track.good == 0;
        }
    }

    /// Starts anew: for another primary, or after a pause.
    pub(crate) fn reset(&mut self) {
        self.alarms.clear();
        for track in self.tracks.values_mut() {
            track.clear();
            track.outvoted = false;
        }
        for sight in self.observed.values_mut().flat_map(BTreeMap::values_mut) {
            sight.failing_since = None;
        }
        self.newest_ok = None;
    }

    /// Vantages heard of lately and not cut off themselves.
    fn live<'a>(&'a self, policy: &'a Policy, now: Timestamp) -> impl Iterator<Item = (&'a Vantage, &'a Track)> {
        self.tracks
            .iter()
            .filter(move |(_, track)| !track.isolated && now.since_ms(track.last_seen) <= policy.vantage_stale_after_ms)
    }

    fn vote(&self, policy: &Policy, now: Timestamp, for_it: impl Fn(&Track) -> bool) -> Quorum {
        Quorum {
            needed: policy.quorum,
            live: self.live(policy, now).count() as u32,
            votes: self.live(policy, now).filter(|(_, t)| for_it(t)).map(|(v, _)| v.clone()).collect(),
            alarm_votes: 0,
            observed_votes: 0,
        }
    }

    /// Is the primary down? Each voter has seen enough failures over enough time, all newer than any success.
    /// Alarms and observed failures newer than any success add their weight, but never vote alone.
    #[must_use]
    pub fn confirms_down(&self, config: &Config, now: Timestamp) -> Quorum {
        let policy = &config.policy;
        let mut quorum = self.vote(policy, now, |track| match (track.failing_since, track.failures.last()) {
            (Some(since), Some(last)) => {
                track.failures.len() as u64 >= u64::from(policy.failures_min)
                    && last.since_ms(since) >= policy.confirm_after_ms
            }
            _ => false,
        });
        let is_news = |at: Timestamp| self.newest_ok.is_none_or(|ok| at > ok);
        let alarms = config.alarms.iter().filter(|alarm| self.alarms.get(&alarm.name).copied().is_some_and(is_news));
        quorum.alarm_votes = alarms.map(|alarm| alarm.weight).fold(0, u32::saturating_add);
        let failing = config.probes.iter().filter(|probe| self.fails_for_quorum(&probe.name, policy, now, is_news));
        quorum.observed_votes = failing.map(|probe| probe.weight).fold(0, u32::saturating_add);
        quorum
    }

    /// Notes an alarm; false when nothing changed.
    pub(crate) fn take_alarm(&mut self, name: &str, in_alarm: bool, at: Timestamp) -> bool {
        if in_alarm { self.alarms.insert(name.into(), at) != Some(at) } else { self.alarms.remove(name).is_some() }
    }

    /// Is the primary back? Each voter has seen enough good probes in a row.
    #[must_use]
    pub fn recovered(&self, policy: &Policy, now: Timestamp) -> Quorum {
        self.vote(policy, now, |track| track.good >= policy.recover_after)
    }

    /// Whoever embeds the machine says since when it has heard every probe: quiet evidence is rarely stored, and a
    /// vantage that could not have been heard yet is not silent.
    pub const fn listen_since(&mut self, since: Timestamp) {
        self.listening_since = Some(since);
    }

    /// Sight that was lost is back only when enough vantages have been live without a break for as long as one may be
    /// silent: else every late probe on a busy machine would be told as two changes. What is judged meanwhile is judged
    /// by [`Self::is_blind`].
    pub(crate) fn still_blind(&mut self, policy: &Policy, now: Timestamp) -> bool {
        if self.is_blind(policy, now) {
            self.lost_sight(policy, now);
            return true;
        }
        let waits = self.blind_at.is_some_and(|at| now.since_ms(at) < policy.vantage_stale_after_ms);
        if !waits {
            self.blind_at = None;
        }
        waits
    }

    /// Keeps the moment in mind, if too few are live now and sight was lost before.
    pub(crate) fn lost_sight(&mut self, policy: &Policy, now: Timestamp) {
        if self.blind_at.is_some() && self.is_blind(policy, now) {
            self.blind_at = Some(now);
        }
    }

    /// Too few live vantages to judge.
    #[must_use]
    pub fn is_blind(&self, policy: &Policy, now: Timestamp) -> bool {
        let stale = |at: Timestamp| now.since_ms(at) > policy.vantage_stale_after_ms;
        let just_begun = self.listening_since.is_some_and(|since| !stale(since));
        let counts = |vantage: &&Vantage| match self.tracks.get(*vantage) {
            Some(track) if stale(track.last_seen) => just_begun,
            Some(track) => !track.isolated,
            None => just_begun,
        };
        (policy.vantages.iter().filter(counts).count() as u64) < u64::from(policy.quorum)
    }
}
