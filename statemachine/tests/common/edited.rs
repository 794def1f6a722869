//! Stored records and events with some of their values exchanged, dropped or repeated, as the given bytes say: what a
//! damaged table, another version or a hostile sender could hand to `step`. Shared by a property test and by the fuzz
//! target.

use serde_json::Value;
use statemachine::{Envelope, Record, Timestamp, invariants, step};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// Every fixture, records first.
static FIXTURES: LazyLock<(Vec<Value>, Vec<Value>)> = LazyLock::new(|| {
    // The crate that includes this file is the machine's, or one below it.
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("tests/fixtures/v1"));
    let folder = above.into_iter().find(|folder| folder.is_dir()).expect("fixtures");
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("fixtures").map(|file| file.expect("readable").path()).collect();
    paths.sort();
    let read = |prefix: &str| {
        let named =
            |path: &&std::path::PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
        let value = |path| serde_json::from_str(&fs::read_to_string(path).expect("readable")).expect("JSON");
        paths.iter().filter(named).map(value).collect::<Vec<Value>>()
    };
    (read("record-"), read("event-"))
});

/// Bytes as choices; zero when there are no more.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, end: usize) -> usize {
        let mut byte = || usize::from(self.0.next().copied().unwrap_or_default());
        let choice = if end > 256 { byte() * 256 + byte() } else { byte() };
        choice % end.max(1)
    }

    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => u64::from(u32::MAX) + 1,
            4 => 1_800_000_000_000 + self.below(100_000_000) as u64,
            _ => self.below(1_000) as u64,
        }
    }
}

/// Gives a few steps to a record, each from what the bytes made of a fixture; panics when a promise is broken.
pub(crate) fn step_of(bytes: &[u8]) {
    let mut choices = Choices(bytes.iter());
    let (records, events) = &*FIXTURES;
    let mut value = records[choices.below(records.len())].clone();
    for _ in 0..choices.below(4) {
        edit(&mut value, &mut choices);
    }
    // What cannot be read, or could never have been stored, is refused before any step.
    let Ok(mut record) = serde_json::from_value::<Record>(value) else { return };
    if invariants::check(&record).is_err() {
        return;
    }
    for _ in 0..=choices.below(6) {
        let mut value = events[choices.below(events.len())].clone();
        for _ in 0..choices.below(4) {
            edit(&mut value, &mut choices);
        }
        let Ok(mut envelope) = serde_json::from_value::<Envelope>(value) else { continue };
        if choices.below(2) == 0 {
            envelope.id = format!("event-{}", choices.below(1_000)).into();
        }
        let now = if choices.below(4) == 0 {
            Timestamp(choices.number())
        } else {
            record.last_now.plus_ms(choices.below(60_000) as u64)
        };
        let decision = step(record, &envelope, now);
        if let Err(violation) = invariants::check(&decision.record) {
            panic!(
                "{violation}\nafter {envelope:?}\nin {}",
                serde_json::to_string(&decision.record).expect("plain data")
            );
        }
        let text = serde_json::to_string(&decision.record).expect("what is decided can be stored");
        let read: Record = serde_json::from_str(&text).expect("and read again");
        assert_eq!(read, decision.record);
        record = decision.record;
    }
}

/// Exchanges, drops or repeats one value somewhere in the tree.
fn edit(value: &mut Value, choices: &mut Choices<'_>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let key = fields.keys().nth(choices.below(fields.len())).cloned().unwrap_or_default();
            if choices.below(16) == 0 {
                fields.remove(&key);
            } else if let Some(field) = fields.get_mut(&key) {
                edit(field, choices);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let index = choices.below(items.len());
            match choices.below(8) {
                0 => drop(items.remove(index)),
                1 => items.push(items[index].clone()),
                _ => edit(&mut items[index], choices),
            }
        }
        Value::Bool(bool) => *bool = !*bool,
        Value::Number(number) => *number = choices.number().into(),
        Value::String(text) => {
            const WORDS: [&str; 20] = [
                "",
                "us-east-1",
                "us-west-2",
                "west",
                "witness",
                "observe",
                "auto",
                "approve",
                "healthy",
                "promoting",
                "stable",
                "failover",
                "switchover",
                "follow",
                "who-is-down",
                "may-fail-over",
                "is-whole",
                "adopted",
                "arn:aws:rds:us-west-2:1:cluster:orders",
                "two",
            ];
            *text = WORDS[choices.below(WORDS.len())].into();
        }
        other => *other = choices.number().into(),
    }
}
