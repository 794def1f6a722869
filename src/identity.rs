//! Who runs a command, as AWS knows it.

use crate::aws::chain;
use aws_config::SdkConfig;

/// The ARN of the caller, by STS in the configured region.
///
/// # Errors
/// Why STS does not tell.
pub async fn caller(sdk: &SdkConfig) -> Result<String, String> {
    let answer = aws_sdk_sts::Client::new(sdk).get_caller_identity().send().await;
    let answer = answer.map_err(|error| format!("GetCallerIdentity failed: {}", chain(&error)))?;
    answer.arn().map(str::to_owned).ok_or_else(|| "GetCallerIdentity named nobody".to_owned())
}
