//! Why it holds, in sentences for somebody who was just woken up, each with the whole command that lets it go on.

use statemachine::{ClusterId, Guard, GuardResult, Hold, HoldReason, Input, Record};

/// One reason to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The reason, as a sentence without its end.
    pub why: String,
    /// What lets it go on: a whole command wherever there is one.
    pub release: String,
}

/// A time in milliseconds for people: `600 ms`, `2.5 s`, `4 min 10 s`, `3 h`, `2 days 3 h`.
#[must_use]
pub fn duration(ms: u64) -> String {
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        small => format!("{large} {large_unit} {small} {small_unit}"),
    };
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..10 if ms % 1000 >= 50 => format!("{:.1} s", ms as f64 / 1000.0),
        1..60 => format!("{s} s"),
        60..3_600 => two(s / 60, "min", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", s % 3_600 / 60, "min"),
        _ => two(s / 86_400, if s < 2 * 86_400 { "day" } else { "days" }, s % 86_400 / 3_600, "h"),
    }
}

/// So many of something, with the plural where there is not exactly one.
#[must_use]
pub fn count(number: impl TryInto<u64>, what: &str) -> String {
    match number.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// The command that gives an order, whole but for the reason.
#[must_use]
pub fn command(cluster: &ClusterId, order: &str) -> String {
    format!("aurora-failover override {cluster} {order} --reason \"…\"")
}

/// Everything that a record holds for: each guard that refused when all of them were `asked` last, else the one that
/// the hold names, else what the hold says of itself. Nothing when it does not hold.
#[must_use]
pub fn held(record: &Record, asked: &[GuardResult]) -> Vec<Held> {
    let Some(hold) = &record.hold else { return Vec::new() };
    let HoldReason::Guard(guard) = hold.reason else { return vec![by_reason(&record.cluster, hold)] };
    let mut refusing: Vec<GuardResult> = asked.iter().filter(|result| !result.pass).cloned().collect();
    if !refusing.iter().any(|result| result.guard == guard) {
        refusing = vec![GuardResult { guard, pass: false, inputs: inputs(&hold.detail) }];
    }
    refusals(&record.cluster, &refusing)
}

/// Every guard that refuses, of those that were asked.
#[must_use]
pub fn refusals(cluster: &ClusterId, asked: &[GuardResult]) -> Vec<Held> {
    let refusing = || asked.iter().filter(|result| !result.pass);
    let loses = refusing().any(|result| result.guard == Guard::WithinRpo);
    refusing().map(|result| by_guard(cluster, result, loses)).collect()
}

/// The inputs of a guard, from the line that a hold keeps of them.
fn inputs(detail: &str) -> Vec<Input> {
    let parts = detail.split(", ").filter_map(|part| part.split_once(' '));
    parts.map(|(name, value)| Input { name: name.to_owned().into(), value: value.to_owned() }).collect()
}

fn by_reason(cluster: &ClusterId, hold: &Hold) -> Held {
    let acknowledge = command(cluster, "acknowledge");
    let release = match hold.reason {
        HoldReason::PromoteRefused
        | HoldReason::PromoteOverdue
        | HoldReason::RerouteRefused
        | HoldReason::RerouteOverdue
        | HoldReason::VerifyOverdue
        | HoldReason::VerifyRefused => format!("{}: {acknowledge}", hold.release),
        HoldReason::NewPrimaryDown => {
            format!("{}; or, if that is known: {acknowledge}", command(cluster, "failover"))
        }
        HoldReason::Guard(_) | HoldReason::AssessOverdue | HoldReason::InRegionRefused => hold.release.clone(),
    };
    Held { why: hold.detail.clone(), release }
}

/// A guard that refuses. Where a loss has to be accepted anyway, one approval does both.
fn by_guard(cluster: &ClusterId, result: &GuardResult, loses: bool) -> Held {
    let value = |name: &str| {
        let found = result.inputs.iter().find(|input| input.name == name);
        found.map_or("", |input| input.value.as_str())
    };
    let is = |name: &str| value(name) == "true";
    let time = |name: &str| value(name).parse().map_or_else(|_| value(name).to_owned(), duration);
    let order = |order: &str| command(cluster, order);
    let approve = if loses { "approve --allow-data-loss" } else { "approve" };
    let (why, release) = match result.guard {
        Guard::MayAct => {
            let (mut why, mut release) = (Vec::new(), Vec::new());
            if is("paused") {
                why.push("it is paused");
                release.push(order("resume"));
            }
            if value("mode") == "observe" {
                why.push("the mode is observe, which never acts");
                release.push(order("set-mode approve"));
            }
            (why.join(", and "), release.join("; and: "))
        }
        Guard::CanJudge => {
            let why = if is("blind") {
                "too few vantages are heard of to judge"
            } else {
                "it was never seen healthy, so its configuration may be wrong"
            };
            (why.into(), format!("it goes on when the vantages see it; to go on without them: {}", order("failover")))
        }
        Guard::StillDown => {
            let votes = value("votes").split_whitespace().count();
            let why = format!(
                "the vantages do not agree that it is down: {} where {} needed, {} live",
                count(votes, "vote"),
                are(value("needed")),
                are(value("live")),
            );
            (why, format!("it goes on when they agree; to go on without them: {}", order("failover")))
        }
        Guard::TargetFit => {
            let unfit = result.inputs.iter().map(|input| format!("{}: {}", input.name, input.value));
            let unfit = unfit.collect::<Vec<_>>().join("; ");
            (
                format!("no secondary can take over ({unfit})"),
                "make one available, with an instance of the same engine version; it is looked at again by itself"
                    .into(),
            )
        }
        Guard::Whole => (
            format!(
                "the topology is not whole: the primary is {}, the target's replication is {}{}",
                value("primary"),
                value("target_synchronization"),
                if is("failover_running") { ", and a failover is running" } else { "" }
            ),
            "wait until every member is available and connected, and give the order again".into(),
        ),
        Guard::WithinRpo if value("lag_and_age_ms").parse::<u64>().is_err() => (
            format!(
                "it is unknown how much would be lost, and unknown counts as more than rpo-max ({})",
                time("rpo_max_ms")
            ),
            order(approve),
        ),
        Guard::WithinRpo => (
            format!(
                "up to {} of writes would be lost, and rpo-max allows {}",
                time("lag_and_age_ms"),
                time("rpo_max_ms")
            ),
            order(approve),
        ),
        Guard::CooledDown => (
            format!(
                "the last failover was {} ago, and within {} no other is made by itself",
                time("last_failover_ago_ms"),
                time("cooldown_ms")
            ),
            format!("{}; or: {}", order("acknowledge"), order("failover")),
        ),
        Guard::BelowLimit => {
            let why = match value("failovers_max").parse::<u64>() {
                Ok(max) if is("latched") => {
                    format!(
                        "the limit of {} was reached, and stays so until it is reset",
                        count(max, "automatic failover")
                    )
                }
                _ => format!(
                    "{} of {} automatic failovers were made lately",
                    value("failovers_in_window"),
                    value("failovers_max")
                ),
            };
            (why, format!("{}; or: {}", order("reset-limit"), order("failover")))
        }
        Guard::Approved => match (value("people"), value("needed")) {
            ("0", "1") => (format!("nobody has approved it yet, and the mode is {}", value("mode")), order(approve)),
            ("0", needed) => (
                format!("nobody has approved it yet, and {needed} people have to"),
                format!("each of them, as an AWS identity of their own: {}", order(approve)),
            ),
            (people, needed) => (
                format!("{people} of {needed} people stand for it, last {}", value("by")),
                format!("somebody else, as another AWS identity: {}", order(approve)),
            ),
        },
    };
    Held { why, release }
}

fn are(number: &str) -> String {
    format!("{number} {}", if number == "1" { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use statemachine::{Mode, Timestamp};

    fn result(guard: Guard, pass: bool, inputs: &[(&'static str, &str)]) -> GuardResult {
        let input = |(name, value): &(&'static str, &str)| Input { name: (*name).into(), value: (*value).into() };
        GuardResult { guard, pass, inputs: inputs.iter().map(input).collect() }
    }

    fn holding(reason: HoldReason, detail: &str, release: &str) -> Record {
        let example = include_str!("../../aurora-failover.example.toml");
        let settings = config::parse(example, "example", |_| None).expect("the example is valid");
        let mut record = Record::new("orders".into(), settings.clusters[0].config.clone(), Mode::Approve, Timestamp(0));
        let (detail, release) = (detail.to_owned(), release.to_owned());
        record.hold = Some(Hold { reason, detail, release, since: Timestamp(0), deadline: Timestamp(0) });
        record
    }

    #[test]
    fn every_refusing_guard_is_told_with_the_whole_command_that_releases_it() {
        let record = holding(HoldReason::Guard(Guard::WithinRpo), "lag_and_age_ms 72000, rpo_max_ms 30000", "short");
        let asked = [
            result(Guard::MayAct, true, &[("mode", "approve"), ("paused", "false")]),
            result(Guard::WithinRpo, false, &[("lag_and_age_ms", "72000"), ("rpo_max_ms", "30000")]),
            result(Guard::CooledDown, false, &[("last_failover_ago_ms", "252000"), ("cooldown_ms", "3600000")]),
            result(Guard::Approved, false, &[("mode", "approve"), ("by", "nobody"), ("people", "0"), ("needed", "1")]),
        ];
        let told: Vec<String> =
            held(&record, &asked).iter().map(|held| format!("{} => {}", held.why, held.release)).collect();
        assert_eq!(
            told,
            [
                "up to 1 min 12 s of writes would be lost, and rpo-max allows 30 s => aurora-failover override orders \
                 approve --allow-data-loss --reason \"…\"",
                "the last failover was 4 min 12 s ago, and within 1 h no other is made by itself => aurora-failover \
                 override orders acknowledge --reason \"…\"; or: aurora-failover override orders failover --reason \"…\"",
                "nobody has approved it yet, and the mode is approve => aurora-failover override orders approve \
                 --allow-data-loss --reason \"…\"",
            ]
        );
        // Without the row that asked them, the hold itself knows one.
        assert_eq!(held(&record, &[]), held(&record, &asked)[..1]);
    }

    #[test]
    fn each_guard_has_a_sentence_without_a_name_of_an_input() {
        let guards = [
            (Guard::MayAct, &[("mode", "observe"), ("paused", "true")][..]),
            (Guard::CanJudge, &[("proven", "true"), ("blind", "true")]),
            (Guard::StillDown, &[("votes", "us-west-2"), ("live", "3"), ("needed", "2")]),
            (Guard::TargetFit, &[("us-west-2", "status creating")]),
            (Guard::Whole, &[("primary", "available"), ("target_synchronization", "pending-resync")]),
            (Guard::WithinRpo, &[("lag_and_age_ms", "unknown"), ("rpo_max_ms", "30000")]),
            (Guard::CooledDown, &[("last_failover_ago_ms", "1000"), ("cooldown_ms", "60000")]),
            (Guard::BelowLimit, &[("failovers_in_window", "2"), ("failovers_max", "2"), ("latched", "true")]),
            (Guard::Approved, &[("mode", "approve"), ("by", "alice"), ("people", "1"), ("needed", "2")]),
        ];
        for (guard, inputs) in guards {
            let record = holding(HoldReason::Guard(guard), "", "");
            let told = held(&record, &[result(guard, false, inputs)]);
            let [Held { why, release }] = &told[..] else { panic!("{told:?}") };
            assert!(!why.is_empty() && !why.contains('_') && !release.is_empty(), "{guard:?}: {why} => {release}");
        }
        let overdue = holding(HoldReason::RerouteOverdue, "promoted, not rerouted: no answer", "point the name");
        assert!(held(&overdue, &[])[0].release.ends_with("override orders acknowledge --reason \"…\""));
        assert!(held(&Record { hold: None, ..overdue }, &[]).is_empty());
    }

    #[test]
    fn times_and_numbers_are_for_people() {
        let told = [600, 2_500, 2_040, 42_000, 250_000, 3_600_000, 3_900_000, 90_000_000, 183_600_000].map(duration);
        let want = ["600 ms", "2.5 s", "2 s", "42 s", "4 min 10 s", "1 h", "1 h 5 min", "1 day 1 h", "2 days 3 h"];
        assert_eq!(told, want);
        assert_eq!([0, 1, 2].map(|number: u32| count(number, "cluster")), ["0 clusters", "1 cluster", "2 clusters"]);
    }
}
