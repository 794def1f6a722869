//! How far a secondary is behind, as CloudWatch says: for when no replica of it can be asked. Metrics come a minute or
//! two late; each reading carries the time that it is of.

use super::Me;
use crate::clock;
use crate::cloudwatch::CloudWatch;
use crate::envelope::{LAG_DETAIL_TYPE, lag_detail};
use statemachine::{ClusterId, LagReading, Member, Region};
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, warn};

/// Samples one member for ever. The metric exists only while the member is a secondary.
pub(super) async fn sample(
    me: Me,
    cluster: ClusterId,
    member: Member,
    sources: Vec<Region>,
    cloudwatch: Arc<CloudWatch>,
    every: Duration,
) {
    let mut pace = super::Pace::new(every, Duration::ZERO);
    let id = member.arn.resource_id();
    let (mut failing, mut newest) = (false, None);
    loop {
        pace.turn().await;
        let read = cloudwatch.rpo_lag(&member.region, id, &sources, clock::now()).await;
        if read.is_err() != failing {
            failing = read.is_err();
            if let Err(error) = &read {
                warn!(region = %member.region, %error, "the lag is not known to CloudWatch, or not told");
            }
        }
        let Ok(Some((ms, measured_at))) = read else { continue };
        if newest.replace(measured_at) == Some(measured_at) {
            continue;
        }
        debug!(region = %member.region, ms, "lag by CloudWatch");
        let reading = LagReading { region: member.region.clone(), ms, measured_at };
        let detail = lag_detail(&cluster, &me.vantage, clock::now(), &reading);
        me.tell(LAG_DETAIL_TYPE, detail);
    }
}
