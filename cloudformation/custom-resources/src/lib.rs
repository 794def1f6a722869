//! CloudFormation custom resources: one Lambda function that serves them all, one module per resource.
//!
//! ```text
//! Lambda invocation ──> function: an answer on every path ──> resources: by ResourceType ──> one module
//!                            │
//!                            └──> protocol: what CloudFormation sends, and the PUT that it waits for
//! ```
//!
//! They work while a stack is created, changed or deleted, and never in the path of a failover. Each can be used alone
//! from any template: see the README beside this crate.

mod aws;
mod download;
mod failure;
mod function;
mod permissions;
mod protocol;
mod resources;
mod signed;

pub use failure::Failure;
pub use function::{Function, serve};
pub use permissions::{Statement, permissions, permissions_json};
pub use protocol::{Data, Request, RequestType};
pub use resources::{Resources, TYPES};
