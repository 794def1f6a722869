//! The contract suite: what the service expects of AWS, asked of the lab's own endpoints and of independent
//! emulators. The lab is held to what others answer, and we to more than our own idea of AWS.
//!
//! Each endpoint is tried by a child process of this one, with the standard AWS environment pointing at it: the
//! same way in which the service finds it. An emulator is left out of a behaviour only where it is known to differ
//! from AWS, with the reason printed. The emulators live in the Python environment named by
//! `AURORA_FAILOVER_TOOLS`, made by `scripts/setup test`.

mod behaviours;
mod endpoints;

use behaviours::BEHAVIOURS;
use endpoints::Endpoint;
use std::process::ExitCode;
use std::time::Instant;

/// Set in the children: the name of the endpoint to try.
const CHILD: &str = "AURORA_FAILOVER_CONTRACT_ENDPOINT";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    match std::env::var(CHILD) {
        Ok(endpoint) => runtime.block_on(child(&endpoint)),
        Err(_) => runtime.block_on(parent()),
    }
}

async fn parent() -> ExitCode {
    let mut all_passed = true;
    for name in endpoints::NAMES {
        println!("\ncontract on {name}");
        let endpoint = match Endpoint::start(name).await {
            Ok(endpoint) => endpoint,
            Err(error) => {
                println!("  cannot be started: {error:#}");
                all_passed = false;
                continue;
            }
        };
        let status = endpoint.child_command(CHILD).status().await;
        all_passed &= status.is_ok_and(|status| status.success());
        endpoint.stop().await;
    }
    if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn child(endpoint: &str) -> ExitCode {
    let (mut passed, mut failed, mut left_out) = (0, 0, 0);
    for behaviour in BEHAVIOURS {
        if let Some((_, why)) = behaviour.left_out.iter().find(|(name, _)| *name == endpoint) {
            println!("  left out  {} ({why})", behaviour.name);
            left_out += 1;
            continue;
        }
        let began = Instant::now();
        match (behaviour.run)().await {
            Ok(()) => {
                println!("  ok        {} ({} ms)", behaviour.name, began.elapsed().as_millis());
                passed += 1;
            }
            Err(error) => {
                println!("  FAILED    {}: {error:#}", behaviour.name);
                failed += 1;
            }
        }
    }
    println!("{endpoint}: {passed} passed, {failed} failed, {left_out} left out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
