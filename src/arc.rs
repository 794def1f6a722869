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
        configurations: Regional<SdkConfig>,
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
