//! The resources: what is common to all, and the way from a ResourceType to its module.

mod deploy_code;
mod dns_records;
mod empty_bucket;
mod global_cluster_member;
mod python_layer;
mod region_exports;
mod statements;
mod vpc_peering;

use crate::aws::Aws;
use crate::failure::Failure;
use crate::function::Function;
use crate::protocol::{Data, Request, RequestType};
use deploy_code::DeployCode;
use dns_records::DnsRecords;
use empty_bucket::EmptyBucket;
use global_cluster_member::GlobalClusterMember;
use python_layer::PythonLayer;
use region_exports::RegionExports;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use statements::Statements;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};
use vpc_peering::VpcPeering;

/// All resource types.
pub const TYPES: [&str; 8] = [
    DeployCode::TYPE,
    DnsRecords::TYPE,
    EmptyBucket::TYPE,
    GlobalClusterMember::TYPE,
    PythonLayer::TYPE,
    RegionExports::TYPE,
    Statements::TYPE,
    VpcPeering::TYPE,
];

/// One kind of resource; a value of it is a set of properties that can be used. Everything may be asked twice.
trait Resource: DeserializeOwned + Send + Sync + 'static {
    /// As in a template.
    const TYPE: &'static str;

    /// Creation makes nothing that would have to be taken away after a failure.
    const ONLY_DELETES: bool = false;

    /// What the types of the properties do not say.
    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// What the resource is about: if it changes, the resource is another one, and the old one is deleted.
    fn identity(&self) -> Vec<String>;

    /// Makes it so: after this the world is as the properties say. `old` are the properties before an Update.
    fn put(&self, old: Option<&Self>, job: &Job) -> impl Future<Output = Result<Data, Failure>> + Send;

    /// Takes away what `put` made, or only a part of it, or nothing.
    fn remove(&self, job: &Job) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Without a number from Lambda.
const MEMORY_BYTES: usize = 512 * 1024 * 1024;

/// What a resource works with.
struct Job {
    aws: Aws,
    /// Of the function. Whoever uses more is killed, and can answer nothing.
    memory_bytes: usize,
    /// Names what this resource has made: the same for the same stack, logical id and identity.
    mark: String,
    /// The work ends then at the latest.
    until: Instant,
}

impl Job {
    /// Waits between two looks, or fails when there would be no time for another one.
    async fn wait(&self, pause: Duration, for_what: &str) -> Result<(), Failure> {
        if Instant::now() + pause >= self.until {
            return Err(Failure::new(format!("the time was over while waiting: {for_what}")));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Calls a generic function for the type that a ResourceType names.
macro_rules! for_type {
    ($name:expr, $function:ident($($argument:expr),*) $($await:tt)*) => {
        match $name {
            DeployCode::TYPE => $function::<DeployCode>($($argument),*) $($await)*,
            DnsRecords::TYPE => $function::<DnsRecords>($($argument),*) $($await)*,
            EmptyBucket::TYPE => $function::<EmptyBucket>($($argument),*) $($await)*,
            GlobalClusterMember::TYPE => $function::<GlobalClusterMember>($($argument),*) $($await)*,
            PythonLayer::TYPE => $function::<PythonLayer>($($argument),*) $($await)*,
            RegionExports::TYPE => $function::<RegionExports>($($argument),*) $($await)*,
            Statements::TYPE => $function::<Statements>($($argument),*) $($await)*,
            VpcPeering::TYPE => $function::<VpcPeering>($($argument),*) $($await)*,
            unknown => Err(Failure::new(format!(
                "the resource type {unknown:?} is not known; known are {}",
                TYPES.join(", ")
            ))),
        }
    };
}

/// All resources, on one set of AWS clients.
#[derive(Clone)]
pub struct Resources {
    aws: Aws,
    memory_bytes: usize,
}

impl Resources {
    /// With the standard environment of AWS and of Lambda.
    #[must_use]
    pub fn from_env() -> Self {
        let megabytes = std::env::var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").ok().and_then(|size| size.parse().ok());
        let memory_bytes = megabytes.map_or(MEMORY_BYTES, |megabytes: usize| megabytes * 1024 * 1024);
        Self { aws: Aws::default(), memory_bytes }
    }
}

impl Function for Resources {
    fn physical_id(&self, request: &Request) -> Result<String, Failure> {
        for_type!(request.resource_type.as_str(), physical_id(request))
    }

    async fn carry_out(&self, request: Request, until: Instant) -> Result<Data, Failure> {
        for_type!(request.resource_type.as_str(), carry_out(&request, self, until).await)
    }
}

/// An Update that leaves the identity alone keeps the id, even one that another version of this program gave.
fn physical_id<R: Resource>(request: &Request) -> Result<String, Failure> {
    let now = mark(request, &properties::<R>(&request.properties)?);
    let before = match request.request_type {
        RequestType::Update => properties::<R>(&request.old_properties).ok().map(|old| mark(request, &old)),
        RequestType::Create | RequestType::Delete => None,
    };
    match (&request.physical_id, before) {
        (Some(id), Some(before)) if before == now => Ok(id.clone()),
        _ => Ok(format!("{}-{now}", request.logical_id)),
    }
}

async fn carry_out<R: Resource>(request: &Request, all: &Resources, until: Instant) -> Result<Data, Failure> {
    let usable = properties::<R>(&request.properties);
    let job = |resource: &R| Job {
        aws: all.aws.clone(),
        memory_bytes: all.memory_bytes,
        mark: mark(request, resource),
        until,
    };
    match request.request_type {
        RequestType::Create => {
            let resource = usable?;
            resource.put(None, &job(&resource)).await
        }
        RequestType::Update => {
            let resource = usable?;
            let job_now = job(&resource);
            let old = properties::<R>(&request.old_properties).ok();
            let (same, other): (Option<R>, Option<R>) = match old {
                Some(old) if mark(request, &old) == job_now.mark => (Some(old), None),
                other => (None, other),
            };
            let data = resource.put(same.as_ref(), &job_now).await?;
            if let Some(other) = other.filter(|_| !R::ONLY_DELETES && is_rolled_back(request, &job_now.mark)) {
                info!("the stack rolls back a replacement that failed: what it had made is taken away");
                other.remove(&job(&other)).await?;
            }
            Ok(data)
        }
        RequestType::Delete => match usable {
            Ok(resource) => resource.remove(&job(&resource)).await.map(|()| Data::new()),
            Err(failure) => {
                // Nothing was ever made with them.
                warn!(%failure, "unusable properties, so there is nothing to delete");
                Ok(Data::new())
            }
        },
    }
}

/// Is this Update the way back from a replacement that failed? Then the id is the one of the properties to go back
/// to, and CloudFormation will send no Delete for the others.
fn is_rolled_back(request: &Request, mark: &str) -> bool {
    request.physical_id.as_ref().is_some_and(|id| *id == format!("{}-{mark}", request.logical_id))
}

/// The same for the same stack, logical id and identity.
fn mark<R: Resource>(request: &Request, resource: &R) -> String {
    let mut hash = Sha256::new();
    let parts = [&request.stack_id, &request.logical_id, R::TYPE].map(ToOwned::to_owned);
    for part in parts.into_iter().chain(resource.identity()) {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..12])
}

/// Reads properties strictly: an unknown or missing one is an error, so that a slip in a template is found.
fn properties<R: Resource>(given: &Map<String, Value>) -> Result<R, Failure> {
    let mut given = given.clone();
    // CloudFormation's own.
    given.remove("ServiceToken");
    given.remove("ServiceTimeout");
    let unusable = |what: String| Failure::new(format!("unusable properties of {}: {what}", R::TYPE));
    let resource: R =
        serde_json::from_value(Value::Object(given)).map_err(|error| unusable(without_values(&error.to_string())))?;
    resource.check().map_err(|failure| unusable(failure.to_string()))?;
    Ok(resource)
}

/// serde quotes what it did not expect, and that may be something for nobody's eyes.
fn without_values(text: &str) -> String {
    for kind in ["invalid type: string \"", "invalid value: string \""] {
        if let (Some(begin), Some(end)) = (text.find(kind), text.rfind("\", expected")) {
            return format!("{}{}", &text[..begin + kind.len() - 2], &text[end + 1..]);
        }
    }
    text.to_owned()
}

/// CloudFormation sends every scalar as a string.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(flag) => Ok(flag),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        _ => Err(serde::de::Error::custom("a flag must be \"true\" or \"false\"")),
    }
}

/// As above, of a number.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let number = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| serde::de::Error::custom("a port must be a number from 1 to 65535"))
}

/// A property that must say something.
fn not_empty(name: &str, text: &str) -> Result<(), Failure> {
    if text.trim().is_empty() { Err(Failure::new(format!("{name} is empty"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(request_type: RequestType, physical_id: Option<&str>, now: Value, old: Value) -> Request {
        let map = |value: Value| value.as_object().cloned().unwrap_or_default();
        Request {
            request_type,
            resource_type: EmptyBucket::TYPE.into(),
            stack_id: "arn:stack".into(),
            logical_id: "Thing".into(),
            physical_id: physical_id.map(ToOwned::to_owned),
            properties: map(now),
            old_properties: map(old),
        }
    }

    fn id(request: &Request) -> String {
        Resources::from_env().physical_id(request).unwrap()
    }

    #[test]
    fn an_id_stays_the_same_and_changes_only_with_what_the_resource_is_about() {
        let one = || json!({ "ServiceToken": "arn", "Bucket": "one" });
        let two = || json!({ "ServiceToken": "arn", "Bucket": "two" });
        let created = id(&request(RequestType::Create, None, one(), json!({})));
        assert_eq!(created, id(&request(RequestType::Create, None, one(), json!({}))));
        assert_eq!(created, id(&request(RequestType::Update, Some(&created), one(), one())));
        let replaced = id(&request(RequestType::Update, Some(&created), two(), one()));
        assert_ne!(created, replaced);
        assert_eq!(created, id(&request(RequestType::Update, Some(&replaced), one(), two())), "and back");
        let foreign = request(RequestType::Update, Some("of-an-older-version"), one(), one());
        assert_eq!(id(&foreign), "of-an-older-version", "a new id would delete what is in use");
        let mut elsewhere = request(RequestType::Create, None, one(), json!({}));
        elsewhere.stack_id = "arn:another".into();
        assert_ne!(created, id(&elsewhere));
    }

    #[test]
    fn unusable_properties_are_named_and_their_values_are_not_shown() {
        let failure = |value: Value| {
            let given = value.as_object().cloned().unwrap();
            properties::<Statements>(&given).map(|_| ()).unwrap_err().to_string()
        };
        assert!(failure(json!({ "Engine": "postgresql" })).contains("missing field `Host`"));
        assert!(failure(json!({ "Engine": "postgresql", "Hots": "h" })).contains("unknown field `Hots`"));
        let shown = failure(json!({ "Engine": "postgresql", "Statements": "CREATE USER u PASSWORD \"hush\" '\"'" }));
        assert!(!shown.contains("hush") && shown.contains("expected a sequence"), "{shown}");
    }

    #[test]
    fn a_type_that_is_not_known_is_answered_with_those_that_are() {
        let mut unknown = request(RequestType::Create, None, json!({}), json!({}));
        unknown.resource_type = "Custom::Other".into();
        let failure = Resources::from_env().physical_id(&unknown).unwrap_err().to_string();
        assert!(TYPES.iter().all(|known| failure.contains(known)), "{failure}");
    }

    #[test]
    fn scalars_are_read_as_cloudformation_sends_them() {
        let given = json!({
            "Engine": "postgresql", "Host": "h", "Port": "5432", "Database": "d", "SecretArn": "arn:s",
            "Statements": ["SELECT 1"], "Transaction": "true",
        });
        assert!(properties::<Statements>(given.as_object().unwrap()).is_ok());
        for (name, value) in [("Port", "0"), ("Port", "70000"), ("Port", "x"), ("Transaction", "yes")] {
            let mut wrong = given.clone();
            wrong[name] = json!(value);
            assert!(properties::<Statements>(wrong.as_object().unwrap()).is_err(), "{name} = {value}");
        }
    }
}
