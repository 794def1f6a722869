//! Carrying effects out. One file per effect, each the same three steps: look at the world, act, look again.
//!
//! Every run begins with a look, so it may be run twice, and after a crash at any point: what is already so is
//! reported as done. A run ends within its claim, or reports that it is still under way.

mod announce;
mod assess;
mod failover_in_region;
mod fence;
mod promote;
mod reroute;
mod switch;
mod verify;

use crate::arc::RoutingControls;
use crate::bus::Bus;
use crate::clock::Clock;
use crate::database::Databases;
use crate::dns::Resolver;
use crate::rds::{Rds, RdsError};
use crate::route53::Route53;
use crate::s3::Objects;
use statemachine::{ClusterId, Config, Effect, Outcome, Pending, Record, Region};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The outside world, as far as effects may touch it.
#[derive(Clone)]
pub struct World {
    /// RDS in every region.
    pub rds: Arc<dyn Rds>,
    /// Route 53.
    pub route53: Arc<dyn Route53>,
    /// S3, for public names that a health check moves.
    pub objects: Arc<dyn Objects>,
    /// Routing controls, for public names that they move; none when this build has no ARC.
    pub controls: Option<Arc<dyn RoutingControls>>,
    /// The bus for announcements.
    pub bus: Arc<dyn Bus>,
    /// DNS, as anybody sees it.
    pub dns: Arc<dyn Resolver>,
    /// PostgreSQL behind the endpoints.
    pub database: Arc<dyn Databases>,
    /// Time and names.
    pub clock: Arc<dyn Clock>,
    /// Pause between two looks at something under way.
    pub poll_every: Duration,
    /// Deadline of one write proof.
    pub write_deadline: Duration,
    /// The controller's own region: RDS is asked there or beyond, never in the primary's first.
    pub region: Region,
}

/// One claimed effect.
#[derive(Debug, Clone)]
pub struct Task {
    /// Whose.
    pub cluster: ClusterId,
    /// What to do.
    pub effect: Effect,
    /// The configuration in force.
    pub config: Config,
    /// Where the writer is.
    pub primary: Region,
    /// Epoch of the record.
    pub epoch: u64,
    /// Tries before this one that failed or whose outcome is unknown.
    pub attempts: u32,
    /// A try before this one saw it under way.
    pub under_way: bool,
    /// The run ends before this time.
    pub until: Instant,
}

impl Task {
    /// The task of carrying out `pending` of `record`, which is to end before `until`.
    #[must_use]
    pub fn new(record: &Record, pending: &Pending, until: Instant) -> Self {
        Self {
            cluster: record.cluster.clone(),
            effect: pending.effect.clone(),
            config: record.config.clone(),
            primary: record.primary.clone(),
            epoch: record.epoch.0,
            attempts: pending.attempts,
            under_way: pending.under_way,
            until,
        }
    }

    /// The region whose member has this endpoint.
    fn region_of(&self, endpoint: &str) -> Option<&Region> {
        self.config.members.iter().find(|member| member.endpoint == endpoint).map(|member| &member.region)
    }
}

impl World {
    /// Carries one effect out, within its claim.
    pub async fn run(&self, task: &Task) -> Outcome {
        let run = async {
            match &task.effect {
                Effect::Assess { question } => assess::run(self, task, *question).await,
                Effect::Promote { how, from, to, region, .. } => promote::run(self, task, *how, from, to, region).await,
                Effect::FailOverInRegion { cluster, region, instance } => {
                    failover_in_region::run(self, task, cluster, region, instance.as_deref()).await
                }
                Effect::Fence { cluster, region } => fence::run(self, task, cluster, region).await,
                Effect::Reroute { changes, overlap } => reroute::run(self, task, changes, overlap.as_ref()).await,
                Effect::Verify { changes, region, .. } => verify::run(self, task, changes, region).await,
                Effect::Announce { from, to, reason, primary } => {
                    announce::run(self, task, from, to, reason, primary).await
                }
            }
        };
        match tokio::time::timeout_at(task.until, run).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown { detail: "it did not end within its claim".into() },
        }
    }

    /// Waits before the next look; false when the claim would be over.
    async fn pause(&self, task: &Task) -> bool {
        // Leave room for one more round of calls before the claim ends.
        let next = Instant::now() + self.poll_every;
        if next + self.write_deadline >= task.until {
            return false;
        }
        tokio::time::sleep_until(next).await;
        true
    }
}

impl From<RdsError> for Outcome {
    fn from(error: RdsError) -> Self {
        // Asking is safe to repeat, whatever went wrong.
        Self::Retry { detail: error.to_string() }
    }
}
