//! Statements in PostgreSQL.

use super::{Connect, Credentials, Recorded, Statements, connect, is_distrusted};
use crate::failure::{Failure, chain};
use crate::resources::Job;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

/// Of the lock, for all sessions of this kind.
const LOCK: &str = "SELECT pg_advisory_lock(hashtext('aurora_failover_statements'))";

/// An open session.
pub(super) struct Session {
    client: Client,
    connection: JoinHandle<()>,
    /// With its schema: statements may change the search path.
    table: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Session {
    pub(super) async fn open(statements: &Statements, login: &Credentials, job: &Job) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in statements.roots()? {
            // The system's may hold some that are of no use.
            let _unusable = roots.add(certificate);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| Failure::new(error.to_string()))?;
        let tls = MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth());
        let mut config = tokio_postgres::Config::new();
        config
            .host(&statements.host)
            .port(statements.port)
            .dbname(&statements.database)
            .user(&login.username)
            .password(&login.password)
            .ssl_mode(SslMode::Require)
            .application_name("aurora-failover");
        let to = format!("{}:{}", statements.host, statements.port);
        connect(job, &to, || async {
            let (client, connection) = config.connect(tls.clone()).await.map_err(|error| {
                // The crate has no other way to tell that a server does not speak TLS.
                let no_tls = error.to_string().contains("TLS handshake");
                let is_final = error.code().is_some() || no_tls || is_distrusted(&error);
                if is_final { Connect::Refused(failure(&error)) } else { Connect::Unreachable(failure(&error)) }
            })?;
            let connection = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "connection ended");
                }
            });
            Ok(Self { client, connection, table: String::new() })
        })
        .await
    }
}

impl super::Session for Session {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        self.client.batch_execute(sql).await.map_err(|error| failure(&error))
    }

    async fn prepare(&mut self) -> Result<(), Failure> {
        let failed = |error| failure(&error).during("preparing the table aurora_failover_statements");
        self.client.batch_execute(LOCK).await.map_err(failed)?;
        let schema = "SELECT quote_ident(coalesce(current_schema(), 'public'))";
        let schema: String = self.client.query_one(schema, &[]).await.map_err(failed)?.get(0);
        self.table = format!("{schema}.aurora_failover_statements");
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {} (resource text PRIMARY KEY, checksum text NOT NULL, done integer NOT NULL,
             at timestamptz NOT NULL DEFAULT clock_timestamp())",
            self.table
        );
        self.client.batch_execute(&create).await.map_err(failed)
    }

    async fn limit(&mut self, within: Duration) -> Result<(), Failure> {
        self.execute(&format!("SET statement_timeout = {}", within.as_millis().max(1))).await
    }

    async fn recorded(&mut self, resource: &str) -> Result<Option<Recorded>, Failure> {
        let query = format!("SELECT checksum, done FROM {} WHERE resource = $1", self.table);
        let row = self.client.query_opt(&query, &[&resource]).await.map_err(|error| failure(&error))?;
        Ok(row.map(|row| Recorded {
            checksum: row.get(0),
            done: usize::try_from(row.get::<_, i32>(1)).unwrap_or_default(),
        }))
    }

    async fn record(&mut self, resource: &str, what: Option<&Recorded>) -> Result<(), Failure> {
        // A statement may have taken another role, which need not know the table.
        self.execute("RESET ROLE").await?;
        let answer = match what {
            None => {
                let delete = format!("DELETE FROM {} WHERE resource = $1", self.table);
                self.client.execute(&delete, &[&resource]).await
            }
            Some(Recorded { checksum, done }) => {
                let upsert = format!(
                    "INSERT INTO {} (resource, checksum, done) VALUES ($1, $2, $3) ON CONFLICT (resource)
                     DO UPDATE SET checksum = excluded.checksum, done = excluded.done, at = clock_timestamp()",
                    self.table
                );
                let done = i32::try_from(*done).unwrap_or(i32::MAX);
                self.client.execute(&upsert, &[&resource, checksum, &done]).await
            }
        };
        answer.map(drop).map_err(|error| failure(&error).during("recording what was done"))
    }
}

/// The server's code and message; its detail may quote rows.
fn failure(error: &tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(refusal) => Failure::new(format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code())),
        None => Failure::new(chain(error)),
    }
}
