//! The proof that a database takes writes: a heartbeat row, committed before a deadline.
//!
//! Names are resolved by our own resolver and never cached, so that a probe follows DNS at once.

use crate::aws::{cause, chain};
use crate::config::{AwsSettings, DatabaseSettings, Tls};
use crate::dns::{self, Dns};
use crate::password::Passwords;
use async_trait::async_trait;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use statemachine::{Region, Timestamp};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

/// One row per writer of heartbeats; the newest wins. The controller's proofs bring the epoch, and everybody else
/// writes the one that he finds. A vantage writes as `canary/NAME@REGION`, so that what it wrote in
/// a region that is lost stays as it was.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS aurora_failover_heartbeat (
    writer text PRIMARY KEY, epoch bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())";

/// First writes of one session, until one finds the table: whoever drops it meanwhile does so once.
const FIRST_WRITES_MAX: u32 = 3;

const WRITE: &str = "INSERT INTO aurora_failover_heartbeat (writer, epoch)
    VALUES ($1, coalesce($2, (SELECT max(epoch) FROM aurora_failover_heartbeat), 0))
    ON CONFLICT (writer) DO UPDATE SET epoch = excluded.epoch, at = clock_timestamp()";

/// The lag of the region that answers, as Aurora reports it.
const LAG: &str =
    "SELECT rpo_lag_in_msec FROM aurora_global_db_status() WHERE aws_region = $1 AND rpo_lag_in_msec >= 0";

/// Time of the newest heartbeat that any vantage committed in a region, in milliseconds since 1970.
const NEWEST: &str = "SELECT (extract(epoch FROM max(at)) * 1000)::bigint FROM aurora_failover_heartbeat
    WHERE starts_with(writer, 'canary/') AND split_part(writer, '@', 2) = $1";

/// The server's clock, in milliseconds since 1970.
const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The statement that makes new transactions of this database read-only.
const READ_ONLY: &str = "SELECT format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database())";

/// Ends the sessions that began before; those of `rdsadmin` may not be touched.
const END_SESSIONS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
    AND pid <> pg_backend_pid() AND usename <> 'rdsadmin'";

/// Why something was not proven. The class is a closed set of words, for metrics and policy.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{class}: {detail}")]
pub struct ProbeError {
    /// One of `dns`, `timeout`, `refused`, `connection`, `tls`, `password`, `read-only`, `server`, and for what is
    /// observed beside the database `status`, `body`, `answer`.
    pub class: &'static str,
    /// Human detail.
    pub detail: String,
}

impl ProbeError {
    /// Of this class.
    pub fn new(class: &'static str, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into() }
    }
}

impl From<tokio_postgres::Error> for ProbeError {
    fn from(error: tokio_postgres::Error) -> Self {
        let class = match error.code() {
            Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => "read-only",
            Some(_) => "server",
            None if cause::<rustls::Error>(&error).is_some() => "tls",
            None => "connection",
        };
        Self::new(class, chain(&error))
    }
}

/// An open connection to one endpoint.
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    /// Where it leads.
    pub address: SocketAddr,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A connection into a black hole would wait for an answer for ever.
        self.connection.abort();
    }
}

/// How to open sessions.
#[derive(Clone)]
pub struct Database {
    settings: DatabaseSettings,
    dns: Dns,
    tls: Option<MakeRustlsConnect>,
    passwords: Arc<Passwords>,
}

impl Database {
    /// With these settings, and names resolved by `dns`.
    ///
    /// # Errors
    /// When the certificate authorities cannot be read.
    pub fn new(settings: DatabaseSettings, aws: &AwsSettings, dns: Dns) -> Result<Self, ProbeError> {
        let tls = match &settings.tls {
            Tls::Verify { ca_file } => Some(verifying(ca_file)?),
            Tls::Off => None,
        };
        let passwords = Arc::new(Passwords::new(settings.password.clone(), aws.clone()));
        Ok(Self { settings, dns, tls, passwords })
    }

    /// Opens a session to whichever address of `name` answers first; the caller sets the deadline. With TLS the certificate must
    /// name the endpoint: for a public name that is an alias, the endpoint that it leads to.
    ///
    /// # Errors
    /// Classes `dns`, `refused`, `connection`, `tls`, `password`, `server`.
    pub async fn connect(&self, name: &str) -> Result<Session, ProbeError> {
        let (canonical, addresses) = self.dns.addresses(name).await?;
        let endpoint = canonical.trim_end_matches('.').to_owned();
        let (address, stream) = dns::connect(&addresses, self.settings.port).await?;
        // Without it the delayed acknowledgement of loopback and LAN adds 40 ms to some probes.
        let _best_effort = stream.set_nodelay(true);
        let mut config = tokio_postgres::Config::new();
        config.user(&self.settings.user).dbname(&self.settings.name).application_name("aurora-failover");
        if let Some(password) = self.passwords.get(&endpoint, self.settings.port, &self.settings.user).await? {
            config.password(password);
        }
        let opened = match self.tls.clone() {
            Some(mut tls) => {
                let tls = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, &endpoint);
                let tls = tls.map_err(|error| ProbeError::new("tls", format!("{endpoint}: {error}")))?;
                config.ssl_mode(SslMode::Require);
                let opened = config.connect_raw(stream, tls).await;
                opened.map(|(client, connection)| (client, carry(connection)))
            }
            None => {
                let opened = config.connect_raw(stream, NoTls).await;
                opened.map(|(client, connection)| (client, carry(connection)))
            }
        };
        match opened {
            Ok((client, connection)) => Ok(Session { client, connection, address }),
            Err(error) => {
                if error.code() == Some(&SqlState::INVALID_PASSWORD) {
                    self.passwords.forget().await;
                }
                Err(error.into())
            }
        }
    }
}

fn carry<S, T>(connection: Connection<S, T>) -> JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "connection ended");
        }
    })
}

/// TLS that trusts the authorities of this bundle, and nobody else.
fn verifying(ca_file: &Path) -> Result<MakeRustlsConnect, ProbeError> {
    let failed = |detail: String| ProbeError::new("tls", format!("ca-file {}: {detail}", ca_file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("there is no certificate in it".into()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| failed(error.to_string()))?;
    Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// What the effects need of PostgreSQL.
#[async_trait]
pub trait Databases: Send + Sync {
    /// Opens a session to `name` and commits a heartbeat within `deadline`; answers where it led.
    async fn prove_write(&self, name: &str, writer: &str, epoch: u64, deadline: Duration)
    -> Result<String, ProbeError>;

    /// Opens a session to `name` and reads when a vantage last committed a heartbeat in `region`, within `deadline`.
    async fn newest_heartbeat(
        &self,
        name: &str,
        region: &Region,
        deadline: Duration,
    ) -> Result<Option<Timestamp>, ProbeError>;

    /// Opens a session to `name` and keeps the server behind it from taking writes, within `deadline`; answers what
    /// was done.
    async fn fence(&self, name: &str, deadline: Duration) -> Result<String, ProbeError>;
}

#[async_trait]
impl Databases for Database {
    async fn prove_write(
        &self,
        name: &str,
        writer: &str,
        epoch: u64,
        deadline: Duration,
    ) -> Result<String, ProbeError> {
        within(deadline, async {
            let session = self.connect(name).await?;
            session.write(writer, Some(epoch)).await?;
            Ok(session.address.to_string())
        })
        .await
    }

    async fn newest_heartbeat(
        &self,
        name: &str,
        region: &Region,
        deadline: Duration,
    ) -> Result<Option<Timestamp>, ProbeError> {
        within(deadline, async {
            let session = self.connect(name).await?;
            let newest: Option<i64> = session.client.query_one(NEWEST, &[&region.as_str()]).await?.get(0);
            Ok(newest.and_then(|ms| u64::try_from(ms).ok()).map(Timestamp))
        })
        .await
    }

    async fn fence(&self, name: &str, deadline: Duration) -> Result<String, ProbeError> {
        within(deadline, async { self.connect(name).await?.fence().await }).await
    }
}

impl Session {
    /// Commits a heartbeat; creates its table the first time. Without an epoch it carries the newest one that the
    /// table knows.
    ///
    /// # Errors
    /// Class `read-only` on a replica, `server` or `connection` otherwise.
    pub async fn write(&self, writer: &str, epoch: Option<u64>) -> Result<(), ProbeError> {
        let row = self.client.query_one("SHOW transaction_read_only", &[]).await?;
        if row.get::<_, String>(0) == "on" {
            return Err(ProbeError::new("read-only", "the server is a replica"));
        }
        let epoch = epoch.map(|epoch| i64::try_from(epoch).unwrap_or(i64::MAX));
        for _ in 0..FIRST_WRITES_MAX {
            match self.client.execute(WRITE, &[&writer, &epoch]).await {
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => self.create_table().await?,
                written => return written.map(drop).map_err(ProbeError::from),
            }
        }
        Err(ProbeError::new("server", "the table of heartbeats vanishes as soon as it is created"))
    }

    /// Creates the table of heartbeats. Others may do so at the same moment: `IF NOT EXISTS` looks first and creates
    /// afterwards, and whoever comes second is told of a name, or of its row type, that is there by now.
    async fn create_table(&self) -> Result<(), ProbeError> {
        const THERE_BY_NOW: [SqlState; 3] =
            [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT];
        match self.client.batch_execute(CREATE).await {
            Err(error) if error.code().is_some_and(|code| THERE_BY_NOW.contains(code)) => Ok(()),
            created => Ok(created?),
        }
    }

    /// Reads something that every server knows.
    ///
    /// # Errors
    /// Class `server` or `connection`.
    pub async fn read(&self) -> Result<(), ProbeError> {
        self.client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
        Ok(())
    }

    /// The server's clock.
    ///
    /// # Errors
    /// Class `server` or `connection`.
    pub async fn now(&self) -> Result<Timestamp, ProbeError> {
        let ms: i64 = self.client.query_one(NOW, &[]).await?.get(0);
        Ok(Timestamp(u64::try_from(ms).unwrap_or_default()))
    }

    /// Makes new transactions read-only and ends every other session of this database. The setting does not outlive
    /// the server's return as a replica, which overwrites it.
    ///
    /// # Errors
    /// Class `server` without the right to, `connection` otherwise.
    pub async fn fence(&self) -> Result<String, ProbeError> {
        let replica: bool = self.client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0);
        if replica {
            return Ok("it is a replica and takes no writes".into());
        }
        let read_only: String = self.client.query_one(READ_ONLY, &[]).await?.get(0);
        self.client.batch_execute(&read_only).await?;
        let ended: i64 = self.client.query_one(END_SESSIONS, &[]).await?.get(0);
        Ok(format!("new transactions are read-only, {ended} sessions were ended"))
    }

    /// Replication lag of `region` in milliseconds, if this server is a replica of it that knows.
    ///
    /// # Errors
    /// Class `server` when the function does not exist, `connection` otherwise.
    pub async fn lag_ms(&self, region: &str) -> Result<Option<u64>, ProbeError> {
        let row = self.client.query_opt(LAG, &[&region]).await?;
        Ok(row.and_then(|row| u64::try_from(row.get::<_, i64>(0)).ok()))
    }
}

/// Bounds a probe; running out is its own class.
///
/// # Errors
/// Class `timeout`, or what `probe` gives.
pub async fn within<T>(
    deadline: Duration,
    probe: impl Future<Output = Result<T, ProbeError>>,
) -> Result<T, ProbeError> {
    match tokio::time::timeout(deadline, probe).await {
        Ok(result) => result,
        Err(_) => Err(ProbeError::new("timeout", format!("no answer within {deadline:?}"))),
    }
}
