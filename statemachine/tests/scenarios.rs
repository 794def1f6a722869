//! The forty scenarios that other controllers taught us (what happened to them, and what must happen here), each told
//! to the machine alone. What needs a network, a store or a clock besides is told again to the service, in the
//! simulation and in the lab. Where the design differs from a scenario's first wording, the design wins, and the
//! test says so.

mod common;

use common::{Cluster, EAST, VANTAGES, WEST, arn, assessment, config, probe, promoted};
use statemachine::{
    AlarmWeight, Assessment, Configured, Decision, Effect, EffectResult, Envelope, EpisodeOutcome, Event,
    FailoverInProgress, Guard, HoldReason, How, Mode, Order, Outcome, Reason, Record, Region, Report, RerouteWhen,
    Rule, Timestamp, Verdict, step,
};

const CENTRAL: &str = "us-east-2";

// ---- helpers -------------------------------------------------------------------------------------------------

fn hold(cluster: &Cluster) -> Option<HoldReason> {
    cluster.record().hold.as_ref().map(|hold| hold.reason)
}

fn promotion(record: &Record) -> Option<(How, Region)> {
    record.pending.iter().find_map(|p| match &p.effect {
        Effect::Promote { how, region, .. } => Some((*how, region.clone())),
        _ => None,
    })
}

fn announced(cluster: &Cluster, what: &str) -> bool {
    cluster.record().pending.iter().any(|p| matches!(&p.effect, Effect::Announce { to, .. } if to == what))
}

fn is_refused(decision: &Decision) -> bool {
    decision.rule == Rule::CommandRefused && decision.answer.as_ref().is_some_and(|why| !why.is_empty())
}

fn failover() -> Order {
    Order::Failover { target: None, allow_data_loss: false }
}

/// The current primary fails for two vantages until something happens, at most two minutes.
fn outage(cluster: &mut Cluster) {
    let primary = cluster.record().primary.to_string();
    for _ in 0..12 {
        cluster.wait(10_000);
        for vantage in &VANTAGES[1..] {
            cluster.sequence += 1;
            cluster.give(Event::Probe(probe(vantage, cluster.sequence, &primary, "timeout")));
        }
        if !["healthy", "suspect"].contains(&cluster.state()) && cluster.state() != "stable" {
            return;
        }
    }
}

/// Everybody sees the current primary commit, and its secondary follow closely.
fn all_well(cluster: &mut Cluster) {
    let primary = cluster.record().primary.to_string();
    let secondary = if primary == EAST { WEST } else { EAST };
    for _ in 0..3 {
        cluster.wait(10_000);
        for vantage in VANTAGES {
            cluster.sequence += 1;
            cluster.give(Event::Probe(probe(vantage, cluster.sequence, &primary, "ok")));
        }
        cluster.sequence += 1;
        let mut lag = probe("witness", cluster.sequence, secondary, "read-only");
        lag.lag_ms = Some(40);
        cluster.give(Event::Probe(lag));
    }
}

/// RDS answers that all is as the record believes.
fn assess(cluster: &mut Cluster) -> Decision {
    let primary = cluster.record().primary.to_string();
    cluster.done("assess", Report::Assessed(assessment(&primary)))
}

/// A promotion that was decided is carried out to the end, and the cluster is whole again after its soak.
fn carry_out(cluster: &mut Cluster) {
    cluster.done("promote", promoted());
    cluster.done("fence", Report::Fenced { detail: String::new() });
    cluster.done("reroute", Report::Rerouted { at: cluster.now, detail: String::new() });
    cluster.wait(5_000);
    cluster.done("verify", Report::Verified { detail: String::new() });
    assert_eq!(cluster.state(), "stable");
}

fn settle(cluster: &mut Cluster) {
    cluster.wait(600_000);
    all_well(cluster);
    cluster.give(Event::Tick);
    assess(cluster);
    assert_eq!(cluster.state(), "healthy");
}

// ---- detection -----------------------------------------------------------------------------------------------

/// One failed probe: at most suspect, back to healthy on success. The design asks RDS a question when suspicion
/// begins, and wants two good probes of a quorum, not one: the design wins. Nothing but that question is asked.
#[test]
fn s01_one_failed_probe_is_at_most_a_suspicion() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.probe("west", "timeout");
    assert_eq!(cluster.state(), "suspect");
    assess(&mut cluster);
    cluster.rounds(2, "ok ok ok");
    assert_eq!(cluster.state(), "healthy");
    assert_eq!(promotion(cluster.record()), None);
}

/// The controller's region is cut off from the primary for 43 s, the witness sees the primary: no promotion.
#[test]
fn s02_a_43_second_partition_with_a_witness_that_sees_the_primary_promotes_nobody() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    for _ in 0..43 {
        cluster.wait(1_000);
        cluster.round("- timeout ok");
        assert!(["healthy", "suspect"].contains(&cluster.state()));
    }
    cluster.rounds(2, "ok ok ok");
    assert_eq!(cluster.state(), "healthy");
}

/// Two vantages lose everything, the third sees the primary: they are isolated, the machine is blind and says so.
#[test]
fn s03_isolated_vantages_freeze_the_machine_and_page() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(10, "isolated isolated ok");
    assert_eq!(cluster.state(), "healthy");
    assert!(cluster.record().blind && announced(&cluster, "blind"));
}

/// Everybody agrees for the whole window: exactly one failover, within the window and one probe interval.
#[test]
fn s04_agreement_for_the_whole_window_promotes_exactly_once() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let began = cluster.now;
    outage(&mut cluster);
    assert!(cluster.now.since_ms(began) <= 40_000);
    assess(&mut cluster);
    assert_eq!(promotion(cluster.record()), Some((How::Failover, Region::from(WEST))));
    let first = cluster.pending("promote");
    outage(&mut cluster);
    assert_eq!(cluster.pending("promote"), first, "more failures ask for nothing more");
}

/// Reads answer, commits hang: the write probe is what counts.
#[test]
fn s05_hanging_commits_are_an_outage() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(4, "commit-timeout commit-timeout commit-timeout");
    assert_eq!(cluster.state(), "confirmed-down");
}

/// Slow, with time-outs now and then: a suspicion, never an outage.
#[test]
fn s06_slow_is_not_down() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    for round in 0..60 {
        cluster.rounds(1, if round % 3 == 2 { "timeout ok timeout" } else { "timeout timeout timeout" });
        assert!(["healthy", "suspect"].contains(&cluster.state()), "round {round}");
    }
}

/// No probes at all: unknown and paged, never down; when they return the window starts from zero.
#[test]
fn s07_silence_is_not_an_outage() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(3, "- timeout timeout");
    cluster.wait(600_000);
    cluster.give(Event::Tick);
    assert!(cluster.record().blind && announced(&cluster, "blind"));
    assert_eq!(cluster.state(), "suspect");
    cluster.rounds(3, "- timeout timeout");
    assert_eq!(cluster.state(), "suspect", "three old failures and three new ones are three");
    cluster.rounds(1, "- timeout timeout");
    assert_eq!(cluster.state(), "confirmed-down");
}

/// Copies, reordering and stale events give what each event gives once and in order.
#[test]
fn s08_copies_reordering_and_stale_events_change_nothing() {
    let start = Cluster::healthy(Mode::Auto);
    let events: Vec<(Timestamp, Envelope)> = (1..=4)
        .flat_map(|round| {
            let now = start.now.plus_ms(round * 10_000);
            ["west", "witness"].map(move |vantage| {
                let event = Event::Probe(probe(vantage, 100 + round, EAST, "timeout"));
                (now, Envelope { id: format!("{vantage}-{round}").into(), at: now, event })
            })
        })
        .collect();
    let run = |order: &[(Timestamp, Envelope)]| {
        let mut record = start.record().clone();
        for (now, envelope) in order {
            record = step(record, envelope, *now).record;
        }
        record
    };
    let once = run(&events);
    assert_eq!(once.state.name(), "confirmed-down");

    let twice: Vec<_> = events.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
    assert_eq!(run(&twice), once);

    // Pairs of one round swapped: each vantage's own order is kept.
    let mut swapped = events.clone();
    swapped.chunks_mut(2).for_each(<[_]>::reverse);
    assert_eq!(run(&swapped).state.name(), "confirmed-down");

    let now = start.now.plus_ms(20_000);
    let stale = Envelope { id: "stale".into(), at: Timestamp(now.0 - 61_000), event: events[0].1.event.clone() };
    let decision = step(start.record().clone(), &stale, now);
    assert_eq!(decision.verdict, Verdict::Ignored { reason: Reason::Stale });
}

// ---- decision ------------------------------------------------------------------------------------------------

/// The primary comes back between the decision and the claim: the check right before acting cancels.
#[test]
fn s09_recovery_before_the_claim_cancels() {
    let mut cluster = Cluster::promoting();
    cluster.wait(1_000);
    cluster.probe("witness", "ok");
    let decision = cluster.claim();
    assert_eq!(decision.rule, Rule::CancelledBeforeClaim);
    assert!(decision.guards.iter().any(|g| g.guard == Guard::StillDown && !g.pass), "history shows why");
    assert_eq!(promotion(cluster.record()), None);
}

/// It comes back after the call: forward to the end, no flapping back.
#[test]
fn s10_recovery_after_the_claim_goes_forward() {
    let mut cluster = Cluster::promoting();
    cluster.claim();
    cluster.rounds(6, "ok ok ok");
    assert_eq!(cluster.state(), "promoting");
    cluster.done_claimed("promote", promoted());
    assert_eq!(cluster.state(), "rerouting");
}

/// Too much lag: held with the releasing command, which holds for this episode only.
#[test]
fn s11_lag_over_the_limit_waits_for_an_approval_of_the_loss() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.wait(1_000);
    cluster.probe_lag(31_000);
    outage(&mut cluster);
    assess(&mut cluster);
    assert_eq!(hold(&cluster), Some(HoldReason::Guard(Guard::WithinRpo)));
    assert_eq!(cluster.record().hold.as_ref().map(|h| h.release.as_str()), Some("approve --allow-data-loss"));
    cluster.order(Order::Approve { allow_data_loss: true });
    assess(&mut cluster);
    assert_eq!(cluster.state(), "promoting");
    carry_out(&mut cluster);
    settle(&mut cluster);
    assert!(cluster.record().episode.is_none(), "and with the episode went the approval");
}

/// Lag unknown, or known from too long ago: over the limit.
#[test]
fn s12_unknown_or_old_lag_counts_as_over() {
    let mut unknown = Cluster::confirmed_down(Mode::Auto);
    unknown.edit(|record| record.evidence.lag.clear());
    let decision = assess(&mut unknown);
    assert_eq!(hold(&unknown), Some(HoldReason::Guard(Guard::WithinRpo)));
    assert!(decision.guards.iter().any(|g| g.inputs.iter().any(|i| i.value == "unknown")));

    let mut old = Cluster::healthy(Mode::Auto);
    old.rounds(4, "ok ok ok");
    outage(&mut old);
    let decision = assess(&mut old);
    assert_eq!(hold(&old), Some(HoldReason::Guard(Guard::WithinRpo)), "40 ms, 50 s before the outage");
    let seen = decision.guards.iter().flat_map(|g| &g.inputs).find(|i| i.name == "lag_and_age_ms");
    assert_eq!(seen.map(|i| i.value.as_str()), Some("50040"));
}

/// Two secondaries: the least lag, then the configured priority, then whoever is left.
#[test]
fn s13_the_best_of_two_secondaries_is_chosen() {
    let cases = [
        ("least lag", [40, 20], [0, 0], true, CENTRAL),
        ("least lag beats priority", [20, 40], [9, 0], true, WEST),
        ("priority on a tie", [20, 20], [2, 1], true, CENTRAL),
        ("the best is down", [40, 20], [0, 0], false, WEST),
    ];
    for (name, lags, priorities, central_is_fit, chosen) in cases {
        let mut cluster = Cluster::confirmed_down(Mode::Auto);
        let mut answer = assessment(EAST);
        let mut third = answer.members[1].clone();
        third.arn = arn(CENTRAL);
        if !central_is_fit {
            third.cluster.as_mut().expect("given").status = "stopped".into();
        }
        answer.members.push(third);
        cluster.edit(|record| {
            let mut member = record.config.members[1].clone();
            (member.region, member.arn, member.priority) = (CENTRAL.into(), arn(CENTRAL), priorities[1]);
            record.config.members[1].priority = priorities[0];
            record.config.members.push(member);
            let at = record.evidence.lag[&Region::from(WEST)].at;
            for (region, ms) in [WEST, CENTRAL].into_iter().zip(lags) {
                record.evidence.lag.insert(region.into(), statemachine::Lag { ms, at });
            }
        });
        cluster.done("assess", Report::Assessed(answer));
        assert_eq!(promotion(cluster.record()).map(|(_, to)| to), Some(Region::from(chosen)), "{name}");
    }
}

/// A secondary that cannot take over is refused before anything is called, with the reason.
#[test]
fn s14_an_unfit_secondary_is_refused_before_any_call() {
    type Spoil = fn(&mut Assessment);
    let cases: [(Spoil, &str); 3] = [
        (|a| a.members[1].cluster.as_mut().expect("given").instances = 0, "no instance"),
        (|a| a.engine_version = "16.4".into(), "engine 16.6"),
        (|a| a.members[1].cluster.as_mut().expect("given").status = "upgrading".into(), "status upgrading"),
    ];
    for (spoil, why) in cases {
        let mut cluster = Cluster::confirmed_down(Mode::Auto);
        let mut answer = assessment(EAST);
        spoil(&mut answer);
        cluster.done("assess", Report::Assessed(answer));
        assert_eq!(hold(&cluster), Some(HoldReason::Guard(Guard::TargetFit)));
        let detail = cluster.record().hold.as_ref().map(|hold| hold.detail.clone()).unwrap_or_default();
        assert!(detail.contains(why), "{detail}");
        assert_eq!(promotion(cluster.record()), None);
    }
}

/// Somebody's failover is running already: it is followed, and none is called.
#[test]
fn s15_a_failover_that_runs_already_is_adopted() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    let mut running = assessment(EAST);
    running.failover = Some(FailoverInProgress { status: "failing-over".into(), to: arn(WEST) });
    let decision = cluster.done("assess", Report::Assessed(running));
    assert_eq!(decision.rule, Rule::Adopted);
    assert_eq!(promotion(cluster.record()), Some((How::Follow, Region::from(WEST))));
}

// ---- execution -----------------------------------------------------------------------------------------------

/// Two controllers decide from the same record: the second, loading what the first stored, asks for nothing.
#[test]
fn s16_the_second_controller_with_the_same_event_does_nothing() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    cluster.claim();
    let effect = cluster.pending("assess").expect("asked");
    let token = cluster.record().pending(effect).and_then(|p| p.claim.clone()).expect("claimed").token;
    let outcome = Outcome::Done { report: Report::Assessed(assessment(EAST)) };
    let event = Event::Result(EffectResult { effect, token, outcome });
    let envelope = Envelope { id: "result".into(), at: cluster.now, event };
    let first = cluster.give_as(envelope.clone());
    assert_eq!(first.effects.len(), 2, "promote and announce");
    let second = cluster.give_as(envelope);
    assert_eq!(second.verdict, Verdict::Ignored { reason: Reason::Duplicate });
    assert!(second.effects.is_empty() && second.claimed.is_empty());
}

/// A controller sleeps past its claim and wakes: its result carries an old token and changes nothing.
#[test]
fn s17_a_result_under_an_expired_claim_changes_nothing() {
    let mut cluster = Cluster::promoting();
    cluster.claim();
    let effect = cluster.pending("promote").expect("pending");
    let token = cluster.record().pending(effect).and_then(|p| p.claim.clone()).expect("claimed").token;
    cluster.wait(30_000);
    cluster.claim();
    let outcome = Outcome::Refused { detail: "seen by a controller that slept".into() };
    let decision = cluster.give(Event::Result(EffectResult { effect, token, outcome }));
    assert_eq!(decision.verdict, Verdict::Ignored { reason: Reason::LateResult });
    assert_eq!((cluster.state(), hold(&cluster)), ("promoting", None));
}

/// Killed after any call, before its result was stored: the same effect is given out again, never a second one, and
/// the episode ends well. (That the call itself is not repeated is shown with the executors.)
#[test]
fn s18_a_crash_at_each_step_resumes_the_same_effect() {
    let mut cluster = Cluster::promoting();
    // One step after the other.
    cluster.edit(|record| record.config.policy.reroute = RerouteWhen::AfterPromotion);
    for step in ["promote", "reroute", "verify"] {
        cluster.wait(5_000);
        let effect = cluster.pending(step).expect("asked");
        assert!(cluster.claim().claimed.contains(&effect));
        // The holder dies here. Nobody else may try before the claim has expired.
        cluster.wait(29_999);
        assert!(!cluster.claim().claimed.contains(&effect));
        cluster.wait(1);
        let report = match step {
            "promote" => promoted(),
            "reroute" => Report::Rerouted { at: cluster.now, detail: String::new() },
            _ => Report::Verified { detail: String::new() },
        };
        cluster.done(step, report);
        assert_eq!(cluster.pending(step), None);
    }
    assert_eq!(cluster.state(), "stable");
}

/// Throttled, or a reply was lost: bounded pauses, then a page with DNS untouched; it keeps looking and ends well if
/// the promotion had been carried out after all. The first wording calls the overdue episode failed; the design holds
/// it, pages, and keeps looking: the design wins.
#[test]
fn s19_an_rds_that_does_not_answer_is_looked_at_until_it_does() {
    let mut cluster = Cluster::promoting();
    let began = cluster.now;
    let mut pauses = Vec::new();
    while cluster.now.since_ms(began) < 900_000 {
        let asked = cluster.now;
        cluster.answer("promote", Outcome::Unknown { detail: "no answer".into() });
        let id = cluster.pending("promote").expect("pending");
        cluster.now = cluster.record().pending(id).expect("pending").not_before;
        pauses.push(cluster.now.since_ms(asked));
    }
    let longest = (1..=15).map(|tries| (1_000 << tries).min(30_000));
    for (pause, longest) in pauses.iter().zip(longest.chain(std::iter::repeat(30_000))) {
        assert!((longest / 2..=longest).contains(pause), "{pauses:?}");
    }
    cluster.answer("promote", Outcome::Unknown { detail: "no answer".into() });
    assert_eq!(hold(&cluster), Some(HoldReason::PromoteOverdue));
    assert!(announced(&cluster, "hold"));
    // The names do not move before RDS shows the promotion under way; that is the executor's to see.
    let ahead = |p: &statemachine::Pending| matches!(&p.effect, Effect::Reroute { overlap, .. } if overlap.is_some());
    assert!(cluster.record().pending.iter().all(|p| p.effect.name() != "reroute" || ahead(p)));
    cluster.wait(30_000);
    cluster.done("promote", promoted());
    assert_eq!(cluster.state(), "rerouting");
}

/// Route 53's control plane is down: promoted and not rerouted, paged, tried on; done when it answers again.
#[test]
fn s20_without_route_53_it_is_promoted_and_not_rerouted() {
    let mut cluster = Cluster::promoting();
    cluster.done("promote", promoted());
    let began = cluster.now;
    while cluster.now.since_ms(began) <= 330_000 {
        cluster.answer("reroute", Outcome::Retry { detail: "503".into() });
        cluster.wait(30_000);
    }
    assert_eq!((cluster.state(), hold(&cluster)), ("rerouting", Some(HoldReason::RerouteOverdue)));
    let episode = cluster.record().episode.as_ref().expect("open");
    assert!(episode.promoted_at.is_some() && episode.rerouted_at.is_none());
    cluster.done("reroute", Report::Rerouted { at: cluster.now, detail: String::new() });
    assert_eq!(hold(&cluster), None);
}

/// A resolver still answers the old address: not stable before the TTL has passed and a write came through.
#[test]
fn s21_stable_needs_the_ttl_and_a_write_through_the_name() {
    let mut cluster = Cluster::promoting();
    cluster.done("promote", promoted());
    cluster.done("reroute", Report::Rerouted { at: cluster.now, detail: String::new() });
    cluster.wait(4_999);
    let verify = cluster.pending("verify").expect("asked");
    assert!(!cluster.claim().claimed.contains(&verify));
    cluster.wait(1);
    cluster.answer("verify", Outcome::Retry { detail: "the name answers the old writer".into() });
    assert_eq!(cluster.state(), "rerouting");
    cluster.wait(2_000);
    cluster.done("verify", Report::Verified { detail: String::new() });
    assert_eq!(cluster.state(), "stable");
}

/// The old primary is back and takes writes: paged once, fenced, and the window in which both did is recorded.
#[test]
fn s22_a_second_writer_is_paged_and_fenced() {
    let mut cluster = Cluster::stable();
    assert!(cluster.pending("fence").is_some(), "asked for at once, in case the region still answers");
    cluster.wait(30_000);
    cluster.claim();
    assert_eq!(cluster.pending("fence"), None, "nobody reached it: given up in time");
    cluster.wait(60_000);
    let mut old = |outcome: &str| {
        cluster.wait(1_000);
        cluster.sequence += 1;
        cluster.give(Event::Probe(probe("witness", cluster.sequence, EAST, outcome)))
    };
    let (seen, gone) = (old("ok"), old("read-only"));
    assert_eq!(
        (seen.rule, gone.rule),
        (Rule::DualWriter, Rule::DualWriterGone),
        "both stand in history with their times"
    );
    assert!(announced(&cluster, "dual-writer") && cluster.pending("fence").is_some());
}

/// The store cannot be reached: no step, so no effect. What the machine owes to that: nothing is claimed by itself,
/// and a decision that was not stored can be taken anew.
#[test]
fn s23_without_a_stored_claim_there_is_nothing_to_carry_out() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    let stored = cluster.record().clone();
    let decision = assess(&mut cluster);
    assert!(decision.claimed.is_empty() && !decision.effects.is_empty(), "asked for is not yet given out");
    // The write failed: the stored record is the old one, and the same question is asked again.
    cluster.record = Some(stored);
    cluster.wait(30_000);
    cluster.round("- timeout timeout");
    assess(&mut cluster);
    assert_eq!(cluster.state(), "promoting");
}

// ---- limits --------------------------------------------------------------------------------------------------

/// The new primary dies inside the cooldown: held and paged with one command that goes on.
#[test]
fn s24_a_second_outage_inside_the_cooldown_waits_for_one_command() {
    for order in [failover(), Order::Acknowledge] {
        let mut cluster = Cluster::stable();
        all_well(&mut cluster);
        outage(&mut cluster);
        assert_eq!(hold(&cluster), Some(HoldReason::NewPrimaryDown));
        assert!(announced(&cluster, "hold"));
        let acknowledged = order == Order::Acknowledge;
        assert!(!is_refused(&cluster.order(order)));
        if acknowledged {
            outage(&mut cluster);
        }
        cluster.edit(|record| {
            record.evidence.lag.insert(EAST.into(), statemachine::Lag { ms: 1, at: record.last_now });
            record.episode.as_mut().expect("open").approval =
                Some(statemachine::Approval { by: "alice".into(), allow_data_loss: true });
        });
        assess(&mut cluster);
        assert_eq!(promotion(cluster.record()), Some((How::Failover, Region::from(EAST))));
    }
}

/// As many failovers as the window allows: automatic mode latches off until an operator resets it.
#[test]
fn s25_the_limit_latches_until_an_operator_resets_it() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    for _ in 0..2 {
        outage(&mut cluster);
        assess(&mut cluster);
        carry_out(&mut cluster);
        settle(&mut cluster);
        cluster.wait(3_600_000);
        all_well(&mut cluster);
    }
    outage(&mut cluster);
    assess(&mut cluster);
    assert_eq!(hold(&cluster), Some(HoldReason::Guard(Guard::BelowLimit)));
    assert!(cluster.record().limit_latched);
    assert!(!is_refused(&cluster.order(Order::ResetLimit)));
    cluster.give(Event::Tick);
    assess(&mut cluster);
    assert_eq!(cluster.state(), "promoting");
}

/// A network that flaps for a day: never more automatic promotions than the limit.
#[test]
fn s26_a_flapping_network_never_exceeds_the_limit() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let mut promotions = 0;
    let began = cluster.now;
    while cluster.now.since_ms(began) < 80_000_000 {
        outage(&mut cluster);
        if cluster.state() == "confirmed-down" && cluster.pending("assess").is_some() {
            assess(&mut cluster);
        }
        if cluster.state() == "promoting" {
            promotions += 1;
            carry_out(&mut cluster);
            settle(&mut cluster);
        }
        all_well(&mut cluster);
        cluster.wait(600_000);
        all_well(&mut cluster);
        cluster.give(Event::Tick);
    }
    assert_eq!(promotions, 2);
}

// ---- operators -----------------------------------------------------------------------------------------------

/// Paused: what it would do is recorded, nothing is done; at the end the window is fresh.
#[test]
fn s27_a_pause_records_and_does_nothing_and_ends_with_a_fresh_window() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.order(Order::Pause { until: cluster.now.plus_ms(300_000) });
    outage(&mut cluster);
    let decision = assess(&mut cluster);
    let refused: Vec<Guard> = decision.guards.iter().filter(|g| !g.pass).map(|g| g.guard).collect();
    assert_eq!(refused, [Guard::MayAct], "it would have failed over, but for the pause");
    assert_eq!(promotion(cluster.record()), None);
    cluster.wait(300_000);
    cluster.give(Event::Tick);
    assert!(cluster.record().paused.is_none());
    cluster.give(Event::Tick);
    let decision = assess(&mut cluster);
    assert!(decision.guards.iter().any(|g| g.guard == Guard::StillDown && !g.pass), "old failures do not count");
    cluster.rounds(4, "- timeout timeout");
    cluster.wait(30_000);
    cluster.round("- timeout timeout");
    cluster.give(Event::Tick);
    assess(&mut cluster);
    assert_eq!(cluster.state(), "promoting");
}

/// An operator's failover: only where the table allows it, without waiting for evidence, still within the RPO unless
/// the loss is accepted; actor and reason are mandatory.
#[test]
fn s28_an_operators_failover_bypasses_detection_and_not_the_rpo() {
    let mut cluster = Cluster::healthy(Mode::Approve);
    let mut nameless = cluster.command(failover());
    nameless.actor = String::new();
    assert!(is_refused(&cluster.give(Event::Command(nameless))));
    let mut reasonless = cluster.command(failover());
    reasonless.reason = String::new();
    assert!(is_refused(&cluster.give(Event::Command(reasonless))));

    cluster.wait(60_000);
    cluster.order(failover());
    assess(&mut cluster);
    assert_eq!(hold(&cluster), Some(HoldReason::Guard(Guard::WithinRpo)), "the last lag is 60 s old");
    cluster.order(Order::Failover { target: None, allow_data_loss: true });
    assess(&mut cluster);
    assert_eq!(cluster.state(), "promoting");
    assert!(is_refused(&cluster.order(failover())), "not while one is under way");
}

/// Abort while waiting for approval: fresh evidence decides. Abort during the promotion: refused, with the reason.
#[test]
fn s29_an_abort_is_possible_until_the_claim() {
    let mut waiting = Cluster::confirmed_down(Mode::Approve);
    assess(&mut waiting);
    let decision = waiting.order(Order::Abort);
    assert_eq!(decision.closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Cancelled));
    outage(&mut waiting);
    assert_eq!(waiting.state(), "confirmed-down", "it is still down, and fresh evidence says so");

    let mut promoting = Cluster::promoting();
    promoting.claim();
    let decision = promoting.order(Order::Abort);
    assert!(is_refused(&decision) && decision.answer.is_some_and(|why| why.contains("point of no return")));
    assert_eq!(promoting.state(), "promoting");
}

/// Nobody approves: the episode is cancelled with that outcome, and nothing is half done.
#[test]
fn s30_an_approval_that_never_comes_is_an_outcome() {
    let mut cluster = Cluster::confirmed_down(Mode::Approve);
    assess(&mut cluster);
    assert_eq!(hold(&cluster), Some(HoldReason::Guard(Guard::Approved)));
    let mut closed = None;
    for _ in 0..200 {
        cluster.wait(30_000);
        cluster.round("- timeout timeout");
        let tick = cluster.give(Event::Tick);
        if tick.closed.is_some() {
            closed = tick.closed.map(|(_, outcome)| (outcome, tick.rule));
            break;
        }
        assess(&mut cluster);
    }
    assert_eq!(closed, Some((EpisodeOutcome::Cancelled, Rule::ApprovalTimedOut)));
    assert_eq!(promotion(cluster.record()), None);
}

/// Another configuration in the middle of an episode: thresholds stay, the mode takes effect at once.
#[test]
fn s31_an_episode_keeps_its_configuration_but_not_its_mode() {
    let mut cluster = Cluster::promoting();
    let mut other = config();
    (other.hash, other.policy.quorum) = ("two".into(), 3);
    cluster.give(Event::Configured(Configured { config: other, mode: Mode::Observe }));
    assert_eq!(cluster.record().config.policy.quorum, 2);
    assert_eq!(promotion(cluster.record()), None, "the kill switch works at the next event");
    cluster.rounds(3, "ok ok ok");
    assert_eq!(cluster.state(), "healthy");
    assert_eq!(cluster.record().config.policy.quorum, 3, "the episode is over");
}

/// A configuration that hides the primary is not taken. (One whose quorum cannot be reached does not load at all.)
#[test]
fn s32_a_configuration_that_hides_the_primary_is_not_taken() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let mut other = config();
    other.hash = "two".into();
    other.members.remove(0);
    let decision = cluster.give(Event::Configured(Configured { config: other, mode: Mode::Auto }));
    assert_eq!(decision.verdict, Verdict::Ignored { reason: Reason::PrimaryNotConfigured });
}

/// A switchover that RDS does not bring to an end: cancelled, the old primary goes on, DNS was not touched.
#[test]
fn s33_a_switchover_that_does_not_end_leaves_the_old_primary_writing() {
    let mut cluster = Cluster::healthy(Mode::Approve);
    cluster.order(Order::Switchover { target: None });
    assess(&mut cluster);
    assert_eq!(promotion(cluster.record()), Some((How::Switchover, Region::from(WEST))));
    cluster.answer("promote", Outcome::InProgress { detail: "waiting for the replica".into() });
    cluster.wait(2_000);
    let decision = cluster.answer("promote", Outcome::Refused { detail: "RDS gave it up".into() });
    assert_eq!(decision.closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Cancelled));
    assert_eq!((cluster.state(), cluster.record().primary.as_str()), ("healthy", EAST));
    assert!(cluster.pending("reroute").is_none());
}

// ---- what is not an outage of the region ---------------------------------------------------------------------

/// An in-region failover takes 60 s: no cross-region promotion.
#[test]
fn s34_an_in_region_failover_does_not_become_a_cross_region_one() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.rounds(1, "timeout timeout timeout");
    cluster.rds("RDS-EVENT-0073", EAST);
    cluster.rounds(6, "timeout timeout timeout");
    assert_eq!(cluster.state(), "suspect");
    cluster.rds("RDS-EVENT-0071", EAST);
    cluster.rounds(2, "ok ok ok");
    assert_eq!(cluster.state(), "healthy");
}

/// Only the application is down: its alarm alone promotes nobody.
#[test]
fn s35_an_application_that_is_down_promotes_no_database() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.edit(|record| record.config.alarms = vec![AlarmWeight { name: "website".into(), weight: 9 }]);
    for _ in 0..20 {
        cluster.alarm("website", true);
        cluster.rounds(1, "ok ok ok");
        assert_eq!(cluster.state(), "healthy");
    }
}

/// The candidate region has no instance: refused before the promotion, and exposed.
#[test]
fn s36_a_candidate_without_capacity_is_refused_before_the_promotion() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    let mut answer = assessment(EAST);
    answer.members[1].cluster.as_mut().expect("given").instances = 0;
    cluster.done("assess", Report::Assessed(answer));
    assert_eq!(hold(&cluster), Some(HoldReason::Guard(Guard::TargetFit)));
    assert!(cluster.record().exposed);
}

/// Failback while the old region is rebuilt: refused; possible when it is in step again.
#[test]
fn s37_a_failback_waits_for_the_rebuilt_region() {
    let mut cluster = Cluster::stable();
    cluster.done_claimed("fence", Report::Fenced { detail: String::new() });
    assert!(is_refused(&cluster.order(Order::Switchover { target: Some(EAST.into()) })), "not settled");
    settle(&mut cluster);
    cluster.order(Order::Switchover { target: Some(EAST.into()) });
    let mut rebuilding = assessment(WEST);
    rebuilding.members[0].synchronization = Some("pending-resync".into());
    let decision = cluster.done("assess", Report::Assessed(rebuilding));
    assert_eq!(decision.closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Cancelled));
    cluster.order(Order::Switchover { target: Some(EAST.into()) });
    assess(&mut cluster);
    assert_eq!(promotion(cluster.record()), Some((How::Switchover, Region::from(EAST))));
}

/// Clocks that jump an hour either way: no false confirmation.
#[test]
fn s38_a_clock_that_jumps_confirms_nothing() {
    let mut back = Cluster::healthy(Mode::Auto);
    back.round("- timeout timeout");
    back.now = Timestamp(back.now.0 - 3_600_000);
    back.rounds(2, "- timeout timeout");
    assert_eq!(back.state(), "suspect");

    let mut ahead = Cluster::healthy(Mode::Auto);
    ahead.rounds(2, "- timeout timeout");
    ahead.wait(3_600_000);
    ahead.round("- timeout timeout");
    assert_eq!(ahead.state(), "suspect", "the hour that never was spans nothing");

    // One vantage's clock is an hour off, either way: it is not heard.
    for at in [3_600_000, -3_600_000_i64] {
        let mut skewed = Cluster::healthy(Mode::Auto);
        for round in 0..12 {
            skewed.rounds(1, "- - timeout");
            let at = Timestamp(skewed.now.0.checked_add_signed(at).expect("far from the ends"));
            let event = Event::Probe(probe("west", 1_000 + round, EAST, "timeout"));
            skewed.give_as(Envelope { id: format!("skewed-{round}").into(), at, event });
        }
        assert_eq!(skewed.state(), "suspect");
    }
}

// ---- audit ---------------------------------------------------------------------------------------------------

/// A whole episode with everything that decided: the stored events, and what came of them.
fn recorded_episode() -> (Record, Vec<(Timestamp, Envelope)>, Vec<Decision>) {
    let mut cluster = Cluster::healthy(Mode::Approve);
    let start = cluster.record().clone();
    let mut given: Vec<(Timestamp, Envelope)> = Vec::new();
    let mut decisions: Vec<Decision> = Vec::new();
    let mut count = 0;
    let mut give = |cluster: &mut Cluster, event: Event| {
        count += 1;
        let envelope = Envelope { id: format!("recorded-{count}").into(), at: cluster.now, event };
        given.push((cluster.now, envelope.clone()));
        decisions.push(cluster.give_as(envelope));
    };
    for round in 1..=4 {
        cluster.wait(10_000);
        for vantage in ["west", "witness"] {
            give(&mut cluster, Event::Probe(probe(vantage, 100 + round, EAST, "timeout")));
        }
    }
    let mut carry = |cluster: &mut Cluster, name: &str, report: Report| {
        give(cluster, Event::Claim(statemachine::Claimant { by: "controller-1".into() }));
        let effect = cluster.pending(name).expect("asked");
        let token = cluster.record().pending(effect).and_then(|p| p.claim.clone()).expect("claimed").token;
        give(cluster, Event::Result(EffectResult { effect, token, outcome: Outcome::Done { report } }));
        if name == "assess" && hold(cluster).is_some() {
            let approve = cluster.command(Order::Approve { allow_data_loss: false });
            give(cluster, Event::Command(approve));
        }
    };
    carry(&mut cluster, "assess", Report::Assessed(assessment(EAST)));
    carry(&mut cluster, "assess", Report::Assessed(assessment(EAST)));
    cluster.wait(700);
    carry(&mut cluster, "promote", promoted());
    let at = cluster.now;
    carry(&mut cluster, "reroute", Report::Rerouted { at, detail: String::new() });
    cluster.wait(5_000);
    carry(&mut cluster, "verify", Report::Verified { detail: String::new() });
    assert_eq!(cluster.state(), "stable");
    (start, given, decisions)
}

/// A replay of the stored events gives the same decisions, byte for byte.
#[test]
fn s39_a_replay_gives_the_same_bytes() {
    let (start, given, decisions) = recorded_episode();
    let stored = serde_json::to_string(&(start, given)).expect("plain data");
    let (mut record, given): (Record, Vec<(Timestamp, Envelope)>) = serde_json::from_str(&stored).expect("as written");
    for ((now, envelope), first) in given.iter().zip(&decisions) {
        let again = step(record, envelope, *now);
        let bytes = |d: &Decision| {
            serde_json::to_vec(&(&d.record, d.verdict, d.rule, &d.guards, &d.effects, &d.claimed, &d.answer, &d.closed))
                .expect("plain data")
        };
        assert_eq!(bytes(&again), bytes(first));
        record = again.record;
    }
}

/// The history of an episode alone answers who, why, with which votes and lag, when each step, RTO and RPO.
#[test]
fn s40_history_alone_explains_an_episode() {
    let (_, given, decisions) = recorded_episode();
    let end = decisions.last().expect("given");
    let episode = end.record.episode.as_ref().expect("open until it is whole");
    let times = [
        Some(episode.began_at),
        episode.confirmed_at,
        episode.decided_at,
        episode.promoted_at,
        episode.rerouted_at,
        episode.verified_at,
    ];
    let times: Vec<Timestamp> = times.into_iter().map(|at| at.expect("every step has its time")).collect();
    assert!(times.is_sorted(), "{times:?}");
    let rto_ms = episode.verified_at.expect("given").since_ms(episode.began_at);
    assert_eq!(rto_ms, 35_700);
    assert_eq!(episode.rpo_bound_ms, Some(10_040), "lag and its age when it began");
    assert_eq!(episode.approval.as_ref().map(|approval| approval.by.as_str()), Some("alice"));
    let input = |guard: Guard, name: &str| {
        let asked = decisions.iter().flat_map(|d| &d.guards).filter(move |g| g.guard == guard);
        asked.flat_map(|g| &g.inputs).find(|i| i.name == name).map(|i| i.value.clone())
    };
    assert_eq!(input(Guard::StillDown, "votes").as_deref(), Some("west witness"));
    assert_eq!(input(Guard::WithinRpo, "lag_and_age_ms").as_deref(), Some("10040"));
    let why_held = decisions.iter().find(|d| d.rule == Rule::GuardRefused).expect("it waited for an approval");
    assert!(why_held.guards.iter().any(|g| g.guard == Guard::Approved && !g.pass));
    let reasons = given.iter().filter(|(_, e)| matches!(&e.event, Event::Command(c) if !c.reason.is_empty())).count();
    assert_eq!(reasons, 1, "who and why");
}

/// Somebody else's failover begins and ends between two looks at RDS: it is followed, also where its target was taken
/// for a second writer meanwhile.
#[test]
fn a_failover_of_somebody_else_that_is_over_already_is_followed() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    cluster.done("assess", Report::Assessed(Assessment { failover: None, ..assessment(WEST) }));
    assert_eq!((cluster.state(), cluster.record().hold.as_ref()), ("promoting", None));
    cluster.done("promote", promoted());
    assert_eq!((cluster.state(), cluster.record().primary.as_str()), ("rerouting", WEST));
}
