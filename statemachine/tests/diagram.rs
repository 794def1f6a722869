//! The transition table in the repository is what the code does.

use std::fs;
use std::path::Path;

#[test]
fn the_transition_table_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("transitions.md");
    let generated = statemachine::diagram::markdown();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &generated).expect("it is written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == generated,
        "transitions.md is stale; run: UPDATE_EXPECT=1 cargo test -p statemachine --test diagram"
    );
}

#[test]
fn every_state_leads_somewhere() {
    let page = statemachine::diagram::markdown();
    for state in ["healthy", "suspect", "confirmed_down", "promoting", "rerouting", "stable"] {
        assert!(page.contains(&format!("    {state} --> ")), "no way out of {state}");
    }
}
