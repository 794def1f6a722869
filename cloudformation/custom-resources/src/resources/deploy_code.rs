//! `Custom::DeployCode`: puts the files of an archive, whose checksum is known, into a bucket.
//!
//! What was put is written down in the bucket, in one object per resource: before the first file, so that whatever
//! happens, Delete and the next Update know what to take away.

use super::{Job, Resource, not_empty};
use crate::download::{checked_url, download};
use crate::failure::Failure;
use crate::protocol::Data;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read as _};
use tracing::info;
use url::Url;
use zip::ZipArchive;

/// What is downloaded, and what comes out of it. Both are held in memory, of which they may have a quarter and a third.
const ARCHIVE_BYTES_MAX: usize = 256 * 1024 * 1024;
const UNPACKED_BYTES_MAX: usize = 512 * 1024 * 1024;
const FILES_MAX: usize = 10_000;

/// Puts at the same time.
const PUTS_MAX: usize = 8;

/// Keys of one DeleteObjects.
const DELETES_MAX: usize = 1_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct DeployCode {
    source_url: String,
    sha256: String,
    bucket: String,
    #[serde(default)]
    prefix: String,
}

impl Resource for DeployCode {
    const TYPE: &'static str = "Custom::DeployCode";

    fn check(&self) -> Result<(), Failure> {
        not_empty("Bucket", &self.bucket)?;
        checked_url("SourceUrl", &self.source_url)?;
        if self.sha256.len() != 64 || !self.sha256.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Failure::new("Sha256 must be 64 hexadecimal digits"));
        }
        Ok(())
    }

    fn identity(&self) -> Vec<String> {
        vec![self.bucket.clone(), self.prefix()]
    }

    async fn put(&self, _old: Option<&Self>, job: &Job) -> Result<Data, Failure> {
        let files = self.files(job).await?;
        let s3 = job.aws.s3().await;
        let manifest = self.manifest_key(job);
        let before = self.read_manifest(&s3, &manifest).await?.unwrap_or_default();
        let now: BTreeSet<String> = files.keys().cloned().collect();
        let both = Manifest { keys: before.keys.union(&now).cloned().collect() };
        self.write_manifest(&s3, &manifest, &both).await?;
        let count = files.len();
        let puts = stream::iter(files).map(|(key, bytes)| self.put_file(&s3, key, bytes)).buffer_unordered(PUTS_MAX);
        puts.try_collect::<Vec<()>>().await?;
        self.delete_keys(&s3, before.keys.difference(&now)).await?;
        self.write_manifest(&s3, &manifest, &Manifest { keys: now }).await?;
        info!(bucket = self.bucket, prefix = self.prefix(), files = count, "deployed");
        let sha256 = self.sha256.to_ascii_lowercase();
        Ok(Data::from([("Files".into(), count.to_string()), ("Sha256".into(), sha256)]))
    }

    async fn remove(&self, job: &Job) -> Result<(), Failure> {
        let s3 = job.aws.s3().await;
        let manifest = self.manifest_key(job);
        let Some(put) = self.read_manifest(&s3, &manifest).await? else { return Ok(()) };
        self.delete_keys(&s3, put.keys.iter()).await?;
        // Last: if it fails before, the next Delete knows as much as this one.
        self.delete_keys(&s3, [manifest].iter()).await
    }
}

/// What was put.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    keys: BTreeSet<String>,
}

impl DeployCode {
    /// Empty, or with a slash at the end.
    fn prefix(&self) -> String {
        let prefix = self.prefix.trim_matches('/');
        if prefix.is_empty() { String::new() } else { format!("{prefix}/") }
    }

    fn manifest_key(&self, job: &Job) -> String {
        format!("{}.deployed/{}.json", self.prefix(), job.mark)
    }

    /// By key.
    async fn files(&self, job: &Job) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
        let url = checked_url("SourceUrl", &self.source_url)?;
        let http = job.aws.http().await.map_err(|error| Failure::new(error.to_string()))?;
        let archive_bytes_max = ARCHIVE_BYTES_MAX.min(job.memory_bytes / 4);
        let unpacked_bytes_max = UNPACKED_BYTES_MAX.min(job.memory_bytes / 3);
        let archive = download(http, &url, "*/*", archive_bytes_max).await?.bytes;
        let (prefix, wanted) = (self.prefix(), self.sha256.to_ascii_lowercase());
        let unpacked = tokio::task::spawn_blocking(move || {
            let found = hex::encode(Sha256::digest(&archive));
            if found != wanted {
                return Err(Failure::new(format!("what SourceUrl leads to has the checksum {found}, not {wanted}")));
            }
            if archive.starts_with(b"PK\x03\x04") || archive.starts_with(b"PK\x05\x06") {
                return unpack(archive, unpacked_bytes_max);
            }
            Ok(BTreeMap::from([(file_name(&url)?, archive)]))
        });
        let unpacked = unpacked.await.map_err(|_panic| Failure::new("unpacking the archive panicked"))??;
        Ok(unpacked.into_iter().map(|(name, bytes)| (format!("{prefix}{name}"), bytes)).collect())
    }

    async fn put_file(&self, s3: &Client, key: String, bytes: Vec<u8>) -> Result<(), Failure> {
        let content_type = content_type(&key);
        let request = s3.put_object().bucket(&self.bucket).key(&key).content_type(content_type);
        let answer = request.body(ByteStream::from(bytes)).send().await;
        answer.map(drop).map_err(|error| Failure::of_call(&format!("PutObject of {key}"), &error))
    }

    /// None when it is not there, nor perhaps the bucket.
    async fn read_manifest(&self, s3: &Client, key: &str) -> Result<Option<Manifest>, Failure> {
        // A GetObject of what is not there is answered by "access denied" to whoever may not list.
        let listed = s3.list_objects_v2().bucket(&self.bucket).prefix(key).max_keys(1).send().await;
        match listed {
            Err(error) if error.code() == Some("NoSuchBucket") => return Ok(None),
            Err(error) => return Err(Failure::of_call("ListObjectsV2", &error)),
            Ok(listed) if listed.contents().iter().all(|object| object.key() != Some(key)) => return Ok(None),
            Ok(_) => {}
        }
        let object = match s3.get_object().bucket(&self.bucket).key(key).send().await {
            Err(error) if matches!(error.code(), Some("NoSuchKey" | "NoSuchBucket")) => return Ok(None),
            answer => answer.map_err(|error| Failure::of_call("GetObject", &error))?,
        };
        let broken = |what: String| Failure::new(format!("the list of deployed files, {key}, cannot be read: {what}"));
        let bytes = object.body.collect().await.map_err(|error| broken(error.to_string()))?.into_bytes();
        serde_json::from_slice(&bytes).map(Some).map_err(|error| broken(error.to_string()))
    }

    async fn write_manifest(&self, s3: &Client, key: &str, manifest: &Manifest) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(manifest).map_err(|error| Failure::new(error.to_string()))?;
        self.put_file(s3, key.to_owned(), bytes).await
    }

    async fn delete_keys(&self, s3: &Client, keys: impl Iterator<Item = &String>) -> Result<(), Failure> {
        let keys = keys.filter_map(|key| ObjectIdentifier::builder().key(key).build().ok());
        let keys: Vec<ObjectIdentifier> = keys.collect();
        for some in keys.chunks(DELETES_MAX) {
            let delete = Delete::builder().set_objects(Some(some.to_vec())).quiet(true).build();
            let delete = delete.map_err(|error| Failure::new(error.to_string()))?;
            let answer = match s3.delete_objects().bucket(&self.bucket).delete(delete).send().await {
                Err(error) if error.code() == Some("NoSuchBucket") => return Ok(()),
                answer => answer.map_err(|error| Failure::of_call("DeleteObjects", &error))?,
            };
            if let Some(first) = answer.errors().first() {
                let (key, code) = (first.key().unwrap_or_default(), first.code().unwrap_or("no code"));
                return Err(Failure::new(format!("{key} could not be deleted: {code}")));
            }
        }
        Ok(())
    }
}

/// The files of an archive. Whatever would land outside of the prefix is refused.
fn unpack(archive: Vec<u8>, bytes_max: usize) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::new(format!("the archive cannot be read: {error}"));
    let mut archive = ZipArchive::new(Cursor::new(archive)).map_err(|error| broken(&error))?;
    if archive.len() > FILES_MAX {
        return Err(Failure::new(format!("the archive has {} entries, more than {FILES_MAX}", archive.len())));
    }
    let mut files = BTreeMap::new();
    let mut left = bytes_max as u64;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| broken(&error))?;
        if entry.is_dir() {
            continue;
        }
        let name = entry.name().map_err(|error| broken(&error))?.into_owned();
        if entry.is_symlink() {
            return Err(Failure::new(format!("the archive has a symbolic link: {name}")));
        }
        let Some(key) = key_of(&name) else {
            return Err(Failure::new(format!("the archive has a file outside of it: {name:?}")));
        };
        let mut bytes = Vec::new();
        entry.take(left + 1).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
        let Some(rest) = left.checked_sub(bytes.len() as u64) else {
            return Err(Failure::new(format!(
                "the archive unpacks to more than {bytes_max} bytes, what the function's memory allows"
            )));
        };
        left = rest;
        if files.insert(key, bytes).is_some() {
            return Err(Failure::new(format!("the archive has two files {name:?}")));
        }
    }
    Ok(files)
}

/// The path of an entry, if it stays below where it is unpacked.
fn key_of(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split(['/', '\\']).filter(|part| *part != ".").collect();
    let stays = parts.iter().all(|part| !part.is_empty() && *part != ".." && !part.contains(':'));
    (stays && !parts.is_empty()).then(|| parts.join("/"))
}

fn file_name(url: &Url) -> Result<String, Failure> {
    let name = url.path_segments().and_then(|mut segments| segments.next_back()).filter(|name| !name.is_empty());
    name.map(ToOwned::to_owned).ok_or_else(|| Failure::new("SourceUrl leads to no zip archive, and names no file"))
}

/// Text is UTF-8: it came from a build, not from the last century.
fn content_type(key: &str) -> String {
    let guess = mime_guess::from_path(key).first_or_octet_stream();
    let is_text = guess.type_() == "text" || ["javascript", "json"].contains(&guess.subtype().as_str());
    if is_text { format!("{guess}; charset=utf-8") } else { guess.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use zip::write::SimpleFileOptions;

    fn archive(names: &[&str]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for name in names {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(name.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn files_are_unpacked_and_none_outside() {
        let files = unpack(archive(&["index.html", "assets/app.js", "./style.css"]), 100).unwrap();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["assets/app.js", "index.html", "style.css"]);
        for bad in ["../up", "a/../../up", "/etc/passwd", "..\\up", "C:\\x", "a//b"] {
            assert!(unpack(archive(&[bad]), 100).is_err(), "{bad}");
        }
        assert!(unpack(archive(&["a", "./a"]), 100).is_err(), "two files at one key");
        assert!(unpack(archive(&["index.html"]), 9).unwrap_err().to_string().contains("more than 9 bytes"));
        assert!(unpack(b"PK\x03\x04 and no more".to_vec(), 100).is_err());
    }

    #[test]
    fn content_types_are_those_that_browsers_want() {
        for (key, wanted) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/app.js", "text/javascript; charset=utf-8"),
            ("data.json", "application/json; charset=utf-8"),
            ("logo.svg", "image/svg+xml"),
            ("font.woff2", "font/woff2"),
            ("module.wasm", "application/wasm"),
            ("README", "application/octet-stream"),
        ] {
            assert_eq!(content_type(key), wanted, "{key}");
        }
    }
}
