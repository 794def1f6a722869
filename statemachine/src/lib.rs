//! The failover lifecycle of one Aurora global cluster, as a pure function.
//!
//! ```text
//!   Envelope (a fact) ─┐
//!   Record (what we know) ─┤─> step ─> Decision { record, verdict, guards, effects }
//!   now (a reading) ───┘
//! ```
//!
//! [`step`] is all there is: it takes the stored [`Record`], one [`Envelope`] and a clock reading, and
//! answers with the next record and with the effects that the service must carry out.
//!
//! What is absent, on purpose: clock, I/O, async, randomness, environment. The crate is `no_std`, so none of
//! them compiles. Time is an argument, effects are data ([`Effect`]), deadlines are data ([`next_wakeup`]).
#![no_std]

extern crate alloc;

mod commands;
mod config;
mod deadline;
mod decision;
pub mod diagram;
mod effect;
mod event;
mod evidence;
mod guards;
mod id;
pub mod invariants;
mod machine;
mod record;
mod signals;
mod state;
mod states;
mod turn;

pub use config::{AlarmWeight, ArcEndpoint, Config, Member, Policy, ProbeWeight, RerouteWhen, Route, RouteBy};
pub use deadline::{due_effects, next_wakeup};
pub use decision::{Decision, Reason, Rule, Verdict};
pub use effect::{
    Assessment, Claim, ClusterFacts, Effect, FailoverInProgress, How, MemberFacts, Outcome, Overlap, Pending, Question,
    RecordChange, Report, Way,
};
pub use event::{
    Alarm, Claimant, Command, Configured, EffectResult, Envelope, Event, LagReading, Observation, Order, Probe,
    ProbeOutcome, RdsEvent, SelfCheck,
};
pub use evidence::{Evidence, Lag, Quorum, Sight, Track};
pub use guards::{Guard, GuardResult, Input};
pub use id::{
    Arn, ClaimToken, ClusterId, ControllerId, EffectId, EpisodeId, Epoch, EventId, Region, Timestamp, Vantage,
};
pub use machine::step;
pub use record::{
    Approval, DualWriter, Episode, EpisodeKind, EpisodeOutcome, Grace, Hold, HoldReason, Mode, Ordered, Pause, Record,
    SCHEMA,
};
pub use state::State;
