//! Routing controls of Application Recovery Controller: their data plane has five endpoints in five regions, and any
//! of them will do.

use crate::aws::CallError;
use async_trait::async_trait;
use statemachine::{ArcEndpoint, Arn};
use std::collections::BTreeSet;

#[cfg(feature = "arc")]
pub use sdk::AwsArc;

/// What the effects need of routing controls.
#[async_trait]
pub trait RoutingControls: Send + Sync {
    /// Those of `controls` that are on.
    async fn on(&self, endpoints: &[ArcEndpoint], controls: &[Arn]) -> Result<BTreeSet<Arn>, CallError>;

    /// Turns `on` on and all of `off` off, in one step. Safety rules are never overridden.
    async fn switch(&self, endpoints: &[ArcEndpoint], on: &Arn, off: &[Arn]) -> Result<(), CallError>;
}

#[cfg(feature = "arc")]
mod sdk {
    use super::RoutingControls;
    use crate::aws::{CallError, Regional};
    use crate::config::AwsSettings;
    use async_trait::async_trait;
    use aws_config::SdkConfig;
    use aws_sdk_route53recoverycluster::Client;
    use aws_sdk_route53recoverycluster::config::Builder;
    use aws_sdk_route53recoverycluster::types::{RoutingControlState, UpdateRoutingControlStateEntry};
    use statemachine::{ArcEndpoint, Arn};
    use std::collections::BTreeSet;

    /// Routing controls through the SDK.
    pub struct AwsArc {
        pub(super) configurations: Regional<SdkConfig>,
    }

    impl AwsArc {
        /// With these time-outs.
        #[must_use]
        pub fn new(settings: AwsSettings) -> Self {
            Self { configurations: Regional::new(settings, Clone::clone) }
        }

        async fn client(&self, endpoint: &ArcEndpoint) -> Client {
            let configuration = self.configurations.client(&endpoint.region).await;
            Client::from_conf(Builder::from(&configuration).endpoint_url(&endpoint.url).build())
        }
    }

    /// Asks one endpoint after the other until one gives an answer that is not its own trouble.
    macro_rules! first_answer {
        ($self:ident, $endpoints:ident, $call:literal, |$client:ident| $request:expr) => {{
            let mut answer = Err(CallError::NoAnswer { call: $call, detail: "no endpoint is configured".into() });
            for endpoint in $endpoints {
                let $client = $self.client(endpoint).await;
                answer = $request.await.map_err(|error| CallError::of($call, &error));
                match &answer {
                    Err(CallError::NoAnswer { .. }) => {}
                    Err(CallError::Answered { code, .. }) if code == "EndpointTemporarilyUnavailableException" => {}
                    _ => break,
                }
            }
            answer
        }};
    }

    #[async_trait]
    impl RoutingControls for AwsArc {
        async fn on(&self, endpoints: &[ArcEndpoint], controls: &[Arn]) -> Result<BTreeSet<Arn>, CallError> {
            let mut on = BTreeSet::new();
            for control in controls {
                let answer = first_answer!(self, endpoints, "ARC GetRoutingControlState", |client| client
                    .get_routing_control_state()
                    .routing_control_arn(control.as_str())
                    .send())?;
                if *answer.routing_control_state() == RoutingControlState::On {
                    on.insert(control.clone());
                }
            }
            Ok(on)
        }

        async fn switch(&self, endpoints: &[ArcEndpoint], on: &Arn, off: &[Arn]) -> Result<(), CallError> {
            let entry = |control: &Arn, state| {
                let entry = UpdateRoutingControlStateEntry::builder();
                let entry = entry.routing_control_arn(control.as_str()).routing_control_state(state).build();
                entry.expect("name and state are given")
            };
            let mut entries = vec![entry(on, RoutingControlState::On)];
            entries.extend(off.iter().map(|control| entry(control, RoutingControlState::Off)));
            first_answer!(self, endpoints, "ARC UpdateRoutingControlStates", |client| client
                .update_routing_control_states()
                .set_update_routing_control_state_entries(Some(entries.clone()))
                .send())?;
            Ok(())
        }
    }
}

#[cfg(all(test, feature = "arc"))]
mod tests {
    use super::*;
    use crate::aws::Regional;
    use crate::config::AwsSettings;
    use aws_sdk_route53recoverycluster::config::{Credentials, SharedCredentialsProvider};
    use axum::extract::State;
    use axum::http::HeaderMap;
    use axum::routing::post;
    use serde_json::{Value, json};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    type On = Arc<Mutex<BTreeSet<String>>>;

    /// The data plane's wire protocol, as far as it is called here.
    async fn answer(State(on): State<On>, headers: HeaderMap, body: String) -> String {
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let mut on = on.lock().expect("nobody panics");
        let reply = match headers["x-amz-target"].to_str().expect("ASCII") {
            "ToggleCustomerAPI.GetRoutingControlState" => {
                let arn = body["RoutingControlArn"].as_str().expect("an ARN");
                json!({ "RoutingControlArn": arn, "RoutingControlState": if on.contains(arn) { "On" } else { "Off" } })
            }
            "ToggleCustomerAPI.UpdateRoutingControlStates" => {
                for entry in body["UpdateRoutingControlStateEntries"].as_array().expect("entries") {
                    let arn = entry["RoutingControlArn"].as_str().expect("an ARN").to_owned();
                    if entry["RoutingControlState"] == "On" {
                        on.insert(arn)
                    } else {
                        on.remove(&arn)
                    };
                }
                json!({})
            }
            other => panic!("{other} is called"),
        };
        reply.to_string()
    }

    async fn endpoint(on: &On) -> ArcEndpoint {
        let routes = axum::Router::new().route("/", post(answer)).with_state(Arc::clone(on));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        ArcEndpoint { region: "us-west-2".into(), url }
    }

    /// Where nobody listens.
    fn dead() -> ArcEndpoint {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        ArcEndpoint { region: "ap-southeast-2".into(), url }
    }

    /// With credentials of its own: the environment of a test has none.
    fn signed(settings: AwsSettings) -> AwsArc {
        let configurations = Regional::new(settings, |sdk| {
            let credentials = SharedCredentialsProvider::new(Credentials::new("key", "secret", None, None, "test"));
            sdk.to_builder().credentials_provider(credentials).build()
        });
        AwsArc { configurations }
    }

    #[tokio::test]
    async fn the_first_endpoint_that_answers_turns_one_control_on_and_the_others_off() {
        let [east, west] = ["arn:east", "arn:west"].map(|arn| Arn(arn.into()));
        let on: On = Arc::new(Mutex::new([east.to_string()].into()));
        let endpoints = [dead(), endpoint(&on).await];
        let settings = AwsSettings { timeout: Duration::from_secs(1), poll_every: Duration::from_millis(10) };
        let arc = signed(settings.clone());
        let controls = [east.clone(), west.clone()];
        assert_eq!(arc.on(&endpoints, &controls).await.expect("one answers"), [east.clone()].into());
        arc.switch(&endpoints, &west, &[east]).await.expect("one answers");
        assert_eq!(arc.on(&endpoints, &controls).await.expect("one answers"), [west.clone()].into());
        let nobody = signed(settings).switch(&[dead(), dead()], &west, &[]).await;
        assert!(matches!(nobody, Err(CallError::NoAnswer { .. })), "{nobody:?}");
    }
}
