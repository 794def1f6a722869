//! Route 53, REST XML of 2013-04-01: hosted zones with simple A, CNAME and TXT records.
//!
//! A change batch is atomic: checked as a whole, `PENDING`, and published to DNS at one instant
//! when it becomes `INSYNC`, in the order of submission. Listings show it at once, as in AWS.
//! Deliberately absent, and refused: alias, weighted, failover and health-checked records, private
//! zones, wildcards. One zone per name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::anyhow;
use axum::http::Method;
use axum::http::request::Parts;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::wire::{Outcome, Refusal, Reply, document, lock, tag, text, xml_error};
use crate::dns::{self, Change, RecordKind, RecordSet, Zones, fqdn, within};

const NAMESPACE: &str = "https://route53.amazonaws.com/doc/2013-04-01/";
const MAX_ITEMS_DEFAULT: usize = 300;
const CHANGES_MAX: usize = 1000;

pub(super) struct Route53 {
    state: Arc<Mutex<State>>,
    zones: Zones,
    propagation: Duration,
    publish: mpsc::UnboundedSender<Publication>,
}

#[derive(Default)]
struct State {
    hosted: BTreeMap<String, HostedZone>,
    changes: HashMap<String, ChangeInfo>,
}

struct HostedZone {
    name: String,
    caller_reference: String,
    sets: BTreeMap<Key, Stored>,
}

/// Route 53 lists by the labels from the right, then by type.
type Key = (Vec<String>, String);

#[derive(Clone)]
struct Stored {
    name: String,
    ttl_s: u32,
    values: Vec<String>,
    /// None for the zone's own NS and SOA, which the DNS server makes itself.
    served: Option<RecordSet>,
}

struct ChangeInfo {
    submitted_at: Timestamp,
    comment: Option<String>,
    in_sync: bool,
}

struct Publication {
    due: Instant,
    change: String,
    batch: Vec<Change>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CreateHostedZone {
    #[serde(rename = "@xmlns")]
    _namespace: Option<String>,
    name: String,
    caller_reference: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ChangeResourceRecordSets {
    #[serde(rename = "@xmlns")]
    _namespace: Option<String>,
    change_batch: ChangeBatch,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ChangeBatch {
    comment: Option<String>,
    changes: Changes,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Changes {
    #[serde(default)]
    change: Vec<ChangeRequest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ChangeRequest {
    action: String,
    resource_record_set: SetRequest,
}

/// Fields of record sets that the lab does not have are unknown here, and so are refused by name.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct SetRequest {
    name: String,
    r#type: String,
    #[serde(rename = "TTL")]
    ttl: Option<u32>,
    resource_records: Option<ResourceRecords>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ResourceRecords {
    #[serde(default)]
    resource_record: Vec<ResourceRecord>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ResourceRecord {
    value: String,
}

/// The action that a method and path stand for.
pub(super) fn action(parts: &Parts) -> &'static str {
    match (&parts.method, segments(parts).as_slice()) {
        (&Method::POST, ["hostedzone"]) => "CreateHostedZone",
        (&Method::GET, ["hostedzone", _]) => "GetHostedZone",
        (&Method::GET, ["hostedzone", _, "rrset"]) => "ListResourceRecordSets",
        (&Method::POST, ["hostedzone", _, "rrset"]) => "ChangeResourceRecordSets",
        (&Method::GET, ["change", _]) => "GetChange",
        _ => "Unknown",
    }
}

fn segments(parts: &Parts) -> Vec<&str> {
    let path = parts.uri.path().strip_prefix("/2013-04-01/").unwrap_or_default();
    path.split('/').filter(|segment| !segment.is_empty()).collect()
}

impl Route53 {
    /// The service, and the task that publishes its changes to DNS.
    pub(super) fn new(zones: Zones, propagation: Duration) -> (Self, impl Future<Output = ()> + Send) {
        let (publish, mut publications) = mpsc::unbounded_channel::<Publication>();
        let state = Arc::new(Mutex::new(State::default()));
        let publisher = {
            let (state, zones) = (state.clone(), zones.clone());
            async move {
                while let Some(Publication { due, change, batch }) = publications.recv().await {
                    tokio::time::sleep_until(due).await;
                    zones.publish(batch);
                    if let Some(info) = lock(&state).changes.get_mut(&change) {
                        info.in_sync = true;
                    }
                }
            }
        };
        let service = Self { state, zones, propagation, publish };
        (service, publisher)
    }

    pub(super) fn call(&self, region: &str, parts: &Parts, body: &[u8]) -> Reply {
        if region != "us-east-1" {
            let message = format!("Credential should be scoped to us-east-1, not '{region}'.");
            let refusal = Refusal::new("SignatureDoesNotMatch", message).status(403);
            return xml_error(NAMESPACE, &refusal);
        }
        let segments = segments(parts);
        let id = segments.get(1).copied().unwrap_or_default();
        let outcome = match action(parts) {
            "CreateHostedZone" => self.create_hosted_zone(body),
            "GetHostedZone" => self.get_hosted_zone(id),
            "ListResourceRecordSets" => self.list(id, parts.uri.query().unwrap_or_default()),
            "ChangeResourceRecordSets" => self.change(id, body),
            "GetChange" => self.get_change(id),
            _ => {
                let message = format!("the lab's Route 53 has no operation at {} {}", parts.method, parts.uri.path());
                Err(Refusal::new("UnknownOperationException", message).status(404))
            }
        };
        outcome.unwrap_or_else(|refusal| xml_error(NAMESPACE, &refusal))
    }

    /// Makes a zone without HTTP; its id.
    pub(super) fn create_zone(&self, name: &str) -> anyhow::Result<String> {
        let reference = super::wire::request_id();
        self.add_zone(name, reference).map_err(|refusal| anyhow!("{}: {}", refusal.code, refusal.message))
    }

    /// Puts a record without HTTP, in sync at once: what was there before the lab began.
    pub(super) fn put(
        &self,
        zone: &str,
        name: &str,
        kind: RecordKind,
        ttl_s: u32,
        values: &[&str],
    ) -> anyhow::Result<()> {
        let name = fqdn(name)?;
        let mut state = lock(&self.state);
        let zone = state.hosted.get_mut(zone).ok_or_else(|| anyhow!("no hosted zone {zone}"))?;
        self.zones.set(&name, kind, ttl_s, values)?;
        let served = self.zones.get(&name, kind);
        let values = served.as_ref().map(|set| set.values().to_vec()).unwrap_or_default();
        let key = key(&name, kind.as_str());
        zone.sets.insert(key, Stored { name, ttl_s, values, served });
        Ok(())
    }

    fn add_zone(&self, name: &str, caller_reference: String) -> Outcome<String> {
        let name = fqdn(name).map_err(|error| Refusal::new("InvalidDomainName", error.to_string()))?;
        let mut state = lock(&self.state);
        if state.hosted.values().any(|zone| zone.caller_reference == caller_reference) {
            let message = format!(
                "A hosted zone has already been created with the specified caller reference {caller_reference}."
            );
            return Err(Refusal::new("HostedZoneAlreadyExists", message).status(409));
        }
        if state.hosted.values().any(|zone| zone.name == name) {
            let message = format!("the lab keeps one zone per name, and {name} exists");
            return Err(Refusal::new("ConflictingDomainExists", message));
        }
        self.zones.add_zone(&name).map_err(|error| Refusal::new("InvalidDomainName", error.to_string()))?;
        let apex = |kind: &str, ttl_s: u32, value: String| {
            let stored = Stored { name: name.clone(), ttl_s, values: vec![value], served: None };
            (key(&name, kind), stored)
        };
        let sets = BTreeMap::from([
            apex("NS", dns::APEX_TTL_S, dns::name_server(&name)),
            apex("SOA", dns::NEGATIVE_TTL_S, dns::soa_text(&name)),
        ]);
        let id = new_id('Z');
        let zone = HostedZone { name, caller_reference, sets };
        state.hosted.insert(id.clone(), zone);
        Ok(id)
    }

    fn create_hosted_zone(&self, body: &[u8]) -> Outcome<Reply> {
        let request: CreateHostedZone = read(body)?;
        let id = self.add_zone(&request.name, request.caller_reference)?;
        let mut state = lock(&self.state);
        let change = self.submit(&mut state, None, Vec::new());
        let zone = state.hosted.get(&id).expect("it was just made");
        let content =
            hosted_zone_xml(&id, zone) + &change_xml(&change, &state.changes[&change]) + &delegation_xml(zone);
        let mut reply = answer(201, "CreateHostedZoneResponse", content);
        let location = format!("{}hostedzone/{id}", NAMESPACE.replace("/doc", ""));
        let location = location.parse().expect("an id is ASCII");
        reply.response.headers_mut().insert("location", location);
        Ok(reply)
    }

    fn get_hosted_zone(&self, id: &str) -> Outcome<Reply> {
        let state = lock(&self.state);
        let zone = state.hosted.get(id).ok_or_else(|| no_zone(id))?;
        let content = hosted_zone_xml(id, zone) + &delegation_xml(zone);
        Ok(answer(200, "GetHostedZoneResponse", content))
    }

    fn list(&self, id: &str, query: &str) -> Outcome<Reply> {
        let state = lock(&self.state);
        let zone = state.hosted.get(id).ok_or_else(|| no_zone(id))?;
        let (mut start_name, mut start_type, mut max_items) = (None, None, MAX_ITEMS_DEFAULT);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "name" => {
                    let name = fqdn(&value).map_err(|error| invalid_input(error.to_string()))?;
                    start_name = Some(name);
                }
                "type" => start_type = Some(value.into_owned()),
                "maxitems" => {
                    let asked = value.parse().ok().filter(|n| *n > 0);
                    let asked = asked.ok_or_else(|| invalid_input("maxitems must be a positive number"))?;
                    max_items = MAX_ITEMS_DEFAULT.min(asked);
                }
                "x-id" => {}
                other => {
                    return Err(invalid_input(format!("the lab does not support '{other}' here")));
                }
            }
        }
        if start_type.is_some() && start_name.is_none() {
            return Err(invalid_input("The type parameter needs the name parameter"));
        }
        let start = start_name.map(|name| key(&name, &start_type.unwrap_or_default()));
        let mut sets = zone.sets.iter().skip_while(|(key, _)| start.as_ref().is_some_and(|start| *key < start));
        let page: String = sets.by_ref().take(max_items).map(|((_, kind), stored)| set_xml(kind, stored)).collect();
        let next =
            sets.next().map(|((_, kind), stored)| text("NextRecordName", &stored.name) + &text("NextRecordType", kind));
        let content = tag("ResourceRecordSets", page)
            + &text("IsTruncated", next.is_some())
            + &next.unwrap_or_default()
            + &text("MaxItems", max_items);
        Ok(answer(200, "ListResourceRecordSetsResponse", content))
    }

    fn change(&self, id: &str, body: &[u8]) -> Outcome<Reply> {
        let batch = read::<ChangeResourceRecordSets>(body)?.change_batch;
        let requests = batch.changes.change;
        if requests.is_empty() || requests.len() > CHANGES_MAX {
            let message = format!("a change batch has 1 to {CHANGES_MAX} changes, not {}", requests.len());
            return Err(invalid_input(message));
        }
        let mut state = lock(&self.state);
        let zone = state.hosted.get_mut(id).ok_or_else(|| no_zone(id))?;
        let (sets, touched) = changed(&zone.name, &zone.sets, requests)?;
        let published = touched
            .into_iter()
            .map(|(name, kind)| {
                let stored = sets.get(&key(&name, kind.as_str()));
                (name, kind, stored.and_then(|stored| stored.served.clone()))
            })
            .collect();
        zone.sets = sets;
        let change = self.submit(&mut state, batch.comment, published);
        let content = change_xml(&change, &state.changes[&change]);
        Ok(answer(200, "ChangeResourceRecordSetsResponse", content))
    }

    fn get_change(&self, id: &str) -> Outcome<Reply> {
        let state = lock(&self.state);
        let info = state.changes.get(id).ok_or_else(|| {
            let message = format!("Could not find resource with ID: {id}");
            Refusal::new("NoSuchChange", message).status(404)
        })?;
        Ok(answer(200, "GetChangeResponse", change_xml(id, info)))
    }

    /// Must be called under the lock: the order of submission is the order of publication.
    fn submit(&self, state: &mut State, comment: Option<String>, batch: Vec<Change>) -> String {
        let change = new_id('C');
        let info = ChangeInfo { submitted_at: Timestamp::now(), comment, in_sync: false };
        state.changes.insert(change.clone(), info);
        let due = Instant::now() + self.propagation;
        let publication = Publication { due, change: change.clone(), batch };
        if self.publish.send(publication).is_err() {
            tracing::debug!("a DNS change came while the lab was stopping");
        }
        change
    }
}

type Touched = BTreeSet<(String, RecordKind)>;

/// The sets after the batch, or every reason against it.
fn changed(
    zone: &str,
    before: &BTreeMap<Key, Stored>,
    requests: Vec<ChangeRequest>,
) -> Outcome<(BTreeMap<Key, Stored>, Touched)> {
    let (mut sets, mut touched, mut faults) = (before.clone(), Touched::new(), Vec::new());
    for ChangeRequest { action, resource_record_set: request } in requests {
        let name = fqdn(&request.name).map_err(|error| invalid_input(error.to_string()))?;
        let kind: RecordKind =
            request.r#type.parse().map_err(|error: anyhow::Error| invalid_input(error.to_string()))?;
        if !within(&name, zone) {
            faults.push(format!("RRSet with DNS name {name} is not permitted in zone {zone}"));
            continue;
        }
        let stored = match stored(zone, &name, kind, request)? {
            Ok(stored) => stored,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let key = key(&name, kind.as_str());
        let subject = format!("resource record set [name='{name}', type='{kind}']");
        let current = sets.get(&key);
        match action.as_str() {
            "CREATE" if current.is_some() => {
                faults.push(format!("Tried to create {subject} but it already exists"));
            }
            "CREATE" | "UPSERT" => {
                sets.insert(key, stored);
                touched.insert((name, kind));
            }
            "DELETE" => match current {
                None => faults.push(format!("Tried to delete {subject} but it was not found")),
                Some(current) if !same_set(current, &stored) => faults
                    .push(format!("Tried to delete {subject} but the values provided do not match the current values")),
                Some(_) => {
                    sets.remove(&key);
                    touched.insert((name, kind));
                }
            },
            other => return Err(invalid_input(format!("Invalid action '{other}'"))),
        }
    }
    // Judged on the outcome, so that one batch may replace an A by a CNAME.
    for (name, _) in &touched {
        let labels = key(name, "").0;
        let here = sets.keys().filter(|(other, _)| *other == labels);
        let kinds: Vec<_> = here.map(|(_, kind)| kind.as_str()).collect();
        if kinds.contains(&"CNAME") && kinds.len() > 1 {
            let fault = format!(
                "RRSet of type CNAME with DNS name {name} is not permitted as it conflicts with other records with the same DNS name in zone {zone}"
            );
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
    }
    if faults.is_empty() {
        Ok((sets, touched))
    } else {
        Err(Refusal::new("InvalidChangeBatch", format!("[{}]", faults.join(", "))))
    }
}

/// A checked set; the inner error is a fault of the batch.
fn stored(zone: &str, name: &str, kind: RecordKind, request: SetRequest) -> Outcome<Result<Stored, String>> {
    let missing = |field: &str| {
        invalid_input(format!(
            "Invalid request: Missing field '{field}' in Change with [Name={name}, Type={kind}]; the lab has simple records only"
        ))
    };
    let ttl_s = request.ttl.ok_or_else(|| missing("TTL"))?;
    let records = request.resource_records.ok_or_else(|| missing("ResourceRecords"))?;
    let values: Vec<_> = records.resource_record.into_iter().map(|record| record.value).collect();
    if kind == RecordKind::Cname && name == zone {
        return Ok(Err(format!("RRSet of type CNAME with DNS name {name} is not permitted at apex in zone {zone}")));
    }
    if let Some(twice) = values.iter().enumerate().find(|(i, value)| values[..*i].contains(value)) {
        return Ok(Err(format!("Duplicate Resource Record: '{}'", twice.1)));
    }
    let served = match RecordSet::new(kind, ttl_s, values.clone()) {
        Ok(served) => served,
        Err(error) => return Ok(Err(format!("Invalid Resource Record: '{error}'"))),
    };
    Ok(Ok(Stored { name: name.to_owned(), ttl_s, values, served: Some(served) }))
}

fn same_set(one: &Stored, other: &Stored) -> bool {
    let values = |stored: &Stored| stored.values.iter().cloned().collect::<BTreeSet<_>>();
    one.ttl_s == other.ttl_s && values(one) == values(other)
}

fn key(name: &str, kind: &str) -> Key {
    let labels = name.trim_end_matches('.').rsplit('.').map(str::to_owned);
    (labels.collect(), kind.to_owned())
}

fn new_id(prefix: char) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
    format!("{prefix}{}", &id[..20])
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Outcome<T> {
    let body = std::str::from_utf8(body).map_err(|error| invalid_input(error.to_string()))?;
    quick_xml::de::from_str(body).map_err(|error| {
        let message = error.to_string();
        if message.contains("unknown field") {
            invalid_input(format!("the lab does not support this: {message}"))
        } else {
            invalid_input(format!("Invalid XML: {message}"))
        }
    })
}

fn answer(status: u16, root: &str, content: String) -> Reply {
    Reply::new(status, "text/xml", document(root, NAMESPACE, content))
}

fn hosted_zone_xml(id: &str, zone: &HostedZone) -> String {
    tag(
        "HostedZone",
        text("Id", format!("/hostedzone/{id}"))
            + &text("Name", &zone.name)
            + &text("CallerReference", &zone.caller_reference)
            + &tag("Config", text("PrivateZone", false))
            + &text("ResourceRecordSetCount", zone.sets.len()),
    )
}

fn delegation_xml(zone: &HostedZone) -> String {
    let server = dns::name_server(&zone.name);
    let server = text("NameServer", server.trim_end_matches('.'));
    tag("DelegationSet", tag("NameServers", server))
}

fn change_xml(id: &str, info: &ChangeInfo) -> String {
    let comment = info.comment.as_ref().map(|comment| text("Comment", comment));
    tag(
        "ChangeInfo",
        text("Id", format!("/change/{id}"))
            + &text("Status", if info.in_sync { "INSYNC" } else { "PENDING" })
            + &text("SubmittedAt", format!("{:.3}", info.submitted_at))
            + &comment.unwrap_or_default(),
    )
}

fn set_xml(kind: &str, stored: &Stored) -> String {
    let values = stored.values.iter();
    let values: String = values.map(|value| tag("ResourceRecord", text("Value", value))).collect();
    tag(
        "ResourceRecordSet",
        text("Name", &stored.name) + &text("Type", kind) + &text("TTL", stored.ttl_s) + &tag("ResourceRecords", values),
    )
}

fn invalid_input(message: impl Into<String>) -> Refusal {
    Refusal::new("InvalidInput", message)
}

fn no_zone(id: &str) -> Refusal {
    let message = format!("No hosted zone found with ID: {id}");
    Refusal::new("NoSuchHostedZone", message).status(404)
}
