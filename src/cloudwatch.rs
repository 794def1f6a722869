//! CloudWatch, reduced to how far a secondary is behind.

use crate::aws::{CallError, Regional};
use crate::config::AwsSettings;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricStat, ScanBy};
use statemachine::{Region, Timestamp};

/// What Aurora calls it; in milliseconds, and only in secondary regions.
const METRIC: &str = "AuroraGlobalDBRPOLag";
const NAMESPACE: &str = "AWS/RDS";

/// Aurora's metrics have one value a minute.
const PERIOD_S: i32 = 60;

/// How far back is looked: metrics come late.
const BACK_MS: u64 = 10 * 60 * 1000;

/// CloudWatch in each region.
pub struct CloudWatch {
    clients: Regional<Client>,
}

impl CloudWatch {
    /// With these time-outs.
    #[must_use]
    pub fn new(settings: AwsSettings) -> Self {
        Self { clients: Regional::new(settings, Client::new) }
    }

    /// The newest known lag of `cluster` (a DB cluster identifier) in `region` behind any of `sources`, in
    /// milliseconds: the worst of its minute. It was no more at the end of that minute; at its beginning, if it is not
    /// over.
    ///
    /// # Errors
    /// The service answered no, or not at all.
    pub async fn rpo_lag(
        &self,
        region: &Region,
        cluster: &str,
        sources: &[Region],
        now: Timestamp,
    ) -> Result<Option<(u64, Timestamp)>, CallError> {
        let dimension = |name: &str, value: &str| Dimension::builder().name(name).value(value).build();
        let query = |(number, source): (usize, &Region)| {
            let metric = Metric::builder().namespace(NAMESPACE).metric_name(METRIC);
            let metric = metric.dimensions(dimension("DBClusterIdentifier", cluster));
            let metric = metric.dimensions(dimension("SourceRegion", source.as_str())).build();
            let stat = MetricStat::builder().metric(metric).period(PERIOD_S).stat("Maximum").build();
            MetricDataQuery::builder().id(format!("lag{number}")).metric_stat(stat).build()
        };
        let at = |ms: u64| DateTime::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
        let client = self.clients.client(region).await;
        let asked = client
            .get_metric_data()
            .set_metric_data_queries(Some(sources.iter().enumerate().map(query).collect()))
            .start_time(at(now.0.saturating_sub(BACK_MS)))
            .end_time(at(now.0))
            .scan_by(ScanBy::TimestampDescending);
        let answer = asked.send().await.map_err(|error| CallError::of("GetMetricData", &error))?;
        let values = answer.metric_data_results().iter().flat_map(|result| {
            let times = result.timestamps().iter().filter_map(|at| u64::try_from(at.to_millis().ok()?).ok());
            times.zip(result.values().iter().copied())
        });
        let newest = values.max_by_key(|(at, _)| *at);
        let over = |at: u64| Some(at + PERIOD_S as u64 * 1000).filter(|end| *end <= now.0).unwrap_or(at);
        Ok(newest.map(|(at, ms)| (ms.max(0.0).round() as u64, Timestamp(over(at)))))
    }
}
