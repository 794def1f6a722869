//! Connections to PostgreSQL are protected: against a server that is not who it should be, and with the password that
//! is current. The server here speaks TLS for real, and of PostgreSQL only the greeting.
#![cfg(feature = "lab")]

use aurora_failover::config::{AwsSettings, DatabaseSettings, PasswordSource, Tls};
use aurora_failover::database::{Database, ProbeError};
use aurora_failover::dns::Dns;
use aurora_failover_lab::dns::{DnsServer, RecordKind, Zones};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A server with a certificate for this name: asks for the password in plain text, and refuses all but `right`.
async fn server(name: &str) -> (u16, String) {
    let certificate = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("TLS").with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.cert.der().clone()], key).expect("they fit");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut request = [0; 8];
                stream.read_exact(&mut request).await?;
                stream.write_all(b"S").await?;
                let mut stream = acceptor.accept(stream).await?;
                let length = stream.read_u32().await?;
                stream.read_exact(&mut vec![0; length as usize - 4]).await?;
                // AuthenticationCleartextPassword
                stream.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]).await?;
                stream.read_u8().await?;
                let length = stream.read_u32().await?;
                let mut password = vec![0; length as usize - 4];
                stream.read_exact(&mut password).await?;
                if password == b"right\0" {
                    stream.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 0, b'Z', 0, 0, 0, 5, b'I']).await?;
                    stream.read_u8().await?;
                } else {
                    let refusal = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0";
                    stream.write_all(&[b'E', 0, 0, 0, refusal.len() as u8 + 4]).await?;
                    stream.write_all(refusal).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    (port, certificate.cert.pem())
}

async fn names() -> (DnsServer, Dns) {
    let zones = Zones::new();
    zones.add_zone("test.").expect("a zone");
    zones.set("orders.us-west-2.test.", RecordKind::A, 1, &["127.0.0.1"]).expect("a record");
    zones.set("db.test.", RecordKind::Cname, 1, &["orders.us-west-2.test."]).expect("a record");
    let server = DnsServer::start(zones).await.expect("a free port");
    let dns = Dns::new(&[server.addr()]).expect("a resolver");
    (server, dns)
}

fn database(port: u16, ca_file: &Path, password: PasswordSource, dns: &Dns) -> Result<Database, ProbeError> {
    let (user, name) = ("failover".into(), "orders".into());
    let settings = DatabaseSettings { port, user, name, password, tls: Tls::Verify { ca_file: ca_file.into() } };
    let aws = AwsSettings { timeout: Duration::from_secs(1), poll_every: Duration::from_secs(1) };
    Database::new(settings, &aws, dns.clone())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

async fn class(database: Result<Database, ProbeError>, name: &str) -> &'static str {
    match database {
        Ok(database) => database.connect(name).await.map_or_else(|error| error.class, |_| "connected"),
        Err(error) => error.class,
    }
}

#[tokio::test]
async fn only_a_server_whose_certificate_names_the_endpoint_is_talked_to() {
    let (_server, dns) = names().await;
    let right = || PasswordSource::Environment(Some("right".into()));
    let (port, pem) = server("orders.us-west-2.test").await;
    let ca = file(&pem);
    for name in ["orders.us-west-2.test.", "db.test."] {
        assert_eq!(class(database(port, ca.path(), right(), &dns), name).await, "connected", "{name}");
    }
    let (other, _) = server("orders.us-west-2.test").await;
    assert_eq!(class(database(other, ca.path(), right(), &dns), "db.test.").await, "tls", "another authority");
    let (misnamed, pem) = server("orders.us-east-2.test").await;
    assert_eq!(class(database(misnamed, file(&pem).path(), right(), &dns), "db.test.").await, "tls", "another name");
    assert_eq!(class(database(port, file("").path(), right(), &dns), "db.test.").await, "tls", "no authority");
    assert_eq!(class(database(port, Path::new("/nowhere"), right(), &dns), "db.test.").await, "tls", "no file");
}

#[tokio::test]
async fn a_password_file_is_read_at_each_connection_and_a_password_is_never_shown() {
    let (_server, dns) = names().await;
    let (port, pem) = server("orders.us-west-2.test").await;
    let (ca, mut password) = (file(&pem), file("secret-and-wrong\n"));
    let source = PasswordSource::File(password.path().into());
    let database = database(port, ca.path(), source, &dns).expect("usable");
    let Err(refused) = database.connect("db.test.").await else { panic!("a wrong password is refused") };
    assert_eq!(refused.class, "server");
    assert!(!format!("{refused:?} {refused}").contains("secret-and-wrong"));
    password.as_file_mut().set_len(0).expect("emptied");
    std::fs::write(password.path(), "right\n").expect("written");
    database.connect("db.test.").await.map(drop).expect("the new one is taken");
}
