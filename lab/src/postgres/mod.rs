//! Real PostgreSQL in the place of Aurora: two regions, streaming replication between and inside them.

mod binaries;
mod lag;
mod node;
mod proxy;
mod topology;
mod website;

pub use binaries::Binaries;
pub use lag::LagSample;
pub use topology::{Front, Instance, Topology, TopologyOptions, seen_by};
