//! The endpoints that the suite runs against.

use anyhow::{Context as _, Result, bail};
use aurora_failover_lab::aws::{Aws, AwsOptions, PromotedAtOnce};
use aurora_failover_lab::dns::Zones;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// All of them.
pub(crate) const NAMES: [&str; 3] = ["lab", "ministack", "moto"];

/// Longest time that an emulator may take to start.
const START_MAX: Duration = Duration::from_secs(60);

/// One running endpoint.
pub(crate) struct Endpoint {
    name: &'static str,
    url: String,
    running: Running,
}

enum Running {
    Lab(Box<Aws>),
    Process(Child),
}

impl Endpoint {
    /// Starts it.
    pub(crate) async fn start(name: &'static str) -> Result<Self> {
        if name == "lab" {
            let aws = start_lab().await?;
            return Ok(Self { name, url: aws.url(), running: Running::Lab(Box::new(aws)) });
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let tools = std::env::var_os("AURORA_FAILOVER_TOOLS").map(PathBuf::from);
        let tools = tools
            .context("AURORA_FAILOVER_TOOLS is not set; run the tests by scripts/test, which installs the emulators")?;
        let program = tools.join("bin").join(if name == "moto" { "moto_server" } else { "ministack" });
        if !program.exists() {
            bail!("{} does not exist; run scripts/setup test", program.display());
        }
        // The shell ends the emulator when our end of its standard input closes, however we end.
        let mut command = Command::new("sh");
        command.args(["-c", "\"$@\" & pid=$!; cat >/dev/null; kill $pid; wait $pid", "sh"]).arg(program);
        if name == "moto" {
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        }
        // ministack's: without them it listens on all addresses, and on a second port.
        command.env("GATEWAY_PORT", port.to_string()).env("BIND_HOST", "127.0.0.1").env("IOT_MTLS_ENABLED", "0");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if began.elapsed() > START_MAX {
                bail!("{name} did not listen on port {port} within {START_MAX:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Self { name, url: format!("http://127.0.0.1:{port}"), running: Running::Process(child) })
    }

    /// This program again, with the AWS environment of the endpoint.
    pub(crate) fn child_command(&self, marker: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command
            .env(marker, self.name)
            .env("AWS_ENDPOINT_URL", &self.url)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        match self.running {
            Running::Lab(aws) => {
                let _stopping_anyway = aws.shutdown().await;
            }
            Running::Process(mut child) => {
                drop(child.stdin.take());
                let _ended = child.wait().await;
            }
        }
    }
}

/// Databases are promoted at once: the contract is about the API, the drills are about PostgreSQL.
async fn start_lab() -> Result<Aws> {
    let (primary, secondary) = (super::behaviours::PRIMARY, super::behaviours::SECONDARY);
    let global_cluster = PromotedAtOnce::global_cluster(super::behaviours::GLOBAL_CLUSTER, [primary, secondary]);
    let lag = super::behaviours::LAG.map(|(seconds, ms)| (Duration::from_secs(seconds), ms)).to_vec();
    let databases = PromotedAtOnce { primary: primary.into(), lag };
    Aws::start(AwsOptions::new(Zones::new(), Arc::new(databases), global_cluster)).await
}
