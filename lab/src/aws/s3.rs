//! S3, REST: buckets and small objects, with conditional writes. Anybody may read, as where a bucket's policy says so:
//! a health check signs nothing.
//!
//! Deliberately absent, and refused: listing, versions, parts, everything that has a query.

use super::wire::{Refusal, Reply, lock, request_id, tag, text};
use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use md5::{Digest as _, Md5};
use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Default)]
pub(super) struct S3 {
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

struct Bucket {
    region: String,
    objects: BTreeMap<String, Bytes>,
}

/// The action that a method stands for.
pub(super) fn action(parts: &Parts) -> &'static str {
    match (&parts.method, location(parts)) {
        (&Method::GET, Some((_, Some(_)))) => "GetObject",
        (&Method::PUT, Some((_, Some(_)))) => "PutObject",
        (&Method::PUT, Some((_, None))) => "CreateBucket",
        _ => "Unknown",
    }
}

impl S3 {
    /// Makes a bucket without HTTP.
    pub(super) fn create_bucket(&self, region: &str, name: &str) {
        lock(&self.buckets).insert(name.into(), Bucket { region: region.into(), objects: BTreeMap::new() });
    }

    /// The region of the bucket that this request without a signature wants to read from.
    pub(super) fn region_of(&self, parts: &Parts) -> Option<String> {
        let (bucket, _) = location(parts)?;
        (parts.method == Method::GET).then(|| lock(&self.buckets).get(bucket).map(|bucket| bucket.region.clone()))?
    }

    pub(super) fn call(&self, region: &str, parts: &Parts, body: Bytes) -> Reply {
        self.answer(region, parts, body).unwrap_or_else(|refusal| {
            let error = text("Code", refusal.code) + &text("Message", &refusal.message);
            let error = tag("Error", error + &text("RequestId", request_id()));
            Reply::new(refusal.status, "application/xml", error).failed(refusal.code)
        })
    }

    fn answer(&self, region: &str, parts: &Parts, body: Bytes) -> Result<Reply, Refusal> {
        let unknown = || {
            let message =
                format!("the lab's S3 makes buckets, gets and puts objects: no {} {}", parts.method, parts.uri);
            Refusal::new("NotImplemented", message).status(501)
        };
        let (name, key) = location(parts).ok_or_else(unknown)?;
        let Some(key) = key else {
            return match action(parts) {
                "CreateBucket" if lock(&self.buckets).contains_key(name) => {
                    Err(Refusal::new("BucketAlreadyOwnedByYou", "The bucket is there and yours").status(409))
                }
                "CreateBucket" => {
                    self.create_bucket(region, name);
                    Ok(Reply::new(200, "application/xml", ""))
                }
                _ => Err(unknown()),
            };
        };
        let mut buckets = lock(&self.buckets);
        let bucket = buckets
            .get_mut(name)
            .ok_or_else(|| Refusal::new("NoSuchBucket", format!("The bucket {name} does not exist")).status(404))?;
        if bucket.region != region {
            let message = format!("The bucket {name} is in {}, not in {region}", bucket.region);
            return Err(Refusal::new("PermanentRedirect", message).status(301));
        }
        let stored = bucket.objects.get(key);
        match parts.method {
            Method::GET => match stored {
                Some(object) => Ok(with_etag(Reply::new(200, "application/json", object.clone()), object)),
                None => Err(Refusal::new("NoSuchKey", "The specified key does not exist.").status(404)),
            },
            Method::PUT => {
                precondition(&parts.headers, stored)?;
                let reply = with_etag(Reply::new(200, "application/xml", ""), &body);
                bucket.objects.insert(key.into(), body);
                Ok(reply)
            }
            _ => Err(unknown()),
        }
    }
}

fn precondition(headers: &HeaderMap, stored: Option<&Bytes>) -> Result<(), Refusal> {
    let wanted = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let stored = stored.map(|object| etag(object));
    let met = match (wanted(header::IF_MATCH), wanted(header::IF_NONE_MATCH)) {
        (Some(wanted), None) => match &stored {
            Some(etag) => etag == wanted,
            None => return Err(Refusal::new("NoSuchKey", "The specified key does not exist.").status(404)),
        },
        (None, Some("*")) => stored.is_none(),
        (None, None) => true,
        _ => return Err(Refusal::new("NotImplemented", "the lab does not support this condition").status(501)),
    };
    let message = "At least one of the pre-conditions you specified did not hold";
    if met { Ok(()) } else { Err(Refusal::new("PreconditionFailed", message).status(412)) }
}

/// Bucket and key of a path-style request.
fn location(parts: &Parts) -> Option<(&str, Option<&str>)> {
    let query = parts.uri.query().unwrap_or_default();
    let plain = query.is_empty() || query.starts_with("x-id=");
    let path = parts.uri.path().strip_prefix('/')?;
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    (plain && !bucket.is_empty()).then_some((bucket, Some(key).filter(|key| !key.is_empty())))
}

fn etag(object: &[u8]) -> String {
    let digest: String = Md5::digest(object).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digest}\"")
}

fn with_etag(mut reply: Reply, object: &[u8]) -> Reply {
    let etag = etag(object).parse().expect("a digest is ASCII");
    reply.response.headers_mut().insert(header::ETAG, etag);
    reply
}
