//! What counts: a row committed at the writer endpoint of one member, before a deadline.
//!
//! The session is kept, so that a probe measures the commit, and re-made after any failure. Once in a while another one
//! is opened beside it, and takes its place: a server that commits and takes nobody new is found out, and is not down.

use super::{Me, Pace, ms_since, outcome_of};
use crate::clock;
use crate::config::TargetSettings;
use crate::database::{Database, ProbeError, Session, within};
use crate::envelope::{PROBE_DETAIL_TYPE, probe_detail};
use statemachine::{ClusterId, Member, Probe, ProbeOutcome, Region, Timestamp};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, warn};

/// The member of a cluster that committed last, as this vantage saw it; shared by the cluster's targets.
pub(super) type Writer = Arc<Mutex<Option<Region>>>;

/// One member's endpoints as this vantage sees them.
pub(super) struct Target {
    me: Me,
    cluster: ClusterId,
    committed_last: Writer,
    region: Region,
    endpoint: String,
    settings: TargetSettings,
    database: Database,
    writer: Option<(Session, Instant)>,
    reader: Option<Session>,
}

/// What opening a session took, or why it could not be opened.
type Connected = Option<Result<u64, &'static str>>;

impl Target {
    pub(super) fn new(
        me: Me,
        cluster: ClusterId,
        member: &Member,
        settings: &TargetSettings,
        database: Database,
        committed_last: Writer,
    ) -> Self {
        Self {
            me,
            cluster,
            committed_last,
            region: member.region.clone(),
            endpoint: member.endpoint.clone(),
            settings: settings.clone(),
            database,
            writer: None,
            reader: None,
        }
    }

    pub(super) async fn run(mut self, reconnect_every: Duration) {
        let mut pace = Pace::new(self.settings.rhythm.interval, self.settings.rhythm.jitter);
        let mut sequence = 0;
        loop {
            pace.turn().await;
            sequence += 1;
            let (probe, at) = self.probe(sequence, reconnect_every).await;
            debug!(region = %self.region, outcome = ?probe.outcome, latency_ms = probe.latency_ms, "probed");
            let detail = probe_detail(&self.cluster, at, &probe);
            self.me.tell(PROBE_DETAIL_TYPE, detail);
        }
    }

    async fn probe(&mut self, sequence: u64, reconnect_every: Duration) -> (Probe, Timestamp) {
        let timeout = self.settings.rhythm.timeout;
        let (began, reached) = (Instant::now(), self.me.neutral.was_reached());
        let mut connected = None;
        let written = within(timeout, self.write(&mut connected)).await;
        let (latency_ms, at) = (ms_since(began), clock::now());
        if written.is_ok() && self.writer.as_ref().is_some_and(|(_, at)| at.elapsed() >= reconnect_every) {
            connected = self.reconnect(timeout).await;
        }
        let outcome = outcome_of(&written);
        let replica = written.as_ref().is_err_and(|error| error.class == "read-only");
        if let Some(error) = written.as_ref().err().filter(|_| !replica) {
            debug!(region = %self.region, %error, "probe failed");
            self.writer = None;
        }
        // The writer endpoint of a secondary may answer that it is read-only, or not at all.
        let writer = self.is_writer(written.is_ok()) && !replica;
        let lag_ms = if writer { None } else { within(timeout, self.lag()).await.unwrap_or_default() };
        let failed = outcome != ProbeOutcome::Ok && !replica;
        let probe = Probe {
            vantage: self.me.vantage.clone(),
            incarnation: self.me.incarnation.clone(),
            sequence,
            target: self.region.clone(),
            outcome,
            self_check: self.me.neutral.check(reached, failed).await,
            latency_ms,
            connect_ms: connected.and_then(Result::ok),
            connect_failure: connected.and_then(Result::err).map(Into::into),
            dropped: self.me.outbox.sent().dropped,
            lag_ms,
        };
        (probe, at)
    }

    /// Did this member commit last? One that fails stays it until another member commits: nobody waits for the lag of a
    /// writer that is down.
    fn is_writer(&self, commits: bool) -> bool {
        let mut last = self.committed_last.lock().expect("no panic while it is held");
        if commits {
            *last = Some(self.region.clone());
        }
        last.as_ref() == Some(&self.region)
    }

    async fn write(&mut self, connected: &mut Connected) -> Result<(), ProbeError> {
        let (session, opened) = match self.writer.take() {
            Some(kept) => kept,
            None => {
                let began = Instant::now();
                let session = self.database.connect(&self.endpoint).await?;
                *connected = Some(Ok(ms_since(began)));
                (session, began)
            }
        };
        let written = session.write(&format!("canary/{}@{}", self.me.vantage, self.region), None).await;
        if written.as_ref().is_ok() || written.as_ref().is_err_and(|error| error.class == "read-only") {
            self.writer = Some((session, opened));
        }
        written
    }

    /// Opens another session in the place of the kept one, which stays if that is not possible.
    async fn reconnect(&mut self, timeout: Duration) -> Connected {
        let began = Instant::now();
        match within(timeout, self.database.connect(&self.endpoint)).await {
            Ok(session) => {
                self.writer = Some((session, began));
                Some(Ok(ms_since(began)))
            }
            Err(error) => {
                warn!(region = %self.region, %error, "it commits, and takes no new session");
                Some(Err(error.class))
            }
        }
    }

    /// A replica's lag, by its reader endpoint.
    async fn lag(&mut self) -> Result<Option<u64>, ProbeError> {
        let session = match self.reader.take() {
            Some(session) => session,
            None => self.database.connect(&self.settings.reader_endpoint).await?,
        };
        let lag_ms = session.lag_ms(self.region.as_str()).await?;
        self.reader = Some(session);
        Ok(lag_ms)
    }
}
