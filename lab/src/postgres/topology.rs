//! The servers and their replication: `a1` writer and `a2` reader in the primary region, `b1` in the other.
//!
//! `a2` is synchronous and `b1` is not, as Aurora's storage behaves: inside a region nothing acknowledged is lost,
//! between regions the lag is. Clients and replication between regions go through links, so that a region can be
//! lost; the lab's own hands use the servers' hidden ports, past all faults.

use super::binaries::Binaries;
use super::node::{self, Node, RunAs};
use crate::aws::Databases;
use crate::link::{Link, bind_same_port};
use crate::reaper::Reaper;
use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// Pause between two heartbeats, and so the resolution of the lag.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);

/// A heartbeat that takes longer is given up, with its session.
const HEARTBEAT_MAX: Duration = Duration::from_secs(1);

/// Longest silence of a replication connection, also in connecting: after it a new one is tried.
const REPLICATION_SILENCE_MAX_MS: u64 = 3_000;

/// Longest time for replication to catch up at the start.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// Pause between two looks at a promotion.
const PROMOTION_LOOK_EVERY: Duration = Duration::from_millis(2);

/// A promotion request can be missed right after the loss of the primary; it is sent again after this.
const PROMOTION_RESEND_AFTER: Duration = Duration::from_millis(500);

/// Longest time for a promotion.
const PROMOTION_MAX: Duration = Duration::from_secs(30);

/// Longest time for fencing an old writer; a promotion never waits longer for it.
const FENCE_MAX: Duration = Duration::from_secs(1);

/// How to start.
#[derive(Debug, Clone)]
pub struct TopologyOptions {
    /// Where data and logs go.
    pub dir: PathBuf,
    /// Region of `a1` and `a2`.
    pub primary_region: String,
    /// Region of `b1`.
    pub secondary_region: String,
    /// The application's database.
    pub database: String,
}

/// One server, as AWS would describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name, which is also its id.
    pub id: String,
    /// Whether it is the writer of its region's cluster; in a secondary region that one is read-only.
    pub is_writer: bool,
    /// Availability zone.
    pub zone: String,
}

/// The running servers.
pub struct Topology {
    options: TopologyOptions,
    port: u16,
    nodes: tokio::sync::Mutex<BTreeMap<&'static str, Node>>,
    dsns: BTreeMap<&'static str, String>,
    links: Vec<(Vec<String>, Link)>,
    lost: Mutex<BTreeSet<String>>,
    writer: watch::Sender<&'static str>,
    heartbeat: JoinHandle<()>,
}

impl Drop for Topology {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// Public address per node.
const ADDRESSES: [(&str, Ipv4Addr); 3] =
    [("a1", Ipv4Addr::new(127, 10, 0, 1)), ("a2", Ipv4Addr::new(127, 10, 0, 2)), ("b1", Ipv4Addr::new(127, 20, 0, 1))];

impl Topology {
    /// Starts all servers and waits until replication has caught up.
    ///
    /// # Errors
    /// Which server did not start, with the end of its log.
    pub async fn start(
        binaries: &Binaries,
        reaper: &Reaper,
        options: TopologyOptions,
        progress: impl Fn(&str),
    ) -> Result<Self> {
        let run_as = RunAs::needed()?;
        fs::create_dir_all(&options.dir)?;
        node::own(&options.dir, run_as)?;
        progress(&format!("preparing PostgreSQL {}", binaries.version));
        let template = node::template(binaries, reaper, run_as, &options.database).await?;
        progress("starting the writer, its reader and the other region's replica");
        let region =
            |node: &str| if node.starts_with('a') { &options.primary_region } else { &options.secondary_region };
        let start = async |name: &'static str, more: String| {
            let data = options.dir.join(name);
            node::copy(&template, &data, name != "a1", run_as).await?;
            let settings = format!("lab.region = '{}'\n{more}", region(name));
            let log = options.dir.with_file_name(format!("postgres-{name}.log"));
            Node::start(binaries, reaper, run_as, name, &data, &log, &settings).await
        };
        let follow = |name: &str, port: u16| {
            // `connect_timeout` is not obeyed here; without a limit a connection attempt into a lost region is
            // repeated by the kernel ever more rarely, and goes on long after the region has returned.
            let silence = REPLICATION_SILENCE_MAX_MS;
            format!(
                "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres application_name={name} \
                 tcp_user_timeout={silence}'\n"
            )
        };

        let a1 = start("a1", "synchronous_standby_names = 'FIRST 1 (a2)'\n".into()).await?;
        let target = |node: &Node| SocketAddr::from(([127, 0, 0, 1], node.port()));
        let wal = Link::open("wal a1 to b1", std::net::TcpListener::bind("127.0.0.1:0")?, target(&a1))?;
        let (a2, b1) = tokio::join!(start("a2", follow("a2", a1.port())), start("b1", follow("b1", wal.addr().port())));
        let (a2, b1) = (a2?, b1?);
        for replica in [&a2, &b1] {
            caught_up(&a1, replica, &options.database).await?;
        }

        let ips: Vec<IpAddr> = ADDRESSES.iter().map(|(_, ip)| IpAddr::from(*ip)).collect();
        let listeners = bind_same_port(&ips)?;
        let port = listeners[0].local_addr()?.port();
        let both = vec![options.primary_region.clone(), options.secondary_region.clone()];
        let mut links = vec![(both, wal)];
        for ((name, _), (listener, node)) in ADDRESSES.iter().zip(listeners.into_iter().zip([&a1, &a2, &b1])) {
            links
                .push((vec![region(name).clone()], Link::open(&format!("clients to {name}"), listener, target(node))?));
        }
        let nodes = BTreeMap::from([("a1", a1), ("a2", a2), ("b1", b1)]);
        let dsns: BTreeMap<_, _> = nodes.iter().map(|(name, node)| (*name, node.dsn(&options.database))).collect();
        let writer = watch::Sender::new("a1");
        let heartbeat = tokio::spawn(beat(writer.subscribe(), dsns.clone()));
        Ok(Self { options, port, nodes: nodes.into(), dsns, links, lost: Mutex::default(), writer, heartbeat })
    }

    /// The port of every public address.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Public address of a node.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn address(&self, node: &str) -> SocketAddr {
        let (_, ip) = ADDRESSES.iter().find(|(name, _)| *name == node).expect("a1, a2 or b1");
        SocketAddr::from((*ip, self.port))
    }

    /// How to reach a node past all faults, as superuser.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn direct_dsn(&self, node: &str) -> String {
        self.dsns.get(node).expect("a1, a2 or b1").clone()
    }

    /// Packets from and to the region vanish from now on.
    pub fn lose_region(&self, region: &str) {
        self.lost.lock().expect("no panic while it is held").insert(region.into());
        let touched = self.links.iter().filter(|(regions, _)| regions.iter().any(|of| of == region));
        Link::cut_all(touched.map(|(_, link)| link));
    }

    /// Packets flow again, except to regions that are still lost.
    pub fn heal_region(&self, region: &str) {
        let mut lost = self.lost.lock().expect("no panic while it is held");
        lost.remove(region);
        let whole = self.links.iter().filter(|(regions, _)| !regions.iter().any(|of| lost.contains(of)));
        whole.for_each(|(_, link)| link.heal());
    }

    /// Instances of the cluster in `region`.
    #[must_use]
    pub fn instances(&self, region: &str) -> Vec<Instance> {
        let names: &[&str] = if region == self.options.primary_region {
            &["a1", "a2"]
        } else if region == self.options.secondary_region {
            &["b1"]
        } else {
            &[]
        };
        let zones = ["a", "b"].iter().map(|letter| format!("{region}{letter}"));
        // A region's cluster has a writer instance of its own, which is read-only while the region is secondary.
        let instance =
            |(name, zone): (&&str, String)| Instance { id: (*name).to_owned(), is_writer: *name == names[0], zone };
        names.iter().zip(zones).map(instance).collect()
    }

    /// Ends all servers at once; their data is not needed any more.
    pub async fn stop(&self) {
        self.heartbeat.abort();
        let mut nodes = self.nodes.lock().await;
        futures::future::join_all(nodes.values_mut().map(Node::crash)).await;
    }

    /// Ends all servers and removes what they stored.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn shutdown(self) -> Result<()> {
        self.stop().await;
        let dir = &self.options.dir;
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
    }

    /// Writers of regions that can be reached must take no more writes: RDS-EVENT-0390 says so.
    async fn fence_others(&self, region: &str) {
        for other in [&self.options.primary_region, &self.options.secondary_region] {
            let lost = self.lost.lock().expect("no panic while it is held").contains(other);
            let Some(name) = self.node_of(other).ok().filter(|_| !lost && other != region) else { continue };
            let fenced = async {
                let session = self.session(name).await?;
                session.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await?;
                session.batch_execute("SELECT pg_reload_conf()").await?;
                anyhow::Ok(())
            };
            if !matches!(tokio::time::timeout(FENCE_MAX, fenced).await, Ok(Ok(()))) {
                tracing::warn!(node = name, "the old writer was not fenced");
            }
        }
    }

    fn node_of(&self, region: &str) -> Result<&'static str> {
        if region == self.options.secondary_region {
            Ok("b1")
        } else if region == self.options.primary_region {
            Ok("a1")
        } else {
            bail!("the lab has no databases in {region}")
        }
    }

    async fn session(&self, node: &str) -> Result<Client> {
        node::connect(&self.direct_dsn(node)).await
    }

    /// Gives the session on the new writer.
    async fn promote_node(&self, name: &str) -> Result<Client> {
        let session = self.session(name).await.with_context(|| format!("reaching {name}"))?;
        let mut sent: Option<Instant> = None;
        while session.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0) {
            if sent.is_none_or(|at| at.elapsed() > PROMOTION_RESEND_AFTER) {
                session.execute("SELECT pg_promote(false)", &[]).await?;
                sent = Some(Instant::now());
            }
            tokio::time::sleep(PROMOTION_LOOK_EVERY).await;
        }
        Ok(session)
    }
}

#[async_trait]
impl Databases for Topology {
    async fn promote(&self, region: &str) -> Result<()> {
        let name = self.node_of(region)?;
        let promoted = tokio::time::timeout(PROMOTION_MAX, self.promote_node(name)).await;
        let session = promoted.with_context(|| format!("{name} is not a writer after {PROMOTION_MAX:?}"))??;
        self.writer.send_replace(name);
        self.fence_others(region).await;
        // Later rewinds need a checkpoint on the new timeline; nobody waits for it.
        tokio::spawn(async move { session.batch_execute("CHECKPOINT").await });
        Ok(())
    }

    fn instances(&self, region: &str) -> Vec<(String, bool)> {
        self.instances(region).into_iter().map(|instance| (instance.id, instance.is_writer)).collect()
    }
}

/// Replication is proven by positions, not by a status word.
async fn caught_up(source: &Node, replica: &Node, database: &str) -> Result<()> {
    let (source, replica) = (source.connect(database).await?, replica.connect(database).await?);
    let asked = "SELECT pg_current_wal_lsn()::text, timeline_id FROM pg_control_checkpoint()";
    let row = source.query_one(asked, &[]).await?;
    let (at, timeline): (String, i32) = (row.get(0), row.get(1));
    let began = Instant::now();
    let reached = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false) AND EXISTS
        (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND received_tli = $2)";
    while !replica.query_one(reached, &[&at, &timeline]).await?.get::<_, bool>(0) {
        if began.elapsed() > CATCH_UP_MAX {
            bail!("replication did not catch up within {CATCH_UP_MAX:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Writes the heartbeat on whoever is the writer, and turns to a new one at once, however the old one hangs.
async fn beat(mut writer: watch::Receiver<&'static str>, dsns: BTreeMap<&'static str, String>) {
    loop {
        let now = *writer.borrow_and_update();
        let dsn = dsns.get(now).expect("the writer is one of the nodes");
        tokio::select! {
            changed = writer.changed() => if changed.is_err() { return },
            () = beat_at(dsn) => {}
        }
    }
}

/// Beats until something fails; never returns sooner than after one interval.
async fn beat_at(dsn: &str) {
    let mut ticks = tokio::time::interval(HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let session = node::connect(dsn).await;
    loop {
        ticks.tick().await;
        let Ok(session) = &session else { return };
        // Not waiting for the reader: without one, sessions that hold the row would pile up.
        let written =
            session.batch_execute("SET synchronous_commit = local; UPDATE lab.heartbeat SET at = clock_timestamp()");
        if !matches!(tokio::time::timeout(HEARTBEAT_MAX, written).await, Ok(Ok(()))) {
            return;
        }
    }
}
