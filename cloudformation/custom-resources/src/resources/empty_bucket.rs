//! `Custom::EmptyBucket`: before its bucket is deleted, everything in it is.

use super::{Job, Resource, not_empty};
use crate::failure::Failure;
use crate::protocol::Data;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use serde::Deserialize;
use tracing::info;

/// Somebody may still be writing; so often the whole bucket is gone through, at most.
const PASSES_MAX: u32 = 5;

/// Pages of a pass: a billion objects.
const PAGES_MAX: u32 = 1_000_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct EmptyBucket {
    bucket: String,
}

impl Resource for EmptyBucket {
    const TYPE: &'static str = "Custom::EmptyBucket";
    const ONLY_DELETES: bool = true;

    fn check(&self) -> Result<(), Failure> {
        not_empty("Bucket", &self.bucket)
    }

    fn identity(&self) -> Vec<String> {
        vec![self.bucket.clone()]
    }

    async fn put(&self, _old: Option<&Self>, _job: &Job) -> Result<Data, Failure> {
        Ok(Data::new())
    }

    async fn remove(&self, job: &Job) -> Result<(), Failure> {
        let s3 = job.aws.s3().await;
        match self.empty(&s3).await {
            Err(Gone::Bucket) => Ok(()),
            Err(Gone::Failed(failure)) => Err(failure.during(&format!("emptying the bucket {}", self.bucket))),
            Ok(()) => Ok(()),
        }
    }
}

/// Why there was nothing more to do.
enum Gone {
    Bucket,
    Failed(Failure),
}

impl EmptyBucket {
    async fn empty(&self, s3: &Client) -> Result<(), Gone> {
        for pass in 1..=PASSES_MAX {
            let found = self.delete_objects(s3).await? + self.abort_uploads(s3).await?;
            info!(bucket = self.bucket, pass, found, "went through the bucket");
            if found == 0 {
                return Ok(());
            }
        }
        let why = format!("after {PASSES_MAX} passes there are still new objects: something is writing them");
        Err(Gone::Failed(Failure::new(why)))
    }

    /// Deletes all versions and delete markers; answers how many there were.
    async fn delete_objects(&self, s3: &Client) -> Result<usize, Gone> {
        let (mut key_marker, mut version_marker) = (None, None);
        let mut found = 0;
        for _ in 0..PAGES_MAX {
            let request = s3.list_object_versions().bucket(&self.bucket);
            let page = request.set_key_marker(key_marker).set_version_id_marker(version_marker).send().await;
            let page = page.map_err(|error| failed("ListObjectVersions", &error))?;
            let versions = page.versions().iter().map(|version| (version.key(), version.version_id()));
            let markers = page.delete_markers().iter().map(|marker| (marker.key(), marker.version_id()));
            let all = versions.chain(markers).filter_map(|(key, version)| {
                ObjectIdentifier::builder().key(key?).set_version_id(version.map(ToOwned::to_owned)).build().ok()
            });
            let all: Vec<ObjectIdentifier> = all.collect();
            found += all.len();
            self.delete(s3, all).await?;
            if page.is_truncated() != Some(true) {
                return Ok(found);
            }
            key_marker = page.next_key_marker().map(ToOwned::to_owned);
            version_marker = page.next_version_id_marker().map(ToOwned::to_owned);
        }
        Err(Gone::Failed(Failure::new("the bucket has too many objects")))
    }

    /// At most a thousand: what a page holds.
    async fn delete(&self, s3: &Client, all: Vec<ObjectIdentifier>) -> Result<(), Gone> {
        if all.is_empty() {
            return Ok(());
        }
        let delete = Delete::builder().set_objects(Some(all)).quiet(true).build();
        let delete = delete.map_err(|error| Gone::Failed(Failure::new(error.to_string())))?;
        let answer = s3.delete_objects().bucket(&self.bucket).delete(delete).send().await;
        let answer = answer.map_err(|error| failed("DeleteObjects", &error))?;
        let Some(first) = answer.errors().first() else { return Ok(()) };
        let (key, code) = (first.key().unwrap_or_default(), first.code().unwrap_or("no code"));
        let message = first.message().unwrap_or_default();
        let count = answer.errors().len();
        Err(Gone::Failed(Failure::new(format!(
            "{count} objects could not be deleted, the first of them {key}: {code}: {message}"
        ))))
    }

    /// Aborts what was begun and never finished; answers how much there was.
    async fn abort_uploads(&self, s3: &Client) -> Result<usize, Gone> {
        let (mut key_marker, mut id_marker) = (None, None);
        let mut found = 0;
        for _ in 0..PAGES_MAX {
            let request = s3.list_multipart_uploads().bucket(&self.bucket);
            let page = request.set_key_marker(key_marker).set_upload_id_marker(id_marker).send().await;
            let page = page.map_err(|error| failed("ListMultipartUploads", &error))?;
            for upload in page.uploads() {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                found += 1;
                let aborted = s3.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id).send().await;
                match aborted {
                    Err(error) if error.code() == Some("NoSuchUpload") => {}
                    aborted => drop(aborted.map_err(|error| failed("AbortMultipartUpload", &error))?),
                }
            }
            if page.is_truncated() != Some(true) {
                return Ok(found);
            }
            key_marker = page.next_key_marker().map(ToOwned::to_owned);
            id_marker = page.next_upload_id_marker().map(ToOwned::to_owned);
        }
        Err(Gone::Failed(Failure::new("the bucket has too many uploads")))
    }
}

fn failed<E, R>(call: &str, error: &aws_sdk_s3::error::SdkError<E, R>) -> Gone
where
    E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    if error.code() == Some("NoSuchBucket") { Gone::Bucket } else { Gone::Failed(Failure::of_call(call, error)) }
}
