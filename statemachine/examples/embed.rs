//! Another service embeds the machine: it keeps the record, feeds it facts, carries out what it claims, and reports
//! back. Here the facts are made up and the effects only pretend. Run it: `cargo run -p statemachine --example embed`.

#![allow(missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Cluster, EAST, assessment, promoted};
use statemachine::{Mode, Report};

fn main() {
    // A cluster that all vantages see well. `Cluster` is a record, a clock and a few helpers around `step`.
    let mut cluster = Cluster::healthy(Mode::Auto);
    let show = |cluster: &Cluster, what: &str| println!("{:<16} {what}", cluster.state());
    show(&cluster, "every vantage commits");

    // Two of three vantages see it fail for half a minute.
    cluster.rounds(1, "- timeout timeout");
    show(&cluster, "two vantages see it fail");
    cluster.rounds(3, "- timeout timeout");
    show(&cluster, "they have seen it for 30 s; RDS is asked");

    // The service claims what is due, carries it out, and gives the result back under the claim's token.
    let decision = cluster.done("assess", Report::Assessed(assessment(EAST)));
    for guard in &decision.guards {
        println!("    guard {:<12} {}", guard.guard.name(), if guard.pass { "passes" } else { "refuses" });
    }
    show(&cluster, "all guards pass");
    cluster.done("promote", promoted());
    show(&cluster, "the other region is the writer");
    cluster.done("reroute", Report::Rerouted { at: cluster.now, detail: String::new() });
    cluster.wait(5_000);
    cluster.done("verify", Report::Verified { detail: String::new() });
    show(&cluster, "a write through the public name committed");
}
