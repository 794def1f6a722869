//! Makes the target the writer. The one call that must not happen twice: RDS has no token for it, so every run
//! looks first, calls at most once, and from then on only looks.

use super::{Task, World};
use crate::rds::RdsError;
use statemachine::{Arn, Assessment, How, Outcome, Region, Report, Timestamp};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Heartbeat writer name of the proof after a promotion.
const WRITER: &str = "controller/promote";

/// What the world says about the wish.
enum Seen {
    /// The target is the writer.
    Writer,
    /// Somebody's failover to the target is running.
    UnderWay(String),
    /// The old primary is the writer and nothing runs: the call may be made.
    NotStarted,
    /// Anything else.
    Unexpected(String),
}

pub(super) async fn run(world: &World, task: &Task, how: How, from: &Arn, to: &Arn, region: &Region) -> Outcome {
    let mut called = false;
    loop {
        let assessment = match world.rds.global_cluster(region, &task.cluster).await {
            Ok(assessment) => assessment,
            Err(error) if called => return Outcome::Unknown { detail: error.to_string() },
            Err(error) => return error.into(),
        };
        let detail = match see(&assessment, from, to) {
            Seen::Writer => match proof(world, task, to, region).await {
                Ok((heartbeat_at, detail)) => {
                    return Outcome::Done { report: Report::Promoted { called, heartbeat_at, detail } };
                }
                Err(detail) => detail,
            },
            Seen::UnderWay(detail) => detail,
            // A switchover that RDS gave up shows like this too, and is found by the next run.
            Seen::NotStarted if called && how == How::Switchover => {
                return Outcome::Unknown { detail: "the call was accepted, RDS does not show it".into() };
            }
            Seen::NotStarted if called => "the call was accepted, RDS does not show it yet".into(),
            Seen::NotStarted if how == How::Follow => {
                return Outcome::Refused { detail: format!("nobody's failover to {to} is running any more") };
            }
            // RDS took a switchover and gave it up, or never got it: asking again is the operator's choice.
            Seen::NotStarted if how == How::Switchover && task.attempts > 0 => {
                return Outcome::Refused { detail: format!("no switchover runs, and {from} is still the writer") };
            }
            // It was accepted once, and one promotion is accepted per epoch.
            Seen::NotStarted if task.under_way => {
                return Outcome::Refused {
                    detail: format!("a failover to {to} was under way, and {from} is the writer: it was undone"),
                };
            }
            // The process may have been stopped since the look: somebody else may hold the claim by now.
            Seen::NotStarted if Instant::now() >= task.until => {
                return Outcome::Retry { detail: "its time was over before the call".into() };
            }
            Seen::NotStarted => {
                called = true;
                match call(world, task, how, to, region).await {
                    Ok(()) => "the call was accepted".into(),
                    Err(outcome) => return outcome,
                }
            }
            Seen::Unexpected(detail) => return Outcome::Refused { detail },
        };
        if !world.pause(task).await {
            return Outcome::InProgress { detail };
        }
    }
}

fn see(assessment: &Assessment, from: &Arn, to: &Arn) -> Seen {
    let is_writer = |arn: &Arn| assessment.member(arn).is_some_and(|member| member.writer);
    match &assessment.failover {
        Some(failover) if failover.to == *to => Seen::UnderWay(format!("failover to {to} is {}", failover.status)),
        Some(failover) => {
            Seen::Unexpected(format!("a failover to {} is {}, not to {to}", failover.to, failover.status))
        }
        None if is_writer(to) => Seen::Writer,
        None if is_writer(from) => Seen::NotStarted,
        None => Seen::Unexpected(format!("neither {from} nor {to} is the writer; RDS says {}", assessment.status)),
    }
}

async fn call(world: &World, task: &Task, how: How, to: &Arn, region: &Region) -> Result<(), Outcome> {
    let called = if how == How::Switchover {
        info!(cluster = %task.cluster, target = %to, region = %task.primary, "calling SwitchoverGlobalCluster");
        world.rds.switch_over(&task.primary, &task.cluster, to).await
    } else {
        info!(cluster = %task.cluster, target = %to, %region, "calling FailoverGlobalCluster");
        world.rds.fail_over(region, &task.cluster, to).await
    };
    match called {
        Ok(()) => Ok(()),
        // In progress already, or not possible now: the next run looks which.
        Err(error @ RdsError::Answered { .. }) => {
            warn!(cluster = %task.cluster, %error, "the call was refused");
            Err(Outcome::Retry { detail: error.to_string() })
        }
        Err(error @ RdsError::NoAnswer { .. }) => {
            warn!(cluster = %task.cluster, %error, "the call may have been accepted");
            Err(Outcome::Unknown { detail: error.to_string() })
        }
    }
}

/// Available, and a write commits there; with the time of the newest heartbeat of the old primary that arrived.
async fn proof(world: &World, task: &Task, to: &Arn, region: &Region) -> Result<(Option<Timestamp>, String), String> {
    let facts = world.rds.cluster(region, to).await.map_err(|error| error.to_string())?;
    if facts.status != "available" {
        return Err(format!("{to} is the writer and {}", facts.status));
    }
    let Some(member) = task.config.member(region) else { return Err(format!("no member in {region}")) };
    let (written, heartbeat) = tokio::join!(
        world.database.prove_write(&member.endpoint, WRITER, task.epoch + 1, world.write_deadline),
        world.database.newest_heartbeat(&member.endpoint, &task.primary, world.write_deadline),
    );
    let address = written.map_err(|error| format!("no write commits at {} yet: {error}", member.endpoint))?;
    if let Err(error) = &heartbeat {
        debug!(cluster = %task.cluster, %error, "the newest heartbeat is not known");
    }
    let detail = format!("{to} is the writer and committed a write at {address}");
    Ok((heartbeat.unwrap_or_default(), detail))
}
