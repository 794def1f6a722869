//! CloudWatch, Smithy RPC v2 CBOR as its SDKs speak it: the replication lag of the global database, measured on the real
//! servers.
//!
//! `GetMetricData` knows one metric, `AuroraGlobalDBRPOLag` of `AWS/RDS`, by cluster and source region, in the regions
//! of secondaries. Deliberately absent, and refused: everything else, expressions, and pages.

use super::Databases;
use super::rds::GlobalCluster;
use super::wire::{Outcome, Refusal, Reply};
use axum::http::HeaderValue;
use ciborium::tag::Required;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

const NAMESPACE: &str = "AWS/RDS";
const METRIC: &str = "AuroraGlobalDBRPOLag";

/// Seconds since 1970, as CBOR tags them.
type At = Required<f64, 1>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetMetricData {
    metric_data_queries: Vec<Query>,
    start_time: f64,
    end_time: f64,
    scan_by: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Query {
    id: String,
    metric_stat: MetricStat,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct MetricStat {
    metric: Metric,
    period: u64,
    stat: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Metric {
    namespace: String,
    metric_name: String,
    dimensions: Vec<Dimension>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Dimension {
    name: String,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MetricData {
    metric_data_results: Vec<MetricDataResult>,
    messages: [(); 0],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MetricDataResult {
    id: String,
    label: &'static str,
    timestamps: Vec<At>,
    values: Vec<f64>,
    status_code: &'static str,
}

pub(super) struct CloudWatch {
    global: GlobalCluster,
    databases: Arc<dyn Databases>,
}

impl CloudWatch {
    pub(super) fn new(global: GlobalCluster, databases: Arc<dyn Databases>) -> Self {
        Self { global, databases }
    }

    pub(super) fn call(&self, region: &str, action: &str, body: &[u8], writer: &str) -> Reply {
        let outcome = match action {
            "GetMetricData" => self.data(region, body, writer),
            other => {
                let message = format!("the lab's CloudWatch has no operation '{other}'");
                Err(Refusal::new("UnknownOperationException", message))
            }
        };
        match outcome {
            Ok(data) => reply(200, &data),
            Err(refusal) => failed(&refusal),
        }
    }

    fn data(&self, region: &str, body: &[u8], writer: &str) -> Outcome<MetricData> {
        let invalid = |message: String| Refusal::new("InvalidParameterValue", message);
        let asked: GetMetricData =
            ciborium::from_reader(body).map_err(|error| invalid(format!("the lab does not support this: {error}")))?;
        if asked.start_time >= asked.end_time {
            return Err(invalid("The parameter StartTime must be less than the parameter EndTime.".into()));
        }
        let newest_first = asked.scan_by.as_deref() != Some("TimestampAscending");
        let results = asked.metric_data_queries.iter().map(|query| {
            let MetricStat { metric, period, stat } = &query.metric_stat;
            if metric.namespace != NAMESPACE || metric.metric_name != METRIC {
                return Err(invalid(format!("the lab has {METRIC} of {NAMESPACE} only, not {}", metric.metric_name)));
            }
            if *period == 0 || period % 60 != 0 {
                return Err(invalid("The parameter Period must be a multiple of 60.".into()));
            }
            let worst: fn(f64, f64) -> f64 = match stat.as_str() {
                "Maximum" => f64::max,
                "Minimum" => f64::min,
                other => return Err(invalid(format!("the lab knows Maximum and Minimum, not {other}"))),
            };
            let is = |name: &str, value: &str| metric.dimensions.iter().any(|d| d.name == name && d.value == value);
            let here = self.global.member_in(region);
            let meant = here.is_some_and(|member| is("DBClusterIdentifier", &member.cluster_id))
                && is("SourceRegion", writer)
                && metric.dimensions.len() == 2
                && region != writer;
            let mut values: BTreeMap<u64, f64> = BTreeMap::new();
            for (at, ms) in if meant { self.databases.lag(region) } else { Vec::new() } {
                let second = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                if second < asked.start_time || second >= asked.end_time {
                    continue;
                }
                let period = second as u64 / period * period;
                values.entry(period).and_modify(|known| *known = worst(*known, ms as f64)).or_insert(ms as f64);
            }
            let mut values: Vec<(u64, f64)> = values.into_iter().collect();
            if newest_first {
                values.reverse();
            }
            Ok(MetricDataResult {
                id: query.id.clone(),
                label: METRIC,
                timestamps: values.iter().map(|(at, _)| Required(*at as f64)).collect(),
                values: values.iter().map(|(_, ms)| *ms).collect(),
                status_code: "Complete",
            })
        });
        Ok(MetricData { metric_data_results: results.collect::<Outcome<_>>()?, messages: [] })
    }
}

/// The operation that a request's path names.
pub(super) fn action(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// An error as the protocol carries it.
pub(super) fn failed(refusal: &Refusal) -> Reply {
    let kind = format!("com.amazonaws.cloudwatch#{}", refusal.code);
    let body = BTreeMap::from([("__type", kind.as_str()), ("message", &refusal.message)]);
    reply(refusal.status, &body).failed(refusal.code)
}

fn reply(status: u16, body: &impl Serialize) -> Reply {
    let mut bytes = Vec::new();
    ciborium::into_writer(body, &mut bytes).expect("a vector takes everything");
    let mut reply = Reply::new(status, "application/cbor", bytes);
    reply.response.headers_mut().insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
    reply
}
