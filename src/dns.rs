//! Asking DNS: without a cache, so that an answer is the name server's and not our own memory.

use crate::database::ProbeError;
use async_trait::async_trait;
use futures::stream::{FuturesUnordered, StreamExt as _};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest time for one question.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long one address is waited for before the next is tried beside it (RFC 8305, section 8).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// A name could not be looked up.
#[derive(Debug, Clone, thiserror::Error)]
#[error("DNS lookup of {name} failed: {detail}")]
pub struct DnsError {
    /// Which name.
    pub name: String,
    /// Why.
    pub detail: String,
}

/// What the effects need of DNS.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// The CNAME of `name` as its name servers answer it, fully qualified and in lower case.
    async fn cname(&self, name: &str) -> Result<String, DnsError>;
}

/// A resolver without cache.
#[derive(Clone)]
pub struct Dns {
    resolver: TokioResolver,
}

impl Dns {
    /// Asks `nameservers`, or the system's when there are none.
    ///
    /// # Errors
    /// When the system has no usable resolver configuration.
    pub fn new(nameservers: &[SocketAddr]) -> Result<Self, DnsError> {
        let failed = |detail: String| DnsError { name: "(resolver)".into(), detail };
        let mut builder = if nameservers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| failed(error.to_string()))?
        } else {
            let servers = nameservers.iter().map(name_server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options: &mut ResolverOpts = builder.options_mut();
        options.cache_size = 0;
        options.timeout = TIMEOUT;
        options.attempts = 1;
        options.edns0 = false;
        let resolver = builder.build().map_err(|error| failed(error.to_string()))?;
        Ok(Self { resolver })
    }

    /// The addresses of `name`, CNAMEs followed, and the name that has them.
    ///
    /// # Errors
    /// When there is no answer or no address.
    pub async fn addresses(&self, name: &str) -> Result<(String, Vec<IpAddr>), DnsError> {
        let found = self.resolver.lookup_ip(name).await.map_err(|error| failed(name, &error.to_string()))?;
        let addresses: Vec<IpAddr> = found.iter().collect();
        let mut aliases = found.as_lookup().answers().iter().rev().filter_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.0.to_string().to_ascii_lowercase()),
            _ => None,
        });
        let canonical = aliases.next().unwrap_or_else(|| name.to_ascii_lowercase());
        if addresses.is_empty() { Err(failed(name, "no address")) } else { Ok((canonical, addresses)) }
    }
}

#[async_trait]
impl Resolver for Dns {
    async fn cname(&self, name: &str) -> Result<String, DnsError> {
        let found = self.resolver.lookup(name, RecordType::CNAME).await;
        let found = found.map_err(|error| failed(name, &error.to_string()))?;
        let cname = found.answers().iter().find_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.0.to_string().to_ascii_lowercase()),
            _ => None,
        });
        cname.ok_or_else(|| failed(name, "it has no CNAME"))
    }
}

impl From<DnsError> for ProbeError {
    fn from(error: DnsError) -> Self {
        Self::new("dns", error.to_string())
    }
}

/// Connects to whichever address of a name answers first, of IPv4 or IPv6; the caller sets the deadline.
///
/// # Errors
/// Classes `refused` and `connection`: of the last address that failed.
pub async fn connect(addresses: &[IpAddr], port: u16) -> Result<(SocketAddr, TcpStream), ProbeError> {
    let attempt = |(number, ip): (usize, &IpAddr)| {
        let address = SocketAddr::new(*ip, port);
        async move {
            let turn = u32::try_from(number).unwrap_or(u32::MAX);
            if turn > 0 {
                tokio::time::sleep(NEXT_ADDRESS_AFTER.saturating_mul(turn)).await;
            }
            let connected = TcpStream::connect(address).await;
            connected.map(|stream| (address, stream)).map_err(|error| {
                let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
                ProbeError::new(if refused { "refused" } else { "connection" }, format!("{address}: {error}"))
            })
        }
    };
    let mut attempts: FuturesUnordered<_> = addresses.iter().enumerate().map(attempt).collect();
    let mut failure = ProbeError::new("dns", "no address");
    while let Some(connected) = attempts.next().await {
        match connected {
            Ok(connected) => return Ok(connected),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn failed(name: &str, detail: &str) -> DnsError {
    DnsError { name: name.into(), detail: detail.into() }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        let connection: &mut ConnectionConfig = connection;
        connection.port = address.port();
    }
    server
}
