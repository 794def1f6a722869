//! Asking for a page, as a monitor does: a new connection each time, names looked up by our own resolver, no redirects.

use crate::aws::{cause, chain};
use crate::config::PageSettings;
use crate::database::ProbeError;
use crate::dns::Dns;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};
use std::net::SocketAddr;
use std::path::Path;

/// Of a page, so many bytes are searched.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A client for pages.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
}

impl Http {
    /// Trusts the authorities of `ca_file`, or the system's.
    ///
    /// # Errors
    /// Class `tls` when they cannot be read.
    pub fn new(dns: &Dns, ca_file: Option<&Path>) -> Result<Self, ProbeError> {
        let mut builder = Client::builder()
            .dns_resolver(ByDns(dns.clone()))
            .redirect(Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .user_agent("aurora-failover");
        if let Some(path) = ca_file {
            let failed = |detail: String| ProbeError::new("tls", format!("ca-file {}: {detail}", path.display()));
            let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| failed(chain(&error)))?;
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| ProbeError::new("tls", chain(&error)))?;
        Ok(Self { client })
    }

    /// Asks for the page; the caller sets the deadline.
    ///
    /// # Errors
    /// Classes `dns`, `refused`, `tls`, `connection`, `status`, `body`.
    pub async fn get(&self, page: &PageSettings) -> Result<(), ProbeError> {
        let mut answer = self.client.get(page.url.clone()).send().await.map_err(|error| classify(&error))?;
        let status = answer.status();
        let fits = page.status.map_or_else(|| status.is_success(), |wanted| status.as_u16() == wanted);
        if !fits {
            return Err(ProbeError::new("status", format!("{} answered {status}", page.url)));
        }
        let Some(wanted) = &page.body else { return Ok(()) };
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| classify(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() >= BODY_BYTES_MAX {
                break;
            }
        }
        if String::from_utf8_lossy(&body).contains(wanted.as_str()) {
            return Ok(());
        }
        Err(ProbeError::new("body", format!("{} does not contain {wanted:?}", page.url)))
    }
}

/// What the error is at its root.
fn classify(error: &reqwest::Error) -> ProbeError {
    let refused = cause::<std::io::Error>(error).is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
    let class = match cause::<ProbeError>(error) {
        Some(known) => known.class,
        None if cause::<rustls::Error>(error).is_some() => "tls",
        None if refused => "refused",
        None => "connection",
    };
    ProbeError::new(class, chain(error))
}

struct ByDns(Dns);

impl Resolve for ByDns {
    fn resolve(&self, name: Name) -> Resolving {
        let dns = self.0.clone();
        Box::pin(async move {
            let (_, addresses) = dns.addresses(name.as_str()).await.map_err(ProbeError::from)?;
            let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
