//! Lets another instance of the primary's cluster take over, in its own region.

use super::{Task, World};
use crate::rds::RdsError;
use statemachine::{Arn, Outcome, Region, Report};
use tokio::time::Instant;

pub(super) async fn run(world: &World, task: &Task, cluster: &Arn, region: &Region, instance: Option<&str>) -> Outcome {
    match world.rds.cluster(region, cluster).await {
        // An earlier call, or Aurora itself.
        Ok(facts) if facts.status == "failing-over" => return Outcome::Done { report: Report::FailingOverInRegion },
        Ok(facts) if facts.status != "available" => {
            return Outcome::Refused { detail: format!("{cluster} is {}", facts.status) };
        }
        Ok(facts) if facts.instances < 2 => {
            return Outcome::Refused { detail: format!("{cluster} has no other instance to fail over to") };
        }
        // A call whose reply was lost is over by now, or it never was; a second one would move the writer again.
        Ok(_) if task.attempts > 0 => {
            return Outcome::Refused {
                detail: "an earlier call may have been carried out; look before another".into(),
            };
        }
        Ok(_) if Instant::now() >= task.until => {
            return Outcome::Retry { detail: "its time was over before the call".into() };
        }
        Ok(_) => {}
        Err(error) => return error.into(),
    }
    match world.rds.fail_over_in_region(region, cluster, instance).await {
        Ok(()) => Outcome::Done { report: Report::FailingOverInRegion },
        Err(error @ RdsError::Answered { .. }) => Outcome::Refused { detail: error.to_string() },
        Err(error @ RdsError::NoAnswer { .. }) => Outcome::Unknown { detail: error.to_string() },
    }
}
