//! Asks RDS what is true. Never through the primary's region first: that one may be gone.

use super::{Task, World};
use futures::future::join_all;
use statemachine::{Assessment, Outcome, Question, Region, Report};

pub(super) async fn run(world: &World, task: &Task, question: Question) -> Outcome {
    match look(world, task, question).await {
        Ok(assessment) => Outcome::Done { report: Report::Assessed(assessment) },
        Err(error) => error.into(),
    }
}

/// The global view from a region that should be alive, and each member from its own region.
async fn look(world: &World, task: &Task, question: Question) -> Result<Assessment, crate::rds::RdsError> {
    let asked = region_to_ask(world, task);
    let regions = task.config.members.iter().filter(|member| {
        // The decision must not wait for a region that a quorum has just called dead.
        question != Question::MayFailOver || member.region != task.primary
    });
    let details = regions.map(|member| async {
        let facts = world.rds.cluster(&member.region, &member.arn).await;
        (member.arn.clone(), facts)
    });
    let (global, details) = tokio::join!(world.rds.global_cluster(&asked, &task.cluster), join_all(details));
    let mut assessment = global?;
    for (arn, facts) in details {
        if let (Some(member), Ok(facts)) = (assessment.members.iter_mut().find(|m| m.arn == arn), facts) {
            member.cluster = Some(facts);
        }
    }
    Ok(assessment)
}

/// The controller's region if a secondary is there, else the first secondary's.
fn region_to_ask(world: &World, task: &Task) -> Region {
    let mut secondaries = task.config.members.iter().map(|m| &m.region).filter(|region| **region != task.primary);
    let own = secondaries.clone().find(|region| **region == world.region);
    own.or_else(|| secondaries.next()).unwrap_or(&world.region).clone()
}
