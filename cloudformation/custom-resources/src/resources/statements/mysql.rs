//! Statements in MySQL, which commits each DDL statement by itself.

use super::{Connect, Credentials, Recorded, Statements, connect, is_distrusted};
use crate::failure::Failure;
use crate::resources::Job;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, OptsBuilder, SslOpts};
use std::time::Duration;

const TABLE: &str = "aurora_failover_statements";

/// An open session.
pub(super) struct Session {
    connection: Conn,
}

impl Session {
    pub(super) async fn open(statements: &Statements, login: &Credentials, job: &Job) -> Result<Self, Failure> {
        let roots = statements.roots()?.into_iter().map(|certificate| certificate.to_vec().into()).collect();
        let tls = SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true);
        let options = OptsBuilder::default()
            .ip_or_hostname(statements.host.clone())
            .tcp_port(statements.port)
            .db_name(Some(statements.database.clone()))
            .user(Some(login.username.clone()))
            .pass(Some(login.password.clone()))
            .prefer_socket(false)
            .ssl_opts(tls);
        let to = format!("{}:{}", statements.host, statements.port);
        connect(job, &to, || async {
            match Conn::new(options.clone()).await {
                Ok(connection) => Ok(Self { connection }),
                Err(error @ Error::Io(_)) if !is_distrusted(&error) => Err(Connect::Unreachable(failure(&error))),
                Err(error) => Err(Connect::Refused(failure(&error))),
            }
        })
        .await
    }
}

impl super::Session for Session {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        self.connection.query_drop(sql).await.map_err(|error| failure(&error))
    }

    async fn prepare(&mut self) -> Result<(), Failure> {
        let failed = |error: Error| failure(&error).during("preparing the table aurora_failover_statements");
        let lock: Option<Option<i64>> =
            self.connection.query_first(format!("SELECT GET_LOCK('{TABLE}', 60)")).await.map_err(failed)?;
        if lock.flatten() != Some(1) {
            return Err(Failure::new("another request holds the lock of aurora_failover_statements"));
        }
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {TABLE} (resource varchar(64) PRIMARY KEY, checksum varchar(64) NOT NULL,
             done integer NOT NULL, at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP)"
        );
        self.connection.query_drop(create).await.map_err(failed)
    }

    /// MySQL limits only reading statements; the connection ends with the request in any case.
    async fn limit(&mut self, _within: Duration) -> Result<(), Failure> {
        Ok(())
    }

    async fn recorded(&mut self, resource: &str) -> Result<Option<Recorded>, Failure> {
        let query = format!("SELECT checksum, done FROM {TABLE} WHERE resource = ?");
        let row: Option<(String, i64)> =
            self.connection.exec_first(query, (resource,)).await.map_err(|error| failure(&error))?;
        Ok(row.map(|(checksum, done)| Recorded { checksum, done: usize::try_from(done).unwrap_or_default() }))
    }

    async fn record(&mut self, resource: &str, what: Option<&Recorded>) -> Result<(), Failure> {
        let answer = match what {
            None => self.connection.exec_drop(format!("DELETE FROM {TABLE} WHERE resource = ?"), (resource,)).await,
            Some(Recorded { checksum, done }) => {
                let replace = format!("REPLACE INTO {TABLE} (resource, checksum, done) VALUES (?, ?, ?)");
                self.connection.exec_drop(replace, (resource, checksum, *done as u64)).await
            }
        };
        answer.map_err(|error| failure(&error).during("recording what was done"))
    }
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::Server(refusal) => Failure::new(format!("{} (error {})", refusal.message, refusal.code)),
        other => Failure::new(other.to_string()),
    }
}
