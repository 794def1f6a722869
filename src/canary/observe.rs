//! Probes of other kinds than a write: a read, a TCP connection, a page, a name. Shown, and counted only with the
//! weight that the policy gives them.

use super::{Me, Outside, Pace, ms_since, outcome_of};
use crate::clock;
use crate::config::{ProbeKind, ProbeSettings};
use crate::database::{Database, ProbeError, Session, within};
use crate::dns::{self, Dns};
use crate::envelope::{OBSERVATION_DETAIL_TYPE, observation_detail};
use crate::http::Http;
use statemachine::{ClusterId, Observation, ProbeOutcome};
use std::time::Duration;
use tokio::time::Instant;
use tracing::debug;

/// One configured probe.
pub(super) struct Looker {
    me: Me,
    cluster: ClusterId,
    probe: ProbeSettings,
    database: Database,
    dns: Dns,
    http: Option<Http>,
    session: Option<(Session, Instant)>,
}

impl Looker {
    pub(super) fn new(me: Me, cluster: ClusterId, probe: ProbeSettings, outside: &Outside) -> Self {
        let (database, dns) = (outside.database.clone(), outside.dns.clone());
        Self { me, cluster, probe, database, dns, http: None, session: None }
    }

    pub(super) async fn run(mut self, reconnect_every: Duration) {
        let mut pace = Pace::new(self.probe.rhythm.interval, self.probe.rhythm.jitter);
        let mut sequence = 0;
        loop {
            pace.turn().await;
            sequence += 1;
            let (began, reached) = (Instant::now(), self.me.neutral.was_reached());
            let seen = within(self.probe.rhythm.timeout, self.look(reconnect_every)).await;
            let (latency_ms, at) = (ms_since(began), clock::now());
            if let Err(error) = &seen {
                debug!(probe = self.probe.name, %error, "probe failed");
                self.session = None;
            }
            let outcome = outcome_of(&seen);
            let self_check = self.me.neutral.check(reached, outcome != ProbeOutcome::Ok).await;
            let seen = Observation {
                vantage: self.me.vantage.clone(),
                incarnation: self.me.incarnation.clone(),
                sequence,
                name: self.probe.name.clone(),
                outcome,
                self_check,
                latency_ms,
            };
            let detail = observation_detail(&self.cluster, at, &seen);
            self.me.tell(OBSERVATION_DETAIL_TYPE, detail);
        }
    }

    async fn look(&mut self, reconnect_every: Duration) -> Result<(), ProbeError> {
        match &self.probe.kind {
            ProbeKind::Read { endpoint } => {
                let (session, opened) = match self.session.take() {
                    Some((session, opened)) if opened.elapsed() < reconnect_every => (session, opened),
                    _ => (self.database.connect(endpoint).await?, Instant::now()),
                };
                session.read().await?;
                self.session = Some((session, opened));
                Ok(())
            }
            ProbeKind::Tcp { host, port } => {
                let (_, addresses) = self.dns.addresses(host).await?;
                dns::connect(&addresses, *port).await.map(drop)
            }
            ProbeKind::Http(page) => {
                if self.http.is_none() {
                    self.http = Some(Http::new(&self.dns, page.ca_file.as_deref())?);
                }
                self.http.as_ref().expect("just made").get(page).await
            }
            ProbeKind::Dns { name, answer } => {
                let (canonical, addresses) = self.dns.addresses(name).await?;
                let is_it = |wanted: &String| {
                    let wanted = wanted.trim_end_matches('.');
                    canonical.trim_end_matches('.') == wanted || addresses.iter().any(|ip| ip.to_string() == wanted)
                };
                if answer.as_ref().is_none_or(is_it) {
                    return Ok(());
                }
                Err(ProbeError::new("answer", format!("{name} leads to {canonical} {addresses:?}")))
            }
        }
    }
}
