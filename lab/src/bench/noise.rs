//! A noisy time without an outage: slow statements, slow DNS, failing AWS calls and short cuts of the network. Whatever
//! fails over then does it without need.

use super::{Policy, Shown};
use crate::progress::Progress;
use crate::stage::{PRIMARY, Stage, StageOptions};
use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Failing AWS calls, one kind at a time.
const FAULTS: [&str; 5] =
    ["dynamodb=throttle:20", "sqs=reset:10", "events=server-error:20", "rds=lost-reply:20", "all=latency-50ms:30"];

/// Lengths of the cuts, in milliseconds: shorter than any confirmation.
const CUT_MS: [u64; 3] = [30, 60, 100];

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    policy: Policy,
    seconds: u64,
    disturbances: u64,
    suspicions: usize,
    /// Calls of RDS that moved a writer.
    false_failovers: usize,
    acknowledged_writes: usize,
    seed: u64,
}

pub(super) async fn run(policy: Policy, length: Duration) -> Result<Measured> {
    let progress = Progress::new("noise: ");
    let seed = rand::random();
    let table = |table: toml::Table| table.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
    let options = StageOptions {
        profile: policy.profile(),
        canary: table(policy.canary()),
        policy: table(policy.policy()),
        ..StageOptions::default()
    };
    let mut stage = Stage::start(&options, &progress).await?;
    stage.steady(&progress).await?;
    let mut random = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut disturbances = 0;
    while began.elapsed() < length {
        progress.step(&format!(
            "{} s of {} s, {disturbances} disturbances",
            began.elapsed().as_secs(),
            length.as_secs()
        ));
        match random.random_range(0..4) {
            0 => {
                stage.lose_region(PRIMARY);
                tokio::time::sleep(Duration::from_millis(CUT_MS[random.random_range(0..CUT_MS.len())])).await;
                stage.heal_region(PRIMARY);
            }
            1 => {
                stage.slow_dns(Duration::from_millis(random.random_range(0..30)));
                tokio::time::sleep(Duration::from_secs(2)).await;
                stage.slow_dns(Duration::ZERO);
            }
            2 => {
                let fault = FAULTS[random.random_range(0..FAULTS.len())].parse()?;
                stage.aws.set_faults(vec![fault], random.random());
                tokio::time::sleep(Duration::from_secs(3)).await;
                stage.aws.set_faults(Vec::new(), 0);
            }
            _ => {
                stage.topology.cut_replication();
                tokio::time::sleep(Duration::from_millis(300)).await;
                stage.topology.heal_replication();
            }
        }
        disturbances += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(200..3_000))).await;
        stage.all_alive()?;
    }
    let rows = stage.history().await?;
    let moves = ["FailoverGlobalCluster", "SwitchoverGlobalCluster", "FailoverDBCluster"];
    let calls = stage.aws.calls();
    let measured = Measured {
        policy,
        seconds: began.elapsed().as_secs(),
        disturbances,
        suspicions: rows.iter().filter(|row| row["to"] == "suspect" && row["from"] != "suspect").count(),
        false_failovers: calls.iter().filter(|call| moves.contains(&call.action.as_str())).count(),
        acknowledged_writes: stage.counted().0,
        seed,
    };
    progress.done(&format!("{} false failovers", measured.false_failovers));
    stage.stop().await;
    Ok(measured)
}

impl Shown for Measured {
    fn text(&self) -> String {
        let Self { policy, seconds, disturbances, suspicions, false_failovers, acknowledged_writes, seed } = self;
        format!(
            "Policy {}, {seconds} s, {disturbances} disturbances (seed {seed})\nsuspicions        {suspicions}\nfalse \
             failovers   {false_failovers}\nwrites            {acknowledged_writes}",
            policy.name()
        )
    }
}
