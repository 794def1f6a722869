//! The servers and their replication: `a1` and `a2` in the first region, `b1` and `b2` in the second, in two zones each.
//!
//! Each region's cluster has a head: the writer in the primary region; in the other one the replica that follows it
//! across the ocean. The second server follows its head: synchronously behind a writer, as Aurora's storage behaves,
//! so that inside a region nothing acknowledged is lost; between regions the lag is. Clients, vantages and replication
//! between regions go through links, so that a region or a view can be lost; the lab's own hands use the servers'
//! hidden ports, past all faults.

use super::binaries::Binaries;
use super::lag::{LagSample, LagSampler};
use super::node::{self, Launcher, Node, RunAs};
use super::proxy::{self, Gate};
use super::website;
use crate::aws::Databases;
use crate::link::{Link, bind_same_port};
use crate::reaper::Reaper;
use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_postgres::Client;

/// Pause between two heartbeats, and so the resolution of the lag.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);

/// A heartbeat that takes longer is given up, with its session.
const HEARTBEAT_MAX: Duration = Duration::from_secs(1);

/// Longest silence of a replication connection, also in connecting: after it a new one is tried.
const REPLICATION_SILENCE_MAX_MS: u64 = 3_000;

/// Longest time for replication to catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// Pause between two looks at replication.
const CATCH_UP_LOOK_EVERY: Duration = Duration::from_millis(10);

/// Pause between two looks at a promotion.
const PROMOTION_LOOK_EVERY: Duration = Duration::from_millis(2);

/// A promotion request can be missed right after the loss of the primary; it is sent again after this.
const PROMOTION_RESEND_AFTER: Duration = Duration::from_millis(500);

/// Longest time for a promotion.
const PROMOTION_MAX: Duration = Duration::from_secs(30);

/// A follower that can follow by itself does so within this time.
const FOLLOWS_SOON: Duration = Duration::from_secs(2);

/// What the writer has written arrives within this time where replication is in step.
const IN_STEP_WITHIN: Duration = Duration::from_millis(500);

/// Longest time for a server to stop in good order.
const STOP_MAX: Duration = Duration::from_secs(3);

/// Servers, with the zone's letter. The first letter of the name is the region's.
const NODES: [(&str, &str); 4] = [("a1", "a"), ("a2", "b"), ("b1", "a"), ("b2", "b")];

/// How to start.
#[derive(Debug, Clone)]
pub struct TopologyOptions {
    /// Where data and logs go.
    pub dir: PathBuf,
    /// Region of `a1` and `a2`.
    pub primary_region: String,
    /// Region of `b1` and `b2`.
    pub secondary_region: String,
    /// The application's database.
    pub database: String,
    /// Region of each vantage; each has addresses of its own for every server, see [`seen_by`].
    pub vantage_regions: Vec<String>,
}

/// The address of a server as a vantage sees it (1, 2, …), from its public one.
#[must_use]
pub fn seen_by(vantage: usize, address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, _, d] = address.octets();
    Ipv4Addr::new(a, b, u8::try_from(vantage).expect("a few vantages"), d)
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

/// A link, and what cuts it.
struct Path {
    regions: Vec<String>,
    /// The vantage that it belongs to, from 1.
    vantage: usize,
    /// The server that it leads to; for replication the head of the region of this name.
    to: String,
    link: Link,
}

/// What is cut.
#[derive(Default)]
struct Cuts {
    regions: BTreeSet<String>,
    /// Vantages that reach no server in a region.
    views: BTreeSet<(usize, String)>,
    /// Nothing is replicated between the regions.
    replication: bool,
    /// Regions whose website does not answer.
    websites: BTreeSet<String>,
}

/// The running servers.
pub struct Topology {
    options: TopologyOptions,
    port: u16,
    launcher: Launcher,
    nodes: tokio::sync::Mutex<BTreeMap<&'static str, Node>>,
    /// Hidden port of each server.
    ports: Arc<Mutex<BTreeMap<&'static str, u16>>>,
    heads: Mutex<BTreeMap<String, &'static str>>,
    /// Servers that follow and have caught up.
    following: Mutex<BTreeSet<&'static str>>,
    paths: Vec<Path>,
    cuts: Mutex<Cuts>,
    /// Port of each region's head, for its proxy, its website and its lag.
    head_ports: BTreeMap<String, watch::Sender<u16>>,
    /// What holds statements back in each region's proxy.
    gates: BTreeMap<String, Arc<Gate>>,
    /// Proxies and websites.
    _fronts: JoinSet<()>,
    lag: LagSampler,
    /// What makes a server slow, while it does.
    slowed: Mutex<BTreeMap<String, AbortHandle>>,
    promotions: Mutex<Vec<Duration>>,
    /// Servers are made to follow by one hand at a time.
    repair: tokio::sync::Mutex<()>,
    writer: watch::Sender<&'static str>,
    heartbeat: JoinHandle<()>,
}

impl Drop for Topology {
    fn drop(&mut self) {
        self.heartbeat.abort();
        self.slowed.lock().expect("no panic while it is held").values().for_each(AbortHandle::abort);
    }
}

/// What stands in front of a region's servers, each at an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// In the place of RDS Proxy.
    Proxy,
    /// The application's website.
    Website,
}

impl Front {
    /// Last number of its address.
    const fn number(self) -> u8 {
        match self {
            Self::Proxy => 9,
            Self::Website => 8,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Website => "website",
        }
    }
}

/// How long a slowed server is stopped, and then goes on, again and again.
const SLOW_STOPPED: Duration = Duration::from_millis(60);
const SLOW_RUNS: Duration = Duration::from_millis(10);

fn public_ip(node: &str) -> Ipv4Addr {
    let [region, number] = node.as_bytes() else { panic!("{node} is no server") };
    Ipv4Addr::new(127, if *region == b'a' { 10 } else { 20 }, 0, number - b'0')
}

impl Topology {
    /// Starts all servers and waits until replication has caught up.
    ///
    /// # Errors
    /// Which server did not start, with the end of its log.
    pub async fn start(
        binaries: &Binaries,
        reaper: &Arc<Reaper>,
        options: TopologyOptions,
        progress: impl Fn(&str),
    ) -> Result<Self> {
        let run_as = RunAs::needed()?;
        fs::create_dir_all(&options.dir)?;
        node::own(&options.dir, run_as)?;
        progress(&format!("preparing PostgreSQL {}", binaries.version));
        let template = node::template(binaries, reaper, run_as, &options.database).await?;
        progress("starting the writer, its reader and the other region's replicas");
        let dir = options.dir.clone();
        let launcher = Launcher { binaries: binaries.clone(), reaper: Arc::clone(reaper), run_as, dir };

        let mut fronts = JoinSet::new();
        let mut head_ports = BTreeMap::new();
        let mut gates = BTreeMap::new();
        let mut doors = Vec::new();
        for region in [&options.primary_region, &options.secondary_region] {
            let port = watch::Sender::new(0);
            let gate = Arc::<Gate>::default();
            let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            doors.push((region.clone(), Front::Proxy, proxy.local_addr()?));
            fronts.spawn(proxy::serve(proxy, port.subscribe(), Arc::clone(&gate)));
            gates.insert(region.clone(), gate);
            let site = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            doors.push((region.clone(), Front::Website, site.local_addr()?));
            fronts.spawn(website::serve(site, region.clone(), options.database.clone(), port.subscribe()));
            head_ports.insert(region.clone(), port);
        }
        let (port, paths) = links(&options, &doors)?;
        let heads = [(options.primary_region.clone(), "a1"), (options.secondary_region.clone(), "b1")];
        let ports: Arc<Mutex<BTreeMap<&'static str, u16>>> = Arc::default();
        let writer = watch::Sender::new("a1");
        let heartbeat = tokio::spawn(beat(writer.subscribe(), Arc::clone(&ports), options.database.clone()));
        let lag = LagSampler::start(&head_ports, &options.database);
        let topology = Self {
            options,
            port,
            launcher,
            nodes: tokio::sync::Mutex::default(),
            ports,
            heads: Mutex::new(heads.into()),
            following: Mutex::new(["a2", "b1", "b2"].into()),
            paths,
            cuts: Mutex::default(),
            head_ports,
            gates,
            _fronts: fronts,
            lag,
            slowed: Mutex::default(),
            promotions: Mutex::default(),
            repair: tokio::sync::Mutex::default(),
            writer,
            heartbeat,
        };
        let copies = NODES.map(|(name, _)| topology.launcher.copy(&template, name, name != "a1"));
        futures::future::try_join_all(copies).await?;
        topology.launch("a1").await?;
        tokio::try_join!(topology.launch("a2"), topology.launch("b1"))?;
        topology.launch("b2").await?;
        for name in ["a2", "b1", "b2"] {
            topology.caught_up(name).await?;
        }
        Ok(topology)
    }

    /// How long each promotion took in PostgreSQL alone.
    ///
    /// # Panics
    /// Never in practice: nobody panics while holding the list.
    #[must_use]
    pub fn promotions(&self) -> Vec<Duration> {
        self.promotions.lock().expect("no panic while it is held").clone()
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
        SocketAddr::from((public_ip(node), self.port))
    }

    /// Public address of what stands in front of the region's servers.
    #[must_use]
    pub fn front_address(&self, front: Front, region: &str) -> SocketAddr {
        SocketAddr::from((front_ip(&self.options, front, region), self.port))
    }

    /// How far the regions were behind the writer so far.
    #[must_use]
    pub fn lag_samples(&self) -> Vec<LagSample> {
        self.lag.samples()
    }

    /// How to reach a node past all faults, as superuser.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn direct_dsn(&self, node: &str) -> String {
        node::dsn(self.port_of(node), &self.options.database)
    }

    /// The server that is the writer, as far as the lab knows.
    #[must_use]
    pub fn writer(&self) -> &'static str {
        *self.writer.borrow()
    }

    /// The other server of the writer's region.
    #[must_use]
    pub fn reader(&self) -> &'static str {
        self.partner(self.writer())
    }

    /// Packets from and to the region vanish from now on.
    pub fn lose_region(&self, region: &str) {
        self.cut(|cuts| cuts.regions.insert(region.into()));
    }

    /// Packets flow again, except to regions that are still lost.
    pub fn heal_region(&self, region: &str) {
        self.cut(|cuts| cuts.regions.remove(region));
    }

    /// A vantage (1, 2, …) reaches no server of the region from now on; everybody else does.
    pub fn lose_view(&self, vantage: usize, region: &str) {
        self.cut(|cuts| cuts.views.insert((vantage, region.into())));
    }

    /// It does again.
    pub fn heal_view(&self, vantage: usize, region: &str) {
        self.cut(|cuts| cuts.views.remove(&(vantage, region.into())));
    }

    /// The region's website does not answer from now on; the databases do.
    pub fn lose_website(&self, region: &str) {
        self.cut(|cuts| cuts.websites.insert(region.into()));
    }

    /// It does again.
    pub fn heal_website(&self, region: &str) {
        self.cut(|cuts| cuts.websites.remove(region));
    }

    fn cut(&self, change: impl FnOnce(&mut Cuts) -> bool) {
        let mut cuts = self.cuts.lock().expect("no panic while it is held");
        if !change(&mut cuts) {
            return;
        }
        let is_cut = |path: &&Path| {
            let replicates = self.options.primary_region == path.to || self.options.secondary_region == path.to;
            let website = path.to == Front::Website.name() && cuts.websites.contains(&path.regions[0]);
            website
                || (cuts.replication && replicates)
                || path
                    .regions
                    .iter()
                    .any(|region| cuts.regions.contains(region) || cuts.views.contains(&(path.vantage, region.clone())))
        };
        let (cut, whole): (Vec<&Path>, Vec<&Path>) = self.paths.iter().partition(is_cut);
        Link::cut_all(cut.iter().map(|path| &path.link));
        whole.iter().for_each(|path| path.link.heal());
    }

    /// Kills a server, as by the loss of its host.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn crash(&self, node: &str) -> Result<()> {
        self.following.lock().expect("no panic while it is held").remove(node);
        self.nodes.lock().await.get_mut(node).with_context(|| format!("{node} is no server"))?.kill().await;
        // Aurora's storage does not wait for a reader that is gone.
        let writer = self.writer();
        if node == self.partner(writer) { self.configure(writer).await } else { Ok(()) }
    }

    /// Brings a server that has ended back, or every one: as what it has to be now.
    ///
    /// # Errors
    /// When its region is lost, or it does not start or catch up.
    pub async fn revive(&self, which: Option<&str>) -> Result<()> {
        let _alone = self.repair.lock().await;
        let named = NODES.iter().map(|(name, _)| *name).filter(|name| which.is_none_or(|which| which == *name));
        // The writer first: the others follow it, and a region's second server follows its first.
        let mut named: Vec<&'static str> = named.collect();
        named.sort_by_key(|name| (*name != self.writer(), self.head(self.region_of(name)).ok() != Some(*name)));
        for node in named {
            if self.is_running(node).await {
                continue;
            }
            ensure!(!self.is_lost(self.region_of(node)), "{node} is in a region that is lost; heal that first");
            if node == self.writer() { self.launch(node).await? } else { self.rebuild(node).await? }
        }
        self.configure(self.writer()).await
    }

    /// Does the server run?
    pub async fn is_running(&self, node: &str) -> bool {
        self.nodes.lock().await.get_mut(node).is_some_and(Node::is_alive)
    }

    /// Has the other region's cluster replayed all that the writer had written a moment ago?
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn is_in_step(&self) -> Result<bool> {
        let writer = self.writer();
        let other = NODES.iter().map(|(name, _)| *name).find(|name| name[..1] != writer[..1]).expect("two regions");
        let replica = self.session(self.head(self.region_of(other))?).await?;
        let written: String =
            self.session(writer).await?.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
        let replayed = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)";
        let until = Instant::now() + IN_STEP_WITHIN;
        while !replica.query_one(replayed, &[&written]).await?.get::<_, bool>(0) {
            if Instant::now() > until {
                return Ok(false);
            }
            tokio::time::sleep(CATCH_UP_LOOK_EVERY).await;
        }
        Ok(true)
    }

    /// Nothing is replicated between the regions from now on; everything else goes on.
    pub fn cut_replication(&self) {
        self.cut(|cuts| !std::mem::replace(&mut cuts.replication, true));
    }

    /// It is again.
    pub fn heal_replication(&self) {
        self.cut(|cuts| std::mem::replace(&mut cuts.replication, false));
    }

    /// Stops all processes of a server: it accepts connections and says nothing.
    ///
    /// # Errors
    /// When there is no such server.
    pub async fn hang(&self, node: &str) -> Result<()> {
        self.nodes.lock().await.get(node).with_context(|| format!("{node} is no server"))?.hang();
        Ok(())
    }

    /// A server does nothing most of the time from now on, as by overload: slow, but alive.
    ///
    /// # Errors
    /// When there is no such server.
    pub async fn slow(self: &Arc<Self>, node: &str) -> Result<()> {
        self.unhang(node).await?;
        let (topology, name) = (Arc::downgrade(self), node.to_owned());
        let slowing = tokio::spawn(async move {
            loop {
                let Some(topology) = topology.upgrade() else { return };
                let _it_may_have_ended = topology.hang(&name).await;
                tokio::time::sleep(SLOW_STOPPED).await;
                let _it_may_have_ended = topology.unhang(&name).await;
                drop(topology);
                tokio::time::sleep(SLOW_RUNS).await;
            }
        });
        let mut slowed = self.slowed.lock().expect("no panic while it is held");
        if let Some(earlier) = slowed.insert(node.into(), slowing.abort_handle()) {
            earlier.abort();
        }
        Ok(())
    }

    /// It is as fast as ever again.
    ///
    /// # Errors
    /// When there is no such server.
    pub async fn unslow(&self, node: &str) -> Result<()> {
        if let Some(slowing) = self.slowed.lock().expect("no panic while it is held").remove(node) {
            slowing.abort();
        }
        self.unhang(node).await
    }

    /// They go on.
    ///
    /// # Errors
    /// When there is no such server.
    pub async fn unhang(&self, node: &str) -> Result<()> {
        self.nodes.lock().await.get(node).with_context(|| format!("{node} is no server"))?.unhang();
        Ok(())
    }

    /// Instances of the cluster in `region`, its head first.
    #[must_use]
    pub fn instances(&self, region: &str) -> Vec<Instance> {
        let head = self.head(region).ok();
        let here = NODES.iter().filter(|(name, _)| self.region_of(name) == region);
        let instance = |(name, zone): &(&'static str, &str)| Instance {
            id: (*name).to_owned(),
            is_writer: Some(*name) == head,
            zone: format!("{region}{zone}"),
        };
        let mut instances: Vec<Instance> = here.map(instance).collect();
        instances.sort_by_key(|instance| !instance.is_writer);
        instances
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

    // ---- who is what -----------------------------------------------------------------------------------------

    fn region_of(&self, node: &str) -> &str {
        if node.starts_with('a') { &self.options.primary_region } else { &self.options.secondary_region }
    }

    fn head(&self, region: &str) -> Result<&'static str> {
        let heads = self.heads.lock().expect("no panic while it is held");
        heads.get(region).copied().with_context(|| format!("the lab has no databases in {region}"))
    }

    /// The other server of the same region.
    fn partner(&self, node: &str) -> &'static str {
        let partner = NODES.iter().find(|(name, _)| name[..1] == node[..1] && *name != node);
        partner.expect("two servers per region").0
    }

    fn port_of(&self, node: &str) -> u16 {
        *self.ports.lock().expect("no panic while it is held").get(node).expect("a server that was started")
    }

    /// The settings that make a server what it is now.
    fn settings(&self, node: &str) -> Result<String> {
        let region = self.region_of(node);
        let (head, writer) = (self.head(region)?, self.writer());
        let upstream = if node == writer {
            None
        } else if node == head {
            let to = self.region_of(writer);
            let path = self.paths.iter().find(|path| path.to == to && path.regions[0] == region);
            Some(path.context("a link between the regions")?.link.addr().port())
        } else {
            Some(self.port_of(head))
        };
        let partner = self.partner(node);
        let follows = self.following.lock().expect("no panic while it is held").contains(partner);
        let reader = Some(partner).filter(|_| node == writer && follows);
        // `connect_timeout` is not obeyed here; without a limit a connection attempt into a lost region is repeated
        // by the kernel ever more rarely, and goes on long after the region has returned.
        let follow = upstream.map(|port| {
            format!(
                "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres application_name={node} \
                 tcp_user_timeout={REPLICATION_SILENCE_MAX_MS}'\n"
            )
        });
        let synchronous = reader.map(|reader| format!("synchronous_standby_names = 'FIRST 1 ({reader})'\n"));
        Ok(format!("lab.region = '{region}'\n{}{}", follow.unwrap_or_default(), synchronous.unwrap_or_default()))
    }

    // ---- acts ------------------------------------------------------------------------------------------------

    /// Starts a server from the data that is there, and points the links at it.
    async fn launch(&self, node: &'static str) -> Result<()> {
        let started = self.launcher.start(node, &self.settings(node)?).await?;
        self.ports.lock().expect("no panic while it is held").insert(node, started.port());
        self.nodes.lock().await.insert(node, started);
        self.point_links();
        Ok(())
    }

    /// Every link leads to where its server, or its region's head, is now.
    fn point_links(&self) {
        let ports = self.ports.lock().expect("no panic while it is held").clone();
        for path in &self.paths {
            let head = self.head(&path.to).ok();
            if let Some(port) = ports.get(head.unwrap_or(&path.to)) {
                path.link.retarget(SocketAddr::from(([127, 0, 0, 1], *port)));
            }
        }
        for (region, sender) in &self.head_ports {
            let port = self.head(region).ok().and_then(|head| ports.get(head).copied());
            sender.send_if_modified(|now| port.is_some_and(|port| std::mem::replace(now, port) != port));
        }
    }

    /// Tells a running server what it is now.
    async fn configure(&self, node: &str) -> Result<()> {
        let settings = self.settings(node)?;
        self.nodes.lock().await.get(node).with_context(|| format!("{node} is no server"))?.configure(&settings)
    }

    async fn session(&self, node: &str) -> Result<Client> {
        node::connect(&self.direct_dsn(node)).await
    }

    /// Gives the session on the new writer.
    async fn promote_node(&self, name: &str) -> Result<Client> {
        let promoted = async {
            let session = self.session(name).await.with_context(|| format!("reaching {name}"))?;
            let mut sent: Option<Instant> = None;
            while session.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0) {
                if sent.is_none_or(|at| at.elapsed() > PROMOTION_RESEND_AFTER) {
                    session.execute("SELECT pg_promote(false)", &[]).await?;
                    sent = Some(Instant::now());
                }
                tokio::time::sleep(PROMOTION_LOOK_EVERY).await;
            }
            anyhow::Ok(session)
        };
        let promoted = tokio::time::timeout(PROMOTION_MAX, promoted).await;
        promoted.with_context(|| format!("{name} is not a writer after {PROMOTION_MAX:?}"))?
    }

    /// The head of `region` becomes the writer.
    async fn make_writer(&self, region: &str) -> Result<()> {
        let head = self.head(region)?;
        let began = Instant::now();
        let session = self.promote_node(head).await?;
        self.promotions.lock().expect("no panic while it is held").push(began.elapsed());
        self.following.lock().expect("no panic while it is held").clear();
        self.writer.send_replace(head);
        self.configure(head).await?;
        // Rewinding needs a checkpoint on the new timeline; nobody waits for it.
        tokio::spawn(async move { session.batch_execute("CHECKPOINT").await });
        Ok(())
    }

    /// Makes a server that has ended, or shall end, a follower of whom it has to follow.
    async fn rebuild(&self, node: &'static str) -> Result<()> {
        if let Some(running) = self.nodes.lock().await.get_mut(node) {
            running.kill().await;
        }
        let writer = self.writer();
        self.session(writer).await?.batch_execute("CHECKPOINT").await?;
        self.launcher.rewind(node, self.port_of(writer)).await?;
        self.launch(node).await?;
        self.caught_up(node).await
    }

    /// Replication is proven by positions, not by a status word.
    async fn caught_up(&self, node: &'static str) -> Result<()> {
        let (source, replica) = (self.session(self.writer()).await?, self.session(node).await?);
        let asked = "SELECT pg_current_wal_lsn()::text, timeline_id FROM pg_control_checkpoint()";
        let row = source.query_one(asked, &[]).await?;
        let (at, timeline): (String, i32) = (row.get(0), row.get(1));
        let began = Instant::now();
        let reached = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false) AND EXISTS
            (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND received_tli >= $2)";
        while !replica.query_one(reached, &[&at, &timeline]).await?.get::<_, bool>(0) {
            ensure!(began.elapsed() < CATCH_UP_MAX, "{node} did not catch up within {CATCH_UP_MAX:?}");
            tokio::time::sleep(CATCH_UP_LOOK_EVERY).await;
        }
        self.following.lock().expect("no panic while it is held").insert(node);
        Ok(())
    }

    /// Does it follow the writer's timeline by itself?
    async fn follows_soon(&self, node: &'static str) -> bool {
        let follows = async {
            let in_recovery = self.session(node).await?.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0);
            if in_recovery { self.caught_up(node).await.map(|()| true) } else { Ok(false) }
        };
        matches!(tokio::time::timeout(FOLLOWS_SOON, follows).await, Ok(Ok(true)))
    }

    /// Ends a server, in good order if it can; whether it could.
    async fn end(&self, node: &str) -> Result<bool> {
        let mut nodes = self.nodes.lock().await;
        let node = nodes.get_mut(node).with_context(|| format!("{node} is no server"))?;
        if !node.is_alive() {
            return Ok(false);
        }
        let stopped = tokio::time::timeout(STOP_MAX, node.stop(&self.launcher.reaper)).await;
        let in_order = matches!(stopped, Ok(Ok(())));
        if !in_order {
            node.kill().await;
        }
        Ok(in_order)
    }

    fn is_lost(&self, region: &str) -> bool {
        self.cuts.lock().expect("no panic while it is held").regions.contains(region)
    }
}

/// Public addresses and replication between the regions; none leads anywhere yet but those of the fronts.
fn links(options: &TopologyOptions, fronts: &[(String, Front, SocketAddr)]) -> Result<(u16, Vec<Path>)> {
    let region = |node: &str| if node.starts_with('a') { &options.primary_region } else { &options.secondary_region };
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut doors = Vec::new();
    for vantage in 0..=options.vantage_regions.len() {
        for (node, _) in NODES {
            doors.push((vantage, region(node), node, public_ip(node), nowhere));
        }
        for (region, front, target) in fronts {
            doors.push((vantage, region, front.name(), front_ip(options, *front, region), *target));
        }
    }
    let ips: Vec<IpAddr> = doors.iter().map(|(vantage, .., ip, _)| seen_by(*vantage, *ip).into()).collect();
    let listeners = bind_same_port(&ips)?;
    let port = listeners[0].local_addr()?.port();
    let mut paths = Vec::new();
    for ((vantage, region, to, _, target), listener) in doors.into_iter().zip(listeners) {
        let link = Link::open(&format!("{vantage} to {to} in {region}"), listener, target)?;
        let own = vantage.checked_sub(1).map(|index| options.vantage_regions[index].clone());
        let regions = [Some(region.clone()), own].into_iter().flatten().collect();
        paths.push(Path { regions, vantage, to: to.into(), link });
    }
    let (a, b) = (&options.primary_region, &options.secondary_region);
    for (from, to) in [(a, b), (b, a)] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let link = Link::open(&format!("WAL from {to} to {from}"), listener, nowhere)?;
        paths.push(Path { regions: vec![from.clone(), to.clone()], vantage: 0, to: to.clone(), link });
    }
    Ok((port, paths))
}

fn front_ip(options: &TopologyOptions, front: Front, region: &str) -> Ipv4Addr {
    Ipv4Addr::new(127, if region == options.primary_region { 10 } else { 20 }, 0, front.number())
}

#[async_trait]
impl Databases for Topology {
    async fn promote(&self, region: &str) -> Result<()> {
        let old = self.writer();
        self.make_writer(region).await?;
        // A region that can be reached takes no more writes from here on; one that cannot goes on by itself.
        if !self.is_lost(self.region_of(old)) {
            self.crash(old).await?;
        }
        Ok(())
    }

    async fn in_step(&self, region: &str) -> Result<bool> {
        ensure!(self.region_of(self.writer()) != region, "{region} has the writer");
        self.is_in_step().await
    }

    async fn switch_over(&self, region: &str) -> Result<()> {
        let (old, new) = (self.writer(), self.head(region)?);
        ensure!(!self.is_lost(region) && !self.is_lost(self.region_of(old)), "a region cannot be reached");
        let streaming = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1)";
        let streams: bool = self.session(old).await?.query_one(streaming, &[&new]).await?.get(0);
        ensure!(streams, "{new} does not replicate from {old}");
        // A server that stops in good order first sends all that it wrote to those who follow.
        let stopped = self.end(old).await?;
        ensure!(stopped, "{old} did not stop in good order");
        self.make_writer(region).await
    }

    async fn fail_over_in_region(&self, region: &str, to: Option<&str>) -> Result<String> {
        let old = self.head(region)?;
        let new = self.partner(old);
        ensure!(to.is_none_or(|to| to == new), "{} is no other instance of this cluster", to.unwrap_or_default());
        ensure!(old == self.writer(), "in the lab only the primary region's cluster fails over inside its region");
        ensure!(self.nodes.lock().await.get_mut(new).is_some_and(Node::is_alive), "{new} is not available");
        let gate = self.gates.get(region).context("a region with a proxy")?;
        // Whose writer is lost has nothing to end.
        if self.nodes.lock().await.get_mut(old).is_some_and(Node::is_alive) {
            gate.hold().await;
        }
        let moved = async {
            self.end(old).await?;
            self.heads.lock().expect("no panic while it is held").insert(region.into(), new);
            self.point_links();
            self.make_writer(region).await
        };
        let moved = moved.await;
        gate.release();
        moved.map(|()| new.into())
    }

    async fn settle(&self) -> Result<()> {
        let _alone = self.repair.lock().await;
        let writer = self.writer();
        let other = NODES.iter().map(|(name, _)| *name).find(|name| name[..1] != writer[..1]).expect("two regions");
        let other = self.head(self.region_of(other))?;
        for node in [self.partner(writer), other, self.partner(other)] {
            if node != self.partner(writer) && self.is_lost(self.region_of(node)) {
                continue;
            }
            let follows = {
                let alive = self.nodes.lock().await.get_mut(node).is_some_and(Node::is_alive);
                alive && self.configure(node).await.is_ok() && self.follows_soon(node).await
            };
            if !follows {
                self.rebuild(node).await?;
            }
        }
        self.configure(writer).await
    }

    async fn lost_writer(&self) -> Option<String> {
        let writer = self.writer();
        let dead = self.nodes.lock().await.get_mut(writer).is_some_and(|node| !node.is_alive());
        dead.then(|| self.region_of(writer).to_owned())
    }

    fn instances(&self, region: &str) -> Vec<(String, bool)> {
        self.instances(region).into_iter().map(|instance| (instance.id, instance.is_writer)).collect()
    }

    fn addresses(&self, region: &str) -> Vec<Ipv4Addr> {
        self.instances(region).iter().map(|instance| public_ip(&instance.id)).collect()
    }

    fn lag(&self, region: &str) -> Vec<(SystemTime, u64)> {
        let samples = self.lag_samples().into_iter().filter(|sample| sample.region == region);
        samples.map(|sample| (sample.at, sample.ms)).collect()
    }
}

/// Writes the heartbeat on whoever is the writer, and turns to a new one at once, however the old one hangs.
async fn beat(
    mut writer: watch::Receiver<&'static str>,
    ports: Arc<Mutex<BTreeMap<&'static str, u16>>>,
    database: String,
) {
    loop {
        let now = *writer.borrow_and_update();
        let port = ports.lock().expect("no panic while it is held").get(now).copied();
        let dsn = port.map(|port| node::dsn(port, &database));
        tokio::select! {
            changed = writer.changed() => if changed.is_err() { return },
            () = beat_at(dsn.as_deref()) => {}
        }
    }
}

/// Beats until something fails; never returns sooner than after one interval.
async fn beat_at(dsn: Option<&str>) {
    let mut ticks = tokio::time::interval(HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let session = match dsn {
        Some(dsn) => node::connect(dsn).await.ok(),
        None => None,
    };
    loop {
        ticks.tick().await;
        let Some(session) = &session else { return };
        // Not waiting for the reader: without one, sessions that hold the row would pile up.
        let written =
            session.batch_execute("SET synchronous_commit = local; UPDATE lab.heartbeat SET at = clock_timestamp()");
        if !matches!(tokio::time::timeout(HEARTBEAT_MAX, written).await, Ok(Ok(()))) {
            return;
        }
    }
}
