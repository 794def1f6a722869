//! Each custom resource through the real binary, started as Lambda starts it, with answers put to a real ResponseURL;
//! AWS is played by emulators behind a proxy that writes down every call, PostgreSQL and the package index are real.
//!
//! The emulators live in the Python environment named by `AURORA_FAILOVER_TOOLS`, made by `scripts/setup test`.

mod dns;
mod exports;
mod global_cluster;
mod layer;
mod peering;
mod protocol;
mod s3;
mod statements;
mod support;
