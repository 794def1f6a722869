//! Moves a public name without Route 53's control plane: what decides its answer was prepared, and is only turned.

use super::reroute::Aim;
use super::{Task, World};
use crate::aws::CallError;
use crate::s3::Location;
use serde::{Deserialize, Serialize};
use statemachine::{ArcEndpoint, Arn, ClusterId, Outcome, RecordChange, Region};
use std::collections::BTreeMap;
use tracing::info;

/// The object that an inverted health check reads: it searches for `"primary":"<second region>"`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Signpost {
    primary: Region,
    cluster: ClusterId,
    epoch: u64,
}

/// Writes the new primary into the object, unless it is of a later epoch or of another cluster. On the way back only what
/// went ahead is taken back: the epoch that did not come about.
pub(super) async fn write_object(
    world: &World,
    task: &Task,
    change: &RecordChange,
    aim: &Aim<'_>,
    at: Location<'_>,
) -> Result<(), Outcome> {
    let wanted = Signpost { primary: aim.primary.clone(), cluster: task.cluster.clone(), epoch: aim.epoch };
    let object = world.objects.read(at).await?;
    let found = object.as_ref().map(|object| serde_json::from_str::<Signpost>(&object.text)).transpose();
    let found = found.map_err(|error| Outcome::Refused {
        detail: format!("s3://{}/{} is not what this service writes there: {error}", at.bucket, at.key),
    })?;
    let left = task.region_of(&change.from);
    match found {
        Some(found) if found.cluster != wanted.cluster => return Err(not_ours(at, found)),
        // A later epoch with the same primary is somebody's correction by hand.
        Some(found) if found.primary == wanted.primary && found.epoch >= wanted.epoch => return Ok(()),
        Some(found) if aim.back && left == Some(&found.primary) && found.epoch == wanted.epoch + 1 => {}
        Some(found) if found.epoch >= wanted.epoch => return Err(not_ours(at, found)),
        Some(_) | None => {}
    }
    let text = serde_json::to_string(&wanted).expect("it is plain data");
    info!(cluster = %task.cluster, region = %at.region, bucket = at.bucket, key = at.key, "calling PutObject");
    Ok(world.objects.swap(at, &text, object.as_ref()).await?)
}

fn not_ours(at: Location<'_>, found: Signpost) -> Outcome {
    let Signpost { primary, cluster, epoch } = found;
    Outcome::Refused { detail: format!("s3://{}/{} is for {primary}, {cluster}, epoch {epoch}", at.bucket, at.key) }
}

/// Turns the new primary's control on and the others off, if they are as the change presumes. There is no
/// compare-and-swap for it: what somebody turns by hand between the look and the call is overwritten.
pub(super) async fn turn_controls(
    world: &World,
    task: &Task,
    change: &RecordChange,
    aim: &Aim<'_>,
    endpoints: &[ArcEndpoint],
    controls: &BTreeMap<Region, Arn>,
) -> Result<(), Outcome> {
    let refused = |detail: String| Outcome::Refused { detail };
    let Some(arc) = &world.controls else {
        return Err(refused("this build has no routing controls: build it with the cargo feature `arc`".into()));
    };
    let Some(wanted) = controls.get(aim.primary) else {
        return Err(refused(format!("{} has no routing control for {}", change.name, aim.primary)));
    };
    let all: Vec<Arn> = controls.values().cloned().collect();
    let on = arc.on(endpoints, &all).await?;
    if on.iter().eq([wanted]) {
        return Ok(());
    }
    if !on.iter().eq(task.region_of(&change.from).and_then(|region| controls.get(region))) {
        let on: Vec<&str> = on.iter().map(Arn::as_str).collect();
        return Err(refused(format!("on are [{}], not the control of the old primary", on.join(", "))));
    }
    let off: Vec<Arn> = all.into_iter().filter(|control| control != wanted).collect();
    info!(cluster = %task.cluster, on = %wanted, "calling UpdateRoutingControlStates");
    Ok(arc.switch(endpoints, wanted, &off).await?)
}

impl From<CallError> for Outcome {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::NoAnswer { .. } => Self::Unknown { detail: error.to_string() },
            // Somebody changed it between our look and our call: look again.
            CallError::Answered { .. } | CallError::SwapRefused { .. } => Self::Retry { detail: error.to_string() },
        }
    }
}
