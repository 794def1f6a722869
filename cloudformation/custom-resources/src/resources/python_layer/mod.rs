//! `Custom::PythonLayer`: a Lambda layer of packages from an index and of files of one's own, without Python.
//!
//! A layer version cannot be changed, so a change of any property is another resource: its version is published first,
//! and the old one is deleted when nothing in the stack refers to it any more. Versions are found again by the mark in
//! their description.

mod index;
mod resolve;
mod wheel;

use super::{Job, Resource, not_empty};
use crate::download::checked_url;
use crate::failure::Failure;
use crate::protocol::Data;
use crate::signed::{Call, CallError};
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pep508_rs::Requirement;
use reqwest::Method;
use resolve::{Resolved, Resolver};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};
use std::str::FromStr as _;
use tracing::{info, warn};
use url::Url;
use wheel::{Architecture, Python};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const PYPI: &str = "https://pypi.org/simple/";

/// What Lambda allows of a layer: unpacked, and packed in the call itself.
const LAYER_BYTES_MAX: usize = 262_144_000;
const DIRECT_BYTES_MAX: usize = 50 * 1024 * 1024;

/// Pages of a list of versions.
const PAGES_MAX: u32 = 1_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct PythonLayer {
    layer_name: String,
    #[serde(default)]
    packages: Vec<String>,
    python_version: String,
    architecture: Architecture,
    index_url: Option<String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    bucket: Option<String>,
}

impl Resource for PythonLayer {
    const TYPE: &'static str = "Custom::PythonLayer";

    fn check(&self) -> Result<(), Failure> {
        let usable = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.layer_name.is_empty() || self.layer_name.len() > 64 || !self.layer_name.chars().all(usable) {
            return Err(Failure::new("LayerName must have 1 to 64 letters, digits, dashes and underscores"));
        }
        if self.packages.is_empty() && self.files.is_empty() {
            return Err(Failure::new("Packages and Files are both empty"));
        }
        if let Some(bucket) = &self.bucket {
            not_empty("Bucket", bucket)?;
        }
        self.python()?;
        self.index()?;
        self.requirements()?;
        for path in self.files.keys() {
            let stays = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
            if !stays || path.contains('\\') {
                return Err(Failure::new(format!("{path:?} of Files is no path below python/")));
            }
        }
        Ok(())
    }

    fn identity(&self) -> Vec<String> {
        let list = |items: Vec<String>| json!(items).to_string();
        vec![
            self.layer_name.clone(),
            list(self.packages.clone()),
            self.python_version.clone(),
            self.architecture.name().into(),
            self.index_url.clone().unwrap_or_default(),
            json!(self.files).to_string(),
        ]
    }

    async fn put(&self, _old: Option<&Self>, job: &Job) -> Result<Data, Failure> {
        let region = region(job).await?;
        // An answer to the same request was lost, or a stack goes back to this.
        if let Some(version) = self.published(job, &region).await?.pop() {
            info!(version = version.arn, "published before");
            return Ok(Data::from([("LayerVersionArn".into(), version.arn)]));
        }
        let packages = self.resolve(job).await?;
        let zip = self.zip(packages).await?;
        let arn = self.publish(job, &region, zip).await?;
        info!(version = arn, "published");
        Ok(Data::from([("LayerVersionArn".into(), arn)]))
    }

    async fn remove(&self, job: &Job) -> Result<(), Failure> {
        let region = region(job).await?;
        for version in self.published(job, &region).await? {
            let path = format!("{}/{}", self.path(), version.version);
            match lambda(job, &region, "DeleteLayerVersion", Method::DELETE, &path, Vec::new()).await {
                Err(error) if error.is("ResourceNotFoundException") => {}
                answer => drop(answer?),
            }
            info!(version = version.arn, "deleted");
        }
        Ok(())
    }
}

/// A version that we published.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Published {
    #[serde(rename = "LayerVersionArn")]
    arn: String,
    version: u64,
    #[serde(default)]
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versions {
    #[serde(default)]
    layer_versions: Vec<Published>,
    next_marker: Option<String>,
}

impl PythonLayer {
    fn python(&self) -> Result<Python, Failure> {
        let python = Python::parse(&self.python_version, self.architecture);
        python.ok_or_else(|| Failure::new("PythonVersion must be like 3.13"))
    }

    fn index(&self) -> Result<Url, Failure> {
        checked_url("IndexUrl", self.index_url.as_deref().unwrap_or(PYPI))
    }

    fn requirements(&self) -> Result<Vec<Requirement>, Failure> {
        let read = |text: &String| {
            let requirement = Requirement::from_str(text);
            requirement.map_err(|error| Failure::new(format!("{text:?} of Packages: {}", error.message)))
        };
        self.packages.iter().map(read).collect()
    }

    /// Of the layer's versions, in Lambda's API.
    fn path(&self) -> String {
        format!("/2018-10-31/layers/{}/versions", self.layer_name)
    }

    /// Says whose a version is.
    fn description(job: &Job) -> String {
        format!("aurora-failover {}", job.mark)
    }

    async fn resolve(&self, job: &Job) -> Result<Vec<Resolved>, Failure> {
        let http = job.aws.http().await.map_err(|error| Failure::new(error.to_string()))?;
        let index = self.index()?;
        Resolver::new(http, &index, self.python()?, LAYER_BYTES_MAX.min(job.memory_bytes / 3))?
            .resolve(&self.requirements()?)
            .await
    }

    /// The layer: the same bytes for the same content.
    async fn zip(&self, packages: Vec<Resolved>) -> Result<Vec<u8>, Failure> {
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for package in packages {
            for (path, content) in package.wheel.files {
                if files.get(&path).is_some_and(|there| *there != content) {
                    // As an installer does.
                    warn!(package = %package.name, version = %package.version, path, "replaces a file of another package");
                }
                files.insert(path, content);
            }
        }
        for (path, content) in &self.files {
            if files.insert(path.clone(), content.clone().into_bytes()).is_some() {
                return Err(Failure::new(format!("{path} of Files is in a package too")));
            }
        }
        let bytes: usize = files.values().map(Vec::len).sum();
        if bytes > LAYER_BYTES_MAX {
            return Err(Failure::new(format!("the layer has {bytes} bytes, and Lambda allows {LAYER_BYTES_MAX}")));
        }
        let written = tokio::task::spawn_blocking(move || write_zip(files));
        let written = written.await.map_err(|_panic| Failure::new("packing the layer panicked"))?;
        written.map_err(|error| Failure::new(format!("packing the layer: {error}")))
    }

    /// Versions with our mark.
    async fn published(&self, job: &Job, region: &str) -> Result<Vec<Published>, Failure> {
        let mut found = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let path = format!("{}?{}", self.path(), page_query(marker.as_deref()));
            let page = match lambda(job, region, "ListLayerVersions", Method::GET, &path, Vec::new()).await {
                Err(error) if error.is("ResourceNotFoundException") => return Ok(found),
                answer => answer?,
            };
            let page: Versions = serde_json::from_str(&page)
                .map_err(|error| Failure::new(format!("the answer to ListLayerVersions cannot be read: {error}")))?;
            let ours = Self::description(job);
            found.extend(page.layer_versions.into_iter().filter(|version| version.description.as_ref() == Some(&ours)));
            marker = page.next_marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                return Ok(found);
            }
        }
        Err(Failure::new(format!("the layer {} has too many versions", self.layer_name)))
    }

    async fn publish(&self, job: &Job, region: &str, zip: Vec<u8>) -> Result<String, Failure> {
        let Some(bucket) = &self.bucket else {
            if zip.len() > DIRECT_BYTES_MAX {
                return Err(Failure::new(format!(
                    "the layer has {} bytes packed; above {DIRECT_BYTES_MAX} it needs a Bucket on the way to Lambda",
                    zip.len()
                )));
            }
            return self.publish_content(job, region, json!({ "ZipFile": STANDARD.encode(zip) })).await;
        };
        let s3 = job.aws.s3().await;
        let key = format!("layers/{}-{}.zip", self.layer_name, job.mark);
        let put = s3.put_object().bucket(bucket).key(&key).body(ByteStream::from(zip)).send().await;
        put.map_err(|error| Failure::of_call("PutObject", &error))?;
        let published = self.publish_content(job, region, json!({ "S3Bucket": bucket, "S3Key": key })).await;
        // Lambda has its own copy.
        let deleted = s3.delete_object().bucket(bucket).key(&key).send().await;
        if let Err(error) = deleted
            && error.code() != Some("NoSuchBucket")
        {
            warn!(key, failure = %Failure::of_call("DeleteObject", &error), "left behind in the bucket");
        }
        published
    }

    async fn publish_content(&self, job: &Job, region: &str, content: Value) -> Result<String, Failure> {
        let request = json!({
            "Content": content,
            "Description": Self::description(job),
            "CompatibleRuntimes": [format!("python{}", self.python_version)],
            "CompatibleArchitectures": [self.architecture.name()],
        });
        let body = request.to_string().into_bytes();
        let answer = lambda(job, region, "PublishLayerVersion", Method::POST, &self.path(), body).await?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let arn = answer["LayerVersionArn"].as_str();
        arn.map(ToOwned::to_owned).ok_or_else(|| Failure::new("PublishLayerVersion answered without an ARN"))
    }
}

fn page_query(marker: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("MaxItems", "50");
    if let Some(marker) = marker {
        query.append_pair("Marker", marker);
    }
    query.finish()
}

async fn region(job: &Job) -> Result<String, Failure> {
    let region = job.aws.config(None).await.region().map(ToString::to_string);
    region.ok_or_else(|| Failure::new("AWS_REGION is not set"))
}

async fn lambda(
    job: &Job,
    region: &str,
    what: &str,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<String, CallError> {
    let call = Call { service: "lambda", region, method, path, content_type: "application/json", body };
    job.aws.send(what, &call).await
}

fn write_zip(files: BTreeMap<String, Vec<u8>>) -> zip::result::ZipResult<Vec<u8>> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, content) in files {
        let mode = if path.starts_with("bin/") { 0o755 } else { 0o644 };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(mode);
        writer.start_file(format!("python/{path}"), options)?;
        writer.write_all(&content)?;
    }
    Ok(writer.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_are_the_same_layer() {
        let files = BTreeMap::from([("a.py".to_owned(), b"1".to_vec()), ("bin/run".to_owned(), b"2".to_vec())]);
        let (one, other) = (write_zip(files.clone()).unwrap(), write_zip(files).unwrap());
        assert_eq!(one, other);
        let mut read = zip::ZipArchive::new(Cursor::new(one)).unwrap();
        assert_eq!(read.by_name("python/bin/run").unwrap().unix_mode().map(|mode| mode & 0o777), Some(0o755));
    }
}
