//! The service around [`statemachine`]: what goes in, where it is kept, and what is done outside.
//!
//! The flow, and the only one: canary → EventBridge → SQS → [`inbox`] → [`controller`] turn → [`store`] →
//! [`effects`] → result → turn. SDK types stay inside the one module that calls them ([`store`], [`inbox`],
//! [`bus`], [`rds`], [`route53`], [`s3`], [`arc`], [`cloudwatch`], [`password`],
//! [`iam`], [`infrastructure`]); environment is read in [`config`], time in [`clock`].

pub mod arc;
pub mod audit;
pub mod aws;
pub mod board;
pub mod bus;
pub mod canary;
pub mod clock;
pub mod cloudwatch;
pub mod config;
pub mod controller;
pub mod cost;
#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod database;
pub mod dns;
pub mod effects;
pub mod envelope;
pub mod http;
pub mod iam;
pub mod identity;
pub mod inbox;
pub mod infrastructure;
pub mod orders;
pub mod password;
pub mod permissions;
pub mod rds;
pub mod rehearse;
pub mod route53;
pub mod s3;
pub mod sqs;
pub mod store;
pub mod telemetry;
pub mod turn;
