//! IAM, reduced to one question: may this role do what it needs?

use crate::aws::chain;
use aws_config::SdkConfig;
use aws_sdk_iam::types::PolicyEvaluationDecisionType;

/// What may not be done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// IAM action.
    pub action: String,
    /// On what.
    pub resource: String,
    /// `implicitDeny` or `explicitDeny`.
    pub decision: String,
}

/// Which of these actions the principal may not do on the resource; empty when it may do all.
///
/// # Errors
/// Why IAM does not tell.
pub async fn denied(
    sdk: &SdkConfig,
    principal_arn: &str,
    actions: &[&str],
    resource: &str,
) -> Result<Vec<Denied>, String> {
    let mut pages = aws_sdk_iam::Client::new(sdk)
        .simulate_principal_policy()
        .policy_source_arn(principal_arn)
        .set_action_names(Some(actions.iter().map(|action| (*action).to_owned()).collect()))
        .resource_arns(resource)
        .into_paginator()
        .items()
        .send();
    let mut denied = Vec::new();
    while let Some(result) = pages.next().await {
        let result = result.map_err(|error| format!("SimulatePrincipalPolicy failed: {}", chain(&error)))?;
        if *result.eval_decision() != PolicyEvaluationDecisionType::Allowed {
            denied.push(Denied {
                action: result.eval_action_name().to_owned(),
                resource: resource.to_owned(),
                decision: result.eval_decision().as_str().to_owned(),
            });
        }
    }
    Ok(denied)
}
