//! What this process knows of its clusters at this moment, quiet evidence included, for whoever watches it.
//!
//! The controller leaves here what each turn came to; the dashboard reads it, and follows the feed. Nothing is kept, and
//! nothing is spent, until somebody watches.

use crate::store::{HistoryRow, SeenProbe};
use statemachine::{ClusterId, Envelope, Event, Record, Region, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Turns that a watcher may be late by before it has to look anew.
const FEED_MAX: usize = 4_096;

/// Probes that are kept of each cluster.
const PROBES_MAX: usize = 3_000;

/// A record that changed by nothing but quiet evidence is told of this often at most.
const QUIET_EVERY_MS: u64 = 500;

/// A cluster as this process knows it.
#[derive(Debug, Clone)]
pub struct Known {
    /// Version of the stored item.
    pub version: u64,
    /// The record, quiet evidence included where this process listens.
    pub record: Arc<Record>,
    /// When it was so.
    pub at: Timestamp,
    /// Does this process hear the events itself? Otherwise it is what the table says.
    pub live: bool,
    /// The primary before this one, as far as this process saw the change, until the episode closes.
    pub old_primary: Option<Region>,
}

impl Known {
    fn new(before: Option<&Self>, version: u64, record: Record, at: Timestamp, live: bool) -> Self {
        let moved = before.filter(|before| before.record.primary != record.primary);
        let old_primary = match moved {
            Some(before) => Some(before.record.primary.clone()),
            None => before.and_then(|before| before.old_primary.clone()),
        };
        let old_primary = old_primary.filter(|_| record.episode.is_some());
        Self { version, record: Arc::new(record), at, live, old_primary }
    }
}

/// Something that happened to a cluster.
#[derive(Debug, Clone)]
pub enum Told {
    /// The record changed.
    Changed(Known),
    /// A turn was stored.
    Turn(Arc<HistoryRow>),
    /// A vantage probed the primary.
    Probe(SeenProbe),
}

/// One entry of the feed.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Rises by one with each.
    pub number: u64,
    /// Whose.
    pub cluster: ClusterId,
    /// What.
    pub told: Told,
}

#[derive(Default)]
struct Kept {
    known: BTreeMap<ClusterId, Known>,
    probes: BTreeMap<ClusterId, VecDeque<SeenProbe>>,
    recent: VecDeque<Entry>,
    numbered: u64,
}

/// What is known, and the feed of what happens.
pub struct Board {
    watched: AtomicBool,
    kept: Mutex<Kept>,
    feed: broadcast::Sender<Entry>,
}

impl Default for Board {
    fn default() -> Self {
        Self { watched: AtomicBool::new(false), kept: Mutex::default(), feed: broadcast::channel(FEED_MAX).0 }
    }
}

/// A place in the feed: what was missed, and what comes.
pub struct Following {
    /// What came since the entry that was last seen; none when that is too long ago, or was another process.
    pub missed: Option<Vec<Entry>>,
    /// The number of the newest entry.
    pub newest: u64,
    /// From here on.
    pub coming: broadcast::Receiver<Entry>,
}

impl Board {
    /// From now on somebody watches.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    /// A turn was made; `row` when it was stored.
    pub fn turned(&self, envelope: &Envelope, version: u64, record: &Record, row: Option<&HistoryRow>, now: Timestamp) {
        if !self.watched.load(Ordering::Relaxed) {
            return;
        }
        let mut kept = self.kept();
        if let Event::Probe(probe) = &envelope.event
            && probe.target == record.primary
        {
            let seen = SeenProbe::of(probe, envelope.at);
            let probes = kept.probes.entry(record.cluster.clone()).or_default();
            if probes.len() == PROBES_MAX {
                probes.pop_front();
            }
            probes.push_back(seen.clone());
            self.tell(&mut kept, &record.cluster, Told::Probe(seen));
        }
        let due = |known: &Known| !known.live || now.since_ms(known.at) >= QUIET_EVERY_MS;
        if row.is_some() || kept.known.get(&record.cluster).is_none_or(due) {
            self.know(&mut kept, version, record.clone(), now, true, true);
        }
        if let Some(row) = row {
            self.tell(&mut kept, &record.cluster, Told::Turn(Arc::new(row.clone())));
        }
    }

    /// The record was looked at, and is as it was: what is known stays current where nothing happens.
    pub fn loaded(&self, version: u64, record: &Record, now: Timestamp) {
        if !self.watched.load(Ordering::Relaxed) {
            return;
        }
        self.know(&mut self.kept(), version, record.clone(), now, true, true);
    }

    /// The table was read, because this process does not hear the events itself.
    pub fn read(&self, version: u64, record: Record, at: Timestamp) {
        let mut kept = self.kept();
        let cluster = record.cluster.clone();
        let changed = kept.known.get(&cluster).is_none_or(|known| known.version != version || known.live);
        self.know(&mut kept, version, record, at, false, changed);
    }

    /// A stored turn that another process made.
    pub fn read_turn(&self, row: HistoryRow) {
        let mut kept = self.kept();
        let cluster = row.cluster.clone();
        self.tell(&mut kept, &cluster, Told::Turn(Arc::new(row)));
    }

    /// A cluster, if anything is known of it.
    #[must_use]
    pub fn known(&self, cluster: &ClusterId) -> Option<Known> {
        self.kept().known.get(cluster).cloned()
    }

    /// The newest probes of a cluster's primary that came to this process, oldest first.
    #[must_use]
    pub fn probes(&self, cluster: &ClusterId) -> Vec<SeenProbe> {
        self.kept().probes.get(cluster).into_iter().flatten().cloned().collect()
    }

    /// Follows the feed from behind the entry `seen`, or from now on.
    #[must_use]
    pub fn follow(&self, seen: Option<u64>) -> Following {
        let kept = self.kept();
        let newest = kept.numbered;
        let missed = match seen {
            None => Some(Vec::new()),
            Some(seen) if seen > newest => None,
            Some(seen) => {
                let whole = kept.recent.front().is_none_or(|first| first.number <= seen + 1);
                whole.then(|| kept.recent.iter().filter(|entry| entry.number > seen).cloned().collect())
            }
        };
        Following { missed, newest, coming: self.feed.subscribe() }
    }

    fn know(&self, kept: &mut Kept, version: u64, record: Record, at: Timestamp, live: bool, tell: bool) {
        let cluster = record.cluster.clone();
        let known = Known::new(kept.known.get(&cluster), version, record, at, live);
        kept.known.insert(cluster.clone(), known.clone());
        if tell {
            self.tell(kept, &cluster, Told::Changed(known));
        }
    }

    fn tell(&self, kept: &mut Kept, cluster: &ClusterId, told: Told) {
        kept.numbered += 1;
        let entry = Entry { number: kept.numbered, cluster: cluster.clone(), told };
        if kept.recent.len() == FEED_MAX {
            kept.recent.pop_front();
        }
        kept.recent.push_back(entry.clone());
        // Nobody may be following just now.
        let _followers = self.feed.send(entry);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
