//! What counts: a row committed at the writer endpoint of one member, before a deadline.
//!
//! The session is kept, so that a probe measures the commit; it is re-made after any failure, and once in a while, so
//! that a server which takes nobody new is found out. Both are measured.

use super::{Me, Pace, ms_since, outcome_of};
use crate::bus::{CANARY_SOURCE, Outgoing};
use crate::clock;
use crate::config::CanarySettings;
use crate::database::{Database, ProbeError, Session, within};
use crate::envelope::{PROBE_DETAIL_TYPE, probe_detail};
use statemachine::{ClusterId, Member, Probe, ProbeOutcome, Region};
use std::time::Duration;
use tokio::time::Instant;
use tracing::debug;

/// One member's endpoints as this vantage sees them.
pub(super) struct Target {
    me: Me,
    cluster: ClusterId,
    region: Region,
    endpoint: String,
    reader_endpoint: String,
    database: Database,
    writer: Option<(Session, Instant)>,
    reader: Option<Session>,
    /// What opening the session took in this round.
    connect_ms: Option<u64>,
}

impl Target {
    pub(super) fn new(me: Me, cluster: ClusterId, member: &Member, reader: &str, database: Database) -> Self {
        Self {
            me,
            cluster,
            region: member.region.clone(),
            endpoint: member.endpoint.clone(),
            reader_endpoint: reader.into(),
            database,
            writer: None,
            reader: None,
            connect_ms: None,
        }
    }

    pub(super) async fn run(mut self, settings: CanarySettings) {
        let mut pace = Pace::new(settings.interval, settings.jitter);
        let mut sequence = 0;
        loop {
            pace.turn().await;
            sequence += 1;
            let (probe, at) = self.probe(sequence, &settings).await;
            debug!(region = %self.region, outcome = ?probe.outcome, latency_ms = probe.latency_ms, "probed");
            let detail = probe_detail(&self.cluster, at, &probe);
            self.me.outbox.put(Outgoing { source: CANARY_SOURCE, detail_type: PROBE_DETAIL_TYPE, detail });
        }
    }

    async fn probe(&mut self, sequence: u64, settings: &CanarySettings) -> (Probe, statemachine::Timestamp) {
        let (began, reached) = (Instant::now(), self.me.neutral.was_reached());
        self.connect_ms = None;
        let written = within(settings.timeout, self.write(settings.reconnect_every)).await;
        let (latency_ms, at) = (ms_since(began), clock::now());
        let outcome = outcome_of(&written);
        let replica = written.as_ref().is_err_and(|error| error.class == "read-only");
        let mut lag_ms = None;
        if replica {
            lag_ms = within(settings.timeout, self.lag()).await.unwrap_or_default();
        } else if let Err(error) = written {
            debug!(region = %self.region, %error, "probe failed");
            self.writer = None;
        }
        let failed = outcome != ProbeOutcome::Ok && !replica;
        let probe = Probe {
            vantage: self.me.vantage.clone(),
            incarnation: self.me.incarnation.clone(),
            sequence,
            target: self.region.clone(),
            outcome,
            self_check: self.me.neutral.check(reached, failed).await,
            latency_ms,
            connect_ms: self.connect_ms,
            dropped: self.me.outbox.sent().dropped,
            lag_ms,
        };
        (probe, at)
    }

    async fn write(&mut self, reconnect_every: Duration) -> Result<(), ProbeError> {
        let (session, opened) = match self.writer.take() {
            Some((session, opened)) if opened.elapsed() < reconnect_every => (session, opened),
            _ => {
                let began = Instant::now();
                let session = self.database.connect(&self.endpoint).await?;
                self.connect_ms = Some(ms_since(began));
                (session, began)
            }
        };
        let written = session.write(&format!("canary/{}@{}", self.me.vantage, self.region), 0).await;
        if written.as_ref().is_ok() || written.as_ref().is_err_and(|error| error.class == "read-only") {
            self.writer = Some((session, opened));
        }
        written
    }

    /// A replica's lag, by its reader endpoint: the writer endpoint of a secondary need not answer on Aurora.
    async fn lag(&mut self) -> Result<Option<u64>, ProbeError> {
        let session = match self.reader.take() {
            Some(session) => session,
            None => self.database.connect(&self.reader_endpoint).await?,
        };
        let lag_ms = session.lag_ms(self.region.as_str()).await?;
        self.reader = Some(session);
        Ok(lag_ms)
    }
}
