//! How every AWS client is made: standard environment and profile, our time-outs, one place.
//!
//! The SDK has no read time-out of its own: without ours a call into a region that is gone hangs for ever.

use crate::config::AwsSettings;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_route53::config::http::HttpResponse;
use aws_sdk_route53::error::{ProvideErrorMetadata, SdkError};
use statemachine::Region;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::Mutex;

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

/// One client per region, made on first use.
pub struct Regional<C> {
    settings: AwsSettings,
    make: fn(&SdkConfig) -> C,
    clients: Mutex<HashMap<Region, C>>,
}

impl<C: Clone> Regional<C> {
    /// With these time-outs.
    #[must_use]
    pub fn new(settings: AwsSettings, make: fn(&SdkConfig) -> C) -> Self {
        Self { settings, make, clients: Mutex::new(HashMap::new()) }
    }

    /// The client of `region`.
    pub async fn client(&self, region: &Region) -> C {
        let mut clients = self.clients.lock().await;
        if let Some(client) = clients.get(region) {
            return client.clone();
        }
        let client = (self.make)(&load(region, &self.settings).await);
        clients.insert(region.clone(), client.clone());
        client
    }
}

/// A call that moves a public name, or looks where it leads, went wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// It was no longer as it had been seen: nothing was changed.
    #[error("{call} was refused, nothing was changed: {detail}")]
    SwapRefused {
        /// Which call.
        call: &'static str,
        /// What the service says.
        detail: String,
    },
    /// The service answered no.
    #[error("{call} answered {code}: {message}")]
    Answered {
        /// Which call.
        call: &'static str,
        /// AWS error code.
        code: String,
        /// AWS message.
        message: String,
    },
    /// No usable answer; a change may have been carried out.
    #[error("{call} gave no answer: {detail}")]
    NoAnswer {
        /// Which call.
        call: &'static str,
        /// The error chain.
        detail: String,
    },
}

impl CallError {
    /// What the SDK's error means: a refusal is certain, anything else may have been carried out.
    pub(crate) fn of<E>(call: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match refusal(error) {
            Some((code, message)) => Self::Answered { call, code, message },
            None => Self::NoAnswer { call, detail: chain(error) },
        }
    }
}

/// Code and message, if the service answered no; anything else may have been carried out.
pub(crate) fn refusal<E>(error: &SdkError<E, HttpResponse>) -> Option<(String, String)>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match (error, error.code()) {
        (SdkError::ServiceError(service), Some(code)) if service.raw().status().is_client_error() => {
            Some((code.into(), error.message().unwrap_or_default().into()))
        }
        _ => None,
    }
}

/// The first cause of this type; also what is wrapped in an I/O error, whose `source` leaves it out.
pub(crate) fn cause<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    if let Some(found) = error.downcast_ref::<T>() {
        return Some(found);
    }
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let wrapped = wrapped.and_then(|inner| cause(inner as &(dyn std::error::Error + 'static)));
    wrapped.or_else(|| cause(error.source()?))
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
