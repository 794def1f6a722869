//! A two-region AWS on one machine: real PostgreSQL with replication, a real DNS server, and the wire protocols of
//! the AWS services that the product calls.
//!
//! The product runs in it as everywhere: the same binary, as processes of their own, with the standard AWS
//! environment. Absent, on purpose: any knowledge of the product's insides. What a drill reports it reads from what
//! the commands print, from the application's own account, and from the calls that arrived.

pub mod aws;
mod bench;
pub mod cli;
pub mod client;
pub mod control;
mod demo;
pub mod dns;
pub mod drill;
pub mod in_region;
pub mod link;
pub mod page;
pub mod postgres;
pub mod progress;
pub mod reaper;
pub mod report;
pub mod scenario;
pub mod soak;
pub mod stage;
