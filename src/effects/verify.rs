//! Proves what clients will see: the public names answer the new writer, and a write through them commits.
//! The machine asks for it only after the TTL has passed, so that no cache can still hold the old answer.

use super::{Task, World};
use statemachine::{Outcome, RecordChange, Region, Report};

/// Heartbeat writer name of the proof.
const WRITER: &str = "controller/verify";

pub(super) async fn run(world: &World, task: &Task, changes: &[RecordChange], region: &Region) -> Outcome {
    let mut proofs = Vec::new();
    for change in changes {
        match proof(world, task, change, region).await {
            Ok(proof) => proofs.push(proof),
            Err(detail) => return Outcome::Retry { detail },
        }
    }
    Outcome::Done { report: Report::Verified { detail: proofs.join(", ") } }
}

async fn proof(world: &World, task: &Task, change: &RecordChange, region: &Region) -> Result<String, String> {
    let answer = world.dns.cname(&change.name).await.map_err(|error| error.to_string())?;
    if answer != change.to {
        return Err(format!("{} answers {answer}, not {}", change.name, change.to));
    }
    let written = world.database.prove_write(&change.name, WRITER, task.epoch, world.write_deadline).await;
    let address = written.map_err(|error| format!("no write commits through {}: {error}", change.name))?;
    Ok(format!("{} leads to {address} in {region} and commits", change.name))
}
