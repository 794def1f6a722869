//! `aurora-failover plan`: what a failover now would do, step by step, with the times that it took before.

use super::{ConfigFile, Format, Output, median, override_, show, show_as, store, world};
use anyhow::{Context as _, Result};
use aurora_failover::audit::explain;
use aurora_failover::rehearse::rehearse;
use aurora_failover::store::EpisodeEntry;
use aurora_failover::{clock, identity};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{Command, Effect, EpisodeKind, Event, Order, Region, Timestamp};
use uuid::Uuid;

/// Episodes of the past that expected times are taken from.
const EPISODES: usize = 20;

/// What a failover now would do, step by step: nothing is stored or done.
///
/// Exits with 0 only if it would go through to the promotion.
#[derive(Args)]
pub(super) struct Plan {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    output: Output,
    /// Which cluster.
    cluster: String,
    /// A planned switchover instead.
    #[arg(long)]
    switchover: bool,
    /// To which region; the best secondary when not given.
    #[arg(long)]
    target: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Planned {
    cluster: String,
    order: &'static str,
    world: Vec<String>,
    /// The time that the evidence is of, and was judged at, in milliseconds since 1970.
    evidence_as_of: Timestamp,
    /// How old it is, in milliseconds, where that is too old for a controller to be running.
    evidence_outdated_ms: Option<u64>,
    obstacles: Vec<String>,
    decisions: Vec<String>,
    would_do: Vec<Effect>,
    expected_ms: Vec<Expected>,
    goes_through: bool,
}

/// A phase, and how long it took in the past.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct Expected {
    phase: &'static str,
    median_ms: u64,
    episodes: usize,
}

impl Plan {
    /// Would it go through?
    pub(super) async fn run(self) -> Result<bool> {
        let settings = self.file.load()?;
        let cluster = super::one_cluster(&settings, Some(self.cluster.clone()))?;
        let (sdk, store) = store(&settings).await;
        let item = store
            .read(&cluster)
            .await?
            .with_context(|| format!("nothing is stored of {cluster} yet; is the controller running?"))?;
        let world = world(&settings, &sdk)?;
        let target = self.target.map(Region);
        let order = if self.switchover {
            Order::Switchover { target }
        } else {
            Order::Failover { target, allow_data_loss: false }
        };
        let command = Command {
            actor: identity::caller(&sdk).await.unwrap_or_else(|_| "plan".into()),
            on_behalf_of: None,
            reason: "a plan".into(),
            expected_epoch: item.record.epoch,
            expires_at: clock::now().plus_ms(60_000),
            nonce: Uuid::new_v4().simple().to_string(),
            order: order.clone(),
        };
        let rehearsal = rehearse(&world, &item, Event::Command(command)).await;
        let kind = if self.switchover { EpisodeKind::Switchover } else { EpisodeKind::Failover };
        let past = store.episodes(&cluster, Timestamp(0)).await?;
        let goes_through = rehearsal.next.iter().any(|effect| matches!(effect, Effect::Promote { .. }));
        let planned = Planned {
            cluster: cluster.to_string(),
            order: order.name(),
            world: override_::situation(&settings, &world, &item).await,
            // As of the time of the evidence: a quiet record would look blind a moment later.
            obstacles: explain::obstacles(&item.record, rehearsal.as_of),
            evidence_as_of: rehearsal.as_of,
            evidence_outdated_ms: rehearsal.outdated_ms,
            decisions: rehearsal.outlook(),
            would_do: rehearsal.next,
            expected_ms: expected(&past, kind),
            goes_through,
        };
        if self.output.output != Format::Table {
            show_as(self.output.output, &planned)?;
            return Ok(goes_through);
        }
        show(&format!("The world now\n{}", planned.world.join("\n")))?;
        if !self.switchover && !planned.obstacles.is_empty() {
            show(&format!("\nBy itself it would not, because\n{}", planned.obstacles.join("\n")))?;
        }
        show(&format!("\nWith `override {cluster} {}`\n{}", planned.order, planned.decisions.join("\n")))?;
        if goes_through {
            let names: Vec<&str> = item.record.config.routes.iter().map(|route| route.name.as_str()).collect();
            show(&format!("then move {}, and prove a write through {}", names.join(", "), names.join(", ")))?;
        }
        if planned.expected_ms.is_empty() {
            show("\nHow long it takes is not known: there is no such episode in the history.")?;
        } else {
            show("\nHow long it took before (median)")?;
            for Expected { phase, median_ms, episodes } in &planned.expected_ms {
                let episodes = explain::count(*episodes, "episode");
                show(&format!("{phase:<8} {}, of {episodes}", explain::duration(*median_ms)))?;
            }
        }
        Ok(goes_through)
    }
}

/// Medians of the phases of completed episodes.
fn expected(past: &[EpisodeEntry], kind: EpisodeKind) -> Vec<Expected> {
    let done = past.iter().filter_map(|entry| entry.episode.as_ref()).filter(|episode| episode.kind == kind);
    let done: Vec<_> = done.filter(|episode| episode.verified_at.is_some()).take(EPISODES).collect();
    type Span = fn(&statemachine::Episode) -> Option<u64>;
    let spans: [(&str, Span); 5] = [
        ("detect", |e| Some(e.confirmed_at?.since_ms(e.began_at))),
        ("decide", |e| Some(e.decided_at?.since_ms(e.confirmed_at.unwrap_or(e.began_at)))),
        ("promote", |e| Some(e.promoted_at?.since_ms(e.decided_at?))),
        ("reroute", |e| Some(e.rerouted_at?.since_ms(e.promoted_at?))),
        ("verify", |e| Some(e.verified_at?.since_ms(e.rerouted_at?.max(e.promoted_at?)))),
    ];
    let median = |(phase, span): (&'static str, Span)| {
        let ms: Vec<u64> = done.iter().filter_map(|episode| span(episode)).collect();
        Some(Expected { phase, episodes: ms.len(), median_ms: median(ms)? })
    };
    spans.into_iter().filter_map(median).collect()
}
