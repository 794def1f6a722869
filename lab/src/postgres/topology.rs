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
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// Pause between two heartbeats, and so the resolution of the lag.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);

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

/// The running servers.
pub struct Topology {
    options: TopologyOptions,
    port: u16,
    nodes: tokio::sync::Mutex<BTreeMap<&'static str, Node>>,
    dsns: BTreeMap<&'static str, String>,
    links: Vec<(Vec<String>, Link)>,
    lost: Mutex<BTreeSet<String>>,
    writer: Arc<Mutex<String>>,
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
            format!("primary_conninfo = 'host=127.0.0.1 port={port} user=postgres application_name={name}'\n")
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
        let writer = Arc::new(Mutex::new("a1".to_owned()));
        let heartbeat = tokio::spawn(beat(Arc::clone(&writer), dsns.clone()));
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
        self.links_of(region).for_each(Link::cut);
    }

    /// Packets flow again.
    pub fn heal_region(&self, region: &str) {
        self.lost.lock().expect("no panic while it is held").remove(region);
        self.links_of(region).for_each(Link::heal);
    }

    fn links_of(&self, region: &str) -> impl Iterator<Item = &Link> {
        let touches = move |regions: &[String]| regions.iter().any(|r| r == region);
        self.links.iter().filter(move |(regions, _)| touches(regions)).map(|(_, link)| link)
    }

    /// Ends all servers at once; their data is not needed any more.
    pub async fn stop(&self) {
        self.heartbeat.abort();
        let mut nodes = self.nodes.lock().await;
        futures::future::join_all(nodes.values_mut().map(Node::crash)).await;
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
        let (client, connection) = tokio_postgres::connect(&self.direct_dsn(node), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

#[async_trait]
impl Databases for Topology {
    async fn promote(&self, region: &str) -> Result<()> {
        let name = self.node_of(region)?;
        let session = self.session(name).await.with_context(|| format!("reaching {name}"))?;
        let began = Instant::now();
        let mut sent: Option<Instant> = None;
        loop {
            let replica: bool = session.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0);
            if !replica {
                break;
            }
            if began.elapsed() > PROMOTION_MAX {
                bail!("{name} is still a replica {PROMOTION_MAX:?} after it was promoted");
            }
            if sent.is_none_or(|at| at.elapsed() > PROMOTION_RESEND_AFTER) {
                session.execute("SELECT pg_promote(false)", &[]).await?;
                sent = Some(Instant::now());
            }
            tokio::time::sleep(PROMOTION_LOOK_EVERY).await;
        }
        *self.writer.lock().expect("no panic while it is held") = name.into();
        self.fence_others(region).await;
        // Later rewinds need a checkpoint on the new timeline; nobody waits for it.
        tokio::spawn(async move { session.batch_execute("CHECKPOINT").await });
        Ok(())
    }

    fn instances(&self, region: &str) -> Vec<(String, bool)> {
        let writer = self.writer.lock().expect("no panic while it is held").clone();
        let names: &[&str] = if region == self.options.primary_region { &["a1", "a2"] } else { &["b1"] };
        // A region's cluster has a writer instance of its own, which is read-only while the region is secondary.
        names.iter().map(|name| ((*name).to_owned(), **name == writer || *name == names[0])).collect()
    }
}

/// Replication is proven by positions, not by a status word.
async fn caught_up(source: &Node, replica: &Node, database: &str) -> Result<()> {
    let (source, replica) = (source.connect(database).await?, replica.connect(database).await?);
    let at: String = source.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
    let began = Instant::now();
    let reached = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)
        AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')";
    while !replica.query_one(reached, &[&at]).await?.get::<_, bool>(0) {
        if began.elapsed() > CATCH_UP_MAX {
            bail!("replication did not catch up within {CATCH_UP_MAX:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Writes the heartbeat on whoever is the writer; a lost connection is opened again.
async fn beat(writer: Arc<Mutex<String>>, dsns: BTreeMap<&'static str, String>) {
    let mut session: Option<(String, Client)> = None;
    let mut ticks = tokio::time::interval(HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = writer.lock().expect("no panic while it is held").clone();
        if session.as_ref().is_none_or(|(to, _)| *to != now) {
            let Some(dsn) = dsns.get(now.as_str()) else { continue };
            let Ok((client, connection)) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await else { continue };
            tokio::spawn(connection);
            session = Some((now, client));
        }
        if let Some((_, client)) = &session {
            let written = client.execute("UPDATE lab.heartbeat SET at = clock_timestamp()", &[]);
            if tokio::time::timeout(HEARTBEAT_EVERY * 10, written).await.is_ok_and(|r| r.is_ok()) {
                continue;
            }
            session = None;
        }
    }
}
