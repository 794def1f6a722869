//! A global cluster without servers, for whoever needs the AWS endpoint and no PostgreSQL.

use super::{Databases, GlobalCluster, Member};
use async_trait::async_trait;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

/// Promotes at once, and whatever it is told to.
pub struct PromotedAtOnce {
    /// Region of the writer, always.
    pub primary: String,
    /// The lag of the other region: how long ago, and milliseconds; oldest first.
    pub lag: Vec<(Duration, u64)>,
}

impl PromotedAtOnce {
    /// A global cluster of two members; each is named after its region.
    #[must_use]
    pub fn global_cluster(id: &str, regions: [&str; 2]) -> GlobalCluster {
        let member = |region: &str| Member {
            region: region.into(),
            cluster_id: format!("{id}-{region}"),
            endpoint: format!("{id}.{region}.example."),
            reader_endpoint: format!("{id}-ro.{region}.example."),
            port: 5432,
        };
        GlobalCluster {
            id: id.into(),
            engine_version: "16.6".into(),
            endpoint: format!("{id}.global.example."),
            members: regions.map(member).to_vec(),
        }
    }
}

#[async_trait]
impl Databases for PromotedAtOnce {
    async fn promote(&self, _region: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn switch_over(&self, _region: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn fail_over_in_region(&self, region: &str, _to: Option<&str>) -> anyhow::Result<String> {
        Ok(format!("{region}-1"))
    }

    async fn settle(&self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn lost_writer(&self) -> Option<String> {
        None
    }

    fn addresses(&self, _region: &str) -> Vec<Ipv4Addr> {
        Vec::new()
    }

    fn lag(&self, region: &str) -> Vec<(SystemTime, u64)> {
        let samples = self.lag.iter().filter(|_| region != self.primary);
        samples.map(|(ago, ms)| (SystemTime::now() - *ago, *ms)).collect()
    }

    fn instances(&self, region: &str) -> Vec<(String, bool)> {
        vec![(format!("{region}-1"), region == self.primary)]
    }
}
