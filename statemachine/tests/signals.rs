//! Hints of AWS: what RDS events and alarms change, and that they never decide alone.

mod common;

use common::{Cluster, EAST, VANTAGES, WEST, arn, assessment, config, observation, probe, promoted};
use statemachine::{
    AlarmWeight, Effect, EpisodeKind, EpisodeOutcome, Event, FailoverInProgress, Guard, HoldReason, How, LagReading,
    Mode, Order, Outcome, ProbeWeight, Reason, Record, Region, Report, Rule, Timestamp, Verdict, next_wakeup,
};

fn how(record: &Record) -> Option<How> {
    record.pending.iter().find_map(|p| match &p.effect {
        Effect::Promote { how, .. } => Some(*how),
        _ => None,
    })
}

fn with_alarm(weight: u32) -> Cluster {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.edit(|record| record.config.alarms = vec![AlarmWeight { name: "website".into(), weight }]);
    cluster
}

// ---- in-region failover ----------------------------------------------------------------------------------------

#[test]
fn an_in_region_failover_delays_confirmation_by_a_bounded_time() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rds("RDS-EVENT-0073", EAST);
    cluster.rounds(8, "- timeout timeout");
    assert_eq!(cluster.state(), "suspect", "80 s, within the grace of 90 s");
    for _ in 0..5 {
        cluster.rds("RDS-EVENT-0072", EAST);
        cluster.rounds(2, "- timeout timeout");
    }
    assert_eq!(cluster.state(), "confirmed-down", "at most twice the grace, however often RDS says so");
}

#[test]
fn the_end_of_an_in_region_failover_lets_the_evidence_speak_at_once() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rds("RDS-EVENT-0072", EAST);
    cluster.rounds(6, "- timeout timeout");
    assert_eq!(cluster.state(), "suspect");
    cluster.rds("RDS-EVENT-0069", EAST);
    assert_eq!(cluster.state(), "confirmed-down");
}

#[test]
fn an_in_region_failover_elsewhere_or_long_ago_changes_nothing() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    assert_eq!(cluster.rds("RDS-EVENT-0072", WEST).verdict, Verdict::Ignored { reason: Reason::NothingDue });
    assert_eq!(cluster.rds("RDS-EVENT-0072", "mars").verdict, Verdict::Ignored { reason: Reason::NotOurs });
    assert_eq!(cluster.rds("RDS-EVENT-9999", EAST).verdict, Verdict::Ignored { reason: Reason::NotOurs });
    let event = Event::Rds(statemachine::RdsEvent { code: "RDS-EVENT-0072".into(), source: arn(EAST) });
    let at = Timestamp(cluster.now.0 - 60_001);
    let late = statemachine::Envelope { id: "late".into(), at, event };
    assert_eq!(cluster.give_as(late).verdict, Verdict::Ignored { reason: Reason::Stale });
    assert!(cluster.record().grace.is_none());
}

#[test]
fn a_cluster_that_rds_shows_failing_over_gets_the_grace_too() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.probe("west", "timeout");
    let mut busy = assessment(EAST);
    busy.members[0].cluster.as_mut().expect("given").status = "failing-over".into();
    cluster.done("assess", Report::Assessed(busy));
    assert!(cluster.record().grace.is_some());
    cluster.rounds(3, "ok ok ok");
    assert!(cluster.record().grace.is_none(), "averted: the next outage starts without it");
}

// ---- somebody else moves the writer ------------------------------------------------------------------------------

#[test]
fn somebodys_failover_is_followed_and_not_repeated() {
    let mut cluster = Cluster::healthy(Mode::Approve);
    cluster.rds("RDS-EVENT-0181", EAST);
    let mut moving = assessment(EAST);
    moving.failover = Some(FailoverInProgress { status: "switching-over".into(), to: arn(WEST) });
    let decision = cluster.done("assess", Report::Assessed(moving));
    assert_eq!((decision.rule, cluster.state()), (Rule::Adopted, "promoting"));
    assert_eq!(how(cluster.record()), Some(How::Follow));
    cluster.done("promote", promoted());
    assert_eq!(cluster.state(), "rerouting");
    assert_eq!(cluster.record().episode.as_ref().map(|e| e.kind), Some(EpisodeKind::Adopted));
}

#[test]
fn a_writer_that_has_moved_already_is_adopted_too() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rds("RDS-EVENT-0238", WEST);
    cluster.done("assess", Report::Assessed(assessment(WEST)));
    assert_eq!(how(cluster.record()), Some(How::Follow));
}

#[test]
fn an_observer_follows_the_truth_and_touches_nothing() {
    let mut cluster = Cluster::healthy(Mode::Observe);
    let epoch = cluster.record().epoch;
    cluster.rds("RDS-EVENT-0185", EAST);
    let decision = cluster.done("assess", Report::Assessed(assessment(WEST)));
    assert_eq!(decision.rule, Rule::Adopted);
    assert_eq!((cluster.state(), cluster.record().epoch), ("healthy", epoch.next()));
    assert_eq!(cluster.record().primary, Region::from(WEST));
    assert!(cluster.pending("reroute").is_none() && cluster.pending("promote").is_none());
}

#[test]
fn a_followed_failover_that_stops_is_given_up() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rds("RDS-EVENT-0181", EAST);
    let mut moving = assessment(EAST);
    moving.failover = Some(FailoverInProgress { status: "pending".into(), to: arn(WEST) });
    cluster.done("assess", Report::Assessed(moving));
    let decision = cluster.answer("promote", Outcome::Refused { detail: "nobody's failover runs".into() });
    assert_eq!(decision.closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Cancelled));
    assert_eq!(cluster.state(), "healthy");
}

#[test]
fn a_confirmed_outage_joins_a_failover_that_runs_already() {
    let mut cluster = Cluster::confirmed_down(Mode::Approve);
    cluster.edit(|record| record.evidence.lag.clear());
    let mut moving = assessment(EAST);
    moving.failover = Some(FailoverInProgress { status: "failing-over".into(), to: arn(WEST) });
    let decision = cluster.done("assess", Report::Assessed(moving));
    assert_eq!(decision.rule, Rule::Adopted, "{:?}", decision.guards);
    assert_eq!(how(cluster.record()), Some(How::Follow));
}

#[test]
fn rds_events_hurry_a_promotion_and_the_end_of_the_soak() {
    let mut cluster = Cluster::promoting();
    cluster.answer("promote", Outcome::InProgress { detail: "failing-over".into() });
    assert!(cluster.claim().claimed.iter().all(|id| Some(*id) != cluster.pending("promote")));
    assert_eq!(cluster.rds("RDS-EVENT-0238", WEST).rule, Rule::RdsHint);
    assert!(cluster.claim().claimed.contains(&cluster.pending("promote").expect("pending")));
    assert_eq!(cluster.rds("RDS-EVENT-0238", WEST).verdict, Verdict::Ignored { reason: Reason::NothingDue });

    let mut stable = Cluster::stable();
    assert_eq!(stable.rds("RDS-EVENT-0241", EAST).rule, Rule::RdsHint);
    stable.done("assess", Report::Assessed(assessment(WEST)));
    assert_eq!(stable.state(), "stable", "whole, but the soak is not over");
    assert!(!stable.record().exposed);
}

#[test]
fn a_hint_makes_a_hold_look_again() {
    let mut cluster = Cluster::confirmed_down(Mode::Approve);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::Guard(Guard::Approved)));
    assert_eq!(cluster.rds("RDS-EVENT-0181", EAST).rule, Rule::RdsHint);
    assert!(cluster.pending("assess").is_some());
}

// ---- alarms ----------------------------------------------------------------------------------------------------

/// One vantage sees a failure; another one is live, and its probes say nothing about the primary yet.
fn only_witness_fails(cluster: &mut Cluster) {
    cluster.probe("witness", "timeout");
    cluster.edit(|record| {
        let track = record.evidence.tracks.get_mut(&"west".into()).expect("known");
        track.last_seen = record.last_now;
    });
}

#[test]
fn an_alarm_adds_its_weight_to_a_vantage_but_never_votes_alone() {
    let mut alone = with_alarm(5);
    alone.probe("west", "timeout");
    alone.alarm("website", true);
    alone.rounds(2, "- - -");
    assert_eq!(alone.state(), "suspect");
    for (weight, state) in [(0, "suspect"), (1, "confirmed-down")] {
        let mut cluster = with_alarm(weight);
        cluster.wait(1_000);
        cluster.alarm("website", true);
        for _ in 0..4 {
            cluster.wait(10_000);
            only_witness_fails(&mut cluster);
        }
        assert_eq!(cluster.state(), state, "weight {weight}");
    }
}

#[test]
fn a_success_newer_than_the_alarm_voids_it() {
    let mut cluster = with_alarm(1);
    cluster.alarm("website", true);
    cluster.wait(1_000);
    cluster.round("ok ok ok");
    let quorum = cluster.record().evidence.confirms_down(&cluster.record().config, cluster.now);
    assert_eq!(quorum.alarm_votes, 0);
}

#[test]
fn an_alarm_that_ends_unknown_or_repeated_is_handled_once() {
    let mut cluster = with_alarm(1);
    assert_eq!(cluster.alarm("other", true).verdict, Verdict::Ignored { reason: Reason::NotOurs });
    assert_eq!(cluster.alarm("website", false).verdict, Verdict::Ignored { reason: Reason::Duplicate });
    assert_eq!(cluster.alarm("website", true).rule, Rule::AlarmCounted);
    assert_eq!(cluster.alarm("website", true).verdict, Verdict::Ignored { reason: Reason::Duplicate });
    assert_eq!(cluster.alarm("website", false).rule, Rule::AlarmCounted);
    assert!(cluster.record().evidence.alarms.is_empty());
}

// ---- probes of other kinds -------------------------------------------------------------------------------------

fn observing(weight: u32) -> Cluster {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.edit(|record| record.config.probes = vec![ProbeWeight { name: "website".into(), weight }]);
    cluster
}

#[test]
fn a_website_that_is_down_over_a_database_that_commits_changes_nothing_but_what_is_shown() {
    let mut cluster = observing(9);
    for _ in 0..10 {
        cluster.wait(10_000);
        cluster.round("ok ok ok");
        cluster.observe("website", "timeout timeout timeout");
    }
    assert_eq!(cluster.state(), "healthy");
    let record = cluster.record();
    assert!(record.evidence.is_failing("website", &record.config.policy, cluster.now));
    let sight = &record.evidence.observed["website"][&"west".into()];
    assert_eq!((sight.failing_since.is_some(), sight.last_failure.as_str()), (true, "timeout"));
}

#[test]
fn an_observed_failure_adds_its_weight_once_a_quorum_sees_it_and_never_votes_alone() {
    let mut alone = observing(9);
    alone.wait(1_000);
    alone.probe("west", "timeout");
    alone.observe("website", "timeout timeout timeout");
    alone.rounds(2, "- - -");
    assert_eq!(alone.state(), "suspect", "one failure of one vantage is not an outage");
    let cases = [
        (0, "timeout timeout timeout", "suspect"),
        (1, "timeout ok ok", "suspect"),
        (1, "isolated isolated timeout", "suspect"),
        (1, "timeout timeout ok", "confirmed-down"),
    ];
    for (weight, seen, state) in cases {
        let mut cluster = observing(weight);
        for _ in 0..4 {
            cluster.wait(10_000);
            cluster.observe("website", seen);
            only_witness_fails(&mut cluster);
        }
        assert_eq!(cluster.state(), state, "weight {weight}, {seen}");
    }
}

#[test]
fn an_observed_failure_confirms_at_once_what_a_vantage_has_seen_for_long_enough() {
    let mut cluster = observing(1);
    for _ in 0..4 {
        cluster.wait(10_000);
        only_witness_fails(&mut cluster);
    }
    assert_eq!(cluster.state(), "suspect");
    cluster.observe("website", "timeout timeout -");
    assert_eq!(cluster.state(), "confirmed-down");
}

#[test]
fn what_an_observed_target_becomes_for_a_quorum_is_history_and_the_rest_is_only_shown() {
    let mut cluster = observing(0);
    let mut seen = |what: &str| {
        cluster.wait(1_000);
        cluster.observe("website", what).expect("somebody saw it").rule
    };
    assert_eq!(seen("ok ok ok"), Rule::EvidenceNoted);
    assert_eq!(seen("timeout ok ok"), Rule::EvidenceNoted);
    assert_eq!(seen("timeout timeout -"), Rule::ObservedCounted);
    assert_eq!(seen("timeout timeout timeout"), Rule::EvidenceNoted);
    assert_eq!(seen("- ok -"), Rule::EvidenceNoted, "two still fail");
    assert_eq!(seen("ok - -"), Rule::ObservedCounted);
    let other = cluster.observe("shop", "timeout - -").expect("given").verdict;
    assert_eq!(other, Verdict::Ignored { reason: Reason::NotOurs });
    let copy = Event::Observation(observation("website", "east", 1, "timeout"));
    assert_eq!(cluster.give(copy).verdict, Verdict::Ignored { reason: Reason::Duplicate });
    // After a silence, and for a new run of the canary, it counts anew.
    cluster.wait(40_000);
    cluster.round("ok ok ok");
    assert_eq!(cluster.observe("website", "timeout - -").expect("given").rule, Rule::EvidenceNoted);
    let mut anew = observation("website", "west", 1, "timeout");
    anew.incarnation = "run-2".into();
    assert_eq!(cluster.give(Event::Observation(anew)).rule, Rule::ObservedCounted);
}

#[test]
fn a_new_primary_starts_with_no_observed_failure() {
    let mut cluster = observing(1);
    cluster.wait(1_000);
    cluster.observe("website", "timeout timeout timeout");
    let until = cluster.now.plus_ms(1_000);
    cluster.order(Order::Pause { until });
    cluster.wait(2_000);
    cluster.give(Event::Tick);
    let evidence = &cluster.record().evidence;
    assert!(evidence.observed["website"].values().all(|sight| sight.failing_since.is_none()));
}

// ---- lag from CloudWatch ---------------------------------------------------------------------------------------

#[test]
fn the_newest_reading_of_the_lag_counts_and_none_from_after_the_fault() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.wait(5_000);
    let lag_ms = |cluster: &Cluster| cluster.record().evidence.lag[&WEST.into()].ms;
    let read = |cluster: &mut Cluster, region: &str, ms: u64, ago_ms: u64| {
        let measured_at = Timestamp(cluster.now.0 - ago_ms);
        cluster.give(Event::Lag(LagReading { region: region.into(), ms, measured_at })).verdict
    };
    assert_eq!(read(&mut cluster, WEST, 70, 1_000), Verdict::Noted);
    assert_eq!(lag_ms(&cluster), 70);
    read(&mut cluster, WEST, 90, 4_000);
    assert_eq!(lag_ms(&cluster), 70, "metrics come late; the newer reading stays");
    assert_eq!(read(&mut cluster, EAST, 5, 0), Verdict::Ignored { reason: Reason::NotOurs }, "the primary");
    assert_eq!(read(&mut cluster, "mars", 5, 0), Verdict::Ignored { reason: Reason::NotOurs });
    let future = LagReading { region: WEST.into(), ms: 1, measured_at: cluster.now.plus_ms(1) };
    assert_eq!(cluster.give(Event::Lag(future)).verdict, Verdict::Ignored { reason: Reason::FromTheFuture });
    cluster.wait(1_000);
    cluster.round("timeout timeout timeout");
    cluster.wait(1_000);
    assert!(matches!(read(&mut cluster, WEST, 1, 0), Verdict::Ignored { .. }), "the fault hides what is lost");
    assert_eq!(read(&mut cluster, WEST, 80, 1_500), Verdict::Noted, "before the fault, told late");
    assert_eq!(lag_ms(&cluster), 80);
}

// ---- a second writer ---------------------------------------------------------------------------------------------

#[test]
fn a_second_writer_is_announced_once_and_its_end_is_seen() {
    let mut cluster = Cluster::stable();
    cluster.wait(10_000);
    let mut old = |outcome: &str| {
        cluster.wait(1_000);
        cluster.sequence += 1;
        let seen = probe("witness", cluster.sequence, EAST, outcome);
        (cluster.give(Event::Probe(seen)).rule, cluster.record().dual_writer.clone().map(|d| d.region))
    };
    assert_eq!(old("ok"), (Rule::DualWriter, Some(Region::from(EAST))));
    assert_eq!(old("ok"), (Rule::Ignored, Some(Region::from(EAST))));
    assert_eq!(old("read-only"), (Rule::DualWriterGone, None));
}

#[test]
fn whoever_becomes_the_writer_is_not_fenced_any_more() {
    let mut cluster = Cluster::stable();
    assert!(cluster.pending("fence").is_some());
    cluster.order(Order::Acknowledge);
    cluster.rds("RDS-EVENT-0181", WEST);
    let mut moving = assessment(WEST);
    moving.failover = Some(FailoverInProgress { status: "switching-over".into(), to: arn(EAST) });
    cluster.done("assess", Report::Assessed(moving));
    assert_eq!(how(cluster.record()), Some(How::Follow));
    assert_eq!(cluster.pending("fence"), None);
}

#[test]
fn a_member_that_is_being_fenced_is_no_target_until_the_fence_is_answered_or_over() {
    let mut cluster = Cluster::stable();
    cluster.order(Order::Acknowledge);
    cluster.order(Order::Failover { target: None, allow_data_loss: true });
    cluster.done("assess", Report::Assessed(assessment(WEST)));
    assert_eq!(cluster.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::Guard(Guard::TargetFit)));
    cluster.wait(30_000);
    cluster.give(Event::Tick);
    cluster.done("assess", Report::Assessed(assessment(WEST)));
    assert_eq!(cluster.state(), "promoting", "nobody answered, and its time is over");
    assert_eq!(cluster.pending("fence"), None);
}

#[test]
fn a_fence_that_is_refused_is_given_up_and_holds_nothing() {
    let mut cluster = Cluster::promoting();
    cluster.done("promote", promoted());
    let decision = cluster.answer("fence", Outcome::Refused { detail: "permission denied".into() });
    assert_eq!((decision.rule, cluster.pending("fence")), (Rule::GivenUp, None));
    assert!(cluster.record().hold.is_none());
}

#[test]
fn the_target_of_a_promotion_and_late_probes_are_no_second_writer() {
    let mut promoting = Cluster::promoting();
    promoting.claim();
    promoting.sequence += 1;
    promoting.give(Event::Probe(probe("witness", promoting.sequence, WEST, "ok")));
    assert!(promoting.record().dual_writer.is_none());
    let mut stable = Cluster::stable();
    let at = stable.record().primary_since;
    let late = statemachine::Envelope { id: "late".into(), at, event: Event::Probe(probe("west", 9_000, EAST, "ok")) };
    stable.give_as(late);
    assert!(stable.record().dual_writer.is_none());
}

// ---- evidence in detail ------------------------------------------------------------------------------------------

#[test]
fn the_newest_lag_is_kept_whatever_order_readings_come_in() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.wait(10_000);
    cluster.probe_lag(70);
    let mut older = probe("witness", 9_001, WEST, "read-only");
    older.lag_ms = Some(5);
    let at = Timestamp(cluster.now.0 - 1_000);
    cluster.give_as(statemachine::Envelope { id: "older".into(), at, event: Event::Probe(older) });
    assert_eq!(cluster.record().evidence.lag[&Region::from(WEST)].ms, 70);
}

#[test]
fn a_restarted_canary_counts_anew_and_its_stragglers_do_not() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let before = cluster.now;
    cluster.wait(10_000);
    let mut restarted = probe("west", 1, EAST, "ok");
    restarted.incarnation = "run-2".into();
    cluster.give(Event::Probe(restarted));
    assert_eq!(cluster.record().evidence.tracks[&"west".into()].incarnation, "run-2");
    let straggler = Event::Probe(probe("west", 9_999, EAST, "timeout"));
    let envelope = statemachine::Envelope { id: "straggler".into(), at: before, event: straggler };
    assert_eq!(cluster.give_as(envelope).verdict, Verdict::Ignored { reason: Reason::Duplicate });
}

#[test]
fn blindness_is_seen_without_any_event() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.done_beside();
    let heard = cluster.now;
    cluster.tick_until("blind", |record| record.blind);
    assert_eq!(cluster.now, heard.plus_ms(35_001), "as soon as too few are live");
    cluster.done_beside();
    assert_eq!(next_wakeup(cluster.record()), None, "only probes can change that");
}

#[test]
fn every_wakeup_is_the_one_that_matters() {
    let mut held = Cluster::confirmed_down(Mode::Approve);
    held.done("assess", Report::Assessed(assessment(EAST)));
    for vantage in VANTAGES {
        held.probe(vantage, "timeout");
    }
    held.done_beside();
    let deadline = held.record().hold.as_ref().map(|hold| hold.deadline);
    assert_eq!(next_wakeup(held.record()), deadline);
    let mut stable = Cluster::stable();
    stable.done_beside();
    stable.edit(|record| record.blind = true);
    let soak_until = stable.now.plus_ms(config().policy.soak_ms);
    assert_eq!(next_wakeup(stable.record()), Some(soak_until));
}
