//! The whole service in a simulated world: the real controller, inbox, executor, decoder and state machine, on one
//! thread and on virtual time, with everything that happens drawn from one seed.
//!
//! | variable | what it does |
//! |---|---|
//! | `SIM_SEEDS=200000` | how many seeds are run, from `SIM_FIRST` (0) on; 2,000 by default |
//! | `SIM_SEED=17` | runs this one seed and prints its trace |
//!
//! A line of the trace: virtual seconds, then who does what. The same seed gives the same trace, line by line.

mod net;
mod run;
mod truth;

use net::{Fate, Without};
use run::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Runs seeds on all cores until `stop` says so; answers all outcomes that `keep` wants.
fn search(first: u64, count: u64, without: Without, stop_at_first: bool) -> (u64, Vec<Outcome>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(first);
    let run = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return failed;
            }
            let outcome = run::run(seed, without);
            if !outcome.violations.is_empty() {
                failed.push(outcome);
                if stop_at_first {
                    next.store(first + count, Ordering::Relaxed);
                }
            }
        }
    };
    let failed = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a run does not panic")).collect()
    });
    (count, failed)
}

fn show(outcome: &Outcome) -> String {
    let from = outcome.trace.len().saturating_sub(400);
    format!("seed {}: {:?}\n{}", outcome.seed, outcome.violations, outcome.trace[from..].join("\n"))
}

#[test]
fn every_seed_ends_well() {
    if let Some(seed) = number("SIM_SEED") {
        let outcome = run::run(seed, Without::Nothing);
        println!("{}\n{:?}", outcome.trace.join("\n"), outcome.violations);
        assert!(outcome.violations.is_empty());
        return;
    }
    let began = Instant::now();
    let (count, failed) =
        search(number("SIM_FIRST").unwrap_or(0), number("SIM_SEEDS").unwrap_or(2_000), Without::Nothing, false);
    println!("{count} seeds in {:?}, {} failed", began.elapsed(), failed.len());
    let seeds: Vec<u64> = failed.iter().map(|outcome| outcome.seed).collect();
    assert!(failed.is_empty(), "seeds {seeds:?} failed; the first:\n{}", show(&failed[0]));
}

#[test]
fn a_seed_replays_exactly_and_the_world_is_worth_it() {
    let (mut accepted, mut crashes, mut versions) = (0, 0, 0);
    for seed in 0..20 {
        let (first, again) = (run::run(seed, Without::Nothing), run::run(seed, Without::Nothing));
        assert_eq!(first.trace, again.trace, "seed {seed}");
        accepted += first.accepted;
        crashes += first.crashes;
        versions += first.versions;
    }
    println!("20 seeds: {accepted} moves of the writer, {crashes} crashes, {versions} versions");
    assert!(accepted >= 10 && crashes >= 10 && versions >= 500, "{accepted} {crashes} {versions}");
}

/// Every call of one failover, one run each for everything that can happen to it.
fn enumerate(seed: u64, moves_the_name: &str) {
    let (calm, calls) = run::run_script(seed, u64::MAX - 1, Fate::Fine);
    assert!(calm.violations.is_empty(), "{}", show(&calm));
    let last = calls.len() - 1;
    let fates =
        [Fate::CrashBefore, Fate::CrashAfter, Fate::StallAfter, Fate::LostRequest, Fate::LostReply, Fate::Throttled];
    let cases: Vec<(u64, Fate)> = (0..=last as u64).flat_map(|nth| fates.map(|fate| (nth, fate))).collect();
    println!("{moves_the_name}: {} calls, {} cases", last + 1, cases.len());
    assert!(last >= 40, "a failover takes more calls than {last}");
    for effect in ["FailoverGlobalCluster", moves_the_name, "write", "commit", "append"] {
        assert!(calls[..=last].iter().any(|call| call == effect), "{effect} is not among the calls");
    }
    let next = AtomicU64::new(0);
    let work = || {
        let mut failed = Vec::new();
        while let Some((nth, fate)) = cases.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let (outcome, _) = run::run_script(seed, *nth, *fate);
            if !outcome.violations.is_empty() || outcome.accepted != 1 {
                failed.push(format!("{fate:?} at call {nth} ({}): {}", calls[*nth as usize], show(&outcome)));
            }
        }
        failed
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a run does not panic")).collect()
    });
    assert!(failed.is_empty(), "{} cases failed; the first:\n{}", failed.len(), failed[0]);
}

#[test]
fn whatever_happens_to_one_call_of_a_failover_it_ends_well_and_acts_once() {
    enumerate(5, "ChangeResourceRecordSets");
}

#[test]
fn whatever_happens_to_one_call_while_the_name_moves_after_the_promotion_it_ends_well_and_acts_once() {
    enumerate(1, "ChangeResourceRecordSets");
}

#[test]
fn whatever_happens_to_one_call_while_an_object_moves_the_name_it_ends_well_and_acts_once() {
    enumerate(6, "PutObject");
}

#[test]
fn whatever_happens_to_one_call_while_routing_controls_move_the_name_it_ends_well_and_acts_once() {
    enumerate(7, "UpdateRoutingControlStates");
}

fn is_found(without: Without) {
    let (_, failed) = search(0, 2_000, without, true);
    let found = failed.first().unwrap_or_else(|| panic!("{without:?} is not noticed within 2,000 seeds"));
    println!("{without:?}: seed {}: {}", found.seed, found.violations[0]);
}

#[test]
fn effects_that_leave_before_the_write_are_noticed() {
    is_found(Without::DurableCommit);
}

#[test]
fn history_that_comes_after_the_effects_is_noticed() {
    is_found(Without::DurableHistory);
}

#[test]
fn a_blind_write_to_dns_is_noticed() {
    is_found(Without::CompareAndSwap);
}

#[test]
fn effects_without_a_claim_are_noticed() {
    is_found(Without::Claims);
}
