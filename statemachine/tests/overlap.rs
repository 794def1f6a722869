//! Names that move while the writer does: sent ahead once the promotion is past its point of no return, waited for
//! after it, and brought back when RDS gives it up.

mod common;

use common::{Cluster, EAST, WEST, arn, assessment, promoted};
use statemachine::{
    Effect, HoldReason, Mode, Order, Outcome, Overlap, Pending, Report, RerouteWhen, Rule, Way, invariants,
};

fn overlap(pending: &Pending) -> Option<&Overlap> {
    match &pending.effect {
        Effect::Reroute { overlap, .. } => overlap.as_ref(),
        _ => None,
    }
}

/// Which way names are asked to move while the writer does, if so.
fn way(cluster: &Cluster) -> Option<Way> {
    cluster.record().pending.iter().find_map(|p| Some(overlap(p)?.way))
}

fn names_ahead(cluster: &Cluster) -> bool {
    cluster.record().episode.as_ref().is_some_and(|episode| episode.names_ahead)
}

/// The promotion is claimed.
fn past_the_point_of_no_return() -> Cluster {
    let mut cluster = Cluster::promoting();
    assert_eq!(way(&cluster), None, "nothing moves before the claim");
    cluster.claim();
    cluster
}

fn rerouted(cluster: &Cluster) -> Report {
    Report::Rerouted { at: cluster.now, detail: String::new() }
}

fn refuse(cluster: &mut Cluster) {
    cluster.answer("promote", Outcome::Refused { detail: "it was undone".into() });
}

#[test]
fn names_are_claimed_together_with_the_promotion_and_lead_to_its_target() {
    let cluster = past_the_point_of_no_return();
    let record = cluster.record();
    let pending = record.pending.iter().find(|p| overlap(p).is_some()).expect("sent ahead");
    assert!(pending.claim.is_some());
    let expected = Overlap { way: Way::Ahead, writer: arn(WEST), region: WEST.into(), epoch: record.epoch.next() };
    assert_eq!(overlap(pending), Some(&expected));
    let Effect::Reroute { changes, .. } = &pending.effect else { panic!("{pending:?}") };
    assert_eq!((changes[0].from.as_str(), changes[0].to.as_str()), ("orders.us-east-1.", "orders.us-west-2."));
}

#[test]
fn names_in_sync_before_the_promotion_are_only_proven_after_it() {
    let mut cluster = past_the_point_of_no_return();
    let report = rerouted(&cluster);
    let decision = cluster.done_claimed("reroute", report);
    assert_eq!((decision.rule, cluster.state()), (Rule::Rerouted, "promoting"));
    cluster.wait(2_000);
    cluster.done("promote", promoted());
    assert_eq!((cluster.state(), cluster.pending("reroute")), ("rerouting", None));
    // The TTL of five seconds began when the names were in sync.
    let verify = cluster.pending("verify").expect("the proof is asked for");
    cluster.wait(2_999);
    assert!(!cluster.claim().claimed.contains(&verify));
    cluster.wait(1);
    assert!(cluster.claim().claimed.contains(&verify));
}

#[test]
fn names_still_under_way_after_the_promotion_are_waited_for_and_not_asked_for_twice() {
    let mut cluster = past_the_point_of_no_return();
    cluster.done_claimed("promote", promoted());
    let reroutes = cluster.record().pending.iter().filter(|p| p.effect.name() == "reroute").count();
    assert_eq!((cluster.state(), reroutes), ("rerouting", 1));
    let deadline = cluster.record().pending.iter().find(|p| overlap(p).is_some()).expect("pending").deadline;
    assert_eq!(deadline.since_ms(cluster.now), 300_000, "the time of the reroute, not of the promotion");
    let report = rerouted(&cluster);
    cluster.done_claimed("reroute", report);
    assert!(cluster.pending("verify").is_some());
}

#[test]
fn names_that_could_not_go_ahead_move_after_the_promotion() {
    let mut cluster = past_the_point_of_no_return();
    let decision = cluster.answer("reroute", Outcome::Refused { detail: "the name points elsewhere".into() });
    assert_eq!((decision.rule, way(&cluster), cluster.record().hold.as_ref()), (Rule::GivenUp, None, None));
    cluster.done("promote", promoted());
    let pending = cluster.pending("reroute").expect("asked again");
    assert_eq!(overlap(cluster.record().pending(pending).expect("pending")), None);
}

#[test]
fn names_come_back_when_rds_gives_the_promotion_up() {
    let mut cluster = past_the_point_of_no_return();
    let report = rerouted(&cluster);
    cluster.done_claimed("reroute", report);
    refuse(&mut cluster);
    assert_eq!(cluster.record().hold.as_ref().map(|hold| hold.reason), Some(HoldReason::PromoteRefused));
    assert_eq!(way(&cluster), Some(Way::Back));
    let pending = cluster.record().pending.iter().find(|p| overlap(p).is_some()).expect("asked back");
    let Effect::Reroute { changes, .. } = &pending.effect else { panic!("{pending:?}") };
    assert_eq!((changes[0].from.as_str(), changes[0].to.as_str()), ("orders.us-west-2.", "orders.us-east-1."));
    let report = rerouted(&cluster);
    let decision = cluster.done("reroute", report);
    assert_eq!((decision.rule, cluster.state(), names_ahead(&cluster)), (Rule::NamesBack, "promoting", false));
    assert_eq!(cluster.record().episode.as_ref().expect("open").rerouted_at, None);
    let decision = cluster.order(Order::Acknowledge);
    assert_eq!((decision.rule, cluster.state()), (Rule::Acknowledged, "healthy"));
}

#[test]
fn names_that_are_still_being_sent_ahead_are_not_called_back_before_that_has_ended() {
    let mut cluster = past_the_point_of_no_return();
    let effect = cluster.pending("promote").expect("pending");
    let token = cluster.record().pending(effect).and_then(|p| p.claim.clone()).expect("claimed").token;
    let outcome = Outcome::Refused { detail: "it was undone".into() };
    cluster.give(statemachine::Event::Result(statemachine::EffectResult { effect, token, outcome }));
    assert_eq!(way(&cluster), Some(Way::Ahead), "somebody is at it");
    // The holder dies: its claim ends, and with it what it might still do.
    cluster.wait(30_000);
    cluster.claim();
    assert_eq!(way(&cluster), Some(Way::Back));
    // Or it answers.
    let mut cluster = past_the_point_of_no_return();
    let token = cluster.record().pending(effect).and_then(|p| p.claim.clone()).expect("claimed").token;
    let outcome = Outcome::Refused { detail: "it was undone".into() };
    cluster.give(statemachine::Event::Result(statemachine::EffectResult { effect, token, outcome }));
    let report = rerouted(&cluster);
    cluster.done_claimed("reroute", report);
    assert_eq!((way(&cluster), names_ahead(&cluster)), (Some(Way::Back), true));
}

#[test]
fn names_that_do_not_come_back_page_again_and_are_looked_at_until_they_do() {
    let mut cluster = past_the_point_of_no_return();
    let report = rerouted(&cluster);
    cluster.done_claimed("reroute", report);
    refuse(&mut cluster);
    cluster.done_beside();
    for _ in 0..12 {
        cluster.wait(30_000);
        cluster.answer("reroute", Outcome::Retry { detail: "503".into() });
    }
    let hold = cluster.record().hold.clone().expect("held");
    assert_eq!(hold.reason, HoldReason::PromoteRefused);
    assert!(hold.detail.contains("not back") && hold.detail.contains("503"), "{}", hold.detail);
    assert!(cluster.pending("announce").is_some());
    cluster.wait(30_000);
    let report = rerouted(&cluster);
    let decision = cluster.done("reroute", report);
    assert_eq!((decision.rule, names_ahead(&cluster)), (Rule::NamesBack, false));
}

#[test]
fn a_promotion_that_took_place_after_all_sends_the_names_on() {
    let mut cluster = past_the_point_of_no_return();
    let report = rerouted(&cluster);
    cluster.done_claimed("reroute", report);
    refuse(&mut cluster);
    let report = rerouted(&cluster);
    cluster.done("reroute", report);
    cluster.wait(30_000);
    cluster.done("promote", promoted());
    let pending = cluster.pending("reroute").expect("they lead to the old primary");
    assert_eq!((cluster.state(), overlap(cluster.record().pending(pending).expect("pending"))), ("rerouting", None));
}

#[test]
fn a_promotion_that_took_place_while_the_names_were_on_their_way_back_sends_them_on() {
    let mut cluster = past_the_point_of_no_return();
    let report = rerouted(&cluster);
    cluster.done_claimed("reroute", report);
    refuse(&mut cluster);
    assert_eq!(way(&cluster), Some(Way::Back));
    cluster.wait(30_000);
    cluster.done("promote", promoted());
    assert_eq!((cluster.state(), way(&cluster), cluster.pending("verify")), ("rerouting", None, None));
    assert!(cluster.pending("reroute").is_some());
}

#[test]
fn taking_over_by_hand_says_that_the_names_may_lead_elsewhere() {
    let mut cluster = past_the_point_of_no_return();
    refuse(&mut cluster);
    let answer = cluster.order(Order::Acknowledge).answer.expect("an answer");
    assert!(answer.contains("the public names may lead to us-west-2"), "{answer}");
    assert_eq!((cluster.state(), way(&cluster)), ("healthy", None));
}

#[test]
fn a_primary_that_is_well_keeps_its_names_until_the_target_is_proven() {
    // An operator orders a failover of a region that commits.
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.order(Order::Failover { target: None, allow_data_loss: true });
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    cluster.claim();
    assert_eq!((cluster.state(), way(&cluster)), ("promoting", None));
    // The same of one that is down.
    let mut cluster = Cluster::confirmed_down(Mode::Approve);
    cluster.order(Order::Failover { target: None, allow_data_loss: true });
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    cluster.claim();
    assert_eq!((cluster.state(), way(&cluster)), ("promoting", Some(Way::Ahead)));
}

#[test]
fn a_switchover_moves_the_names_afterwards() {
    let mut cluster = Cluster::healthy(Mode::Auto);
    cluster.order(Order::Switchover { target: None });
    cluster.done("assess", Report::Assessed(assessment(EAST)));
    cluster.claim();
    assert_eq!((cluster.state(), way(&cluster)), ("promoting", None));
}

#[test]
fn the_policy_after_promotion_sends_nothing_ahead() {
    let mut cluster = Cluster::promoting();
    cluster.edit(|record| record.config.policy.reroute = RerouteWhen::AfterPromotion);
    cluster.claim();
    assert_eq!((way(&cluster), names_ahead(&cluster)), (None, false));
    cluster.done_claimed("promote", promoted());
    assert!(cluster.pending("reroute").is_some());
}

#[test]
fn a_record_whose_names_go_ahead_of_an_unclaimed_promotion_is_refused() {
    let mut cluster = past_the_point_of_no_return();
    let mut record = cluster.record.take().expect("there");
    let promotion = record.pending.iter_mut().find(|p| p.effect.name() == "promote").expect("pending");
    (promotion.ever_claimed, promotion.claim) = (false, None);
    assert!(matches!(invariants::check(&record), Err(invariants::Violation::Incoherent(_))));
}
