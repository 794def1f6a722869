//! `Custom::Statements`: DDL and other statements in a database, once per content.
//!
//! What was done is recorded in the database itself, in the table `aurora_failover_statements`: by whom (the resource),
//! the checksum of its statements, and how many of them are done. So a repeated request does nothing, and Delete undoes
//! only what was done.

#[cfg(feature = "mysql")]
mod mysql;
mod postgresql;

use super::{Job, Resource, flag, not_empty, port};
use crate::failure::Failure;
use crate::protocol::Data;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

const CONNECT_WITHIN: Duration = Duration::from_secs(15);

/// A name may be new, and a database may be in the middle of a failover.
const CONNECTS_MAX: u32 = 6;
const CONNECT_PAUSE: Duration = Duration::from_secs(5);

/// Of the time for the request, what is kept for what follows a statement.
const KEEP: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Statements {
    engine: Engine,
    host: String,
    #[serde(deserialize_with = "port")]
    port: u16,
    database: String,
    secret_arn: String,
    ca_file: Option<String>,
    statements: Vec<String>,
    #[serde(default)]
    delete_statements: Vec<String>,
    #[serde(default, deserialize_with = "flag")]
    transaction: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Postgresql,
    Mysql,
}

impl Resource for Statements {
    const TYPE: &'static str = "Custom::Statements";

    fn check(&self) -> Result<(), Failure> {
        not_empty("Host", &self.host)?;
        not_empty("Database", &self.database)?;
        not_empty("SecretArn", &self.secret_arn)?;
        if self.statements.iter().chain(&self.delete_statements).any(|statement| statement.trim().is_empty()) {
            return Err(Failure::new("a statement is empty"));
        }
        match self.engine {
            Engine::Mysql if !cfg!(feature = "mysql") => {
                Err(Failure::new("this function is built without MySQL (cargo feature mysql)"))
            }
            Engine::Mysql if self.transaction => {
                Err(Failure::new("MySQL commits each DDL statement by itself: Transaction must be \"false\""))
            }
            Engine::Mysql | Engine::Postgresql => Ok(()),
        }
    }

    fn identity(&self) -> Vec<String> {
        let engine = match self.engine {
            Engine::Postgresql => "postgresql",
            Engine::Mysql => "mysql",
        };
        vec![engine.into(), self.host.to_ascii_lowercase(), self.port.to_string(), self.database.clone()]
    }

    async fn put(&self, _old: Option<&Self>, job: &Job) -> Result<Data, Failure> {
        let login = self.login(job).await?;
        match self.engine {
            Engine::Postgresql => self.apply(job, &login, postgresql::Session::open(self, &login, job).await?).await?,
            #[cfg(feature = "mysql")]
            Engine::Mysql => self.apply(job, &login, mysql::Session::open(self, &login, job).await?).await?,
            #[cfg(not(feature = "mysql"))]
            Engine::Mysql => self.check()?,
        }
        Ok(Data::from([("Checksum".into(), self.checksum())]))
    }

    async fn remove(&self, job: &Job) -> Result<(), Failure> {
        if self.delete_statements.is_empty() {
            return Ok(());
        }
        if tokio::net::lookup_host((self.host.as_str(), self.port)).await.is_err() {
            warn!(host = self.host, "the name is gone, and so is the database");
            return Ok(());
        }
        let login = match self.login(job).await {
            Err(Login::Gone) => {
                warn!("the secret is gone, and so is the database");
                return Ok(());
            }
            login => login?,
        };
        match self.engine {
            Engine::Postgresql => self.undo(job, &login, postgresql::Session::open(self, &login, job).await?).await,
            #[cfg(feature = "mysql")]
            Engine::Mysql => self.undo(job, &login, mysql::Session::open(self, &login, job).await?).await,
            #[cfg(not(feature = "mysql"))]
            Engine::Mysql => self.check(),
        }
    }
}

/// User and password, from the secret. There is no `Debug`.
#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

/// Why there are none.
enum Login {
    /// The secret does not exist.
    Gone,
    Failed(Failure),
}

impl From<Login> for Failure {
    fn from(login: Login) -> Self {
        match login {
            Login::Gone => Self::new("the secret of SecretArn does not exist"),
            Login::Failed(failure) => failure,
        }
    }
}

/// What was done before.
struct Recorded {
    checksum: String,
    done: usize,
}

/// A session that holds the lock on the table of records: one request at a time.
trait Session: Send {
    /// Carries out one statement.
    fn execute(&mut self, sql: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes the lock, and makes the table if need be.
    fn prepare(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Ends statements that are still running then.
    fn limit(&mut self, within: Duration) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What is recorded of this resource.
    fn recorded(&mut self, resource: &str) -> impl Future<Output = Result<Option<Recorded>, Failure>> + Send;

    /// Records, or forgets.
    fn record(&mut self, resource: &str, what: Option<&Recorded>) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl Statements {
    fn checksum(&self) -> String {
        let mut hash = Sha256::new();
        for statement in &self.statements {
            hash.update(statement.len().to_be_bytes());
            hash.update(statement);
        }
        hex::encode(hash.finalize())
    }

    async fn login(&self, job: &Job) -> Result<Credentials, Login> {
        // Of an ARN; a name is of the function's own region.
        let region = self.secret_arn.split(':').nth(3);
        let secrets = job.aws.secrets(region).await;
        let secret = match secrets.get_secret_value().secret_id(&self.secret_arn).send().await {
            Err(error) if error.code() == Some("ResourceNotFoundException") => return Err(Login::Gone),
            answer => answer.map_err(|error| Login::Failed(Failure::of_call("GetSecretValue", &error)))?,
        };
        let credentials = serde_json::from_str(secret.secret_string().unwrap_or_default());
        // Not serde's own words: they may quote it.
        credentials.map_err(|_| Login::Failed(Failure::new("the secret is no JSON object with username and password")))
    }

    async fn apply(&self, job: &Job, login: &Credentials, mut session: impl Session) -> Result<(), Failure> {
        // Another request may hold the lock.
        session.limit(left(job)?).await?;
        session.prepare().await?;
        let checksum = self.checksum();
        let before = session.recorded(&job.mark).await?.filter(|before| before.checksum == checksum);
        let done = before.map_or(0, |before| before.done);
        let all = self.statements.len();
        if done >= all && all > 0 {
            info!(checksum, "these statements were carried out before");
            return Ok(());
        }
        if self.transaction {
            session.execute("BEGIN").await?;
        }
        for (index, statement) in self.statements.iter().enumerate().skip(done) {
            session.limit(left(job)?).await?;
            let number = index + 1;
            session.execute(statement).await.map_err(|failure| {
                Failure::new(without_secrets(&format!("statement {number} of {all}: {failure}"), statement, login))
            })?;
            if !self.transaction {
                session.record(&job.mark, Some(&Recorded { checksum: checksum.clone(), done: number })).await?;
            }
        }
        session.record(&job.mark, Some(&Recorded { checksum, done: all })).await?;
        if self.transaction {
            session.execute("COMMIT").await?;
        }
        info!(statements = all, "carried out");
        Ok(())
    }

    async fn undo(&self, job: &Job, login: &Credentials, mut session: impl Session) -> Result<(), Failure> {
        // Another request may hold the lock.
        session.limit(left(job)?).await?;
        session.prepare().await?;
        if session.recorded(&job.mark).await?.is_none() {
            info!("none of the statements was carried out, so there is nothing to undo");
            return Ok(());
        }
        if self.transaction {
            session.execute("BEGIN").await?;
        }
        let all = self.delete_statements.len();
        for (index, statement) in self.delete_statements.iter().enumerate() {
            session.limit(left(job)?).await?;
            let number = index + 1;
            session.execute(statement).await.map_err(|failure| {
                Failure::new(without_secrets(
                    &format!("delete statement {number} of {all}: {failure}"),
                    statement,
                    login,
                ))
            })?;
        }
        session.record(&job.mark, None).await?;
        if self.transaction {
            session.execute("COMMIT").await?;
        }
        Ok(())
    }

    /// The authorities to trust: those of the file, or the system's.
    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, Failure> {
        let certificates = match &self.ca_file {
            None => rustls_native_certs::load_native_certs().certs,
            Some(path) => {
                let failed = |what: String| Failure::new(format!("CaFile {path}: {what}"));
                let all = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
                all.collect::<Result<Vec<_>, _>>().map_err(|error| failed(error.to_string()))?
            }
        };
        if certificates.is_empty() {
            return Err(Failure::new("there is no certificate authority to trust: set CaFile"));
        }
        Ok(certificates)
    }
}

/// The time that a statement has.
fn left(job: &Job) -> Result<Duration, Failure> {
    let left = job.until.saturating_duration_since(Instant::now()).saturating_sub(KEEP);
    if left.is_zero() { Err(Failure::new("there was no time left for the next statement")) } else { Ok(left) }
}

/// Tries to connect while the server cannot be reached.
async fn connect<T, F>(job: &Job, to: &str, attempt: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Connect>>,
{
    for tried in 1..=CONNECTS_MAX {
        let failure = match tokio::time::timeout(CONNECT_WITHIN, attempt()).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(Connect::Refused(failure))) => return Err(failure.during(&format!("connecting to {to}"))),
            Ok(Err(Connect::Unreachable(failure))) => failure,
            Err(_late) => Failure::new(format!("no answer within {CONNECT_WITHIN:?}")),
        };
        let failure = failure.during(&format!("connecting to {to}"));
        if tried == CONNECTS_MAX {
            return Err(failure);
        }
        warn!(tried, %failure, "will be tried again");
        job.wait(CONNECT_PAUSE, &failure.to_string()).await?;
    }
    Err(Failure::new(format!("connecting to {to} was not tried")))
}

/// Why there is no connection.
enum Connect {
    /// Another attempt would end in the same way.
    Refused(Failure),
    Unreachable(Failure),
}

/// Is the server not who it should be?
fn is_distrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || wrapped.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A server's message may quote the statement: its literals, and what the secret holds, are not shown.
fn without_secrets(text: &str, statement: &str, login: &Credentials) -> String {
    let literals = statement.split('\'').skip(1).step_by(2).filter(|literal| !literal.trim().is_empty());
    let mut secrets: Vec<&str> =
        literals.chain([login.password.as_str()]).filter(|secret| !secret.is_empty()).collect();
    // The longest first: one may be a part of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_neither_literals_nor_the_password() {
        let login = Credentials { username: "app".into(), password: "hush".into() };
        let statement = "CREATE ROLE r PASSWORD 'very secret' VALID UNTIL 'tomorrow'";
        let shown = without_secrets("error at \"very secret\", near 'tomorrow', hush", statement, &login);
        assert_eq!(shown, "error at \"***\", near '***', ***");
    }
}
