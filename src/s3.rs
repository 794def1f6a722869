//! S3, reduced to one small object that a health check reads: look, and replace what was seen.

use crate::aws::{CallError, Regional};
use crate::config::AwsSettings;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use statemachine::Region;

/// A health check reads no further than this (Route 53 developer guide, string matching).
const TEXT_BYTES_MAX: i64 = 5_120;

/// Where an object is.
#[derive(Debug, Clone, Copy)]
pub struct Location<'a> {
    /// Region of the bucket.
    pub region: &'a Region,
    /// Bucket.
    pub bucket: &'a str,
    /// Key.
    pub key: &'a str,
}

/// What an object holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its text.
    pub text: String,
    /// Names this content: a swap must repeat it.
    pub etag: String,
}

/// What the effects need of S3.
#[async_trait]
pub trait Objects: Send + Sync {
    /// The object, if it is there.
    async fn read(&self, at: Location<'_>) -> Result<Option<Object>, CallError>;

    /// Puts `text` there, if it still holds what was `seen` (nothing, if nothing was).
    async fn swap(&self, at: Location<'_>, text: &str, seen: Option<&Object>) -> Result<(), CallError>;
}

/// S3 through the SDK.
pub struct AwsS3 {
    clients: Regional<Client>,
}

impl AwsS3 {
    /// With these time-outs.
    #[must_use]
    pub fn new(settings: AwsSettings) -> Self {
        Self { clients: Regional::new(settings, Client::new) }
    }
}

#[async_trait]
impl Objects for AwsS3 {
    async fn read(&self, at: Location<'_>) -> Result<Option<Object>, CallError> {
        const CALL: &str = "S3 GetObject";
        let client = self.clients.client(at.region).await;
        let answer = match client.get_object().bucket(at.bucket).key(at.key).send().await {
            Ok(answer) => answer,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => return Ok(None),
            Err(error) => return Err(CallError::of(CALL, &error)),
        };
        let broken = |detail: String| CallError::NoAnswer { call: CALL, detail };
        let bytes = answer.content_length().unwrap_or_default();
        if bytes > TEXT_BYTES_MAX {
            return Err(broken(format!("{} has {bytes} bytes, more than a health check reads", at.key)));
        }
        let etag = answer.e_tag().unwrap_or_default().to_owned();
        let text = answer.body.collect().await.map_err(|error| broken(error.to_string()))?;
        let text = String::from_utf8(text.to_vec()).map_err(|error| broken(error.to_string()))?;
        Ok(Some(Object { text, etag }))
    }

    async fn swap(&self, at: Location<'_>, text: &str, seen: Option<&Object>) -> Result<(), CallError> {
        const CALL: &str = "S3 PutObject";
        let client = self.clients.client(at.region).await;
        let body = ByteStream::from(text.as_bytes().to_vec());
        let put = client.put_object().bucket(at.bucket).key(at.key).content_type("application/json").body(body);
        let put = match seen {
            Some(seen) => put.if_match(&seen.etag),
            None => put.if_none_match("*"),
        };
        match put.send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(error)) if matches!(error.raw().status().as_u16(), 409 | 412) => {
                let detail = error.err().message().unwrap_or("the object is not what was seen").to_owned();
                Err(CallError::SwapRefused { call: CALL, detail })
            }
            Err(error) => Err(CallError::of(CALL, &error)),
        }
    }
}
