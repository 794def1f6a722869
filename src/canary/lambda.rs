//! A vantage as a Lambda function: started once a minute by a schedule, it probes until its time is nearly over, and
//! answers what it sent. Between invocations nothing runs: a probe that was frozen on its way would look like a failure.

use super::{FLUSH_WITHIN, Outside, Sent, run};
use crate::clock;
use crate::config::Settings;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use statemachine::{Timestamp, Vantage};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time that is left for the answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Serves invocations for ever.
///
/// # Errors
/// When the runtime's API does not answer.
pub async fn serve(vantage: Vantage, settings: Settings, outside: Outside) -> Result<(), Error> {
    let once = |event: LambdaEvent<serde_json::Value>| {
        let (vantage, settings, outside) = (vantage.clone(), &settings, &outside);
        async move { Ok::<Sent, Error>(probe_for(remaining(&event), vantage, settings, outside).await) }
    };
    lambda_runtime::run(service_fn(once)).await
}

fn remaining(event: &LambdaEvent<serde_json::Value>) -> Duration {
    Duration::from_millis(Timestamp(event.context.deadline).since_ms(clock::now()))
}

/// Probes for as long as results can still be sent and answered for.
async fn probe_for(remaining: Duration, vantage: Vantage, settings: &Settings, outside: &Outside) -> Sent {
    let stop = CancellationToken::new();
    let over = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(remaining.saturating_sub(FLUSH_WITHIN + ANSWER_WITHIN)).await;
        over.cancel();
    });
    run(vantage, settings, outside, stop).await
}
