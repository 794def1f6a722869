//! How far the regions are behind the writer, measured in each of them all the time: what CloudWatch tells, and what a
//! drill's page shows.

use super::node;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// Pause between two measurements of a region.
const EVERY: Duration = Duration::from_millis(200);

/// A server that does not tell within this time is not waited for.
const WITHIN: Duration = Duration::from_secs(1);

/// Measurements that are kept: an hour of two regions.
const KEPT_MAX: usize = 36_000;

const LAG: &str = "SELECT rpo_lag_in_msec FROM aurora_global_db_status() WHERE rpo_lag_in_msec >= 0";

/// One measurement.
#[derive(Debug, Clone)]
pub struct LagSample {
    /// When.
    pub at: SystemTime,
    /// Where.
    pub region: String,
    /// Milliseconds behind.
    pub ms: u64,
}

/// The measurements; they end when it is dropped.
pub(super) struct LagSampler {
    samples: Arc<Mutex<VecDeque<LagSample>>>,
    _tasks: JoinSet<()>,
}

impl LagSampler {
    /// Asks the head of each region, by its port; a region whose head is no replica has no lag.
    pub(super) fn start(heads: &BTreeMap<String, watch::Sender<u16>>, database: &str) -> Self {
        let samples = Arc::<Mutex<VecDeque<LagSample>>>::default();
        let mut tasks = JoinSet::new();
        for (region, port) in heads {
            tasks.spawn(sample(region.clone(), port.subscribe(), database.to_owned(), Arc::clone(&samples)));
        }
        Self { samples, _tasks: tasks }
    }

    /// All that are kept, oldest first.
    pub(super) fn samples(&self) -> Vec<LagSample> {
        self.samples.lock().expect("no panic while it is held").iter().cloned().collect()
    }
}

async fn sample(
    region: String,
    port: watch::Receiver<u16>,
    database: String,
    samples: Arc<Mutex<VecDeque<LagSample>>>,
) {
    let began = Instant::now();
    let mut session: Option<(u16, Client)> = None;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let port = *port.borrow();
        let usable = session.take().filter(|(known, client)| *known == port && !client.is_closed());
        let asked = tokio::time::timeout(WITHIN, async {
            let client = match usable {
                Some((_, client)) => client,
                None => node::connect(&node::dsn(port, &database)).await.ok()?,
            };
            let row = client.query_opt(LAG, &[]).await.ok()?;
            Some((client, row.map(|row| row.get::<_, i64>(0))))
        });
        // A server that is being moved, or hangs: nobody knows how far it is behind.
        let Ok(Some((client, lag))) = asked.await else { continue };
        session = Some((port, client));
        let Some(ms) = lag.and_then(|lag| u64::try_from(lag).ok()) else { continue };
        // Until the first commit of this lab arrives, the newest one is of when its servers were prepared.
        if Duration::from_millis(ms) > began.elapsed() {
            continue;
        }
        let mut samples = samples.lock().expect("no panic while it is held");
        if samples.len() == KEPT_MAX {
            samples.pop_front();
        }
        samples.push_back(LagSample { at: SystemTime::now(), region: region.clone(), ms });
    }
}
