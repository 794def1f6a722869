//! `custom-resources`: the Lambda function; `custom-resources permissions` prints what it may have to do in AWS.

use aurora_failover_custom_resources::{Resources, permissions_json, serve};
use std::process::ExitCode;
use std::sync::Arc;

// Two threads also on one core: the clock of an answer goes on while the other one computes.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {}
        ["permissions"] => {
            println!("{:#}", permissions_json());
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("usage: custom-resources [permissions]; without an argument it serves as a Lambda function");
            return ExitCode::from(2);
        }
    }
    // No more than that: the libraries' own words may quote requests, whose ResponseURL is a credential.
    tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO).with_ansi(false).init();
    match serve(Arc::new(Resources::from_env())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the Lambda runtime API does not answer");
            ExitCode::FAILURE
        }
    }
}
