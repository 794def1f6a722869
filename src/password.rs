//! Where the password of PostgreSQL comes from. It goes to the server, and nowhere else.

use crate::aws::{Regional, chain};
use crate::config::{AwsSettings, PasswordSource};
use crate::database::ProbeError;
use aws_config::SdkConfig;
use aws_sdk_rds::auth_token::{AuthTokenGenerator, Config};
use serde::Deserialize;
use statemachine::{Arn, Region};
use tokio::sync::Mutex;

/// What RDS keeps in a secret that it manages.
#[derive(Deserialize)]
struct Managed {
    password: String,
}

/// The password, and how to get it.
pub struct Passwords {
    source: PasswordSource,
    secrets: Regional<aws_sdk_secretsmanager::Client>,
    configurations: Regional<SdkConfig>,
    /// The secret as it was last read.
    known: Mutex<Option<String>>,
}

impl Passwords {
    /// With these time-outs for AWS.
    #[must_use]
    pub fn new(source: PasswordSource, aws: AwsSettings) -> Self {
        Self {
            source,
            secrets: Regional::new(aws.clone(), aws_sdk_secretsmanager::Client::new),
            configurations: Regional::new(aws, Clone::clone),
            known: Mutex::default(),
        }
    }

    /// For a connection to `endpoint`; none when there is none.
    ///
    /// # Errors
    /// Class `password`, when it cannot be had.
    pub async fn get(&self, endpoint: &str, port: u16, user: &str) -> Result<Option<String>, ProbeError> {
        let failed = |detail: String| ProbeError::new("password", detail);
        match &self.source {
            PasswordSource::Environment(password) => Ok(password.clone()),
            PasswordSource::File(path) => {
                let text = tokio::fs::read_to_string(path).await;
                let text = text.map_err(|error| failed(format!("password-file {}: {error}", path.display())))?;
                Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            PasswordSource::Secret(arn) => self.secret(arn).await.map(Some).map_err(failed),
            PasswordSource::IamToken => self.token(endpoint, port, user).await.map(Some).map_err(failed),
        }
    }

    /// It was refused: perhaps it has been changed.
    pub async fn forget(&self) {
        *self.known.lock().await = None;
    }

    async fn secret(&self, arn: &Arn) -> Result<String, String> {
        let mut known = self.known.lock().await;
        if let Some(password) = &*known {
            return Ok(password.clone());
        }
        let region = Region(arn.region().to_owned());
        let client = self.secrets.client(&region).await;
        let answer = client.get_secret_value().secret_id(arn.as_str()).send().await;
        let answer = answer.map_err(|error| format!("GetSecretValue of {arn}: {}", chain(&error)))?;
        let text = answer.secret_string().ok_or_else(|| format!("{arn} holds no text"))?;
        let password = serde_json::from_str::<Managed>(text).map_or_else(|_| text.to_owned(), |found| found.password);
        *known = Some(password.clone());
        Ok(password)
    }

    async fn token(&self, endpoint: &str, port: u16, user: &str) -> Result<String, String> {
        // NAME.REGION.rds.amazonaws.com
        let region = endpoint.split('.').rev().nth(3).unwrap_or_default();
        let configuration = self.configurations.client(&Region(region.to_owned())).await;
        let config = Config::builder().hostname(endpoint).port(u64::from(port)).username(user).build();
        let config = config.map_err(|error| error.to_string())?;
        let token = AuthTokenGenerator::new(config).auth_token(&configuration).await;
        token.map(|token| token.to_string()).map_err(|error| format!("an IAM token for {endpoint}: {error}"))
    }
}
