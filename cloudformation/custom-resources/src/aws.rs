//! AWS clients, by region. Endpoints and credentials come from the standard AWS environment.

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Everything may be repeated, and nothing here is in a hurry.
const ATTEMPTS_MAX: u32 = 5;

/// A service that says nothing for so long will say nothing.
const READ_WITHIN: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The clients.
#[derive(Clone, Default)]
pub(crate) struct Aws {
    home: Arc<OnceCell<SdkConfig>>,
    http: Arc<OnceCell<reqwest::Client>>,
}

impl Aws {
    /// The configuration for a region; without one, for the region of the function.
    pub(crate) async fn config(&self, region: Option<&str>) -> SdkConfig {
        let home = self.home.get_or_init(|| async {
            let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).read_timeout(READ_WITHIN).build();
            aws_config::defaults(BehaviorVersion::latest())
                .timeout_config(timeouts)
                .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
                .load()
                .await
        });
        let home = home.await.clone();
        match region {
            Some(region) => home.into_builder().region(Region::new(region.to_owned())).build(),
            None => home,
        }
    }

    /// For downloads and for calls that we sign ourselves.
    ///
    /// # Errors
    /// When the system's certificate authorities cannot be read.
    pub(crate) async fn http(&self) -> Result<&reqwest::Client, reqwest::Error> {
        let build = || async {
            reqwest::Client::builder()
                .connect_timeout(CONNECT_WITHIN)
                .read_timeout(READ_WITHIN)
                .user_agent("aurora-failover")
                .build()
        };
        self.http.get_or_try_init(build).await
    }

    /// S3 in the region of the function.
    pub(crate) async fn s3(&self) -> aws_sdk_s3::Client {
        let config = self.config(None).await;
        // Emulators have no names for buckets.
        let by_path = config.endpoint_url().is_some();
        let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(by_path).build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// Route 53.
    pub(crate) async fn route53(&self) -> aws_sdk_route53::Client {
        aws_sdk_route53::Client::new(&self.config(None).await)
    }

    /// RDS of a region.
    pub(crate) async fn rds(&self, region: &str) -> aws_sdk_rds::Client {
        aws_sdk_rds::Client::new(&self.config(Some(region)).await)
    }

    /// Secrets Manager of a region.
    pub(crate) async fn secrets(&self, region: Option<&str>) -> aws_sdk_secretsmanager::Client {
        aws_sdk_secretsmanager::Client::new(&self.config(region).await)
    }
}
