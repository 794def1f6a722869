//! What is true in the simulated world: stored items, queues, RDS, DNS, databases. No faults here; they happen on the
//! way (`net.rs`). Everything that the product may never do is noted as a violation at the moment it is done.

use aurora_failover::audit;
use aurora_failover::s3::Object;
use aurora_failover::store::{HistoryRow, Item};
use statemachine::{Effect, How, Mode, Record, State, Timestamp, Way};
use std::collections::BTreeMap;

pub(crate) const EAST: &str = "us-east-2";
pub(crate) const WEST: &str = "us-west-2";
pub(crate) const REGIONS: [&str; 2] = [EAST, WEST];
/// A cluster whose record this software cannot read.
pub(crate) const NEWER: &str = "newer";
pub(crate) const NAME: &str = "db.orders.example.com.";

/// Deliveries after which SQS moves a message away.
const RECEIVES_MAX: u32 = 5;

/// How long a received message is hidden.
const VISIBILITY_MS: u64 = 10_000;

/// A failover or switchover that RDS is carrying out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) to: &'static str,
    pub(crate) done_at: u64,
    pub(crate) planned: bool,
    /// A controller called it.
    pub(crate) ours: bool,
    /// RDS will give it up in the end.
    pub(crate) fails: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) id: u64,
    pub(crate) body: String,
    pub(crate) visible_at: u64,
    receives: u32,
}

pub(crate) struct Truth {
    /// Milliseconds since the start.
    pub(crate) now: u64,
    pub(crate) item: Option<Item>,
    pub(crate) rows: BTreeMap<u64, HistoryRow>,
    lease: Option<(String, Timestamp)>,
    /// Everybody gets it: nothing may depend on it.
    pub(crate) lease_is_broken: bool,
    /// Evidence, operator.
    pub(crate) queues: [Vec<Message>; 2],
    pub(crate) buried: u64,
    messages: u64,
    pub(crate) up: BTreeMap<&'static str, bool>,
    pub(crate) hung: bool,
    pub(crate) writer: &'static str,
    pub(crate) moving: Option<Move>,
    /// The region that still takes writes though it is not the writer any more, and until when.
    pub(crate) second_writer: Option<(&'static str, u64)>,
    /// The other region replicates from then on.
    pub(crate) in_step_at: u64,
    /// Calls that RDS accepted from controllers, with the stored epoch at that moment.
    pub(crate) accepted: Vec<(u64, &'static str)>,
    /// Somebody else moved the writer, or a name.
    pub(crate) meddled: bool,
    /// The record in Route 53, and what the name servers answer until they are in sync.
    pub(crate) record: String,
    /// The object that the health check reads, where that moves the name.
    pub(crate) object: Option<Object>,
    pub(crate) answered: String,
    pub(crate) changes: Vec<u64>,
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Vec<String>,
}

pub(crate) fn arn(region: &str) -> String {
    format!("arn:aws:rds:{region}:123456789012:cluster:orders-{region}")
}

pub(crate) fn endpoint(region: &str) -> String {
    format!("orders.{region}.rds.example.com.")
}

pub(crate) fn region_of(text: &str) -> Option<&'static str> {
    REGIONS.into_iter().find(|region| text.contains(region))
}

impl Truth {
    pub(crate) fn new() -> Self {
        Self {
            now: 0,
            item: None,
            rows: BTreeMap::new(),
            lease: None,
            lease_is_broken: false,
            queues: [Vec::new(), Vec::new()],
            buried: 0,
            messages: 0,
            up: REGIONS.map(|region| (region, true)).into(),
            hung: false,
            writer: EAST,
            moving: None,
            second_writer: None,
            in_step_at: 0,
            accepted: Vec::new(),
            meddled: false,
            record: endpoint(EAST),
            object: None,
            answered: endpoint(EAST),
            changes: Vec::new(),
            violations: Vec::new(),
            trace: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, line: &str) {
        self.trace.push(format!("{:>9.3} {line}", self.now as f64 / 1000.0));
    }

    pub(crate) fn violation(&mut self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        self.violations.push(what);
    }

    fn is_up(&self, region: &str) -> bool {
        self.up.get(region).copied().unwrap_or(false)
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.item.as_ref().map(|item| &item.record)
    }

    /// Time has come to `now`: what RDS and DNS were about to do is done.
    pub(crate) fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        if let Some(moving) = self.moving.clone() {
            let ready = self.is_up(moving.to) && (!moving.planned || self.is_up(self.writer));
            if (moving.planned && !ready) || (moving.fails && now >= moving.done_at) {
                self.note(&format!("rds: the move to {} is given up", moving.to));
                self.moving = None;
                // It did not move anything: it does not count for its epoch.
                if moving.ours {
                    self.accepted.pop();
                }
            } else if ready && now >= moving.done_at {
                let old = self.writer;
                self.note(&format!("rds: {} is the writer", moving.to));
                self.moving = None;
                self.writer = moving.to;
                self.in_step_at = now + if moving.planned { 0 } else { 20_000 };
                // A region that cannot be reached cannot be fenced: it goes on for a while when it is back.
                self.second_writer = (!moving.planned && !self.is_up(old)).then_some((old, u64::MAX));
            }
        }
        if self.second_writer.is_some_and(|(_, until)| now >= until) {
            self.note("rds: the old writer is fenced");
            self.second_writer = None;
        }
        if self.changes.iter().all(|at| now >= *at) && self.answered != self.record {
            self.answered = self.record.clone();
            self.note(&format!("dns: answers {}", self.answered));
        }
    }

    pub(crate) fn set_up(&mut self, region: &'static str, up: bool) {
        self.note(&format!("world: {region} {}", if up { "returns" } else { "vanishes" }));
        self.up.insert(region, up);
        if up {
            self.in_step_at = self.in_step_at.max(self.now + 10_000);
            if let Some((old, until)) = &mut self.second_writer
                && *old == region
            {
                *until = self.now + 8_000;
            }
        }
    }

    pub(crate) fn commits(&self, region: &str) -> bool {
        let writes = self.writer == region || self.second_writer.is_some_and(|(old, _)| old == region);
        self.is_up(region) && writes && !(self.hung && self.writer == region)
    }

    // ---- queue -----------------------------------------------------------------------------------------------

    pub(crate) fn send(&mut self, queue: usize, body: String, visible_at: u64) {
        self.messages += 1;
        self.queues[queue].push(Message { id: self.messages, body, visible_at, receives: 0 });
    }

    /// Up to ten visible messages, beginning anywhere.
    pub(crate) fn receive(&mut self, queue: usize, from: usize) -> Vec<Message> {
        let now = self.now;
        let messages = &mut self.queues[queue];
        let before = messages.len();
        messages.retain(|m| m.receives < RECEIVES_MAX || m.visible_at > now);
        self.buried += (before - messages.len()) as u64;
        let count = messages.len();
        let mut received = Vec::new();
        for index in 0..count {
            let message = &mut messages[(from + index) % count];
            if message.visible_at <= now && received.len() < 10 {
                message.visible_at = now + VISIBILITY_MS;
                message.receives += 1;
                received.push(message.clone());
            }
        }
        received
    }

    pub(crate) fn delete(&mut self, queue: usize, receipts: &[String]) {
        self.queues[queue].retain(|m| !receipts.contains(&m.id.to_string()));
    }

    pub(crate) fn next_visible_at(&self, queue: usize) -> Option<u64> {
        self.queues[queue].iter().map(|m| m.visible_at).min()
    }

    // ---- store -----------------------------------------------------------------------------------------------

    /// Answers whether the version was the next one, or the write our own.
    pub(crate) fn commit(&mut self, item: &Item) -> bool {
        let stored = self.item.as_ref();
        if stored.is_some_and(|stored| stored.decision_id == item.decision_id) {
            return true;
        }
        if item.version != stored.map_or(0, |stored| stored.version) + 1 {
            return false;
        }
        let (from, to) = (item.row.from.clone(), item.row.to.clone());
        let moved = if from == to { to } else { format!("{from} -> {to}") };
        self.note(&format!("store: version {} {moved}: {}", item.version, item.row.rule.sentence()));
        self.check_commit(item);
        self.item = Some(item.clone());
        true
    }

    pub(crate) fn lease(&mut self, holder: &str, now: Timestamp, until: Timestamp) -> bool {
        let free = self.lease.as_ref().is_none_or(|(other, expires_at)| other == holder || *expires_at <= now);
        if free && self.lease.as_ref().is_none_or(|(other, _)| other != holder) {
            self.note(&format!("lease: {holder}"));
        }
        if free {
            self.lease = Some((holder.to_owned(), until));
        }
        free || self.lease_is_broken
    }

    fn check_commit(&mut self, item: &Item) {
        let after = &item.record;
        if let Err(violation) = statemachine::invariants::check(after) {
            self.violation(violation.to_string());
        }
        let entered_stable = item.row.from != "stable" && matches!(after.state, State::Stable { .. });
        let proven = self.answered == endpoint(self.writer) && after.primary.as_str() == self.writer;
        if entered_stable && !proven && !self.meddled {
            self.violation("I3: stable, and the name does not lead to the writer".into());
        }
        let before = self.item.as_ref().map(|stored| stored.record.clone());
        for id in &item.row.claimed {
            let first = before.as_ref().and_then(|b| b.pending(*id)).is_some_and(|p| !p.ever_claimed);
            let Some(pending) = after.pending(*id).filter(|_| first) else { continue };
            if !matches!(pending.effect, Effect::Promote { how: How::Failover, .. }) {
                continue;
            }
            let episode = after.episode.as_ref();
            let human = episode.is_some_and(|e| e.ordered.is_some() || e.approval.is_some());
            let ordered = episode.is_some_and(|e| e.ordered.is_some());
            let confirmed = after.evidence.confirms_down(&after.config, item.row.at.max(after.last_now)).reached();
            if after.paused.is_some() || after.mode == Mode::Observe || (after.mode == Mode::Approve && !human) {
                self.violation("I4: a promotion is claimed by a machine that may not act".into());
            }
            if !ordered && !confirmed {
                self.violation("I4: a promotion is claimed that the evidence does not confirm".into());
            }
        }
    }

    pub(crate) fn append(&mut self, row: &HistoryRow) {
        self.rows.entry(row.version).or_insert_with(|| row.clone());
    }

    // ---- RDS and Route 53 ------------------------------------------------------------------------------------

    /// I1 and I2, when a controller's call arrives.
    pub(crate) fn accept(&mut self, to: &'static str, planned: bool, takes_ms: u64, fails: bool) {
        let epoch = self.record().map_or(0, |record| record.epoch.0);
        let asked_for = self.record().is_some_and(|record| {
            let is_it = |effect: &Effect| matches!(effect, Effect::Promote { region, .. } if region.as_str() == to);
            let stored = record.pending.iter().find(|p| is_it(&p.effect) && p.ever_claimed);
            stored.is_some_and(|p| self.rows.values().any(|row| row.claimed.contains(&p.id)))
        });
        if !asked_for {
            self.violation(format!("I2: a promotion of {to} is called that no stored decision and row ask for"));
        }
        // Who undoes by hand what was done cannot be told from who never did it, when the reply was lost too.
        if self.accepted.iter().any(|(other, _)| *other == epoch) && !self.meddled {
            self.violation(format!("I1: a second promotion is accepted in epoch {epoch}"));
        }
        self.note(&format!("rds: accepted the move to {to} in epoch {epoch}"));
        self.accepted.push((epoch, to));
        self.moving = Some(Move { to, done_at: self.now + takes_ms, planned, ours: true, fails });
    }

    /// Are the names on their way back from a promotion that was given up?
    fn going_back(&self) -> bool {
        let is_back =
            |effect: &Effect| matches!(effect, Effect::Reroute { overlap: Some(o), .. } if o.way == Way::Back);
        self.record().is_some_and(|record| record.pending.iter().any(|p| is_back(&p.effect)))
    }

    /// One swap; false when the record is not what it is said to be.
    pub(crate) fn swap(&mut self, from: &str, read: &str, to: &str, checked: bool, takes_ms: u64) -> bool {
        if checked && self.record != read {
            return false;
        }
        if self.record != from {
            self.violation(format!("a name that points at {} is moved as if it pointed at {from}", self.record));
        }
        self.note(&format!("route 53: {NAME} -> {to}"));
        self.record = to.to_owned();
        self.changes.push(self.now + takes_ms);
        true
    }

    /// One swap of the object; false when it is not what was seen.
    pub(crate) fn swap_object(&mut self, text: &str, seen: Option<&Object>, takes_ms: u64) -> bool {
        if self.object.as_ref() != seen {
            return false;
        }
        let epoch = |text: &str| text.rsplit(':').next().and_then(|n| n.trim_end_matches('}').parse::<u64>().ok());
        let before = self.object.as_ref().and_then(|object| epoch(&object.text));
        // Only what went ahead of a promotion that was given up goes back an epoch.
        let back = self.going_back() && before == epoch(text).map(|epoch| epoch + 1);
        if before >= epoch(text) && !back {
            self.violation(format!("{text} is written over epoch {before:?}"));
        }
        self.put_object(text.to_owned());
        let to = region_of(text).expect("it names a region");
        let (from, read) = (self.record.clone(), self.record.clone());
        self.swap(&from, &read, &endpoint(to), true, takes_ms)
    }

    fn put_object(&mut self, text: String) {
        self.note(&format!("s3: {text}"));
        let etag = self.trace.len().to_string();
        self.object = Some(Object { text, etag });
    }

    /// By hand: whatever moves it, the name leads to `region`.
    pub(crate) fn point_the_name_at(&mut self, region: &str) {
        if self.object.is_some() {
            self.point_by_object(region);
        }
        self.record = endpoint(region);
        self.changes.push(self.now);
    }

    /// By hand: the object says that the name leads to `region`.
    pub(crate) fn point_by_object(&mut self, region: &str) {
        let epoch = self.record().map_or(0, |record| record.epoch.0);
        self.put_object(format!(r#"{{"primary":"{region}","cluster":"orders","epoch":{epoch}}}"#));
    }

    /// By hand, and wrong.
    pub(crate) fn meddle_with_the_name(&mut self) {
        self.meddled = true;
        self.note("world: somebody points the name elsewhere");
        if self.object.is_some() {
            self.put_object("maintenance".into());
        }
        self.record = "maintenance.example.com.".into();
    }

    pub(crate) fn fence(&mut self, region: &'static str) {
        if region == self.writer {
            self.violation(format!("{region} is fenced, and it is the writer"));
        }
        self.note(&format!("database: {region} is fenced"));
        self.second_writer = self.second_writer.filter(|(old, _)| *old != region);
    }

    // ---- the end ---------------------------------------------------------------------------------------------

    /// Is everything as it should be in the end? Answers what is not.
    pub(crate) fn settled(&self) -> Result<(), String> {
        let Some(record) = self.record() else { return Err("nothing was ever stored".into()) };
        let quiet = record.state == State::Healthy && record.episode.is_none() && record.pending.is_empty();
        if !quiet {
            let pending: Vec<_> = record.pending.iter().map(|p| p.effect.name()).collect();
            return Err(format!("{:?} with {pending:?} and hold {:?}", record.state, record.hold));
        }
        if record.paused.is_some() || record.mode != Mode::Auto || record.limit_latched || record.dual_writer.is_some()
        {
            return Err("an operator has something left to do".into());
        }
        if record.primary.as_str() != self.writer || self.moving.is_some() {
            return Err(format!("the record says {}, RDS says {}", record.primary, self.writer));
        }
        if self.answered != endpoint(self.writer) {
            return Err(format!("the name leads to {}, the writer is {}", self.answered, self.writer));
        }
        Ok(())
    }

    /// History is complete, chained, and gives the same decisions again.
    pub(crate) fn check_history(&mut self) {
        let Some(item) = self.item.clone() else { return };
        // The next load would do that: the simulation may have ended between the two writes of a turn.
        self.append(&item.row);
        let version = item.version;
        let rows: Vec<HistoryRow> = self.rows.values().cloned().collect();
        if rows.len() as u64 != version || rows.last() != Some(&item.row) {
            return self.violation(format!("history has {} rows at version {version}", rows.len()));
        }
        if let Err(flaw) = audit::verify(&rows) {
            return self.violation(flaw.to_string());
        }
        match audit::replay(&rows) {
            Ok(replayed) if replayed == version => {}
            Ok(replayed) => self.violation(format!("I7: only {replayed} of {version} rows can be replayed")),
            Err(flaw) => self.violation(format!("I7: {flaw}")),
        }
    }
}

/// Wall time of a moment of the simulation.
pub(crate) fn wall(ms: u64) -> Timestamp {
    Timestamp(1_800_000_000_000 + ms)
}
