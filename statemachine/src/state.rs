//! The six states and their groups. What else must be remembered stands beside the state, in the record.

use crate::{Region, Timestamp};
use serde::{Deserialize, Serialize};

/// Where one cluster is in its lifecycle.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "name", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum State {
    /// The primary commits writes.
    Healthy,
    /// Somebody saw it fail; more evidence is gathered.
    Suspect {
        /// Since when.
        since: Timestamp,
    },
    /// A quorum agrees that it is down; RDS is asked and the guards decide.
    ConfirmedDown {
        /// Since when.
        since: Timestamp,
    },
    /// The other region's cluster is being made the writer.
    Promoting {
        /// Since when.
        since: Timestamp,
        /// The region that takes over.
        target: Region,
    },
    /// The public names are being moved, and proven.
    Rerouting {
        /// Since when.
        since: Timestamp,
    },
    /// Writes work in the new region; it is watched until the topology is whole.
    Stable {
        /// Since when.
        since: Timestamp,
        /// The earliest end.
        soak_until: Timestamp,
    },
}

impl State {
    /// Name as in tables, events and dashboards.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect { .. } => "suspect",
            Self::ConfirmedDown { .. } => "confirmed-down",
            Self::Promoting { .. } => "promoting",
            Self::Rerouting { .. } => "rerouting",
            Self::Stable { .. } => "stable",
        }
    }

    /// When it was entered; none for `healthy`, which has no clock.
    #[must_use]
    pub const fn since(&self) -> Option<Timestamp> {
        match self {
            Self::Healthy => None,
            Self::Suspect { since }
            | Self::ConfirmedDown { since }
            | Self::Promoting { since, .. }
            | Self::Rerouting { since }
            | Self::Stable { since, .. } => Some(*since),
        }
    }
}

/// The groups of states; what a state does not handle goes up to its group, and from there to the root.
pub(crate) enum Group {
    /// `healthy`, `suspect`: evidence counts.
    Watching,
    /// `confirmed-down`: RDS and the guards decide.
    Deciding,
    /// `promoting`, `rerouting`: only forward.
    Committed,
    /// `stable`: watched until whole.
    Settled,
    /// The root: claims, configuration, time; everything else is ignored with a reason.
    Supervised,
}
