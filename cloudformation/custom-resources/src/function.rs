//! One invocation, and an answer on every path: success, failure, panic, and the end of the function's time.

use crate::failure::Failure;
use crate::protocol::{Data, Envelope, Request, RequestType};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tracing::{error, info};

/// So long before Lambda ends the function, the answer is sent at the latest.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Of that, what is left for Lambda itself.
const LAMBDA_KEEPS: Duration = Duration::from_millis(200);

/// What carries requests out.
pub trait Function: Send + Sync + 'static {
    /// What the resource is called when it has these properties: the same whenever this is asked, and another one
    /// exactly if an Update replaces it.
    ///
    /// # Errors
    /// When the properties are not usable.
    fn physical_id(&self, request: &Request) -> Result<String, Failure>;

    /// Does what is asked, until then at the latest.
    fn carry_out(&self, request: Request, until: Instant) -> impl Future<Output = Result<Data, Failure>> + Send;
}

/// Serves invocations for ever.
///
/// # Errors
/// When the runtime's API does not answer.
pub async fn serve(function: Arc<impl Function>) -> Result<(), Error> {
    let http = reqwest::Client::builder().user_agent("aurora-failover").build()?;
    let once = |event: LambdaEvent<Value>| {
        let (function, http) = (Arc::clone(&function), http.clone());
        async move {
            let deadline = event.context.deadline();
            // An error makes Lambda try the whole invocation again; everything here may be done twice.
            invoked(event.payload, deadline, function, &http).await.map_err(Error::from)
        }
    };
    lambda_runtime::run(service_fn(once)).await
}

async fn invoked(
    event: Value,
    deadline: SystemTime,
    function: Arc<impl Function>,
    http: &reqwest::Client,
) -> Result<(), Failure> {
    let now = Instant::now();
    let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
    let answer_at = now + left.saturating_sub(ANSWER_WITHIN.min(left / 2));
    let Some(envelope) = Envelope::of(event) else {
        return Err(Failure::new("this is no request of CloudFormation: it has no ResponseURL"));
    };
    envelope.log_received();
    let (id, deleting, outcome) = match envelope.request() {
        Ok(request) => {
            let deleting = request.request_type == RequestType::Delete;
            let (id, outcome) = attempt(request, &envelope, answer_at, function).await;
            (id, deleting, outcome)
        }
        Err(failure) => (envelope.spare_id(), false, Err(failure)),
    };
    match &outcome {
        Ok(_) => info!(id, "carried out"),
        Err(reason) => error!(id, %reason, "failed"),
    }
    let body = envelope.answer(&id, deleting, &outcome);
    envelope.send(http, body, now + left.saturating_sub(LAMBDA_KEEPS.min(left / 4))).await
}

/// The outcome, and the id to answer with.
async fn attempt(
    request: Request,
    envelope: &Envelope,
    answer_at: Instant,
    function: Arc<impl Function>,
) -> (String, Result<Data, Failure>) {
    let request_type = request.request_type;
    // A task of its own: a panic ends there, and is an outcome here.
    let named = {
        let (function, request) = (Arc::clone(&function), request.clone());
        tokio::spawn(async move { function.physical_id(&request) }).await
    };
    let named =
        named.unwrap_or_else(|_| Err(Failure::new("naming the resource panicked; the function's log says where")));
    let mut work = tokio::spawn(async move { function.carry_out(request, answer_at).await });
    let outcome = match tokio::time::timeout_at(answer_at, &mut work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_panic)) => Err(Failure::new("carrying it out panicked; the function's log says where")),
        Err(_late) => {
            work.abort();
            Err(Failure::new("it was not done when the function's time was nearly over"))
        }
    };
    let spare = envelope.spare_id();
    let id = match (request_type, named) {
        (RequestType::Delete, _) => spare,
        // Another id would have CloudFormation delete the resource that is still in use.
        (RequestType::Update, _) if outcome.is_err() => spare,
        (RequestType::Create | RequestType::Update, named) => named.unwrap_or(spare),
    };
    (id, outcome)
}
