//! What history proves: that no row is changed, missing or out of place, and that every decision follows from what
//! is stored.

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
    /// A replay decides otherwise.
    #[error("row {version}: a replay of its event gives another {what}")]
    Diverges {
        /// Which row.
        version: u64,
        /// What differs.
        what: &'static str,
    },
}

/// Checks the chain of hashes; rows are given oldest first, and need not begin at the first.
///
/// # Errors
/// The first flaw.
pub fn verify(rows: &[HistoryRow]) -> Result<(), Flaw> {
    for (index, row) in rows.iter().enumerate() {
        let version = row.version;
        if row.digest() != row.hash {
            return Err(Flaw::Changed { version });
        }
        let follows = match index.checked_sub(1).map(|before| &rows[before]) {
            Some(before) => row.previous_hash == before.hash && version == before.version + 1,
            None => version != 1 || row.previous_hash.is_empty(),
        };
        if !follows {
            return Err(Flaw::NotTheNext { version });
        }
    }
    Ok(())
}

/// Makes the stored decisions again, from the first checkpoint on, and compares byte for byte. Answers how many were
/// made again; rows are given oldest first.
///
/// # Errors
/// The first row that comes out differently.
pub fn replay(rows: &[HistoryRow]) -> Result<u64, Flaw> {
    let mut known: Option<Record> = None;
    let mut replayed = 0;
    for row in rows {
        let checkpoint = row.checkpoint.as_deref().cloned();
        let Some(mut record) = checkpoint.or_else(|| known.take()) else { continue };
        record.evidence = row.evidence.clone();
        record.last_now = row.last_now;
        let decision = step(record, &row.event, row.at);
        let record = decision.record;
        let asked_for: Vec<_> = decision.effects.iter().filter_map(|id| record.pending(*id).cloned()).collect();
        let differs = [
            ("record", HistoryRow::hash_of(&record) != row.record_hash),
            ("rule", decision.rule != row.rule),
            ("verdict", decision.verdict != row.verdict),
            ("guard", decision.guards != row.guards),
            ("effect", asked_for != row.effects),
            ("claim", decision.claimed != row.claimed),
            ("answer", decision.answer != row.answer),
            ("outcome", decision.closed.as_ref().map(|(_, outcome)| *outcome) != row.outcome),
        ];
        if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
            return Err(Flaw::Diverges { version: row.version, what });
        }
        replayed += 1;
        known = Some(record);
    }
    Ok(replayed)
}
