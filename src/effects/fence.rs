//! Keeps an old writer from taking writes after a failover, and drops what is connected to it, so that pooled
//! connections look the name up again. Best effort: Aurora fences the storage itself when it can reach it.

use super::{Task, World};
use crate::database::ProbeError;
use statemachine::{Arn, Outcome, Region, Report};

pub(super) async fn run(world: &World, task: &Task, cluster: &Arn, region: &Region) -> Outcome {
    // The world may have moved on: never fence what RDS calls the writer.
    match world.rds.global_cluster(&task.primary, &task.cluster).await {
        Ok(assessment) if assessment.failover.is_some() => {
            return Outcome::Retry { detail: "a failover is running; its end decides who may be fenced".into() };
        }
        Ok(assessment) if assessment.member(cluster).is_some_and(|member| member.writer) => {
            return Outcome::Refused { detail: format!("{cluster} is the writer") };
        }
        Ok(_) => {}
        Err(error) => return error.into(),
    }
    let Some(member) = task.config.member(region) else {
        return Outcome::Refused { detail: format!("no member in {region}") };
    };
    match world.database.fence(&member.endpoint, world.write_deadline).await {
        Ok(detail) => Outcome::Done { report: Report::Fenced { detail } },
        Err(error @ ProbeError { class: "server", .. }) => Outcome::Refused { detail: error.to_string() },
        Err(error) => Outcome::Retry { detail: error.to_string() },
    }
}
