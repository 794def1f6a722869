//! How every AWS client is made: standard environment and profile, our time-outs, one place.
//!
//! The SDK has no read time-out of its own: without ours a call into a region that is gone hangs for ever.

use crate::config::AwsSettings;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use statemachine::Region;
use std::time::Duration;

/// Tries per call of reads and of writes that are safe to repeat.
const ATTEMPTS_MAX: u32 = 3;

/// Loads the standard configuration for `region`.
pub async fn load(region: &Region, settings: &AwsSettings) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.timeout)
        .operation_attempt_timeout(settings.timeout)
        .operation_timeout(settings.timeout * (ATTEMPTS_MAX + 1))
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(ATTEMPTS_MAX)
        .with_initial_backoff(Duration::from_millis(50))
        .with_max_backoff(Duration::from_secs(2));
    aws_config::defaults(BehaviorVersion::latest())
        .region(aws_config::Region::new(region.as_str().to_owned()))
        .timeout_config(timeouts)
        .retry_config(retries)
        .load()
        .await
}

/// The whole chain of an error as one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
