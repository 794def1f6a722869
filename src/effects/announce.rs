//! Tells pagers and chat, through EventBridge.

use super::{Task, World};
use crate::bus::{CONTROLLER_SOURCE, Outgoing};
use crate::envelope::{TRANSITION_DETAIL_TYPE, transition_detail};
use statemachine::{Outcome, Region, Report};

pub(super) async fn run(world: &World, task: &Task, from: &str, to: &str, reason: &str, primary: &Region) -> Outcome {
    let detail = transition_detail(&task.cluster, from, to, reason, primary.as_str());
    let event = Outgoing { source: CONTROLLER_SOURCE, detail_type: TRANSITION_DETAIL_TYPE, detail };
    match world.bus.publish(&[event]).await {
        Ok(()) => Outcome::Done { report: Report::Announced },
        Err(error) => Outcome::Retry { detail: error.to_string() },
    }
}
