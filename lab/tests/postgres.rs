//! Real PostgreSQL in two regions: loss of a region, promotion, and that nothing stays behind.
//!
//! Prints what it measured; see it with `--nocapture`. The reaper is by design the same program again, so this one
//! runs itself as the reaper, and as the lab that is killed: see `role`.

use anyhow::{Context as _, Result, bail, ensure};
use aurora_failover_lab::aws::Databases as _;
use aurora_failover_lab::link::{DropMethod, drop_method};
use aurora_failover_lab::postgres::{Binaries, Topology, TopologyOptions, seen_by};
use aurora_failover_lab::reaper::{self, LabDir, Reaper};
use std::fs;
use std::io::BufRead as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

const PRIMARY: &str = "us-east-1";
const SECONDARY: &str = "us-west-2";

/// What the test harness of this program must be told to become the reaper. The last word is a name of no test.
const AS_REAPER: [&str; 4] = ["role", "--exact", "--nocapture", "as-reaper"];

/// The same for the lab that is killed.
const AS_LAB: [&str; 4] = ["role", "--exact", "--nocapture", "as-lab"];

/// Bound of every wait for something that must happen.
const SOON: Duration = Duration::from_secs(20);

/// How long something is watched that must not happen.
const HANGS: Duration = Duration::from_millis(500);

/// What the loss of a region may cost: replication to the other one is asynchronous, and machines can be busy.
const LOST_MAX: Duration = Duration::from_secs(2);

struct Lab {
    dir: PathBuf,
    topology: Topology,
    reaper: Arc<Reaper>,
}

impl Lab {
    async fn start() -> Result<Self> {
        let binaries = Binaries::find()?;
        let dir = LabDir::create()?;
        let reaper = Arc::new(Reaper::start(&std::env::current_exe()?, &AS_REAPER, &dir)?);
        let options = TopologyOptions {
            dir: dir.path().join("postgres"),
            primary_region: PRIMARY.into(),
            secondary_region: SECONDARY.into(),
            database: "orders".into(),
            vantage_regions: vec!["eu-west-1".into(); 2],
        };
        let topology = Topology::start(&binaries, &reaper, options, |_| {}).await?;
        let table = "CREATE TABLE written (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp()); \
                     ALTER TABLE written OWNER TO app";
        connect(&topology.direct_dsn("a1")).await?.batch_execute(table).await?;
        // Not synchronous: a loss that came first would keep the table from the other region.
        let replica = connect(&topology.direct_dsn("b1")).await?;
        let there = "SELECT count(*) FROM pg_class WHERE relname = 'written' AND relowner = 'app'::regrole";
        until("the table is in the other region", async || Ok(number(&replica, there).await? == 1)).await?;
        Ok(Self { dir: dir.path().into(), topology, reaper })
    }

    /// Ends it, and sees that nothing is left.
    async fn end(self) -> Result<()> {
        self.topology.shutdown().await?;
        ensure!(servers_in(&self.dir).is_empty(), "servers run after a shutdown");
        drop(self.reaper);
        ensure!(!self.dir.exists(), "the directory is left");
        Ok(())
    }
}

/// Not a test: what this program is when it runs itself.
#[test]
fn role() {
    match std::env::args().next_back().as_deref() {
        Some("as-reaper") => {
            let _done = reaper::main();
        }
        Some("as-lab") => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let lab = Lab::start().await.unwrap();
                println!("lab in {}", lab.dir.display());
                std::future::pending::<()>().await;
            });
        }
        _ => {}
    }
}

async fn connect(dsn: &str) -> Result<Client> {
    let (client, connection) = timeout(SOON, tokio_postgres::connect(dsn, NoTls)).await??;
    tokio::spawn(connection);
    Ok(client)
}

fn public_dsn(address: SocketAddr) -> String {
    format!("host={} port={} user=app dbname=orders connect_timeout=1", address.ip(), address.port())
}

async fn number(client: &Client, query: &str) -> Result<i64> {
    Ok(client.query_one(query, &[]).await?.get(0))
}

/// Process ids of servers that work in `dir`, from the process table, not from what the lab remembers.
fn servers_in(dir: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))).collect()
}

/// Waits for a condition.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    while !holds().await.with_context(|| what.to_owned())? {
        if began.elapsed() > SOON {
            bail!("{what}: not within {SOON:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(began.elapsed())
}

/// Writes rows until it fails or is aborted; `acknowledged` is the newest that was committed.
async fn write_rows(client: Client, first: i64, step: i64, acknowledged: Arc<AtomicI64>) {
    for id in (first..).step_by(usize::try_from(step).expect("a small number")) {
        if client.execute("INSERT INTO written VALUES ($1)", &[&id]).await.is_err() {
            return;
        }
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

async fn rpo_lag_ms(client: &Client) -> Result<i64> {
    number(client, "SELECT rpo_lag_in_msec FROM aurora_global_db_status()").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_lost_the_other_one_is_promoted_and_another_lab_does_not_notice() -> Result<()> {
    // Once, so that the template is there.
    Lab::start().await?.end().await?;
    let began = Instant::now();
    let lab = Lab::start().await?;
    println!("start of four servers with a warm template: {:?}", began.elapsed());
    let other = Lab::start().await?;
    let topology = &lab.topology;
    println!("PostgreSQL {}, packets vanish by: {}", Binaries::find()?.version, drop_method());
    let ids = |region: &str| topology.instances(region).into_iter().map(|i| (i.id, i.is_writer, i.zone)).collect();
    let expected = [("a1", true, "us-east-1a"), ("a2", false, "us-east-1b")];
    let seen: Vec<(String, bool, String)> = ids(PRIMARY);
    assert!(seen.iter().map(|(id, writer, zone)| (id.as_str(), *writer, zone.as_str())).eq(expected));

    // Before: writes through the public name, a synchronous reader, a small lag in the other region.
    let a1 = connect(&public_dsn(topology.address("a1"))).await?;
    let a2 = connect(&public_dsn(topology.address("a2"))).await?;
    let b1 = connect(&public_dsn(topology.address("b1"))).await?;
    let direct = connect(&topology.direct_dsn("a1")).await?;
    let states = "SELECT application_name || ' ' || sync_state FROM pg_stat_replication ORDER BY 1";
    let states: Vec<String> = direct.query(states, &[]).await?.iter().map(|row| row.get(0)).collect();
    assert_eq!(states, ["a2 sync", "b1 async"]);
    assert_eq!(rpo_lag_ms(&a1).await?, -1);
    assert!(a2.execute("INSERT INTO written VALUES (-1)", &[]).await.is_err(), "a reader takes no writes");
    let settled = until("a small lag", async || Ok((0..1_000).contains(&rpo_lag_ms(&b1).await?))).await?;
    println!("lag of the other region {} ms (seen after {settled:?})", rpo_lag_ms(&b1).await?);

    // The loss, under load.
    let acknowledged = Arc::new(AtomicI64::new(0));
    let mut writers = Vec::new();
    for first in [1, 2] {
        let client = connect(&public_dsn(topology.address("a1"))).await?;
        writers.push(tokio::spawn(write_rows(client, first, 2, Arc::clone(&acknowledged))));
    }
    let b1_direct = connect(&topology.direct_dsn("b1")).await?;
    let received = "SELECT count(*) FROM written";
    until("some writes, also in the other region", async || {
        Ok(acknowledged.load(Ordering::SeqCst) > 200 && number(&b1_direct, received).await? > 0)
    })
    .await?;
    let began = Instant::now();
    topology.lose_region(PRIMARY);
    println!("the cut of all links took {:?}", began.elapsed());
    // One acknowledgement per writer may have been in this program's own kernel.
    tokio::time::sleep(HANGS).await;
    let committed = acknowledged.load(Ordering::SeqCst);
    assert!(writers.iter().all(|writer| !writer.is_finished()), "old connections hang, they are not reset");
    assert!(timeout(HANGS, a1.query("SELECT 1", &[])).await.is_err(), "an old session hangs");
    assert!(timeout(HANGS, TcpStream::connect(topology.address("a1"))).await.is_err(), "nothing answers");
    assert!(timeout(HANGS, TcpStream::connect(topology.address("a2"))).await.is_err(), "nothing answers");
    let before = number(&b1_direct, received).await?;
    direct.execute("INSERT INTO written VALUES (-2)", &[]).await?;
    let lag_ms = rpo_lag_ms(&b1).await?;
    until("a growing lag", async || Ok(rpo_lag_ms(&b1).await? >= lag_ms + 500)).await?;
    assert_eq!(number(&b1_direct, received).await?, before, "nothing more arrives");

    // Promotion.
    let began = Instant::now();
    topology.promote(SECONDARY).await?;
    println!("promotion to writable: {:?}", began.elapsed());
    b1.execute("INSERT INTO written VALUES (-3)", &[]).await?;
    let kept = number(&b1, "SELECT count(*) FROM written WHERE id > 0").await?;
    let newest_us = "SELECT (extract(epoch FROM max(at)) * 1000000)::bigint FROM written WHERE id > 0";
    let lost_us = number(&direct, newest_us).await? - number(&b1_direct, newest_us).await?;
    println!("{committed} rows acknowledged, {kept} kept; the newest {} ms are lost", lost_us / 1_000);
    assert!(u128::try_from(lost_us)? <= LOST_MAX.as_micros(), "{committed} acknowledged, {kept} kept");
    assert!(kept - committed <= 2, "at most the one under way per writer was never acknowledged");
    assert_eq!(rpo_lag_ms(&b1).await?, -1);
    let age = "SELECT (extract(epoch FROM clock_timestamp() - at) * 1000)::bigint FROM lab.heartbeat";
    let went_on = until("heartbeats", async || Ok(number(&b1_direct, age).await? < 1_000)).await?;
    println!("heartbeat at the new writer after {went_on:?}");

    // The other lab goes on; the region returns.
    let other_a1 = connect(&public_dsn(other.topology.address("a1"))).await?;
    other_a1.execute("INSERT INTO written VALUES (1)", &[]).await?;
    let began = Instant::now();
    topology.heal_region(PRIMARY);
    let again = connect(&public_dsn(topology.address("a1"))).await?;
    println!("a healed region takes connections after {:?}", began.elapsed());
    assert_eq!(number(&again, "SELECT count(*) FROM written WHERE id IN (-2, -3)").await?, 1, "its own history");
    for writer in writers {
        timeout(SOON, writer).await.context("connections that were cut end")??;
    }
    lab.end().await?;
    other_a1.execute("INSERT INTO written VALUES (2)", &[]).await?;
    drop(other_a1);
    other.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_goes_on_after_a_loss_that_nobody_acted_upon() -> Result<()> {
    let lab = Lab::start().await?;
    let topology = &lab.topology;
    topology.lose_region(SECONDARY);
    topology.lose_region(PRIMARY);
    let direct = connect(&topology.direct_dsn("a1")).await?;
    let replica = connect(&topology.direct_dsn("b1")).await?;
    direct.execute("INSERT INTO written VALUES (1)", &[]).await?;
    // Long enough for the replica to notice and to try in vain.
    until("the loss is noticed", async || {
        Ok(number(&replica, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'").await? == 0)
    })
    .await?;
    topology.heal_region(PRIMARY);
    assert!(timeout(HANGS, TcpStream::connect(topology.address("b1"))).await.is_err(), "one is still lost");
    timeout(SOON, TcpStream::connect(topology.address("a1"))).await??;
    assert_eq!(number(&replica, "SELECT count(*) FROM written").await?, 0, "and so is its replication");
    topology.heal_region(SECONDARY);
    let caught_up =
        until("the replica catches up", async || Ok(number(&replica, "SELECT count(*) FROM written").await? == 1))
            .await?;
    println!("replication caught up {caught_up:?} after the region returned");
    lab.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_writer_does_not_hold_up_the_heartbeat_of_its_successor() -> Result<()> {
    let lab = Lab::start().await?;
    let topology = &lab.topology;
    let direct = connect(&topology.direct_dsn("a1")).await?;
    let pids = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
    let backends: String = direct.query_one(pids, &[]).await?.get(0);
    let postmaster = fs::read_to_string(lab.dir.join("postgres/a1/postmaster.pid"))?;
    let postmaster = postmaster.lines().next().context("a process id")?;
    // New sessions are accepted by the kernel, and nothing answers.
    for pid in [postmaster].into_iter().chain(backends.split(' ')) {
        // A backend may have ended by itself since.
        let _stopped = Command::new("kill").args(["-STOP", pid]).stderr(Stdio::null()).status()?;
    }
    assert!(timeout(HANGS, connect(&topology.direct_dsn("a1"))).await.is_err(), "it accepts and says nothing");
    // The heartbeat has noticed, and waits for an answer to its new session.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let began = Instant::now();
    timeout(SOON, topology.promote(SECONDARY)).await??;
    println!("promotion beside a hung writer, with the time for fencing it: {:?}", began.elapsed());
    let b1 = connect(&topology.direct_dsn("b1")).await?;
    let age = "SELECT (extract(epoch FROM clock_timestamp() - at) * 1000)::bigint FROM lab.heartbeat";
    until("heartbeats", async || Ok(number(&b1, age).await? < 1_000)).await?;
    drop((b1, direct));
    let Lab { dir, topology, reaper } = lab;
    drop(topology);
    // Stopped servers are ended by the reaper too.
    let began = Instant::now();
    drop(reaper);
    println!("the reaper ended everything in {:?}", began.elapsed());
    assert!(servers_in(&dir).is_empty());
    assert!(!dir.exists());
    Ok(())
}

#[test]
fn a_killed_lab_leaves_nothing() -> Result<()> {
    let mut lab =
        Command::new(std::env::current_exe()?).args(AS_LAB).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let lines = std::io::BufReader::new(lab.stdout.take().context("a pipe")?).lines();
    // The harness writes before it on the same line.
    let dir = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("lab in ")?.1.to_owned()));
    let dir = PathBuf::from(dir.context("the lab starts")?);
    let servers = servers_in(&dir);
    assert!(servers.len() > 3, "postmasters and their children: {servers:?}");
    lab.kill()?;
    let began = Instant::now();
    lab.wait()?;
    while dir.exists() || !servers_in(&dir).is_empty() {
        assert!(began.elapsed() < SOON, "left: {:?}, directory {}", servers_in(&dir), dir.exists());
        std::thread::park_timeout(Duration::from_millis(10));
    }
    // A zombie has no executable any more, and waits for nobody but its new parent.
    let alive = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    assert!(!servers.iter().any(alive), "ended, not just gone from the directory");
    println!("nothing is left {:?} after the kill of the lab with {} processes", began.elapsed(), servers.len());
    Ok(())
}

#[test]
fn the_drop_method_is_known_beforehand() {
    assert!(matches!(drop_method(), DropMethod::PacketFilter | DropMethod::Stall));
    assert_eq!(drop_method(), drop_method());
}

/// Every node has all of these rows, in the end.
async fn rows_arrive_everywhere(topology: &Topology, rows: i64) -> Result<()> {
    for node in ["a1", "a2", "b1", "b2"] {
        let client = connect(&topology.direct_dsn(node)).await?;
        until(&format!("{node} has all rows"), async || {
            Ok(number(&client, "SELECT count(*) FROM written").await? == rows)
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_moves_by_every_way_and_whoever_is_left_behind_follows_again() -> Result<()> {
    let lab = Lab::start().await?;
    let topology = &lab.topology;
    let write = async |id: i64| -> Result<()> {
        let client = connect(&public_dsn(topology.address(topology.writer()))).await?;
        client.execute("INSERT INTO written VALUES ($1)", &[&id]).await?;
        Ok(())
    };
    write(1).await?;

    let began = Instant::now();
    topology.switch_over(SECONDARY).await?;
    println!("switchover to writable: {:?}", began.elapsed());
    assert_eq!(topology.writer(), "b1");
    write(2).await?;
    let began = Instant::now();
    topology.settle().await?;
    println!("the old region follows after {:?}", began.elapsed());
    rows_arrive_everywhere(topology, 2).await?;

    // The writer's host is lost; its reader had every row.
    topology.crash("b1").await?;
    assert_eq!(topology.lost_writer().await.as_deref(), Some(SECONDARY));
    let began = Instant::now();
    assert_eq!(topology.fail_over_in_region(SECONDARY, None).await?, "b2");
    println!("in-region failover to writable: {:?}", began.elapsed());
    write(3).await?;
    topology.settle().await?;
    rows_arrive_everywhere(topology, 3).await?;
    assert_eq!(topology.instances(SECONDARY)[0].id, "b2");

    // The region is lost, goes on writing by itself, and comes back.
    topology.lose_region(SECONDARY);
    topology.promote(PRIMARY).await?;
    assert_eq!(topology.writer(), "a1");
    write(4).await?;
    connect(&topology.direct_dsn("b2")).await?.execute("INSERT INTO written VALUES (-1)", &[]).await?;
    topology.heal_region(SECONDARY);
    let began = Instant::now();
    topology.settle().await?;
    println!("a region with a history of its own follows after {:?}", began.elapsed());
    rows_arrive_everywhere(topology, 4).await?;
    let a1 = connect(&topology.direct_dsn("a1")).await?;
    let states = "SELECT application_name || ' ' || sync_state FROM pg_stat_replication ORDER BY 1";
    let states: Vec<String> = a1.query(states, &[]).await?.iter().map(|row| row.get(0)).collect();
    assert_eq!(states, ["a2 sync", "b2 async"], "as it was at the start");
    lab.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vantage_that_is_cut_off_is_alone_with_that() -> Result<()> {
    let lab = Lab::start().await?;
    let topology = &lab.topology;
    let public = topology.address("a1");
    let IpAddr::V4(ip) = public.ip() else { bail!("the lab has IPv4 addresses") };
    let [own, other] = [1, 2].map(|vantage| SocketAddr::from((seen_by(vantage, ip), public.port())));
    topology.lose_view(1, PRIMARY);
    assert!(timeout(HANGS, TcpStream::connect(own)).await.is_err(), "it reaches nothing there");
    for address in [other, public] {
        timeout(SOON, connect(&public_dsn(address))).await??;
    }
    topology.lose_region(PRIMARY);
    topology.heal_view(1, PRIMARY);
    assert!(timeout(HANGS, TcpStream::connect(own)).await.is_err(), "the region itself is lost now");
    topology.heal_region(PRIMARY);
    timeout(SOON, connect(&public_dsn(own))).await??;
    lab.end().await
}
