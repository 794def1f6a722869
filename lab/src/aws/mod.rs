//! The lab's AWS: one loopback HTTP endpoint that speaks the wire protocols of DynamoDB, SQS,
//! EventBridge, RDS, CloudWatch, Route 53 and S3 for all regions, as the official SDKs send them.
//!
//! Service and region come from the credential scope of the SigV4 `Authorization` header. The
//! signature itself is **not** verified. What a role may do is enforced (see `iam.rs`); queue and bus policies are
//! stored at most. An action that the lab does not have gets the error AWS gives for an unknown action;
//! a parameter that it does not honour is refused. Nothing is a pretended success.
//!
//! A request passes `Front::before`, the service, `Front::after`. Faults happen in these two: a lost region does not
//! answer, as if its packets were dropped; single calls are delayed, refused, or their answers lost.

mod checker;
mod cloudwatch;
mod dynamodb;
mod eventbridge;
mod fault;
mod iam;
mod pattern;
mod promoted_at_once;
mod rds;
mod route53;
mod s3;
mod sqs;
mod sts;
mod wire;

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use checker::FailoverRecords;
pub use fault::{Fault, FaultKind};
pub use promoted_at_once::PromotedAtOnce;
pub use rds::{Databases, GlobalCluster, Member, Timing};

use crate::dns::{RecordKind, Zones};
use wire::{Refusal, Reply, json_reply, lock, xml_error};

const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
const CALLS_KEPT_MAX: usize = 100_000;
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// What the endpoint stands for.
pub struct AwsOptions {
    /// The account in every ARN.
    pub account: String,
    /// What Route 53 publishes to.
    pub zones: Zones,
    /// Time from a change to `INSYNC`; the DNS answers change at that moment.
    pub dns_propagation_ms: u64,
    /// The real servers behind RDS.
    pub databases: Arc<dyn Databases>,
    /// The one global cluster.
    pub global_cluster: GlobalCluster,
    /// How long what Aurora does takes.
    pub timing: Timing,
    /// The name of a secondary's writer endpoint leads nowhere, until it is the primary.
    pub unresolved_secondaries: bool,
}

impl AwsOptions {
    /// The defaults: account `000000000000`, changes of DNS in sync after 50 ms.
    pub fn new(zones: Zones, databases: Arc<dyn Databases>, global_cluster: GlobalCluster) -> Self {
        let (account, timing) = ("000000000000".to_owned(), Timing::default());
        let (dns_propagation_ms, unresolved_secondaries) = (50, false);
        Self { account, zones, dns_propagation_ms, databases, global_cluster, timing, unresolved_secondaries }
    }
}

/// One request that reached the endpoint.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it arrived.
    pub at: SystemTime,
    /// Until its answer was ready or its client went away.
    pub elapsed: Duration,
    /// The region it was signed for; empty if unsigned.
    pub region: String,
    /// The service as it is named in the signature, such as `events`.
    pub service: String,
    /// The action, such as `FailoverGlobalCluster`.
    pub action: String,
    /// What the service decided; 0 if the request was never executed.
    pub http_status: u16,
    /// The AWS error code, if refused.
    pub error_code: Option<String>,
    /// False if the client went away first, for instance because the region was lost.
    pub answered: bool,
}

impl Call {
    fn speaks_json(&self) -> bool {
        matches!(self.service.as_str(), "dynamodb" | "sqs" | "events" | "monitoring")
    }
}

/// The running endpoint. Dropping it stops it without waiting.
pub struct Aws {
    front: Arc<Front>,
    url: String,
    server: Option<JoinHandle<std::io::Result<()>>>,
}

impl Aws {
    /// Binds a free port of 127.0.0.1 and serves until shut down or dropped.
    pub async fn start(options: AwsOptions) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("binding the AWS endpoint on 127.0.0.1")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let network = Network::default();
        let sqs = sqs::Sqs::new(&options.account, &url, network.clone());
        let faults = fault::Faults::default();
        let late = eventbridge::Late { faults: faults.clone(), tasks: tasks.clone(), stop: stop.clone() };
        let events = eventbridge::EventBridge::new(&options.account, sqs.clone(), late);
        let rds = rds::Rds::new(&options, network.clone(), events.clone(), tasks.clone(), stop.clone())?;
        let cloudwatch = cloudwatch::CloudWatch::new(options.global_cluster.clone(), options.databases.clone());
        let propagation = Duration::from_millis(options.dns_propagation_ms);
        let zones = options.zones.clone();
        let (route53, publisher) = route53::Route53::new(options.zones, propagation);
        tasks.spawn(stop.clone().run_until_cancelled_owned(publisher));
        let front = Arc::new(Front {
            account: options.account.clone(),
            network,
            zones,
            s3: s3::S3::default(),
            iam: iam::Iam::new(&options.account),
            faults,
            cloudwatch,
            log: Mutex::default(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            sqs,
            events,
            rds,
            route53,
            dynamodb: dynamodb::DynamoDb::new(tasks, stop.clone()),
        });
        let app = Router::new().fallback(serve).with_state(front.clone());
        let listener = listener.tap_io(|stream| {
            // Without it small answers wait for the peer's delayed acknowledgement.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
        });
        let serving = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned());
        let server = Some(tokio::spawn(async move { serving.await }));
        Ok(Self { front, url, server })
    }

    /// The endpoint URL for the SDKs.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// From now on no request signed for `region` is executed or answered, those in flight included.
    pub fn lose_region(&self, region: &str) {
        self.front.network.0.send_if_modified(|lost| lost.insert(region.to_owned()));
    }

    /// Lets requests for `region` through again; those still held open go on, as after a retransmission.
    pub fn heal_region(&self, region: &str) {
        self.front.network.0.send_if_modified(|lost| lost.remove(region));
    }

    /// RDS shows no instance of the cluster in `region` from now on, or shows them again.
    pub fn set_headless(&self, region: &str, headless: bool) {
        self.front.rds.set_headless(region, headless);
    }

    /// RDS accepts failovers and switchovers from now on and gives them up, or carries them out again.
    pub fn fail_promotions(&self, fail: bool) {
        self.front.rds.give_up(fail);
    }

    /// Has every cluster that was left behind been made to follow again?
    pub fn is_resynchronized(&self) -> bool {
        self.front.rds.is_resynchronized()
    }

    /// Somebody's order to RDS, past HTTP and the log of calls: `failover REGION` or `switchover REGION`.
    ///
    /// # Errors
    /// When it is no such order, or RDS refuses it.
    pub fn order(&self, order: &str) -> anyhow::Result<()> {
        match order.split_once(' ') {
            Some(("failover", region)) => self.front.rds.order(region, false),
            Some(("switchover", region)) => self.front.rds.order(region, true),
            _ => anyhow::bail!("{order:?} is no order to RDS: write `failover REGION` or `switchover REGION`"),
        }
    }

    /// From now on these faults happen to calls, drawn from `seed`; none when there are none.
    pub fn set_faults(&self, faults: Vec<Fault>, seed: u64) {
        self.front.faults.set(faults, seed);
    }

    /// Publishes events without HTTP; `request` is that of `PutEvents`.
    pub fn put_events(&self, region: &str, request: &serde_json::Value) {
        let _reply = self.front.events.call(region, "PutEvents", request.to_string().as_bytes());
    }

    /// The ended requests, oldest first; at most the newest 100,000.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.front.log).calls.iter().cloned().collect()
    }

    /// How many older calls the log has let go.
    pub fn calls_dropped(&self) -> u64 {
        lock(&self.front.log).dropped
    }

    /// Makes a hosted zone without HTTP and returns its id (without `/hostedzone/`).
    pub fn create_zone(&self, name: &str) -> anyhow::Result<String> {
        self.front.route53.create_zone(name)
    }

    /// Puts a record into a hosted zone without HTTP, in sync at once.
    pub fn put_record(&self, zone: &str, name: &str, kind: RecordKind, ttl_s: u32, value: &str) -> anyhow::Result<()> {
        self.front.route53.put(zone, name, kind, ttl_s, &[value])
    }

    /// Makes a bucket without HTTP.
    pub fn create_bucket(&self, region: &str, name: &str) {
        self.front.s3.create_bucket(region, name);
    }

    /// Serves a pair of failover records from now on, first the first one.
    pub fn serve_failover_records(&self, records: FailoverRecords) -> anyhow::Result<()> {
        let zones = self.front.zones.clone();
        zones.set(&records.name, RecordKind::Cname, records.ttl_s, &[&records.first])?;
        let checker = checker::follow(records, zones);
        self.front.tasks.spawn(self.front.stop.clone().run_until_cancelled_owned(checker));
        Ok(())
    }

    /// Gives a role a policy: whoever uses the role's name as access key may do what it allows, and nothing else.
    ///
    /// # Errors
    /// When it is no policy.
    pub fn put_role_policy(&self, role: &str, name: &str, policy: &str) -> anyhow::Result<()> {
        let put = self.front.iam.put_role_policy(role, name, policy);
        put.map_err(|refusal| anyhow::anyhow!("{}: {}", refusal.code, refusal.message))
    }

    /// Stops listening, lets go of held requests, and returns when all tasks have ended.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        self.front.stop.cancel();
        self.front.tasks.close();
        let server = self.server.take().expect("only shutdown takes the server");
        let abort = server.abort_handle();
        let stopped = tokio::time::timeout(SHUTDOWN_LIMIT, async {
            self.front.tasks.wait().await;
            server.await
        });
        let stopped = stopped.await;
        abort.abort();
        stopped
            .context("the AWS endpoint still had open requests after 5 s and was cut off")?
            .context("the AWS endpoint panicked")?
            .context("serving the AWS endpoint")
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        self.front.stop.cancel();
    }
}

/// Which regions' packets are dropped. Clones share it.
#[derive(Clone)]
struct Network(Arc<watch::Sender<BTreeSet<String>>>);

impl Default for Network {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl Network {
    fn is_lost(&self, region: &str) -> bool {
        self.0.borrow().contains(region)
    }

    /// Returns at once, or when the region is healed.
    async fn reachable(&self, region: &str) {
        let mut lost = self.0.subscribe();
        let healed = lost.wait_for(|lost| !lost.contains(region));
        healed.await.expect("the sender lives as long as self");
    }
}

#[derive(Default)]
struct Log {
    calls: VecDeque<Call>,
    dropped: u64,
}

/// A call being served; it enters the log when it ends, however it ends.
struct Pending {
    call: Call,
    started: Instant,
    front: Arc<Front>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.call.elapsed = self.started.elapsed();
        let mut log = lock(&self.front.log);
        if log.calls.len() == CALLS_KEPT_MAX {
            log.calls.pop_front();
            log.dropped += 1;
        }
        log.calls.push_back(self.call.clone());
    }
}

struct Front {
    account: String,
    network: Network,
    faults: fault::Faults,
    log: Mutex<Log>,
    stop: CancellationToken,
    tasks: TaskTracker,
    sqs: Arc<sqs::Sqs>,
    events: Arc<eventbridge::EventBridge>,
    rds: rds::Rds,
    cloudwatch: cloudwatch::CloudWatch,
    route53: route53::Route53,
    s3: s3::S3,
    iam: iam::Iam,
    zones: Zones,
    dynamodb: dynamodb::DynamoDb,
}

async fn serve(State(front): State<Arc<Front>>, request: Request) -> Response {
    let mut pending = Pending {
        call: Call {
            at: SystemTime::now(),
            elapsed: Duration::ZERO,
            region: String::new(),
            service: String::new(),
            action: String::new(),
            http_status: 0,
            error_code: None,
            answered: false,
        },
        started: Instant::now(),
        front: front.clone(),
    };
    let stop = front.stop.clone();
    let answer = stop.run_until_cancelled(front.answer(&mut pending.call, request));
    let response = match answer.await {
        Some(response) => response,
        None => Reply::new(503, "text/plain", "the lab is stopping").response,
    };
    pending.call.answered = true;
    response
}

impl Front {
    async fn answer(&self, call: &mut Call, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
            let refusal = Refusal::new("RequestEntityTooLarge", "the body is over 16 MiB or broke off");
            return settle(call, front_error(&parts, refusal.status(413)));
        };
        let anonymous =
            || self.s3.region_of(&parts).map(|region| Scope { key: String::new(), region, service: "s3".to_owned() });
        let Some(scope) = Scope::of(&parts).or_else(anonymous) else {
            let (status, code) = match header(&parts, "x-amz-target") {
                Some(_) => (400, "MissingAuthenticationTokenException"),
                None => (403, "MissingAuthenticationToken"),
            };
            let refusal = Refusal::new(code, "Request is missing Authentication Token");
            return settle(call, front_error(&parts, refusal.status(status)));
        };
        call.region.clone_from(&scope.region);
        call.service.clone_from(&scope.service);
        call.action = action(&call.service, &parts, &body);
        let fault = self.faults.draw(call);
        let reply = match self.before(call, fault).await {
            Some(reply) => reply,
            None => match self.denied(call, &scope.key, &parts, &body) {
                Some(denied) => fault::as_error(denied, &call.service),
                None => self.execute(call, &scope.key, &parts, body).await,
            },
        };
        let response = settle(call, reply);
        self.after(call, response, fault).await
    }

    /// Ahead of every execution. A reply given here is sent instead of executing.
    async fn before(&self, call: &Call, fault: Option<FaultKind>) -> Option<Reply> {
        self.network.reachable(&call.region).await;
        if let Some(FaultKind::Latency(latency)) = fault {
            tokio::time::sleep(latency).await;
        }
        fault::refusal(fault?, &call.service)
    }

    /// Behind every execution: the last place where a reply can be delayed, changed or lost.
    async fn after(&self, call: &Call, response: Response, fault: Option<FaultKind>) -> Response {
        self.network.reachable(&call.region).await;
        match fault {
            Some(FaultKind::LostReply) => std::future::pending().await,
            Some(FaultKind::Reset) => fault::broken_off(response),
            Some(FaultKind::Latency(_) | FaultKind::ServerError | FaultKind::Throttle | FaultKind::Lost) | None => {
                response
            }
        }
    }

    /// Why the holder of this key may not do it.
    fn denied(&self, call: &Call, key: &str, parts: &Parts, body: &[u8]) -> Option<Refusal> {
        let Call { service, action, region, .. } = call;
        let resource = iam::resource(service, action, region, &self.account, parts.uri.path(), body);
        let action = iam::action(service, action);
        if action == "sts:GetCallerIdentity" || self.iam.allows(key, &action, &resource) {
            return None;
        }
        let message = format!(
            "User: {} is not authorized to perform: {action} on resource: {resource} because no identity-based policy \
             allows the {action} action",
            self.principal(key)
        );
        let code = if call.speaks_json() { "AccessDeniedException" } else { "AccessDenied" };
        Some(Refusal::new(code, message).status(if call.speaks_json() { 400 } else { 403 }))
    }

    /// Who holds this key.
    fn principal(&self, key: &str) -> String {
        if self.iam.is_role(key) {
            format!("arn:aws:sts::{}:assumed-role/{key}/lab", self.account)
        } else {
            format!("arn:aws:iam::{}:user/lab", self.account)
        }
    }

    async fn execute(&self, call: &Call, key: &str, parts: &Parts, body: Bytes) -> Reply {
        let (region, action) = (call.region.as_str(), call.action.as_str());
        match call.service.as_str() {
            "dynamodb" => self.dynamodb.call(region, parts, body).await,
            "sqs" => self.sqs.call(region, action, &body).await,
            "events" => self.events.call(region, action, &body),
            "rds" => self.rds.call(region, action, &body),
            "sts" => sts::call(action, &self.account, &self.principal(key)),
            "iam" => self.iam.call(action, &body),
            "monitoring" => self.cloudwatch.call(region, action, &body, &self.rds.writer_region()),
            "route53" => self.route53.call(region, parts, &body),
            "s3" => self.s3.call(region, parts, body),
            other => {
                let message = format!(
                    "the lab has no service '{other}': it has dynamodb, sqs, events, rds, monitoring, route53, s3, sts, iam"
                );
                front_error(parts, Refusal::new("UnknownOperationException", message))
            }
        }
    }
}

fn settle(call: &mut Call, reply: Reply) -> Response {
    call.http_status = reply.response.status().as_u16();
    call.error_code = reply.error_code;
    reply.response
}

/// An error of the endpoint itself, in the protocol that the request seems to speak.
fn front_error(parts: &Parts, refusal: Refusal) -> Reply {
    match header(parts, "x-amz-target") {
        Some(_) => json_reply("1.0", "com.amazon.coral.service#", Err(refusal)),
        None => xml_error("http://webservices.amazon.com/", &refusal),
    }
}

fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name)?.to_str().ok()
}

struct Scope {
    key: String,
    region: String,
    service: String,
}

impl Scope {
    /// From `AWS4-HMAC-SHA256 Credential=AKID/date/region/service/aws4_request, …`.
    fn of(parts: &Parts) -> Option<Self> {
        let authorization = header(parts, "authorization")?.strip_prefix("AWS4-HMAC-SHA256")?;
        let credential = authorization.split(',').find_map(|part| part.trim().strip_prefix("Credential="))?;
        // From the right: an access key id may hold a slash, the scope may not.
        let mut scope = credential.rsplit('/');
        if scope.next()? != "aws4_request" {
            return None;
        }
        let (service, region) = (scope.next()?.to_owned(), scope.next()?.to_owned());
        scope.next()?;
        let key = scope.next()?.to_owned();
        Some(Self { key, region, service })
    }
}

fn action(service: &str, parts: &Parts, body: &[u8]) -> String {
    match service {
        "rds" | "sts" | "iam" => form_urlencoded::parse(body)
            .find(|(name, _)| name == "Action")
            .map_or_else(String::new, |(_, action)| action.into_owned()),
        "route53" => route53::action(parts).to_owned(),
        "s3" => s3::action(parts).to_owned(),
        "monitoring" => cloudwatch::action(parts.uri.path()).to_owned(),
        _ => {
            let target = header(parts, "x-amz-target").unwrap_or_default();
            let prefix = match service {
                "sqs" => "AmazonSQS.",
                "events" => "AWSEvents.",
                _ => "DynamoDB_20120810.",
            };
            target.strip_prefix(prefix).unwrap_or(target).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(authorization: &str) -> Parts {
        let request = Request::builder().header("authorization", authorization);
        request.body(axum::body::Body::empty()).unwrap().into_parts().0
    }

    #[test]
    fn service_and_region_come_from_the_credential_scope() {
        let scope = Scope::of(&parts(
            "AWS4-HMAC-SHA256 Credential=AK/ID/20261123/us-west-2/events/aws4_request, SignedHeaders=host, Signature=0",
        ))
        .unwrap();
        assert_eq!((scope.region.as_str(), scope.service.as_str()), ("us-west-2", "events"));
        assert!(Scope::of(&parts("Basic abc")).is_none());
        assert!(Scope::of(&parts("AWS4-HMAC-SHA256 Credential=AKID/us-west-2/events")).is_none());
    }
}
