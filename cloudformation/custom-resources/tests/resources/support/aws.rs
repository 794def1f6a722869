//! The emulators, each started once, and how the tests themselves talk to them.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

const START_MAX: Duration = Duration::from_secs(60);

struct Emulator {
    url: String,
    /// Its standard input is what keeps it alive.
    _running: Child,
}

static MOTO: OnceCell<Emulator> = OnceCell::const_new();
static MINISTACK: OnceCell<Emulator> = OnceCell::const_new();

/// Where moto is.
pub(crate) async fn moto() -> &'static str {
    &MOTO.get_or_init(|| start("moto_server")).await.url
}

/// Where ministack is.
pub(crate) async fn ministack() -> &'static str {
    &MINISTACK.get_or_init(|| start("ministack")).await.url
}

async fn start(name: &str) -> Emulator {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let tools = std::env::var_os("AURORA_FAILOVER_TOOLS").map(PathBuf::from);
    let tools = tools.expect("AURORA_FAILOVER_TOOLS is not set: run scripts/test, which installs the emulators");
    let program = tools.join("bin").join(name);
    assert!(program.exists(), "{} does not exist: run scripts/setup test", program.display());
    // The shell ends the emulator when our end of its standard input closes, however we end.
    let mut command = Command::new("sh");
    command.args(["-c", "\"$@\" & pid=$!; cat >/dev/null; kill $pid; wait $pid", "sh"]).arg(program);
    if name == "moto_server" {
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    }
    // ministack's: without them it listens on all addresses, and on a second port.
    command.env("GATEWAY_PORT", port.to_string()).env("BIND_HOST", "127.0.0.1").env("IOT_MTLS_ENABLED", "0");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = command.spawn().unwrap_or_else(|error| panic!("starting {name}: {error}"));
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(began.elapsed() < START_MAX, "{name} did not listen on port {port} within {START_MAX:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Emulator { url: format!("http://127.0.0.1:{port}"), _running: running }
}

/// For the SDK's clients of a test.
pub(crate) async fn config(url: &str, region: &str) -> SdkConfig {
    let credentials = Credentials::new("test", "test", None, None, "test");
    aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::new(region.to_owned()))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .load()
        .await
}

pub(crate) async fn s3(url: &str) -> aws_sdk_s3::Client {
    let config = config(url, "us-west-2").await;
    aws_sdk_s3::Client::from_conf(aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build())
}

pub(crate) async fn bucket(s3: &aws_sdk_s3::Client, name: &str) {
    let place = aws_sdk_s3::types::BucketLocationConstraint::UsWest2;
    let place = aws_sdk_s3::types::CreateBucketConfiguration::builder().location_constraint(place).build();
    s3.create_bucket().bucket(name).create_bucket_configuration(place).send().await.expect("a bucket");
}

/// Keys in a bucket.
pub(crate) async fn keys(s3: &aws_sdk_s3::Client, bucket: &str) -> Vec<String> {
    let listed = s3.list_objects_v2().bucket(bucket).send().await.expect("a list");
    listed.contents().iter().filter_map(|object| object.key().map(ToOwned::to_owned)).collect()
}

/// A call of the query protocol, which emulators take with any signature.
pub(crate) async fn query(url: &str, service: &str, region: &str, fields: &[(&str, &str)]) -> String {
    let scope = format!("Credential=test/20260101/{region}/{service}/aws4_request");
    let form: String = fields
        .iter()
        .fold(&mut form_urlencoded::Serializer::new(String::new()), |form, (name, value)| form.append_pair(name, value))
        .finish();
    let request = reqwest::Client::new()
        .post(url)
        .header("authorization", format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=00"))
        .header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body(form).send().await.expect("an answer");
    let status = answer.status();
    let text = answer.text().await.expect("text");
    assert!(status.is_success(), "{fields:?} answered {status}: {text}");
    text
}
