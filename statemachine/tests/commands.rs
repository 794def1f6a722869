//! Operators' orders: where they are legal, what they do, and what the operator is told otherwise.

mod common;

use common::{Cluster, EAST, WEST, assessment, config, promoted};
use statemachine::{
    Configured, Decision, Effect, EpisodeOutcome, Epoch, Event, Guard, HoldReason, How, Mode, Order, Outcome, Reason,
    Record, Region, Report, Rule, Timestamp, Verdict,
};

fn failover() -> Order {
    Order::Failover { target: None, allow_data_loss: false }
}

fn pause(cluster: &Cluster, ms: u64) -> Order {
    Order::Pause { until: cluster.now.plus_ms(ms) }
}

fn is_refused(decision: &Decision) -> bool {
    decision.rule == Rule::CommandRefused
}

fn answer(decision: &Decision) -> &str {
    decision.answer.as_deref().expect("an operator is always answered")
}

fn how(record: &Record) -> Option<How> {
    record.pending.iter().find_map(|p| match &p.effect {
        Effect::Promote { how, .. } => Some(*how),
        _ => None,
    })
}

fn held(mode: Mode) -> Cluster {
    let mut cluster = Cluster::confirmed_down(mode);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    cluster
}

fn rerouting() -> Cluster {
    let mut cluster = Cluster::promoting();
    cluster.done("promote", promoted());
    cluster
}

fn rerouting_held() -> Cluster {
    let mut cluster = rerouting();
    cluster.answer("reroute", Outcome::Refused { detail: "it points elsewhere".into() });
    assert_eq!(cluster.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::RerouteRefused));
    cluster
}

fn suspect() -> Cluster {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.probe("west", "timeout");
    cluster
}

fn claimed() -> Cluster {
    let mut cluster = Cluster::promoting();
    cluster.claim();
    cluster
}

/// Which orders each state takes; everything else is refused with a sentence.
#[test]
fn each_order_is_legal_only_where_the_table_says() {
    type Place = (&'static str, fn() -> Cluster, &'static [&'static str]);
    let always = ["pause", "set-mode"];
    let places: [Place; 8] = [
        ("healthy", || Cluster::healthy(Mode::Auto), &["failover", "switchover", "failover-in-region"]),
        ("suspect", suspect, &["failover", "failover-in-region", "abort"]),
        ("held", || held(Mode::Approve), &["failover", "failover-in-region", "approve", "abort"]),
        ("promoting", Cluster::promoting, &["abort"]),
        ("claimed", claimed, &[]),
        ("rerouting", rerouting, &[]),
        ("rerouting, held", rerouting_held, &["acknowledge"]),
        ("stable", Cluster::stable, &["failover", "failover-in-region", "acknowledge"]),
    ];
    for (name, place, legal) in places {
        let orders = [
            Order::Pause { until: Timestamp(0) },
            Order::Resume,
            Order::SetMode { mode: Mode::Approve },
            failover(),
            Order::Switchover { target: None },
            Order::FailoverInRegion { instance: None },
            Order::Approve { allow_data_loss: false },
            Order::Abort,
            Order::Acknowledge,
            Order::ResetLimit,
        ];
        for order in orders {
            let mut cluster = place();
            let order = if let Order::Pause { .. } = order { pause(&cluster, 60_000) } else { order };
            let (wanted, before) = (order.name(), cluster.state());
            let decision = cluster.order(order);
            let expected = always.contains(&wanted) || legal.contains(&wanted);
            assert_eq!(!is_refused(&decision), expected, "{wanted} in {name}: {}", answer(&decision));
            assert!(!answer(&decision).is_empty());
            if is_refused(&decision) {
                assert_eq!(cluster.state(), before, "{wanted} in {name}");
                assert!(decision.verdict.is_durable(), "a refusal is kept in the history");
            }
        }
    }
}

#[test]
fn a_command_needs_actor_reason_nonce_epoch_and_time() {
    type Spoil = fn(&mut statemachine::Command, Timestamp);
    let cases: [(&str, Spoil); 6] = [
        ("actor", |c, _| c.actor.clear()),
        ("reason", |c, _| c.reason.clear()),
        ("nonce", |c, _| c.nonce.clear()),
        ("epoch", |c, _| c.expected_epoch = Epoch(9)),
        ("expired", |c, now| c.expires_at = now),
        ("epoch", |c, _| c.expected_epoch = Epoch(0)),
    ];
    for (word, spoil) in cases {
        let mut cluster = Cluster::healthy(Mode::Auto);
        let mut command = cluster.command(failover());
        spoil(&mut command, cluster.now);
        let decision = cluster.give(Event::Command(command));
        assert!(is_refused(&decision), "{word}");
        assert!(answer(&decision).contains(word), "{word}: {}", answer(&decision));
        assert_eq!(cluster.state(), "healthy");
    }
}

#[test]
fn the_same_nonce_does_nothing_twice_and_is_forgotten_when_it_has_expired() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let command = cluster.command(Order::SetMode { mode: Mode::Approve });
    cluster.give(Event::Command(command.clone()));
    cluster.set_mode(Mode::Auto);
    let again = cluster.give(Event::Command(command));
    assert_eq!(again.verdict, Verdict::Ignored { reason: Reason::Duplicate });
    assert_eq!(cluster.record().mode, Mode::Auto);
    assert_eq!(cluster.record().nonces.len(), 1);
    cluster.wait(60_000);
    cluster.order(Order::Resume);
    assert_eq!(cluster.record().nonces.len(), 1, "only the new one");
}

#[test]
fn a_copy_that_comes_when_the_command_expires_is_refused_as_expired() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let order = pause(&cluster, 600_000);
    let mut command = cluster.command(order);
    command.expires_at = cluster.now.plus_ms(1_000);
    cluster.give(Event::Command(command.clone()));
    cluster.now = Timestamp(command.expires_at.0 - 1);
    assert_eq!(cluster.give(Event::Command(command.clone())).rule, Rule::Ignored);
    cluster.now = command.expires_at;
    assert_eq!(cluster.give(Event::Command(command)).rule, Rule::CommandRefused);
}

#[test]
fn open_commands_are_bounded() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    for _ in 0..64 {
        assert!(!is_refused(&cluster.order(Order::SetMode { mode: Mode::Auto })));
    }
    assert!(answer(&cluster.order(Order::SetMode { mode: Mode::Auto })).contains("too many"));
}

#[test]
fn a_pause_has_an_owner_a_reason_and_a_bounded_end() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let now = cluster.now;
    assert!(is_refused(&cluster.order(Order::Pause { until: now })), "it must end in the future");
    assert!(is_refused(&cluster.order(pause(&Cluster::healthy(Mode::Auto), 86_400_001))), "it must end in a day");
    let order = pause(&cluster, 86_400_000);
    assert!(!is_refused(&cluster.order(order)));
    let paused = cluster.record().paused.clone().expect("paused");
    assert_eq!((paused.by.as_str(), paused.reason.as_str()), ("alice", "test"));
}

#[test]
fn a_paused_cluster_records_what_it_would_have_done_and_does_nothing() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let order = pause(&cluster, 3_600_000);
    cluster.order(order);
    cluster.rounds(4, "- timeout timeout");
    let decision = cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::Guard(Guard::MayAct)));
    let refused: Vec<Guard> = decision.guards.iter().filter(|g| !g.pass).map(|g| g.guard).collect();
    assert_eq!(refused, [Guard::MayAct], "every other guard was asked and would have passed");
    assert!(cluster.pending("promote").is_none());
}

#[test]
fn when_a_pause_ends_evidence_starts_from_zero() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let order = pause(&cluster, 60_000);
    cluster.order(order);
    cluster.rounds(5, "- timeout timeout");
    assert_eq!(cluster.state(), "confirmed-down");
    cluster.tick_until("the pause ends", |record| record.paused.is_none());
    let failures = cluster.record().evidence.tracks.values().map(|track| track.failures.len()).sum::<usize>();
    assert_eq!(failures, 0);
    cluster.rounds(3, "- ok ok");
    assert_eq!(cluster.state(), "healthy");
}

#[test]
fn resume_ends_a_pause_and_needs_one() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    assert!(is_refused(&cluster.order(Order::Resume)));
    let order = pause(&cluster, 60_000);
    cluster.order(order);
    assert!(!is_refused(&cluster.order(Order::Resume)));
    assert!(cluster.record().paused.is_none());
}

#[test]
fn nothing_is_ordered_while_paused_or_observing() {
    for order in [failover(), Order::Switchover { target: None }, Order::FailoverInRegion { instance: None }] {
        let mut paused = Cluster::healthy(Mode::Auto);
        let stop = pause(&paused, 60_000);
        paused.order(stop);
        assert!(answer(&paused.order(order.clone())).contains("resume"));
        let mut observing = Cluster::healthy(Mode::Observe);
        assert!(answer(&observing.order(order)).contains("set-mode"));
    }
}

#[test]
fn a_target_must_be_another_member() {
    let to = |target: &str| Order::Failover { target: Some(target.into()), allow_data_loss: false };
    assert!(answer(&Cluster::healthy(Mode::Auto).order(to(EAST))).contains("primary already"));
    assert!(answer(&Cluster::healthy(Mode::Auto).order(to("mars"))).contains("no member"));
    assert!(!is_refused(&Cluster::healthy(Mode::Auto).order(to(WEST))));
}

#[test]
fn an_ordered_failover_waits_neither_for_evidence_nor_for_cooldown_limit_or_approval() {
    let mut cluster = Cluster::healthy(Mode::Approve);
    let now = cluster.now;
    cluster.edit(|record| {
        record.failovers = vec![now, now];
        record.limit_latched = true;
        record.proven = false;
    });
    cluster.order(failover());
    let decision = cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.state(), "promoting", "{:?}", decision.guards);
    assert_eq!(how(cluster.record()), Some(How::Failover));
    cluster.rounds(3, "ok ok ok");
    assert!(!cluster.claim().claimed.is_empty(), "good probes do not cancel what an operator ordered");
    assert_eq!(cluster.state(), "promoting");
}

#[test]
fn an_ordered_failover_still_respects_the_rpo_unless_loss_is_accepted() {
    for (allow_data_loss, state) in [(false, "confirmed-down"), (true, "promoting")] {
        let mut cluster = Cluster::healthy(Mode::Auto);
        cluster.edit(|record| record.evidence.lag.clear());
        cluster.order(Order::Failover { target: None, allow_data_loss });
        cluster.done("assess", Report::Assessed(assessment(EAST)));
        assert_eq!(cluster.state(), state);
    }
}

#[test]
fn an_approval_releases_its_own_episode_only() {
    let mut cluster = held(Mode::Approve);
    cluster.order(Order::Approve { allow_data_loss: false });
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.state(), "promoting");
    let mut other = held(Mode::Approve);
    other.order(Order::Approve { allow_data_loss: false });
    other.rounds(2, "ok ok ok");
    assert_eq!(other.state(), "healthy");
    other.probe_lag(40);
    other.rounds(5, "- timeout timeout");
    other.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(other.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::Guard(Guard::Approved)));
}

#[test]
fn loss_beyond_the_rpo_needs_an_approval_that_says_so() {
    for (allow_data_loss, state) in [(false, "confirmed-down"), (true, "promoting")] {
        let mut cluster = Cluster::confirmed_down(Mode::Auto);
        cluster.edit(|record| record.evidence.lag.clear());
        cluster.done("assess", Report::Assessed(assessment(EAST)));
        assert_eq!(cluster.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::Guard(Guard::WithinRpo)));
        cluster.order(Order::Approve { allow_data_loss });
        cluster.done("assess", Report::Assessed(assessment(EAST)));
        assert_eq!(cluster.state(), state);
    }
}

#[test]
fn an_approval_that_never_comes_cancels_the_episode() {
    let mut cluster = held(Mode::Approve);
    let since = cluster.now;
    let mut closed = None;
    for _ in 0..200 {
        cluster.wait(30_000);
        cluster.round("- timeout timeout");
        let decision = cluster.give(Event::Tick);
        if decision.rule == Rule::ApprovalTimedOut {
            closed = decision.closed;
            break;
        }
        if cluster.pending("assess").is_some() {
            cluster.done("assess", Report::Assessed(assessment(EAST)));
        }
    }
    assert_eq!(closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Cancelled));
    assert!(cluster.now.since_ms(since) >= 3_600_000, "not before the time-out");
    assert_eq!(cluster.state(), "healthy");
}

#[test]
fn an_abort_cancels_what_is_not_claimed_and_fresh_evidence_begins_another_episode() {
    for mut cluster in [suspect(), held(Mode::Approve), Cluster::promoting()] {
        let decision = cluster.order(Order::Abort);
        assert_eq!(decision.closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Cancelled));
        assert_eq!(cluster.state(), "healthy");
        assert!(cluster.pending("promote").is_none());
        cluster.rounds(6, "- timeout timeout");
        assert_eq!(cluster.state(), "confirmed-down");
    }
}

#[test]
fn a_switchover_needs_a_whole_topology_and_asks_the_primarys_side() {
    let mut cluster = Cluster::healthy(Mode::Approve);
    cluster.order(Order::Switchover { target: None });
    assert!(is_refused(&cluster.order(Order::Switchover { target: None })), "one at a time");
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.state(), "promoting");
    assert_eq!(how(cluster.record()), Some(How::Switchover));
    cluster.rounds(2, "ok ok ok");
    assert!(!cluster.claim().claimed.is_empty(), "a well primary is no reason to cancel a switchover");
    cluster.done_claimed("promote", promoted());
    assert_eq!(cluster.record().primary, Region::from(WEST));
    assert!(!cluster.record().exposed && cluster.record().failovers.is_empty(), "planned: no cooldown, not exposed");
}

#[test]
fn a_switchover_is_refused_while_a_member_is_rebuilt() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.order(Order::Switchover { target: None });
    let mut rebuilding = assessment(EAST);
    rebuilding.members[1].synchronization = Some("pending-resync".into());
    let decision = cluster.done("assess", Report::Assessed(rebuilding));
    assert_eq!(decision.closed.as_ref().map(|(_, outcome)| *outcome), Some(EpisodeOutcome::Cancelled));
    assert!(answer(&decision).contains("pending-resync"));
    assert_eq!(cluster.state(), "healthy");
    assert!(cluster.pending("promote").is_none());
}

#[test]
fn a_switchover_that_does_not_take_place_leaves_the_old_primary_in_peace() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.order(Order::Switchover { target: None });
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    let decision = cluster.answer("promote", Outcome::Refused { detail: "no switchover runs".into() });
    assert_eq!(decision.rule, Rule::SwitchoverFailed);
    assert_eq!(cluster.state(), "healthy");
    assert_eq!(cluster.record().primary, Region::from(EAST));
}

#[test]
fn an_in_region_failover_is_asked_for_once_and_holds_confirmation_back() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.order(Order::FailoverInRegion { instance: Some("a2".into()) });
    assert!(is_refused(&cluster.order(Order::FailoverInRegion { instance: None })));
    cluster.done("failover-in-region", Report::FailingOverInRegion);
    cluster.rounds(5, "- timeout timeout");
    assert_eq!(cluster.state(), "suspect", "within the grace");
    cluster.rounds(6, "- timeout timeout");
    assert_eq!(cluster.state(), "confirmed-down", "the grace is bounded");
}

#[test]
fn a_known_situation_is_acknowledged() {
    let mut stable = Cluster::stable();
    stable.order(Order::Acknowledge);
    assert_eq!(stable.state(), "healthy");
    assert!(stable.record().cooldown_lifted && stable.record().exposed);

    let mut cooling = Cluster::confirmed_down(Mode::Auto);
    let now = cooling.now;
    cooling.edit(|record| record.failovers.push(now));
    cooling.done("assess", Report::Assessed(assessment(EAST)));
    assert!(!is_refused(&cooling.order(Order::Acknowledge)));
    cooling.give(Event::Tick);
    cooling.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cooling.state(), "promoting");

    let mut stuck = Cluster::promoting();
    stuck.answer("promote", Outcome::Refused { detail: "neither is the writer".into() });
    assert_eq!(stuck.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::PromoteRefused));
    let decision = stuck.order(Order::Acknowledge);
    assert_eq!(decision.closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Failed));
    assert!(stuck.pending("assess").is_some(), "RDS is asked who the writer is");
}

#[test]
fn a_reroute_that_cannot_come_about_can_be_taken_over_by_hand() {
    let mut cluster = rerouting_held();
    let decision = cluster.order(Order::Acknowledge);
    assert_eq!(decision.closed.map(|(_, outcome)| outcome), Some(EpisodeOutcome::Failed));
    assert_eq!(cluster.state(), "healthy");
    // Somebody had moved the writer back meanwhile: that is followed now.
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(how(cluster.record()), Some(How::Follow));
}

#[test]
fn what_was_seen_under_way_is_remembered() {
    let mut cluster = Cluster::promoting();
    let under_way = |cluster: &Cluster| {
        let id = cluster.pending("promote").expect("pending");
        cluster.record().pending(id).expect("pending").under_way
    };
    cluster.answer("promote", Outcome::Retry { detail: "throttled".into() });
    assert!(!under_way(&cluster));
    cluster.wait(30_000);
    cluster.answer("promote", Outcome::InProgress { detail: "failing-over".into() });
    cluster.wait(30_000);
    cluster.answer("promote", Outcome::Unknown { detail: "no answer".into() });
    assert!(under_way(&cluster));
}

#[test]
fn the_limit_latches_until_it_is_reset() {
    let mut cluster = Cluster::confirmed_down(Mode::Auto);
    let long_ago = Timestamp(cluster.now.0 - 7_200_000);
    cluster.edit(|record| record.failovers = vec![long_ago, long_ago]);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.record().hold.as_ref().map(|h| h.reason), Some(HoldReason::Guard(Guard::BelowLimit)));
    cluster.edit(|record| record.failovers.clear());
    cluster.wait(30_000);
    cluster.round("- timeout timeout");
    cluster.give(Event::Tick);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.state(), "confirmed-down", "latched, though the window is free again");
    assert!(!is_refused(&cluster.order(Order::ResetLimit)));
    cluster.give(Event::Tick);
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(cluster.state(), "promoting");
}

#[test]
fn a_configuration_without_the_primary_is_not_taken() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    let mut other = config();
    other.hash = "two".into();
    other.members.retain(|member| member.region.as_str() != EAST);
    let decision = cluster.give(Event::Configured(Configured { config: other, mode: Mode::Auto }));
    assert_eq!(decision.verdict, Verdict::Ignored { reason: Reason::PrimaryNotConfigured });
    assert_eq!(cluster.record().config.hash, "one");
}

#[test]
fn where_two_people_are_needed_one_person_twice_is_not_enough() {
    let two = |cluster: &mut Cluster| cluster.edit(|record| record.config.policy.approvals_required = 2);
    let mut cluster = held(Mode::Approve);
    two(&mut cluster);
    let mut approve = |by: &str| {
        let mut command = cluster.command(Order::Approve { allow_data_loss: false });
        command.actor = by.into();
        cluster.give(Event::Command(command));
        cluster.done("assess", Report::Assessed(assessment(EAST)));
        cluster.state()
    };
    assert_eq!(approve("alice"), "confirmed-down");
    assert_eq!(approve("alice"), "confirmed-down");
    assert_eq!(approve("alice on behalf of bob"), "confirmed-down", "a name that the caller gives is nobody else");
    assert_eq!(approve("bob"), "promoting");
    // Who orders a failover is the first of them, also where the machine may act by itself.
    let mut ordered = Cluster::healthy(Mode::Auto);
    two(&mut ordered);
    ordered.order(Order::Failover { target: None, allow_data_loss: true });
    ordered.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(ordered.state(), "confirmed-down");
    let mut same = ordered.command(Order::Approve { allow_data_loss: false });
    same.on_behalf_of = Some("bob".into());
    ordered.give(Event::Command(same));
    ordered.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(ordered.state(), "confirmed-down", "one caller for two people is one caller");
    let approval = ordered.record().episode.as_ref().and_then(|episode| episode.approval.clone()).expect("approved");
    assert_eq!(approval.by, "alice on behalf of bob");
    let mut second = ordered.command(Order::Approve { allow_data_loss: false });
    second.actor = "bob".into();
    ordered.give(Event::Command(second));
    ordered.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(ordered.state(), "promoting");
    // The machine itself needs nobody in auto mode.
    let mut alone = Cluster::confirmed_down(Mode::Auto);
    two(&mut alone);
    alone.done("assess", Report::Assessed(assessment(EAST)));
    assert_eq!(alone.state(), "promoting");
}
