//! Faults of the AWS endpoints: what a real network and a real service do to a call, by service, action and region.

use super::Call;
use super::wire::{Refusal, Reply, json_reply, lock, xml_error};
use anyhow::{Context as _, Result, bail};
use axum::body::Body;
use axum::response::Response;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// It takes so much longer.
    Latency(Duration),
    /// It is answered with an internal error, and not carried out.
    ServerError,
    /// It is refused as too many, and not carried out.
    Throttle,
    /// It is carried out, and nobody says so.
    LostReply,
    /// It is carried out, and the connection breaks in the middle of the answer.
    Reset,
    /// An event of RDS never arrives.
    Lost,
}

/// Stands for the events of RDS among the services.
const RDS_EVENTS: &str = "rds-events";

/// A fault of some calls: `SERVICE[.ACTION][@REGION]=KIND:PERCENT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    service: String,
    action: Option<String>,
    region: Option<String>,
    kind: FaultKind,
    percent: u32,
}

impl Fault {
    fn meets(&self, service: &str, action: &str, region: &str) -> bool {
        let all = self.service == "all" && service != RDS_EVENTS;
        (all || self.service == service)
            && self.action.as_ref().is_none_or(|own| own == action)
            && self.region.as_ref().is_none_or(|own| own == region)
    }

    /// As it is written.
    #[must_use]
    pub fn order(&self) -> String {
        let action = self.action.as_ref().map(|action| format!(".{action}")).unwrap_or_default();
        let region = self.region.as_ref().map(|region| format!("@{region}")).unwrap_or_default();
        let kind = match self.kind {
            FaultKind::Latency(latency) => format!("latency-{}ms", latency.as_millis()),
            FaultKind::ServerError => "server-error".to_owned(),
            FaultKind::Throttle => "throttle".to_owned(),
            FaultKind::LostReply => "lost-reply".to_owned(),
            FaultKind::Reset => "reset".to_owned(),
            FaultKind::Lost => "lost".to_owned(),
        };
        format!("{}{action}{region}={kind}:{}", self.service, self.percent)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action.as_ref().map(|action| format!(".{action}")).unwrap_or_default();
        let region = self.region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
        write!(f, "{} % of {}{action}{region}: {:?}", self.percent, self.service, self.kind)
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        const SHAPE: &str = "write SERVICE[.ACTION][@REGION]=KIND:PERCENT, such as rds=throttle:30 or \
                             route53.ChangeResourceRecordSets=lost-reply:50 or all@us-west-2=latency-500ms:20";
        let (calls, fault) = text.split_once('=').context(SHAPE)?;
        let (kind, percent) = fault.split_once(':').context(SHAPE)?;
        let (calls, region) = match calls.split_once('@') {
            Some((calls, region)) => (calls, Some(region.to_owned())),
            None => (calls, None),
        };
        let (service, action) = match calls.split_once('.') {
            Some((service, action)) => (service, Some(action.to_owned())),
            None => (calls, None),
        };
        let services = ["all", "dynamodb", "sqs", "events", "rds", "monitoring", "route53", "s3", "sts", RDS_EVENTS];
        if !services.contains(&service) {
            bail!("{service:?} is no service of the lab: {}; {SHAPE}", services.join(", "));
        }
        let kind = match kind {
            "server-error" => FaultKind::ServerError,
            "throttle" => FaultKind::Throttle,
            "lost-reply" => FaultKind::LostReply,
            "reset" => FaultKind::Reset,
            "lost" => FaultKind::Lost,
            other => {
                let ms = other.strip_prefix("latency-").and_then(|rest| rest.strip_suffix("ms")?.parse().ok());
                let ms = ms.with_context(|| {
                    format!("{other:?} is no fault: latency-500ms, server-error, throttle, lost-reply, reset; {SHAPE}")
                })?;
                FaultKind::Latency(Duration::from_millis(ms))
            }
        };
        let fits = match kind {
            FaultKind::Latency(_) => true,
            FaultKind::Lost => service == RDS_EVENTS,
            _ => service != RDS_EVENTS,
        };
        if !fits {
            bail!("rds-events come late (latency-5000ms) or are lost, calls are not; {SHAPE}");
        }
        let percent: u32 = percent.parse().ok().filter(|percent| *percent <= 100).context(SHAPE)?;
        Ok(Self { service: service.to_owned(), action, region, kind, percent })
    }
}

/// The faults in force. Clones share them.
#[derive(Clone)]
pub(super) struct Faults(Arc<Mutex<(Vec<Fault>, StdRng)>>);

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), StdRng::seed_from_u64(0)))))
    }
}

impl Faults {
    /// These from now on, drawn from `seed`.
    pub(super) fn set(&self, faults: Vec<Fault>, seed: u64) {
        *lock(&self.0) = (faults, StdRng::seed_from_u64(seed));
    }

    /// What happens to this call; the first fault that is drawn.
    pub(super) fn draw(&self, call: &Call) -> Option<FaultKind> {
        self.draw_for(&call.service, &call.action, &call.region)
    }

    /// What happens to this event of RDS.
    pub(super) fn draw_event(&self, region: &str, code: &str) -> Option<FaultKind> {
        self.draw_for(RDS_EVENTS, code, region)
    }

    fn draw_for(&self, service: &str, action: &str, region: &str) -> Option<FaultKind> {
        let (faults, random) = &mut *lock(&self.0);
        let met = faults.iter().filter(|fault| fault.meets(service, action, region));
        met.map(|fault| (fault.kind, fault.percent))
            .find(|(_, percent)| random.random_range(0..100) < *percent)
            .map(|(kind, _)| kind)
    }
}

/// The refusal that AWS would give, in the protocol of the service.
pub(super) fn refusal(kind: FaultKind, service: &str) -> Option<Reply> {
    let (status, code, message) = match (kind, service) {
        (FaultKind::ServerError, "dynamodb") => (500, "InternalServerError", "a fault of the lab"),
        (FaultKind::ServerError, _) => (500, "InternalFailure", "a fault of the lab"),
        (FaultKind::Throttle, "dynamodb") => (400, "ThrottlingException", "Rate exceeded"),
        (FaultKind::Throttle, "sqs") => (400, "RequestThrottled", "Rate exceeded"),
        (FaultKind::Throttle, "events") => (400, "ThrottlingException", "Rate exceeded"),
        (FaultKind::Throttle, _) => (400, "Throttling", "Rate exceeded"),
        (FaultKind::Latency(_) | FaultKind::LostReply | FaultKind::Reset | FaultKind::Lost, _) => return None,
    };
    Some(as_error(Refusal::new(code, message).status(status), service))
}

/// As the service writes it.
pub(super) fn as_error(refusal: Refusal, service: &str) -> Reply {
    match service {
        "dynamodb" => json_reply("1.0", "com.amazonaws.dynamodb.v20120810#", Err(refusal)),
        "sqs" => json_reply("1.0", "com.amazonaws.sqs#", Err(refusal)),
        "events" => json_reply("1.1", "", Err(refusal)),
        "monitoring" => super::cloudwatch::failed(&refusal),
        "rds" => xml_error("http://rds.amazonaws.com/doc/2014-10-31/", &refusal),
        _ => xml_error("https://route53.amazonaws.com/doc/2013-04-01/", &refusal),
    }
}

/// The answer, broken off in the middle.
pub(super) fn broken_off(response: Response) -> Response {
    let (parts, _) = response.into_parts();
    let broken = futures::stream::iter([Ok("{"), Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))]);
    Response::from_parts(parts, Body::from_stream(broken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_written_as_it_is_read() {
        let fault: Fault = "route53.ChangeResourceRecordSets@us-east-1=lost-reply:50".parse().expect("well formed");
        assert_eq!(fault.to_string(), "50 % of route53.ChangeResourceRecordSets in us-east-1: LostReply");
        let slow: Fault = "all=latency-500ms:20".parse().expect("well formed");
        assert_eq!(slow.kind, FaultKind::Latency(Duration::from_millis(500)));
        for text in ["rds-events.RDS-EVENT-0073=lost:100", "all@us-west-2=latency-500ms:20", "rds=throttle:5"] {
            assert_eq!(text.parse::<Fault>().expect("well formed").order(), text);
        }
        for wrong in [
            "rds-events=throttle:5",
            "rds=lost:5",
            "",
            "rds",
            "rds=throttle",
            "rds=nothing:5",
            "ec2=throttle:5",
            "rds=throttle:101",
        ] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong:?}");
        }
    }
}
