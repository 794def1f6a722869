//! Downloads: bounded, and only from where nobody on the way can change them.

use crate::failure::{Failure, chain};
use reqwest::Client;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use std::net::IpAddr;
use url::{Host, Url};

/// What was fetched.
pub(crate) struct Downloaded {
    /// Where it was in the end.
    pub(crate) url: Url,
    pub(crate) content_type: String,
    pub(crate) bytes: Vec<u8>,
}

/// An address that may be fetched: https, or http on this machine.
pub(crate) fn checked_url(name: &str, text: &str) -> Result<Url, Failure> {
    // The parser's error is shown, the text is not: it may hold a password.
    let url = Url::parse(text).map_err(|error| Failure::new(format!("{name} is no URL: {error}")))?;
    if is_safe(&url) {
        return Ok(url);
    }
    Err(Failure::new(format!("{name} must be an https URL; http is for this machine's own addresses")))
}

pub(crate) fn is_safe(url: &Url) -> bool {
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && local)
}

/// The address without what may be secret.
pub(crate) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// Fetches at most so many bytes.
pub(crate) async fn download(http: &Client, url: &Url, accept: &str, bytes_max: usize) -> Result<Downloaded, Failure> {
    let at = shown(url);
    let failed = |what: String| Failure::new(format!("downloading {at}: {what}"));
    let broken = |error: reqwest::Error| failed(chain(&error.without_url()));
    let mut answer = http.get(url.clone()).header(ACCEPT, accept).send().await.map_err(broken)?;
    if !is_safe(answer.url()) {
        return Err(failed("it leads to an address without TLS".into()));
    }
    if !answer.status().is_success() {
        return Err(failed(format!("the server answered {}", answer.status())));
    }
    let too_large =
        || failed(format!("it is larger than {bytes_max} bytes, the most that is taken with this MemorySize"));
    if answer.content_length().is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let url = answer.url().clone();
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(broken)? {
        if bytes.len() + chunk.len() > bytes_max {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Downloaded { url, content_type, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_is_fetched_or_what_is_on_this_machine() {
        for good in ["https://example.com/a", "http://127.0.0.1:8000/", "http://localhost/", "http://[::1]/"] {
            assert!(checked_url("SourceUrl", good).is_ok(), "{good}");
        }
        for bad in ["http://example.com/", "http://127.0.0.1.example.com/", "file:///etc/passwd", "s3://b/k", "x"] {
            assert!(checked_url("SourceUrl", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_may_be_secret_in_an_address_is_not_shown() {
        let url = Url::parse("https://user:hush@example.com:444/a?X-Amz-Signature=hush#hush").unwrap();
        assert_eq!(shown(&url), "https://example.com:444/a");
    }
}
