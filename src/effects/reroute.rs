//! Moves the public names, as a compare-and-swap, so that a late controller cannot move DNS back; then waits until the
//! name servers have it. Records are changed in one batch per zone; what the data plane moves is turned before.

use super::{Task, World, switch};
use crate::aws::CallError;
use crate::route53::CurrentRecord;
use crate::s3::Location;
use statemachine::{Outcome, Overlap, RecordChange, Region, Report, RouteBy, Way};
use std::collections::BTreeMap;
use tokio::time::Instant;
use tracing::info;

/// The primary that the names then lead to, and where it stands in the succession.
pub(super) struct Aim<'a> {
    pub(super) primary: &'a Region,
    pub(super) epoch: u64,
    /// The promotion that the names went ahead of did not take place.
    pub(super) back: bool,
}

pub(super) async fn run(world: &World, task: &Task, changes: &[RecordChange], overlap: Option<&Overlap>) -> Outcome {
    let aim = match overlap {
        Some(overlap) => {
            if let Err(outcome) = presumed(world, task, changes, overlap).await {
                return outcome;
            }
            Aim { primary: &overlap.region, epoch: overlap.epoch.0, back: overlap.way == Way::Back }
        }
        None => Aim { primary: &task.primary, epoch: task.epoch, back: false },
    };
    if let Err(outcome) = move_all(world, task, changes, &aim).await {
        return outcome;
    }
    let names: Vec<String> = changes.iter().map(|c| format!("{} -> {}", c.name, c.to)).collect();
    Outcome::Done { report: Report::Rerouted { at: world.clock.now(), detail: names.join(", ") } }
}

/// Waits until RDS shows that the promotion is under way or done, or, for names that go back, that the old primary is the
/// writer. No name leads to a region that RDS has not accepted.
async fn presumed(world: &World, task: &Task, changes: &[RecordChange], overlap: &Overlap) -> Result<(), Outcome> {
    // The region that is promoted answers while the other one is gone.
    let target = match overlap.way {
        Way::Ahead => Some(&overlap.region),
        Way::Back => changes.first().and_then(|change| task.region_of(&change.from)),
    };
    let ask = target.unwrap_or(&world.region);
    // The call leaves at the same time, and is answered in a moment; a promotion takes longer than the last pause.
    let mut pause = world.poll_every / 16;
    loop {
        let seen = world.rds.global_cluster(ask, &task.cluster).await?;
        let detail = match (&seen.failover, overlap.way) {
            (Some(running), Way::Ahead) if running.to == overlap.writer => return Ok(()),
            (Some(running), _) => format!("a failover to {} is {}", running.to, running.status),
            (None, _) if seen.member(&overlap.writer).is_some_and(|member| member.writer) => return Ok(()),
            (None, _) => format!("RDS does not show that {} is to be the writer", overlap.writer),
        };
        let next = Instant::now() + pause;
        if next + world.write_deadline >= task.until {
            return Err(Outcome::InProgress { detail });
        }
        tokio::time::sleep_until(next).await;
        pause = (pause * 2).min(world.poll_every);
    }
}

async fn move_all(world: &World, task: &Task, changes: &[RecordChange], aim: &Aim<'_>) -> Result<(), Outcome> {
    let mut zones: BTreeMap<&str, Vec<&RecordChange>> = BTreeMap::new();
    let mut turned = Vec::new();
    for change in changes {
        match &change.by {
            RouteBy::Record => zones.entry(&change.zone).or_default().push(change),
            RouteBy::HealthCheck { region, bucket, key } => {
                switch::write_object(world, task, change, aim, Location { region, bucket, key }).await?;
                turned.push(change);
            }
            RouteBy::Arc { endpoints, controls } => {
                switch::turn_controls(world, task, change, aim, endpoints, controls).await?;
                turned.push(change);
            }
        }
    }
    for (zone, changes) in zones {
        swap_zone(world, task, zone, &changes).await?;
    }
    seen_in_dns(world, task, &turned).await
}

async fn swap_zone(world: &World, task: &Task, zone: &str, changes: &[&RecordChange]) -> Result<(), Outcome> {
    let mut swaps = Vec::new();
    for change in changes {
        match read(world, zone, change).await? {
            // Changed already, by an earlier run: what is left is to see it in sync.
            current if current.points_at(&change.to) => {}
            current if current.points_at(&change.from) => swaps.push(((*change).clone(), current)),
            current => {
                let detail = format!(
                    "{} points at {}, neither at the old writer {} nor at the new one {}",
                    change.name, current.value, change.from, change.to
                );
                return Err(Outcome::Refused { detail });
            }
        }
    }
    if swaps.is_empty() {
        return seen_in_dns(world, task, changes).await;
    }
    info!(cluster = %task.cluster, zone, records = swaps.len(), "calling ChangeResourceRecordSets");
    match world.route53.swap(zone, &swaps).await {
        Ok(change) => in_sync(world, task, &change, changes).await,
        // Somebody changed a record between our look and our call: look again.
        Err(error @ CallError::SwapRefused { .. }) => Err(Outcome::Retry { detail: error.to_string() }),
        Err(error) => Err(error.into()),
    }
}

async fn read(world: &World, zone: &str, change: &RecordChange) -> Result<CurrentRecord, Outcome> {
    match world.route53.current(zone, &change.name).await {
        Ok(Some(current)) => Ok(current),
        Ok(None) => Err(Outcome::Refused { detail: format!("zone {zone} has no CNAME {}", change.name) }),
        Err(error) => Err(error.into()),
    }
}

async fn in_sync(world: &World, task: &Task, change: &str, changes: &[&RecordChange]) -> Result<(), Outcome> {
    loop {
        match world.route53.in_sync(change).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // Changes can vanish while Route 53 itself fails over; DNS tells the truth.
            Err(CallError::Answered { code, .. }) if code == "NoSuchChange" => {
                return seen_in_dns(world, task, changes).await;
            }
            Err(error) => return Err(error.into()),
        }
        if !world.pause(task).await {
            return Err(Outcome::InProgress { detail: format!("change {change} is pending") });
        }
    }
}

/// The change id of an earlier run is not known: in sync is what the name servers answer.
async fn seen_in_dns(world: &World, task: &Task, changes: &[&RecordChange]) -> Result<(), Outcome> {
    loop {
        let mut behind = None;
        for change in changes {
            match world.dns.cname(&change.name).await {
                Ok(found) if found == change.to => {}
                Ok(found) => behind = Some(format!("{} still answers {found}", change.name)),
                Err(error) => behind = Some(error.to_string()),
            }
        }
        let Some(detail) = behind else { return Ok(()) };
        if !world.pause(task).await {
            return Err(Outcome::InProgress { detail });
        }
    }
}
