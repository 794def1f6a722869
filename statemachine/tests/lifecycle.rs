//! The lifecycle as an operator would tell it: one test per sentence.

mod common;

use common::{Cluster, EAST, VANTAGES, WEST, arn, assessment, config, probe, promoted};
use statemachine::{
    Assessment, Configured, Effect, EffectResult, Envelope, EpisodeOutcome, Event, EventId, Guard, HoldReason, Mode,
    Outcome, Probe, Reason, Record, Region, Report, Rule, State, Timestamp, Verdict, due_effects, next_wakeup,
};

// ---- watching ------------------------------------------------------------------------------------------------

#[test]
fn a_healthy_probe_in_healthy_needs_no_store() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.wait(10_000);
    assert_eq!(cluster.probe("west", "ok").verdict, Verdict::Noted);
}

#[test]
fn healthy_evidence_is_stored_once_per_heartbeat() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let mut stored = 0;
    for _ in 0..30 {
        cluster.wait(10_000);
        for vantage in VANTAGES {
            stored += u32::from(cluster.probe(vantage, "ok").verdict.is_durable());
        }
    }
    assert_eq!(stored, 5, "300 s at one heartbeat per 60 s");
}

#[test]
fn one_failed_probe_raises_suspicion_and_the_next_successes_avert_it() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let decision = cluster.probe("west", "timeout");
    assert_eq!((decision.verdict, decision.rule), (Verdict::Moved, Rule::FirstFailure));
    assert_eq!(cluster.state(), "suspect");
    assert!(cluster.pending("promote").is_none());
    cluster.rounds(2, "ok ok ok");
    assert_eq!(cluster.state(), "healthy");
    assert!(cluster.record().episode.is_none());
}

#[test]
fn an_averted_episode_says_so() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.probe("west", "timeout");
    cluster.rounds(1, "ok ok ok");
    cluster.wait(10_000);
    cluster.probe("east", "ok");
    let decision = cluster.probe("west", "ok");
    assert_eq!(decision.closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Averted));
}

#[test]
fn a_quorum_that_fails_long_enough_confirms() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(3, "- timeout timeout");
    assert_eq!(cluster.state(), "suspect", "three failures span only 20 s");
    cluster.rounds(1, "- timeout timeout");
    assert_eq!(cluster.state(), "confirmed-down");
}

#[test]
fn one_vantage_alone_never_confirms() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(20, "- - timeout");
    assert_eq!(cluster.state(), "suspect");
}

#[test]
fn a_witness_that_still_commits_prevents_confirmation() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(20, "timeout timeout ok");
    assert_eq!(cluster.state(), "suspect");
}

#[test]
fn a_vantage_that_fails_alone_is_outvoted_and_raises_no_new_suspicion() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(3, "ok ok timeout");
    assert_eq!(cluster.state(), "healthy");
    let version_of_seen = cluster.record().seen.len();
    cluster.rounds(3, "ok ok timeout");
    assert_eq!(cluster.state(), "healthy");
    assert_eq!(cluster.record().seen.len(), version_of_seen, "no transition, nothing stored");
    cluster.rounds(1, "timeout ok timeout");
    assert_eq!(cluster.state(), "suspect", "another vantage's failure is news");
}

#[test]
fn isolated_vantages_count_neither_way() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(20, "isolated isolated ok");
    assert_eq!(cluster.state(), "healthy");
    assert!(cluster.record().blind, "one live vantage is not a quorum");
}

#[test]
fn silence_makes_blind_and_never_confirms() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.probe("west", "timeout");
    for _ in 0..100 {
        let due = next_wakeup(cluster.record()).unwrap_or(cluster.now);
        cluster.now = cluster.now.plus_ms(1_000).max(due);
        cluster.give(Event::Tick);
    }
    assert_eq!(cluster.state(), "suspect");
    assert!(cluster.record().blind);
}

#[test]
fn lost_sight_is_back_only_when_it_has_lasted() {
    // After the loss: seconds until the next round, the round, still told as blind?
    let cases: [&[(u64, &str, bool)]; 4] = [
        &[(10, "ok ok -", true), (20, "ok ok -", true), (14, "ok ok -", true), (1, "ok ok -", false)],
        // One of the two falls silent in between: it counts from there.
        &[
            (10, "ok ok -", true),
            (36, "ok - -", true),
            (1, "- ok -", true),
            (34, "ok ok -", true),
            (1, "ok ok -", false),
        ],
        &[(10, "ok isolated -", true), (10, "ok ok -", true), (34, "ok ok -", true), (1, "ok ok -", false)],
        // Failures are seen as well as successes.
        &[(10, "- timeout timeout", true), (35, "- timeout timeout", false)],
    ];
    for rounds in cases {
        let mut cluster = Cluster::healthy(Mode::Auto);
        cluster.wait(60_000);
        cluster.give(Event::Tick);
        assert!(cluster.record().blind);
        for (number, (seconds, outcomes, blind)) in rounds.iter().enumerate() {
            cluster.wait(seconds * 1_000);
            cluster.round(outcomes);
            assert_eq!(cluster.record().blind, *blind, "round {number} of {rounds:?}");
        }
        assert_eq!(cluster.record().evidence.blind_at, None);
    }
}

#[test]
fn vantages_that_are_late_again_and_again_are_told_once() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let mut changes = 0;
    for _ in 0..40 {
        // Each is silent for a little too long, and then two are heard at once.
        cluster.wait(36_000);
        changes += u32::from(cluster.give(Event::Tick).rule == Rule::SightChanged);
        for vantage in ["west", "witness"] {
            changes += u32::from(cluster.probe(vantage, "ok").rule == Rule::SightChanged);
        }
    }
    assert_eq!(changes, 1, "blind, and not sighted and blind forty times");
}

#[test]
fn what_is_seen_again_is_judged_at_once() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.wait(60_000);
    cluster.give(Event::Tick);
    cluster.probe_lag(40);
    cluster.rounds(3, "- timeout timeout");
    assert!(cluster.record().blind);
    cluster.round("- timeout timeout");
    assert_eq!(cluster.state(), "suspect", "20 s are no window");
    cluster.rounds(1, "- timeout timeout");
    assert_eq!(cluster.state(), "confirmed-down");
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.state(), "promoting");
}

#[test]
fn after_a_gap_the_window_starts_from_zero() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(3, "- timeout timeout");
    cluster.wait(120_000);
    cluster.round("- timeout timeout");
    assert_eq!(cluster.state(), "suspect", "failures before the silence do not count");
}

#[test]
fn an_unproven_cluster_never_confirms() {
    let mut cluster = Cluster::new(Mode::Auto);
    cluster.rounds(20, "timeout timeout timeout");
    assert_eq!(cluster.state(), "healthy");
    assert!(!cluster.record().proven);
}

#[test]
fn copies_late_and_foreign_probes_are_ignored_with_their_reason() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let now = cluster.now;
    let envelope = |n: u64, at: Timestamp, probe: Probe| Envelope {
        id: EventId(format!("foreign-{n}")),
        at,
        event: Event::Probe(probe),
    };
    let old = Timestamp(now.0 - 61_000);
    let ahead = now.plus_ms(6_000);
    let cases = [
        (envelope(1, now, probe("west", 1, EAST, "timeout")), Reason::Duplicate),
        (envelope(2, old, probe("west", 900, EAST, "timeout")), Reason::Stale),
        (envelope(3, ahead, probe("west", 901, EAST, "timeout")), Reason::FromTheFuture),
        (envelope(4, now, probe("nobody", 902, EAST, "timeout")), Reason::UnknownVantage),
        (envelope(5, now, probe("west", 903, WEST, "timeout")), Reason::NotThePrimary),
    ];
    for (envelope, reason) in cases {
        assert_eq!(cluster.give_as(envelope).verdict, Verdict::Ignored { reason });
    }
    assert_eq!(cluster.state(), "healthy");
}

// ---- deciding ------------------------------------------------------------------------------------------------

#[test]
fn when_all_guards_pass_the_other_region_is_promoted() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    let decision = cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(decision.rule, Rule::GuardsPassed);
    assert!(decision.guards.iter().all(|guard| guard.pass), "{:?}", decision.guards);
    let promotion = cluster.record().pending.iter().find_map(|p| match &p.effect {
        Effect::Promote { from, to, region, .. } => Some((from.clone(), to.clone(), region.clone())),
        _ => None,
    });
    assert_eq!(promotion, Some((arn(EAST), arn(WEST), Region::from(WEST))));
}

/// Each row: what is wrong, and the guard that refuses.
#[test]
fn each_guard_holds_with_its_reason_and_a_release() {
    type Spoil = fn(&mut Cluster, &mut Assessment);
    let cases: [(&str, Spoil, Guard); 8] = [
        ("observing", |c, _| c.set_mode(Mode::Observe), Guard::MayAct),
        ("not approved", |c, _| c.set_mode(Mode::Approve), Guard::Approved),
        ("headless target", |_, a| a.members[1].cluster.as_mut().expect("given").instances = 0, Guard::TargetFit),
        (
            "target busy",
            |_, a| a.members[1].cluster.as_mut().expect("given").status = "modifying".into(),
            Guard::TargetFit,
        ),
        ("other engine", |_, a| a.engine_version = "16.4".into(), Guard::TargetFit),
        ("target unknown", |_, a| a.members[1].cluster = None, Guard::TargetFit),
        ("lag unknown", |c, _| c.edit(|record| record.evidence.lag.clear()), Guard::WithinRpo),
        (
            "just failed over",
            |c, _| {
                let now = c.now;
                c.edit(|record| record.failovers.push(now))
            },
            Guard::CooledDown,
        ),
    ];
    for (name, spoil, guard) in cases {
        let mut cluster = Cluster::confirmed_down(Mode::Auto);
        let mut answer = assessment(EAST);
        spoil(&mut cluster, &mut answer);
        cluster.done("assess", Report::Assessed(answer));
        assert_eq!(cluster.state(), "confirmed-down", "{name}");
        let hold = cluster.record().hold.clone().unwrap_or_else(|| panic!("{name}: no hold"));
        assert_eq!(hold.reason, HoldReason::Guard(guard), "{name}: {}", hold.detail);
        assert!(!hold.release.is_empty(), "{name}");
        assert!(cluster.pending("promote").is_none(), "{name}");
    }
}

#[test]
fn a_hold_is_announced_once_and_looked_at_again() {
    let mut cluster = Cluster::confirmed_down(Mode::Approve);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    let announced =
        |cluster: &Cluster| cluster.record().pending.iter().filter(|p| p.effect.name() == "announce").count();
    let before = announced(&cluster);
    cluster.rounds(2, "- timeout timeout");
    cluster.wait(30_000);
    cluster.round("- timeout timeout");
    cluster.give(Event::Tick);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(announced(&cluster), before);
    assert_eq!(cluster.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::Guard(Guard::Approved)));
}

#[test]
fn a_hold_ends_when_the_mode_becomes_auto() {
    let mut cluster = Cluster::confirmed_down(Mode::Approve);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    let mut changed = config();
    changed.hash = "two".into();
    cluster.give(Event::Configured(Configured { config: changed, mode: Mode::Auto }));
    cluster.give(Event::Tick);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.state(), "promoting");
    assert_eq!(cluster.record().config.hash, "one", "thresholds stay pinned while the episode is open");
}

#[test]
fn the_primary_coming_back_before_the_decision_averts() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    cluster.rounds(2, "ok ok ok");
    assert_eq!(cluster.state(), "healthy");
    assert!(cluster.pending("assess").is_none());
}

#[test]
fn the_lag_that_counts_is_the_one_before_the_outage() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.probe("west", "timeout");
    cluster.wait(50_000);
    cluster.probe_lag(50_000);
    assert_eq!(cluster.record().evidence.lag[&Region::from(WEST)].ms, 40);
}

// ---- committed -----------------------------------------------------------------------------------------------

#[test]
fn the_primary_coming_back_before_the_claim_cancels_the_promotion() {
    let mut cluster = Cluster::promoting();
    cluster.wait(1_000);
    cluster.probe("witness", "ok");
    let decision = cluster.claim();
    assert_eq!(decision.rule, Rule::CancelledBeforeClaim);
    assert!(cluster.pending("promote").is_none());
    assert_eq!(cluster.state(), "suspect");
}

#[test]
fn a_mode_that_forbids_it_takes_an_unclaimed_promotion_back() {
    let mut cluster = Cluster::promoting();
    let mut changed = config();
    changed.hash = "two".into();
    cluster.give(Event::Configured(Configured { config: changed, mode: Mode::Observe }));
    assert!(cluster.pending("promote").is_none());
    assert_eq!(cluster.state(), "suspect");
}

#[test]
fn the_primary_coming_back_after_the_claim_changes_nothing() {
    let mut cluster = Cluster::promoting();
    cluster.claim();
    cluster.rounds(3, "ok ok ok");
    assert_eq!(cluster.state(), "promoting");
}

#[test]
fn a_claimed_effect_is_not_claimed_twice_before_it_expires() {
    let mut cluster = Cluster::promoting();
    let first = cluster.claim();
    assert!(!first.claimed.is_empty());
    assert_eq!(cluster.claim().verdict, Verdict::Ignored { reason: Reason::NothingDue });
    cluster.wait(30_000);
    let again = cluster.claim();
    assert!(again.claimed.contains(&cluster.pending("promote").expect("still pending")));
}

#[test]
fn a_late_result_of_an_old_claim_changes_nothing() {
    let mut cluster = Cluster::promoting();
    cluster.claim();
    let effect = cluster.pending("promote").expect("pending");
    let old = cluster.record().pending(effect).and_then(|p| p.claim.clone()).expect("claimed").token;
    cluster.wait(30_000);
    cluster.claim();
    let outcome = Outcome::Done { report: promoted() };
    let decision = cluster.give(Event::Result(EffectResult { effect, token: old, outcome }));
    assert_eq!(decision.verdict, Verdict::Ignored { reason: Reason::LateResult });
    assert_eq!(cluster.state(), "promoting");
}

#[test]
fn the_same_result_twice_counts_once() {
    let mut cluster = Cluster::promoting();
    cluster.claim();
    let effect = cluster.pending("promote").expect("pending");
    let token = cluster.record().pending(effect).and_then(|p| p.claim.clone()).expect("claimed").token;
    let result = EffectResult { effect, token, outcome: Outcome::Done { report: promoted() } };
    let envelope = Envelope { id: "result".into(), at: cluster.now, event: Event::Result(result) };
    cluster.give_as(envelope.clone());
    let epoch = cluster.record().epoch;
    assert_eq!(cluster.give_as(envelope).verdict, Verdict::Ignored { reason: Reason::Duplicate });
    assert_eq!(cluster.record().epoch, epoch);
}

#[test]
fn promoted_swaps_the_roles_raises_the_epoch_and_reroutes() {
    let mut cluster = Cluster::promoting();
    let epoch = cluster.record().epoch;
    cluster.done("promote", promoted());
    assert_eq!(cluster.state(), "rerouting");
    assert_eq!(cluster.record().epoch, epoch.next());
    assert_eq!(cluster.record().primary, Region::from(WEST));
    assert!(cluster.record().exposed);
    let change = cluster.record().pending.iter().find_map(|p| match &p.effect {
        Effect::Reroute { changes, .. } => Some((changes[0].from.clone(), changes[0].to.clone())),
        _ => None,
    });
    assert_eq!(change, Some(("orders.us-east-1.".into(), "orders.us-west-2.".into())));
}

#[test]
fn an_unknown_outcome_is_tried_again_after_a_pause() {
    let mut cluster = Cluster::promoting();
    cluster.answer("promote", Outcome::Unknown { detail: "lost reply".into() });
    assert_eq!(cluster.state(), "promoting");
    let promotion = cluster.pending("promote").expect("still pending");
    assert!(!due_effects(cluster.record(), cluster.now).any(|p| p.id == promotion));
    cluster.wait(2_000);
    assert!(due_effects(cluster.record(), cluster.now).any(|p| p.id == promotion));
}

#[test]
fn a_promotion_past_its_deadline_holds_and_keeps_looking() {
    let mut cluster = Cluster::promoting();
    cluster.claim();
    cluster.wait(900_000);
    cluster.answer("promote", Outcome::InProgress { detail: "failing-over".into() });
    assert_eq!(cluster.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::PromoteOverdue));
    assert!(cluster.pending("promote").is_some());
    cluster.wait(30_000);
    cluster.done("promote", promoted());
    assert_eq!(cluster.state(), "rerouting");
    assert!(cluster.record().hold.is_none());
}

#[test]
fn the_proof_waits_until_caches_have_expired() {
    let mut cluster = Cluster::promoting();
    cluster.done("promote", promoted());
    cluster.done("reroute", Report::Rerouted { at: cluster.now, detail: String::new() });
    assert!(cluster.claim().claimed.iter().all(|id| Some(*id) != cluster.pending("verify")));
    cluster.wait(5_000);
    let claimed = cluster.claim().claimed;
    assert_eq!(claimed, vec![cluster.pending("verify").expect("pending")]);
}

// ---- settled -------------------------------------------------------------------------------------------------

#[test]
fn stable_ends_when_the_topology_is_whole() {
    let mut cluster = Cluster::stable();
    cluster.wait(600_000);
    cluster.give(Event::Tick);
    let mut alone = assessment(WEST);
    alone.members[0].synchronization = Some("pending-resync".into());
    cluster.done("assess", Report::Assessed(alone));
    assert_eq!(cluster.state(), "stable");
    assert!(cluster.record().exposed);
    cluster.wait(30_000);
    cluster.give(Event::Tick);
    let decision = cluster.done("assess", Report::Assessed(assessment(WEST)));
    assert_eq!(decision.closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Completed));
    assert_eq!(cluster.state(), "healthy");
    assert!(!cluster.record().exposed);
}

#[test]
fn a_failing_new_primary_holds_instead_of_a_second_failover() {
    let mut cluster = Cluster::stable();
    for _ in 0..6 {
        cluster.wait(10_000);
        for vantage in ["west", "witness"] {
            cluster.sequence += 1;
            let failed = probe(vantage, cluster.sequence, WEST, "timeout");
            cluster.give(Event::Probe(failed));
        }
    }
    assert_eq!(cluster.state(), "stable");
    assert_eq!(cluster.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::NewPrimaryDown));
    assert!(cluster.pending("promote").is_none());
}

// ---- the record ----------------------------------------------------------------------------------------------

#[test]
fn a_clock_that_jumps_back_does_not_move_time_back() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let latest = cluster.now;
    cluster.now = Timestamp(latest.0 - 3_600_000);
    cluster.give(Event::Tick);
    assert_eq!(cluster.record().last_now, latest);
}

#[test]
fn whoever_wakes_in_time_and_claims_is_not_woken_again_at_once() {
    let mut held = Cluster::confirmed_down(Mode::Approve);
    held.done("assess", Report::Assessed(assessment(EAST)));
    held.wait(30_000);
    held.give(Event::Tick);
    let states = [
        Cluster::healthy(Mode::Auto),
        Cluster::confirmed_down(Mode::Auto),
        held,
        Cluster::promoting(),
        Cluster::stable(),
    ];
    for mut cluster in states {
        for _ in 0..1_000 {
            cluster.give(Event::Tick);
            cluster.claim();
            let Some(next) = next_wakeup(cluster.record()) else { break };
            assert!(next > cluster.now, "{} at {:?}: {:?}", cluster.state(), cluster.now, cluster.record());
            cluster.now = next;
        }
    }
}

#[test]
fn a_record_survives_json_in_every_state() {
    let promoting = Cluster::promoting();
    let states = [Cluster::new(Mode::Auto), Cluster::confirmed_down(Mode::Approve), promoting, Cluster::stable()];
    for cluster in states {
        let text = serde_json::to_string(cluster.record()).expect("a record is plain data");
        let read: Record = serde_json::from_str(&text).expect("it reads what it writes");
        assert_eq!(read, *cluster.record());
    }
}

#[test]
fn memory_stays_bounded_however_many_probes_come() {
    let mut cluster = Cluster::healthy(Mode::Observe);
    cluster.rounds(2_000, "timeout timeout timeout");
    let size = serde_json::to_string(cluster.record()).expect("plain data").len();
    cluster.rounds(2_000, "timeout timeout timeout");
    let later = serde_json::to_string(cluster.record()).expect("plain data").len();
    assert!(later <= size + 200, "{size} -> {later}");
}

#[test]
fn the_promoting_state_names_its_target() {
    let cluster = Cluster::promoting();
    assert!(matches!(&cluster.record().state, State::Promoting { target, .. } if target.as_str() == WEST));
}

#[test]
fn the_loss_is_measured_from_the_newest_heartbeat_that_the_new_primary_has() {
    let mut cluster = Cluster::promoting();
    let newest_ok = cluster.record().evidence.newest_ok.expect("it was healthy");
    let heartbeat_at = Some(statemachine::Timestamp(newest_ok.0 - 1_200));
    cluster.done("promote", Report::Promoted { called: true, heartbeat_at, detail: String::new() });
    assert_eq!(cluster.record().episode.as_ref().and_then(|episode| episode.rpo_heartbeat_ms), Some(1_200));
}

#[test]
fn a_primary_that_commits_and_takes_no_new_session_is_shown_and_not_down() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let mut give = |connect_ms: Option<u64>, failure: Option<&str>| {
        cluster.wait(10_000);
        cluster.sequence += 1;
        let mut seen = probe("west", cluster.sequence, EAST, "ok");
        (seen.connect_ms, seen.connect_failure) = (connect_ms, failure.map(Into::into));
        cluster.give(Event::Probe(seen));
        let track = &cluster.record().evidence.tracks[&"west".into()];
        (cluster.state(), track.connect_failure.clone())
    };
    assert_eq!(give(None, Some("timeout")), ("healthy", Some("timeout".into())));
    assert_eq!(give(None, None), ("healthy", Some("timeout".into())), "not tried again yet");
    assert_eq!(give(Some(3), None), ("healthy", None));
}
