//! `step` over stored records and events that something has spoiled: no panic, and either the input is refused or the
//! invariants hold.
#![no_main]

#[path = "../../tests/common/edited.rs"]
mod edited;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| edited::step_of(bytes));
