//! The demonstration inside one region: the writer moves to its reader, and a fleet of clients writes on, with the
//! proxy and without it.

use crate::client::{Account, Client};
use crate::progress::Progress;
use crate::report;
use crate::scenario;
use crate::stage::{Endpoint, PRIMARY, Stage, StageOptions};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

/// Longest time until every client writes again.
const WITHIN: Duration = Duration::from_secs(60);

/// Writes that each client makes before and after.
const WRITES: usize = 50;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why the writer moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// An operator asks for it.
    Planned,
    /// The writer's host is lost.
    Crash,
}

/// What one fleet saw.
#[derive(Debug, Serialize)]
pub struct Seen {
    /// Why the writer moved.
    pub cause: Cause,
    /// How the clients connected.
    pub through: Endpoint,
    /// How many clients.
    pub clients: usize,
    /// Errors that they saw, all together.
    pub errors: usize,
    /// Connections that they opened anew, all together.
    pub reconnects: usize,
    /// The longest stall of the median client, in milliseconds.
    pub stall_median_ms: u64,
    /// The longest stall of any client, in milliseconds.
    pub stall_max_ms: u64,
    /// Acknowledged writes that the new writer does not have.
    pub lost_writes: usize,
}

/// Runs all four cases, each in a lab of its own.
///
/// # Errors
/// When the lab does not work, or a client does not write again.
pub async fn run(clients: usize) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    for cause in [Cause::Planned, Cause::Crash] {
        for through in [Endpoint::Cluster, Endpoint::Proxy] {
            all.push(one(cause, through, clients).await?);
        }
    }
    Ok(all)
}

async fn one(cause: Cause, through: Endpoint, count: usize) -> Result<Seen> {
    let progress = Progress::new(&format!("{cause:?}, {through:?}: "));
    let mut stage = Stage::start(&StageOptions::default(), &progress).await?;
    stage.steady(&progress).await?;
    let fleet = stage.start_clients(through, count)?;
    progress.step(&format!("{count} clients write"));
    all_write(&fleet, SystemTime::UNIX_EPOCH).await?;
    let began = SystemTime::now();
    match cause {
        Cause::Planned => {
            progress.step("an operator asks for a failover inside the region");
            let (code, said) = stage.product(&scenario::order("failover-in-region")?).await?;
            ensure!(code == 0, "the order was not carried out: {said}");
            wait_for_another_writer(&stage).await?;
        }
        Cause::Crash => {
            progress.step("the writer's host is lost");
            stage.topology.crash(stage.topology.writer()).await?;
            wait_for_another_writer(&stage).await?;
        }
    }
    progress.step("waiting until every client writes again");
    all_write(&fleet, SystemTime::now()).await?;
    let accounts: Vec<Account> = fleet.into_iter().map(Client::stop).collect();
    let kept = stage.rows_on(stage.topology.writer()).await?;
    progress.step("stopping the lab");
    stage.stop().await;
    progress.done("done");

    let mut stalls: Vec<u64> = accounts.iter().map(|account| account.longest_gap_ms(began)).collect();
    stalls.sort_unstable();
    let acknowledged: BTreeSet<i64> = accounts.iter().flat_map(Account::numbers).collect();
    Ok(Seen {
        cause,
        through,
        clients: count,
        errors: accounts.iter().map(|account| account.failed.len()).sum(),
        reconnects: accounts.iter().map(|account| account.connections.saturating_sub(1)).sum(),
        stall_median_ms: stalls[stalls.len() / 2],
        stall_max_ms: stalls.last().copied().unwrap_or_default(),
        lost_writes: acknowledged.difference(&kept).count(),
    })
}

async fn wait_for_another_writer(stage: &Stage) -> Result<()> {
    let began = Instant::now();
    while stage.topology.instances(PRIMARY)[0].id == "a1" {
        ensure!(began.elapsed() < WITHIN, "the writer did not move within {WITHIN:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn all_write(fleet: &[Client], since: SystemTime) -> Result<()> {
    let began = Instant::now();
    let written = |client: &Client| client.account().acknowledged.iter().filter(|ack| ack.at > since).count();
    while fleet.iter().any(|client| written(client) < WRITES) {
        ensure!(began.elapsed() < WITHIN, "a client does not write within {WITHIN:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// One table, side by side.
#[must_use]
pub fn text(all: &[Seen]) -> String {
    let mut table = report::plain(&[
        "the writer moves",
        "clients connect to",
        "clients",
        "errors",
        "reconnects",
        "stall (median) ms",
        "stall (max) ms",
        "lost",
    ]);
    for seen in all {
        table.add_row([
            match seen.cause {
                Cause::Planned => "planned".to_owned(),
                Cause::Crash => "its host is lost".to_owned(),
            },
            match seen.through {
                Endpoint::Name => "the public name".to_owned(),
                Endpoint::Cluster => "the cluster".to_owned(),
                Endpoint::Proxy => "the proxy".to_owned(),
            },
            seen.clients.to_string(),
            seen.errors.to_string(),
            seen.reconnects.to_string(),
            seen.stall_median_ms.to_string(),
            seen.stall_max_ms.to_string(),
            seen.lost_writes.to_string(),
        ]);
    }
    format!("\nA failover inside {PRIMARY}, as clients see it\n{table}")
}
