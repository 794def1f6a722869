//! The lab's authoritative DNS server, and the resolver its clients use.
//!
//! [`Zones`] is the data: what Route 53 publishes and what the lab itself sets
//! (endpoints of clusters and of the website). [`DnsServer`] answers from it on
//! one loopback port, UDP and TCP; a change is visible to the very next query.
//!
//! Deliberately absent: recursion, zone transfer, DNSSEC, wildcards and record
//! types other than A, AAAA, CNAME and TXT. Names below no zone are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, NS, SOA, TXT};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

/// Negative answers are cached this long. Route 53's default is 900 s; the lab
/// keeps it short so that a name asked for too early does not stay missing.
pub(crate) const NEGATIVE_TTL_S: u32 = 5;
pub(crate) const APEX_TTL_S: u32 = 172_800;
const CHAIN_MAX: usize = 16;
const BIND_TRIES: usize = 16;
const UDP_PAYLOAD_MAX: u16 = 1232;
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_RESPONSE_BUFFER: usize = 32;

/// A record type that the lab serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Alias to another name.
    Cname,
    /// Quoted text.
    Txt,
}

impl RecordKind {
    /// The type's name as in a zone file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
            Self::Txt => "TXT",
        }
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RecordKind {
    type Err = anyhow::Error;

    fn from_str(kind: &str) -> anyhow::Result<Self> {
        Ok(match kind {
            "A" => Self::A,
            "AAAA" => Self::Aaaa,
            "CNAME" => Self::Cname,
            "TXT" => Self::Txt,
            other => bail!("the lab serves A, AAAA, CNAME and TXT records only, not {other}"),
        })
    }
}

/// All records of one name and type.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordSet {
    kind: RecordKind,
    ttl_s: u32,
    values: Vec<String>,
    data: Vec<RData>,
}

impl RecordSet {
    /// Checks the values: at least one, one only for CNAME, each well formed.
    pub fn new(kind: RecordKind, ttl_s: u32, values: Vec<String>) -> anyhow::Result<Self> {
        ensure!(!values.is_empty(), "a record set needs at least one value");
        ensure!(
            kind != RecordKind::Cname || values.len() == 1,
            "a CNAME record set has exactly one value, not {}",
            values.len()
        );
        ensure!(ttl_s <= 2_147_483_647, "TTL {ttl_s} is over 2147483647");
        let data = values.iter().map(|value| parse_rdata(kind, value)).collect::<anyhow::Result<_>>()?;
        Ok(Self { kind, ttl_s, values, data })
    }

    /// The record type.
    pub fn kind(&self) -> RecordKind {
        self.kind
    }

    /// Time to live, seconds.
    pub fn ttl_s(&self) -> u32 {
        self.ttl_s
    }

    /// The values as they were given.
    pub fn values(&self) -> &[String] {
        &self.values
    }
}

fn parse_rdata(kind: RecordKind, value: &str) -> anyhow::Result<RData> {
    Ok(match kind {
        RecordKind::A => RData::A(A(
            Ipv4Addr::from_str(value).with_context(|| format!("value is not a valid IPv4 address: '{value}'"))?
        )),
        RecordKind::Aaaa => RData::AAAA(AAAA(
            Ipv6Addr::from_str(value).with_context(|| format!("value is not a valid IPv6 address: '{value}'"))?,
        )),
        RecordKind::Cname => RData::CNAME(CNAME(dns_name(&fqdn(value)?)?)),
        RecordKind::Txt => RData::TXT(TXT::new(character_strings(value)?)),
    })
}

/// Splits `"one" "two"` into its character strings.
fn character_strings(value: &str) -> anyhow::Result<Vec<String>> {
    let quoted = || format!("value must be strings of 255 bytes at most in quotation marks: {value}");
    let mut strings = Vec::new();
    let mut rest = value.trim();
    while !rest.is_empty() {
        let mut chars = rest.strip_prefix('"').with_context(quoted)?.chars();
        let mut text = String::new();
        loop {
            match chars.next().with_context(quoted)? {
                '"' => break,
                '\\' => text.push(chars.next().with_context(quoted)?),
                other => text.push(other),
            }
        }
        ensure!(text.len() <= 255, quoted());
        strings.push(text);
        rest = chars.as_str().trim_start();
    }
    ensure!(!strings.is_empty(), quoted());
    Ok(strings)
}

/// The one spelling of a name: lower case, with the final dot.
pub fn fqdn(name: &str) -> anyhow::Result<String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    ensure!(
        bare.len() <= 253 && bare.split('.').all(label_ok),
        "'{name}' is not a domain name that the lab supports: labels of letters, digits, '-' and '_'"
    );
    Ok(format!("{}.", bare.to_ascii_lowercase()))
}

/// Whether `name` is `zone` or below it (both as [`fqdn`] gives them).
pub(crate) fn within(name: &str, zone: &str) -> bool {
    name == zone || name.strip_suffix(zone).is_some_and(|head| head.ends_with('.'))
}

/// One change to publish: the set to serve from now on, or none.
pub(crate) type Change = (String, RecordKind, Option<RecordSet>);

#[derive(Default)]
struct ZonesData {
    origins: BTreeSet<String>,
    records: BTreeMap<String, BTreeMap<RecordKind, RecordSet>>,
}

/// The records that the server answers from. Clones share them.
#[derive(Clone, Default)]
pub struct Zones(Arc<RwLock<ZonesData>>);

impl Zones {
    /// No zones yet: everything is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the server authoritative for `origin` and all below it.
    pub fn add_zone(&self, origin: &str) -> anyhow::Result<()> {
        let origin = fqdn(origin)?;
        self.write().origins.insert(origin);
        Ok(())
    }

    /// Sets (or replaces) the records of one name and type.
    pub fn set(&self, name: &str, kind: RecordKind, ttl_s: u32, values: &[&str]) -> anyhow::Result<()> {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let set = RecordSet::new(kind, ttl_s, values)?;
        let name = fqdn(name)?;
        ensure!(self.covers(&name), "no zone holds {name}; add the zone first");
        self.publish(vec![(name, kind, Some(set))]);
        Ok(())
    }

    /// Takes the records of one name and type away; nothing happens if there are none.
    pub fn remove(&self, name: &str, kind: RecordKind) -> anyhow::Result<()> {
        self.publish(vec![(fqdn(name)?, kind, None)]);
        Ok(())
    }

    /// The records served for a name and type.
    pub fn get(&self, name: &str, kind: RecordKind) -> Option<RecordSet> {
        let name = fqdn(name).ok()?;
        self.read().records.get(&name)?.get(&kind).cloned()
    }

    /// Whether a zone holds this name.
    pub fn covers(&self, name: &str) -> bool {
        fqdn(name).is_ok_and(|name| self.read().origin_of(&name).is_some())
    }

    /// Publishes a whole batch at one instant.
    pub(crate) fn publish(&self, batch: Vec<Change>) {
        let mut data = self.write();
        for (name, kind, set) in batch {
            let sets = data.records.entry(name.clone()).or_default();
            match set {
                Some(set) => sets.insert(kind, set),
                None => sets.remove(&kind),
            };
            if sets.is_empty() {
                data.records.remove(&name);
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, ZonesData> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, ZonesData> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Answer {
    code: ResponseCode,
    records: Vec<Record>,
    soa: Option<Record>,
}

impl ZonesData {
    fn origin_of(&self, name: &str) -> Option<&str> {
        let longest = self.origins.iter().filter(|origin| within(name, origin));
        longest.max_by_key(|origin| origin.len()).map(String::as_str)
    }

    fn answer(&self, name: &str, kind: RecordType) -> anyhow::Result<Answer> {
        let mut answer = Answer { code: ResponseCode::NoError, records: Vec::new(), soa: None };
        let Some(mut origin) = self.origin_of(name) else {
            answer.code = ResponseCode::Refused;
            return Ok(answer);
        };
        let mut name = name.to_owned();
        for _ in 0..CHAIN_MAX {
            let here = self.at(&name, origin, kind)?;
            if !here.is_empty() {
                answer.records.extend(here);
                return Ok(answer);
            }
            let alias = self.at(&name, origin, RecordType::CNAME)?;
            let Some(RData::CNAME(target)) = alias.first().map(|record| &record.data) else {
                // Nothing of that type at the end of the chain: does the name exist at all?
                let exists = name == origin || self.records.keys().any(|known| within(known, &name));
                if !exists {
                    answer.code = ResponseCode::NXDomain;
                }
                answer.soa = Some(self.soa(origin)?);
                return Ok(answer);
            };
            name = target.0.to_lowercase().to_string();
            answer.records.extend(alias);
            match self.origin_of(&name) {
                Some(next) => origin = next,
                None => return Ok(answer),
            }
        }
        answer.code = ResponseCode::ServFail;
        Ok(answer)
    }

    /// The records of exactly this name and type, SOA and NS of the apex included.
    fn at(&self, name: &str, origin: &str, kind: RecordType) -> anyhow::Result<Vec<Record>> {
        let owner = dns_name(name)?;
        Ok(match kind {
            RecordType::SOA if name == origin => vec![self.soa(origin)?],
            RecordType::NS if name == origin => {
                let server = dns_name(&name_server(origin))?;
                vec![Record::from_rdata(owner, APEX_TTL_S, RData::NS(NS(server)))]
            }
            _ => {
                let sets = self.records.get(name).into_iter().flat_map(BTreeMap::values);
                let set = sets.filter(|set| match set.kind {
                    RecordKind::A => kind == RecordType::A,
                    RecordKind::Aaaa => kind == RecordType::AAAA,
                    RecordKind::Cname => kind == RecordType::CNAME,
                    RecordKind::Txt => kind == RecordType::TXT,
                });
                let record = |set: &RecordSet, data: &RData| Record::from_rdata(owner.clone(), set.ttl_s, data.clone());
                set.flat_map(|set| set.data.iter().map(move |data| (set, data)))
                    .map(|(set, data)| record(set, data))
                    .collect()
            }
        })
    }

    fn soa(&self, origin: &str) -> anyhow::Result<Record> {
        let data = SOA::new(
            dns_name(&name_server(origin))?,
            dns_name(&hostmaster(origin))?,
            1,
            7200,
            900,
            1_209_600,
            NEGATIVE_TTL_S,
        );
        let owner = dns_name(origin)?;
        Ok(Record::from_rdata(owner, NEGATIVE_TTL_S, RData::SOA(data)))
    }
}

/// The synthesized name server of a zone.
pub(crate) fn name_server(origin: &str) -> String {
    format!("ns.{origin}")
}

/// The zone's SOA as text, as a listing of the zone shows it.
pub(crate) fn soa_text(origin: &str) -> String {
    let (server, contact) = (name_server(origin), hostmaster(origin));
    format!("{server} {contact} 1 7200 900 1209600 {NEGATIVE_TTL_S}")
}

fn hostmaster(origin: &str) -> String {
    format!("hostmaster.{origin}")
}

fn dns_name(name: &str) -> anyhow::Result<Name> {
    Name::from_ascii(name).with_context(|| format!("'{name}' is not a domain name"))
}

/// An authoritative server on loopback, UDP and TCP on the same port.
pub struct DnsServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: Server<Handler>,
}

/// What a server and its handler share.
#[derive(Default)]
struct Shared {
    queries: AtomicU64,
    silent: AtomicBool,
    delay_ms: AtomicU64,
}

/// What a server answers instead of an address: how things look from somewhere else.
pub type View = Arc<dyn Fn(Ipv4Addr) -> Ipv4Addr + Send + Sync>;

impl DnsServer {
    /// Binds a free port and answers from `zones` until shut down or dropped.
    pub async fn start(zones: Zones) -> anyhow::Result<Self> {
        Self::start_view(zones, Arc::new(|address| address)).await
    }

    /// The same, with every address replaced by what `view` makes of it.
    pub async fn start_view(zones: Zones, view: View) -> anyhow::Result<Self> {
        let (udp, tcp) = bind_pair().await?;
        let addr = udp.local_addr().context("reading the DNS server's address")?;
        let shared = Arc::<Shared>::default();
        let mut server = Server::new(Handler { zones, view, shared: shared.clone() });
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_RESPONSE_BUFFER);
        Ok(Self { addr, shared, server })
    }

    /// From now on it does not answer, as if its packets were dropped; or it does again.
    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    /// From now on every answer comes so much later.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many queries it has seen.
    pub fn queries(&self) -> u64 {
        self.shared.queries.load(Ordering::Relaxed)
    }

    /// Stops, and returns when both listeners are closed.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        let stopped = self.server.shutdown_gracefully().await;
        stopped.context("stopping the DNS server")
    }
}

/// The kernel gives a TCP port that is free for TCP; it may be taken for UDP.
async fn bind_pair() -> anyhow::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..BIND_TRIES {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("binding the DNS server's TCP port on 127.0.0.1")?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    bail!("no port of 127.0.0.1 was free for both UDP and TCP in {BIND_TRIES} tries: {last:?}")
}

struct Handler {
    zones: Zones,
    view: View,
    shared: Arc<Shared>,
}

impl Handler {
    fn answer(&self, request: &Request) -> Answer {
        let refuse = |code| Answer { code, records: Vec::new(), soa: None };
        let [query] = request.queries.queries() else {
            return refuse(ResponseCode::FormErr);
        };
        if request.metadata.op_code != OpCode::Query || query.query_type() == RecordType::ANY {
            return refuse(ResponseCode::NotImp);
        }
        if query.query_class() != DNSClass::IN {
            return refuse(ResponseCode::Refused);
        }
        let name = query.name().to_string();
        let answer = self.zones.read().answer(&name, query.query_type());
        let mut answer = answer.unwrap_or_else(|_| refuse(ResponseCode::ServFail));
        for record in &mut answer.records {
            if let RData::A(address) = &mut record.data {
                *address = A((self.view)(address.0));
            }
        }
        answer
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut reply: R) -> ResponseInfo {
        self.shared.queries.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer(request);
        if self.shared.silent.load(Ordering::Relaxed) {
            let metadata = Metadata::response_from_request(&request.metadata);
            return Header { metadata, counts: HeaderCounts::default() }.into();
        }
        match self.shared.delay_ms.load(Ordering::Relaxed) {
            0 => {}
            ms => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = answer.code != ResponseCode::Refused;
        metadata.response_code = answer.code;
        let mut edns = Edns::new();
        edns.set_max_payload(request.max_payload().min(UDP_PAYLOAD_MAX));
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let response = builder.build(metadata, &answer.records, [], &answer.soa, []);
        match reply.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a DNS reply could not be sent");
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}

/// A caching resolver that asks only `server` and honours TTLs, as a client of the lab needs it:
/// the system resolver cannot use a port other than 53.
pub fn resolver(server: SocketAddr) -> anyhow::Result<TokioResolver> {
    let mut upstream = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut upstream.connections {
        connection.port = server.port();
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![upstream]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = Duration::from_secs(1);
    options.attempts = 2;
    builder.build().context("building the DNS resolver")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::net::NetError;

    async fn started() -> (Zones, DnsServer) {
        let zones = Zones::new();
        zones.add_zone("lab.example").unwrap();
        zones.add_zone("rds.test").unwrap();
        zones.set("db.lab.example", RecordKind::Cname, 1, &["Writer.rds.test"]).unwrap();
        zones.set("writer.rds.test", RecordKind::A, 1, &["127.0.0.2"]).unwrap();
        zones.set("deep.name.lab.example", RecordKind::Txt, 1, &[r#""a" "b c""#]).unwrap();
        let server = DnsServer::start(zones.clone()).await.unwrap();
        (zones, server)
    }

    async fn ips(resolver: &TokioResolver, name: &str) -> Vec<String> {
        let found = resolver.ipv4_lookup(name).await.unwrap();
        let answers = found.answers().iter();
        answers.filter(|record| record.record_type() == RecordType::A).map(|record| record.data.to_string()).collect()
    }

    fn code(error: &NetError) -> &'static str {
        match error {
            error if error.is_nx_domain() => "NXDOMAIN",
            error if error.is_no_records_found() => "NODATA",
            error if error.to_string().contains("Refused") => "REFUSED",
            _ => "other",
        }
    }

    #[tokio::test]
    async fn a_chain_across_zones_is_one_answer_to_one_query() {
        let (_, server) = started().await;
        let resolver = resolver(server.addr()).unwrap();
        assert_eq!(ips(&resolver, "DB.lab.EXAMPLE.").await, ["127.0.0.2"]);
        assert_eq!(server.queries(), 1);
        assert_eq!(ips(&resolver, "db.lab.example.").await, ["127.0.0.2"]);
        assert_eq!(server.queries(), 1, "the second lookup is from the cache");
        server.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_change_is_seen_by_the_very_next_query() {
        let (zones, server) = started().await;
        for last in 1..50 {
            let ip = format!("127.0.0.{last}");
            zones.set("writer.rds.test", RecordKind::A, 60, &[&ip]).unwrap();
            let fresh = resolver(server.addr()).unwrap();
            assert_eq!(ips(&fresh, "db.lab.example.").await, [ip]);
        }
    }

    #[tokio::test]
    async fn a_cached_answer_lasts_no_longer_than_its_ttl() {
        let (zones, server) = started().await;
        let resolver = resolver(server.addr()).unwrap();
        assert_eq!(ips(&resolver, "writer.rds.test.").await, ["127.0.0.2"]);
        zones.set("writer.rds.test", RecordKind::A, 1, &["127.0.0.3"]).unwrap();
        assert_eq!(ips(&resolver, "writer.rds.test.").await, ["127.0.0.2"]);
        let changed = async {
            while ips(&resolver, "writer.rds.test.").await != ["127.0.0.3"] {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), changed).await.unwrap();
    }

    #[tokio::test]
    async fn missing_names_missing_types_and_foreign_names_are_told_apart() {
        let (zones, server) = started().await;
        let resolver = resolver(server.addr()).unwrap();
        let failed = async |name: &str, kind| code(&resolver.lookup(name, kind).await.unwrap_err());
        assert_eq!(failed("nothing.lab.example.", RecordType::A).await, "NXDOMAIN");
        assert_eq!(failed("writer.rds.test.", RecordType::AAAA).await, "NODATA");
        assert_eq!(failed("db.lab.example.", RecordType::AAAA).await, "NODATA");
        assert_eq!(failed("name.lab.example.", RecordType::A).await, "NODATA");
        assert_eq!(failed("lab.example.", RecordType::A).await, "NODATA");
        assert_eq!(failed("www.elsewhere.test.", RecordType::A).await, "REFUSED");
        zones.remove("writer.rds.test", RecordKind::A).unwrap();
        assert_eq!(failed("db.lab.example.", RecordType::A).await, "NXDOMAIN");
    }

    #[tokio::test]
    async fn the_apex_has_soa_and_ns_and_tcp_answers_too() {
        let (_, server) = started().await;
        let mut upstream = NameServerConfig::tcp(server.addr().ip());
        upstream.connections[0].port = server.addr().port();
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![upstream]);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap();
        let found = resolver.lookup("lab.example.", RecordType::SOA).await.unwrap();
        assert!(found.answers()[0].data.to_string().starts_with("ns.lab.example."));
        assert!(resolver.lookup("lab.example.", RecordType::NS).await.is_ok());
        let text = resolver.lookup("deep.name.lab.example.", RecordType::TXT).await.unwrap();
        assert_eq!(text.answers()[0].data.to_string(), "ab c");
    }

    #[tokio::test]
    async fn a_loop_of_aliases_is_a_server_failure_not_a_hang() {
        let (zones, server) = started().await;
        zones.set("a.rds.test", RecordKind::Cname, 1, &["b.rds.test"]).unwrap();
        zones.set("b.rds.test", RecordKind::Cname, 1, &["a.rds.test"]).unwrap();
        let resolver = resolver(server.addr()).unwrap();
        assert!(resolver.ipv4_lookup("a.rds.test.").await.is_err());
    }

    #[test]
    fn bad_values_and_names_are_refused() {
        let new = |kind, values: &[&str]| RecordSet::new(kind, 1, values.iter().map(|v| (*v).to_owned()).collect());
        assert!(new(RecordKind::A, &["127.0.0.256"]).is_err());
        assert!(new(RecordKind::A, &[]).is_err());
        assert!(new(RecordKind::Cname, &["a.test", "b.test"]).is_err());
        assert!(new(RecordKind::Txt, &["no quotes"]).is_err());
        assert!(new(RecordKind::Txt, &[r#""a\"b""#]).is_ok());
        assert!(fqdn("*.lab.example").is_err());
        assert!(Zones::new().set("a.b", RecordKind::A, 1, &["127.0.0.1"]).is_err());
        assert_eq!(fqdn("A.Lab.Example").unwrap(), "a.lab.example.");
        assert!(!within("alab.example.", "lab.example."));
    }
}
