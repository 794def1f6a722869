//! What history proves and tells: that no row is changed, missing or out of place, that every decision follows from
//! what is stored, why each was made, and what another policy would have made of it.

pub mod explain;
pub mod held;
pub mod report;
pub mod what_if;

use crate::store::HistoryRow;
use statemachine::{Record, step};

/// What is wrong with a history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Its content does not have the hash that it carries.
    #[error("row {version} was changed after it was written")]
    Changed {
        /// Which row.
        version: u64,
    },
    /// The row before it is not the one that it was written after.
    #[error("row {version} does not follow the row before it: one is missing, exchanged or out of order")]
    NotTheNext {
        /// Which row.
        version: u64,
    },
    /// The history does not begin where it has to.
    #[error("the oldest row is {oldest}: {} missing", missing(*oldest))]
    NoBeginning {
        /// The oldest row that is there.
        oldest: u64,
    },
    /// The state item was written with a row that is not there.
    #[error("row {version} is missing at the end: the state item was written with it")]
    NoEnd {
        /// Which row.
        version: u64,
    },
    /// The state item was written with another row of that version.
    #[error("row {version} is not the one that the state item was written with: that one's hash is {hash}")]
    NotTheLast {
        /// Which row.
        version: u64,
        /// The hash that the state item knows.
        hash: String,
    },
    /// A replay decides otherwise.
    #[error("row {version}: a replay of its event gives another {what}")]
    Diverges {
        /// Which row.
        version: u64,
        /// What differs.
        what: &'static str,
    },
}

fn missing(oldest: u64) -> String {
    match oldest {
        2 => "row 1 is".into(),
        _ => format!("rows 1 to {} are", oldest.saturating_sub(1)),
    }
}

/// Checks the chain of hashes, row by row.
#[derive(Debug, Default)]
pub struct Chain {
    before: Option<(u64, String)>,
    oldest: Option<u64>,
    rows: u64,
    /// Version and hash of the row that the state item was written with, and whether it came.
    state: Option<(u64, String)>,
    state_met: bool,
}

impl Chain {
    /// A chain that has to reach the row of this version and hash, the newest one as the state item knows it.
    #[must_use]
    pub fn reaching(version: u64, hash: &str) -> Self {
        Self { state: Some((version, hash.to_owned())), ..Self::default() }
    }

    /// What is missing at the ends. Where rows expire, nothing is known of the beginning.
    #[must_use]
    pub fn ends(&self, rows_expire: bool) -> Vec<Flaw> {
        let oldest = self.oldest.filter(|oldest| *oldest > 1 && !rows_expire);
        let beginning = oldest.map(|oldest| Flaw::NoBeginning { oldest });
        let state = self.state.as_ref().filter(|_| !self.state_met);
        let end = state.map(|(version, _)| Flaw::NoEnd { version: *version });
        beginning.into_iter().chain(end).collect()
    }

    /// The oldest row checked.
    #[must_use]
    pub const fn oldest(&self) -> Option<u64> {
        self.oldest
    }

    /// The next row, oldest first; the first one given need not be the first of all. All flaws of it: the chain goes on
    /// behind it, so that each flaw is found once.
    pub fn check(&mut self, row: &HistoryRow) -> Vec<Flaw> {
        let version = row.version;
        let mut flaws = Vec::new();
        if row.digest() != row.hash {
            flaws.push(Flaw::Changed { version });
        }
        let follows = match &self.before {
            Some((before, hash)) => row.previous_hash == *hash && version == before + 1,
            None => version != 1 || row.previous_hash.is_empty(),
        };
        if !follows {
            flaws.push(Flaw::NotTheNext { version });
        }
        if let Some((last, hash)) = self.state.as_ref().filter(|(last, _)| *last == version) {
            self.state_met = true;
            if *hash != row.hash {
                flaws.push(Flaw::NotTheLast { version: *last, hash: hash.clone() });
            }
        }
        self.oldest.get_or_insert(version);
        self.before = Some((version, row.hash.clone()));
        self.rows += 1;
        flaws
    }

    /// Rows checked so far.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Version and hash of the newest row checked.
    #[must_use]
    pub fn newest(&self) -> Option<(u64, &str)> {
        self.before.as_ref().map(|(version, hash)| (*version, hash.as_str()))
    }
}

/// Checks the chain of hashes; rows are given oldest first, and need not begin at the first.
///
/// # Errors
/// The first flaw.
pub fn verify(rows: &[HistoryRow]) -> Result<(), Flaw> {
    let mut chain = Chain::default();
    rows.iter().find_map(|row| chain.check(row).into_iter().next()).map_or(Ok(()), Err)
}

/// Makes stored decisions again, row by row, from the first checkpoint on.
#[derive(Debug, Default)]
pub struct Replaying {
    known: Option<Record>,
}

impl Replaying {
    /// The next row, oldest first: true when its decision was made again and is the stored one, byte for byte; false
    /// before the first checkpoint.
    ///
    /// # Errors
    /// It comes out differently. The next checkpoint can be gone on from.
    pub fn step(&mut self, row: &HistoryRow) -> Result<bool, Flaw> {
        let checkpoint = row.checkpoint.as_deref().cloned();
        let Some(mut record) = checkpoint.or_else(|| self.known.take()) else { return Ok(false) };
        record.evidence = row.evidence.clone();
        record.last_now = row.last_now;
        let decision = step(record, &row.event, row.at);
        let record = decision.record;
        let asked_for: Vec<_> = decision.effects.iter().filter_map(|id| record.pending(*id).cloned()).collect();
        let closed = decision.closed.as_ref();
        let differs = [
            ("record", HistoryRow::hash_of(&record) != row.record_hash),
            ("rule", decision.rule != row.rule),
            ("verdict", decision.verdict != row.verdict),
            ("guard", decision.guards != row.guards),
            ("effect", asked_for != row.effects),
            ("claim", decision.claimed != row.claimed),
            ("answer", decision.answer != row.answer),
            ("outcome", closed.map(|(_, outcome)| *outcome) != row.outcome),
            ("episode", closed.map(|(episode, _)| episode) != row.closed.as_ref()),
        ];
        if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
            return Err(Flaw::Diverges { version: row.version, what });
        }
        self.known = Some(record);
        Ok(true)
    }
}

/// Makes the stored decisions again, from the first checkpoint on, and compares byte for byte. Answers how many were
/// made again; rows are given oldest first.
///
/// # Errors
/// The first row that comes out differently.
pub fn replay(rows: &[HistoryRow]) -> Result<u64, Flaw> {
    let mut replaying = Replaying::default();
    let mut replayed = 0;
    for row in rows {
        replayed += u64::from(replaying.step(row)?);
    }
    Ok(replayed)
}

/// The record after the last of these rows, oldest first and the first with a checkpoint.
///
/// # Errors
/// The first row that comes out differently.
pub fn record_after(rows: &[HistoryRow]) -> Result<Record, Flaw> {
    let mut replaying = Replaying::default();
    for row in rows {
        replaying.step(row)?;
    }
    let version = rows.last().map_or(0, |row| row.version);
    replaying.known.ok_or(Flaw::Diverges { version, what: "beginning: there is no checkpoint" })
}
