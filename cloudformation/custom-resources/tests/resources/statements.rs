//! `Custom::Statements` on a real PostgreSQL that wants a password, behind TLS; the secret in moto.

use crate::support::{Function, Recorder, aws, with};
use aurora_failover_lab::postgres::Binaries;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const STATEMENTS: &str = "Custom::Statements";
const PASSWORD: &str = "hush-password";
const START_MAX: Duration = Duration::from_secs(30);

/// Databases refuse to run as root.
fn nobody() -> Option<u32> {
    rustix::process::geteuid().is_root().then_some(65_534)
}

/// A program of a database, which ends with the test.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    if let Some(nobody) = nobody() {
        command.uid(nobody).gid(nobody);
    }
    command
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a port").port()
}

struct Server {
    /// Without TLS.
    port: u16,
    _running: Child,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let binaries = Binaries::find().expect("PostgreSQL");
        let nobody = nobody();
        let dir = tempfile::tempdir().expect("a directory");
        chown(dir.path(), nobody, nobody).expect("ours");
        let data = dir.path().join("data");
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD).expect("written");
        chown(&password, nobody, nobody).expect("ours");
        let made = command(binaries.program("initdb"))
            .env("LC_ALL", "C")
            .args(["--auth=scram-sha-256", "--username=postgres", "--no-locale", "--no-sync", "-D"])
            .arg(&data)
            .arg(format!("--pwfile={}", password.display()))
            .output()
            .await
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port().await;
        let running = command(binaries.program("postgres"))
            .env("LC_ALL", "C")
            .arg("-D")
            .arg(&data)
            .args(["-c", &format!("port={port}"), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", "unix_socket_directories="])
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres runs");
        Self { port, _running: running, _dir: dir }
    }

    async fn client(&self, database: &str) -> Client {
        let began = Instant::now();
        loop {
            let mut config = tokio_postgres::Config::new();
            config.host("127.0.0.1").port(self.port).user("postgres").password(PASSWORD).dbname(database);
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) => assert!(began.elapsed() < START_MAX, "PostgreSQL does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// TLS in front of it, as a proxy of databases has; answers port and certificate. The server of the lab need not
    /// be built with TLS.
    async fn behind_tls(&self) -> (u16, String) {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("TLS").with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.cert.der().clone()], key).expect("they fit");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (front, back) = (listener.local_addr().expect("it is bound").port(), self.port);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a client");
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut request = [0; 8];
                    stream.read_exact(&mut request).await?;
                    // SSLRequest.
                    assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
                    stream.write_all(b"S").await?;
                    let mut stream = acceptor.accept(stream).await?;
                    let mut server = TcpStream::connect(("127.0.0.1", back)).await?;
                    copy_bidirectional(&mut stream, &mut server).await
                });
            }
        });
        (front, certificate.cert.pem())
    }
}

async fn secret(url: &str, name: &str, text: &str) -> String {
    let secrets = aws_sdk_secretsmanager::Client::new(&aws::config(url, "us-west-2").await);
    let created = secrets.create_secret().name(name).secret_string(text).send().await.expect("a secret");
    created.arn().expect("an ARN").to_owned()
}

async fn count(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.expect("a count").get(0)
}

#[tokio::test]
async fn statements_run_once_and_are_undone_at_the_end() {
    let server = Server::start().await;
    let admin = server.client("postgres").await;
    let (port, pem) = server.behind_tls().await;
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, pem).expect("written");
    let emulator = aws::moto().await;
    let login = json!({ "username": "postgres", "password": PASSWORD, "engine": "postgres" }).to_string();
    let arn = secret(emulator, "database", &login).await;

    let recorder = Recorder::start(emulator).await;
    let mut function = Function::start(&recorder.url).await;
    let base = json!({
        "Engine": "postgresql", "Host": "localhost", "Port": port.to_string(), "Database": "postgres", "SecretArn": arn,
        "CaFile": ca, "Transaction": "true",
        "Statements": ["CREATE TABLE orders (id int)", "INSERT INTO orders VALUES (1)"],
        "DeleteStatements": ["DROP TABLE orders"],
    });
    // Whatever is wrong, nothing was done, and a Delete after it has nothing to undo.
    let broken =
        with(&base, "Statements", json!(["CREATE TABLE orders (id int)", "CREATE ROLE r PASSWORD 'hush-role' oops"]));
    let failed = function.create(STATEMENTS, &broken).await.failed("statement 2 of 2");
    failed.clone().failed("SQLSTATE 42601");
    function.delete(STATEMENTS, &failed.id(), &broken).await.succeeded();

    let created = function.create(STATEMENTS, &base).await.succeeded();
    function.create(STATEMENTS, &base).await.succeeded();
    assert_eq!(count(&admin, "SELECT count(*) FROM orders").await, 1, "the second time does nothing");
    recorder.check(STATEMENTS);
    let more = with(&base, "Statements", json!(["INSERT INTO orders VALUES (2)"]));
    let updated = function.update(STATEMENTS, &created.id(), &base, &more).await.succeeded();
    assert_eq!(updated.id(), created.id());
    assert_ne!(updated.data("Checksum"), created.data("Checksum"));
    let lost = with(&base, "Statements", json!(["DELETE FROM orders", "SELECT no_such_function()"]));
    function.update(STATEMENTS, &created.id(), &more, &lost).await.failed("no_such_function");
    assert_eq!(count(&admin, "SELECT count(*) FROM orders").await, 2, "the transaction is all or nothing");
    function.delete(STATEMENTS, &created.id(), &more).await.succeeded();
    assert_eq!(count(&admin, "SELECT count(*) FROM pg_class WHERE relname = 'orders'").await, 0);
    assert_eq!(count(&admin, "SELECT count(*) FROM aurora_failover_statements").await, 0);
    function.delete(STATEMENTS, &created.id(), &more).await.succeeded();

    // Without a transaction what is done stays done, and a retry goes on behind it.
    let steps = json!(["CREATE TABLE steps (id int)", "INSERT INTO steps VALUES (1)", "INSERT INTO later VALUES (1)"]);
    let steps = with(&with(&base, "Transaction", "false"), "Statements", steps);
    let steps = with(&steps, "DeleteStatements", json!(["DROP TABLE IF EXISTS steps", "DROP DATABASE IF EXISTS made"]));
    let failed = function.create(STATEMENTS, &steps).await.failed("statement 3 of 3");
    admin.batch_execute("CREATE TABLE later (id int)").await.expect("made");
    function.create(STATEMENTS, &steps).await.succeeded();
    assert_eq!(count(&admin, "SELECT (SELECT count(*) FROM steps) + (SELECT count(*) FROM later)").await, 2);
    // Not possible inside of a transaction, and after it the search path and the role are others.
    let database = json!(["CREATE DATABASE made", "SET search_path = nowhere", "SET ROLE pg_monitor"]);
    let database = with(&steps, "Statements", database);
    function.update(STATEMENTS, &failed.id(), &steps, &database).await.succeeded();
    assert_eq!(count(&admin, "SELECT count(*) FROM pg_database WHERE datname = 'made'").await, 1);
    function.delete(STATEMENTS, &failed.id(), &database).await.succeeded();
    assert_eq!(count(&admin, "SELECT count(*) FROM pg_class WHERE relname = 'steps'").await, 0);

    // A statement that would take longer than the function has is ended on the server too.
    let long = with(&base, "Statements", json!(["SELECT pg_sleep(60)"]));
    let event = function.event("Create", STATEMENTS, json!({ "ResourceProperties": long }));
    function.answer(event, Duration::from_secs(5)).await.failed("statement timeout");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()";
    assert_eq!(count(&admin, running).await, 0);

    let log = function.log();
    assert!(!log.contains("hush"), "{log}");
}

#[tokio::test]
async fn only_the_right_server_and_the_right_password_will_do() {
    let server = Server::start().await;
    server.client("postgres").await;
    let (port, pem) = server.behind_tls().await;
    let (_, other_pem) = server.behind_tls().await;
    let dir = tempfile::tempdir().expect("a directory");
    let (ca, other_ca) = (dir.path().join("ca.pem"), dir.path().join("other.pem"));
    std::fs::write(&ca, pem).expect("written");
    std::fs::write(&other_ca, other_pem).expect("written");
    let emulator = aws::moto().await;
    let of = |user: &str, password: &str| json!({ "username": user, "password": password }).to_string();
    let right = secret(emulator, "right", &of("postgres", PASSWORD)).await;
    let wrong = secret(emulator, "wrong", &of("postgres", "hush-wrong")).await;
    let broken = secret(emulator, "broken", "hush-broken").await;

    let mut function = Function::start(emulator).await;
    let base = json!({
        "Engine": "postgresql", "Host": "localhost", "Port": port.to_string(), "Database": "postgres",
        "SecretArn": right, "CaFile": ca, "Statements": ["SELECT 1"], "DeleteStatements": ["SELECT 1"],
    });
    function.create(STATEMENTS, &base).await.succeeded();
    let with_all = |name: &str, value: Value| with(&base, name, value);
    function.create(STATEMENTS, &with_all("CaFile", json!(other_ca))).await.failed("certificate");
    function.create(STATEMENTS, &with_all("Host", json!("127.0.0.1"))).await.failed("certificate");
    function.create(STATEMENTS, &with_all("CaFile", json!("/nowhere"))).await.failed("CaFile /nowhere");
    function.create(STATEMENTS, &with_all("SecretArn", json!(wrong))).await.failed("SQLSTATE 28P01");
    function.create(STATEMENTS, &with_all("SecretArn", json!(broken))).await.failed("no JSON object");
    let gone = format!("{right}-gone");
    function.create(STATEMENTS, &with_all("SecretArn", json!(gone))).await.failed("does not exist");
    function.create(STATEMENTS, &with_all("Port", json!(server.port.to_string()))).await.failed("TLS");
    function.create(STATEMENTS, &with_all("Engine", json!("oracle"))).await.failed("unknown variant");
    // Whoever deletes a stack has perhaps lost the database before.
    function.delete(STATEMENTS, "x", &with_all("SecretArn", json!(gone))).await.succeeded();
    function.delete(STATEMENTS, "x", &with_all("Host", json!("gone.invalid"))).await.succeeded();
    let log = function.log();
    assert!(!log.contains("hush"), "{log}");
}

/// MariaDB, which speaks MySQL's protocol and comes with Debian; answers only by TLS.
#[cfg(feature = "mysql")]
struct MariaDb {
    port: u16,
    ca: std::path::PathBuf,
    _running: Child,
    _dir: tempfile::TempDir,
}

#[cfg(feature = "mysql")]
impl MariaDb {
    /// With the database `orders`, and the user `app` who may do everything there.
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let nobody = nobody();
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let orders = format!(
            "CREATE DATABASE orders;\nCREATE USER app IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON orders.* TO app;\n"
        );
        let files = [
            ("ca.pem", certificate.cert.pem()),
            ("key.pem", certificate.signing_key.serialize_pem()),
            ("orders.sql", orders),
        ];
        for (name, text) in files {
            std::fs::write(path(name), text).expect("written");
            chown(path(name), nobody, nobody).expect("ours");
        }
        chown(dir.path(), nobody, nobody).expect("ours");
        let on_data = |program: &str| {
            let search = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
            let mut command = command(program);
            command.env("PATH", search).arg("--no-defaults").arg(format!("--datadir={}", path("data").display()));
            command
        };
        let made = on_data("mariadb-install-db")
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .output()
            .await
            .expect("mariadb-install-db runs; scripts/setup test installs it");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port().await;
        let log = path("log");
        let running = on_data("mariadbd")
            .args(["--bind-address=127.0.0.1", "--require-secure-transport=ON", &format!("--port={port}")])
            .arg(format!("--socket={}", path("socket").display()))
            .arg(format!("--init-file={}", path("orders.sql").display()))
            .arg(format!("--ssl-cert={}", path("ca.pem").display()))
            .arg(format!("--ssl-key={}", path("key.pem").display()))
            .stderr(std::fs::File::create(&log).expect("a file"))
            .spawn()
            .expect("mariadbd runs");
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(began.elapsed() < START_MAX, "MariaDB does not answer: {}", said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { port, ca: path("ca.pem"), _running: running, _dir: dir }
    }
}

#[cfg(feature = "mysql")]
#[tokio::test]
async fn statements_run_once_in_mysql_too() {
    let server = MariaDb::start().await;
    let (port, ca) = (server.port.to_string(), &server.ca);
    let emulator = aws::moto().await;
    let login = json!({ "username": "app", "password": PASSWORD }).to_string();
    let arn = secret(emulator, "mysql", &login).await;
    let mut function = Function::start(emulator).await;
    let base = json!({
        "Engine": "mysql", "Host": "localhost", "Port": port, "Database": "orders", "SecretArn": arn, "CaFile": ca,
        "Statements": ["CREATE TABLE one (id int)", "INSERT INTO one VALUES (1)", "CREATE TABLE two AS SELECT id FROM one"],
        "DeleteStatements": ["DROP TABLE one", "DROP TABLE two"],
    });
    function.create(STATEMENTS, &with(&base, "Transaction", "true")).await.failed("commits each DDL statement");
    let created = function.create(STATEMENTS, &base).await.succeeded();
    // "CREATE TABLE" would fail if it ran again.
    function.create(STATEMENTS, &base).await.succeeded();
    let wrong =
        with(&base, "Statements", json!(["INSERT INTO two VALUES (2)", "CREATE USER 'x' IDENTIFIED 'hush' oops"]));
    function.update(STATEMENTS, &created.id(), &base, &wrong).await.failed("statement 2 of 2");
    function.create(STATEMENTS, &with(&base, "Host", "127.0.0.1")).await.failed("certificate");
    function.delete(STATEMENTS, &created.id(), &base).await.succeeded();
    function.delete(STATEMENTS, &created.id(), &base).await.succeeded();
    function.create(STATEMENTS, &base).await.succeeded();
    function.delete(STATEMENTS, &created.id(), &base).await.succeeded();
    assert!(!function.log().contains("hush"), "{}", function.log());
}
