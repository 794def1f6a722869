//! Exactly at the edge: each comparison and each "and" of the machine, from both sides. Found by mutation testing.

mod common;

use common::{Cluster, EAST, WEST, arn, assessment, config, probe, promoted};
use statemachine::{
    AlarmWeight, Configured, Effect, EffectId, Envelope, EpisodeKind, Event, FailoverInProgress, Guard, HoldReason,
    How, Lag, Mode, Order, ProbeWeight, Reason, Record, Region, Report, Rule, State, Timestamp, Verdict, invariants,
    next_wakeup,
};

fn at(cluster: &mut Cluster, id: &str, at: Timestamp, event: Event) -> Verdict {
    cluster.give_as(Envelope { id: id.into(), at, event }).verdict
}

fn ignored(reason: Reason) -> Verdict {
    Verdict::Ignored { reason }
}

fn passes(decision: &statemachine::Decision, guard: Guard) -> bool {
    decision.guards.iter().find(|result| result.guard == guard).expect("it was asked").pass
}

fn rerouting() -> Cluster {
    let mut cluster = Cluster::promoting();
    cluster.done("promote", promoted());
    cluster
}

// ---- ages --------------------------------------------------------------------------------------------------------

#[test]
fn an_event_of_exactly_the_greatest_age_counts_and_a_moment_older_does_not() {
    let fresh = || {
        let mut cluster = Cluster::healthy(Mode::Auto);
        cluster.edit(|record| {
            record.config.policy.event_age_max_ms = 1_000;
            record.config.alarms = vec![AlarmWeight { name: "commits".into(), weight: 1 }];
        });
        cluster
    };
    let events = [
        Event::Probe(probe("west", 900, EAST, "timeout")),
        Event::Rds(statemachine::RdsEvent { code: "RDS-EVENT-0073".into(), source: arn(EAST) }),
        Event::Alarm(statemachine::Alarm { name: "commits".into(), in_alarm: true }),
    ];
    for event in events {
        let mut cluster = fresh();
        let now = cluster.now;
        assert_eq!(at(&mut cluster, "older", Timestamp(now.0 - 1_001), event.clone()), ignored(Reason::Stale));
        assert!(at(&mut cluster, "old", Timestamp(now.0 - 1_000), event.clone()).is_durable(), "{event:?}");
        let mut young = fresh();
        assert!(at(&mut young, "young", Timestamp(now.0 - 500), event.clone()).is_durable(), "{event:?}");
    }
}

#[test]
fn an_event_from_exactly_as_far_ahead_as_clocks_may_differ_counts() {
    let mut signalled = Cluster::healthy(Mode::Auto);
    let began = Event::Rds(statemachine::RdsEvent { code: "RDS-EVENT-0073".into(), source: arn(EAST) });
    let edge = signalled.now.plus_ms(5_000);
    assert_eq!(at(&mut signalled, "far", edge.plus_ms(1), began.clone()), ignored(Reason::FromTheFuture));
    assert_eq!(at(&mut signalled, "near", edge, began), Verdict::Updated);
    let mut cluster = Cluster::healthy(Mode::Auto);
    let ahead = cluster.now.plus_ms(5_000);
    let failed = |sequence| Event::Probe(probe("west", sequence, EAST, "timeout"));
    assert_eq!(at(&mut cluster, "too-far", ahead.plus_ms(1), failed(900)), ignored(Reason::FromTheFuture));
    assert_eq!(at(&mut cluster, "ahead", ahead, failed(901)), Verdict::Moved);
}

#[test]
fn probes_exactly_as_far_apart_as_a_vantage_may_be_silent_are_one_window() {
    for (gap_ms, state) in [(35_000, "confirmed-down"), (35_001, "suspect")] {
        let mut cluster = Cluster::healthy(Mode::Auto);
        for _ in 0..3 {
            cluster.wait(gap_ms);
            cluster.round("- timeout timeout");
        }
        assert_eq!(cluster.state(), state, "{gap_ms}");
    }
}

#[test]
fn a_new_run_of_a_canary_may_begin_at_the_moment_of_the_old_ones_last_probe() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let mut first = probe("west", 1, EAST, "timeout");
    first.incarnation = "run-2".into();
    assert_eq!(cluster.give(Event::Probe(first)).verdict, Verdict::Moved);
}

// ---- success and failure -----------------------------------------------------------------------------------------

#[test]
fn a_late_success_voids_failures_up_to_its_own_time_and_no_newer_ones() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let start = cluster.now;
    cluster.wait(20_000);
    for (n, ms) in [5_000, 10_000, 15_000].into_iter().enumerate() {
        let failed = Event::Probe(probe("west", 900 + n as u64, EAST, "timeout"));
        at(&mut cluster, &format!("failed-{n}"), start.plus_ms(ms), failed);
    }
    at(&mut cluster, "ok", start.plus_ms(10_000), Event::Probe(probe("witness", 900, EAST, "ok")));
    let track = &cluster.record().evidence.tracks[&"west".into()];
    assert_eq!(track.failures, [start.plus_ms(15_000)]);
    assert_eq!(track.failing_since, Some(start.plus_ms(10_000)));
    // And a failure no newer than the success does not count when it comes after it.
    at(&mut cluster, "late", start.plus_ms(10_000), Event::Probe(probe("east", 900, EAST, "timeout")));
    assert_eq!(cluster.record().evidence.tracks[&"east".into()].failures, []);
}

#[test]
fn of_two_lag_readings_of_one_moment_the_first_stays() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.probe_lag(41);
    assert_eq!(cluster.record().evidence.lag[&Region::from(WEST)].ms, 40);
    cluster.wait(1);
    cluster.probe_lag(41);
    assert_eq!(cluster.record().evidence.lag[&Region::from(WEST)].ms, 41);
}

#[test]
fn evidence_that_matters_is_stored_four_times_per_window_and_good_news_of_a_settled_primary_is_not() {
    let mut suspect = Cluster::healthy(Mode::Auto);
    suspect.probe("west", "timeout");
    let mut settled = Cluster::stable();
    let west = |sequence, outcome: &str| Event::Probe(probe("west", sequence, WEST, outcome));
    for (ms, stored) in [(7_498, false), (2, true), (2, false)] {
        suspect.wait(ms);
        assert_eq!(suspect.probe("west", "timeout").verdict.is_durable(), stored, "{ms}");
        settled.wait(ms);
        settled.sequence += 2;
        let good = settled.give(west(settled.sequence - 1, "ok"));
        assert_eq!(good.verdict, Verdict::Noted);
        settled.wait(1);
        let bad = settled.give(west(settled.sequence, "timeout"));
        assert_eq!(bad.verdict.is_durable(), stored, "{ms}");
    }
}

#[test]
fn an_alarm_no_newer_than_a_success_has_no_weight() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.edit(|record| record.config.alarms = vec![AlarmWeight { name: "commits".into(), weight: 1 }]);
    let votes = |cluster: &Cluster| {
        let record = cluster.record();
        record.evidence.confirms_down(&record.config, cluster.now).alarm_votes
    };
    cluster.alarm("commits", true);
    assert_eq!(votes(&cluster), 0, "in the same moment somebody committed");
    cluster.alarm("commits", false);
    cluster.wait(1);
    cluster.alarm("commits", true);
    assert_eq!(votes(&cluster), 1);
}

#[test]
fn an_alarm_and_one_vantage_do_not_confirm_while_the_others_are_silent() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.edit(|record| record.config.alarms = vec![AlarmWeight { name: "commits".into(), weight: 5 }]);
    cluster.wait(1);
    cluster.alarm("commits", true);
    cluster.rounds(12, "- timeout -");
    assert!(cluster.record().blind);
    assert_eq!(cluster.state(), "suspect");
}

#[test]
fn what_is_heard_for_the_first_time_is_stored() {
    let mut cluster = Cluster::new(Mode::Auto);
    cluster.probe("west", "ok");
    cluster.probe("east", "ok");
    assert!(cluster.probe("witness", "ok").verdict.is_durable(), "a third vantage changes no verdict, and is news");
    assert!(!cluster.probe("witness", "ok").verdict.is_durable());
    let mut reading = probe("witness", 900, WEST, "read-only");
    reading.lag_ms = Some(7);
    assert!(cluster.give(Event::Probe(reading.clone())).verdict.is_durable());
    reading.sequence = 901;
    assert!(!cluster.give(Event::Probe(reading)).verdict.is_durable());
}

#[test]
fn only_a_newer_probe_of_its_own_region_ends_a_second_writer() {
    let mut cluster = Cluster::stable();
    cluster.wait(1_000);
    let seen = |outcome: &str, target: &str, sequence| Event::Probe(probe("witness", sequence, target, outcome));
    cluster.give(seen("ok", EAST, 900));
    cluster.give(seen("read-only", EAST, 901));
    assert!(cluster.record().dual_writer.is_some(), "in the same moment");
    cluster.wait(1);
    cluster.give(seen("read-only", "eu-west-1", 902));
    assert!(cluster.record().dual_writer.is_some(), "another region");
    cluster.give(seen("read-only", EAST, 903));
    assert!(cluster.record().dual_writer.is_none());
}

#[test]
fn a_vantage_that_fell_silent_wakes_nobody_twice() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.done_beside();
    let heard = cluster.now;
    cluster.wait(10_000);
    cluster.round("- ok ok");
    cluster.now = heard.plus_ms(35_001);
    cluster.give(Event::Tick);
    assert!(!cluster.record().blind);
    assert_eq!(next_wakeup(cluster.record()), Some(heard.plus_ms(45_001)), "when the next two fall silent");
}

// ---- guards ------------------------------------------------------------------------------------------------------

#[test]
fn a_machine_that_went_blind_may_not_judge() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    cluster.claim();
    cluster.wait(40_000);
    cluster.claim();
    let decision = cluster.done_claimed("assess", Report::Assessed(assessment(EAST)));
    assert!(!passes(&decision, Guard::CanJudge));
    assert_eq!(cluster.state(), "confirmed-down");
}

#[test]
fn a_fence_makes_its_region_unfit_until_it_is_over_and_nobody_is_at_it() {
    // When the fence was asked for, it has 30 s. Each row: claimed after, looked at after, fit?
    let cases =
        [(None, 29_999, false), (None, 30_000, true), (Some(20_000), 49_999, false), (Some(20_000), 50_000, true)];
    for (claimed_ms, looked_ms, fit) in cases {
        let mut cluster = Cluster::promoting();
        cluster.done("promote", promoted());
        let began = cluster.now;
        let fence = cluster.pending("fence").expect("asked for");
        cluster.edit(|record| {
            record.pending.retain(|p| p.id == fence);
            record.state = State::Healthy;
            record.episode = None;
        });
        if let Some(ms) = claimed_ms {
            cluster.now = began.plus_ms(ms);
            cluster.claim();
        }
        cluster.order(Order::Failover { target: None, allow_data_loss: true });
        // The question alone is claimed, so that nothing happens to the fence meanwhile.
        let assess = cluster.pending("assess").expect("asked");
        cluster.now = began.plus_ms(looked_ms);
        let expires_at = cluster.now.plus_ms(60_000);
        cluster.edit(|record| {
            record.tokens_issued = record.tokens_issued.next();
            let token = record.tokens_issued;
            let asked = record.pending.iter_mut().find(|p| p.id == assess).expect("asked");
            asked.claim = Some(statemachine::Claim { token, by: "controller-1".into(), expires_at });
        });
        let decision = cluster.done_claimed("assess", Report::Assessed(assessment(WEST)));
        assert_eq!(passes(&decision, Guard::TargetFit), fit, "claimed {claimed_ms:?}, looked {looked_ms}");
    }
}

#[test]
fn of_two_equal_secondaries_the_first_configured_is_chosen() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    let mut answer = assessment(EAST);
    let mut third = answer.members[1].clone();
    third.arn = arn("us-east-2");
    answer.members.push(third);
    cluster.edit(|record| {
        let mut member = record.config.members[1].clone();
        (member.region, member.arn) = ("us-east-2".into(), arn("us-east-2"));
        record.config.members.push(member);
        let lag: Lag = record.evidence.lag[&Region::from(WEST)];
        record.evidence.lag.insert("us-east-2".into(), lag);
    });
    cluster.done("assess", Report::Assessed(answer));
    assert!(matches!(&cluster.record().state, State::Promoting { target, .. } if target.as_str() == WEST));
}

#[test]
fn a_failover_exactly_one_window_or_one_cooldown_ago_does_not_count_any_more() {
    for (ago_ms, below, cooled) in [(86_400_000, true, true), (86_399_999, false, true), (3_599_999, false, false)] {
        let mut cluster = Cluster::confirmed_down(Mode::Auto);
        let then = Timestamp(cluster.now.0 - ago_ms);
        cluster.edit(|record| {
            record.config.policy.failovers_max = 1;
            record.failovers = vec![then];
        });
        let decision = cluster.done("assess", Report::Assessed(assessment(EAST)));
        assert_eq!((passes(&decision, Guard::BelowLimit), passes(&decision, Guard::CooledDown)), (below, cooled));
    }
}

#[test]
fn history_says_who_approved() {
    let by = |cluster: &mut Cluster, answer: statemachine::Assessment| {
        let decision = cluster.done("assess", Report::Assessed(answer));
        let approved = decision.guards.into_iter().find(|g| g.guard == Guard::Approved).expect("asked");
        approved.inputs.into_iter().find(|i| i.name == "by").expect("named").value
    };
    let mut running = assessment(EAST);
    running.failover = Some(FailoverInProgress { status: "failing-over".into(), to: arn(WEST) });
    assert_eq!(by(&mut Cluster::confirmed_down(Mode::Approve), running), "whoever started it");
    assert_eq!(by(&mut Cluster::confirmed_down(Mode::Approve), assessment(EAST)), "nobody");
}

// ---- deadlines ---------------------------------------------------------------------------------------------------

#[test]
fn a_pause_ends_at_its_end_and_no_moment_sooner() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let until = cluster.now.plus_ms(60_000);
    cluster.order(Order::Pause { until });
    for (now, paused) in [(Timestamp(until.0 - 1), true), (until, false)] {
        cluster.now = now;
        cluster.give(Event::Tick);
        assert_eq!(cluster.record().paused.is_some(), paused);
    }
    let mut late = Cluster::healthy(Mode::Auto);
    late.order(Order::Pause { until });
    late.now = until.plus_ms(5_000);
    late.give(Event::Tick);
    assert!(late.record().paused.is_none(), "a tick may come late");
}

#[test]
fn a_hold_is_looked_at_again_at_its_deadline_and_gets_another() {
    let mut cluster = Cluster::confirmed_down(Mode::Approve);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    let deadline = cluster.record().hold.as_ref().expect("held").deadline;
    cluster.wait(29_999);
    cluster.round("- timeout timeout");
    assert_eq!(cluster.give(Event::Tick).verdict, ignored(Reason::NothingDue));
    cluster.now = deadline;
    assert_eq!(cluster.give(Event::Tick).rule, Rule::Reassess);
    assert_eq!(cluster.record().hold.as_ref().expect("held").deadline, deadline.plus_ms(30_000));
    assert_eq!(cluster.give(Event::Tick).verdict, ignored(Reason::NothingDue), "one question at a time");
}

#[test]
fn a_report_that_does_not_answer_the_effect_is_not_taken_for_its_end() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    cluster.done("assess", Report::Announced);
    assert_eq!(cluster.record().hold.as_ref().map(|hold| hold.reason), Some(HoldReason::AssessOverdue));
    assert!(cluster.pending("assess").is_some());
}

#[test]
fn the_last_events_are_remembered_and_no_more() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    for n in 0..100 {
        cluster.wait(1);
        let event = Event::Alarm(statemachine::Alarm { name: "commits".into(), in_alarm: n % 2 == 0 });
        cluster.edit(|record| record.config.alarms = vec![AlarmWeight { name: "commits".into(), weight: 1 }]);
        let now = cluster.now;
        assert!(at(&mut cluster, &format!("alarm-{n}"), now, event).is_durable());
    }
    let seen: Vec<&str> = cluster.record().seen.iter().map(|id| id.as_str()).collect();
    assert_eq!((seen.len(), seen.first().copied(), seen.last().copied()), (32, Some("alarm-68"), Some("alarm-99")));
}

// ---- taking back -------------------------------------------------------------------------------------------------

#[test]
fn a_mode_that_needs_a_human_takes_back_only_what_no_human_wanted() {
    let approve_now = |cluster: &mut Cluster| {
        let other = statemachine::Config { hash: "two".into(), ..config() };
        cluster.give(Event::Configured(Configured { config: other, mode: Mode::Approve }));
        cluster.state()
    };
    assert_eq!(approve_now(&mut Cluster::promoting()), "suspect", "nobody approved");

    let mut approved = Cluster::confirmed_down(Mode::Auto);
    approved.order(Order::Approve { allow_data_loss: false });
    approved.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(approve_now(&mut approved), "promoting");

    let mut ordered = Cluster::healthy(Mode::Auto);
    ordered.order(Order::Failover { target: None, allow_data_loss: false });
    ordered.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(approve_now(&mut ordered), "promoting");

    let mut adopted = Cluster::confirmed_down(Mode::Auto);
    let mut running = assessment(EAST);
    running.failover = Some(FailoverInProgress { status: "failing-over".into(), to: arn(WEST) });
    adopted.done("assess", Report::Assessed(running));
    assert_eq!(approve_now(&mut adopted), "promoting");
}

#[test]
fn a_switchover_that_is_prepared_can_be_aborted() {
    let mut cluster = Cluster::healthy(Mode::Approve);
    assert_eq!(cluster.order(Order::Abort).rule, Rule::CommandRefused);
    cluster.order(Order::Switchover { target: None });
    assert_eq!(cluster.order(Order::Abort).rule, Rule::Aborted);
    assert!(cluster.record().episode.is_none() && cluster.pending("assess").is_none());
}

#[test]
fn an_outage_that_turns_out_to_be_somebodys_failover_becomes_an_adopted_episode() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.probe("west", "timeout");
    let id = cluster.record().episode.as_ref().expect("open").id.clone();
    cluster.done("assess", Report::Assessed(assessment(WEST)));
    let episode = cluster.record().episode.as_ref().expect("open");
    assert_eq!((&episode.id, episode.kind), (&id, EpisodeKind::Adopted));
}

#[test]
fn an_observer_who_follows_the_writer_forgets_a_fence_of_it_and_nothing_else() {
    let mut cluster = Cluster::stable();
    cluster.set_mode(Mode::Observe);
    cluster.order(Order::Acknowledge);
    let announcements = cluster.record().pending.len() - 1;
    cluster.rds("RDS-EVENT-0238", WEST);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.record().primary.as_str(), EAST);
    assert_eq!(cluster.pending("fence"), None);
    assert!(cluster.record().pending.len() > announcements);
}

// ---- what is said ------------------------------------------------------------------------------------------------

#[test]
fn a_hold_is_announced_with_its_release_and_a_transition_with_its_rule() {
    let mut cluster = Cluster::confirmed_down(Mode::Approve);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    let reasons: Vec<&str> = cluster
        .record()
        .pending
        .iter()
        .filter_map(|p| match &p.effect {
            Effect::Announce { reason, .. } => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    assert!(reasons.iter().any(|reason| reason.ends_with("; to go on: approve")), "{reasons:?}");
    assert!(reasons.contains(&Rule::QuorumConfirmed.sentence()), "{reasons:?}");
    // A transition out of a hold has its rule too.
    cluster.rounds(2, "ok ok ok");
    let last = cluster.record().pending.iter().rev().find_map(|p| match &p.effect {
        Effect::Announce { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    assert_eq!(last, Some(Rule::Recovered.sentence()));
    // And what is announced while a hold stands, besides it.
    let mut held = Cluster::confirmed_down(Mode::Approve);
    held.done("assess", Report::Assessed(assessment(EAST)));
    held.wait(40_000);
    held.give(Event::Tick);
    let blind = held.record().pending.iter().rev().find_map(|p| match &p.effect {
        Effect::Announce { reason, to, .. } if to == "blind" => Some(reason.clone()),
        _ => None,
    });
    assert!(blind.is_some_and(|reason| !reason.contains("to go on")));
}

#[test]
fn what_no_state_waits_for_ends_by_its_own_rule() {
    let mut cluster = Cluster::stable();
    let fenced = cluster.done_claimed("fence", Report::Fenced { detail: String::new() });
    assert_eq!(fenced.rule, Rule::Fenced);
    assert_eq!(cluster.done("announce", Report::Announced).rule, Rule::Announced);
    let mut healthy = Cluster::healthy(Mode::Auto);
    healthy.order(Order::FailoverInRegion { instance: None });
    let accepted = healthy.now.plus_ms(5_000);
    healthy.now = accepted;
    assert_eq!(healthy.done("failover-in-region", Report::FailingOverInRegion).rule, Rule::InRegionFailover);
    let grace = healthy.record().grace.clone().expect("it holds confirmation back");
    assert_eq!(grace.until, accepted.plus_ms(90_000), "from when RDS took it");
}

#[test]
fn the_same_configuration_in_another_mode_is_news() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let mut configured = |mode| cluster.give(Event::Configured(Configured { config: config(), mode })).rule;
    assert_eq!(configured(Mode::Auto), Rule::Ignored);
    assert_eq!(configured(Mode::Approve), Rule::Reconfigured);
    assert_eq!(configured(Mode::Approve), Rule::Ignored);
}

#[test]
fn an_operators_mode_holds_until_the_configured_mode_changes() {
    let mut cluster = Cluster::healthy(Mode::Approve);
    cluster.order(Order::SetMode { mode: Mode::Auto });
    let mut configured = |hash: &str, mode| {
        let config = statemachine::Config { hash: hash.into(), ..config() };
        cluster.give(Event::Configured(Configured { config, mode }));
        cluster.record().mode
    };
    assert_eq!(configured("one", Mode::Approve), Mode::Auto, "the same file again");
    assert_eq!(configured("two", Mode::Approve), Mode::Auto, "other thresholds");
    assert_eq!(configured("two", Mode::Observe), Mode::Observe);
}

#[test]
fn who_has_only_just_begun_to_listen_calls_nobody_silent() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.done_beside();
    cluster.wait(60_000);
    // Another controller takes over; nothing quiet was stored for a minute.
    let began = cluster.now;
    cluster.edit(|record| record.evidence.listen_since(began));
    cluster.give(Event::Tick);
    assert!(!cluster.record().blind);
    assert_eq!(next_wakeup(cluster.record()), Some(began.plus_ms(35_001)));
    cluster.now = began.plus_ms(35_000);
    cluster.give(Event::Tick);
    assert!(!cluster.record().blind);
    cluster.wait(1);
    cluster.give(Event::Tick);
    assert!(cluster.record().blind, "now they had their time");
    // Who says of itself that it is cut off is not waited for.
    let mut isolated = Cluster::healthy(Mode::Auto);
    isolated.round("isolated isolated ok");
    let now = isolated.now;
    isolated.edit(|record| record.evidence.listen_since(now));
    isolated.give(Event::Tick);
    assert!(isolated.record().blind);
}

#[test]
fn what_a_new_configuration_does_not_name_is_forgotten_and_the_rest_is_kept() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let mut wide = statemachine::Config { hash: "two".into(), ..config() };
    wide.alarms = ["commits", "website"].map(|name| AlarmWeight { name: name.into(), weight: 1 }).to_vec();
    wide.probes = ["page", "proxy"].map(|name| ProbeWeight { name: name.into(), weight: 1 }).to_vec();
    cluster.give(Event::Configured(Configured { config: wide.clone(), mode: Mode::Auto }));
    cluster.alarm("commits", true);
    cluster.alarm("website", true);
    cluster.observe("page", "ok ok ok");
    cluster.observe("proxy", "ok ok ok");
    cluster.edit(|record| {
        let lag = record.evidence.lag[&Region::from(WEST)];
        record.evidence.lag.insert("us-east-2".into(), lag);
    });
    let mut narrow = statemachine::Config { hash: "three".into(), ..wide };
    narrow.alarms.pop();
    narrow.probes.pop();
    narrow.policy.vantages.pop();
    cluster.give(Event::Configured(Configured { config: narrow, mode: Mode::Auto }));
    let evidence = &cluster.record().evidence;
    assert_eq!(evidence.tracks.keys().map(|v| v.as_str()).collect::<Vec<_>>(), ["east", "west"]);
    assert_eq!(evidence.alarms.keys().collect::<Vec<_>>(), ["commits"]);
    assert_eq!(evidence.observed.keys().collect::<Vec<_>>(), ["page"]);
    assert_eq!(evidence.observed["page"].keys().map(|v| v.as_str()).collect::<Vec<_>>(), ["east", "west"]);
    assert_eq!(evidence.lag.keys().map(|r| r.as_str()).collect::<Vec<_>>(), [WEST]);
}

#[test]
fn a_topology_is_whole_with_one_connected_available_secondary_that_has_an_instance() {
    type Spoil = fn(&mut statemachine::Assessment);
    let cases: [(Spoil, bool); 5] = [
        (|_| {}, false),
        (|a| a.members[0].cluster.as_mut().expect("given").instances = 0, true),
        (|a| a.members[0].cluster.as_mut().expect("given").status = "creating".into(), true),
        (|a| a.members[0].synchronization = None, true),
        (|a| a.members[1].writer = false, true),
    ];
    for (spoil, exposed) in cases {
        let mut cluster = Cluster::stable();
        cluster.wait(600_000);
        cluster.give(Event::Tick);
        let mut answer = assessment(WEST);
        spoil(&mut answer);
        cluster.done("assess", Report::Assessed(answer));
        assert_eq!(cluster.record().exposed, exposed);
        assert_eq!(cluster.state(), if exposed { "stable" } else { "healthy" });
    }
}

// ---- names and invariants ----------------------------------------------------------------------------------------

#[test]
fn events_and_states_have_their_names_and_times() {
    let cluster = Cluster::healthy(Mode::Auto);
    let command = Cluster::healthy(Mode::Auto).command(Order::Resume);
    let events = [
        (Event::Tick, "tick"),
        (Event::Probe(probe("west", 1, EAST, "ok")), "probe"),
        (Event::Claim(statemachine::Claimant { by: "c".into() }), "claim"),
        (Event::Command(command), "command"),
    ];
    for (event, name) in events {
        assert_eq!(event.name(), name);
    }
    assert_eq!(cluster.record().state.since(), None);
    assert_eq!(HoldReason::Guard(Guard::WithinRpo).name(), Guard::WithinRpo.name());
    assert_eq!(HoldReason::VerifyOverdue.name(), "verify-overdue");
    let states = [Cluster::confirmed_down(Mode::Auto), Cluster::promoting(), Cluster::stable()];
    for cluster in states {
        assert_eq!(cluster.record().state.since(), Some(cluster.now));
    }
}

/// Each row: what is wrong with a record, and the invariant that says so.
#[test]
fn each_broken_invariant_is_found() {
    let promote =
        |record: &mut Record| record.pending.iter().position(|p| p.effect.name() == "promote").expect("there");
    type Break = Box<dyn Fn(&mut Record)>;
    let cases: Vec<(&str, Cluster, Break)> = vec![
        (
            "I1",
            Cluster::promoting(),
            Box::new(move |record| {
                let at = promote(record);
                let mut second = record.pending[at].clone();
                record.effects_issued = record.effects_issued.next();
                second.id = record.effects_issued;
                record.pending.push(second);
            }),
        ),
        ("I1", Cluster::promoting(), Box::new(|record| record.epoch = record.epoch.next())),
        ("I4", Cluster::promoting(), Box::new(|record| record.mode = Mode::Observe)),
        ("I4", Cluster::promoting(), Box::new(|record| record.proven = false)),
        (
            "I4",
            Cluster::promoting(),
            Box::new(|record| {
                let until = record.last_now;
                record.paused = Some(statemachine::Pause { by: "a".into(), reason: "b".into(), until });
            }),
        ),
        ("I4", Cluster::stable(), Box::new(|record| record.primary = EAST.into())),
        (
            "I4",
            Cluster::promoting(),
            Box::new(move |record| {
                let at = promote(record);
                record.effects_issued = record.effects_issued.next();
                let effect = Effect::Fence { cluster: arn(WEST), region: WEST.into() };
                let fence = statemachine::Pending { id: record.effects_issued, effect, ..record.pending[at].clone() };
                record.pending.push(fence);
            }),
        ),
        ("I5", Cluster::confirmed_down(Mode::Auto), Box::new(|record| record.pending.clear())),
        ("I5", Cluster::promoting(), Box::new(|record| record.pending.clear())),
        ("contradicts", Cluster::promoting(), Box::new(|record| record.episode = None)),
        ("contradicts", Cluster::promoting(), Box::new(|record| record.state = State::Healthy)),
        ("contradicts", rerouting(), Box::new(|record| record.state = State::Healthy)),
        (
            "contradicts",
            Cluster::promoting(),
            Box::new(move |record| {
                let at = promote(record);
                let Effect::Promote { region, .. } = &mut record.pending[at].effect else { panic!("it is one") };
                *region = EAST.into();
            }),
        ),
        ("contradicts", Cluster::healthy(Mode::Auto), Box::new(|record| record.primary = "mars".into())),
        ("contradicts", Cluster::promoting(), Box::new(|record| record.effects_issued = EffectId(1))),
        ("contradicts", Cluster::promoting(), Box::new(|record| record.pending.push(record.pending[0].clone()))),
        ("contradicts", Cluster::healthy(Mode::Auto), Box::new(|record| record.epoch.0 = u64::MAX / 2)),
        (
            "contradicts",
            Cluster::promoting(),
            Box::new(|record| {
                record.state = State::Promoting { since: record.last_now, target: record.primary.clone() };
            }),
        ),
        (
            "contradicts",
            Cluster::promoting(),
            Box::new(|record| {
                record.state = State::Promoting { since: record.last_now, target: "mars".into() };
            }),
        ),
    ];
    for (index, (named, cluster, spoil)) in cases.into_iter().enumerate() {
        let mut record = cluster.record().clone();
        assert_eq!(invariants::check(&record), Ok(()), "case {index}");
        spoil(&mut record);
        let violation = invariants::check(&record).expect_err("it is broken").to_string();
        assert!(violation.contains(named), "case {index}: {violation}");
    }
    let mut forged = Cluster::promoting();
    forged.claim();
    let mut record = forged.record().clone();
    record.tokens_issued.0 = 1;
    assert!(invariants::check(&record).is_err(), "a token that was never given");
}

#[test]
fn what_may_happen_does_not_break_an_invariant() {
    // Claimed goes forward whatever comes later.
    let mut claimed = Cluster::promoting();
    claimed.claim();
    claimed.set_mode(Mode::Observe);
    assert_eq!(invariants::check(claimed.record()), Ok(()));
    // A human's order needs no proof.
    let mut ordered = Cluster::new(Mode::Approve);
    ordered.order(Order::Failover { target: None, allow_data_loss: true });
    ordered.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!((ordered.state(), invariants::check(ordered.record())), ("promoting", Ok(())));
    // Nor does somebody else's.
    let mut adopted = Cluster::new(Mode::Approve);
    adopted.rds("RDS-EVENT-0238", WEST);
    adopted.done("assess", Report::Assessed(assessment(WEST)));
    let how = adopted.record().pending.iter().find_map(|p| match &p.effect {
        Effect::Promote { how, .. } => Some(*how),
        _ => None,
    });
    assert_eq!((how, invariants::check(adopted.record())), (Some(How::Follow), Ok(())));
}

// ---- retries -----------------------------------------------------------------------------------------------------

fn fail_reroute(cluster: &mut Cluster) -> Timestamp {
    let not_before = |cluster: &Cluster| {
        let reroute = |p: &&statemachine::Pending| matches!(p.effect, Effect::Reroute { .. });
        cluster.record().pending.iter().find(reroute).expect("it is pending").not_before
    };
    let due = not_before(cluster).since_ms(cluster.now);
    cluster.wait(due);
    cluster.claim();
    cluster.answer("reroute", statemachine::Outcome::Retry { detail: "Route 53 does not answer".into() });
    not_before(cluster)
}

#[test]
fn pauses_between_tries_grow_and_are_spread_over_half_of_their_length() {
    let pauses = |name: &str| {
        let mut cluster = rerouting();
        cluster.edit(|record| record.cluster = name.into());
        let pause = |_| fail_reroute(&mut cluster).since_ms(cluster.now);
        (0..5).map(pause).collect::<Vec<u64>>()
    };
    let mut first = std::collections::BTreeSet::new();
    for name in ["orders", "billing", "stock", "users"] {
        let pauses = pauses(name);
        for (pause, longest) in pauses.iter().zip([2_000, 4_000, 8_000, 16_000, 30_000]) {
            assert!((longest / 2..=longest).contains(pause), "{name}: {pauses:?}");
        }
        first.insert(pauses[0]);
    }
    assert!(first.len() > 2, "clusters that failed together come back together: {first:?}");
}

#[test]
fn an_episode_that_spent_its_retries_holds_at_once_and_looks_on_slowly() {
    let mut cluster = rerouting();
    cluster.edit(|record| record.config.policy.retries_max = 2);
    fail_reroute(&mut cluster);
    fail_reroute(&mut cluster);
    assert_eq!(cluster.record().hold, None);
    let next = fail_reroute(&mut cluster);
    let hold = cluster.record().hold.as_ref().expect("the budget is spent");
    assert_eq!(hold.reason, HoldReason::RerouteOverdue);
    assert_eq!(next.since_ms(cluster.now), 30_000);
    fail_reroute(&mut cluster);
    cluster.wait(30_000);
    cluster.done("reroute", Report::Rerouted { at: cluster.now, detail: String::new() });
    assert_eq!(cluster.record().hold, None, "it goes on by itself");
}
