//! Real PostgreSQL in the place of Aurora: two regions, streaming replication between and inside them.

mod binaries;
mod node;
mod proxy;
mod topology;

pub use binaries::Binaries;
pub use topology::{Instance, Topology, TopologyOptions, seen_by};
