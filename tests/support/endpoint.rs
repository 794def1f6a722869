//! The lab's AWS without servers behind it.

use aurora_failover_lab::aws::{Aws, AwsOptions, PromotedAtOnce};
use aurora_failover_lab::dns::Zones;
use std::sync::Arc;

/// An endpoint, and the environment that leads a command there.
pub(crate) struct Endpoint {
    pub(crate) runtime: tokio::runtime::Runtime,
    aws: Option<Aws>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Endpoint {
    /// With this configuration for commands.
    pub(crate) fn start(config: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (aws, environment) = runtime.block_on(async {
            let global_cluster = PromotedAtOnce::global_cluster("orders", ["us-east-2", "us-west-2"]);
            let databases = PromotedAtOnce { primary: "us-west-2".into(), lag: Vec::new() };
            let options = AwsOptions::new(Zones::new(), Arc::new(databases), global_cluster);
            let aws = Aws::start(options).await.expect("the endpoint starts");
            let environment = [
                ("AWS_ENDPOINT_URL", aws.url()),
                ("AWS_ACCESS_KEY_ID", "lab".into()),
                ("AWS_SECRET_ACCESS_KEY", "lab".into()),
                ("AWS_EC2_METADATA_DISABLED", "true".into()),
                ("AURORA_FAILOVER_CONFIG", config.to_owned()),
            ];
            (aws, environment.map(|(name, value)| (name.to_owned(), value)).to_vec())
        });
        Self { runtime, aws: Some(aws), environment }
    }

    /// It runs until this goes away.
    pub(crate) fn aws(&self) -> &Aws {
        self.aws.as_ref().expect("it runs")
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(aws) = self.aws.take() {
            let _stopping_anyway = self.runtime.block_on(aws.shutdown());
        }
    }
}
