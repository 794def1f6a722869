//! Any text as a stored record or history row: it is read or refused, and a history of what was read can be verified
//! and replayed without a panic.
#![no_main]

use aurora_failover::audit;
use aurora_failover::store::HistoryRow;
use statemachine::{Record, invariants};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(record) = serde_json::from_str::<Record>(text) {
        let _verdict = invariants::check(&record);
        let written = serde_json::to_string(&record).expect("plain data");
        assert_eq!(serde_json::from_str::<Record>(&written).expect("as written"), record);
    }
    if let Ok(row) = serde_json::from_str::<HistoryRow>(text) {
        let sound = row.checkpoint.as_deref().is_none_or(|record| invariants::check(record).is_ok());
        let sealed = row.clone().sealed();
        assert_eq!(sealed.digest(), sealed.hash);
        let rows = [row];
        let _verdict = audit::verify(&rows);
        if sound {
            let _verdict = audit::replay(&rows);
        }
    }
});
