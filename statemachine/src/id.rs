//! Identifiers and the one notion of time. Newtypes, so that a region is never passed for a vantage.

use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, as read by somebody else's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time plus `ms` milliseconds.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time; zero when `earlier` is later.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

macro_rules! text_id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    )*};
}

text_id! {
    /// Identifier of the global cluster, such as `orders`.
    ClusterId,
    /// An AWS region, such as `us-east-1`.
    Region,
    /// A named place that probes from.
    Vantage,
    /// Identifier of one event, unique per event and equal for each copy of it.
    EventId,
    /// ARN of one region's DB cluster.
    Arn,
    /// One running controller process.
    ControllerId,
    /// Identifier of an episode.
    EpisodeId,
}

impl Arn {
    /// Which region it is of; empty when this is no ARN of a regional resource.
    #[must_use]
    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }

    /// The account that it belongs to; empty when it names none.
    #[must_use]
    pub fn account(&self) -> &str {
        self.0.split(':').nth(4).unwrap_or_default()
    }

    /// What comes after the last colon: of a cluster its identifier.
    #[must_use]
    pub fn resource_id(&self) -> &str {
        self.0.rsplit(':').next().unwrap_or_default()
    }
}

macro_rules! number_id {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next higher one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

number_id! {
    /// Counts changes of primary; the fencing token.
    Epoch,
    /// One effect of one cluster; rises with each effect asked for.
    EffectId,
    /// Rises with each claim; a result that carries an older one changes nothing.
    ClaimToken,
}
